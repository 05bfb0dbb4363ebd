//! Typed `u32` ids and the tables they index.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A typed index into an [`IdMap`].
pub trait Id: Copy + Eq + Ord + fmt::Debug + fmt::Display {
    /// From a dense index.
    fn from_index(index: usize) -> Self;
    /// To a dense index.
    fn index(self) -> usize;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Id for $name {
            fn from_index(index: usize) -> Self {
                $name(u32::try_from(index).unwrap_or(u32::MAX))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A value of a graph; prints as in the text form.
    ValueId, "%";
    /// A node of a graph.
    NodeId, "n";
    /// A region of a graph.
    RegionId, "r";
    /// A symbol of a graph.
    SymbolId, "s";
    /// A module path of a graph's nodes.
    PathId, "p";
    /// A constant of a module; prints as in the text form.
    ConstId, "c";
    /// A mutable buffer of a module; prints as in the text form.
    BufferId, "b";
    /// A delegate of a module; prints as in the text form.
    DelegateId, "d";
}

/// A node's stable number: given at capture, kept through every pass, never reused. Dense ids may change; this does not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DebugHandle(pub u32);

impl fmt::Display for DebugHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A table that owns its entries and gives out their ids.
#[derive(Clone, PartialEq)]
pub struct IdMap<K, V> {
    entries: Vec<V>,
    key: PhantomData<fn(K)>,
}

impl<K: Id, V> IdMap<K, V> {
    /// An empty table.
    pub fn new() -> Self {
        IdMap { entries: Vec::new(), key: PhantomData }
    }

    /// Adds an entry.
    pub fn push(&mut self, value: V) -> K {
        self.entries.push(value);
        K::from_index(self.entries.len() - 1)
    }

    /// The id that the next [`IdMap::push`] will give.
    pub fn next_id(&self) -> K {
        K::from_index(self.entries.len())
    }

    /// The entry, if the id belongs to this table.
    pub fn get(&self, id: K) -> Option<&V> {
        self.entries.get(id.index())
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries with their ids, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (K, &V)> + DoubleEndedIterator {
        self.entries.iter().enumerate().map(|(i, v)| (K::from_index(i), v))
    }

    /// Entries with their ids, in order.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (K, &mut V)> {
        self.entries.iter_mut().enumerate().map(|(i, v)| (K::from_index(i), v))
    }

    /// The entries, in order.
    pub fn values(&self) -> std::slice::Iter<'_, V> {
        self.entries.iter()
    }

    /// The ids, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = K> + use<K, V> {
        (0..self.entries.len()).map(K::from_index)
    }
}

impl<K: Id, V> Default for IdMap<K, V> {
    fn default() -> Self {
        IdMap::new()
    }
}

impl<K: Id, V: fmt::Debug> fmt::Debug for IdMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Id, V> Index<K> for IdMap<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        &self.entries[id.index()]
    }
}

impl<K: Id, V> IndexMut<K> for IdMap<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        &mut self.entries[id.index()]
    }
}

/// Data beside a table: one entry for each id, a default where none was set.
#[derive(Clone, Debug)]
pub struct SideTable<K, V> {
    entries: Vec<V>,
    default: V,
    key: PhantomData<fn(K)>,
}

impl<K: Id, V: Clone> SideTable<K, V> {
    /// All entries `default`.
    pub fn new(default: V) -> Self {
        SideTable { entries: Vec::new(), default, key: PhantomData }
    }
}

impl<K: Id, V: Clone> Index<K> for SideTable<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        self.entries.get(id.index()).unwrap_or(&self.default)
    }
}

impl<K: Id, V: Clone> IndexMut<K> for SideTable<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        if id.index() >= self.entries.len() {
            self.entries.resize(id.index() + 1, self.default.clone());
        }
        &mut self.entries[id.index()]
    }
}

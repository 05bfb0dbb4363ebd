//! The deterministic writer.

use std::collections::BTreeMap;

use super::{Field, Scalar};
use crate::limits::MAX_FLATBUFFER_LEN;

/// Distance of an object's first byte from the end of the finished buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset(usize);

#[derive(Debug, Clone, Copy)]
enum Slot {
    Scalar { size: usize, bits: u64 },
    Offset(Offset),
}

impl Slot {
    fn size(self) -> usize {
        match self {
            Slot::Scalar { size, .. } => size,
            Slot::Offset(_) => 4,
        }
    }
}

/// The fields of a table that is about to be written with [`Builder::table`].
#[derive(Debug, Default)]
pub struct TableFields {
    slots: Vec<(u16, Slot)>,
}

impl TableFields {
    /// A table without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// A scalar; left out if it equals the schema's default.
    #[must_use]
    pub fn scalar<T: Scalar>(self, field: Field, value: T, default: T) -> Self {
        if value.to_bits() == default.to_bits() { self } else { self.forced(field, value) }
    }

    /// A scalar that is written even if it equals the default.
    #[must_use]
    pub fn forced<T: Scalar>(mut self, field: Field, value: T) -> Self {
        self.slots.push((field.slot, Slot::Scalar { size: T::SIZE, bits: value.to_bits() }));
        self
    }

    /// A string, vector or table.
    #[must_use]
    pub fn offset(mut self, field: Field, value: Offset) -> Self {
        self.slots.push((field.slot, Slot::Offset(value)));
        self
    }

    /// A string, vector or table if there is one.
    #[must_use]
    pub fn maybe(self, field: Field, value: Option<Offset>) -> Self {
        match value {
            Some(v) => self.offset(field, v),
            None => self,
        }
    }

    /// A union value with its type code in the slot before it.
    #[must_use]
    pub fn union(self, field: Field, code: u8, value: Offset) -> Self {
        self.forced(Field::new(field.slot.saturating_sub(1), field.name), code).offset(field, value)
    }
}

/// Builds a buffer from its end to its start.
#[derive(Debug)]
pub struct Builder {
    /// The bytes written so far, last byte of the buffer first.
    reversed: Vec<u8>,
    min_align: usize,
    vtables: BTreeMap<Vec<u16>, usize>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty builder.
    pub fn new() -> Self {
        Builder { reversed: Vec::new(), min_align: 4, vtables: BTreeMap::new() }
    }

    /// Pads so that after `after` more bytes the position is a multiple of `align`.
    fn prepare(&mut self, align: usize, after: usize) {
        self.min_align = self.min_align.max(align);
        while !(self.reversed.len() + after).is_multiple_of(align) {
            self.reversed.push(0);
        }
    }

    fn push_bits(&mut self, bits: u64, size: usize) {
        self.reversed.extend(bits.to_le_bytes().iter().take(size).rev());
    }

    /// Pushes a forward offset to `to`; the position must already be aligned to 4.
    fn push_offset(&mut self, to: Offset) {
        let here = self.reversed.len() + 4;
        self.push_bits((here - to.0) as u64, 4);
    }

    /// A UTF-8 string, NUL-terminated as FlatBuffers wants.
    pub fn string(&mut self, s: &str) -> Offset {
        self.prepare(4, s.len() + 1);
        self.reversed.push(0);
        self.reversed.extend(s.bytes().rev());
        self.push_bits(s.len() as u64, 4);
        Offset(self.reversed.len())
    }

    /// A `[ubyte]` vector whose contents start at a multiple of `align` (`force_align` of the schema; a power of two).
    pub fn bytes(&mut self, bytes: &[u8], align: usize) -> Offset {
        self.prepare(4, bytes.len());
        self.prepare(align, bytes.len());
        self.reversed.extend(bytes.iter().rev());
        self.push_bits(bytes.len() as u64, 4);
        Offset(self.reversed.len())
    }

    /// A vector of scalars.
    pub fn vector<T: Scalar>(&mut self, items: impl DoubleEndedIterator<Item = T> + ExactSizeIterator) -> Offset {
        let count = items.len();
        self.prepare(4, count * T::SIZE);
        self.prepare(T::SIZE, count * T::SIZE);
        for item in items.rev() {
            self.push_bits(item.to_bits(), T::SIZE);
        }
        self.push_bits(count as u64, 4);
        Offset(self.reversed.len())
    }

    /// A vector of strings or tables.
    pub fn offsets(&mut self, items: &[Offset]) -> Offset {
        self.prepare(4, items.len() * 4);
        for item in items.iter().rev() {
            self.push_offset(*item);
        }
        self.push_bits(items.len() as u64, 4);
        Offset(self.reversed.len())
    }

    /// A table. Fields are laid out by falling size, so that no padding stands between them, then by slot.
    pub fn table(&mut self, fields: TableFields) -> Offset {
        let mut slots = fields.slots;
        slots.sort_by_key(|(slot, s)| (s.size(), std::cmp::Reverse(*slot)));
        let end = self.reversed.len();
        let mut at = Vec::with_capacity(slots.len());
        for (slot, s) in slots {
            self.prepare(s.size(), s.size());
            match s {
                Slot::Scalar { size, bits } => self.push_bits(bits, size),
                Slot::Offset(to) => self.push_offset(to),
            }
            at.push((slot, self.reversed.len()));
        }
        self.prepare(4, 4);
        let start = self.reversed.len() + 4;
        let entries = at.iter().map(|(slot, _)| usize::from(*slot) + 1).max().unwrap_or(0);
        let mut vtable = vec![0u16; entries + 2];
        // A table has at most 65536 slots by the type of the slot number, and each takes at most 8 bytes plus padding;
        // the tables of this crate have fewer than 16.
        let narrow = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        vtable[0] = narrow(2 * (entries + 2));
        vtable[1] = narrow(start - end);
        for (slot, pos) in at {
            vtable[usize::from(slot) + 2] = narrow(start - pos);
        }
        // The signed offset at the table's start is table position minus vtable position.
        let back = match self.vtables.get(&vtable) {
            Some(pos) => *pos as i64 - start as i64,
            None => {
                let pos = start + 2 * vtable.len();
                self.vtables.insert(vtable.clone(), pos);
                self.push_bits((pos as i64 - start as i64) as u64, 4);
                for entry in vtable.iter().rev() {
                    self.push_bits(u64::from(*entry), 2);
                }
                return Offset(start);
            }
        };
        self.push_bits(back as u64, 4);
        Offset(start)
    }

    /// Writes the file identifier and the root offset and gives the bytes. `prefix` bytes of room (0, or 4 for a size
    /// prefix) are counted into the alignment. `None` if the buffer is longer than [`MAX_FLATBUFFER_LEN`].
    pub fn finish(mut self, root: Offset, identifier: &[u8; 4], size_prefixed: bool) -> Option<Vec<u8>> {
        let prefix = if size_prefixed { 4 } else { 0 };
        self.prepare(self.min_align, 8 + prefix);
        self.reversed.extend(identifier.iter().rev());
        self.close(root, size_prefixed)
    }

    /// [`Builder::finish`] for a schema without a file identifier.
    pub fn finish_plain(mut self, root: Offset) -> Option<Vec<u8>> {
        self.prepare(self.min_align, 4);
        self.close(root, false)
    }

    fn close(mut self, root: Offset, size_prefixed: bool) -> Option<Vec<u8>> {
        self.push_offset(root);
        if size_prefixed {
            self.push_bits(self.reversed.len() as u64, 4);
        }
        if self.reversed.len() as u64 > MAX_FLATBUFFER_LEN {
            return None;
        }
        self.reversed.reverse();
        Some(self.reversed)
    }
}

//! Where in a file something is wrong, and what.

use std::fmt;

use crate::limits::MAX_NAME_LEN;

/// The object inside a method or file that an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// The file as a whole.
    File,
    /// Method number (before its name is known).
    Method(usize),
    /// Value of a method's value table.
    Value(usize),
    /// Chain of a method.
    Chain(usize),
    /// Instruction of a method's chain.
    Instruction {
        /// Chain index.
        chain: usize,
        /// Instruction index in the chain.
        index: usize,
    },
    /// Operator of a method's operator table.
    Operator(usize),
    /// Delegate of a method.
    Delegate(usize),
    /// Data segment of the file.
    Segment(usize),
    /// Entry of the inline constant table.
    ConstantBuffer(usize),
    /// Entry of the inline delegate table.
    InlineDelegate(usize),
    /// Entry of the list of mutable data segments.
    MutableSegment(usize),
    /// Named data entry.
    NamedData(usize),
    /// Test suite of a bundled program.
    Suite(usize),
    /// Test case of a bundled program's suite.
    Case {
        /// Suite index.
        suite: usize,
        /// Case index in the suite.
        index: usize,
    },
    /// Run of a profile dump.
    Run(usize),
    /// Event of a profile dump's run.
    Event {
        /// Run index.
        run: usize,
        /// Event index in the run.
        index: usize,
    },
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Item::File => write!(f, "file"),
            Item::Method(i) => write!(f, "method {i}"),
            Item::Value(i) => write!(f, "value {i}"),
            Item::Chain(i) => write!(f, "chain {i}"),
            Item::Instruction { chain, index } => write!(f, "chain {chain} instruction {index}"),
            Item::Operator(i) => write!(f, "operator {i}"),
            Item::Delegate(i) => write!(f, "delegate {i}"),
            Item::Segment(i) => write!(f, "segment {i}"),
            Item::ConstantBuffer(i) => write!(f, "inline constant {i}"),
            Item::InlineDelegate(i) => write!(f, "inline delegate blob {i}"),
            Item::MutableSegment(i) => write!(f, "mutable data segment {i}"),
            Item::NamedData(i) => write!(f, "named data {i}"),
            Item::Suite(i) => write!(f, "test suite {i}"),
            Item::Case { suite, index } => write!(f, "test suite {suite} case {index}"),
            Item::Run(i) => write!(f, "run {i}"),
            Item::Event { run, index } => write!(f, "run {run} event {index}"),
        }
    }
}

/// Method, object and field of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the method, if the place is inside one.
    pub method: Option<String>,
    /// The object.
    pub item: Item,
    /// The field of the object, by its schema name.
    pub field: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(m) = &self.method {
            write!(f, "method '{}', ", m.escape_debug())?;
        }
        match self.item {
            Item::File if self.method.is_some() => write!(f, "field '{}'", self.field),
            item => write!(f, "{item}, field '{}'", self.field),
        }
    }
}

/// What is wrong with a field that is structurally readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A required field is absent.
    #[error("found nothing, expected it to be present")]
    Missing,
    /// An index points past its table.
    #[error("found index {found}, expected 0 to {len} exclusive ({of})")]
    Index {
        /// The index.
        found: i64,
        /// Number of entries of the table.
        len: usize,
        /// What the table holds.
        of: &'static str,
    },
    /// An index points at a value of another kind.
    #[error("found value {index} of kind {found}, expected {expected}")]
    Kind {
        /// Index of the value.
        index: usize,
        /// Kind that is there.
        found: &'static str,
        /// Kinds that are allowed.
        expected: &'static str,
    },
    /// A number or string is not one of those allowed.
    #[error("found {}, expected {expected}", printable(found))]
    Value {
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },
    /// A byte interval does not fit where it must lie.
    #[error("found {len} bytes at offset {offset}, expected them within {room} bytes ({of})")]
    Bytes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Size of the region.
        room: u64,
        /// What the region is.
        of: &'static str,
    },
    /// A product or sum does not fit 63 bits.
    #[error("found {found}, whose size in bytes does not fit 63 bits")]
    Overflow {
        /// The numbers.
        found: String,
    },
    /// A name that must be unique occurs twice.
    #[error("found '{}' a second time, expected unique names", printable(name))]
    Duplicate {
        /// The name.
        name: String,
    },
}

/// Text of a file as messages show it: control characters escaped, and cut after 200 characters.
fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut out = String::new();
    for c in text.chars().take(LONGEST) {
        if c.is_control() { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

impl Problem {
    pub(crate) fn value(found: impl fmt::Display, expected: impl Into<String>) -> Self {
        Problem::Value { found: found.to_string(), expected: expected.into() }
    }
}

/// The place that is being read; turns low-level errors into located ones.
#[derive(Clone, Copy)]
pub(crate) struct At<'m> {
    pub(crate) method: Option<&'m str>,
    pub(crate) item: Item,
}

impl<'m> At<'m> {
    pub(crate) const FILE: At<'static> = At { method: None, item: Item::File };

    pub(crate) fn new(item: Item) -> Self {
        At { method: None, item }
    }

    pub(crate) fn method(name: &'m str) -> Self {
        At { method: Some(name), item: Item::File }
    }

    pub(crate) fn item(self, item: Item) -> Self {
        At { item, ..self }
    }

    fn place(self, field: &'static str) -> Place {
        Place { method: self.method.map(str::to_owned), item: self.item, field }
    }

    pub(crate) fn err(self, field: &'static str, problem: Problem) -> crate::PteError {
        crate::PteError::Invalid { place: self.place(field), problem }
    }

    pub(crate) fn flat(self) -> impl Fn(crate::flatbuf::FlatError) -> crate::PteError + 'm {
        move |source| crate::PteError::Structure { place: self.place(source.field), source }
    }

    /// Unwraps a required field.
    pub(crate) fn need<T>(self, field: &'static str, value: Option<T>) -> Result<T, crate::PteError> {
        value.ok_or_else(|| self.err(field, Problem::Missing))
    }

    /// Checks a name that messages and tables show: not longer than [`MAX_NAME_LEN`], and without control characters.
    pub(crate) fn name(self, field: &'static str, name: &str) -> Result<(), crate::PteError> {
        if name.len() > MAX_NAME_LEN {
            let expected = format!("at most {MAX_NAME_LEN} bytes");
            return Err(self.err(field, Problem::value(format!("{} bytes", name.len()), expected)));
        }
        if name.chars().any(char::is_control) {
            return Err(self.err(field, Problem::value(name, "a name without control characters")));
        }
        Ok(())
    }

    /// Checks an index of a table of `len` entries.
    pub(crate) fn index(
        self,
        field: &'static str,
        found: i64,
        len: usize,
        of: &'static str,
    ) -> Result<u32, crate::PteError> {
        match u32::try_from(found) {
            Ok(i) if (i as usize) < len => Ok(i),
            _ => Err(self.err(field, Problem::Index { found, len, of })),
        }
    }

    /// Checks that `[offset, offset + len)` lies within `room` bytes.
    pub(crate) fn within(
        self,
        field: &'static str,
        offset: u64,
        len: u64,
        room: u64,
        of: &'static str,
    ) -> Result<(), crate::PteError> {
        match offset.checked_add(len) {
            Some(end) if end <= room => Ok(()),
            _ => Err(self.err(field, Problem::Bytes { offset, len, room, of })),
        }
    }
}

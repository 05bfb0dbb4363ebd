//! Errors of this crate.

use crate::flatbuf::FlatError;
use crate::place::{Place, Problem};

/// Why bytes are not a file of the expected format, or why a description cannot be written as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PteError {
    /// The file or the part of it that was handed in is shorter than what must be there.
    #[error("{what}: found {found} bytes, expected at least {expected}; the file is truncated")]
    TooShort {
        /// What does not fit.
        what: &'static str,
        /// Bytes that are there.
        found: u64,
        /// Bytes that must be there.
        expected: u64,
    },
    /// The head handed in does not hold the whole program part of the file.
    #[error("head: found {found} bytes, expected the first {needed} bytes of the file")]
    HeadTooShort {
        /// Bytes handed in.
        found: u64,
        /// Bytes that the program part takes.
        needed: u64,
    },
    /// A part of the file is longer than its offsets can span.
    #[error("{what}: found {found} bytes, expected at most {limit}")]
    TooLong {
        /// The part.
        what: &'static str,
        /// Its length.
        found: u64,
        /// Longest that can be read.
        limit: u64,
    },
    /// The four-byte file identifier is another one.
    #[error("file identifier: found {found}, expected \"{expected}\"; {hint}")]
    WrongIdentifier {
        /// What is at the identifier's place, printable.
        found: String,
        /// The identifier that must be there.
        expected: &'static str,
        /// What the file seems to be, or what to do.
        hint: &'static str,
    },
    /// A field of the container header does not hold.
    #[error("extended header, field '{field}': found {found}, expected {expected}")]
    Header {
        /// Name of the field.
        field: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },
    /// The schema version is newer than what this reader knows.
    #[error("schema version: found {found}, expected {expected}; the file needs a newer reader")]
    Version {
        /// Version in the file.
        found: u32,
        /// Versions that can be read.
        expected: &'static str,
    },
    /// A FlatBuffers offset, table, vector or string is malformed.
    #[error("{place}: {source}")]
    Structure {
        /// Where.
        place: Place,
        /// What is malformed.
        source: FlatError,
    },
    /// A field can be read, but what it says does not hold.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where.
        place: Place,
        /// What does not hold.
        problem: Problem,
    },
    /// What is to be written does not fit the format.
    #[error("cannot write {what}: found {found}, expected {expected}")]
    Unwritable {
        /// The part that cannot be written.
        what: &'static str,
        /// What was asked for.
        found: String,
        /// What the format allows.
        expected: String,
    },
}

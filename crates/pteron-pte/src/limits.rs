//! Bounds on what a file may ask for. Each one is far above what real programs hold.

/// Deepest nesting of FlatBuffers tables (the bound of the FlatBuffers verifier that ExecuTorch uses).
pub const MAX_DEPTH: u32 = 64;
/// Tables that one FlatBuffers buffer may make a reader visit (the bound of ExecuTorch's own verification).
pub const MAX_TABLES: u32 = 1_000_000;
/// Bytes of vectors and strings that a reader visits, as a multiple of the buffer's length. A well-formed writer visits
/// each byte once or shares short strings; a hostile buffer points many fields at one long vector.
pub const MAX_REVISIT: u64 = 16;
/// Bytes of vectors and strings that a reader may visit whatever the buffer's length.
pub const MIN_VISIT_BUDGET: u64 = 1 << 20;
/// Longest FlatBuffers buffer, bytes: offsets inside tables are signed 32-bit.
pub const MAX_FLATBUFFER_LEN: u64 = i32::MAX as u64;
/// Highest tensor rank of ExecuTorch's runtime.
pub const MAX_RANK: usize = 16;
/// Longest operator key `name.overload` that ExecuTorch's runtime looks up, bytes.
pub const MAX_OPERATOR_KEY_LEN: usize = 99;
/// Longest name of a method, a backend, a named blob or an external tensor, bytes.
pub const MAX_NAME_LEN: usize = 4096;
/// Shortest program file that ExecuTorch's runtime opens, bytes.
pub const MIN_FILE_LEN: u64 = 64;
/// Highest schema version that a reader of this format accepts.
pub const MAX_SCHEMA_VERSION: u32 = 0;

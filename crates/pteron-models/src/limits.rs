//! How large the fields of a configuration may be. Each limit is far above published models, and together they keep every
//! product of sizes inside 64 bits.

/// Decoder layers.
pub const MAX_LAYERS: usize = 4096;

/// Elements of the residual stream.
pub const MAX_DIM: usize = 1 << 20;

/// Elements between the two halves of the feed-forward part.
pub const MAX_HIDDEN_DIM: usize = 1 << 22;

/// Query heads.
pub const MAX_HEADS: usize = 1 << 14;

/// Elements of a head.
pub const MAX_HEAD_DIM: usize = 1 << 13;

/// Rows of the embedding.
pub const MAX_VOCAB: usize = 1 << 24;

/// Positions of a program: the last at which `f32`, in which positions are multiplied by frequencies, counts by ones.
pub const MAX_POSITIONS: usize = 1 << 24;

/// Elements of a tensor.
pub const MAX_ELEMENTS: u64 = 1 << 44;

/// Entries of the metadata that a user adds, and values of one entry.
pub const MAX_METADATA: usize = 4096;

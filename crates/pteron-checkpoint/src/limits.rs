//! How much of a foreign file is believed. Each limit is far above what published checkpoints hold.

/// Bytes of the JSON header of one safetensors file. The largest published headers are about 10 MB.
pub const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Tensors in one checkpoint, over all of its files. With the limits on the header and on the rank this keeps what is
/// allocated for reading a header under the file's size plus 64 MiB.
pub const MAX_TENSORS: usize = 1 << 17;

/// Bytes of a tensor's name.
pub const MAX_NAME_BYTES: usize = 1024;

/// Dimensions of a tensor.
pub const MAX_RANK: usize = 6;

/// Shards of one checkpoint.
pub const MAX_SHARDS: usize = 1000;

/// Bytes of `model.safetensors.index.json`.
pub const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Bytes of `config.json` and of `generation_config.json`.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Nesting of objects and arrays in a JSON file.
pub const MAX_JSON_DEPTH: usize = 64;

/// Bytes of `tokenizer.json`, `tokenizer.model`, `tokenizer_config.json` and `special_tokens_map.json`, each.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Bytes of a chat template in a file of its own.
pub const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Entries of a folder that are looked at when it holds no index and no `model.safetensors`.
pub const MAX_FOLDER_ENTRIES: usize = 100_000;

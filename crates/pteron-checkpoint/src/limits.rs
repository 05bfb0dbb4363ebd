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

/// Entries of a PyTorch checkpoint's zip archive: one for each storage, and a few more.
pub const MAX_ZIP_ENTRIES: u64 = (1 << 17) + 64;

/// Bytes of the directory of a PyTorch checkpoint's zip archive.
pub const MAX_ZIP_DIRECTORY_BYTES: u64 = 32 << 20;

/// Bytes of the pickle in a PyTorch checkpoint. A pickle takes about 150 bytes for each tensor.
pub const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// Opcodes of a pickle that are carried out. A pickle takes about 40 for each tensor.
pub const MAX_PICKLE_OPCODES: u64 = 1 << 22;

/// Values that a pickle puts onto its stack and into containers, each of 16 bytes; about 50 for each tensor.
pub const MAX_PICKLE_VALUES: u64 = 1 << 21;

/// Values that a pickle stores in order to recall them; about 10 for each tensor.
pub const MAX_PICKLE_MEMO: u64 = 1 << 20;

/// Containers of a pickle that are open at once while it is read; `torch.save` needs about 8.
pub const MAX_PICKLE_DEPTH: u64 = 256;

/// Dictionaries of a PyTorch checkpoint around the one that has the weights.
pub const MAX_STATE_DICT_DEPTH: usize = 4;

/// Bytes in front of the tensors of a GGUF file: metadata and the list of tensors. Vocabularies of 260,000 pieces with
/// their merges take 15 MB.
pub const MAX_GGUF_HEADER_BYTES: u64 = 64 << 20;

/// Key-value pairs of a GGUF file.
pub const MAX_GGUF_FIELDS: u64 = 1 << 16;

/// Texts and lists that are items of lists in the metadata of a GGUF file, all together.
pub const MAX_GGUF_ITEMS: u64 = 1 << 21;

/// Lists within lists in the metadata of a GGUF file.
pub const MAX_GGUF_DEPTH: usize = 4;

/// Dimensions of a tensor in a GGUF file, as in ggml.
pub const MAX_GGUF_RANK: u32 = 4;

/// The alignment of tensors in a GGUF file, in bytes.
pub const MAX_GGUF_ALIGNMENT: u64 = 1 << 20;

/// Pieces of a GGUF file's vocabulary.
pub const MAX_GGUF_VOCABULARY: usize = 1 << 20;

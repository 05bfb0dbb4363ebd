//! Why a checkpoint cannot be read or written.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::atomic::AtomicError;
use crate::expect::TensorMismatches;
use crate::gguf::GgmlType;
use crate::kind::FileKind;

/// Why a checkpoint cannot be read or written. Each message names the file and, where there is one, the tensor.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `open`, `map`, `read`, `list`.
        action: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// There is nothing at the path.
    #[error("{}: there is no such file or folder", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// A device, a pipe or a folder where a file is needed.
    #[error("{}: is not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The file is of a kind that is not read.
    #[error("{}: {}", path.display(), kind.sentence())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        kind: FileKind,
    },
    /// A folder without weights.
    #[error("{}: the folder holds no weights: expected safetensors (one file, or shards with their index), consolidated.*.pth, a GGUF file or a llama2.c model", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// A folder whose weights are of kinds that are not read.
    #[error("{}: the folder holds no weights that are read; `{file}` {}", path.display(), kind.sentence())]
    OtherWeights {
        /// The folder.
        path: PathBuf,
        /// The file looked at.
        file: String,
        /// What it looks like.
        kind: FileKind,
    },
    /// Several files that could be the weights, and nothing that says how they belong together.
    #[error(
        "{}: the folder holds {} {what} ({}) and no model.safetensors.index.json that says how they belong together",
        path.display(), files.len(), listed(files)
    )]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// What there are several of.
        what: &'static str,
        /// Their names, sorted.
        files: Vec<String>,
    },
    /// Several files of one kind that could each be the weights.
    #[error("{}: the folder holds several files that could be the weights, {}; name one of them", path.display(), listed(files))]
    AmbiguousWeights {
        /// The folder.
        path: PathBuf,
        /// What they are.
        kind: FileKind,
        /// Their names, sorted.
        files: Vec<String>,
    },
    /// A cache folder of the Hugging Face hub in which no single snapshot can be chosen.
    #[error("{}: {reason}; point at one of the folders under `snapshots`", path.display())]
    Snapshot {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// More than is believed.
    #[error("{}: {what} is {found}, more than the limit of {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is counted, with its unit.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// Text that is no JSON, or not of the form needed.
    #[error("{}: invalid JSON: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A field of a JSON file has another type or range than it must have.
    #[error("{}: field `{field}` must be {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A safetensors file whose header contradicts itself or the file.
    #[error("{}: invalid safetensors file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A zip archive that contradicts itself, or is of a sort that is not read.
    #[error("{}: invalid PyTorch checkpoint (zip): {reason}", path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The pickle of a PyTorch checkpoint is broken, or holds something else than tensors by name.
    #[error("{}: invalid PyTorch checkpoint (pickle): {reason}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The pickle of a PyTorch checkpoint names something that tensors do not need.
    #[error(
        "{}: the pickle asks for `{}`, which a checkpoint of tensors does not need; nothing in a pickle is executed \
         here: save the tensors alone with torch.save(model.state_dict(), …)",
        path.display(), Shown(global)
    )]
    ForeignGlobal {
        /// The file.
        path: PathBuf,
        /// Module and name.
        global: String,
    },
    /// A llama2.c model whose header contradicts itself or the file.
    #[error("{}: invalid llama2.c model: {reason}", path.display())]
    Llama2c {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Shards of a Meta checkpoint that do not fit each other.
    #[error("{}: tensor `{}` in the shards of the checkpoint: {reason}", path.display(), Shown(tensor))]
    ShardTensor {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A GGUF file that contradicts itself or the file's length, or that is of another version.
    #[error("{}: invalid GGUF file: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor in blocks that are not decoded.
    #[error(
        "{}: tensor `{}` has the type {ty}, which is not supported: known are {}",
        path.display(), Shown(tensor), GgmlType::names_read()
    )]
    GgmlType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        ty: GgmlType,
    },
    /// A Meta checkpoint of which shards are missing, as the sizes of the others tell.
    #[error(
        "{}: the weights are split over {expected} shards, as `{tensor}` with its {rows} of {of} rows tells, and there \
         are {found}: {} missing",
        path.display(), listed(missing)
    )]
    ShardCount {
        /// The first shard.
        path: PathBuf,
        /// The tensor looked at.
        tensor: &'static str,
        /// Its rows.
        rows: usize,
        /// The rows that it has when it is whole.
        of: usize,
        /// How many shards there should be.
        expected: usize,
        /// How many there are.
        found: usize,
        /// The names of the others.
        missing: Vec<String>,
    },
    /// A tensor whose entry contradicts itself or the file.
    #[error("{}: tensor `{}`: {reason}", path.display(), Shown(tensor))]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of an element type that is not read.
    #[error(
        "{}: tensor `{}` has dtype `{}`, which is not supported: known are F64 F32 F16 BF16 I64 I32 I16 I8 U16 U8 BOOL",
        path.display(), Shown(tensor), Shown(dtype)
    )]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type, as the file spells it.
        dtype: String,
    },
    /// An index names a shard in a way that is not a plain file name.
    #[error("{}: names the shard `{}`: {reason}", path.display(), Shown(shard))]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The name found.
        shard: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Shards that an index or the name of a shard implies are not in its folder.
    #[error("{}: names {} shard(s) that are not in the folder: {}", path.display(), missing.len(), listed(missing))]
    MissingShards {
        /// The index, or the shard.
        path: PathBuf,
        /// Their names, sorted.
        missing: Vec<String>,
    },
    /// A file that calls itself one of several shards, alone.
    #[error(
        "{}: is shard {number} of {count}, and the folder has no model.safetensors.index.json that lists the others",
        path.display()
    )]
    LoneShard {
        /// The file.
        path: PathBuf,
        /// Its number.
        number: u32,
        /// How many there should be.
        count: u32,
    },
    /// A shard lacks a tensor that the index places there.
    #[error("{}: places tensor `{}` in `{shard}`, which does not have it{}", path.display(), Shown(tensor), and_more(*others))]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The shard.
        shard: String,
        /// The first such tensor.
        tensor: String,
        /// How many more there are.
        others: usize,
    },
    /// The checkpoint comes without the file that says which model it is.
    #[error("{}: there is no config.json, so nothing says which model these weights are", path.display())]
    MissingConfig {
        /// The folder or file.
        path: PathBuf,
    },
    /// Meta's weights come without the file that says which model they are.
    #[error("{}: there is no params.json, so nothing says which model these weights are", path.display())]
    MissingParams {
        /// The folder or file.
        path: PathBuf,
    },
    /// No tensor of that name.
    #[error("{}: there is no tensor `{}`{}", path.display(), Shown(tensor), did_you_mean(near.as_deref()))]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// A name that is there and looks like it.
        near: Option<String>,
    },
    /// The tensors are not those expected.
    #[error(transparent)]
    Mismatch(Box<TensorMismatches>),
    /// What is to be written cannot be.
    #[error("{}: cannot write safetensors: {reason}", path.display())]
    Unwritable {
        /// The destination.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] AtomicError),
}

/// A read from bytes that are open already failed.
pub(crate) fn read_failed(path: &Path, e: &pteron_tensor::SourceError) -> CheckpointError {
    let source = std::io::Error::other(e.to_string());
    CheckpointError::Io { path: path.to_owned(), action: "read", source }
}

/// A foreign name as messages show it: control characters escaped, and cut after 120 characters.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 120;
        for c in self.0.chars().take(LONGEST) {
            if c.is_control() || is_invisible(c) { write!(f, "{}", c.escape_unicode())? } else { write!(f, "{c}")? }
        }
        if self.0.chars().nth(LONGEST).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

/// Characters that reorder or hide the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The first names of a list, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut text = names.iter().take(MOST).map(|n| Shown(n).to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text += &format!(" and {} more", names.len() - MOST);
    }
    text
}

fn and_more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more such tensors)") }
}

pub(crate) fn did_you_mean(near: Option<&str>) -> String {
    near.map(|n| format!("; did you mean `{}`?", Shown(n))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_escaped_and_cut() {
        assert_eq!(Shown("a\u{1b}[2Jb").to_string(), "a\\u{1b}[2Jb");
        assert_eq!(Shown("x\u{202e}y").to_string(), "x\\u{202e}y");
        let long = "é".repeat(500);
        assert_eq!(Shown(&long).to_string().chars().count(), 121);
        assert_eq!(Shown("plain").to_string(), "plain");
    }

    #[test]
    fn lists_are_cut() {
        let names: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
        assert_eq!(listed(&names), "n0, n1, n2, n3, n4, n5, n6, n7 and 2 more");
        assert_eq!(listed(&names[..2]), "n0, n1");
    }
}

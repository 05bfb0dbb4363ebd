//! Which files make up the checkpoint that a path means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use pteron_tensor::ByteSource;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use crate::checkpoint::CheckpointKind;
use crate::error::CheckpointError;
use crate::files::{LoadMode, open_bytes, read_limited};
use crate::json;
use crate::kind::FileKind;
use crate::limits::{MAX_FOLDER_ENTRIES, MAX_INDEX_BYTES, MAX_NAME_BYTES, MAX_SHARDS, MAX_TENSORS};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// A path to one of these means the folder that it lies in.
const SIDE_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "params.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    // The shards of a PyTorch checkpoint say by their names and contents all that its index says.
    "pytorch_model.bin.index.json",
];

/// The files that make up a checkpoint.
pub(crate) struct Located {
    pub(crate) kind: CheckpointKind,
    /// Where the side files are looked for.
    pub(crate) folder: PathBuf,
    pub(crate) weights: Weights,
    pub(crate) warnings: Vec<String>,
}

pub(crate) enum Weights {
    /// One safetensors file.
    Single(PathBuf),
    /// Safetensors files and their index.
    Sharded(Index),
    /// Files of another kind that belong together, in order: what [`FileKind`] says they are.
    Other(FileKind, Vec<PathBuf>),
}

/// `model.safetensors.index.json`: which shard has which tensor.
pub(crate) struct Index {
    pub(crate) path: PathBuf,
    /// Plain file names, sorted.
    pub(crate) shards: Vec<String>,
    /// Tensor and position of its shard, sorted by tensor.
    pub(crate) tensors: Vec<(String, usize)>,
}

impl Index {
    /// The position of the shard that has `tensor`.
    pub(crate) fn shard_of(&self, tensor: &str) -> Option<usize> {
        let at = self.tensors.binary_search_by(|(name, _)| name.as_str().cmp(tensor)).ok()?;
        self.tensors.get(at).map(|&(_, shard)| shard)
    }
}

/// Finds the checkpoint that `path` means.
pub(crate) fn locate(path: &Path) -> Result<Located, CheckpointError> {
    let metadata = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::NotFound { path: path.to_owned() },
        _ => CheckpointError::Io { path: path.to_owned(), action: "open", source },
    })?;
    if metadata.is_dir() { locate_folder(path) } else { locate_file(path) }
}

fn locate_file(path: &Path) -> Result<Located, CheckpointError> {
    let kind = detect(path)?;
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if kind == FileKind::Json && name.ends_with(INDEX_SUFFIX) {
        return Ok(hugging_face(folder, Weights::Sharded(read_index(path)?)));
    }
    if kind == FileKind::Json && SIDE_FILES.contains(&name) {
        return locate_folder(&folder);
    }
    // The reader of the format says more about a broken header than that it is unknown.
    let is_named_so = kind == FileKind::Unknown && name.ends_with(".safetensors");
    if !kind.is_read() && !is_named_so {
        return Err(CheckpointError::Unsupported { path: path.to_owned(), kind });
    }
    if let Some(of) = other_kind(kind) {
        let files = if is_numbered(kind, name) { whole_group(&folder, kind, name)? } else { vec![path.to_owned()] };
        return Ok(Located { kind: of, folder, weights: Weights::Other(kind, files), warnings: Vec::new() });
    }
    let index = folder.join(INDEX);
    if name != SINGLE && index.is_file() {
        let index = read_index(&index)?;
        if index.shards.iter().any(|s| s == name) {
            return Ok(hugging_face(folder, Weights::Sharded(index)));
        }
    }
    refuse_lone_shard(path, name)?;
    let kind = if folder.join("config.json").is_file() {
        CheckpointKind::HuggingFace
    } else {
        CheckpointKind::SafetensorsFile
    };
    Ok(Located { kind, folder, weights: Weights::Single(path.to_owned()), warnings: Vec::new() })
}

fn locate_folder(folder: &Path) -> Result<Located, CheckpointError> {
    let files = file_names(folder)?;
    if let Some(mut located) = locate_safetensors(folder, &files)? {
        let (others, _) = sniffed(folder, &files)?;
        let mut ignored: Vec<String> =
            READ_KINDS.iter().flat_map(|&k| candidates(k, &others).into_iter().flatten()).collect();
        // A file of torch.save that is not called weights is an optimizer's state, or settings.
        let archive = |name: &String| others.iter().any(|(n, k)| n == name && *k == FileKind::PyTorchZip);
        ignored.retain(|name| !archive(name) || is_torch_weights(name));
        if !ignored.is_empty() {
            located.warnings.push(format!(
                "{}: ignored {}, because the folder holds safetensors weights as well, which go first",
                folder.display(),
                crate::error::listed(&ignored)
            ));
        }
        return Ok(located);
    }
    if folder.join("snapshots").is_dir() {
        let snapshot = resolve_snapshot(folder)?;
        // One level down and no further: a snapshot has no snapshots.
        if !snapshot.join("snapshots").exists() {
            return locate_folder(&snapshot);
        }
    }
    let (sniffed, unread) = sniffed(folder, &files)?;
    let mut chosen: Option<(FileKind, CheckpointKind, Vec<String>)> = None;
    let mut warnings = Vec::new();
    for kind in READ_KINDS {
        let mut groups = candidates(kind, &sniffed);
        let (Some(group), Some(of)) = (groups.pop(), other_kind(kind)) else { continue };
        if let Some((_, _, first)) = &chosen {
            let first = first.first().map_or("", String::as_str);
            warnings.push(format!(
                "{}: ignored {}, because the folder holds `{first}` as well, which goes first",
                folder.display(),
                crate::error::listed(&group)
            ));
            continue;
        }
        if !groups.is_empty() {
            groups.push(group);
            let (path, files) = (folder.to_owned(), groups.into_iter().flatten().collect());
            return Err(CheckpointError::AmbiguousWeights { path, kind, files });
        }
        chosen = Some((kind, of, group));
    }
    if let Some((kind, of, group)) = chosen {
        let first = group.first().map_or("", String::as_str);
        let files = if is_numbered(kind, first) {
            whole_group(folder, kind, first)?
        } else {
            group.iter().map(|name| folder.join(name)).collect()
        };
        return Ok(Located { kind: of, folder: folder.to_owned(), weights: Weights::Other(kind, files), warnings });
    }
    match unread {
        Some((file, kind)) => Err(CheckpointError::OtherWeights { path: folder.to_owned(), file, kind }),
        None => Err(CheckpointError::NoWeights { path: folder.to_owned() }),
    }
}

/// The safetensors weights of a folder with these files, if there are any.
fn locate_safetensors(folder: &Path, files: &[String]) -> Result<Option<Located>, CheckpointError> {
    let single = folder.join(SINGLE);
    match (single.is_file(), find_index(folder)?) {
        (true, index) => {
            let mut located = hugging_face(folder.to_owned(), Weights::Single(single));
            located.warnings.extend(index.map(|i| {
                format!("{}: ignored, because the folder holds {SINGLE} as well, which goes first", i.display())
            }));
            return Ok(Some(located));
        }
        (false, Some(index)) => {
            return Ok(Some(hugging_face(folder.to_owned(), Weights::Sharded(read_index(&index)?))));
        }
        (false, None) => {}
    }
    let safetensors: Vec<String> = files.iter().filter(|n| n.ends_with(".safetensors")).cloned().collect();
    match safetensors.as_slice() {
        [only] => {
            let path = folder.join(only);
            refuse_lone_shard(&path, only)?;
            Ok(Some(hugging_face(folder.to_owned(), Weights::Single(path))))
        }
        [] => Ok(None),
        [..] => {
            let (path, what) = (folder.to_owned(), "safetensors files");
            Err(CheckpointError::Ambiguous { path, what, files: safetensors })
        }
    }
}

/// Files of a folder whose first bytes are looked at.
const MOST_SNIFFED: usize = 256;

/// Kinds besides safetensors, the one that goes first where a folder holds several first.
const READ_KINDS: [FileKind; 3] = [FileKind::PyTorchZip, FileKind::Gguf, FileKind::Llama2c];

/// What a checkpoint of such files is.
pub(crate) fn other_kind(kind: FileKind) -> Option<CheckpointKind> {
    match kind {
        FileKind::PyTorchZip => Some(CheckpointKind::PyTorch),
        FileKind::Gguf => Some(CheckpointKind::Gguf),
        FileKind::Llama2c => Some(CheckpointKind::Llama2c),
        _ => None,
    }
}

type Sniffed = Vec<(String, FileKind)>;

/// Those of `files` that are weights of a kind that is read, and the first of a kind that is not.
fn sniffed(folder: &Path, files: &[String]) -> Result<(Sniffed, Option<(String, FileKind)>), CheckpointError> {
    let (mut read, mut unread) = (Vec::new(), None);
    for file in files.iter().take(MOST_SNIFFED) {
        let kind = detect(&folder.join(file))?;
        match kind {
            FileKind::Gguf | FileKind::PyTorchZip | FileKind::Llama2c => read.push((file.clone(), kind)),
            FileKind::OldGgml | FileKind::Pickle | FileKind::ExecutorchProgram | FileKind::GitLfsPointer => {
                unread = unread.or(Some((file.clone(), kind)));
            }
            FileKind::Safetensors
            | FileKind::Json
            | FileKind::ExecutorchData
            | FileKind::Html
            | FileKind::Empty
            | FileKind::Unknown => {}
        }
    }
    Ok((read, unread))
}

/// The groups of files of `kind` that could each be the weights, of which several are one too many. `files` are sorted.
fn candidates(kind: FileKind, files: &[(String, FileKind)]) -> Vec<Vec<String>> {
    let of_kind: Vec<&String> = files.iter().filter(|(_, k)| *k == kind).map(|(name, _)| name).collect();
    let mut groups: Vec<Vec<String>> = Vec::new();
    for &name in &of_kind {
        match groups.iter_mut().find(|g| g.first().is_some_and(|first| same_group(kind, first, name))) {
            Some(group) => group.push(name.clone()),
            None => groups.push(vec![name.clone()]),
        }
    }
    if kind == FileKind::PyTorchZip && groups.len() > 1 {
        // Optimizers and random states lie beside the weights of a training run.
        let named = |g: &Vec<String>| g.first().is_some_and(|n| is_torch_weights(n));
        if groups.iter().any(named) {
            groups.retain(named);
        }
    }
    groups
}

/// True for the names that weights have by custom where `torch.save` wrote them.
fn is_torch_weights(name: &str) -> bool {
    consolidated(name).is_some() || name == "pytorch_model.bin" || numbered(FileKind::PyTorchZip, name).is_some()
}

/// `STEM-00001-of-00003.ENDING`: stem, number from 1, count.
fn numbered(kind: FileKind, name: &str) -> Option<(&str, u32, u32)> {
    let ending = if kind == FileKind::Gguf { ".gguf" } else { ".bin" };
    let (rest, count) = name.strip_suffix(ending)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five_digits = |s: &str| Some(s).filter(|s| s.len() == 5).and_then(|s| s.parse::<u32>().ok());
    Some((stem, five_digits(number)?, five_digits(count)?))
}

/// The number of a `consolidated.NN.pth`.
fn consolidated(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
    Some(digits).filter(|d| d.len() == 2).and_then(|d| d.parse().ok())
}

/// True if the file says by its name that it is one of several.
fn is_numbered(kind: FileKind, name: &str) -> bool {
    match kind {
        FileKind::PyTorchZip => consolidated(name).is_some() || numbered(kind, name).is_some(),
        FileKind::Gguf => numbered(kind, name).is_some(),
        _ => false,
    }
}

fn same_group(kind: FileKind, a: &str, b: &str) -> bool {
    match (consolidated(a), consolidated(b), numbered(kind, a), numbered(kind, b)) {
        (Some(_), Some(_), ..) => kind == FileKind::PyTorchZip,
        (None, None, Some((stem, _, count)), Some((other, _, n))) => (stem, count) == (other, n),
        _ => false,
    }
}

/// All files that go with the numbered file `name`, in order.
fn whole_group(folder: &Path, kind: FileKind, name: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let names: Vec<String> = match numbered(kind, name) {
        Some((stem, _, count)) => {
            if count as usize > MAX_SHARDS {
                return Err(CheckpointError::TooLarge {
                    path: folder.join(name),
                    what: "the number of shards",
                    found: u64::from(count),
                    limit: MAX_SHARDS as u64,
                });
            }
            let ending = name.rsplit_once('.').map_or("", |(_, e)| e);
            (1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.{ending}")).collect()
        }
        None => {
            // Their number is known from the last that is there.
            let last = file_names(folder)?.iter().filter_map(|n| consolidated(n)).max().unwrap_or(0);
            (0..=last).map(|i| format!("consolidated.{i:02}.pth")).collect()
        }
    };
    let missing: Vec<String> = names.iter().filter(|n| !folder.join(n).is_file()).cloned().collect();
    if !missing.is_empty() {
        return Err(CheckpointError::MissingShards { path: folder.join(name), missing });
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}

fn hugging_face(folder: PathBuf, weights: Weights) -> Located {
    Located { kind: CheckpointKind::HuggingFace, folder, weights, warnings: Vec::new() }
}

/// What the file at `path` is.
fn detect(path: &Path) -> Result<FileKind, CheckpointError> {
    let bytes = open_bytes(path, LoadMode::File)?;
    detect_bytes(path, bytes.as_ref())
}

pub(crate) fn detect_bytes(path: &Path, bytes: &dyn ByteSource) -> Result<FileKind, CheckpointError> {
    let mut prefix = [0u8; FileKind::PREFIX];
    let n = usize::try_from(bytes.len()).unwrap_or(usize::MAX).min(prefix.len());
    let prefix = &mut prefix[..n];
    bytes.read_at(0, prefix).map_err(|e| CheckpointError::Io {
        path: path.to_owned(),
        action: "read",
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(FileKind::detect(prefix, bytes.len()))
}

/// The names of the regular files of a folder (links followed), sorted. Names that are not UTF-8 are left out.
fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let fail = |source| CheckpointError::Io { path: folder.to_owned(), action: "list", source };
    let mut names = Vec::new();
    for (count, entry) in std::fs::read_dir(folder).map_err(fail)?.enumerate() {
        if count == MAX_FOLDER_ENTRIES {
            return Err(CheckpointError::TooLarge {
                path: folder.to_owned(),
                what: "the number of entries in the folder",
                found: count as u64 + 1,
                limit: MAX_FOLDER_ENTRIES as u64,
            });
        }
        let entry = entry.map_err(fail)?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The folder's index: the one of the usual name, or the only one.
fn find_index(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let usual = folder.join(INDEX);
    if usual.is_file() {
        return Ok(Some(usual));
    }
    let mut others = file_names(folder)?;
    others.retain(|n| n.ends_with(INDEX_SUFFIX));
    match others.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(folder.join(only))),
        [..] => Err(CheckpointError::Ambiguous { path: folder.to_owned(), what: "shard indices", files: others }),
    }
}

/// The snapshot that a `models--org--name` folder of the hub's cache stands for: `main`, or the only one.
fn resolve_snapshot(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let fail = |reason: String| CheckpointError::Snapshot { path: folder.to_owned(), reason };
    let snapshots = folder.join("snapshots");
    match read_limited(&folder.join("refs").join("main"), 256) {
        Ok(text) => {
            let revision = String::from_utf8_lossy(&text).trim().to_owned();
            let chosen = snapshots.join(&revision);
            if plain_name(&revision).is_err() || !chosen.is_dir() {
                return Err(fail("refs/main names a snapshot that is not there".to_owned()));
            }
            Ok(chosen)
        }
        Err(CheckpointError::NotFound { .. }) => {
            let list = |source| CheckpointError::Io { path: snapshots.clone(), action: "list", source };
            let entries = std::fs::read_dir(&snapshots).map_err(list)?.take(MAX_FOLDER_ENTRIES);
            let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
            match (folders.pop(), folders.len()) {
                (Some(only), 0) => Ok(only),
                (None, _) => Err(fail("there is no snapshot in it".to_owned())),
                (Some(_), n) => Err(fail(format!("it holds {} snapshots and no refs/main", n + 1))),
            }
        }
        Err(e) => Err(e),
    }
}

/// `name-00002-of-00005.safetensors` needs the others.
fn refuse_lone_shard(path: &Path, name: &str) -> Result<(), CheckpointError> {
    let numbers = name.strip_suffix(".safetensors").and_then(|stem| {
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (_, number) = rest.rsplit_once('-')?;
        Some((number.parse::<u32>().ok()?, count.parse::<u32>().ok()?))
    });
    match numbers {
        Some((number, count)) if count > 1 => Err(CheckpointError::LoneShard { path: path.to_owned(), number, count }),
        _ => Ok(()),
    }
}

/// Why `name` is not the plain name of a file, if it is not.
fn plain_name(name: &str) -> Result<(), &'static str> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    if !plain || name.contains(['/', '\\', ':']) {
        return Err("a shard must be a plain file name, in the folder of the index");
    }
    if name.chars().any(char::is_control) {
        return Err("a file name must not hold control characters");
    }
    if name.len() > 255 {
        return Err("a file name must not have more than 255 bytes");
    }
    Ok(())
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: WeightMap,
}

struct WeightMap {
    shards: BTreeMap<String, usize>,
    tensors: Vec<(String, usize)>,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<WeightMap, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut out = WeightMap { shards: BTreeMap::new(), tensors: Vec::new() };
                while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
                    if out.tensors.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    if tensor.len() > MAX_NAME_BYTES {
                        return Err(de::Error::custom(format_args!("a name of more than {MAX_NAME_BYTES} bytes")));
                    }
                    let next = out.shards.len();
                    let position = *out.shards.entry(shard).or_insert(next);
                    if position == MAX_SHARDS {
                        return Err(de::Error::custom(format_args!("more than {MAX_SHARDS} shards")));
                    }
                    out.tensors.push((tensor, position));
                }
                Ok(out)
            }
        }
        d.deserialize_map(V)
    }
}

fn read_index(path: &Path) -> Result<Index, CheckpointError> {
    let text = read_limited(path, MAX_INDEX_BYTES)?;
    json::check_depth(path, &text)?;
    let file: IndexFile = serde_json::from_slice(&text)
        .map_err(|e| CheckpointError::Json { path: path.to_owned(), reason: json::Reason(&e).to_string() })?;
    let WeightMap { shards: by_name, mut tensors } = file.weight_map;

    // From the order of appearance to the order of names.
    let mut new_position = vec![0usize; by_name.len()];
    let mut shards = Vec::with_capacity(by_name.len());
    for (position, (name, old)) in by_name.into_iter().enumerate() {
        if let Err(reason) = plain_name(&name) {
            return Err(CheckpointError::ShardName { path: path.to_owned(), shard: name, reason });
        }
        if let Some(slot) = new_position.get_mut(old) {
            *slot = position;
        }
        shards.push(name);
    }
    for (_, shard) in &mut tensors {
        *shard = new_position.get(*shard).copied().unwrap_or(*shard);
    }
    tensors.sort();
    if let Some([(twice, _), _]) = tensors.array_windows().find(|[a, b]| a.0 == b.0) {
        return Err(CheckpointError::Tensor {
            path: path.to_owned(),
            tensor: twice.clone(),
            reason: "is listed twice".to_owned(),
        });
    }

    let folder = path.parent().unwrap_or(Path::new("."));
    let missing: Vec<String> = shards.iter().filter(|s| !folder.join(s).is_file()).cloned().collect();
    if !missing.is_empty() {
        return Err(CheckpointError::MissingShards { path: path.to_owned(), missing });
    }
    Ok(Index { path: path.to_owned(), shards, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_plain() {
        for good in ["model-00001-of-00002.safetensors", "a", "..a", "a..b"] {
            assert_eq!(plain_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "/x", "a/", "./a", "C:x", "a\\b", "a\nb", &"x".repeat(256)] {
            assert!(plain_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbered_shards_are_not_whole() {
        let lone = |name: &str| refuse_lone_shard(Path::new(name), name).is_err();
        assert!(lone("model-00002-of-00005.safetensors"));
        assert!(!lone("model-00001-of-00001.safetensors"));
        assert!(!lone("model.safetensors"));
        assert!(!lone("best-of-breed.safetensors"));
    }
}

//! Checkpoints that `torch.save` wrote, in the zip format that PyTorch has had since version 1.6.
//!
//! An archive `NAME/` holds `data.pkl`, a pickle that describes objects, and `data/KEY`, the bytes of each storage that
//! the pickle's tensors are views of. The pickle is read by a machine that cannot execute anything: see [`pickle`].

mod globals;
mod meta;
mod pickle;
mod strided;
#[cfg(test)]
mod tests;
mod zip;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_tensor::{ByteSource, checked_numel};

pub(crate) use self::meta::is_meta_name;
use self::pickle::{Pickled, Tensor, Value};
use self::strided::StridedSource;
use self::zip::{ZipDirectory, ZipEntry};
use crate::error::{CheckpointError, Shown, listed};
use crate::files::Bytes;
use crate::limits::{MAX_NAME_BYTES, MAX_PICKLE_BYTES, MAX_PICKLE_VALUES, MAX_STATE_DICT_DEPTH, MAX_TENSORS};
use crate::opened::{Description, Encoding, Entry, Opened, Place};
use crate::side;

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct TorchFile {
    /// In the pickle's order; names may repeat only by mistake, which the caller finds.
    pub(crate) tensors: Vec<Entry>,
    /// What was left out, a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Keys under which training scripts put the weights.
const WRAPPERS: [&str; 5] = ["model", "state_dict", "model_state_dict", "module", "weights"];

/// What wrappers of modules (`DistributedDataParallel`, `torch.compile`) put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Opens the archives `files`, which are those of one checkpoint in their order: one, the shards of a
/// `pytorch_model.bin`, which have different tensors, or the shards of Meta's `consolidated.pth`, which have different
/// parts of each. The side files lie in `folder`.
///
/// # Errors
/// As [`read`], and for shards that do not fit together.
pub(crate) fn open(files: Vec<(PathBuf, Bytes)>, folder: Option<&Path>) -> Result<Opened, CheckpointError> {
    let (mut shards, mut warnings) = (Vec::with_capacity(files.len()), Vec::new());
    for (position, (path, bytes)) in files.iter().enumerate() {
        let file = read(path, &bytes.shared(), position)?;
        shards.push(file.tensors);
        warnings.extend(file.warnings);
    }
    let is_meta = shards.iter().flatten().any(|t| is_meta_name(&t.name));
    let (tensors, description) = if is_meta {
        let params = folder.map(side::params).transpose()?.flatten();
        (meta::merge(shards, &files, params.as_ref())?, Description::Meta { params })
    } else {
        let config = folder.map(side::config).transpose()?.flatten();
        (shards.into_iter().flatten().collect(), Description::HuggingFace { config })
    };
    Ok(Opened { files, tensors, description, warnings })
}

/// Reads the archive `bytes`, which messages call `path` and which is number `file` of the checkpoint's files.
///
/// # Errors
/// [`CheckpointError`] naming the entry, the tensor or the foreign name.
pub(crate) fn read(path: &Path, bytes: &Arc<dyn ByteSource>, file: usize) -> Result<TorchFile, CheckpointError> {
    let archive = Archive::open(path, bytes)?;
    let pickle = archive.pickle()?;
    let (pickled, root) = pickle::run(path, &pickle)?;
    let tree = Tree { path, pickle: &pickle, pickled: &pickled, steps: Cell::new(0) };
    let mut warnings = Vec::new();
    let named = tree.state_dict(root, &mut warnings)?;
    let mut tensors = Vec::with_capacity(named.len());
    for (name, tensor) in named {
        tensors.push(archive.tensor(name, &pickled, tensor, file)?);
    }
    Ok(TorchFile { tensors, warnings })
}

struct Archive<'a> {
    path: &'a Path,
    bytes: &'a Arc<dyn ByteSource>,
    directory: ZipDirectory,
    /// The folder in the archive that holds everything, with its slash.
    root: String,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path, bytes: &'a Arc<dyn ByteSource>) -> Result<Archive<'a>, CheckpointError> {
        let directory = ZipDirectory::read(path, bytes.as_ref())?;
        let fail = |reason: &str| CheckpointError::Zip { path: path.to_owned(), reason: reason.to_owned() };
        let mut roots = directory.entries().iter().filter_map(|e| {
            let root = e.name.strip_suffix("data.pkl")?;
            (root.ends_with('/') && root.matches('/').count() == 1).then_some(root)
        });
        let root = roots.next().ok_or_else(|| fail("there is no `data.pkl` in it: torch.save did not write it"))?;
        if roots.next().is_some() {
            return Err(fail("there are several `data.pkl` in it"));
        }
        let root = root.to_owned();
        let archive = Archive { path, bytes, directory, root };
        if archive.entry("constants.pkl").is_some() {
            return Err(fail(zip::TORCHSCRIPT));
        }
        if let Some(order) = archive.entry("byteorder") {
            let order = archive.bytes_of(order, 16, "the entry `byteorder` in bytes")?;
            if order.trim_ascii() != b"little" {
                let order = String::from_utf8_lossy(&order).into_owned();
                return Err(fail(&format!("its byte order is `{}`: only `little` is read", Shown(&order))));
            }
        }
        Ok(archive)
    }

    fn entry(&self, name: &str) -> Option<&ZipEntry> {
        self.directory.get(&format!("{}{name}", self.root))
    }

    fn bytes_of(&self, entry: &ZipEntry, limit: u64, what: &'static str) -> Result<Vec<u8>, CheckpointError> {
        if entry.len > limit {
            return Err(CheckpointError::TooLarge { path: self.path.to_owned(), what, found: entry.len, limit });
        }
        let mut out = vec![0; usize::try_from(entry.len).unwrap_or(usize::MAX)];
        self.bytes.read_at(entry.offset, &mut out).map_err(|e| crate::error::read_failed(self.path, &e))?;
        Ok(out)
    }

    fn pickle(&self) -> Result<Vec<u8>, CheckpointError> {
        match self.entry("data.pkl") {
            Some(entry) => self.bytes_of(entry, MAX_PICKLE_BYTES, "the entry `data.pkl` in bytes"),
            None => Err(CheckpointError::Zip {
                path: self.path.to_owned(),
                reason: "there is no `data.pkl` in it".to_owned(),
            }),
        }
    }

    /// The tensor `name`, whose description is number `tensor` of the pickle's.
    fn tensor(&self, name: String, pickled: &Pickled, tensor: u32, file: usize) -> Result<Entry, CheckpointError> {
        let fail =
            |reason: String| CheckpointError::Tensor { path: self.path.to_owned(), tensor: name.clone(), reason };
        let found = pickled.tensors.get(tensor as usize);
        let found = found.and_then(|t| Some((t, pickled.storages.get(t.storage as usize)?)));
        let (tensor, storage) = found.ok_or_else(|| fail("is not described".to_owned()))?;
        let dtype = tensor.scalar.dtype().ok_or_else(|| CheckpointError::DType {
            path: self.path.to_owned(),
            tensor: name.clone(),
            dtype: format!("torch.{}", tensor.scalar.name()),
        })?;
        let entry = self.entry(&format!("data/{}", storage.key)).ok_or_else(|| {
            fail(format!("its storage, the entry `{}data/{}`, is missing", Shown(&self.root), Shown(&storage.key)))
        })?;
        let element = tensor.scalar.bytes();
        let declared = storage.numel.checked_mul(storage.scalar.map_or(1, |s| s.bytes()));
        if declared != Some(entry.len) || !entry.len.is_multiple_of(element) {
            return Err(fail(format!(
                "its storage `{}` has {} bytes, and the pickle says {} elements of {element} bytes",
                Shown(&entry.name),
                entry.len,
                match storage.scalar {
                    Some(_) => storage.numel,
                    None => storage.numel / element.max(1),
                },
            )));
        }
        let extent = Extent::of(tensor).filter(|e| e.end <= entry.len / element).ok_or_else(|| {
            fail(format!(
                "a view of shape {:?}, strides {:?} and offset {} leaves its storage of {} elements",
                tensor.sizes,
                tensor.strides,
                tensor.offset,
                entry.len / element
            ))
        })?;
        if extent.numel > entry.len / element {
            return Err(fail(format!(
                "a view of shape {:?} and strides {:?} repeats elements of its storage: save it after .contiguous()",
                tensor.sizes, tensor.strides
            )));
        }
        let (offset, shape) = (tensor.offset, tensor.sizes.clone());
        let place = if extent.contiguous {
            Place::Range { offset: entry.offset.saturating_add(offset.saturating_mul(element)) }
        } else {
            let bytes = Arc::clone(self.bytes);
            Place::Source(Arc::new(StridedSource::new(
                &name,
                dtype,
                &shape,
                &tensor.strides,
                bytes,
                entry.offset,
                offset,
            )))
        };
        let bytes = extent.numel.saturating_mul(element);
        Ok(Entry { name, dtype, shape, file, bytes, encoding: Encoding::Plain(dtype), place })
    }
}

/// What a view touches.
struct Extent {
    /// One past the last element, 0 for none.
    end: u64,
    numel: u64,
    /// Whether the elements lie one behind the other.
    contiguous: bool,
}

impl Extent {
    /// `None` if it overflows.
    fn of(tensor: &Tensor) -> Option<Extent> {
        let numel = checked_numel(&tensor.sizes).ok()? as u64;
        if numel == 0 {
            return Some(Extent { end: 0, numel, contiguous: true });
        }
        let (mut last, mut plain, mut contiguous) = (tensor.offset, 1u64, true);
        for (&size, &stride) in tensor.sizes.iter().zip(&tensor.strides).rev() {
            let (size, stride) = (size as u64, stride as u64);
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
            // The stride of a single element is never used.
            contiguous &= size == 1 || stride == plain;
            plain = plain.checked_mul(size)?;
        }
        Some(Extent { end: last.checked_add(1)?, numel, contiguous })
    }
}

/// The value of a pickle, and where to look texts up.
struct Tree<'a> {
    path: &'a Path,
    pickle: &'a [u8],
    pickled: &'a Pickled,
    /// Steps that [`Tree::has_tensors`] has taken.
    steps: Cell<u64>,
}

/// Tensors by name.
type Named = Vec<(String, u32)>;

impl Tree<'_> {
    fn fail(&self, reason: String) -> CheckpointError {
        CheckpointError::Pickle { path: self.path.to_owned(), reason }
    }

    /// The state dictionary of a pickle: a dictionary of tensors, or the one that lies under a usual key.
    fn state_dict(&self, root: Value, warnings: &mut Vec<String>) -> Result<Named, CheckpointError> {
        let (mut here, mut way) = (root, String::new());
        for _ in 0..=MAX_STATE_DICT_DEPTH {
            let Value::Dict(dict) = here else {
                let what = match here {
                    Value::Tensor(_) => "a single tensor",
                    Value::List(_) | Value::Tuple { .. } => "a list",
                    _ => "no tensors",
                };
                return Err(self.fail(format!("it holds {what} where a dictionary of names and tensors is expected")));
            };
            let items = self.pickled.dict(dict);
            if items.iter().any(|(_, value)| matches!(value, Value::Tensor(_))) {
                return self.named(items, &way);
            }
            let (inner, key) = self.unwrap(items)?;
            let others: Vec<String> =
                items.iter().filter(|(k, v)| *k != key && self.has_tensors(*v)).map(|(k, _)| self.key(*k)).collect();
            let key = self.key(key);
            way = format!("{way}{key}.");
            if !others.is_empty() {
                let (path, others) = (self.path.display(), listed(&others));
                warnings.push(format!("{path}: the weights are those under `{}`; left out: {others}", Shown(&key)));
            }
            here = inner;
        }
        Err(self.fail(format!("the weights lie under more than {MAX_STATE_DICT_DEPTH} dictionaries")))
    }

    /// The value, and its key, that holds the weights of a dictionary without tensors of its own.
    fn unwrap(&self, items: &[(Value, Value)]) -> Result<(Value, Value), CheckpointError> {
        let is_dict = |value: Value| matches!(value, Value::Dict(_)) && self.has_tensors(value);
        let known = |key: Value| pickle::text(self.pickle, key).is_some_and(|k| WRAPPERS.contains(&k));
        let mut found = items.iter().filter(|(key, value)| known(*key) && is_dict(*value));
        let keys = |items: &mut dyn Iterator<Item = &(Value, Value)>| {
            let names: Vec<String> = items.map(|(key, _)| self.key(*key)).collect();
            if names.is_empty() { "nothing".to_owned() } else { listed(&names) }
        };
        match (found.next(), found.next()) {
            (Some(&(key, value)), None) => Ok((value, key)),
            (Some(first), Some(second)) => {
                let both = keys(&mut [*first, *second].iter());
                Err(self.fail(format!("several of its entries can be the weights: {both}")))
            }
            (None, _) => Err(self.fail(format!(
                "it is no dictionary of tensors, and holds none under {}; its entries are {}",
                WRAPPERS.join(", "),
                keys(&mut items.iter())
            ))),
        }
    }

    fn named(&self, items: &[(Value, Value)], way: &str) -> Result<Named, CheckpointError> {
        let mut named = Named::new();
        for &(key, value) in items {
            match (pickle::text(self.pickle, key), value) {
                (Some(name), Value::Tensor(tensor)) => {
                    if name.len() > MAX_NAME_BYTES {
                        return Err(CheckpointError::TooLarge {
                            path: self.path.to_owned(),
                            what: "the length of a tensor's name in bytes",
                            found: name.len() as u64,
                            limit: MAX_NAME_BYTES as u64,
                        });
                    }
                    named.push((name.to_owned(), tensor));
                }
                (None, Value::Tensor(_)) => return Err(self.fail("the name of a tensor is no text".to_owned())),
                (_, other) if self.has_tensors(other) => {
                    let key = format!("{way}{}", self.key(key));
                    return Err(self.fail(format!(
                        "the entry `{}` beside the weights holds tensors, but is no tensor",
                        Shown(&key)
                    )));
                }
                // Steps, versions, settings.
                _ => {}
            }
        }
        if named.len() > MAX_TENSORS {
            return Err(CheckpointError::TooLarge {
                path: self.path.to_owned(),
                what: "the number of tensors",
                found: named.len() as u64,
                limit: MAX_TENSORS as u64,
            });
        }
        for prefix in PREFIXES {
            if named.iter().all(|(name, _)| name.starts_with(prefix)) {
                for (name, _) in &mut named {
                    name.drain(..prefix.len());
                }
            }
        }
        Ok(named)
    }

    /// A key as messages show it.
    fn key(&self, key: Value) -> String {
        match key {
            Value::Int(n) => n.to_string(),
            _ => pickle::text(self.pickle, key).unwrap_or("(no text)").to_owned(),
        }
    }

    /// Whether there is a tensor anywhere below `value`. A pickle in which looking takes too many steps counts as one that
    /// has: values that are shared many times over could make every look long.
    fn has_tensors(&self, value: Value) -> bool {
        let (mut lists, mut dicts, mut tuples) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let before = open.len();
            match value {
                Value::Tensor(_) => return true,
                Value::List(list) if lists.insert(list) => open.extend(self.pickled.list(list)),
                Value::Tuple { start, len } if len > 0 && tuples.insert(start) => {
                    open.extend(self.pickled.tuple(start, len));
                }
                Value::Dict(dict) if dicts.insert(dict) => open.extend(self.pickled.dict(dict).iter().map(|(_, v)| v)),
                _ => {}
            }
            self.steps.set(self.steps.get() + 1 + (open.len() - before) as u64);
            if self.steps.get() > 2 * MAX_PICKLE_VALUES {
                return true;
            }
        }
        false
    }
}

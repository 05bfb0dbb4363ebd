//! An opened checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_tensor::{ByteSource, DType, RangeSource, SharedSource, SourceError};
use serde_json::Value;

use crate::error::CheckpointError;
use crate::expect;
use crate::files::{Bytes, LoadMode, MappedFile};
use crate::folder::{self, Index, Located, Weights};
use crate::gguf::{self, BlockSource, GgmlBlocks, GgufVocabulary};
use crate::header::SafetensorsHeader;
use crate::kind::FileKind;
use crate::limits::MAX_TENSORS;
use crate::llama2c;
use crate::opened::{Description, Encoding, Entry, Opened, Place};
use crate::pytorch;
use crate::side::{self, GenerationConfigFile, TokenizerFiles};

/// What sort of checkpoint was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// A folder as `transformers` writes it: `config.json` beside the weights.
    HuggingFace,
    /// A safetensors file by itself.
    SafetensorsFile,
    /// Files that `torch.save` wrote: Meta's `consolidated.*.pth`, or `pytorch_model.bin`.
    PyTorch,
    /// A GGUF file, or the parts of one.
    Gguf,
    /// The `.bin` of llama2.c.
    Llama2c,
}

/// How a checkpoint is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// How the bytes of the weights are reached.
    pub load: LoadMode,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type as decoded.
    pub dtype: DType,
    /// How its elements are stored.
    pub encoding: Encoding,
    /// Its sizes.
    pub shape: &'a [usize],
    /// The file that has it.
    pub file: &'a Path,
    /// The bytes it takes there.
    pub bytes: u64,
}

/// An opened checkpoint: its tensors' names and shapes, and their bytes when asked for.
///
/// Opening reads the headers and the small JSON files; memory does not grow with the weights.
#[derive(Debug)]
pub struct Checkpoint {
    kind: CheckpointKind,
    path: PathBuf,
    /// Where the side files lie; none for bytes in memory.
    folder: Option<PathBuf>,
    /// Where a tensor's absence is told: the index, or the only file.
    inventory: PathBuf,
    files: Vec<(PathBuf, Bytes)>,
    /// Sorted by name.
    tensors: Vec<Entry>,
    description: Description,
    warnings: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint that `path` means, mapped into memory:
    ///
    /// * a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards, or with a single
    ///   safetensors file of another name; else with `consolidated.*.pth` and `params.json`, or another file of
    ///   `torch.save`; else with a GGUF file, or a llama2.c model;
    /// * a `models--org--name` folder of the hub's cache (the snapshot of `main`, or the only one), or a snapshot;
    /// * a file of such a folder: a shard or the index means all shards, `config.json`, `params.json` or a tokenizer's
    ///   file means the folder;
    /// * a file of weights by itself.
    ///
    /// What a file is, its content says.
    ///
    /// # Errors
    /// [`CheckpointError`], naming the file and what is wrong with it. A `config.json` that is not there is no error
    /// here but in [`Checkpoint::config_json`].
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open_with(path, &OpenOptions::default())
    }

    /// [`Checkpoint::open`] with options.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
        let path = path.as_ref();
        let Located { kind, folder, weights, mut warnings } = folder::locate(path)?;
        let mode = options.load;
        let (inventory, opened) = match weights {
            Weights::Single(file) => {
                let (bytes, tensors) = open_file(&file, mode, 0)?;
                let description = describe(&folder, &tensors)?;
                let files = vec![(file.clone(), bytes)];
                (file, Opened { files, tensors, description, warnings: Vec::new() })
            }
            Weights::Sharded(index) => {
                let description = Description::HuggingFace { config: side::config(&folder)? };
                let (files, tensors) = open_shards(&index, mode, &mut warnings)?;
                (index.path, Opened { files, tensors, description, warnings: Vec::new() })
            }
            Weights::Other(kind, paths) => {
                let inventory = match paths.as_slice() {
                    [only] => only.clone(),
                    _ => folder.clone(),
                };
                let open = |path: PathBuf| Ok((path.clone(), Bytes::open(&path, mode)?));
                let files = paths.into_iter().map(open).collect::<Result<_, CheckpointError>>()?;
                (inventory, open_other(kind, files, Some(&folder))?)
            }
        };
        // A GGUF file has everything in it, and what lies beside it is another model's.
        let folder = Some(folder).filter(|_| kind != CheckpointKind::Gguf);
        Checkpoint::assemble(kind, path, folder, inventory, opened, warnings)
    }

    /// Weights of any readable format that are already in reach: a bundled model, or a file in memory. Messages call it
    /// `label`; `config` is the `config.json` that goes with a safetensors file.
    ///
    /// # Errors
    /// [`CheckpointError`] if the bytes are no valid weights.
    pub fn from_bytes(
        label: &str,
        bytes: Arc<dyn ByteSource>,
        config: Option<Value>,
    ) -> Result<Checkpoint, CheckpointError> {
        let path = PathBuf::from(label);
        let file_kind = folder::detect_bytes(&path, bytes.as_ref())?;
        let (kind, opened) = match folder::other_kind(file_kind) {
            Some(kind) => (kind, open_other(file_kind, vec![(path.clone(), Bytes::Other(bytes))], None)?),
            None => {
                let tensors = read_tensors(&path, bytes.as_ref(), 0)?;
                let files = vec![(path.clone(), Bytes::Other(bytes))];
                let description = Description::HuggingFace { config };
                (CheckpointKind::SafetensorsFile, Opened { files, tensors, description, warnings: Vec::new() })
            }
        };
        Checkpoint::assemble(kind, &path, None, path.clone(), opened, Vec::new())
    }

    /// Sorts what a reader found and checks what every reader's tensors must keep.
    fn assemble(
        kind: CheckpointKind,
        path: &Path,
        folder: Option<PathBuf>,
        inventory: PathBuf,
        opened: Opened,
        mut warnings: Vec<String>,
    ) -> Result<Checkpoint, CheckpointError> {
        let Opened { files, mut tensors, description, warnings: more } = opened;
        warnings.extend(more);
        if tensors.len() > MAX_TENSORS {
            return Err(CheckpointError::TooLarge {
                path: inventory,
                what: "the number of tensors",
                found: tensors.len() as u64,
                limit: MAX_TENSORS as u64,
            });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some([twice, _]) = tensors.array_windows().find(|[a, b]| a.name == b.name) {
            let (path, tensor) = (inventory, twice.name.clone());
            return Err(CheckpointError::Tensor { path, tensor, reason: "is listed twice".to_owned() });
        }
        debug_assert!(tensors.iter().all(|t| t.file < files.len()));
        let path = path.to_owned();
        Ok(Checkpoint { kind, path, folder, inventory, files, tensors, description, warnings })
    }

    /// What sort of checkpoint this is.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the checkpoint says about the model, in its format's own terms.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The folder in which the side files lie; `None` for bytes in memory and for GGUF, which has everything in one file.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The files that hold the weights.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The files that hold the weights, with their bytes as they were opened.
    pub fn contents(&self) -> impl ExactSizeIterator<Item = (&Path, Arc<dyn ByteSource>)> {
        self.files.iter().map(|(path, bytes)| (path.as_path(), bytes.shared()))
    }

    /// What is odd about the checkpoint without making it unreadable, a sentence each: an index that was ignored,
    /// tensors that the index does not list.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|e| self.describe(e))
    }

    /// The tensor `name`, if it is there.
    pub fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.entry(name).map(|e| self.describe(e))
    }

    /// The tensor `name` as a source whose label is that name. In [`LoadMode::Mmap`] it hands out the file's own bytes
    /// (`as_slice`), which are aligned to no more than a byte.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`].
    pub fn get(&self, name: &str) -> Result<SharedSource, CheckpointError> {
        let entry = self.entry(name).ok_or_else(|| self.unknown(name))?;
        let offset = match &entry.place {
            Place::Source(source) => return Ok(Arc::clone(source)),
            Place::Range { offset } => *offset,
        };
        let (path, bytes) = &self.files[entry.file];
        let fail = |e: SourceError| CheckpointError::Tensor {
            path: path.clone(),
            tensor: name.to_owned(),
            reason: e.to_string(),
        };
        match entry.encoding {
            Encoding::Plain(dtype) => {
                let source = RangeSource::new(&entry.name, dtype, &entry.shape, bytes.shared(), offset);
                Ok(Arc::new(source.map_err(fail)?))
            }
            Encoding::Ggml(ty) if !ty.is_read() => {
                let (path, tensor) = (path.clone(), name.to_owned());
                Err(CheckpointError::GgmlType { path, tensor, ty })
            }
            Encoding::Ggml(ty) => {
                let blocks = GgmlBlocks::new(&entry.name, ty, &entry.shape, bytes.shared(), offset);
                Ok(Arc::new(blocks.and_then(BlockSource::new).map_err(fail)?))
            }
            // Integers and scales are two spans, for which the reader gives a source.
            Encoding::GroupedI8 => Err(CheckpointError::Tensor {
                path: path.clone(),
                tensor: name.to_owned(),
                reason: format!("is stored as {}, of which one span is known", entry.encoding),
            }),
        }
    }

    /// The tensor `name` in the blocks in which it is stored, with none of it decoded; `None` for plain numbers.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`].
    pub fn blocks(&self, name: &str) -> Result<Option<GgmlBlocks>, CheckpointError> {
        let entry = self.entry(name).ok_or_else(|| self.unknown(name))?;
        let (Encoding::Ggml(ty), Place::Range { offset }) = (entry.encoding, &entry.place) else { return Ok(None) };
        let (path, bytes) = &self.files[entry.file];
        let blocks = GgmlBlocks::new(&entry.name, ty, &entry.shape, bytes.shared(), *offset);
        blocks.map(Some).map_err(|e| CheckpointError::Tensor {
            path: path.clone(),
            tensor: name.to_owned(),
            reason: e.to_string(),
        })
    }

    /// The tokenizer that a GGUF file carries; `None` for other formats and for files without one.
    ///
    /// # Errors
    /// As [`GgufMetadata::vocabulary`](crate::gguf::GgufMetadata::vocabulary).
    pub fn gguf_vocabulary(&self) -> Result<Option<GgufVocabulary>, CheckpointError> {
        match &self.description {
            Description::Gguf(metadata) => metadata.vocabulary(),
            _ => Ok(None),
        }
    }

    fn unknown(&self, name: &str) -> CheckpointError {
        CheckpointError::UnknownTensor {
            path: self.inventory.clone(),
            tensor: name.to_owned(),
            near: expect::Suggester::new(self.tensors.iter().map(|e| e.name.as_str())).nearest(name),
        }
    }

    /// Says that the tensor `name` will be read from front to back soon. A hint for [`LoadMode::Mmap`], else nothing;
    /// nothing for a name that is not there.
    pub fn will_read(&self, name: &str) {
        if let Some((map, offset, bytes)) = self.mapped(name) {
            map.will_read(offset, bytes);
        }
    }

    /// Says that the tensor `name` is done with for now, so that its pages stop counting as resident. Slices handed out
    /// stay valid: the pages come back from the file when touched. A hint, as [`Checkpoint::will_read`].
    pub fn release(&self, name: &str) {
        if let Some((map, offset, bytes)) = self.mapped(name) {
            map.release(offset, bytes);
        }
    }

    /// Bytes of all tensors, as stored.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
    }

    /// Elements of all tensors.
    pub fn num_parameters(&self) -> u64 {
        self.tensors.iter().map(|e| e.shape.iter().product::<usize>() as u64).fold(0, u64::saturating_add)
    }

    /// `config.json`, an object.
    ///
    /// # Errors
    /// [`CheckpointError::MissingConfig`] if there is none.
    pub fn config_json(&self) -> Result<&Value, CheckpointError> {
        let place = self.folder.as_ref().unwrap_or(&self.path);
        match &self.description {
            Description::HuggingFace { config: Some(config) } => Ok(config),
            _ => Err(CheckpointError::MissingConfig { path: place.clone() }),
        }
    }

    /// `generation_config.json`, if it is there.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is there and cannot be understood.
    pub fn generation_config(&self) -> Result<Option<GenerationConfigFile>, CheckpointError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        match GenerationConfigFile::read(&folder.join("generation_config.json")) {
            Err(CheckpointError::NotFound { .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Which of the tokenizer's files lie beside the weights.
    pub fn tokenizer_files(&self) -> TokenizerFiles {
        self.folder.as_deref().map(TokenizerFiles::find).unwrap_or_default()
    }

    /// The file that says which tensors there are: the index, or the only file of weights.
    pub(crate) fn inventory(&self) -> &Path {
        &self.inventory
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        let at = self.tensors.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    fn describe<'a>(&'a self, e: &'a Entry) -> TensorInfo<'a> {
        TensorInfo {
            name: &e.name,
            dtype: e.dtype,
            encoding: e.encoding,
            shape: &e.shape,
            file: &self.files[e.file].0,
            bytes: e.bytes,
        }
    }

    /// The map, offset and length of a tensor that lies in one piece of a mapped file.
    fn mapped(&self, name: &str) -> Option<(&MappedFile, u64, u64)> {
        let entry = self.entry(name)?;
        match (&self.files[entry.file].1, &entry.place) {
            (Bytes::Mapped(map), Place::Range { offset }) => Some((map, *offset, entry.bytes)),
            _ => None,
        }
    }
}

/// What the side files in `folder` say: Mistral's `consolidated.safetensors` has Meta's names and `params.json`.
fn describe(folder: &Path, tensors: &[Entry]) -> Result<Description, CheckpointError> {
    if tensors.iter().any(|t| pytorch::is_meta_name(&t.name))
        && let Some(params) = side::params(folder)?
    {
        return Ok(Description::Meta { params: Some(params) });
    }
    Ok(Description::HuggingFace { config: side::config(folder)? })
}

/// Reads files of a kind other than safetensors.
fn open_other(kind: FileKind, files: Vec<(PathBuf, Bytes)>, folder: Option<&Path>) -> Result<Opened, CheckpointError> {
    let unsupported = |path: PathBuf| Err(CheckpointError::Unsupported { path, kind });
    match kind {
        FileKind::Gguf => gguf::open(files),
        FileKind::PyTorchZip => pytorch::open(files, folder),
        FileKind::Llama2c => match files.into_iter().next() {
            Some((path, bytes)) => llama2c::open(path, bytes),
            None => unsupported(PathBuf::new()),
        },
        _ => unsupported(files.into_iter().next().map(|(path, _)| path).unwrap_or_default()),
    }
}

/// The tensors of one file, sorted by name.
fn read_tensors(path: &Path, bytes: &dyn ByteSource, file: usize) -> Result<Vec<Entry>, CheckpointError> {
    let kind = folder::detect_bytes(path, bytes)?;
    // A broken header is told by its reader.
    if !kind.is_read() && kind != FileKind::Unknown {
        return Err(CheckpointError::Unsupported { path: path.to_owned(), kind });
    }
    let header = SafetensorsHeader::read(path, bytes)?;
    let entry = |t: crate::HeaderTensor| Entry {
        name: t.name,
        dtype: t.dtype,
        shape: t.shape,
        file,
        bytes: t.bytes,
        encoding: Encoding::Plain(t.dtype),
        place: Place::Range { offset: t.offset },
    };
    Ok(header.tensors.into_iter().map(entry).collect())
}

fn open_file(path: &Path, mode: LoadMode, file: usize) -> Result<(Bytes, Vec<Entry>), CheckpointError> {
    let bytes = Bytes::open(path, mode)?;
    let tensors = read_tensors(path, bytes.shared().as_ref(), file)?;
    Ok((bytes, tensors))
}

type Shards = (Vec<(PathBuf, Bytes)>, Vec<Entry>);

/// Opens every shard and takes each tensor from the shard that the index gives it.
fn open_shards(index: &Index, mode: LoadMode, warnings: &mut Vec<String>) -> Result<Shards, CheckpointError> {
    let folder = index.path.parent().unwrap_or(Path::new("."));
    let mut files = Vec::with_capacity(index.shards.len());
    let mut tensors: Vec<Entry> = Vec::with_capacity(index.tensors.len());
    let (mut unlisted, mut elsewhere) = (Vec::new(), Vec::new());
    for (position, shard) in index.shards.iter().enumerate() {
        let path = folder.join(shard);
        let (bytes, entries) = open_file(&path, mode, position)?;
        files.push((path, bytes));
        for entry in entries {
            match index.shard_of(&entry.name) {
                Some(listed) if listed != position => {
                    elsewhere.push(entry.name);
                    continue;
                }
                Some(_) => {}
                None => unlisted.push(entry.name.clone()),
            }
            tensors.push(entry);
        }
        if tensors.len() > MAX_TENSORS {
            return Err(CheckpointError::TooLarge {
                path: index.path.clone(),
                what: "the number of tensors in the shards",
                found: tensors.len() as u64,
                limit: MAX_TENSORS as u64,
            });
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some([a, b]) = tensors.array_windows().find(|[a, b]| a.name == b.name) {
        let shard = |e: &Entry| index.shards[e.file].as_str();
        return Err(CheckpointError::Tensor {
            path: index.path.clone(),
            tensor: a.name.clone(),
            reason: format!("lies in both `{}` and `{}`, and the index does not list it", shard(a), shard(b)),
        });
    }
    refuse_absent(index, &tensors)?;
    for (names, what) in [(unlisted, "does not list"), (elsewhere, "places in another shard than one that has")] {
        if !names.is_empty() {
            warnings.push(format!(
                "{}: {what} {} tensor(s): {}",
                index.path.display(),
                names.len(),
                crate::error::listed(&names)
            ));
        }
    }
    Ok((files, tensors))
}

/// Every tensor that the index lists must have been found in its shard. `tensors` is sorted by name.
fn refuse_absent(index: &Index, tensors: &[Entry]) -> Result<(), CheckpointError> {
    let there = |name: &str| tensors.binary_search_by(|e| e.name.as_str().cmp(name)).is_ok();
    let mut absent = index.tensors.iter().filter(|(name, _)| !there(name));
    match absent.next() {
        None => Ok(()),
        Some((name, shard)) => Err(CheckpointError::NotInShard {
            path: index.path.clone(),
            shard: index.shards[*shard].clone(),
            tensor: name.clone(),
            others: absent.count(),
        }),
    }
}

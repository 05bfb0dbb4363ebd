//! The `.bin` of llama2.c: a header of integers, then the weights of Llama one behind the other.
//!
//! Version 0 has no magic number, and the tables of rotary embedding among its weights. Version 1 has the same weights in
//! another order behind a header of 256 bytes. In version 2 all weights but the norms are 8-bit integers in groups, each
//! tensor followed by its scales. What is written where is that of llama2.c's `export.py`, `run.c` and `runq.c`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_tensor::{ByteSource, DType, Shape, SourceError, TensorSource, check_rows};

use crate::error::{CheckpointError, read_failed};
use crate::files::Bytes;
use crate::limits::MAX_TENSORS;
use crate::opened::{Description, Encoding, Entry, Opened, Place};

/// What a llama2.c model says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Llama2cHeader {
    /// The layout's version: 0 for the files without a magic number.
    pub version: u32,
    /// Elements of the residual stream.
    pub dim: usize,
    /// Elements between the two halves of the feed-forward part.
    pub hidden_dim: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest context.
    pub max_seq_len: usize,
    /// Whether the output layer uses the embedding's weight.
    pub shared_classifier: bool,
}

const MAGIC: u32 = 0x616b_3432;

/// Bytes of the header without a magic number: seven integers.
const OLD_HEADER: u64 = 28;

/// Bytes before the weights of versions 1 and 2.
const HEADER: u64 = 256;

/// Reads the model in `bytes`, which messages call `path`.
///
/// The result's description is [`Description::Llama2c`](crate::Description::Llama2c), its names are Meta's
/// (`layers.0.attention.wq.weight`), and its rotary pairs are neighbours, as the file has them.
pub(crate) fn open(path: PathBuf, bytes: Bytes) -> Result<Opened, CheckpointError> {
    let shared = bytes.shared();
    let (header, group) = read_header(&path, shared.as_ref())?;
    let mut layout = Layout {
        path: &path,
        bytes: &shared,
        at: if header.version == 0 { OLD_HEADER } else { HEADER },
        group,
        entries: Vec::new(),
    };
    layout.read(&header)?;
    let tensors = layout.entries;
    let description = Description::Llama2c(header);
    Ok(Opened { files: vec![(path, bytes)], tensors, description, warnings: Vec::new() })
}

/// The header, and the size of a group in version 2.
fn read_header(path: &Path, bytes: &dyn ByteSource) -> Result<(Llama2cHeader, Option<usize>), CheckpointError> {
    let fail = |reason: String| CheckpointError::Llama2c { path: path.to_owned(), reason };
    let mut head = [0u8; 41];
    let n = bytes.len().min(head.len() as u64) as usize;
    let there = head.get_mut(..n).unwrap_or_default();
    bytes.read_at(0, there).map_err(|e| read_failed(path, &e))?;
    let word = |at: usize| -> i64 {
        let word = head.get(at..at + 4).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
        i64::from(i32::from_le_bytes(word))
    };
    let is_old = word(0) != i64::from(MAGIC);
    let (version, first, len) = if is_old { (0, 0, OLD_HEADER) } else { (word(4), 8, HEADER) };
    if !(0..=2).contains(&version) || (version == 0 && !is_old) {
        return Err(fail(format!("its version is {version}, and 0, 1 and 2 are known")));
    }
    if bytes.len() < len {
        return Err(fail(format!("the header has {len} bytes, and the file {}", bytes.len())));
    }
    let field = |position: usize| word(first + 4 * position);
    let size = |name: &str, value: i64| {
        let size = usize::try_from(value).ok().filter(|&n| n > 0);
        size.ok_or_else(|| fail(format!("{name} is {value}, and must be above 0")))
    };
    let vocab = field(5);
    let header = Llama2cHeader {
        version: version as u32,
        dim: size("dim", field(0))?,
        hidden_dim: size("hidden_dim", field(1))?,
        n_layers: size("n_layers", field(2))?,
        n_heads: size("n_heads", field(3))?,
        n_kv_heads: size("n_kv_heads", field(4))?,
        vocab_size: size("vocab_size", if version == 0 { vocab.abs() } else { vocab })?,
        max_seq_len: size("max_seq_len", field(6))?,
        shared_classifier: if version == 0 { vocab > 0 } else { head.get(36).is_some_and(|b| *b != 0) },
    };
    if !header.dim.is_multiple_of(header.n_heads) || !header.n_heads.is_multiple_of(header.n_kv_heads) {
        let Llama2cHeader { dim, n_heads, n_kv_heads, .. } = header;
        return Err(fail(format!("dim {dim}, n_heads {n_heads} and n_kv_heads {n_kv_heads} do not divide each other")));
    }
    if header.n_layers.saturating_mul(9).saturating_add(3) > MAX_TENSORS {
        return Err(CheckpointError::TooLarge {
            path: path.to_owned(),
            what: "n_layers",
            found: header.n_layers as u64,
            limit: (MAX_TENSORS / 9) as u64,
        });
    }
    let group = if version == 2 { Some(size("group_size", word(37))?) } else { None };
    Ok((header, group))
}

/// Goes through the weights in their order in the file.
struct Layout<'a> {
    path: &'a Path,
    bytes: &'a Arc<dyn ByteSource>,
    at: u64,
    group: Option<usize>,
    entries: Vec<Entry>,
}

impl Layout<'_> {
    fn fail(&self, reason: String) -> CheckpointError {
        CheckpointError::Llama2c { path: self.path.to_owned(), reason }
    }

    fn read(&mut self, h: &Llama2cHeader) -> Result<(), CheckpointError> {
        let head_dim = h.dim / h.n_heads;
        let kv_dim = h.n_kv_heads * head_dim;
        let layer = |name: &'static str| move |i: usize| format!("layers.{i}.{name}.weight");
        let [dim, hidden] = [h.dim, h.hidden_dim];
        let attention = [
            ("attention.wq", [dim, dim]),
            ("attention.wk", [kv_dim, dim]),
            ("attention.wv", [kv_dim, dim]),
            ("attention.wo", [dim, dim]),
        ];
        let (w1, w2, w3) = ([hidden, dim], [dim, hidden], [hidden, dim]);
        let ffn = [("feed_forward.w1", w1), ("feed_forward.w2", w2), ("feed_forward.w3", w3)];
        let each = 0..h.n_layers;
        let embedding = [h.vocab_size, dim];
        if h.version == 0 {
            self.plain("tok_embeddings.weight".to_owned(), &embedding)?;
            each.clone().map(layer("attention_norm")).try_for_each(|name| self.plain(name, &[dim]))?;
            for (name, shape) in attention {
                each.clone().map(layer(name)).try_for_each(|name| self.plain(name, &shape))?;
            }
            each.clone().map(layer("ffn_norm")).try_for_each(|name| self.plain(name, &[dim]))?;
            for (name, shape) in ffn {
                each.clone().map(layer(name)).try_for_each(|name| self.plain(name, &shape))?;
            }
            self.plain("norm.weight".to_owned(), &[dim])?;
            // The cosines and sines of rotary embedding, which are computed.
            let table = (h.max_seq_len as u64).checked_mul((head_dim / 2) as u64 * 4 * 2);
            self.skip(table, "the tables of rotary embedding")?;
        } else {
            each.clone().map(layer("attention_norm")).try_for_each(|name| self.plain(name, &[dim]))?;
            each.clone().map(layer("ffn_norm")).try_for_each(|name| self.plain(name, &[dim]))?;
            self.plain("norm.weight".to_owned(), &[dim])?;
            self.matrix("tok_embeddings.weight".to_owned(), &embedding)?;
            for (name, shape) in attention.into_iter().chain(ffn) {
                each.clone().map(layer(name)).try_for_each(|name| self.matrix(name, &shape))?;
            }
        }
        if !h.shared_classifier {
            self.matrix("output.weight".to_owned(), &embedding)?;
        }
        if self.at != self.bytes.len() {
            let left = self.bytes.len() - self.at;
            return Err(self.fail(format!("{left} bytes follow the weights that the header describes")));
        }
        Ok(())
    }

    /// Goes over `len` bytes, `None` being too many to count, and gives their start.
    fn skip(&mut self, len: Option<u64>, what: &str) -> Result<u64, CheckpointError> {
        let start = self.at;
        match len.and_then(|n| start.checked_add(n)).filter(|&end| end <= self.bytes.len()) {
            Some(end) => {
                self.at = end;
                Ok(start)
            }
            None => Err(self.fail(format!("the file ends in {what}: it is cut short, or its header is wrong"))),
        }
    }

    fn matrix(&mut self, name: String, shape: &[usize; 2]) -> Result<(), CheckpointError> {
        match self.group {
            Some(group) => self.grouped(name, shape, group),
            None => self.plain(name, shape),
        }
    }

    fn plain(&mut self, name: String, shape: &[usize]) -> Result<(), CheckpointError> {
        let bytes = shape.iter().try_fold(4u64, |n, &d| n.checked_mul(d as u64));
        let offset = self.skip(bytes, &name)?;
        self.entries.push(Entry {
            name,
            dtype: DType::F32,
            shape: Shape::from_slice(shape),
            file: 0,
            bytes: bytes.unwrap_or(u64::MAX),
            encoding: Encoding::Plain(DType::F32),
            place: Place::Range { offset },
        });
        Ok(())
    }

    fn grouped(&mut self, name: String, shape: &[usize; 2], group: usize) -> Result<(), CheckpointError> {
        let numel = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let groups = numel.map(|n| n / group as u64);
        if numel.is_some_and(|n| !n.is_multiple_of(group as u64)) {
            return Err(self.fail(format!("`{name}` of shape {shape:?} cannot be cut into groups of {group}")));
        }
        let integers = self.skip(numel, &name)?;
        let scales = self.skip(groups.and_then(|n| n.checked_mul(4)), &name)?;
        let source = GroupedSource {
            label: name.clone(),
            shape: *shape,
            bytes: Arc::clone(self.bytes),
            integers,
            scales,
            group,
        };
        self.entries.push(Entry {
            name,
            dtype: DType::F32,
            shape: Shape::from_slice(shape),
            file: 0,
            bytes: self.at - integers,
            encoding: Encoding::GroupedI8,
            place: Place::Source(Arc::new(source)),
        });
        Ok(())
    }
}

/// A matrix of 8-bit integers with an f32 scale for every `group` of them, counted through the whole matrix: an element
/// is the product of its integer and its group's scale, in f32.
#[derive(Debug)]
struct GroupedSource {
    label: String,
    shape: [usize; 2],
    bytes: Arc<dyn ByteSource>,
    integers: u64,
    scales: u64,
    group: usize,
}

/// Integers that are decoded at once.
const AT_ONCE: usize = 16 << 10;

impl TensorSource for GroupedSource {
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let mut at = rows.start * self.row_numel();
        let (mut integers, mut scales) = (vec![0u8; AT_ONCE], Vec::new());
        for cells in out.as_chunks_mut::<4>().0.chunks_mut(AT_ONCE) {
            let integers = &mut integers[..cells.len()];
            self.bytes.read_at(self.integers + at as u64, integers)?;
            let first = at / self.group;
            let last = (at + cells.len() - 1) / self.group;
            scales.resize((last - first + 1) * 4, 0);
            self.bytes.read_at(self.scales + first as u64 * 4, &mut scales)?;
            let scales = scales.as_chunks::<4>().0;
            for (i, (cell, integer)) in cells.iter_mut().zip(integers.iter()).enumerate() {
                let scale = scales.get((at + i) / self.group - first).copied().unwrap_or_default();
                *cell = (f32::from(*integer as i8) * f32::from_le_bytes(scale)).to_le_bytes();
            }
            at += cells.len();
        }
        Ok(())
    }
    fn label(&self) -> &str {
        &self.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MemoryBytes;
    use pteron_tensor::{RangeSource, SharedSource, read_all};

    /// dim 4, hidden 6, 2 layers, 2 heads, 1 key head, vocabulary 5, context 3.
    const SIZES: [i32; 7] = [4, 6, 2, 2, 1, 5, 3];
    /// Elements of a layer's matrices, in the order of the file.
    const MATRICES: [(&str, usize); 7] = [
        ("attention.wq", 16),
        ("attention.wk", 8),
        ("attention.wv", 8),
        ("attention.wo", 16),
        ("feed_forward.w1", 24),
        ("feed_forward.w2", 24),
        ("feed_forward.w3", 24),
    ];

    fn words(values: &[i32]) -> Vec<u8> {
        values.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn floats(from: f32, n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| (from + i as f32).to_le_bytes()).collect()
    }

    fn version_0(shared: bool) -> Vec<u8> {
        let mut sizes = SIZES;
        sizes[5] = if shared { 5 } else { -5 };
        let mut out = words(&sizes);
        out.extend(floats(0.0, 20));
        out.extend(floats(100.0, 2 * 4));
        for (i, (_, n)) in MATRICES.iter().enumerate() {
            if i == 4 {
                out.extend(floats(200.0, 2 * 4));
            }
            out.extend(floats(1000.0 * (i + 1) as f32, 2 * n));
        }
        out.extend(floats(300.0, 4));
        // Two tables [3, 1].
        out.extend(floats(-1.0, 6));
        if !shared {
            out.extend(floats(400.0, 20));
        }
        out
    }

    fn new_header(version: i32, shared: bool, group: Option<i32>) -> Vec<u8> {
        let mut out = words(&[MAGIC as i32, version]);
        out.extend(words(&SIZES));
        out.push(u8::from(shared));
        out.extend(group.map(i32::to_le_bytes).unwrap_or_default());
        out.resize(256, 0);
        out.extend(floats(100.0, 2 * 4));
        out.extend(floats(200.0, 2 * 4));
        out.extend(floats(300.0, 4));
        out
    }

    fn version_1(shared: bool) -> Vec<u8> {
        let mut out = new_header(1, shared, None);
        out.extend(floats(0.0, 20));
        for (i, (_, n)) in MATRICES.iter().enumerate() {
            out.extend(floats(1000.0 * (i + 1) as f32, 2 * n));
        }
        if !shared {
            out.extend(floats(400.0, 20));
        }
        out
    }

    /// Every matrix holds 1, -2, 3, -4, … with the scales 0.5, 1, 1.5, … for groups of 4.
    fn version_2(shared: bool) -> Vec<u8> {
        let mut out = new_header(2, shared, Some(4));
        let mut matrix = |n: usize| {
            out.extend((1..=n).map(|i| (if i % 2 == 0 { -(i as i32) } else { i as i32 }) as u8));
            out.extend((1..=n / 4).flat_map(|g| (g as f32 * 0.5).to_le_bytes()));
        };
        matrix(20);
        MATRICES.iter().for_each(|(_, n)| (0..2).for_each(|_| matrix(*n)));
        if !shared {
            matrix(20);
        }
        out
    }

    fn opened(bytes: Vec<u8>) -> Result<Opened, String> {
        let bytes = Bytes::Other(Arc::new(MemoryBytes::new(bytes)));
        open(PathBuf::from("m.bin"), bytes).map_err(|e| e.to_string())
    }

    fn values(opened: &Opened, name: &str) -> Vec<f32> {
        let entry = opened.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
        let source: SharedSource = match &entry.place {
            Place::Range { offset } => Arc::new(
                RangeSource::new(name, entry.dtype, &entry.shape, opened.files[0].1.shared(), *offset).unwrap(),
            ),
            Place::Source(source) => Arc::clone(source),
        };
        let all = read_all(source.as_ref()).unwrap();
        // The same by rows.
        let mut row = vec![0; source.row_bytes()];
        for (r, expected) in all.chunks(source.row_bytes()).enumerate() {
            source.read_rows(r..r + 1, &mut row).unwrap();
            assert_eq!(row, expected);
        }
        all.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    #[test]
    fn versions_0_and_1_have_the_same_weights() {
        for shared in [true, false] {
            for (version, bytes) in [(0, version_0(shared)), (1, version_1(shared))] {
                let o = opened(bytes).unwrap();
                let Description::Llama2c(h) = o.description else { panic!("{:?}", o.description) };
                let sizes = [h.dim, h.hidden_dim, h.n_layers, h.n_heads, h.n_kv_heads, h.vocab_size, h.max_seq_len];
                assert_eq!((sizes, h.version, h.shared_classifier), ([4, 6, 2, 2, 1, 5, 3], version, shared));
                assert_eq!(o.tensors.len(), 2 + 2 * 9 + usize::from(!shared));
                assert_eq!(values(&o, "tok_embeddings.weight")[19], 19.0);
                assert_eq!(values(&o, "layers.1.attention_norm.weight"), [104.0, 105.0, 106.0, 107.0]);
                assert_eq!(values(&o, "layers.0.ffn_norm.weight"), [200.0, 201.0, 202.0, 203.0]);
                assert_eq!(values(&o, "norm.weight"), [300.0, 301.0, 302.0, 303.0]);
                for (i, (name, n)) in MATRICES.iter().enumerate() {
                    for layer in 0..2 {
                        let found = values(&o, &format!("layers.{layer}.{name}.weight"));
                        assert_eq!((found.len(), found[0]), (*n, (1000 * (i + 1) + layer * n) as f32), "{name}");
                    }
                }
                let w2 = o.tensors.iter().find(|t| t.name == "layers.0.feed_forward.w2.weight").unwrap();
                assert_eq!(&w2.shape[..], [4, 6]);
                if !shared {
                    assert_eq!(values(&o, "output.weight")[0], 400.0);
                }
            }
        }
    }

    #[test]
    fn version_2_is_decoded() {
        for shared in [true, false] {
            let o = opened(version_2(shared)).unwrap();
            let expected = |n: usize| -> Vec<f32> {
                (1..=n)
                    .map(|i| (if i % 2 == 0 { -(i as f32) } else { i as f32 }) * (0.5 * (1 + (i - 1) / 4) as f32))
                    .collect()
            };
            assert_eq!(values(&o, "tok_embeddings.weight"), expected(20));
            assert_eq!(values(&o, "norm.weight")[3], 303.0);
            for (name, n) in MATRICES {
                assert_eq!(values(&o, &format!("layers.1.{name}.weight")), expected(n), "{name}");
            }
            assert_eq!(o.tensors.iter().any(|t| t.name == "output.weight"), !shared);
            // Groups of 4 run through rows of 6.
            let w2 = o.tensors.iter().find(|t| t.name == "layers.0.feed_forward.w2.weight").unwrap();
            assert_eq!((&w2.shape[..], w2.bytes, w2.encoding), (&[4, 6][..], 24 + 24, Encoding::GroupedI8));
        }
    }

    #[test]
    fn lengths_are_exact() {
        for good in [version_0(true), version_0(false), version_1(false), version_2(true)] {
            assert!(opened(good.clone()).is_ok());
            for cut in 0..good.len() {
                assert!(opened(good[..cut].to_vec()).is_err(), "{cut}");
            }
            let e = opened([good, vec![0; 3]].concat()).unwrap_err();
            assert_eq!(e, "m.bin: invalid llama2.c model: 3 bytes follow the weights that the header describes");
        }
        let mut cut = version_1(true);
        cut.truncate(cut.len() - 1);
        let e = opened(cut).unwrap_err();
        assert!(
            e.ends_with("the file ends in layers.1.feed_forward.w3.weight: it is cut short, or its header is wrong")
        );
    }

    #[test]
    fn headers_are_checked() {
        let with = |mut bytes: Vec<u8>, at: usize, value: i32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            opened(bytes).unwrap_err()
        };
        let says = |e: String, part: &str| assert!(e.contains(part), "`{part}` is not in: {e}");
        for (field, name) in
            ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"].iter().enumerate()
        {
            says(with(version_1(true), 8 + 4 * field, 0), &format!("{name} is 0, and must be above 0"));
            says(with(version_1(true), 8 + 4 * field, -3), &format!("{name} is -3"));
            for value in [i32::MAX, 1 << 16] {
                with(version_0(true), 4 * field, value);
                // The context changes nothing of the later layouts.
                if *name == "max_seq_len" {
                    continue;
                }
                with(version_1(true), 8 + 4 * field, value);
                with(version_2(true), 8 + 4 * field, value);
            }
        }
        says(with(version_1(true), 4, 3), "its version is 3, and 0, 1 and 2 are known");
        says(with(version_1(true), 4, 0), "its version is 0");
        says(with(version_1(true), 20, 3), "dim 4, n_heads 3 and n_kv_heads 1 do not divide each other");
        says(with(version_1(true), 16, 20_000), "n_layers is 20000, more than the limit of 14563");
        says(with(version_2(true), 37, 0), "group_size is 0");
        says(with(version_2(true), 37, 3), "`tok_embeddings.weight` of shape [5, 4] cannot be cut into groups of 3");
        says(opened(Vec::new()).unwrap_err(), "the header has 28 bytes, and the file 0");
    }
}

//! The header of a safetensors file: 8 bytes of length (little-endian), then a JSON object that gives each tensor's
//! dtype, shape and span; the tensors' bytes follow and fill the rest of the file without holes or overlaps.
//!
//! This reader accepts a subset of what the `safetensors` crate accepts: the crate's own validation runs last, over
//! entries that were each checked here first, so that errors name the tensor.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

use pteron_tensor::{ByteSource, DType, Shape};
use safetensors::tensor::{Dtype, Metadata, TensorInfo as RawInfo};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::CheckpointError;
use crate::json;
use crate::limits::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};

/// The key under which a safetensors header keeps free text.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// Bytes of the length in front of the header.
const LENGTH_BYTES: u64 = 8;

/// One tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its sizes.
    pub shape: Shape,
    /// Where its first byte lies in the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}

/// What a safetensors file holds, every span checked against the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    /// The tensors, by name.
    pub tensors: Vec<HeaderTensor>,
}

impl SafetensorsHeader {
    /// Reads the header of `source`, which messages call `path`. Reads nothing but the header.
    ///
    /// # Errors
    /// [`CheckpointError::Header`], [`CheckpointError::Tensor`], [`CheckpointError::DType`] or
    /// [`CheckpointError::TooLarge`].
    pub fn read(path: &Path, source: &dyn ByteSource) -> Result<SafetensorsHeader, CheckpointError> {
        let invalid = |reason: String| CheckpointError::Header { path: path.to_owned(), reason };
        let file_len = source.len();
        if file_len < LENGTH_BYTES {
            return Err(invalid(format!("it has {file_len} bytes, too few for the length of its header")));
        }
        let mut length = [0u8; 8];
        source.read_at(0, &mut length).map_err(|e| invalid(e.to_string()))?;
        let length = u64::from_le_bytes(length);
        let room = file_len - LENGTH_BYTES;
        if length > room {
            return Err(invalid(format!(
                "its header is declared to have {length} bytes and {room} are there: the file is cut short or is no \
                 safetensors file"
            )));
        }
        if length > MAX_HEADER_BYTES {
            return Err(CheckpointError::TooLarge {
                path: path.to_owned(),
                what: "the header's size in bytes",
                found: length,
                limit: MAX_HEADER_BYTES,
            });
        }
        // At most MAX_HEADER_BYTES, and there: both checked above.
        let mut text = vec![0u8; length as usize];
        source.read_at(LENGTH_BYTES, &mut text).map_err(|e| invalid(e.to_string()))?;
        if text.first() != Some(&b'{') {
            return Err(invalid("its header does not begin with `{`".to_owned()));
        }
        json::check_depth(path, &text)?;
        let mut entries = parse_entries(path, &text)?;
        drop(text);

        entries.sort_by(|a, b| (a.span, &a.name).cmp(&(b.span, &b.name)));
        place(path, &entries, room - length)?;
        revalidate(path, &entries)?;
        let data_start = LENGTH_BYTES + length;
        let tensors = entries.into_iter().map(|e| HeaderTensor {
            name: e.name,
            dtype: e.dtype,
            shape: e.shape,
            offset: data_start + e.span.0,
            bytes: e.span.1 - e.span.0,
        });
        let mut header = SafetensorsHeader { tensors: tensors.collect() };
        header.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some([twice, _]) = header.tensors.array_windows().find(|[a, b]| a.name == b.name) {
            return Err(CheckpointError::Tensor {
                path: path.to_owned(),
                tensor: twice.name.clone(),
                reason: "is listed twice".to_owned(),
            });
        }
        Ok(header)
    }
}

/// Pteron's element type for a name in a safetensors header.
pub(crate) fn dtype_named(name: &str) -> Option<(DType, Dtype)> {
    DTYPES.iter().find(|(n, ..)| *n == name).map(|&(_, d, raw)| (d, raw))
}

/// The name that a safetensors header gives `dtype`.
pub(crate) fn name_of(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, d, _)| *d == dtype).map(|(n, ..)| *n)
}

const DTYPES: [(&str, DType, Dtype); 11] = [
    ("F64", DType::F64, Dtype::F64),
    ("F32", DType::F32, Dtype::F32),
    ("F16", DType::F16, Dtype::F16),
    ("BF16", DType::BF16, Dtype::BF16),
    ("I64", DType::I64, Dtype::I64),
    ("I32", DType::I32, Dtype::I32),
    ("I16", DType::I16, Dtype::I16),
    ("I8", DType::I8, Dtype::I8),
    ("U16", DType::U16, Dtype::U16),
    ("U8", DType::U8, Dtype::U8),
    ("BOOL", DType::Bool, Dtype::BOOL),
];

/// An entry as the file has it. The span counts from the end of the header.
struct Entry {
    name: String,
    dtype: DType,
    raw_dtype: Dtype,
    shape: Shape,
    span: (u64, u64),
}

fn parse_entries(path: &Path, text: &[u8]) -> Result<Vec<Entry>, CheckpointError> {
    let problem = RefCell::new(Problem::default());
    let mut de = serde_json::Deserializer::from_slice(text);
    let result = HeaderSeed { problem: &problem }.deserialize(&mut de).and_then(|e| de.end().map(|()| e));
    result.map_err(|error| {
        let problem = problem.into_inner();
        let path = path.to_owned();
        match (problem.too_many, problem.tensor, problem.dtype) {
            (true, ..) => CheckpointError::TooLarge {
                path,
                what: "the number of tensors",
                found: MAX_TENSORS as u64 + 1,
                limit: MAX_TENSORS as u64,
            },
            (_, Some(tensor), Some(dtype)) => CheckpointError::DType { path, tensor, dtype },
            (_, Some(tensor), None) => {
                CheckpointError::Tensor { path, tensor, reason: json::Reason(&error).to_string() }
            }
            (_, None, _) => CheckpointError::Header { path, reason: json::Reason(&error).to_string() },
        }
    })
}

/// Where parsing was when it failed.
#[derive(Default)]
struct Problem {
    tensor: Option<String>,
    dtype: Option<String>,
    too_many: bool,
}

struct HeaderSeed<'a> {
    problem: &'a RefCell<Problem>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Vec<Entry>;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Vec<Entry>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = Vec::new();
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA_KEY {
                if std::mem::replace(&mut metadata_seen, true) {
                    return Err(de::Error::duplicate_field(METADATA_KEY));
                }
                map.next_value::<Option<TextMap>>()?;
                continue;
            }
            if entries.len() == MAX_TENSORS {
                self.problem.borrow_mut().too_many = true;
                return Err(de::Error::custom("too many tensors"));
            }
            self.problem.borrow_mut().tensor = Some(name.clone());
            if name.len() > MAX_NAME_BYTES {
                return Err(de::Error::custom(format_args!(
                    "the name has {} bytes, more than the limit of {MAX_NAME_BYTES}",
                    name.len()
                )));
            }
            let fields: EntryFields = map.next_value()?;
            let Some((dtype, raw_dtype)) = dtype_named(&fields.dtype) else {
                self.problem.borrow_mut().dtype = Some(fields.dtype);
                return Err(de::Error::custom("unsupported dtype"));
            };
            self.problem.borrow_mut().tensor = None;
            entries.push(Entry { name, dtype, raw_dtype, shape: fields.shape.0, span: fields.data_offsets });
        }
        Ok(entries)
    }
}

#[derive(Deserialize)]
struct EntryFields {
    dtype: String,
    shape: Sizes,
    data_offsets: (u64, u64),
}

struct Sizes(Shape);

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Sizes, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Sizes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sizes, A::Error> {
                let mut shape = Shape::new();
                while let Some(size) = seq.next_element::<usize>()? {
                    if shape.len() == MAX_RANK {
                        return Err(de::Error::custom(format_args!("the shape has more than {MAX_RANK} dimensions")));
                    }
                    shape.push(size);
                }
                Ok(Sizes(shape))
            }
        }
        d.deserialize_seq(V)
    }
}

/// An object whose values are strings, checked and dropped.
struct TextMap;

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<TextMap, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = TextMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextMap, A::Error> {
                while map.next_key::<IgnoredAny>()?.is_some() {
                    map.next_value::<String>()?;
                }
                Ok(TextMap)
            }
        }
        d.deserialize_map(V)
    }
}

/// Checks entries in the order of their spans against each other and against the `data_len` bytes behind the header.
fn place(path: &Path, entries: &[Entry], data_len: u64) -> Result<(), CheckpointError> {
    let mut end_of_last = 0u64;
    for (i, e) in entries.iter().enumerate() {
        let bad = |reason: String| CheckpointError::Tensor { path: path.to_owned(), tensor: e.name.clone(), reason };
        let (start, end) = e.span;
        if start > end {
            return Err(bad(format!("its bytes end ({end}) before they start ({start})")));
        }
        if end > data_len {
            return Err(bad(format!(
                "its bytes {start}..{end} lie outside the {data_len} bytes of data: the file is cut short or the \
                 header is wrong"
            )));
        }
        let needed = extent(e.dtype, &e.shape).ok_or_else(|| {
            bad(format!("its shape {:?} has more elements than can be addressed", e.shape.as_slice()))
        })?;
        if end - start != needed {
            return Err(bad(format!(
                "{} {:?} needs {needed} bytes, and {} are given",
                e.dtype,
                e.shape.as_slice(),
                end - start
            )));
        }
        if start < end_of_last {
            let other = i.checked_sub(1).and_then(|i| entries.get(i)).map_or("", |o| o.name.as_str());
            return Err(bad(format!("its bytes overlap those of `{}`", crate::error::Shown(other))));
        }
        if start > end_of_last {
            return Err(bad(format!("there is a hole of {} bytes before its bytes", start - end_of_last)));
        }
        end_of_last = end;
    }
    if end_of_last != data_len {
        return Err(CheckpointError::Header {
            path: path.to_owned(),
            reason: format!("{} bytes follow the last tensor and belong to none", data_len - end_of_last),
        });
    }
    Ok(())
}

/// The bytes that a tensor takes. `None` if they cannot be addressed; sizes of 0 count as 1 in that question, so that no
/// product of some of the sizes can overflow later.
pub(crate) fn extent(dtype: DType, shape: &[usize]) -> Option<u64> {
    let padded = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s.max(1)))?;
    dtype.bytes_for(padded).filter(|&b| b <= isize::MAX as usize)?;
    dtype.bytes_for(shape.iter().product()).map(|b| b as u64)
}

/// The `safetensors` crate's own validation, which wants the entries in the order of their spans.
fn revalidate(path: &Path, entries: &[Entry]) -> Result<(), CheckpointError> {
    let invalid = |reason: String| CheckpointError::Header { path: path.to_owned(), reason };
    let offset = |v: u64| usize::try_from(v).map_err(|e| invalid(e.to_string()));
    let mut infos = Vec::with_capacity(entries.len());
    for e in entries {
        let data_offsets = (offset(e.span.0)?, offset(e.span.1)?);
        // Names take part in messages only, and each entry has been checked by name before: they are not copied.
        infos.push((String::new(), RawInfo { dtype: e.raw_dtype, shape: e.shape.to_vec(), data_offsets }));
    }
    Metadata::new(None, infos).map(|_| ()).map_err(|e| invalid(e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use pteron_tensor::SourceError;

    use super::*;
    use crate::MemoryBytes;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut f = (json.len() as u64).to_le_bytes().to_vec();
        f.extend(json.as_bytes());
        f.resize(f.len() + data, 7);
        f
    }

    fn read(bytes: Vec<u8>) -> Result<SafetensorsHeader, String> {
        SafetensorsHeader::read(Path::new("w.safetensors"), &MemoryBytes::new(bytes)).map_err(|e| e.to_string())
    }

    /// The file must be refused with a message that has each of `parts`.
    #[track_caller]
    fn refused(bytes: Vec<u8>, parts: &[&str]) {
        let e = read(bytes).unwrap_err();
        assert!(e.starts_with("w.safetensors: "), "{e}");
        for part in parts {
            assert!(e.contains(part), "`{part}` is not in: {e}");
        }
    }

    fn one(entry: &str, data: usize) -> Vec<u8> {
        file(&format!(r#"{{"a.b":{entry}}}"#), data)
    }

    #[test]
    fn a_header_is_read() {
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"I8","shape":[0,5],"data_offsets":[4,4]}}  "#;
        let h = read(file(json, 16)).unwrap();
        let base = 8 + json.len() as u64;
        let got: Vec<_> = h.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.offset - base, t.bytes)).collect();
        assert_eq!(got, [("a", DType::F32, 0, 4), ("b", DType::BF16, 4, 12), ("z", DType::I8, 4, 0)]);
        assert_eq!(h.tensors[1].shape.as_slice(), [2, 3]);
        assert_eq!(read(file("{}", 0)).unwrap().tensors.len(), 0);
    }

    #[test]
    fn lengths_are_checked() {
        refused(vec![], &["0 bytes"]);
        refused(vec![1, 0, 0], &["3 bytes"]);
        refused(u64::MAX.to_le_bytes().to_vec(), &["declared to have 18446744073709551615 bytes and 0 are there"]);
        let whole = one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8);
        read(whole.clone()).unwrap();
        for cut in 0..whole.len() {
            read(whole[..cut].to_vec()).unwrap_err();
        }
        refused(whole[..whole.len() - 1].to_vec(), &["tensor `a.b`", "0..8 lie outside the 7 bytes", "cut short"]);
        refused([whole, vec![0]].concat(), &["1 bytes follow the last tensor"]);
    }

    #[test]
    fn entries_are_checked() {
        let entry = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        refused(one(&entry("F8_E4M3", "[8]", "[0,8]"), 8), &["tensor `a.b` has dtype `F8_E4M3`", "BF16"]);
        refused(one(&entry("F99", "[8]", "[0,8]"), 8), &["tensor `a.b` has dtype `F99`"]);
        refused(one(&entry("F32", "[2]", "[8,0]"), 8), &["tensor `a.b`", "before they start"]);
        refused(one(&entry("F32", "[2]", "[0,18446744073709551615]"), 8), &["tensor `a.b`", "outside the 8 bytes"]);
        refused(one(&entry("F32", "[3]", "[0,8]"), 8), &["tensor `a.b`", "f32 [3] needs 12 bytes, and 8 are given"]);
        refused(one(&entry("F32", "[4]", "[4,20]"), 20), &["tensor `a.b`", "a hole of 4 bytes"]);
        refused(one(&entry("F32", "[-2]", "[0,8]"), 8), &["tensor `a.b`", "-2"]);
        refused(one(&entry("F32", "[2.0]", "[0,8]"), 8), &["tensor `a.b`"]);
        refused(one(&entry("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), &["tensor `a.b`", "more than 6 dimensions"]);
        refused(one(&entry("F32", "[4294967296,4294967296]", "[0,0]"), 0), &["tensor `a.b`", "more elements"]);
        // No elements, and yet a product of its inner sizes overflows.
        refused(one(&entry("F32", "[0,4294967296,4294967296]", "[0,0]"), 0), &["tensor `a.b`", "more elements"]);
        refused(one(r#"{"dtype":"F32","shape":[2]}"#, 8), &["tensor `a.b`", "data_offsets"]);
        refused(one("7", 8), &["tensor `a.b`"]);
    }

    #[test]
    fn entries_are_checked_against_each_other() {
        let two = |names: [&str; 2], spans: [&str; 2]| {
            file(
                &format!(
                    r#"{{"{}":{{"dtype":"U8","shape":[4],"data_offsets":{}}},"{}":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}}"#,
                    names[0], spans[0], names[1], spans[1]
                ),
                8,
            )
        };
        read(two(["a", "b"], ["[0,4]", "[4,8]"])).unwrap();
        refused(two(["a", "b"], ["[0,4]", "[2,6]"]), &["tensor `b`", "overlap those of `a`"]);
        refused(two(["a", "b"], ["[0,4]", "[0,4]"]), &["tensor `b`", "overlap"]);
        refused(two(["a", "a"], ["[0,4]", "[4,8]"]), &["tensor `a`", "listed twice"]);
    }

    #[test]
    fn the_header_is_an_object_of_limited_size() {
        refused(file("[]", 0), &["does not begin with `{`"]);
        refused(file(" {}", 0), &["does not begin with `{`"]);
        refused(file("{} x", 0), &["line 1 column 4"]);
        refused(file("{", 0), &["EOF"]);
        refused(file(r#"{"__metadata__":{"a":1}}"#, 0), &["string"]);
        refused(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), &["duplicate"]);
        refused(file(&format!(r#"{{"__metadata__":{}"#, "[".repeat(100)), 0), &["levels deep"]);
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        let entry = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        refused(file(&format!(r#"{{"{long}":{entry}}}"#), 0), &["1025 bytes", "limit of 1024"]);
        let many: Vec<String> = (0..=MAX_TENSORS).map(|i| format!(r#""{i}":{entry}"#)).collect();
        refused(file(&format!("{{{}}}", many.join(",")), 0), &["number of tensors", "limit of 131072"]);
    }

    /// A file of 10 GiB that does not exist and counts what is read of it.
    #[derive(Debug)]
    struct Counting {
        head: Vec<u8>,
        len: u64,
        read: AtomicU64,
    }

    impl ByteSource for Counting {
        fn len(&self) -> u64 {
            self.len
        }
        fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
            self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.head[at..at + out.len()]);
            Ok(())
        }
    }

    #[test]
    fn nothing_but_the_header_is_read_and_large_ones_not_at_all() {
        let data: u64 = 10 << 30;
        let json = format!(r#"{{"w":{{"dtype":"F32","shape":[{},1024],"data_offsets":[0,{data}]}}}}"#, data / 4096);
        let head = file(&json, 0);
        let source = Counting { len: head.len() as u64 + data, head, read: AtomicU64::new(0) };
        let h = SafetensorsHeader::read(Path::new("big"), &source).unwrap();
        assert_eq!(h.tensors[0].bytes, data);
        assert_eq!(source.read.load(Ordering::Relaxed), 8 + json.len() as u64);

        let declared = MAX_HEADER_BYTES + 1;
        let source = Counting { head: declared.to_le_bytes().to_vec(), len: data, read: AtomicU64::new(0) };
        let e = SafetensorsHeader::read(Path::new("big"), &source).unwrap_err();
        assert!(matches!(e, CheckpointError::TooLarge { found, .. } if found == declared));
        assert_eq!(source.read.load(Ordering::Relaxed), 8);
    }
}

//! Constants, mutable buffers and delegates of a program.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use pteron_ir::{Buffer, BufferId, ConstData, ConstId, Constant, Delegate, DelegateId, Module, TensorType};
use pteron_pte::{BackendDelegate, ParsedHead, Storage, Tensor};
use pteron_tensor::{
    ByteSource, DType, DimOrder, RangeSource, Shape, SharedSource, SourceError, TensorSource, check_rows, strides_for,
};

use super::LiftOptions;
use crate::convert::dtype_of;

/// What the methods of a program share while it is lifted.
pub(super) struct Shared<'f> {
    pub(super) head: &'f ParsedHead,
    pub(super) bytes: Arc<dyn ByteSource>,
    pub(super) options: &'f LiftOptions,
    pub(super) module: Module,
    pub(super) notes: Vec<String>,
    constants: BTreeMap<ConstKey, ConstId>,
    buffers: BTreeMap<BufferKey, BufferId>,
    delegates: BTreeMap<DelegateKey, DelegateId>,
    /// Inputs of the delegates whose payloads say how many they have.
    delegate_inputs: BTreeMap<DelegateId, usize>,
    named_data: Option<NamedBlobs>,
}

type Range64 = (u64, u64);

/// Backend, payload and compile specs.
type DelegateKey = (String, Range64, Vec<(String, Vec<u8>)>);

type NamedBlobs = Vec<(Box<str>, SharedSource)>;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Bytes {
    File(Range64),
    External(String),
}

type ConstKey = (Bytes, u8, Vec<i32>, Vec<u8>);

/// What makes two mutable tensors of different methods the same state.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum BufferKey {
    Named(String),
    Shared(u32, u64),
    Own(String, u32, u64),
}

impl<'f> Shared<'f> {
    pub(super) fn new(head: &'f ParsedHead, bytes: Arc<dyn ByteSource>, options: &'f LiftOptions) -> Shared<'f> {
        Shared {
            head,
            bytes,
            options,
            module: Module::new(&options.name),
            notes: Vec::new(),
            constants: BTreeMap::new(),
            buffers: BTreeMap::new(),
            delegates: BTreeMap::new(),
            delegate_inputs: BTreeMap::new(),
            named_data: None,
        }
    }

    pub(super) fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The constant behind a tensor without planned memory.
    pub(super) fn constant(&mut self, t: &Tensor) -> Result<ConstId, String> {
        match t.storage() {
            Storage::Constant { .. } => {
                let range = self.head.constant_range(t).map_err(|e| e.to_string())?.ok_or("no constant")?;
                let name = fqn(t).map(str::to_owned);
                self.in_file(t, range, name)
            }
            Storage::ExternalConstant { key } => self.external(t, key),
            _ => Err("the tensor is no constant".into()),
        }
    }

    fn key(&self, bytes: Bytes, t: &Tensor) -> ConstKey {
        (bytes, t.scalar_type.code(), t.sizes.clone(), t.dim_order.clone())
    }

    fn in_file(&mut self, t: &Tensor, range: Range<u64>, name: Option<String>) -> Result<ConstId, String> {
        let key = self.key(Bytes::File((range.start, range.end)), t);
        if let Some(&c) = self.constants.get(&key) {
            return Ok(c);
        }
        let name = name.unwrap_or_else(|| format!("constant.{}", self.module.constants.len()));
        let source = source(&name, t, Arc::clone(&self.bytes), range.start)?;
        let id = self.add(&name, t, ConstData::Source(source))?;
        self.constants.insert(key, id);
        Ok(id)
    }

    fn external(&mut self, t: &Tensor, name: &str) -> Result<ConstId, String> {
        let key = self.key(Bytes::External(name.to_owned()), t);
        if let Some(&c) = self.constants.get(&key) {
            return Ok(c);
        }
        let found = self.options.external.iter().find_map(|x| x.head.entry(name).map(|e| (x, e)));
        let data = match found {
            Some((file, entry)) => {
                let same = entry.layout.as_ref().is_some_and(|l| {
                    l.scalar_type == t.scalar_type && l.sizes == t.sizes && l.dim_order == t.dim_order
                });
                if !same {
                    return Err(format!(
                        "external constant `{name}` is {:?} in the program and {:?} in the file of external constants",
                        (t.scalar_type, &t.sizes, &t.dim_order),
                        entry.layout
                    ));
                }
                ConstData::Source(source(name, t, Arc::clone(&file.bytes), entry.range.start)?)
            }
            None => ConstData::External(name.into()),
        };
        let id = self.add(name, t, data)?;
        self.constants.insert(key, id);
        Ok(id)
    }

    fn add(&mut self, name: &str, t: &Tensor, data: ConstData) -> Result<ConstId, String> {
        let ty = fixed_type(t)?;
        Ok(self.module.constants.push(Constant { name: name.into(), ty, data }))
    }

    /// The mutable buffer in planned memory at `offset` of arena `memory`.
    pub(super) fn buffer(&mut self, method: &str, t: &Tensor, memory: u32, offset: u64) -> Result<BufferId, String> {
        let name = fqn(t);
        let key = match name {
            Some(n) if memory >= 2 => BufferKey::Named(n.to_owned()),
            _ if memory >= 2 => BufferKey::Shared(memory, offset),
            _ => BufferKey::Own(method.to_owned(), memory, offset),
        };
        let ty = fixed_type(t)?;
        if let Some(&b) = self.buffers.get(&key) {
            let other = &self.module.buffers[b];
            if other.ty != ty {
                let name = other.name.clone();
                return Err(format!("shared buffer `{name}` is {ty} here and {} in another method", other.ty));
            }
            return Ok(b);
        }
        let init = match t.storage() {
            Storage::InitialisedPlanned { .. } => {
                let range = self.head.mutable_init_range(t).map_err(|e| e.to_string())?.ok_or("no initial contents")?;
                let label = name.map_or_else(|| format!("{method}.mem{memory}@{offset}.init"), |n| format!("{n}.init"));
                Some(self.in_file(t, range, Some(label))?)
            }
            Storage::ExternalInitialisedPlanned { key, .. } => Some(self.external(t, key)?),
            _ => None,
        };
        let mut label = match (name, &key) {
            (Some(n), _) => n.to_owned(),
            (None, BufferKey::Shared(..)) => format!("mem{memory}@{offset}"),
            _ => format!("{method}.mem{memory}@{offset}"),
        };
        if self.module.buffers.values().any(|b| *b.name == *label) {
            label = format!("{method}.{label}");
        }
        let id = self.module.buffers.push(Buffer { name: label.into(), ty, init });
        self.buffers.insert(key, id);
        Ok(id)
    }

    /// The delegate with its payload.
    pub(super) fn delegate(&mut self, d: &BackendDelegate) -> Result<DelegateId, String> {
        let range = self.head.delegate_range(d).ok_or("the delegate's payload is not in the file")?;
        let specs: Vec<_> = d.compile_specs.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
        let key = (d.id.clone(), (range.start, range.end), specs);
        if let Some(&id) = self.delegates.get(&key) {
            return Ok(id);
        }
        let payload = read_range(self.bytes.as_ref(), &range).map_err(|e| e.to_string())?;
        let named_data = match &self.named_data {
            Some(n) => n.clone(),
            None => {
                let mut all = NamedBlobs::new();
                let mut seen: BTreeMap<u32, SharedSource> = BTreeMap::new();
                for n in &self.head.program().named_data {
                    let bytes = match seen.get(&n.segment_index) {
                        Some(b) => Arc::clone(b),
                        None => {
                            let r = self.head.segment_range(n.segment_index).ok_or("named data without a segment")?;
                            let len = usize::try_from(r.end.saturating_sub(r.start)).map_err(|e| e.to_string())?;
                            let b = RangeSource::new(&n.key, DType::U8, &[len], Arc::clone(&self.bytes), r.start)
                                .map_err(|e| e.to_string())?;
                            let b: SharedSource = Arc::new(b);
                            seen.insert(n.segment_index, Arc::clone(&b));
                            b
                        }
                    };
                    all.push((n.key.as_str().into(), bytes));
                }
                self.named_data = Some(all.clone());
                all
            }
        };
        let inputs = self.options.delegate_inputs.and_then(|inputs| inputs(&d.id, &payload));
        let id = self.module.delegates.push(Delegate {
            backend: d.id.as_str().into(),
            payload: payload.into(),
            compile_specs: d.compile_specs.iter().map(|s| (s.key.as_str().into(), s.value.clone())).collect(),
            named_data,
        });
        self.delegates.insert(key, id);
        self.delegate_inputs.extend(inputs.map(|n| (id, n)));
        Ok(id)
    }

    /// How many inputs the delegate has, if its payload says so.
    pub(super) fn inputs_of(&self, id: DelegateId) -> Option<usize> {
        self.delegate_inputs.get(&id).copied()
    }
}

/// The tensor's name, if the file gives one.
pub(super) fn fqn(t: &Tensor) -> Option<&str> {
    t.extra.as_deref().map(|e| e.fully_qualified_name.as_str()).filter(|n| !n.is_empty())
}

/// The tensor's type at its full sizes.
pub(super) fn fixed_type(t: &Tensor) -> Result<TensorType, String> {
    let dtype = dtype_of(t.scalar_type).ok_or_else(|| format!("element type {} is not supported", t.scalar_type))?;
    let sizes: Shape = t
        .sizes
        .iter()
        .map(|&s| usize::try_from(s).map_err(|_| format!("size {s} is negative")))
        .collect::<Result<_, _>>()?;
    let mut ty = TensorType::fixed(dtype, &sizes);
    ty.order = order_of(t);
    Ok(ty)
}

/// The dim order, if it is not row-major.
pub(super) fn order_of(t: &Tensor) -> Option<DimOrder> {
    (!t.dim_order.is_sorted()).then(|| DimOrder::from_slice(&t.dim_order))
}

/// Reads a span of a file. Its length was checked against the file's when the program was parsed.
pub(super) fn read_range(bytes: &dyn ByteSource, range: &Range<u64>) -> Result<Vec<u8>, SourceError> {
    let len = range.end.saturating_sub(range.start);
    if range.end > bytes.len() {
        let (start, end) = (range.start, range.end);
        return Err(SourceError::OutOfRange { what: "program".into(), start, end, len: bytes.len() });
    }
    let n = usize::try_from(len).map_err(|_| SourceError::Failed {
        what: "program".into(),
        reason: format!("{len} bytes do not fit memory"),
    })?;
    let mut out = vec![0; n];
    bytes.read_at(range.start, &mut out)?;
    Ok(out)
}

fn source(name: &str, t: &Tensor, bytes: Arc<dyn ByteSource>, offset: u64) -> Result<SharedSource, String> {
    let ty = fixed_type(t)?;
    let shape = ty.fixed_sizes().ok_or("a constant of unknown size")?;
    if ty.order.is_none() {
        let s = RangeSource::new(name, ty.dtype, &shape, bytes, offset).map_err(|e| e.to_string())?;
        return Ok(Arc::new(s));
    }
    let numel: usize = pteron_tensor::checked_numel(&shape).map_err(|e| e.to_string())?;
    let strides = strides_for(&shape, &t.dim_order).map_err(|e| e.to_string())?;
    // The same bytes as a vector, of which the rows pick their elements.
    let flat = RangeSource::new(name, ty.dtype, &[numel], bytes, offset).map_err(|e| e.to_string())?;
    Ok(Arc::new(OrderedSource { flat, shape, strides }))
}

/// A tensor that lies in another dim order than row-major, delivered row-major.
#[derive(Debug)]
struct OrderedSource {
    flat: RangeSource,
    shape: Shape,
    strides: Shape,
}

impl TensorSource for OrderedSource {
    fn dtype(&self) -> pteron_tensor::DType {
        self.flat.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let size = self.dtype().bits() / 8;
        let (inner, row) = (self.shape.get(1..).unwrap_or(&[]), self.row_numel());
        for (r, target) in rows.zip(out.chunks_exact_mut((row * size).max(1))) {
            let base = r * self.strides.first().copied().unwrap_or(0);
            let mut index: Shape = Shape::from_elem(0, inner.len());
            for element in target.chunks_exact_mut(size.max(1)) {
                let at = base + index.iter().zip(self.strides.iter().skip(1)).map(|(i, s)| i * s).sum::<usize>();
                self.flat.read_rows(at..at + 1, element)?;
                for d in (0..inner.len()).rev() {
                    index[d] += 1;
                    if index[d] < inner[d] {
                        break;
                    }
                    index[d] = 0;
                }
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        self.flat.label()
    }
}

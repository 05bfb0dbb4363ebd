//! Constants and blobs: which are written, where, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_ir::{ConstData, ConstId, Constant, DelegateId, Id, Module, TensorType};
use pteron_pte::{PtdSpec, SegmentSpec, SubsegmentOffsets, TensorLayout};
use pteron_tensor::{SharedBytes, SharedSource, read_all};

use super::EmitOptions;
use crate::convert::scalar_type_of;
use crate::error::EmitError;
use crate::lift::fixed_bytes;

/// Constants of at most this many bytes are compared by contents.
const SMALL: u64 = 4096;

/// A span of a segment and where its bytes come from.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: PieceData,
}

#[derive(Debug, Clone)]
pub(super) enum PieceData {
    Tensor(SharedSource, TensorType),
    Bytes(SharedBytes),
}

/// What tells constants apart without reading much.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Source(usize, u64),
    Slice(usize, u64),
    Contents(Vec<u8>),
}

fn identity(source: &SharedSource, ty: &TensorType, bytes: u64) -> Result<Vec<Identity>, EmitError> {
    let mut out = Vec::new();
    if bytes <= SMALL {
        let mut contents = match source.as_slice() {
            Some(s) => s.to_vec(),
            None => {
                let mut b = vec![0; usize::try_from(bytes).unwrap_or(0)];
                source.read_rows(0..source.rows(), &mut b)?;
                b
            }
        };
        // In another dim order the same elements are other bytes.
        if ty.order.is_some() {
            contents.extend(ty.dim_order());
            contents.extend(ty.to_string().as_bytes());
        }
        out.push(Identity::Contents(contents));
        return Ok(out);
    }
    if ty.order.is_none() {
        out.push(Identity::Source(Arc::as_ptr(source).cast::<u8>() as usize, bytes));
        if let Some(s) = source.as_slice() {
            out.push(Identity::Slice(s.as_ptr() as usize, s.len() as u64));
        }
    }
    Ok(out)
}

/// True if two sources give the same bytes.
fn same_bytes(a: &SharedSource, b: &SharedSource) -> Result<bool, EmitError> {
    if Arc::ptr_eq(a, b) {
        return Ok(true);
    }
    if a.byte_len() != b.byte_len() {
        return Ok(false);
    }
    Ok(*read_all(a.as_ref())? == *read_all(b.as_ref())?)
}

/// A segment of tensors, each at an aligned offset and each once.
#[derive(Default)]
struct TensorSegment {
    offsets: Vec<u64>,
    pieces: Vec<Piece>,
    seen: BTreeMap<Identity, u32>,
    len: u64,
    saved: u64,
}

impl TensorSegment {
    fn add(&mut self, name: &str, source: &SharedSource, ty: &TensorType, align: u64) -> Result<u32, EmitError> {
        let fail = |reason: String| EmitError::Constant { name: name.to_owned(), reason };
        let bytes = fixed_bytes(ty).ok_or_else(|| fail(format!("type {ty} has no constant size")))?;
        let keys = identity(source, ty, bytes)?;
        if let Some(&i) = keys.iter().find_map(|k| self.seen.get(k)) {
            self.saved += bytes;
            return Ok(i);
        }
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        let overflow = || fail("the segment is larger than 63 bits can say".into());
        let offset = self.len.checked_next_multiple_of(align.max(1)).ok_or_else(overflow)?;
        self.len = offset.checked_add(bytes).filter(|l| *l <= i64::MAX as u64).ok_or_else(overflow)?;
        let index = u32::try_from(self.offsets.len()).map_err(|_| overflow())?;
        self.offsets.push(offset);
        let data = PieceData::Tensor(Arc::clone(source), ty.clone());
        self.pieces.push(Piece { name: name.to_owned(), offset, len: bytes, data });
        for k in keys {
            self.seen.insert(k, index);
        }
        Ok(index)
    }
}

/// What a program's tensors refer to.
pub(super) struct DataPool<'m> {
    module: &'m Module,
    options: &'m EmitOptions,
    constants: TensorSegment,
    mutable: TensorSegment,
    external: Vec<ConstId>,
    delegates: Vec<SharedBytes>,
    delegate_index: BTreeMap<DelegateId, u32>,
    named: Vec<(String, SharedSource)>,
    named_index: BTreeMap<String, usize>,
}

/// Where a constant's bytes are.
pub(super) enum ConstPlace {
    /// At this index of the constant segment.
    Segment(u32),
    /// In a file beside the program, under this key.
    External(String),
}

impl<'m> DataPool<'m> {
    pub(super) fn new(module: &'m Module, options: &'m EmitOptions) -> DataPool<'m> {
        DataPool {
            module,
            options,
            constants: TensorSegment::default(),
            mutable: TensorSegment::default(),
            external: Vec::new(),
            delegates: Vec::new(),
            delegate_index: BTreeMap::new(),
            named: Vec::new(),
            named_index: BTreeMap::new(),
        }
    }

    fn source<'c>(&self, c: &'c Constant) -> Result<&'c SharedSource, EmitError> {
        let fail = |reason: String| EmitError::Constant { name: c.name.to_string(), reason };
        let source = match &c.data {
            ConstData::Source(s) => s,
            ConstData::External(_) | ConstData::Missing => return Err(fail("its bytes are not at hand".into())),
        };
        if c.ty.fixed_sizes().as_deref() != Some(source.shape()) || c.ty.dtype != source.dtype() {
            let found = format!("{} {:?}", source.dtype(), source.shape());
            return Err(fail(format!("its source gives {found}, expected {}", c.ty)));
        }
        Ok(source)
    }

    /// Places a constant.
    pub(super) fn constant(&mut self, id: ConstId) -> Result<ConstPlace, EmitError> {
        let c = &self.module.constants[id];
        if scalar_type_of(c.ty.dtype).is_none() {
            let reason = format!("{} has no element type in the format", c.ty.dtype);
            return Err(EmitError::Constant { name: c.name.to_string(), reason });
        }
        if let ConstData::External(key) = &c.data {
            return Ok(ConstPlace::External(key.to_string()));
        }
        let source = self.source(c)?;
        if self.options.external.contains(&id) {
            if !self.external.contains(&id) {
                self.external.push(id);
            }
            return Ok(ConstPlace::External(c.name.to_string()));
        }
        let align = self.options.constant_alignment;
        Ok(ConstPlace::Segment(self.constants.add(&c.name, source, &c.ty, align)?))
    }

    /// Places a tensor of a constant method.
    pub(super) fn tensor(&mut self, name: &str, source: SharedSource) -> Result<u32, EmitError> {
        let ty = TensorType::fixed(source.dtype(), source.shape());
        self.constants.add(name, &source, &ty, self.options.constant_alignment)
    }

    /// Places a buffer's initial contents: an index of the mutable segment, or the key of external data.
    pub(super) fn initial(&mut self, id: ConstId) -> Result<ConstPlace, EmitError> {
        let c = &self.module.constants[id];
        if let ConstData::External(key) = &c.data {
            return Ok(ConstPlace::External(key.to_string()));
        }
        let source = self.source(c)?;
        Ok(ConstPlace::Segment(self.mutable.add(&c.name, source, &c.ty, 1)?))
    }

    /// Places a delegate's payload and named data; gives its index among the payloads.
    pub(super) fn delegate(&mut self, id: DelegateId) -> Result<u32, EmitError> {
        if let Some(&i) = self.delegate_index.get(&id) {
            return Ok(i);
        }
        let d = &self.module.delegates[id];
        for (key, source) in &d.named_data {
            match self.named_index.get(key.as_ref()).and_then(|&i| self.named.get(i)) {
                Some((_, other)) if !same_bytes(other, source)? => {
                    return Err(EmitError::NamedData { key: key.to_string() });
                }
                Some(_) => {}
                None => {
                    self.named_index.insert(key.to_string(), self.named.len());
                    self.named.push((key.to_string(), Arc::clone(source)));
                }
            }
        }
        let same = self.delegates.iter().position(|b| std::ptr::eq::<[u8]>(&**b, &*d.payload) || **b == *d.payload);
        let i = same.unwrap_or_else(|| {
            self.delegates.push(d.payload.clone());
            self.delegates.len() - 1
        });
        let i = u32::try_from(i).unwrap_or(u32::MAX);
        self.delegate_index.insert(id, i);
        Ok(i)
    }

    /// Segments in ExecuTorch's order: constants, initial contents, payloads, named data.
    pub(super) fn finish(self) -> Result<Segments, EmitError> {
        let mut specs = Vec::new();
        let mut pieces: Vec<(usize, Piece)> = Vec::new();
        let mut constants = SubsegmentOffsets { segment_index: 0, offsets: self.constants.offsets };
        if constants.offsets.is_empty() {
            constants.offsets.push(0);
        }
        let saved = self.constants.saved + self.mutable.saved;
        specs.push(SegmentSpec::new(self.constants.len));
        let constant_bytes = self.constants.len;
        pieces.extend(self.constants.pieces.into_iter().map(|p| (0, p)));
        let mut mutable = Vec::new();
        if !self.mutable.offsets.is_empty() {
            mutable.push(SubsegmentOffsets { segment_index: 1, offsets: self.mutable.offsets });
            specs.push(SegmentSpec::new(self.mutable.len));
            pieces.extend(self.mutable.pieces.into_iter().map(|p| (1, p)));
        }
        let first_delegate = u32::try_from(specs.len()).unwrap_or(u32::MAX);
        let mut delegate_bytes = 0;
        let mut blob = |specs: &mut Vec<SegmentSpec>, name: &str, len: u64, data: PieceData| {
            delegate_bytes += len;
            pieces.push((specs.len(), Piece { name: name.to_owned(), offset: 0, len, data }));
            specs.push(SegmentSpec::new(len));
            u32::try_from(specs.len() - 1).unwrap_or(u32::MAX)
        };
        for b in &self.delegates {
            blob(&mut specs, "delegate", (**b).len() as u64, PieceData::Bytes(b.clone()));
        }
        let mut named: Vec<(String, u32)> = Vec::new();
        let mut seen: BTreeMap<Identity, u32> = BTreeMap::new();
        for (key, source) in &self.named {
            let (len, ty) = (source.byte_len() as u64, TensorType::fixed(source.dtype(), source.shape()));
            let keys = identity(source, &ty, len)?;
            let index = match keys.iter().find_map(|k| seen.get(k)) {
                Some(&i) => i,
                None => blob(&mut specs, key, len, PieceData::Tensor(Arc::clone(source), ty)),
            };
            seen.extend(keys.into_iter().map(|k| (k, index)));
            named.push((key.clone(), index));
        }
        let mut external = Vec::new();
        for id in self.external {
            let c = &self.module.constants[id];
            let ConstData::Source(source) = &c.data else { continue };
            external.push((c.name.to_string(), Arc::clone(source), c.ty.clone()));
        }
        Ok(Segments {
            specs,
            pieces,
            constants,
            mutable,
            first_delegate,
            named,
            external,
            saved,
            constant_bytes,
            delegate_bytes,
        })
    }
}

/// All segments of a program.
pub(super) struct Segments {
    pub(super) specs: Vec<SegmentSpec>,
    /// Segment and place in it of every span.
    pub(super) pieces: Vec<(usize, Piece)>,
    pub(super) constants: SubsegmentOffsets,
    pub(super) mutable: Vec<SubsegmentOffsets>,
    pub(super) first_delegate: u32,
    pub(super) named: Vec<(String, u32)>,
    pub(super) external: Vec<(String, SharedSource, TensorType)>,
    pub(super) saved: u64,
    pub(super) constant_bytes: u64,
    pub(super) delegate_bytes: u64,
}

/// Entries, segments and spans of a `.ptd`.
pub(super) type External = (Vec<PtdSpec>, Vec<SegmentSpec>, Vec<(usize, Piece)>);

/// The `.ptd` of constants that do not go into the program: a segment each, equal sources once.
pub(super) fn external(list: &[(String, SharedSource, TensorType)], align: u64) -> Result<External, EmitError> {
    let (mut entries, mut specs, mut pieces): External = Default::default();
    let mut seen: BTreeMap<Identity, usize> = BTreeMap::new();
    for (name, source, ty) in list {
        let fail = |reason: String| EmitError::Constant { name: name.clone(), reason };
        let bytes = fixed_bytes(ty).ok_or_else(|| fail(format!("type {ty} has no constant size")))?;
        let keys = identity(source, ty, bytes)?;
        let segment = match keys.iter().find_map(|k| seen.get(k)) {
            Some(&s) => s,
            None => {
                let data = PieceData::Tensor(Arc::clone(source), ty.clone());
                pieces.push((specs.len(), Piece { name: name.clone(), offset: 0, len: bytes, data }));
                specs.push(SegmentSpec { size: bytes, alignment: align.max(1) });
                specs.len() - 1
            }
        };
        keys.into_iter().for_each(|k| {
            seen.entry(k).or_insert(segment);
        });
        let scalar_type = scalar_type_of(ty.dtype).ok_or_else(|| fail(format!("{} has no element type", ty.dtype)))?;
        let sizes = sizes(ty).ok_or_else(|| fail(format!("{ty} has a size beyond 31 bits")))?;
        let layout = Some(TensorLayout { scalar_type, sizes, dim_order: ty.dim_order().to_vec() });
        entries.push(PtdSpec { key: name.clone(), layout, segment_index: u32::try_from(segment).unwrap_or(u32::MAX) });
    }
    Ok((entries, specs, pieces))
}

/// Constant sizes as the format holds them.
pub(super) fn sizes(ty: &TensorType) -> Option<Vec<i32>> {
    ty.fixed_sizes()?.iter().map(|&s| i32::try_from(s).ok()).collect()
}

/// Position of a constant in messages and orders.
pub(super) fn index(id: ConstId) -> usize {
    id.index()
}

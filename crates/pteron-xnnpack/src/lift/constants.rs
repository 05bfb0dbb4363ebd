//! Constants of a payload as sources of tensors.

use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{
    ByteSource, CastSource, DType, MemorySource, RangeSource, SharedBytes, SharedSource, SourceError, TensorBytes,
    TensorSource, check_rows,
};

use crate::error::XnnpackError;
use crate::payload::{ConstantBytes, Datatype, Payload, QuantParams, Scales, Value};

/// Finds named data by key.
pub(super) type Named<'a> = &'a dyn Fn(&str) -> Option<SharedSource>;

/// XNNPACK's 4-bit codes, `code + 8` with the even column in the low nibble, rows in whole bytes, as signed codes: `i4` where
/// rows fill their bytes, else `i8`.
#[derive(Debug)]
struct Nibbles {
    packed: RangeSource,
    shape: Vec<usize>,
    dtype: DType,
}

impl TensorSource for Nibbles {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        if self.dtype == DType::I4 {
            self.packed.read_rows(rows, out)?;
            // Adding 8 to a nibble without carry turns its highest bit.
            out.iter_mut().for_each(|b| *b ^= 0x88);
            return Ok(());
        }
        let columns = self.row_numel();
        let mut packed = vec![0; self.packed.row_bytes()];
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.max(1))) {
            self.packed.read_rows(row..row + 1, &mut packed)?;
            for (i, o) in out.iter_mut().enumerate() {
                let byte = packed.get(i / 2).copied().unwrap_or(0x88);
                let nibble = if i % 2 == 0 { byte & 15 } else { byte >> 4 };
                *o = nibble.wrapping_sub(8);
            }
        }
        Ok(())
    }

    fn release(&self) {
        self.packed.release();
    }

    fn label(&self) -> &str {
        self.packed.label()
    }
}

/// The bytes of entry `index` of the table of constants, where they start, and what they are called.
fn bytes(
    payload: &Payload,
    v: &Value,
    index: usize,
    blob: &SharedBytes,
    named: Named<'_>,
) -> Result<(Arc<dyn ByteSource>, u64, String), XnnpackError> {
    let Some(c) = payload.constants.get(index) else {
        return Err(XnnpackError::malformed(format!("value {}", v.id), format!("constant {index}"), "a constant"));
    };
    Ok(match &c.bytes {
        ConstantBytes::Blob(range) => (Arc::new(blob.clone()), range.start as u64, format!("value{}", v.id)),
        ConstantBytes::Named(key) => match named(key) {
            Some(source) => (Arc::new(TensorBytes(source)), 0, key.clone()),
            None => return Err(XnnpackError::MissingData { value: v.id, key: key.clone() }),
        },
    })
}

fn range_source(
    (bytes, offset, label): (Arc<dyn ByteSource>, u64, String),
    v: &Value,
    dtype: DType,
    shape: &[usize],
) -> Result<RangeSource, XnnpackError> {
    let found = bytes.len();
    RangeSource::new(&label, dtype, shape, bytes, offset).map_err(|_| {
        XnnpackError::malformed(
            format!("value {}, constant `{label}`", v.id),
            format!("{found} bytes"),
            format!("room for {dtype} {shape:?} from byte {offset}"),
        )
    })
}

/// The elements, or codes, of a constant value.
pub(super) fn elements(
    payload: &Payload,
    v: &Value,
    index: usize,
    blob: &SharedBytes,
    named: Named<'_>,
) -> Result<SharedSource, XnnpackError> {
    let at = bytes(payload, v, index, blob, named)?;
    let shape: Vec<usize> = v.dims.iter().map(|&d| d as usize).collect();
    let dtype = match v.datatype {
        Datatype::Fp32 => DType::F32,
        Datatype::QInt8 | Datatype::QcInt8 => DType::I8,
        Datatype::QUint8 => DType::U8,
        Datatype::QInt32 | Datatype::QcInt32 => DType::I32,
        Datatype::QcInt4 | Datatype::QbInt4 => {
            let Some((&columns, lead)) = shape.split_last() else {
                return Err(XnnpackError::malformed(format!("value {}", v.id), "no dimension", "rows of 4-bit codes"));
            };
            let packed: Vec<usize> = lead.iter().copied().chain([columns.div_ceil(2)]).collect();
            let packed = range_source(at, v, DType::U8, &packed)?;
            let dtype = if columns % 2 == 0 { DType::I4 } else { DType::I8 };
            return Ok(Arc::new(Nibbles { packed, shape, dtype }));
        }
        other => {
            return Err(XnnpackError::unsupported(format!(
                "XNNPACK constants of type {other} are not supported yet (value {})",
                v.id
            )));
        }
    };
    Ok(Arc::new(range_source(at, v, dtype, &shape)?))
}

/// An `f32` as ExecuTorch's runtime makes a scale of `qbint4` of it, which XNNPACK keeps in bf16: the upper half of the value
/// a little more than half a step of bf16 up (`XNNCompiler.cpp`).
fn as_bf16(scale: f32) -> f32 {
    f32::from_bits((scale * 1.003_891).to_bits() & 0xffff_0000)
}

/// The scales of a quantized value, f32, one for each of `counts`; `None` if they are not per channel or per group.
pub(super) fn scales(
    payload: &Payload,
    v: &Value,
    counts: &[usize],
    blob: &SharedBytes,
    named: Named<'_>,
) -> Result<Option<SharedSource>, XnnpackError> {
    let (scales, in_table) = match &v.quant {
        Some(QuantParams::PerChannel { scales, .. }) => (scales, DType::F32),
        Some(QuantParams::PerChannelGroup { scales, .. }) => (scales, DType::BF16),
        _ => return Ok(None),
    };
    let expected: usize = counts.iter().product();
    let found = match scales {
        Scales::List(list) => list.len(),
        Scales::Constant { count, .. } => *count as usize,
    };
    if found != expected {
        let place = format!("value {}, field scale", v.id);
        return Err(XnnpackError::malformed(place, format!("{found} scales"), format!("{expected}")));
    }
    Ok(Some(match scales {
        Scales::List(list) => {
            let list: Vec<f32> = match in_table {
                DType::BF16 => list.iter().map(|&s| as_bf16(s)).collect(),
                _ => list.clone(),
            };
            let label = format!("value{}.scale", v.id);
            let source = MemorySource::of(&label, counts, &list)
                .map_err(|e| XnnpackError::malformed(format!("value {}, field scale", v.id), e, "scales"))?;
            Arc::new(source)
        }
        Scales::Constant { index, .. } => {
            let at = bytes(payload, v, *index, blob, named)?;
            CastSource::wrap(Arc::new(range_source(at, v, in_table, counts)?), DType::F32)
        }
    }))
}

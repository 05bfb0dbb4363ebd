//! Raw tensors and nodes with everything that they point to.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use pteron_tensor::AlignedBytes;

use super::types::{
    RawAxis, RawBuffer, RawBw, RawBwAxis, RawEncoding, RawExpansion, RawOp, RawParam, RawParamValue, RawQuantize,
    RawScalar, RawScalarValue, RawScaleOffset, RawTensor, RawTensorV1, UNDEFINED,
};
use crate::graph::{BlockScales, DataType, Encoding, PACKAGE, Scalar, ScaleOffset};

/// Memory that raw structures point into. What is put in stays where it is until the whole is dropped.
#[derive(Default)]
pub(super) struct Keep {
    names: Vec<CString>,
    dims: Vec<Box<[u32]>>,
    scales: Vec<Box<[RawScaleOffset]>>,
    floats: Vec<Box<[f32]>>,
    ints: Vec<Box<[i32]>>,
    bytes: Vec<AlignedBytes>,
    halves: Vec<Box<[u16]>>,
    expansions: Vec<Box<[RawExpansion]>>,
    params: Vec<Box<[RawParam]>>,
    tensors: Vec<Box<[RawTensor]>>,
}

/// Pushes a box and gives the address of what is in it, which does not move with the list.
fn hold<T>(list: &mut Vec<Box<[T]>>, items: impl IntoIterator<Item = T>) -> *const T {
    list.push(items.into_iter().collect());
    list.last().map_or(ptr::null(), |b| b.as_ptr())
}

impl Keep {
    /// A C string. A NUL inside ends it: names are checked before they come here.
    pub(super) fn name(&mut self, name: &str) -> *const c_char {
        let upto = name.split('\0').next().unwrap_or_default();
        self.names.push(CString::new(upto).unwrap_or_default());
        self.names.last().map_or(ptr::null(), |n| n.as_ptr())
    }

    /// A buffer with its address and size.
    pub(super) fn buffer(&mut self, bytes: AlignedBytes) -> RawBuffer {
        self.bytes.push(bytes);
        let last = self.bytes.last_mut();
        last.map_or(RawBuffer { data: ptr::null_mut(), size: 0 }, |b| RawBuffer {
            data: b.as_mut_ptr().cast::<c_void>(),
            size: u32::try_from(b.len()).unwrap_or(u32::MAX),
        })
    }

    fn scale_offsets(&mut self, scales: &[ScaleOffset]) -> *const RawScaleOffset {
        hold(&mut self.scales, scales.iter().map(|s| RawScaleOffset { scale: s.scale, offset: s.offset }))
    }

    fn quantize(&mut self, encoding: &Encoding) -> RawQuantize {
        let raw = |s: &ScaleOffset| RawScaleOffset { scale: s.scale, offset: s.offset };
        let value = match encoding {
            Encoding::None | Encoding::Other(_) => RawEncoding { scale: RawScaleOffset { scale: 0.0, offset: 0 } },
            Encoding::ScaleOffset(s) => RawEncoding { scale: raw(s) },
            Encoding::AxisScaleOffset { axis, scales } => RawEncoding {
                axis: RawAxis { axis: *axis, count: scales.len() as u32, scales: self.scale_offsets(scales) },
            },
            Encoding::BwScaleOffset { bitwidth, scale } => {
                RawEncoding { bw: RawBw { bitwidth: *bitwidth, scale: scale.scale, offset: scale.offset } }
            }
            Encoding::BwAxisScaleOffset { bitwidth, axis, scales, offsets } => {
                let (bitwidth, axis, count) = (*bitwidth, *axis, scales.len() as u32);
                let scales = hold(&mut self.floats, scales.iter().copied());
                let offsets = match offsets.as_slice() {
                    [] => ptr::null(),
                    some => hold(&mut self.ints, some.iter().copied()),
                };
                RawEncoding { bw_axis: RawBwAxis { bitwidth, axis, count, scales, offsets } }
            }
            Encoding::BlockwiseExpansion { axis, scales, blocks_per_axis, block_scale_bitwidth, block_scales } => {
                let (storage, block_scales) = match block_scales {
                    BlockScales::U8(v) => (0, self.buffer(AlignedBytes::copied(v)).data.cast_const()),
                    BlockScales::U16(v) => (1, hold(&mut self.halves, v.iter().copied()).cast::<c_void>()),
                };
                let scales = self.scale_offsets(scales);
                let expansion = RawExpansion {
                    axis: *axis,
                    scales,
                    blocks_per_axis: *blocks_per_axis,
                    block_scale_bitwidth: *block_scale_bitwidth,
                    storage,
                    block_scales,
                };
                RawEncoding { expansion: hold(&mut self.expansions, [expansion]) }
            }
        };
        let code = encoding.code();
        let definition = if code == UNDEFINED { UNDEFINED } else { 1 };
        RawQuantize { definition, encoding: code, value }
    }

    /// A tensor, of the number `id` if the library has given one. `data` is a constant's bytes.
    pub(super) fn tensor(&mut self, t: &Described<'_>, data: Option<AlignedBytes>) -> RawTensor {
        let buffer = match data {
            Some(bytes) => self.buffer(bytes),
            None => RawBuffer { data: ptr::null_mut(), size: 0 },
        };
        self.tensor_over(t, buffer)
    }

    /// A tensor whose bytes, if it has some, are kept elsewhere for as long.
    pub(super) fn tensor_over(&mut self, t: &Described<'_>, buffer: RawBuffer) -> RawTensor {
        let v1 = RawTensorV1 {
            id: t.id,
            name: self.name(t.name),
            kind: t.kind,
            format: 0,
            dtype: t.dtype.code(),
            quantize: self.quantize(t.encoding),
            rank: t.dims.len() as u32,
            dims: hold(&mut self.dims, t.dims.iter().copied()),
            mem_type: 0,
            buffer,
        };
        RawTensor { version: 1, v1, v2_tail: [0; 3] }
    }

    /// A node over tensors that are complete.
    pub(super) fn node(
        &mut self,
        name: &str,
        op: &str,
        params: Vec<RawParam>,
        inputs: Vec<RawTensor>,
        outputs: Vec<RawTensor>,
    ) -> RawOp {
        let (param_count, input_count) = (params.len() as u32, inputs.len() as u32);
        let output_count = outputs.len() as u32;
        RawOp {
            version: 1,
            name: self.name(name),
            package: self.name(PACKAGE),
            op: self.name(op),
            param_count,
            params: hold(&mut self.params, params),
            input_count,
            inputs: hold(&mut self.tensors, inputs),
            output_count,
            outputs: hold(&mut self.tensors, outputs),
        }
    }

    /// A number as a parameter.
    pub(super) fn scalar_param(&mut self, name: &str, scalar: Scalar) -> RawParam {
        // All eight bytes are defined, whatever part of them the library reads.
        let (dtype, bits) = match scalar {
            Scalar::Bool(v) => (DataType::Bool8, u64::from(v)),
            Scalar::I32(v) => (DataType::Int32, u64::from(v as u32)),
            Scalar::U32(v) => (DataType::UInt32, u64::from(v)),
            Scalar::F32(v) => (DataType::Float32, u64::from(v.to_bits())),
        };
        let scalar = RawScalar { dtype: dtype.code(), value: RawScalarValue { bits } };
        RawParam { kind: 0, name: self.name(name), value: RawParamValue { scalar } }
    }

    /// A tensor as a parameter.
    pub(super) fn tensor_param(&mut self, name: &str, tensor: RawTensor) -> RawParam {
        RawParam { kind: 1, name: self.name(name), value: RawParamValue { tensor } }
    }
}

/// A tensor to be made raw.
pub(super) struct Described<'a> {
    pub(super) id: u32,
    pub(super) name: &'a str,
    pub(super) kind: u32,
    pub(super) dtype: DataType,
    pub(super) dims: &'a [u32],
    pub(super) encoding: &'a Encoding,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_in_cs_layout() {
        let mut keep = Keep::default();
        let so = |scale, offset| ScaleOffset { scale, offset };
        let q = keep.quantize(&Encoding::ScaleOffset(so(0.5, -3)));
        // SAFETY: encoding 0 is the member `scale`, which was written.
        let scale = unsafe { q.value.scale };
        assert_eq!((q.definition, q.encoding, scale.scale, scale.offset), (1, 0, 0.5, -3));

        let q = keep.quantize(&Encoding::BlockwiseExpansion {
            axis: 3,
            scales: vec![so(0.25, 0), so(0.75, 0)],
            blocks_per_axis: 2,
            block_scale_bitwidth: 4,
            block_scales: BlockScales::U8(vec![1, 2, 3, 4]),
        });
        // SAFETY: encoding 5 is the member `expansion`, whose address `keep` holds.
        let e = unsafe { &*q.value.expansion };
        assert_eq!((q.encoding, e.axis, e.blocks_per_axis, e.block_scale_bitwidth, e.storage), (5, 3, 2, 4, 0));
        // SAFETY: two scales were put there.
        assert_eq!(unsafe { (*e.scales.add(1)).scale }, 0.75);
        // SAFETY: four bytes were put there.
        assert_eq!(unsafe { *e.block_scales.cast::<u8>().add(3) }, 4);

        let q = keep.quantize(&Encoding::None);
        assert_eq!((q.definition, q.encoding), (UNDEFINED, UNDEFINED));
    }

    #[test]
    fn what_is_kept_does_not_move() {
        let mut keep = Keep::default();
        let encoding = Encoding::None;
        let t = Described { id: 7, name: "x", kind: 0, dtype: DataType::UFixed8, dims: &[2, 3], encoding: &encoding };
        let first = keep.tensor(&t, Some(AlignedBytes::copied(&[1, 2, 3, 4, 5, 6])));
        for _ in 0..100 {
            keep.tensor(&t, Some(AlignedBytes::zeroed(6)));
        }
        // SAFETY: the sizes and the bytes of the first tensor are still held.
        let (dims, last) = unsafe { (*first.v1.dims.add(1), *first.v1.buffer.data.cast::<u8>().add(5)) };
        assert_eq!((first.v1.id, first.v1.rank, dims, last, first.v1.buffer.size), (7, 2, 3, 6, 6));
    }
}

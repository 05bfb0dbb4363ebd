//! The C types of QNN's interface on 64-bit systems, written by hand from their sizes and offsets, which are asserted.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};

/// An opaque handle.
pub(super) type Handle = *mut c_void;

/// Asserts the size of a type and the offsets of fields.
macro_rules! layout {
    ($ty:ty, $size:expr $(, $field:ident @ $at:expr)* $(,)?) => {
        const _: () = assert!(size_of::<$ty>() == $size);
        $(const _: () = assert!(offset_of!($ty, $field) == $at);)*
    };
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RawVersion {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) patch: u32,
}
layout!(RawVersion, 12);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawApiVersion {
    pub(super) core: RawVersion,
    pub(super) backend: RawVersion,
}
layout!(RawApiVersion, 24, backend @ 12);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawScaleOffset {
    pub(super) scale: f32,
    pub(super) offset: i32,
}
layout!(RawScaleOffset, 8, offset @ 4);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawAxis {
    pub(super) axis: i32,
    pub(super) count: u32,
    pub(super) scales: *const RawScaleOffset,
}
layout!(RawAxis, 16, scales @ 8);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawBw {
    pub(super) bitwidth: u32,
    pub(super) scale: f32,
    pub(super) offset: i32,
}
layout!(RawBw, 12, scale @ 4, offset @ 8);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawBwAxis {
    pub(super) bitwidth: u32,
    pub(super) axis: i32,
    pub(super) count: u32,
    pub(super) scales: *const f32,
    pub(super) offsets: *const i32,
}
layout!(RawBwAxis, 32, axis @ 4, count @ 8, scales @ 16, offsets @ 24);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawExpansion {
    pub(super) axis: i32,
    pub(super) scales: *const RawScaleOffset,
    pub(super) blocks_per_axis: u32,
    pub(super) block_scale_bitwidth: u32,
    pub(super) storage: u32,
    pub(super) block_scales: *const c_void,
}
layout!(RawExpansion, 40, scales @ 8, blocks_per_axis @ 16, block_scale_bitwidth @ 20, storage @ 24, block_scales @ 32);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawEncoding {
    pub(super) scale: RawScaleOffset,
    pub(super) axis: RawAxis,
    pub(super) bw: RawBw,
    pub(super) bw_axis: RawBwAxis,
    pub(super) expansion: *const RawExpansion,
}
layout!(RawEncoding, 32);

/// `definition` and `encoding` of a tensor without an encoding.
pub(super) const UNDEFINED: u32 = 0x7fff_ffff;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawQuantize {
    pub(super) definition: u32,
    pub(super) encoding: u32,
    pub(super) value: RawEncoding,
}
layout!(RawQuantize, 40, encoding @ 4, value @ 8);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawBuffer {
    pub(super) data: *mut c_void,
    pub(super) size: u32,
}
layout!(RawBuffer, 16, size @ 8);

/// The fields that both versions of a tensor begin with, and the whole of the first.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawTensorV1 {
    pub(super) id: u32,
    pub(super) name: *const c_char,
    pub(super) kind: u32,
    pub(super) format: u32,
    pub(super) dtype: u32,
    pub(super) quantize: RawQuantize,
    pub(super) rank: u32,
    pub(super) dims: *const u32,
    pub(super) mem_type: u32,
    pub(super) buffer: RawBuffer,
}
layout!(
    RawTensorV1, 112, name @ 8, kind @ 16, format @ 20, dtype @ 24, quantize @ 32, rank @ 72, dims @ 80, mem_type @ 88,
    buffer @ 96
);

/// A tensor of either version; the second one's own fields stay zero here.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawTensor {
    pub(super) version: u32,
    pub(super) v1: RawTensorV1,
    pub(super) v2_tail: [u64; 3],
}
layout!(RawTensor, 144, v1 @ 8, v2_tail @ 120);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawScalarValue {
    pub(super) f32: f32,
    pub(super) u32: u32,
    pub(super) i32: i32,
    pub(super) bool8: u8,
    pub(super) bits: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawScalar {
    pub(super) dtype: u32,
    pub(super) value: RawScalarValue,
}
layout!(RawScalar, 16, value @ 8);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawParamValue {
    pub(super) scalar: RawScalar,
    pub(super) tensor: RawTensor,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawParam {
    pub(super) kind: u32,
    pub(super) name: *const c_char,
    pub(super) value: RawParamValue,
}
layout!(RawParam, 160, name @ 8, value @ 16);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawOp {
    pub(super) version: u32,
    pub(super) name: *const c_char,
    pub(super) package: *const c_char,
    pub(super) op: *const c_char,
    pub(super) param_count: u32,
    pub(super) params: *const RawParam,
    pub(super) input_count: u32,
    pub(super) inputs: *const RawTensor,
    pub(super) output_count: u32,
    pub(super) outputs: *const RawTensor,
}
layout!(
    RawOp, 80, name @ 8, package @ 16, op @ 24, param_count @ 32, params @ 40, input_count @ 48, inputs @ 56,
    output_count @ 64, outputs @ 72
);

/// An entry of a configuration list: option 0 is the backend's own structure.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawConfig {
    pub(super) option: u32,
    pub(super) custom: *const c_void,
}
layout!(RawConfig, 16, custom @ 8);

/// The HTP's own configuration of a graph: an option and a union at byte 8.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RawHtpGraph {
    pub(super) option: u32,
    pub(super) pad: u32,
    pub(super) first: u32,
    pub(super) second: u32,
    pub(super) rest: [u64; 5],
}
layout!(RawHtpGraph, 56, first @ 8, second @ 12);

/// The HTP's own configuration of a device, option 0: the system's model. The union stands at byte 4 in some releases and
/// at byte 8 in others, so the model is written at both; the block is larger than any of them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RawHtpDevice {
    pub(super) option: u32,
    pub(super) model_at_4: u32,
    pub(super) model_at_8: u32,
    pub(super) rest: [u32; 9],
}
layout!(RawHtpDevice, 48, model_at_4 @ 4, model_at_8 @ 8);

/// The HTP's own configuration of a context, option 1: weight sharing.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RawHtpContext {
    pub(super) option: u32,
    pub(super) pad: u32,
    pub(super) enabled: u8,
    pub(super) rest: [u8; 15],
}
layout!(RawHtpContext, 24, enabled @ 8);

/// Slots of the function table that are looked at. Newer releases append, older indices stay.
pub(super) const FUNCTIONS: usize = 59;

#[repr(C)]
pub(super) struct RawInterface {
    pub(super) backend_id: u32,
    pub(super) provider: *const c_char,
    pub(super) api: RawApiVersion,
    pub(super) functions: [*const c_void; FUNCTIONS],
}
layout!(RawInterface, 40 + 8 * FUNCTIONS, provider @ 8, api @ 16, functions @ 40);

/// Slots of the system library's function table that are looked at.
pub(super) const SYSTEM_FUNCTIONS: usize = 4;

#[repr(C)]
pub(super) struct RawSystemInterface {
    pub(super) id: u32,
    pub(super) name: *const c_char,
    pub(super) version: RawVersion,
    pub(super) functions: [*const c_void; SYSTEM_FUNCTIONS],
}
layout!(RawSystemInterface, 32 + 8 * SYSTEM_FUNCTIONS, name @ 8, version @ 16, functions @ 32);

/// What a context binary says of itself, version 3: the one that releases from 2.47 on give, whatever made the binary.
#[repr(C)]
pub(super) struct RawBinaryInfoV3 {
    pub(super) backend_id: u32,
    pub(super) build: *const c_char,
    pub(super) core: RawVersion,
    pub(super) backend: RawVersion,
    pub(super) soc_version: *const c_char,
    pub(super) blob: RawVersion,
    pub(super) blob_size: u64,
    pub(super) context_tensor_count: u32,
    pub(super) context_tensors: *const RawTensor,
    pub(super) graph_count: u32,
    pub(super) graphs: *const RawGraphInfo,
    pub(super) platform: *const c_void,
    pub(super) metadata_size: u32,
    pub(super) metadata: *const c_void,
    pub(super) soc_model: u32,
}
layout!(
    RawBinaryInfoV3, 136, build @ 8, core @ 16, backend @ 28, soc_version @ 40, blob @ 48, blob_size @ 64,
    context_tensor_count @ 72, context_tensors @ 80, graph_count @ 88, graphs @ 96, platform @ 104, metadata_size @ 112,
    metadata @ 120, soc_model @ 128
);

#[repr(C)]
pub(super) struct RawBinaryInfo {
    pub(super) version: u32,
    pub(super) v3: RawBinaryInfoV3,
}
layout!(RawBinaryInfo, 144, v3 @ 8);

#[repr(C)]
pub(super) struct RawGraphInfo {
    pub(super) version: u32,
    pub(super) name: *const c_char,
    pub(super) input_count: u32,
    pub(super) inputs: *const RawTensor,
    pub(super) output_count: u32,
    pub(super) outputs: *const RawTensor,
    pub(super) updateable_count: u32,
    pub(super) updateable: *const RawTensor,
    pub(super) blob_info_size: u32,
    pub(super) blob_info: *const RawGraphBlobInfo,
    pub(super) op_indices: [u32; 2],
}
layout!(
    RawGraphInfo, 88, name @ 8, input_count @ 16, inputs @ 24, output_count @ 32, outputs @ 40, updateable_count @ 48,
    updateable @ 56, blob_info_size @ 64, blob_info @ 72, op_indices @ 80
);

/// What the HTP says of a graph in a context binary, version 1: its beginning, which is all that is looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawGraphBlobInfo {
    pub(super) version: u32,
    pub(super) spill_fill_bytes: u64,
}
layout!(RawGraphBlobInfo, 16, spill_fill_bytes @ 8);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawProfileEvent {
    pub(super) kind: u32,
    pub(super) unit: u32,
    pub(super) value: u64,
    pub(super) name: *const c_char,
}
layout!(RawProfileEvent, 24, unit @ 4, value @ 8, name @ 16);

//! What a context binary says of itself, out of the library's structures.

use super::library::text_of;
use super::types::{
    RawBinaryInfo, RawBinaryInfoV3, RawGraphBlobInfo, RawGraphInfo, RawQuantize, RawScaleOffset, RawTensor, RawVersion,
};
use crate::graph::{DataType, Encoding, ScaleOffset, TensorKind};
use crate::host::{BinaryInfo, GraphInfo, TensorInfo, Version};

/// More graphs, tensors of a graph, dimensions or scales than these are taken for damage.
const MAX_GRAPHS: u32 = 4096;
const MAX_TENSORS: u32 = 1 << 16;
const MAX_RANK: u32 = 16;
const MAX_SCALES: u32 = 1 << 24;

/// `count` items at `at`.
///
/// # Safety
/// Where it is not null, `at` points to `count` initialized items that outlive the result.
unsafe fn items<'a, T>(at: *const T, count: u32, most: u32, what: &str) -> Result<&'a [T], String> {
    if count == 0 {
        return Ok(&[]);
    }
    if at.is_null() || count > most {
        return Err(format!("found {count} {what}, expected at most {most}"));
    }
    // SAFETY: the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts(at, count as usize) })
}

fn version(v: RawVersion) -> Version {
    Version { major: v.major, minor: v.minor, patch: v.patch }
}

fn scale(s: RawScaleOffset) -> ScaleOffset {
    ScaleOffset { scale: s.scale, offset: s.offset }
}

fn encoding(q: &RawQuantize) -> Result<Encoding, String> {
    Ok(match q.encoding {
        _ if q.definition != 1 => Encoding::None,
        // SAFETY: the encoding's number says which member was written.
        0 => Encoding::ScaleOffset(scale(unsafe { q.value.scale })),
        1 => {
            // SAFETY: as above.
            let axis = unsafe { q.value.axis };
            // SAFETY: the library gives `count` pairs, which live as long as the description.
            let scales = unsafe { items(axis.scales, axis.count, MAX_SCALES, "scales") }?;
            Encoding::AxisScaleOffset { axis: axis.axis, scales: scales.iter().map(|s| scale(*s)).collect() }
        }
        2 => {
            // SAFETY: as above.
            let bw = unsafe { q.value.bw };
            Encoding::BwScaleOffset { bitwidth: bw.bitwidth, scale: ScaleOffset { scale: bw.scale, offset: bw.offset } }
        }
        other => Encoding::Other(other),
    })
}

fn tensor(t: &RawTensor) -> Result<TensorInfo, String> {
    let v = &t.v1;
    let name = text_of(v.name).unwrap_or_default();
    let kind = TensorKind::from_code(v.kind).ok_or_else(|| format!("tensor `{name}` is of kind {}", v.kind))?;
    let dtype = DataType::from_code(v.dtype).ok_or_else(|| format!("tensor `{name}` is of type {:#x}", v.dtype))?;
    // SAFETY: the library gives `rank` sizes, which live as long as the description.
    let dims = unsafe { items(v.dims, v.rank, MAX_RANK, "dimensions") }?.to_vec();
    Ok(TensorInfo { id: v.id, kind, dtype, dims, encoding: encoding(&v.quantize)?, name })
}

fn tensors(at: *const RawTensor, count: u32) -> Result<Vec<TensorInfo>, String> {
    // SAFETY: the library gives `count` tensors, which live as long as the description.
    unsafe { items(at, count, MAX_TENSORS, "tensors") }?.iter().map(tensor).collect()
}

/// Bytes of the buffer that a graph spills into; 0 where it does not say.
fn spill_fill(g: &RawGraphInfo) -> u64 {
    if g.version != 3 || g.blob_info.is_null() || (g.blob_info_size as usize) < size_of::<RawGraphBlobInfo>() {
        return 0;
    }
    // SAFETY: the library gives `blob_info_size` bytes, which live as long as the description.
    let info = unsafe { g.blob_info.read_unaligned() };
    if info.version == 1 { info.spill_fill_bytes } else { 0 }
}

/// The description as data of our own.
pub(super) fn binary(info: &RawBinaryInfo) -> Result<BinaryInfo, String> {
    if info.version != 3 {
        return Err(format!("found a description of version {}, expected 3", info.version));
    }
    let v: &RawBinaryInfoV3 = &info.v3;
    // SAFETY: the library gives `graph_count` graphs, which live as long as the description.
    let graphs: &[RawGraphInfo] = unsafe { items(v.graphs, v.graph_count, MAX_GRAPHS, "graphs") }?;
    let graph = |g: &RawGraphInfo| -> Result<GraphInfo, String> {
        Ok(GraphInfo {
            name: text_of(g.name).unwrap_or_default(),
            inputs: tensors(g.inputs, g.input_count)?,
            outputs: tensors(g.outputs, g.output_count)?,
            spill_fill_bytes: spill_fill(g),
        })
    };
    Ok(BinaryInfo {
        backend_id: v.backend_id,
        build: text_of(v.build).unwrap_or_default(),
        core: version(v.core),
        backend: version(v.backend),
        blob: version(v.blob),
        soc_model: Some(v.soc_model).filter(|m| *m != 0),
        graphs: graphs.iter().map(graph).collect::<Result<_, _>>()?,
    })
}

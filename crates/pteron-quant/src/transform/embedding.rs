//! Embeddings: `quantized_decomposed::embedding_byte`, `embedding_4bit`, `embedding_2bit`.

use std::ops::Range;
use std::sync::Arc;

use pteron_ir::{Arg, Graph, Module, Op, args};
use pteron_tensor::{DType, SharedSource, SourceError, TensorSource, check_rows};

use super::{EmbeddingMode, Readers, Rewriter, TransformError, Weight};

/// The argument of `aten::embedding` that is the weight.
pub(super) const WEIGHT: u16 = 0;
const INDICES: usize = 1;

/// Codes of 2 or 4 bits, several to a byte.
///
/// 4 bits: `code + 8`, the even column in the high nibble. 2 bits: `code + 2`, the first column in the lowest bits
/// (ExecuTorch's `embedding_4bit` and `embedding_2bit` kernels).
#[derive(Debug)]
struct PackedSource {
    codes: SharedSource,
    bits: u32,
    shape: [usize; 2],
}

impl TensorSource for PackedSource {
    fn dtype(&self) -> DType {
        DType::U8
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let mut codes = vec![0u8; self.codes.row_bytes()];
        let offset = 1i16 << (self.bits - 1);
        let (per_byte, mask) = (8 / self.bits as usize, (1u8 << self.bits) - 1);
        let unsigned = |code: u8| (i16::from(code.cast_signed()) + offset) as u8 & mask;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.shape[1].max(1))) {
            self.codes.read_rows(row..row + 1, &mut codes)?;
            for (byte, codes) in out.iter_mut().zip(codes.chunks_exact(per_byte)) {
                *byte = match (self.bits, codes) {
                    (4, &[even, odd]) => unsigned(even) << 4 | unsigned(odd),
                    _ => codes.iter().rev().fold(0, |b, &c| b << self.bits | unsigned(c)),
                };
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        self.codes.label()
    }
}

/// Replaces every embedding of `graph` that `readers` names; gives their number.
pub(super) fn replace(
    graph: &mut Graph,
    module: &mut Module,
    readers: &Readers,
    mode: EmbeddingMode,
    weight: &Weight,
) -> Result<usize, TransformError> {
    let body = graph.body_id();
    let nodes = std::mem::take(&mut graph.regions[body].nodes);
    let mut count = 0;
    for n in nodes {
        let node = &graph.nodes[n];
        let is_ours = readers.has(graph, n, Op::Embedding, WEIGHT);
        let (Some(Arg::Value(indices)), true) = (node.args.get(INDICES).cloned(), is_ours) else {
            graph.regions[body].nodes.push(n);
            continue;
        };
        count += 1;
        let (path, old) = (node.path, node.outputs[0]);
        let mut r = Rewriter { module, graph, path };
        let float = r.tensor(old).dtype;
        let codes = weight.codes.clone();
        let (op, source): (Op, SharedSource) = match mode.bits {
            8 => (Op::EmbeddingByteDType, codes),
            bits => {
                let per_byte = 8 / bits as usize;
                let shape = [codes.rows(), codes.row_numel() / per_byte];
                let packed = Arc::new(PackedSource { codes, bits, shape });
                (if bits == 4 { Op::Embedding4BitDType } else { Op::Embedding2BitDType }, packed)
            }
        };
        let table = r.constant(&weight.name, source);
        let scales = r.constant(&format!("{}_scale", weight.name), weight.scales.clone());
        let (lo, hi) = weight.range;
        let v = r.one(op, args![table, scales, Arg::None, lo, hi, indices, float].into())?;
        graph.replace_uses(old, v);
    }
    Ok(count)
}

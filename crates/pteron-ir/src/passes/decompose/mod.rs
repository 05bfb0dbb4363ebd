//! Replaces operators that a target lacks by those it has.

mod attention;
mod layers;
mod quant;

use super::rewrite::{Emitter, Materializer};
use crate::arg::Arg;
use crate::entity::{NodeId, RegionId, ValueId};
use crate::graph::{Graph, Node};
use crate::infer::InferError;
use crate::module::Module;
use crate::op::Op;
use crate::pass::{Pass, PassContext, PassError, PassReport, Replaced};
use crate::print::{self, Names};

/// Replaces each operator that the target lacks:
///
/// | operator | becomes |
/// |---|---|
/// | `aten::rms_norm` | `x·x`, mean, `+ eps`, rsqrt, products; of other dtypes than f32 the norm is computed in f32, as ExecuTorch's Llama does |
/// | `aten::silu` | `x · sigmoid(x)` |
/// | `pteron::rope` | products and sums of halves or of neighbours, in f32 |
/// | `aten::scaled_dot_product_attention` | two batched products and a softmax, as PyTorch's math path: query and key are each scaled by the root of the scale, f16 and bf16 are computed in f32, rows that a mask hides wholly are zero |
/// | `aten::transpose_copy.int` | `aten::permute_copy` |
/// | `aten::reciprocal` | a quotient of 1 |
/// | `aten::add.Scalar` and those of `sub`, `mul`, `div` | the operator of tensors, with a constant of no dimensions |
/// | `dequantize_per_channel_group`, `torchao::dequantize_affine` | `dequantize_per_channel`, of a matrix of one row a block where blocks are no channels |
/// | `torchao::quantize_affine`, `fake_quant_per_channel` | `quantize_per_channel` likewise, and back to numbers |
/// | `choose_qparams_symmetric`, `choose_qparams_per_token`, `torchao::choose_qparams_affine` | minima, maxima, quotients: ExecuTorch's own `choose_qparams` follows another rule |
/// | `convert_element_type.no_fuse` | `aten::_to_copy` |
///
/// New nodes keep the module path; the report maps their debug handles to the old one. An operator that the target lacks
/// and that is not in this list is an error.
pub const DECOMPOSE: Pass =
    Pass { name: "decompose", about: "replaces operators that the target lacks by those it has", run };

type Emitted = Result<ValueId, Trouble>;

/// Why a node was not replaced.
enum Trouble {
    Infer(InferError),
    Unsupported(String),
}

impl From<InferError> for Trouble {
    fn from(e: InferError) -> Trouble {
        Trouble::Infer(e)
    }
}

fn unsupported<T>(reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Unsupported(reason.into()))
}

type Rule = fn(&mut Emitter<'_>, &Node) -> Emitted;

/// A rule for an operator of several results.
type SeveralRule = fn(&mut Emitter<'_>, &Node) -> quant::Two;

fn several(op: Op) -> Option<SeveralRule> {
    Some(match op {
        Op::ChooseQparamsSymmetric => quant::choose_qparams_symmetric,
        Op::ChooseQparamsPerToken => quant::choose_qparams_per_token,
        Op::ChooseQparamsAffine => quant::choose_qparams_affine,
        _ => return None,
    })
}

fn rule(op: Op) -> Option<Rule> {
    Some(match op {
        Op::RmsNorm => layers::rms_norm,
        Op::Silu => layers::silu,
        Op::Rope => layers::rope,
        Op::TransposeCopy => layers::transpose,
        Op::Reciprocal => layers::reciprocal,
        Op::AddScalar | Op::SubScalar | Op::MulScalar | Op::DivScalar => layers::scalar_operand,
        Op::Sdpa => attention::sdpa,
        Op::ConvertElementType => quant::convert_element_type,
        Op::DequantizePerChannelGroup => quant::dequantize_per_channel_group,
        Op::DequantizeAffine => quant::dequantize_affine,
        Op::QuantizeAffine => quant::quantize_affine,
        Op::FakeQuantPerChannel => quant::fake_quant_per_channel,
        _ => return None,
    })
}

fn run(m: &mut Module, cx: &PassContext<'_>) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let mut graphs = std::mem::take(&mut m.graphs);
    let result = graphs.iter_mut().try_for_each(|g| {
        // The numbers of the text that was given: values keep their ids, so that errors name them by these.
        let mut work = Work { names: Names::new(g), ints: Materializer::new(g), report: &mut report };
        region(m, g, g.body_id(), cx, &mut work)
    });
    m.graphs = graphs;
    result.map(|()| report)
}

struct Work<'a> {
    names: Names,
    ints: Materializer,
    report: &'a mut PassReport,
}

fn region(
    m: &mut Module,
    g: &mut Graph,
    r: RegionId,
    cx: &PassContext<'_>,
    work: &mut Work<'_>,
) -> Result<(), PassError> {
    let mark = work.ints.mark();
    for v in g.regions[r].params.clone() {
        work.ints.note(g, v);
    }
    for n in std::mem::take(&mut g.regions[r].nodes) {
        let op = g.nodes[n].op;
        if !cx.has(op) && !cx.is_exhausted() {
            replace(m, g, r, n, cx, work).map_err(|trouble| {
                let (graph, node) = (g.name.clone(), print::node_line(g, &work.names, n));
                match trouble {
                    Trouble::Infer(error) => PassError::Infer { graph, node, error },
                    Trouble::Unsupported(reason) => PassError::Unsupported { graph, node, reason },
                }
            })?;
        } else {
            g.regions[r].nodes.push(n);
        }
        for inner in g.nodes[n].regions.clone() {
            region(m, g, inner, cx, work)?;
        }
        for v in g.nodes[n].outputs.clone() {
            work.ints.note(g, v);
        }
    }
    work.ints.forget_to(mark);
    Ok(())
}

fn replace(
    m: &mut Module,
    g: &mut Graph,
    r: RegionId,
    n: NodeId,
    cx: &PassContext<'_>,
    work: &mut Work<'_>,
) -> Result<(), Trouble> {
    let node = g.nodes[n].clone();
    let (single, several) = (rule(node.op), several(node.op));
    if single.is_none() && several.is_none() {
        return unsupported(format!("the target has no {} and there is no rule to replace it", node.op));
    }
    if !cx.step() {
        g.regions[r].nodes.push(n);
        return Ok(());
    }
    let mut e = Emitter { module: m, g, ints: &mut work.ints, region: r, path: node.path, made: Vec::new() };
    let results: quant::Two = match (single, several) {
        (Some(rule), _) => rule(&mut e, &node).map(|v| std::iter::once(v).collect()),
        (None, Some(rule)) => rule(&mut e, &node),
        (None, None) => Ok(Default::default()),
    };
    let results = results?;
    for (&result, &old) in results.iter().zip(&node.outputs) {
        if !e.g.ty(result).may_equal(e.g.ty(old), &e.g.symbols) {
            return unsupported(format!("it would become {}, which is not its type", e.g.ty(result)));
        }
    }
    match results[..] {
        [result] => e.take_over(n, result)?,
        _ => e.take_over_all(n, &results)?,
    }
    for new in e.made {
        let op = g.nodes[new].op;
        if !cx.has(op) {
            return unsupported(format!("the target lacks {op}, of which {} would be made", node.op));
        }
        let (new, old) = (g.nodes[new].handle, node.handle);
        work.report.replaced.push(Replaced { graph: g.name.clone(), new, old });
    }
    work.report.changed += 1;
    Ok(())
}

/// Argument `i`, a tensor.
fn tensor(node: &Node, i: usize) -> Emitted {
    match node.args.get(i) {
        Some(Arg::Value(v)) => Ok(*v),
        _ => unsupported(format!("argument {i} is no tensor")),
    }
}

/// Argument `i`, a tensor or nothing.
fn optional_tensor(node: &Node, i: usize) -> Option<ValueId> {
    match node.args.get(i) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

fn bool_arg(node: &Node, i: usize, name: &str) -> Result<bool, Trouble> {
    match node.args.get(i) {
        Some(Arg::Bool(b)) => Ok(*b),
        _ => unsupported(format!("`{name}` is not a known bool")),
    }
}

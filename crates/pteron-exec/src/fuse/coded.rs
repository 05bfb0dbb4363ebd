//! Linear layers with packed weights: of floats, of codes, and of activations that are quantized on the way.
//!
//! Spellings of activations by codes: `choose_qparams`, `quantize`, `dequantize` by token, by tensor or by torchao's blocks;
//! XNNPACK's `convert_qd8`; codes from anywhere, dequantized. Of the parts that this file does not know, codes, scales and
//! zero points are taken as the graph computes them.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use pteron_kernels::quant::qparams::Mapping;
use pteron_tensor::DType;
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};
use crate::weights::weight_of;

/// A number of the graph, or a tensor of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Param {
    Number(f64),
    Value(ValueId),
}

/// How activations become codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// `choose_qparams_per_token_asymmetric`, `quantize_per_token`.
    PerToken,
    /// `choose_qparams`, `quantize_per_tensor`.
    PerTensor { range: (i64, i64), eps: f32 },
    /// `choose_qparams_affine`, `quantize_affine`, a block for each row.
    Affine { mapping: Mapping, range: (i64, i64), eps: f32 },
    /// `convert_qd8`.
    Qd8,
}

/// The activations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    Floats(ValueId),
    /// Floats that become codes.
    Dynamic {
        x: ValueId,
        rule: Rule,
    },
    /// Codes that are there.
    Codes {
        codes: ValueId,
        scales: Param,
        zero_points: Option<Param>,
    },
}

impl Source {
    /// The tensor whose rows are the activations.
    pub(crate) fn rows(&self) -> ValueId {
        match *self {
            Source::Floats(x) | Source::Dynamic { x, .. } => x,
            Source::Codes { codes, .. } => codes,
        }
    }

    pub(super) fn inputs(&self) -> SmallVec<[ValueId; 3]> {
        let value = |p: Option<Param>| match p {
            Some(Param::Value(v)) => Some(v),
            _ => None,
        };
        match *self {
            Source::Floats(x) | Source::Dynamic { x, .. } => smallvec![x],
            Source::Codes { codes, scales, zero_points } => {
                [Some(codes), value(Some(scales)), value(zero_points)].into_iter().flatten().collect()
            }
        }
    }
}

/// One layer: `x·weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CodedLayer {
    /// Number of the weight among what was made when the session was.
    pub(crate) item: usize,
    /// `[N]`.
    pub(crate) bias: Option<ValueId>,
}

/// A layer with its node.
#[derive(Clone, Copy)]
struct Packed {
    node: NodeId,
    x: ValueId,
    /// Columns of the weight.
    width: i64,
    layer: CodedLayer,
    out: ValueId,
}

/// Codes as they are dequantized.
struct Dequantized {
    node: NodeId,
    codes: ValueId,
    scales: Param,
    zero_points: Option<Param>,
}

impl Finder<'_> {
    /// The layers of which `n` is the first, the most of them together first. `item` is the number of a node's packed weight.
    pub(super) fn coded(&self, n: NodeId, item: &dyn Fn(NodeId) -> Option<usize>) -> SmallVec<[Found; 2]> {
        let mut found = SmallVec::new();
        let Some(first) = self.packed(n, item) else { return found };
        let later = |m: NodeId| self.position[m] >= self.position[n] && self.together(n, m);
        let layers = |xs: &[ValueId]| {
            let users = xs.iter().flat_map(|&x| self.users(x).iter().map(move |&m| (x, m)));
            let mut list: SmallVec<[Packed; 3]> = users
                .filter(|&(_, m)| later(m))
                .filter_map(|(x, m)| self.packed(m, item).filter(|l| l.x == x))
                .collect();
            list.sort_by_key(|l| self.position[l.node]);
            list.dedup_by_key(|l| l.node);
            list
        };
        let group = |more: &[NodeId], list: &[Packed], x: Source| -> Found {
            (
                list.iter().map(|l| l.node).chain(more.iter().copied()).collect(),
                Fused::Coded { x, layers: list.iter().map(|l| l.layer).collect(), before: None },
                list.iter().map(|l| l.out).collect(),
            )
        };
        if let Some(d) = self.dequantized(first.x, first.width) {
            let (views, xs) = self.views_of(d.node);
            let all = layers(&xs);
            let source = Source::Codes { codes: d.codes, scales: d.scales, zero_points: d.zero_points };
            let mut way: SmallVec<[NodeId; 4]> = views;
            way.push(d.node);
            if let Some((x, rule, nodes)) = self.chosen(&d) {
                let whole: SmallVec<[NodeId; 8]> = way.iter().copied().chain(nodes).collect();
                found.push(group(&whole, &all, Source::Dynamic { x, rule }));
            }
            found.push(group(&way, &all, source));
            found.push(group(&[], &all, source));
        } else {
            found.push(group(&[], &layers(&[first.x]), Source::Floats(first.x)));
        }
        found.push(group(&[], &[first], Source::Floats(first.x)));
        found
    }

    fn packed(&self, n: NodeId, item: &dyn Fn(NodeId) -> Option<usize>) -> Option<Packed> {
        let item = item(n)?;
        let width = i64::try_from(weight_of(self.graph, n)?.0.k).ok()?;
        let (x, bias) = match self.op(n) {
            Op::Linear => (self.value(n, 0)?, self.value(n, 2)),
            Op::Mm => (self.value(n, 0)?, None),
            Op::AddMm => {
                let bias = self.value(n, 0)?;
                let plain = self.number(n, 3).unwrap_or(1.0) == 1.0 && self.number(n, 4).unwrap_or(1.0) == 1.0;
                if !plain || self.rank(bias)? != 1 || self.last_dim(bias) != self.last_dim(self.out(n)?) {
                    return None;
                }
                (self.value(n, 1)?, Some(bias))
            }
            _ => return None,
        };
        let out = self.out(n)?;
        let floats = [Some(x), Some(out), bias].into_iter().flatten();
        let fits = floats.map(|v| self.dtype(v)).all(|d| d.is_some_and(DType::is_float));
        (fits && self.dtype(x) != Some(DType::F64)).then_some(Packed {
            node: n,
            x,
            width,
            layer: CodedLayer { item, bias },
            out,
        })
    }

    /// What `v`, rows of `width` elements, dequantizes, views of the same rows in between. The last dimension of a delegate's
    /// argument need not be known: the layer that reads it has rows of `width` or fails.
    fn dequantized(&self, v: ValueId, width: i64) -> Option<Dequantized> {
        let fits = |v: ValueId| self.rank(v).is_some_and(|r| r > 0) && self.last_dim(v).is_none_or(|d| d == width);
        let mut at = v;
        let node = loop {
            let n = self.producer(at)?;
            if !self.op(n).is_view() {
                break n;
            }
            let same = |x: &ValueId| self.last_dim(*x) == Some(width) && self.last_dim(at) == Some(width);
            at = self.value(n, 0).filter(same)?;
        };
        let value = |i: usize| self.value(node, i).map(Param::Value);
        let number = |i: usize| self.number(node, i).map(Param::Number);
        let codes = self.value(node, 0)?;
        let (scales, zero_points) = match self.op(node) {
            Op::DequantizePerToken | Op::DequantizePerTensorTensor | Op::DequantizePerTensorTensor2 => {
                (value(1)?, Some(value(2)?))
            }
            Op::DequantizePerTensor => (number(1)?, Some(number(2)?)),
            Op::DequantizePerChannel => {
                let rows = self.rank(codes)? == 2 && self.number(node, 3) == Some(0.0);
                (value(1).filter(|_| rows)?, value(2))
            }
            Op::DequantizeAffine => (value(2).filter(|_| self.is_a_row(node, 1, codes))?, value(3)),
            _ => return None,
        };
        let eight = matches!(self.dtype(codes)?, DType::I8 | DType::U8);
        (eight && fits(v) && fits(codes)).then_some(Dequantized { node, codes, scales, zero_points })
    }

    /// Block sizes that make each row of the last dimension a block.
    fn is_a_row(&self, n: NodeId, arg: usize, x: ValueId) -> bool {
        let Some(block) = self.ints(n, arg) else { return false };
        let ones = block.split_last().is_some_and(|(_, lead)| lead.iter().all(|&b| b == 1));
        ones && Some(block.len()) == self.rank(x) && block.last().copied() == self.last_dim(x)
    }

    /// The values that are rows of the result of `d`: itself and its views, with the nodes of these.
    fn views_of(&self, d: NodeId) -> (SmallVec<[NodeId; 4]>, SmallVec<[ValueId; 4]>) {
        let mut nodes = SmallVec::new();
        let mut values: SmallVec<[ValueId; 4]> = self.out(d).into_iter().collect();
        let mut i = 0;
        while let Some(&v) = values.get(i) {
            for &n in self.users(v) {
                if self.op(n).is_view()
                    && self.value(n, 0) == Some(v)
                    && let Some(out) = self.out(n)
                    && self.last_dim(out).is_some()
                    && self.last_dim(out) == self.last_dim(v)
                    && !values.contains(&out)
                {
                    nodes.push(n);
                    values.push(out);
                }
            }
            i += 1;
        }
        (nodes, values)
    }

    /// The floats whose codes are dequantized, how they became codes, and the nodes that made them.
    fn chosen(&self, d: &Dequantized) -> Option<(ValueId, Rule, SmallVec<[NodeId; 2]>)> {
        let quantize = self.producer(d.codes)?;
        let x = self.value(quantize, 0)?;
        let same = |scale: ValueId, zero: ValueId| {
            d.scales == Param::Value(scale) && d.zero_points == Some(Param::Value(zero))
        };
        let outputs = |n: NodeId| self.graph.nodes[n].outputs.as_slice();
        let int = |n: NodeId, i: usize| match self.arg(n, i) {
            Some(Arg::Int(v)) => Some(*v),
            Some(Arg::Float(v)) if v.fract() == 0.0 => Some(*v as i64),
            _ => None,
        };
        let range = |n: NodeId, i: usize| Some((int(n, i)?, int(n, i + 1)?));
        if self.dtype(x) != Some(DType::F32) {
            return None;
        }
        if self.op(quantize) == Op::ConvertQd8 {
            let &[_, scale, zero] = outputs(quantize) else { return None };
            let rows = int(quantize, 1).unwrap_or(1) == 1;
            return (rows && same(scale, zero)).then(|| (x, Rule::Qd8, smallvec![quantize]));
        }
        let (scale_at, range_at) = match self.op(quantize) {
            Op::QuantizePerToken | Op::QuantizePerTensorTensor => (1, 3),
            Op::QuantizeAffine => (2, 5),
            _ => return None,
        };
        let (scale, zero) = (self.value(quantize, scale_at)?, self.value(quantize, scale_at + 1)?);
        let choose = self.producer(scale)?;
        if self.value(choose, 0) != Some(x) || outputs(choose) != [scale, zero] || !same(scale, zero) {
            return None;
        }
        let range_of_codes = range(quantize, range_at)?;
        let eps = |i: usize| self.number(choose, i).map(|e| e as f32);
        let rule = match (self.op(choose), self.op(quantize)) {
            (Op::ChooseQparamsPerTokenAsymmetric, Op::QuantizePerToken) if range_of_codes == (-128, 127) => {
                Rule::PerToken
            }
            (Op::ChooseQparams, Op::QuantizePerTensorTensor) if range(choose, 1)? == range_of_codes => {
                Rule::PerTensor { range: range_of_codes, eps: eps(3)? }
            }
            (Op::ChooseQparamsAffine, Op::QuantizeAffine) => {
                let mapping = match self.arg(choose, 1)? {
                    Arg::Str(s) if &**s == "SYMMETRIC" => Mapping::Symmetric,
                    Arg::Str(s) if &**s == "SYMMETRIC_NO_CLIPPING_ERR" => Mapping::SymmetricNoClippingError,
                    Arg::Str(s) if &**s == "ASYMMETRIC" => Mapping::Asymmetric,
                    _ => return None,
                };
                let rows = self.is_a_row(choose, 2, x) && self.is_a_row(quantize, 1, x);
                // Zero points that are floats need not be whole.
                let whole = self.dtype(zero).is_some_and(|d| !d.is_float()) && self.dtype(scale) == Some(DType::F32);
                if !rows || !whole || range(choose, 4)? != range_of_codes {
                    return None;
                }
                Rule::Affine { mapping, range: range_of_codes, eps: eps(6).unwrap_or(f32::MIN_POSITIVE) }
            }
            _ => return None,
        };
        Some((x, rule, smallvec![quantize, choose]))
    }
}

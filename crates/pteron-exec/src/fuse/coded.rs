//! Linear layers with packed weights: of floats, of codes, and of activations that are quantized on the way.
//!
//! Spellings of activations by codes: `choose_qparams`, `quantize`, `dequantize` by token, by tensor or by torchao's blocks;
//! XNNPACK's `convert_qd8`; `choose_qparams_affine` in its parts; codes from anywhere, dequantized. Of what this file does not
//! know, codes, scales and zero points are taken as the graph computes them.

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
    /// `choose_qparams_affine` in its parts, `quantize_per_channel` of rows, as ExecuTorch's kernels spell it. The numbers in
    /// between are constants: 0, the steps of the range, and its least code.
    Parts { numbers: [ValueId; 3], range: (i64, i64), eps: f32, double: bool },
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

/// The floats that became codes, how, and the nodes that made them so.
type Chosen = (ValueId, Rule, SmallVec<[NodeId; 16]>);

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
                let whole: SmallVec<[NodeId; 16]> = way.iter().copied().chain(nodes).collect();
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
    fn chosen(&self, d: &Dequantized) -> Option<Chosen> {
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
        if self.op(quantize) == Op::QuantizePerChannel {
            return self.chosen_in_parts(d, quantize);
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

    /// `v` before conversions to element types that hold all of its numbers, with their nodes.
    fn before_copies(&self, v: ValueId, holds: &dyn Fn(DType) -> bool) -> (ValueId, SmallVec<[NodeId; 2]>) {
        let (mut at, mut nodes) = (v, SmallVec::new());
        while let Some(n) = self.made_by(at, Op::ToCopy).filter(|_| self.dtype(at).is_some_and(holds))
            && let Some(x) = self.value(n, 0)
        {
            nodes.push(n);
            at = x;
        }
        (at, nodes)
    }

    /// The node of `a`, where `a` and `b` are two views of one tensor as rows of the same length.
    fn same_view(&self, a: ValueId, b: ValueId) -> Option<NodeId> {
        let view = |v: ValueId| self.producer(v).filter(|&n| self.op(n).is_view());
        let (m, n) = (view(a)?, view(b)?);
        let same = m != n && self.value(m, 0) == self.value(n, 0) && self.last_dim(a).is_some();
        (same && self.last_dim(a) == self.last_dim(b)).then_some(m)
    }

    /// [`Finder::chosen`] where `quantize`, a `quantize_per_channel`, has for each row the scale and the zero point that the
    /// parts of `choose_qparams_affine` give.
    fn chosen_in_parts(&self, d: &Dequantized, quantize: NodeId) -> Option<Chosen> {
        let int = |n: NodeId, i: usize| self.number(n, i).filter(|v| v.fract() == 0.0).map(|v| v as i64);
        let (Param::Value(scale_of_d), Some(Param::Value(zero_of_d))) = (d.scales, d.zero_points) else { return None };
        let range = (int(quantize, 4)?, int(quantize, 5)?);
        let (rows, views) = self.before_views(self.value(quantize, 0)?);
        let mut nodes: SmallVec<[NodeId; 16]> = smallvec![quantize];
        nodes.extend(views);
        let mut base = |v: ValueId, holds: &dyn Fn(DType) -> bool| {
            let (base, copies) = self.before_copies(v, holds);
            nodes.extend(copies);
            base
        };
        let wide = |d: DType| matches!(d, DType::F32 | DType::F64);
        // Zero points are codes.
        let whole = |d: DType| match d {
            DType::I8 => range.0 >= -128 && range.1 <= 127,
            DType::U8 => range.0 >= 0 && range.1 <= 255,
            other => matches!(other, DType::I16 | DType::I32 | DType::I64),
        };
        let double = self.dtype(self.value(quantize, 1)?) == Some(DType::F64);
        let (scale, zero) = (base(self.value(quantize, 1)?, &wide), base(self.value(quantize, 2)?, &whole));
        if scale != base(scale_of_d, &wide)
            || zero != base(zero_of_d, &whole)
            || int(quantize, 3) != Some(0)
            || self.rank(d.codes)? != 2
        {
            return None;
        }
        // scale = clamp((high - low)/steps, eps); zero point = clamp(first - round(low/scale), range).
        let (at_least, bound) = (self.made_by(scale, Op::Clamp)?, self.made_by(zero, Op::Clamp)?);
        let over = self.made_by(self.value(at_least, 0)?, Op::Div)?;
        let (span, steps) = self.two(over)?;
        let span = self.made_by(span, Op::Sub)?;
        let (high, low) = self.two(span)?;
        let minus = self.made_by(self.value(bound, 0)?, Op::Sub)?;
        let (first, rounded) = self.two(minus)?;
        let round = self.made_by(rounded, Op::Round)?;
        let part = self.made_by(self.value(round, 0)?, Op::Div)?;
        let (most, least) = (self.made_by(high, Op::Maximum)?, self.made_by(low, Op::Minimum)?);
        let ((above, zero_above), (below, zero_below)) = (self.two(most)?, self.two(least)?);
        let (amax, amin) = (self.made_by(above, Op::Amax)?, self.made_by(below, Op::Amin)?);
        nodes.extend([at_least, bound, over, span, minus, round, part, most, least, amax, amin]);
        for n in [amax, amin] {
            let (x, mut views) = self.before_views(self.value(n, 0)?);
            // Heads that were joined: by a view of their own.
            let again = self.same_view(x, rows);
            views.extend(again);
            let of_rows =
                (x == rows || again.is_some()) && self.rank(self.value(n, 0)?)? == 2 && self.is_last_dim(n, 1, 2);
            let flat = matches!(self.arg(n, 2), None | Some(Arg::None | Arg::Bool(false)));
            if !of_rows || !flat {
                return None;
            }
            nodes.extend(views);
        }
        let open = matches!(self.arg(at_least, 2), None | Some(Arg::None));
        let numbers = [zero_above, steps, first];
        let fits = self.two(part)? == (low, scale)
            && zero_above == zero_below
            && self.alpha_is_one(span)
            && self.alpha_is_one(minus)
            && open
            && (int(bound, 1)?, int(bound, 2)?) == range
            && numbers
                .iter()
                .all(|&v| self.is_const(v) && self.dtype(v) == Some(DType::F32) && self.rank(v) == Some(0))
            && [scale, zero, rows].iter().all(|&v| self.dtype(v) == Some(DType::F32));
        let eps = self.number(at_least, 1)? as f32;
        nodes.sort_unstable();
        nodes.dedup();
        fits.then_some((rows, Rule::Parts { numbers, range, eps, double }, nodes))
    }
}

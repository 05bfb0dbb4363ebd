//! The operators of each kind of node.

use pteron_ir::{Arg, Op, SymInt, Type, ValueId, args};
use smallvec::SmallVec;

use super::Lifter;
use crate::error::XnnpackError;
use crate::payload::{BinaryKind, Node, NodeKind, OutputRange, UnaryKind, ValueIndex, flags};

type Result<T> = std::result::Result<T, XnnpackError>;

fn ints(list: &[u32]) -> Arg {
    let list: SmallVec<[i64; 6]> = list.iter().map(|&d| i64::from(d)).collect();
    Arg::ints(&list)
}

impl Lifter<'_, '_> {
    pub(super) fn node(&mut self, at: usize, node: &Node) -> Result<()> {
        let (output, value) = match &node.kind {
            NodeKind::Unary { kind, input, output } => (*output, self.unary(at, node, *kind, *input)?),
            NodeKind::Binary { kind, a, b, output } => (*output, self.binary(at, node, *kind, *a, *b)?),
            NodeKind::FullyConnected { input, filter, bias, output } => {
                (*output, self.fully_connected(at, node, *input, *filter, *bias)?)
            }
            NodeKind::StaticTranspose { perm, input, output } => {
                let x = self.get(at, *input)?;
                (*output, self.call(at, node, Op::PermuteCopy, args![x, ints(perm)])?)
            }
            NodeKind::StaticReshape { new_shape, input, output } => {
                let x = self.get(at, *input)?;
                let sizes: SmallVec<[i64; 6]> =
                    new_shape.iter().map(|&d| if d == 0 { -1 } else { i64::from(d) }).collect();
                (*output, self.call(at, node, Op::ViewCopy, args![x, Arg::ints(&sizes)])?)
            }
            NodeKind::StaticSlice { offsets, sizes, input, output } => {
                (*output, self.slice(at, node, offsets, sizes, *input)?)
            }
            NodeKind::Concatenate { axis, inputs, output } => {
                let list = inputs.iter().map(|&i| self.get(at, i)).collect::<Result<Vec<_>>>()?;
                (*output, self.call(at, node, Op::Cat, args![Arg::tensors(&list), i64::from(*axis)])?)
            }
            NodeKind::ScaledDotProductAttention { query, key, value, scale, mask, output } => {
                let q = self.get(at, *query)?;
                let (k, v) = (self.get(at, *key)?, self.get(at, *value)?);
                let (s, m) = (self.get(at, *scale)?, self.get(at, *mask)?);
                let q = self.call(at, node, Op::Mul, args![q, s])?;
                // The query carries the scale already.
                (*output, self.call(at, node, Op::Sdpa, args![q, k, v, m, 0.0, false, 1.0, false])?)
            }
            NodeKind::LeakyRelu { negative_slope, input, output } => {
                let x = self.get(at, *input)?;
                let scaled = self.call(at, node, Op::MulScalar, args![x, f64::from(*negative_slope)])?;
                (*output, self.where_negative(at, node, x, scaled)?)
            }
            NodeKind::Elu { .. }
            | NodeKind::Conv(_)
            | NodeKind::Pooling(_)
            | NodeKind::ArgMaxPooling2d { .. }
            | NodeKind::StaticConstantPad { .. }
            | NodeKind::StaticResizeBilinear2d { .. } => {
                return Err(XnnpackError::unsupported(format!(
                    "XNNPACK payloads with {} nodes are not supported yet (node {at})",
                    node.kind.name()
                )));
            }
        };
        let value = self.limited(at, node, value)?;
        self.put(at, node, output, value)
    }

    /// `fallback` where `x` is negative, else `x`.
    fn where_negative(&mut self, at: usize, node: &Node, x: ValueId, fallback: ValueId) -> Result<ValueId> {
        let negative = self.call(at, node, Op::LtScalar, args![x, 0.0])?;
        self.call(at, node, Op::Where, args![negative, fallback, x])
    }

    fn unary(&mut self, at: usize, node: &Node, kind: UnaryKind, input: ValueIndex) -> Result<ValueId> {
        let x = self.get(at, input)?;
        let op = match kind {
            UnaryKind::Sigmoid => Op::Sigmoid,
            UnaryKind::Floor => Op::Floor,
            UnaryKind::SquareRoot => Op::Sqrt,
            UnaryKind::Ceiling => Op::Ceil,
            UnaryKind::Negate => Op::Neg,
            UnaryKind::Abs => Op::Abs,
            UnaryKind::ReciprocalSquareRoot => Op::Rsqrt,
            UnaryKind::Log => Op::Log,
            UnaryKind::Gelu => Op::Gelu,
            UnaryKind::Tanh => Op::Tanh,
            UnaryKind::Exp => Op::Exp,
            UnaryKind::Sin => Op::Sin,
            UnaryKind::Cos => Op::Cos,
            // The value that is written says what it is converted to.
            UnaryKind::Convert => return Ok(x),
            UnaryKind::Copy => Op::Clone,
            UnaryKind::Softmax => return self.call(at, node, Op::Softmax, args![x, -1i64, false]),
            UnaryKind::Square => return self.call(at, node, Op::Mul, args![x, x]),
            UnaryKind::Clamp => {
                let Some(range) = node.range else {
                    return Err(XnnpackError::malformed(
                        format!("node {at} Clamp, field output_min_max"),
                        "nothing",
                        "a range",
                    ));
                };
                return self.clamp(at, node, x, range);
            }
            UnaryKind::Hardswish => {
                let shifted = self.call(at, node, Op::AddScalar, args![x, 3.0])?;
                let gate = self.call(at, node, Op::Clamp, args![shifted, 0.0, 6.0])?;
                let product = self.call(at, node, Op::Mul, args![x, gate])?;
                return self.call(at, node, Op::DivScalar, args![product, 6.0]);
            }
            UnaryKind::GlobalAvgPooling2d => {
                if self.b.tensor_ty(x).rank() != 4 {
                    let place = format!("node {at} GlobalAvgPooling2d");
                    return Err(XnnpackError::malformed(place, self.b.tensor_ty(x), "an NHWC tensor"));
                }
                let keep = node.flags & flags::KEEP_DIMS != 0;
                return self.call(at, node, Op::Mean, args![x, Arg::ints(&[1, 2]), keep]);
            }
        };
        self.call(at, node, op, args![x])
    }

    fn binary(&mut self, at: usize, node: &Node, kind: BinaryKind, a: ValueIndex, b: ValueIndex) -> Result<ValueId> {
        let (a, b) = (self.get(at, a)?, self.get(at, b)?);
        let op = match kind {
            BinaryKind::Add => Op::Add,
            BinaryKind::Div => Op::Div,
            BinaryKind::Minimum => Op::Minimum,
            BinaryKind::Multiply => Op::Mul,
            BinaryKind::Subtract => Op::Sub,
            BinaryKind::Maximum => Op::Maximum,
            BinaryKind::PRelu => {
                let scaled = self.call(at, node, Op::Mul, args![a, b])?;
                return self.where_negative(at, node, a, scaled);
            }
            BinaryKind::BatchMatrixMultiply => return self.matrix_multiply(at, node, a, b),
        };
        self.call(at, node, op, args![a, b])
    }

    fn matrix_multiply(&mut self, at: usize, node: &Node, mut a: ValueId, mut b: ValueId) -> Result<ValueId> {
        if node.flags & flags::TRANSPOSE_A != 0 {
            a = self.call(at, node, Op::TransposeCopy, args![a, -1i64, -2i64])?;
        }
        if node.flags & flags::TRANSPOSE_WEIGHTS != 0 {
            b = self.call(at, node, Op::TransposeCopy, args![b, -1i64, -2i64])?;
        }
        let op = match (self.b.tensor_ty(a).rank(), self.b.tensor_ty(b).rank()) {
            (2, 2) => Op::Mm,
            (3, 3) => Op::Bmm,
            (x, y) => {
                return Err(XnnpackError::unsupported(format!(
                    "XNNPACK batch matrix multiplies of ranks {x} and {y} are not supported yet (node {at}): both 2 or \
                     both 3 are"
                )));
            }
        };
        self.call(at, node, op, args![a, b])
    }

    fn fully_connected(
        &mut self,
        at: usize,
        node: &Node,
        input: ValueIndex,
        filter: ValueIndex,
        bias: Option<ValueIndex>,
    ) -> Result<ValueId> {
        let (x, w) = (self.get(at, input)?, self.get(at, filter)?);
        let bias = bias.map(|b| self.get(at, b)).transpose()?;
        if node.flags & flags::RESHAPE_2D != 0 {
            return Err(XnnpackError::unsupported(format!(
                "XNNPACK fully connected nodes that flatten their input are not supported yet (node {at})"
            )));
        }
        if node.flags & flags::TRANSPOSE_WEIGHTS == 0 {
            return self.call(at, node, Op::Linear, args![x, w, bias]);
        }
        if self.b.tensor_ty(x).rank() == 2 {
            // The filter is used as it lies.
            return match bias {
                None => self.call(at, node, Op::Mm, args![x, w]),
                Some(bias) => self.call(at, node, Op::AddMm, args![bias, x, w]),
            };
        }
        let w = self.call(at, node, Op::TransposeCopy, args![w, 0i64, 1i64])?;
        self.call(at, node, Op::Linear, args![x, w, bias])
    }

    fn slice(&mut self, at: usize, node: &Node, offsets: &[u32], sizes: &[u32], input: ValueIndex) -> Result<ValueId> {
        let mut x = self.get(at, input)?;
        let input = self.b.tensor_ty(x);
        if input.rank() != offsets.len() {
            let place = format!("node {at} StaticSlice, field offsets");
            let expected = format!("{} for {input}", input.rank());
            return Err(XnnpackError::malformed(place, format!("{} elements", offsets.len()), expected));
        }
        for (axis, (&offset, &size)) in offsets.iter().zip(sizes).enumerate() {
            let max = input.dims.get(axis).map_or(0, |d| d.max(self.b.symbols()));
            let end = i64::from(offset) + i64::from(size);
            if end > max || (size == 0 && offset != 0) {
                let place = format!("node {at} StaticSlice, dimension {axis}");
                let found = format!("{size} elements from {offset}");
                return Err(XnnpackError::malformed(place, found, format!("a part of {max} elements")));
            }
            let whole = size == 0 || input.dims.get(axis) == Some(&SymInt::Const(i64::from(size)));
            if whole {
                continue;
            }
            let axis_arg = i64::try_from(axis).unwrap_or(i64::MAX);
            x = self.call(at, node, Op::SliceCopy, args![x, axis_arg, i64::from(offset), end])?;
            // The operator would cut what lies outside a smaller input; XNNPACK gives the size or fails.
            if let Type::Tensor(t) = &mut self.b.graph_mut().values[x].ty
                && let Some(d) = t.dims.get_mut(axis)
            {
                *d = SymInt::Const(i64::from(size));
            }
        }
        if self.values.contains(&Some(x)) {
            return self.call(at, node, Op::Clone, args![x]);
        }
        Ok(x)
    }

    fn clamp(&mut self, at: usize, node: &Node, x: ValueId, range: OutputRange) -> Result<ValueId> {
        let bound = |b: f32| if b.is_finite() { Arg::Float(f64::from(b)) } else { Arg::None };
        match (range.min, range.max) {
            (f32::INFINITY, _) | (_, f32::NEG_INFINITY) => Err(XnnpackError::malformed(
                format!("node {at} {}, field output_min_max", node.kind.name()),
                format!("{} to {}", range.min, range.max),
                "a range with finite numbers in it",
            )),
            (f32::NEG_INFINITY, f32::INFINITY) => self.call(at, node, Op::Clone, args![x]),
            (0.0, f32::INFINITY) => self.call(at, node, Op::Relu, args![x]),
            (min, max) => self.call(at, node, Op::Clamp, [x.into(), bound(min), bound(max)]),
        }
    }

    /// The output limited to the node's range, by the kinds that ExecuTorch's backend passes one to.
    fn limited(&mut self, at: usize, node: &Node, value: ValueId) -> Result<ValueId> {
        let Some(range) = node.range else { return Ok(value) };
        let everything = range.min == f32::NEG_INFINITY && range.max == f32::INFINITY;
        match &node.kind {
            NodeKind::Unary { kind: UnaryKind::Clamp, .. } => Ok(value),
            _ if everything => Ok(value),
            NodeKind::FullyConnected { .. }
            | NodeKind::Unary { kind: UnaryKind::GlobalAvgPooling2d, .. }
            | NodeKind::Binary {
                kind: BinaryKind::Add | BinaryKind::Div | BinaryKind::Multiply | BinaryKind::Subtract,
                ..
            } => self.clamp(at, node, value, range),
            kind => Err(XnnpackError::malformed(
                format!("node {at} {}, field output_min_max", kind.name()),
                format!("{} to {}", range.min, range.max),
                "nothing: nodes of this kind have no output range",
            )),
        }
    }
}

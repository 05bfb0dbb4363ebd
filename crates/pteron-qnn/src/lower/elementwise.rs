//! Operators on single elements, reductions, and tensors that are computed from sizes.

use pteron_ir::{Arg, Node, Op, ValueId};
use pteron_tensor::DType;

use super::params::{self, Act};
use super::{Builder, Res, plain_type, scalar, u32_of};
use crate::graph::Param;
use crate::graph::{Data, DataType, Encoding, ParamValue, Scalar, TensorKind};

pub(super) fn is(op: Op) -> bool {
    unary(op).is_some()
        || binary(op).is_some()
        || with_scalar(op).is_some()
        || reduction(op).is_some()
        || matches!(
            op,
            Op::Where | Op::Clamp | Op::ToCopy | Op::Clone | Op::Softmax | Op::Full | Op::ScalarTensor | Op::Arange
        )
}

fn unary(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::Sigmoid => "Sigmoid",
        Op::Tanh => "Tanh",
        Op::Gelu => "Gelu",
        Op::Relu => "Relu",
        Op::Exp => "ElementWiseExp",
        Op::Log => "ElementWiseLog",
        Op::Neg => "ElementWiseNeg",
        Op::Abs => "ElementWiseAbs",
        Op::Sqrt => "ElementWiseSquareRoot",
        Op::Rsqrt => "ElementWiseRsqrt",
        Op::Ceil => "ElementWiseCeil",
        Op::Floor => "ElementWiseFloor",
        Op::Round => "ElementWiseRound",
        Op::Sin => "ElementWiseSin",
        Op::Cos => "ElementWiseCos",
        Op::LogicalNot => "ElementWiseNot",
        _ => return None,
    })
}

fn binary(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::Add => "ElementWiseAdd",
        Op::Sub => "ElementWiseSubtract",
        Op::Mul => "ElementWiseMultiply",
        Op::Div => "ElementWiseDivide",
        Op::Maximum => "ElementWiseMaximum",
        Op::Minimum => "ElementWiseMinimum",
        Op::PowTensor => "ElementWisePower",
        Op::Eq => "ElementWiseEqual",
        Op::Ne => "ElementWiseNotEqual",
        Op::Lt => "ElementWiseLess",
        Op::Le => "ElementWiseLessEqual",
        Op::Gt => "ElementWiseGreater",
        Op::Ge => "ElementWiseGreaterEqual",
        Op::LogicalAnd => "ElementWiseAnd",
        Op::LogicalOr => "ElementWiseOr",
        Op::LogicalXor => "ElementWiseXor",
        _ => return None,
    })
}

/// The operator of two tensors that an operator of a tensor and a number is.
fn with_scalar(op: Op) -> Option<&'static str> {
    binary(match op {
        Op::AddScalar => Op::Add,
        Op::SubScalar => Op::Sub,
        Op::MulScalar => Op::Mul,
        Op::DivScalar => Op::Div,
        Op::PowScalar => Op::PowTensor,
        Op::EqScalar => Op::Eq,
        Op::NeScalar => Op::Ne,
        Op::LtScalar => Op::Lt,
        Op::LeScalar => Op::Le,
        Op::GtScalar => Op::Gt,
        Op::GeScalar => Op::Ge,
        _ => return None,
    })
}

fn reduction(op: Op) -> Option<&'static str> {
    Some(match op {
        Op::Mean => "ReduceMean",
        Op::Sum => "ReduceSum",
        Op::Amax => "ReduceMax",
        Op::Amin => "ReduceMin",
        _ => return None,
    })
}

impl Builder<'_> {
    pub(super) fn elementwise(&mut self, node: &Node) -> Res<()> {
        let out = *node.outputs.first().ok_or("it has no output")?;
        if let Some(op) = unary(node.op) {
            let x = self.arg(node, 0)?;
            let y = self.output(out)?;
            self.op(op, Vec::new(), vec![x], vec![y]);
            return Ok(());
        }
        if let Some(op) = binary(node.op) {
            self.unscaled(node, 2)?;
            let inputs = vec![self.arg(node, 0)?, self.arg(node, 1)?];
            let y = self.output(out)?;
            self.op(op, Vec::new(), inputs, vec![y]);
            return Ok(());
        }
        if let Some(op) = with_scalar(node.op) {
            self.unscaled(node, 2)?;
            let x = self.arg(node, 0)?;
            let value = params::number(node, 1).ok_or("its number is not known before the graph runs")?;
            let number = self.number_like(x, value)?;
            let y = self.output(out)?;
            self.op(op, Vec::new(), vec![x, number], vec![y]);
            return Ok(());
        }
        if let Some(op) = reduction(node.op) {
            return self.reduction(op, node, out);
        }
        match node.op {
            Op::Where => {
                let inputs = vec![self.arg(node, 0)?, self.arg(node, 1)?, self.arg(node, 2)?];
                let y = self.output(out)?;
                self.op("ElementWiseSelect", Vec::new(), inputs, vec![y]);
            }
            Op::Clamp => {
                let x = self.arg(node, 0)?;
                let bound = |i: usize, default: f32| params::number(node, i).map_or(default, |b| b as f32);
                let (low, high) = (bound(1, f32::MIN), bound(2, f32::MAX));
                let y = self.output(out)?;
                let bounds = vec![scalar("min_value", Scalar::F32(low)), scalar("max_value", Scalar::F32(high))];
                self.op("ReluMinMax", bounds, vec![x], vec![y]);
            }
            Op::Softmax => {
                let x = self.arg(node, 0)?;
                let axis = self.axis(node, 0, params::int(node, 1))?;
                let y = self.output(out)?;
                let settings = vec![scalar("axis", Scalar::U32(u32_of(axis))), scalar("beta", Scalar::F32(1.0))];
                self.op("Softmax", settings, vec![x], vec![y]);
            }
            Op::ToCopy | Op::Clone => {
                let x = self.arg(node, 0)?;
                let y = self.output(out)?;
                self.conversion(x, y);
            }
            _ => return self.computed(node, out),
        }
        Ok(())
    }

    /// From one type or encoding to another.
    fn conversion(&mut self, x: usize, y: usize) {
        let (from, to) = (&self.out.tensors[x], &self.out.tensors[y]);
        let op = match (from.dtype.is_fixed(), to.dtype.is_fixed()) {
            _ if from.dtype == to.dtype && from.encoding == to.encoding => "Reshape",
            (true, true) => "Convert",
            (false, true) => "Quantize",
            (true, false) => "Dequantize",
            (false, false) => "Cast",
        };
        self.op(op, Vec::new(), vec![x], vec![y]);
    }

    /// QNN adds and subtracts without a factor.
    fn unscaled(&self, node: &Node, at: usize) -> Res<()> {
        let takes = matches!(node.op, Op::Add | Op::Sub | Op::AddScalar | Op::SubScalar);
        match params::number(node, at) {
            Some(alpha) if takes && alpha != 1.0 => Err(format!("found alpha {alpha}, expected 1")),
            _ => Ok(()),
        }
    }

    /// A constant of one element that can stand beside tensor `like`.
    fn number_like(&mut self, like: usize, value: f64) -> Res<usize> {
        let dtype = self.out.tensors[like].dtype;
        let base = format!("{}_number", self.path);
        let (encoding, bytes) = match dtype {
            DataType::UFixed8 | DataType::UFixed16 => {
                let hi = if dtype == DataType::UFixed8 { 255 } else { 65535 };
                let act = Act::of_constant(dtype, hi, value);
                (act.encoding(), act.bytes([act.code(value)]))
            }
            DataType::SFixed8 | DataType::SFixed16 => {
                let hi = if dtype == DataType::SFixed8 { 127 } else { 32767 };
                let act = Act { zero_point: 0, lo: -hi, ..Act::of_constant(dtype, hi, value) };
                (act.encoding(), act.bytes([act.code(value)]))
            }
            DataType::Float32 => (Encoding::None, (value as f32).to_le_bytes().to_vec()),
            DataType::Int32 if value.fract() == 0.0 && value.abs() <= f64::from(i32::MAX) => {
                (Encoding::None, (value as i32).to_le_bytes().to_vec())
            }
            other => return Err(format!("the number {value} has no form beside a tensor of {other}")),
        };
        Ok(self.add_static(&base, dtype, vec![1], encoding, bytes.into()))
    }

    /// A dimension of argument `i`'s tensor, counted from the end where it is negative.
    pub(super) fn axis(&self, node: &Node, i: usize, dim: Option<i64>) -> Res<usize> {
        let v = params::value(node, i).ok_or("its argument is no tensor")?;
        let rank = self.ty(v)?.rank();
        let dim = dim.ok_or("its dimension is not known")?;
        let wrapped = if dim < 0 { dim + i64::try_from(rank).unwrap_or(0) } else { dim };
        usize::try_from(wrapped)
            .ok()
            .filter(|&d| d < rank)
            .ok_or_else(|| format!("found dimension {dim} of a tensor of {rank} dimensions"))
    }

    fn reduction(&mut self, op: &str, node: &Node, out: ValueId) -> Res<()> {
        let x = self.arg(node, 0)?;
        let dims = params::ints(node, 1).filter(|d| !d.is_empty());
        let rank = self.out.tensors[x].dims.len();
        let axes: Vec<u32> = match dims {
            Some(dims) => dims.iter().map(|&d| self.axis(node, 0, Some(d)).map(u32_of)).collect::<Res<_>>()?,
            None => (0..rank).map(u32_of).collect(),
        };
        let keep = matches!(node.args.get(2), Some(Arg::Bool(true)));
        let y = self.output(out)?;
        let settings = vec![
            Param { name: "axes".to_owned(), value: ParamValue::u32s(&[u32_of(axes.len())], &axes) },
            scalar("keep_dims", Scalar::Bool(keep)),
        ];
        self.op(op, settings, vec![x], vec![y]);
        Ok(())
    }

    /// A tensor whose elements follow from its arguments, as a constant.
    fn computed(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let ty = self.ty(out)?;
        let (dtype, dims) = (ty.dtype, self.dims(out)?);
        let numel: usize = dims.iter().map(|&d| d as usize).product();
        let known =
            |i: usize| params::number(node, i).ok_or("its numbers are not known before the graph runs".to_owned());
        let values: Vec<f64> = match node.op {
            Op::Full => vec![known(1)?; numel],
            Op::ScalarTensor => vec![known(0)?; numel],
            _ => {
                let (start, step) = (known(0)?, known(2)?);
                (0..numel).map(|i| start + step * i as f64).collect()
            }
        };
        let base = self.path.clone();
        let t = match self.act(out) {
            Some(act) => {
                let bytes = act.bytes(values.iter().map(|&v| act.code(v)));
                self.add_static(&base, act.dtype, dims, act.encoding(), bytes.into())
            }
            None => {
                let bytes: Vec<u8> = match dtype {
                    DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
                    DType::I64 | DType::I32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
                    DType::Bool => values.iter().map(|&v| u8::from(v != 0.0)).collect(),
                    other => return Err(format!("a computed tensor of {other} is not known to QNN")),
                };
                self.add_static(&base, plain_type(dtype)?, dims, Encoding::None, Data::from(bytes))
            }
        };
        debug_assert_eq!(self.out.tensors[t].kind, TensorKind::Static);
        self.tensors.insert(out, t);
        Ok(())
    }
}

//! Quantized values: from numbers to codes and back.

use pteron_ir::{Arg, Op, SymInt, ValueId, args};
use pteron_tensor::DType;
use smallvec::SmallVec;

use super::{Constant, Lifter};
use crate::error::XnnpackError;
use crate::payload::{Datatype, Node, NodeKind, QuantParams, UnaryKind, Value, ValueIndex};

type Result<T> = std::result::Result<T, XnnpackError>;

/// How a value stands for real numbers. What a value of the payload says of itself has been checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// They are its elements.
    Real,
    /// One scale and zero point.
    PerTensor { scale: f32, zero_point: i32, dtype: DType },
    /// A scale for each block of constant codes.
    PerBlock {
        /// Sizes of a block.
        block: Vec<i64>,
        /// Blocks along each dimension.
        counts: Vec<usize>,
        /// Least and largest code.
        range: (i64, i64),
        /// Their type in the operator's arguments.
        dtype: DType,
    },
    /// A scale and zero point for each row, chosen when the row is there.
    Dynamic {
        /// Dimensions of a row.
        inner: usize,
    },
}

/// Type of the codes, and the least and largest one.
fn codes(d: Datatype) -> Option<(DType, i64, i64)> {
    Some(match d {
        Datatype::QInt8 | Datatype::QcInt8 => (DType::I8, -128, 127),
        Datatype::QUint8 => (DType::U8, 0, 255),
        Datatype::QInt32 | Datatype::QcInt32 => (DType::I32, i64::from(i32::MIN), i64::from(i32::MAX)),
        Datatype::QcInt4 | Datatype::QbInt4 => (DType::I8, -8, 7),
        _ => return None,
    })
}

impl Kind {
    /// Checks what a value says of its quantization.
    pub(super) fn of(v: &Value) -> Result<Kind> {
        let wrong = |field: &str, found: &dyn std::fmt::Display, expected: &str| {
            Err(XnnpackError::malformed(format!("value {}, field {field}", v.id), found, expected))
        };
        let constant = v.constant.is_some();
        match (v.datatype, &v.quant) {
            (Datatype::Fp32, None) => Ok(Kind::Real),
            (Datatype::QdInt8, Some(QuantParams::PerTokenDynamic { num_nonbatch_dims })) => {
                let inner = usize::try_from(*num_nonbatch_dims).ok().filter(|&n| n >= 1 && n <= v.dims.len());
                match inner {
                    Some(_) if constant => wrong("constant_buffer_idx", &"a constant", "none for codes of the run"),
                    Some(inner) => Ok(Kind::Dynamic { inner }),
                    None => {
                        let expected = format!("1 to {}, the number of dimensions", v.dims.len());
                        wrong("num_nonbatch_dims", num_nonbatch_dims, &expected)
                    }
                }
            }
            (
                Datatype::QInt8 | Datatype::QUint8 | Datatype::QInt32,
                Some(QuantParams::PerTensor { scale, zero_point }),
            ) => {
                let (scale, zero_point) = (*scale, *zero_point);
                let Some((dtype, lo, hi)) = codes(v.datatype) else { return wrong("datatype", &v.datatype, "codes") };
                if !(scale.is_finite() && scale > 0.0) {
                    return wrong("scale", &scale, "a positive number");
                }
                if !(lo..=hi).contains(&i64::from(zero_point)) {
                    return wrong("zero_point", &zero_point, "one of the codes");
                }
                Ok(Kind::PerTensor { scale, zero_point, dtype })
            }
            (
                Datatype::QcInt8 | Datatype::QcInt4 | Datatype::QcInt32,
                Some(QuantParams::PerChannel { channel_dim, .. }),
            ) if constant => {
                let axis = usize::try_from(*channel_dim).ok().filter(|&d| d < v.dims.len());
                let Some(axis) = axis else { return wrong("channel_dim", channel_dim, "a dimension of the value") };
                let sizes = || v.dims.iter().enumerate();
                Kind::blocks(
                    v,
                    sizes().map(|(i, &d)| if i == axis { 1 } else { i64::from(d) }).collect(),
                    sizes().map(|(i, &d)| if i == axis { d as usize } else { 1 }).collect(),
                )
            }
            (Datatype::QbInt4, Some(QuantParams::PerChannelGroup { channel_dim, group_size, .. })) if constant => {
                let &[rows, columns] = v.dims.as_slice() else {
                    return wrong("dims", &format!("{:?}", v.dims), "a matrix, because it has groups");
                };
                if *channel_dim != 0 {
                    return wrong("channel_dim", channel_dim, "0 for a value with groups");
                }
                let group = u32::try_from(*group_size).ok().filter(|&g| g > 0 && columns % g == 0);
                let Some(group) = group else {
                    return wrong("group_size", group_size, &format!("a divisor of {columns}, the number of columns"));
                };
                Kind::blocks(v, vec![1, i64::from(group)], vec![rows as usize, (columns / group) as usize])
            }
            (Datatype::Fp32, Some(_)) => wrong("datatype", &v.datatype, "a quantized one, because of quant_params"),
            (datatype, None) if datatype.is_quantized() => wrong("quant_params", &"nothing", "parameters"),
            (datatype, None) => Err(XnnpackError::unsupported(format!(
                "XNNPACK payloads with {datatype} values are not supported yet (value {}): fp32 and quantized ones are",
                v.id
            ))),
            (datatype, Some(_)) => Err(XnnpackError::unsupported(format!(
                "XNNPACK values of type {datatype} with the parameters that value {} has{} are not supported",
                v.id,
                if constant { "" } else { " and no constant" },
            ))),
        }
    }

    fn blocks(v: &Value, block: Vec<i64>, counts: Vec<usize>) -> Result<Kind> {
        match codes(v.datatype) {
            Some((dtype, lo, hi)) => Ok(Kind::PerBlock { block, counts, range: (lo, hi), dtype }),
            None => Err(XnnpackError::malformed(format!("value {}, field datatype", v.id), v.datatype, "codes")),
        }
    }

    /// Numbers of blocks, of a value that has blocks.
    pub(super) fn counts(&self) -> &[usize] {
        match self {
            Kind::PerBlock { counts, .. } => counts,
            _ => &[],
        }
    }

    /// The type in which the caller gives or takes such a value; `None` if it cannot.
    pub(super) fn at_the_border(&self) -> Option<DType> {
        match self {
            Kind::Real => Some(DType::F32),
            Kind::PerTensor { dtype, .. } => Some(*dtype),
            Kind::PerBlock { .. } | Kind::Dynamic { .. } => None,
        }
    }
}

impl Lifter<'_, '_> {
    fn kind(&self, i: ValueIndex) -> Kind {
        self.kinds.get(i).cloned().unwrap_or(Kind::Real)
    }

    fn dequantized(&mut self, codes: ValueId, kind: &Kind) -> std::result::Result<ValueId, pteron_ir::InferError> {
        let &Kind::PerTensor { scale, zero_point, dtype } = kind else { return Ok(codes) };
        let (lo, hi) = match dtype {
            DType::I8 => (-128i64, 127i64),
            DType::U8 => (0, 255),
            _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
        };
        self.b.call(Op::DequantizePerTensor, args![codes, f64::from(scale), i64::from(zero_point), lo, hi, dtype])
    }

    /// Gives value `i` what the caller gives.
    pub(super) fn set_input(&mut self, i: ValueIndex, input: ValueId) -> Result<()> {
        let kind = self.kind(i);
        if kind == Kind::Real {
            self.set(i, input);
            return Ok(());
        }
        let found = self.dequantized(input, &kind);
        let value = found.map_err(|source| XnnpackError::Infer { node: 0, kind: "input", source })?;
        self.set(i, value);
        if let Some(slot) = self.codes.get_mut(i) {
            *slot = Some(input);
        }
        Ok(())
    }

    /// A constant as real numbers.
    pub(super) fn constant(&mut self, at: usize, i: ValueIndex, c: Constant) -> Result<ValueId> {
        let elements = self.b.constant(c.elements);
        let failed = |source| XnnpackError::Infer { node: at, kind: "dequantized constant", source };
        match (self.kind(i), c.scales) {
            (Kind::PerBlock { block, range, dtype, .. }, Some(scales)) => {
                let scales = self.b.constant(scales);
                let arguments = args![elements, Arg::ints(&block), scales, Arg::None, dtype, range.0, range.1];
                self.b.call(Op::DequantizeAffine, arguments).map_err(failed)
            }
            (kind, _) => self.dequantized(elements, &kind).map_err(failed),
        }
    }

    /// Gives value `i` what a node computed, through codes if it is quantized.
    pub(super) fn set_computed(&mut self, at: usize, node: &Node, i: ValueIndex, value: ValueId) -> Result<()> {
        let value = match self.kind(i) {
            Kind::Real if matches!(node.kind, NodeKind::Unary { kind: UnaryKind::Convert, .. }) => {
                self.call(at, node, Op::Clone, args![value])?
            }
            Kind::Real => value,
            Kind::PerTensor { scale, zero_point, dtype } => {
                let (lo, hi) = match dtype {
                    DType::I8 => (-128i64, 127i64),
                    DType::U8 => (0, 255),
                    other => {
                        let found = format!("a result of type {other}");
                        return Err(XnnpackError::malformed(self.place(at, node), found, "f32 or codes of 8 bits"));
                    }
                };
                let arguments = args![value, f64::from(scale), i64::from(zero_point), lo, hi, dtype];
                let codes = self.call(at, node, Op::QuantizePerTensor, arguments)?;
                if let Some(slot) = self.codes.get_mut(i) {
                    *slot = Some(codes);
                }
                let kind = self.kind(i);
                let kind_name = node.kind.name();
                let infer = |source| XnnpackError::Infer { node: at, kind: kind_name, source };
                self.dequantized(codes, &kind).map_err(infer)?
            }
            Kind::PerBlock { .. } => {
                let found = format!("value {} with scales of constants", self.id(i));
                return Err(XnnpackError::malformed(self.place(at, node), found, "a value that can be computed"));
            }
            Kind::Dynamic { inner } => self.through_rows(at, node, value, inner)?,
        };
        self.set(i, value);
        Ok(())
    }

    fn place(&self, at: usize, node: &Node) -> String {
        format!("node {at} {}", node.kind.name())
    }

    /// `value` through 8-bit codes by XNNPACK's rule, a scale and zero point for each row of `inner` dimensions.
    /// ExecuTorch's exporter converts once for each reader; what has been converted already is taken.
    fn through_rows(&mut self, at: usize, node: &Node, value: ValueId, inner: usize) -> Result<ValueId> {
        if let Some(&known) = self.converted.get(&(value, inner)) {
            return Ok(known);
        }
        let converted = self.convert_rows(at, node, value, inner)?;
        self.converted.insert((value, inner), converted);
        Ok(converted)
    }

    fn convert_rows(&mut self, at: usize, node: &Node, value: ValueId, inner: usize) -> Result<ValueId> {
        let kind = node.kind.name();
        let infer = |source| XnnpackError::Infer { node: at, kind, source };
        let rows = i64::try_from(inner).unwrap_or(i64::MAX);
        let n = self.b.node(Op::ConvertQd8, args![value, rows]).map_err(infer)?;
        let &[codes, scale, zero_point] = self.b.graph().nodes[n].outputs.as_slice() else {
            return Err(XnnpackError::malformed(self.place(at, node), "another number of results", "3"));
        };
        let range = (-128i64, 127i64);
        if inner == 1 {
            let arguments = args![codes, scale, zero_point, range.0, range.1, DType::I8, DType::F32];
            return self.call(at, node, Op::DequantizePerToken, arguments);
        }
        let dims = self.b.tensor_ty(codes).dims;
        let lead = dims.len().saturating_sub(inner);
        let block: Option<SmallVec<[i64; 6]>> =
            dims.iter().enumerate().map(|(d, size)| if d < lead { Some(1) } else { size.as_const() }).collect();
        let Some(block) = block else {
            let unknown: Vec<String> = dims.iter().map(SymInt::to_string).collect();
            return Err(XnnpackError::unsupported(format!(
                "XNNPACK values with rows of several dimensions of varying sizes [{}] are not supported (node {at})",
                unknown.join(", ")
            )));
        };
        let arguments = args![codes, Arg::ints(&block), scale, zero_point, DType::I8, range.0, range.1];
        self.call(at, node, Op::DequantizeAffine, arguments)
    }
}

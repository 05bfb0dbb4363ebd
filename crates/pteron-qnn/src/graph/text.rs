//! A graph as text, for people and tests.

use std::fmt;

use super::{Encoding, Param, ParamValue, QnnGraph, QnnTensor, Scalar, ScaleOffset, TensorKind};

/// Elements of a list that are shown.
const SHOWN: usize = 4;

/// The first elements of a list, and how many there are.
fn list<T>(f: &mut fmt::Formatter<'_>, items: &[T], one: impl Fn(&T) -> String) -> fmt::Result {
    let shown: Vec<String> = items.iter().take(SHOWN).map(one).collect();
    let rest = if items.len() > SHOWN { format!(", … {}", items.len()) } else { String::new() };
    write!(f, "[{}{rest}]", shown.join(", "))
}

fn pair(s: &ScaleOffset) -> String {
    if s.offset == 0 { format!("{}", s.scale) } else { format!("{}{:+}", s.scale, s.offset) }
}

impl fmt::Display for Encoding {
    /// Scales with the offsets that are not 0, the axis, bits where they are fewer than the container's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::None => f.write_str("plain"),
            Encoding::ScaleOffset(s) => f.write_str(&pair(s)),
            Encoding::AxisScaleOffset { axis, scales } => {
                write!(f, "axis {axis} ")?;
                list(f, scales, pair)
            }
            Encoding::BwScaleOffset { bitwidth, scale } => write!(f, "{bitwidth} bits {}", pair(scale)),
            Encoding::BwAxisScaleOffset { bitwidth, axis, scales, .. } => {
                write!(f, "{bitwidth} bits axis {axis} ")?;
                list(f, scales, f32::to_string)
            }
            Encoding::BlockwiseExpansion { axis, scales, blocks_per_axis, block_scales, .. } => {
                write!(f, "axis {axis} ")?;
                list(f, scales, pair)?;
                write!(f, " times {blocks_per_axis} blocks ")?;
                match block_scales {
                    super::BlockScales::U8(s) => list(f, s, u8::to_string),
                    super::BlockScales::U16(s) => list(f, s, u16::to_string),
                }
            }
            Encoding::Other(code) => write!(f, "encoding {code}"),
        }
    }
}

impl fmt::Display for Param {
    /// `axis=3`, `perm=[0, 2, 1, 3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.name)?;
        match &self.value {
            ParamValue::Scalar(Scalar::Bool(b)) => write!(f, "{b}"),
            ParamValue::Scalar(Scalar::I32(n)) => write!(f, "{n}"),
            ParamValue::Scalar(Scalar::U32(n)) => write!(f, "{n}"),
            ParamValue::Scalar(Scalar::F32(n)) => write!(f, "{n:?}"),
            ParamValue::Tensor { data, .. } => {
                let number = |c: &[u8]| i32::from_le_bytes(c.try_into().unwrap_or_default()).to_string();
                let numbers: Vec<String> = data.chunks_exact(4).map(number).collect();
                write!(f, "[{}]", numbers.join(", "))
            }
        }
    }
}

impl fmt::Display for QnnTensor {
    /// `input_0_x@0: AppWrite ufixed16 [1, 4] 0.5-32768`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {} {:?} {}", self.name, self.kind, self.dtype, self.dims, self.encoding)
    }
}

impl fmt::Display for QnnGraph {
    /// Tensors at the boundary and constants, a line each, then the nodes with the tensors that they make.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |i: &usize| self.tensors.get(*i).map_or("?", |t| t.name.as_str());
        writeln!(f, "graph {}", self.name)?;
        for t in self.tensors.iter().filter(|t| t.kind != TensorKind::Native) {
            writeln!(f, "  {t}")?;
        }
        for n in &self.nodes {
            let inputs: Vec<&str> = n.inputs.iter().map(name).collect();
            write!(f, "  {}({})", n.op, inputs.join(", "))?;
            for p in &n.params {
                write!(f, " {p}")?;
            }
            for (k, t) in n.outputs.iter().filter_map(|&i| self.tensors.get(i)).enumerate() {
                let arrow = if k == 0 { " ->" } else { "," };
                match t.kind {
                    TensorKind::Native => write!(f, "{arrow} {}: {} {:?} {}", t.name, t.dtype, t.dims, t.encoding)?,
                    _ => write!(f, "{arrow} {}", t.name)?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

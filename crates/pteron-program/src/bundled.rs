//! Bundled programs (`.bpte`): a program with test cases.

use pteron_pte::{BundledProgram, BundledTensor, BundledValue, ScalarType};
use pteron_tensor::{AlignedBytes, Tensor, strides_for};

use crate::convert::dtype_of;

/// An input or expected output of a test case.
#[derive(Debug, Clone)]
pub enum CaseValue {
    /// A tensor, row-major whatever the dim order in the file.
    Tensor(Tensor),
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A double.
    Float(f64),
}

/// A call of a method with what it should give.
#[derive(Debug, Clone)]
pub struct Case {
    /// The method.
    pub method: String,
    /// Its inputs in order.
    pub inputs: Vec<CaseValue>,
    /// The outputs expected, in order.
    pub expected: Vec<CaseValue>,
}

/// A test case that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("test case {case} of method `{method}`, {port} {index}: {reason}")]
pub struct CaseError {
    /// The method.
    pub method: String,
    /// Position of the case among the method's.
    pub case: usize,
    /// `input` or `expected output`.
    pub port: &'static str,
    /// Position of the value.
    pub index: usize,
    /// What was found and what was expected.
    pub reason: String,
}

/// All test cases of a bundled program, in the file's order. The program itself is
/// [`BundledProgram::pte`], which [`crate::lift`] takes.
///
/// # Errors
/// [`CaseError`] for a tensor whose element type or size Pteron does not hold.
pub fn test_cases(file: &BundledProgram<'_>) -> Result<Vec<Case>, CaseError> {
    let mut out = Vec::new();
    for suite in &file.suites {
        for (case, c) in suite.cases.iter().enumerate() {
            let read = |port: &'static str, values: &[BundledValue<'_>]| {
                let one = |(index, v): (usize, &BundledValue<'_>)| {
                    value(v).map_err(|reason| CaseError {
                        method: suite.method_name.clone(),
                        case,
                        port,
                        index,
                        reason,
                    })
                };
                values.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()
            };
            out.push(Case {
                method: suite.method_name.clone(),
                inputs: read("input", &c.inputs)?,
                expected: read("expected output", &c.expected_outputs)?,
            });
        }
    }
    Ok(out)
}

fn value(v: &BundledValue<'_>) -> Result<CaseValue, String> {
    Ok(match v {
        BundledValue::Tensor(t) => CaseValue::Tensor(tensor(t)?),
        BundledValue::Int(i) => CaseValue::Int(*i),
        BundledValue::Bool(b) => CaseValue::Bool(*b),
        BundledValue::Double(d) => CaseValue::Float(*d),
    })
}

fn tensor(t: &BundledTensor<'_>) -> Result<Tensor, String> {
    row_major_tensor(t.scalar_type, &t.sizes, &t.dim_order, t.data)
}

/// A row-major tensor from bytes that lie in `dim_order`.
pub(crate) fn row_major_tensor(
    scalar_type: ScalarType,
    sizes: &[i32],
    dim_order: &[u8],
    data: &[u8],
) -> Result<Tensor, String> {
    let dtype = dtype_of(scalar_type).ok_or_else(|| format!("element type {scalar_type} is not supported"))?;
    let sizes: Vec<usize> = sizes
        .iter()
        .map(|&s| usize::try_from(s).map_err(|_| format!("size {s} is negative")))
        .collect::<Result<_, _>>()?;
    let bytes = to_row_major(data, &sizes, dim_order, scalar_type.size_of())?;
    Tensor::from_bytes(dtype, &sizes, bytes).map_err(|e| e.to_string())
}

/// Elements of `size` bytes from `dim_order` to row-major.
pub(crate) fn to_row_major(
    data: &[u8],
    sizes: &[usize],
    dim_order: &[u8],
    size: usize,
) -> Result<AlignedBytes, String> {
    let strides = strides_for(sizes, dim_order).map_err(|e| e.to_string())?;
    let numel = pteron_tensor::checked_numel(sizes).map_err(|e| e.to_string())?;
    let need = numel.checked_mul(size).ok_or("more bytes than memory holds")?;
    if data.len() != need {
        return Err(format!("{} bytes for {need} of {sizes:?}", data.len()));
    }
    let mut out = AlignedBytes::zeroed(need);
    if dim_order.is_sorted() {
        out.copy_from_slice(data);
        return Ok(out);
    }
    let mut index = vec![0usize; sizes.len()];
    for target in out.chunks_exact_mut(size.max(1)) {
        let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>() * size;
        if let Some(source) = data.get(at..at + size) {
            target.copy_from_slice(source);
        }
        for d in (0..sizes.len()).rev() {
            index[d] += 1;
            if index[d] < sizes[d] {
                break;
            }
            index[d] = 0;
        }
    }
    Ok(out)
}

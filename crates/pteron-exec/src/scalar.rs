//! Ints, floats and booleans computed at run time.

use pteron_ir::{InferError, Op};
use pteron_tensor::Scalar;

fn fail<T>(op: Op, reason: &str) -> Result<T, InferError> {
    Err(InferError { op: op.name(), reason: reason.to_owned() })
}

/// Evaluates a prim operator. Int arithmetic is checked; division rounds as Python's does.
pub(crate) fn evaluate(op: Op, args: &[Scalar]) -> Result<Scalar, InferError> {
    let (Some(&a), b) = (args.first(), args.get(1).copied()) else { return fail(op, "has no operand") };
    let Some(b) = b else {
        return Ok(match op {
            Op::PrimNeg => match a {
                Scalar::Float(f) => Scalar::Float(-f),
                other => match other.as_i64().checked_neg() {
                    Some(v) => Scalar::Int(v),
                    None => return fail(op, "overflow"),
                },
            },
            Op::PrimNot => Scalar::Bool(!a.as_bool()),
            Op::PrimFloat => Scalar::Float(a.as_f64()),
            _ => return fail(op, "needs two operands"),
        });
    };
    let float = matches!(a, Scalar::Float(_)) || matches!(b, Scalar::Float(_));
    match op {
        Op::PrimEq => return Ok(Scalar::Bool(if float { a.as_f64() == b.as_f64() } else { a.as_i64() == b.as_i64() })),
        Op::PrimLt => return Ok(Scalar::Bool(if float { a.as_f64() < b.as_f64() } else { a.as_i64() < b.as_i64() })),
        Op::PrimLe => return Ok(Scalar::Bool(if float { a.as_f64() <= b.as_f64() } else { a.as_i64() <= b.as_i64() })),
        Op::PrimGt => return Ok(Scalar::Bool(if float { a.as_f64() > b.as_f64() } else { a.as_i64() > b.as_i64() })),
        Op::PrimGe => return Ok(Scalar::Bool(if float { a.as_f64() >= b.as_f64() } else { a.as_i64() >= b.as_i64() })),
        Op::PrimTrueDiv => return Ok(Scalar::Float(a.as_f64() / b.as_f64())),
        _ => {}
    }
    if float {
        let (x, y) = (a.as_f64(), b.as_f64());
        return Ok(Scalar::Float(match op {
            Op::PrimAdd => x + y,
            Op::PrimSub => x - y,
            Op::PrimMul => x * y,
            Op::PrimFloorDiv => (x / y).floor(),
            Op::PrimMod => x - (x / y).floor() * y,
            Op::PrimMax => x.max(y),
            Op::PrimMin => x.min(y),
            _ => return fail(op, "is no scalar operator"),
        }));
    }
    let (x, y) = (a.as_i64(), b.as_i64());
    let floor = |x: i64, y: i64| {
        let q = x.checked_div(y)?;
        Some(if x % y != 0 && (x < 0) != (y < 0) { q - 1 } else { q })
    };
    let r = match op {
        Op::PrimAdd => x.checked_add(y),
        Op::PrimSub => x.checked_sub(y),
        Op::PrimMul => x.checked_mul(y),
        Op::PrimFloorDiv => floor(x, y),
        Op::PrimMod => floor(x, y).and_then(|q| x.checked_sub(q.checked_mul(y)?)),
        Op::PrimMax => Some(x.max(y)),
        Op::PrimMin => Some(x.min(y)),
        _ => return fail(op, "is no scalar operator"),
    };
    match r {
        Some(v) => Ok(Scalar::Int(v)),
        None if y == 0 => fail(op, "division by zero"),
        None => fail(op, "overflow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_divide_as_in_python() {
        let int = |op, a, b| evaluate(op, &[Scalar::Int(a), Scalar::Int(b)]);
        assert_eq!(int(Op::PrimFloorDiv, -7, 2), Ok(Scalar::Int(-4)));
        assert_eq!(int(Op::PrimMod, -7, 2), Ok(Scalar::Int(1)));
        assert_eq!(int(Op::PrimMod, 7, -2), Ok(Scalar::Int(-1)));
        assert!(int(Op::PrimFloorDiv, 1, 0).is_err());
        assert!(int(Op::PrimAdd, i64::MAX, 1).is_err());
        assert_eq!(evaluate(Op::PrimLt, &[Scalar::Int(1), Scalar::Float(1.5)]), Ok(Scalar::Bool(true)));
        assert_eq!(evaluate(Op::PrimNot, &[Scalar::Bool(true)]), Ok(Scalar::Bool(false)));
    }
}

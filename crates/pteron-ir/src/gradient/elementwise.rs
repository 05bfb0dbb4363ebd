//! Rules of operators that work element by element.

use super::{Backward, GradientError, GradientResult};
use crate::arg::Arg;
use crate::entity::ValueId;
use crate::op::Op;

type Found = Result<ValueId, GradientError>;

/// Results that do not move with their argument.
pub(crate) fn flat(_: &mut Backward<'_, '_>) -> GradientResult {
    Ok(())
}

/// `∂/∂x = g`: sums with a number, copies.
pub(crate) fn same(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    b.give(0, g)
}

/// Conversions: the gradient goes back in the argument's element type.
pub(crate) fn converted(b: &mut Backward<'_, '_>) -> GradientResult {
    same(b)
}

fn sum(b: &mut Backward<'_, '_>, sign: f64) -> GradientResult {
    let g = b.gradient()?;
    if b.needs(0) {
        b.give(0, g)?;
    }
    if b.needs(1) {
        let alpha = sign * b.number(2)?;
        let g = b.scaled(g, alpha)?;
        b.give(1, g)?;
    }
    Ok(())
}

/// `x + alpha·y`.
pub(crate) fn add(b: &mut Backward<'_, '_>) -> GradientResult {
    sum(b, 1.0)
}

/// `x − alpha·y`.
pub(crate) fn sub(b: &mut Backward<'_, '_>) -> GradientResult {
    sum(b, -1.0)
}

/// `x·y`: `g·y` and `g·x`.
pub(crate) fn mul(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, y) = (b.gradient()?, b.tensor(0)?, b.tensor(1)?);
    if b.needs(0) {
        let d = b.mul(g, y)?;
        b.give(0, d)?;
    }
    if b.needs(1) {
        let d = b.mul(g, x)?;
        b.give(1, d)?;
    }
    Ok(())
}

/// `x·c`: `g·c`.
pub(crate) fn mul_scalar(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, c) = (b.gradient()?, b.number(1)?);
    let d = b.scaled(g, c)?;
    b.give(0, d)
}

/// `x/y`: `g/y` and `−g·(x/y)/y`.
pub(crate) fn div(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, y, out) = (b.gradient()?, b.tensor(1)?, b.output(0));
    let by_x = b.call(Op::Div, [g.into(), y.into()])?;
    if b.needs(0) {
        b.give(0, by_x)?;
    }
    if b.needs(1) {
        let d = b.mul(by_x, out)?;
        let d = b.call(Op::Neg, [d.into()])?;
        b.give(1, d)?;
    }
    Ok(())
}

/// `x/c`: `g/c`.
pub(crate) fn div_scalar(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, c) = (b.gradient()?, b.arg(1));
    let d = b.call(Op::DivScalar, [g.into(), c])?;
    b.give(0, d)
}

/// The gradient where `holds(x, y)`, half of it where they are equal (PyTorch's rule), 0 elsewhere.
fn chosen(b: &mut Backward<'_, '_>, i: usize, holds: Op) -> GradientResult {
    if !b.needs(i) {
        return Ok(());
    }
    let (g, x, y) = (b.gradient()?, b.tensor(i)?, b.tensor(1 - i)?);
    let half = b.scaled(g, 0.5)?;
    let zero = b.scaled(g, 0.0)?;
    let wins = b.call(holds, [x.into(), y.into()])?;
    let ties = b.call(Op::Eq, [x.into(), y.into()])?;
    let d = b.call(Op::Where, [wins.into(), g.into(), zero.into()])?;
    let d = b.call(Op::Where, [ties.into(), half.into(), d.into()])?;
    b.give(i, d)
}

/// The larger of two.
pub(crate) fn larger(b: &mut Backward<'_, '_>) -> GradientResult {
    chosen(b, 0, Op::Gt)?;
    chosen(b, 1, Op::Gt)
}

/// The smaller of two.
pub(crate) fn smaller(b: &mut Backward<'_, '_>) -> GradientResult {
    chosen(b, 0, Op::Lt)?;
    chosen(b, 1, Op::Lt)
}

/// `x^c`: `g·c·x^(c−1)`.
pub(crate) fn pow_scalar(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, c) = (b.gradient()?, b.tensor(0)?, b.number(1)?);
    let power = match c {
        0.0 => b.call(Op::MulScalar, [x.into(), 0.0.into()])?,
        1.0 => return b.give(0, g),
        2.0 => x,
        _ => b.call(Op::PowScalar, [x.into(), (c - 1.0).into()])?,
    };
    let d = b.mul(g, power)?;
    let d = b.scaled(d, c)?;
    b.give(0, d)
}

/// `where(c, x, y)`: the gradient goes to the one that was taken.
pub(crate) fn select_by_condition(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, c) = (b.gradient()?, b.tensor(0)?);
    let zero = b.scaled(g, 0.0)?;
    if b.needs(1) {
        let d = b.call(Op::Where, [c.into(), g.into(), zero.into()])?;
        b.give(1, d)?;
    }
    if b.needs(2) {
        let d = b.call(Op::Where, [c.into(), zero.into(), g.into()])?;
        b.give(2, d)?;
    }
    Ok(())
}

/// The gradient where `holds(x, number)`, 0 elsewhere.
fn masked(b: &mut Backward<'_, '_>, g: ValueId, holds: Op, x: ValueId, number: Arg) -> Found {
    let zero = b.scaled(g, 0.0)?;
    let inside = b.call(holds, [x.into(), number])?;
    b.call(Op::Where, [inside.into(), g.into(), zero.into()])
}

/// Clamping: the gradient where `min ≤ x ≤ max`.
pub(crate) fn clamp(b: &mut Backward<'_, '_>) -> GradientResult {
    let (mut g, x) = (b.gradient()?, b.tensor(0)?);
    for (i, holds) in [(1, Op::GeScalar), (2, Op::LeScalar)] {
        if b.arg(i) != Arg::None {
            let bound = b.arg(i);
            g = masked(b, g, holds, x, bound)?;
        }
    }
    b.give(0, g)
}

/// `−g`.
pub(crate) fn neg(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    let d = b.call(Op::Neg, [g.into()])?;
    b.give(0, d)
}

/// `g·sign(x)`, 0 at 0.
pub(crate) fn abs(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let above = masked(b, g, Op::GtScalar, x, 0.0.into())?;
    let below = masked(b, g, Op::LtScalar, x, 0.0.into())?;
    let d = b.call(Op::Sub, [above.into(), below.into()])?;
    b.give(0, d)
}

/// The gradient where `x > 0`.
pub(crate) fn relu(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let d = masked(b, g, Op::GtScalar, x, 0.0.into())?;
    b.give(0, d)
}

/// `g / (2·√x)`.
pub(crate) fn sqrt(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, out) = (b.gradient()?, b.output(0));
    let d = b.call(Op::Div, [g.into(), out.into()])?;
    let d = b.scaled(d, 0.5)?;
    b.give(0, d)
}

/// `−g/2 · x^(−3/2)`.
pub(crate) fn rsqrt(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, out) = (b.gradient()?, b.output(0));
    let square = b.mul(out, out)?;
    let cube = b.mul(square, out)?;
    let d = b.mul(g, cube)?;
    let d = b.scaled(d, -0.5)?;
    b.give(0, d)
}

/// `−g / x²`.
pub(crate) fn reciprocal(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, out) = (b.gradient()?, b.output(0));
    let square = b.mul(out, out)?;
    let d = b.mul(g, square)?;
    let d = b.scaled(d, -1.0)?;
    b.give(0, d)
}

/// `g·eˣ`.
pub(crate) fn exp(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, out) = (b.gradient()?, b.output(0));
    let d = b.mul(g, out)?;
    b.give(0, d)
}

/// `g/x`.
pub(crate) fn log(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let d = b.call(Op::Div, [g.into(), x.into()])?;
    b.give(0, d)
}

/// `g·cos(x)`.
pub(crate) fn sin(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let c = b.call(Op::Cos, [x.into()])?;
    let d = b.mul(g, c)?;
    b.give(0, d)
}

/// `−g·sin(x)`.
pub(crate) fn cos(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let s = b.call(Op::Sin, [x.into()])?;
    let d = b.mul(g, s)?;
    let d = b.scaled(d, -1.0)?;
    b.give(0, d)
}

/// `1 − x`.
fn rest_of_one(b: &mut Backward<'_, '_>, x: ValueId) -> Found {
    let n = b.scaled(x, -1.0)?;
    b.call(Op::AddScalar, [n.into(), 1.0.into()])
}

/// `g·(1 − tanh²)`.
pub(crate) fn tanh(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, out) = (b.gradient()?, b.output(0));
    let square = b.mul(out, out)?;
    let slope = rest_of_one(b, square)?;
    let d = b.mul(g, slope)?;
    b.give(0, d)
}

/// `g·s·(1 − s)`.
pub(crate) fn sigmoid(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, s) = (b.gradient()?, b.output(0));
    let rest = rest_of_one(b, s)?;
    let slope = b.mul(s, rest)?;
    let d = b.mul(g, slope)?;
    b.give(0, d)
}

/// `g·s·(1 + x·(1 − s))` with `s` the sigmoid of `x`.
pub(crate) fn silu(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let s = b.call(Op::Sigmoid, [x.into()])?;
    let rest = rest_of_one(b, s)?;
    let slope = b.mul(x, rest)?;
    let slope = b.call(Op::AddScalar, [slope.into(), 1.0.into()])?;
    let slope = b.mul(slope, s)?;
    let d = b.mul(g, slope)?;
    b.give(0, d)
}

/// `g·(Φ(x) + x·φ(x))`, with `Φ(x)` as the result over `x`; for `tanh` the derivative of its formula.
pub(crate) fn gelu(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, out) = (b.gradient()?, b.tensor(0)?, b.output(0));
    let square = b.mul(x, x)?;
    let slope = match b.arg(1) {
        Arg::Str(s) if s.as_ref() == "tanh" => {
            // out = x/2·(1 + t), t = tanh(k·(x + a·x³)): out' = (1 + t)/2 + x/2·(1 − t²)·k·(1 + 3a·x²).
            let (k, a) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044_715);
            let inner = b.scaled(square, k * a)?;
            let inner = b.call(Op::AddScalar, [inner.into(), k.into()])?;
            let inner = b.mul(inner, x)?;
            let t = b.call(Op::Tanh, [inner.into()])?;
            let level = b.call(Op::AddScalar, [t.into(), 1.0.into()])?;
            let level = b.scaled(level, 0.5)?;
            let t2 = b.mul(t, t)?;
            let rest = rest_of_one(b, t2)?;
            let steep = b.scaled(square, 1.5 * k * a)?;
            let steep = b.call(Op::AddScalar, [steep.into(), (0.5 * k).into()])?;
            let steep = b.mul(steep, x)?;
            let steep = b.mul(steep, rest)?;
            b.call(Op::Add, [level.into(), steep.into()])?
        }
        _ => {
            let ratio = b.call(Op::Div, [out.into(), x.into()])?;
            let half = b.call(Op::FullLike, [x.into(), 0.5.into()])?;
            let at_zero = b.call(Op::EqScalar, [x.into(), 0.0.into()])?;
            let level = b.call(Op::Where, [at_zero.into(), half.into(), ratio.into()])?;
            let density = b.scaled(square, -0.5)?;
            let density = b.call(Op::Exp, [density.into()])?;
            let density = b.scaled(density, (2.0 * std::f64::consts::PI).sqrt().recip())?;
            let steep = b.mul(density, x)?;
            b.call(Op::Add, [level.into(), steep.into()])?
        }
    };
    let d = b.mul(g, slope)?;
    b.give(0, d)
}

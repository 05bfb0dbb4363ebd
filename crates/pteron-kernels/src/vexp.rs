//! The exponential and softmax over rows of f32, as attention uses them.

use crate::Context;

/// `x = eˣ` for each element, to 2 units in the last place (of the subnormals too). -∞ gives 0, overflow ∞, NaN NaN.
pub fn exp_in_place(ctx: &Context, row: &mut [f32]) {
    ctx.kernels().exp_in_place(row);
}

/// `xᵢ = eˣⁱ⁻ᵐ / Σⱼ eˣʲ⁻ᵐ` with `m` the largest element. A row with a NaN or +∞, and one of nothing but -∞, becomes NaN.
pub fn softmax_in_place(ctx: &Context, row: &mut [f32]) {
    let max = ctx.kernels().row_max(row);
    let sum = ctx.kernels().exp_sub_sum(row, max);
    for x in row {
        *x /= sum;
    }
}

/// `xᵢ = xᵢ - m - ln Σⱼ eˣʲ⁻ᵐ` with `m` the largest element.
pub fn log_softmax_in_place(ctx: &Context, row: &mut [f32]) {
    let max = ctx.kernels().row_max(row);
    let mut e = row.to_vec();
    let log = ctx.kernels().exp_sub_sum(&mut e, max).ln();
    for x in row {
        *x = *x - max - log;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_the_definition() {
        let ctx = Context::new(1);
        let mut x = [0.5f32, -1.0, 2.0, f32::NEG_INFINITY];
        let mut log = x;
        let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
        let expected: Vec<f64> = x.iter().map(|&v| f64::from(v).exp() / sum).collect();
        softmax_in_place(&ctx, &mut x);
        log_softmax_in_place(&ctx, &mut log);
        for i in 0..4 {
            assert!((f64::from(x[i]) - expected[i]).abs() < 1e-7);
            assert!(expected[i] == 0.0 || (f64::from(log[i]) - expected[i].ln()).abs() < 1e-6);
        }
        assert_eq!(log[3], f32::NEG_INFINITY);
        let mut hidden = [f32::NEG_INFINITY; 2];
        softmax_in_place(&ctx, &mut hidden);
        assert!(hidden[0].is_nan());
    }
}

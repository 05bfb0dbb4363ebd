use super::*;

fn at() -> TensorLabel {
    TensorLabel::new("model.layers.0.mlp.up_proj", "weight")
}

fn data(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns)
        .map(|i| {
            let u = ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
            u * u * u
        })
        .collect()
}

fn inputs<'a>(means: &'a [f32], squares: &'a [f32]) -> Option<Inputs<'a>> {
    Some(Inputs { means, squares })
}

fn weighted(w: &[f32], q: &QuantizedMatrix, columns: usize, h: &[f32]) -> f64 {
    let back = q.dequantize();
    w.iter().zip(&back).enumerate().map(|(i, (a, b))| f64::from(h[i % columns]) * f64::from(a - b).powi(2)).sum()
}

#[test]
fn mse_is_never_worse_than_the_others() {
    let (rows, columns) = (6, 96);
    let w = data(rows, columns);
    let m = Matrix::new(&at(), &w, rows, columns).unwrap();
    let h: Vec<f32> = (0..columns).map(|j| if j % 7 == 0 { 50.0 } else { 0.5 + j as f32 * 0.01 }).collect();
    for range in [(-8, 7), (-7, 7), (-128, 127), (-2, 1)] {
        for group in [8, 32, 0] {
            let ones = vec![1f32; columns];
            for (moments, h) in [(None, &ones), (inputs(&vec![0.0; columns], &h), &h)] {
                let ours = weighted(&w, &mse(&at(), m, group, range, moments).unwrap(), columns, h);
                let rtn = weighted(&w, &affine(&at(), m, group, range).unwrap(), columns, h);
                assert!(ours <= rtn, "{range:?} {group}: {ours} {rtn}");
                if range == (-8, 7) {
                    assert!(ours < 0.97 * rtn, "{group}: {ours} {rtn}");
                }
            }
        }
    }
}

#[test]
fn moments_move_the_scale() {
    // One large weight at an input that is never large: it is clipped.
    let mut w = vec![0.1f32, -0.2, 0.15, 0.05, 0.12, -0.18, 0.07, 0.0];
    w[7] = 3.0;
    let mut h = vec![1f32; 8];
    h[7] = 1e-6;
    let m = Matrix::new(&at(), &w, 1, 8).unwrap();
    let plain = mse(&at(), m, 0, (-8, 7), None).unwrap();
    let informed = mse(&at(), m, 0, (-8, 7), inputs(&[0.0; 8], &h)).unwrap();
    assert!(informed.scales[0] < 0.5 * plain.scales[0], "{} {}", informed.scales[0], plain.scales[0]);
}

/// Inputs that are always of one sign give outputs that are off by the same amount, token after token: the search keeps that small.
#[test]
fn the_mean_error_of_an_output_counts() {
    let (rows, columns) = (16, 96);
    let w = data(rows, columns);
    let m = Matrix::new(&at(), &w, rows, columns).unwrap();
    let means: Vec<f32> = (0..columns).map(|j| if j % 5 == 0 { 2.0 } else { 0.1 }).collect();
    let squares: Vec<f32> = means.iter().map(|m| m * m + 0.2).collect();
    let bias = |q: &QuantizedMatrix| -> f64 {
        let back = q.dequantize();
        let row = |r: usize| -> f64 {
            (0..columns).map(|j| f64::from(means[j]) * f64::from(w[r * columns + j] - back[r * columns + j])).sum()
        };
        (0..rows).map(|r| row(r).powi(2)).sum()
    };
    for (range, group) in [((-8, 7), 32), ((-128, 127), 48)] {
        let blind = mse(&at(), m, group, range, inputs(&vec![0.0; columns], &squares)).unwrap();
        let seeing = mse(&at(), m, group, range, inputs(&means, &squares)).unwrap();
        assert!(bias(&seeing) < 0.2 * bias(&blind), "{range:?} {group}: {} {}", bias(&seeing), bias(&blind));
    }
    // One scale for a row is that of the least squared error, whatever the means.
    for range in [(-8, 7), (-128, 127)] {
        let blind = mse(&at(), m, 0, range, inputs(&vec![0.0; columns], &squares)).unwrap();
        assert_eq!(mse(&at(), m, 0, range, inputs(&means, &squares)).unwrap(), blind);
    }
}

#[test]
fn zeros_have_a_scale() {
    let w = vec![0f32; 64];
    let m = Matrix::new(&at(), &w, 2, 32).unwrap();
    for q in [
        affine(&at(), m, 8, (-8, 7)).unwrap(),
        hqq(&at(), m, 8, (-8, 7)).unwrap(),
        mse(&at(), m, 8, (-8, 7), inputs(&[0.0; 32], &[0.0; 32])).unwrap(),
        int8(&at(), m).unwrap(),
    ] {
        assert!(q.scales.iter().all(|s| *s > 0.0));
        assert!(q.codes.iter().all(|c| *c == 0));
    }
}

#[test]
fn bad_weights_are_named() {
    let said = |e: WeightError| e.to_string();
    let mut w = data(2, 8);
    w[11] = f32::NAN;
    let e = said(Matrix::new(&at(), &w, 2, 8).unwrap_err());
    assert!(e.contains("model.layers.0.mlp.up_proj") && e.contains("NaN in row 1, column 3"), "{e}");
    assert!(Matrix::new(&at(), &w, 3, 8).is_err() && Matrix::new(&at(), &[], 0, 0).is_err());
    w[11] = 0.0;
    let m = Matrix::new(&at(), &w, 2, 8).unwrap();
    assert_eq!((m.rows(), m.columns()), (2, 8));
    assert!(said(hqq(&at(), m, 3, (-8, 7)).unwrap_err()).contains("group size 3 does not divide the 8 columns"));
    assert!(said(affine(&at(), m, 8, (-129, 7)).unwrap_err()).contains("codes -129..=7"));
    assert!(said(mse(&at(), m, 8, (1, 7), None).unwrap_err()).contains("codes 1..=7"));
    assert!(said(mse(&at(), m, 8, (-8, 7), inputs(&[0.0; 7], &[1.0; 7])).unwrap_err()).contains("7 mean squares"));
    assert!(mse(&at(), m, 8, (-8, 7), inputs(&[0.0; 8], &[-1.0; 8])).is_err());
}

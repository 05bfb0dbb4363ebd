//! The inputs of the goldens, made as `tools/oracle/make_observer_goldens.py` makes them.

use serde_json::Value;

/// The file `name` of `tests/goldens`.
pub(crate) fn goldens(name: &str) -> Value {
    let path = format!("{}/tests/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

/// `float32` from its bits.
pub(crate) fn float(v: &Value) -> f32 {
    f32::from_bits(u32::try_from(v.as_u64().unwrap()).unwrap())
}

/// A list of `float32`.
pub(crate) fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(float).collect()
}

/// A list of integers.
pub(crate) fn ints(v: &Value) -> Vec<i64> {
    v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect()
}

/// The shape and elements of a step. `wave` are the 64 elements of the formula with a sine, which the file gives.
pub(crate) fn tensor(step: &Value, wave: &[f32]) -> (Vec<usize>, Vec<f32>) {
    let shape: Vec<usize> = ints(&step["shape"]).into_iter().map(|v| usize::try_from(v).unwrap()).collect();
    let n: usize = shape.iter().product();
    let (kind, scale, shift) = (step["kind"].as_str().unwrap(), float(&step["scale"]), float(&step["shift"]));
    if kind == "wave" {
        return (shape, wave[..n].iter().map(|x| x * scale + shift).collect());
    }
    let mut state = u32::try_from(step["seed"].as_u64().unwrap()).unwrap();
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as i32 - (1 << 23)) as f32 * 2f32.powi(-23)
    };
    let mut x: Vec<f32> = (0..n)
        .map(|_| {
            let u: [f32; 4] = std::array::from_fn(|_| draw());
            let mean = (((u[0] + u[1]) + u[2]) + u[3]) * 0.25;
            let v = match kind {
                "uniform" => u[0],
                "constant" => 0.0,
                "heavy" => (mean * mean) * mean,
                "relu" => mean.max(0.0),
                _ => mean,
            };
            v * scale + shift
        })
        .collect();
    match kind {
        "outlier" => x[n / 3] = 40.0,
        "inf" => (x[n / 3], x[n / 2]) = (f32::INFINITY, f32::NEG_INFINITY),
        _ => {}
    }
    (shape, x)
}

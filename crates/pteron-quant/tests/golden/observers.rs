//! Observers against torchao's and ExecuTorch's: states and parameters bit for bit.

use crate::common::{float, floats, goldens, ints, tensor};
use pteron_quant::TensorLabel;
use pteron_quant::format::{Granularity, QScheme};
use pteron_quant::observer::{Layout, Observer, ObserverState, QuantParams, ZeroPoint};
use pteron_quant::spec::{ObserverCtr, ObserverKind, QuantizationSpec};
use pteron_tensor::DType;
use serde_json::Value;

fn label() -> TensorLabel {
    TensorLabel::new("model.layers.0", "input 0")
}

fn dtype(case: &Value) -> DType {
    let name = case["dtype"].as_str().unwrap();
    DType::ALL.into_iter().find(|d| d.torch_name() == name).unwrap()
}

fn spec(case: &Value) -> QuantizationSpec {
    let mut observer = ObserverCtr::new(ObserverKind::from_name(case["observer"].as_str().unwrap()).unwrap());
    observer.eps = case["eps"].as_f64();
    observer.averaging_constant = case.get("averaging_constant").and_then(Value::as_f64);
    observer.reduce_range = case.get("reduce_range").and_then(Value::as_bool).unwrap_or(false);
    let mut qscheme = case.get("qscheme").and_then(Value::as_str).map(|s| QScheme::from_name(s).unwrap());
    if let Some(mapping) = case.get("mapping").and_then(Value::as_str) {
        let block: Vec<usize> = ints(&case["block_size"]).into_iter().map(|b| b as usize).collect();
        observer.granularity = Some(match case["granularity"].as_str() {
            Some("PerTensor") => Granularity::PerTensor,
            Some("PerAxis(0)") => Granularity::PerAxis(0),
            Some("PerAxis(1)") => Granularity::PerAxis(1),
            Some("PerGroup(2)") => Granularity::PerGroup(2),
            Some("PerToken") => Granularity::PerToken,
            _ => Granularity::PerBlock(block),
        });
        observer.no_clipping_error = mapping == "SYMMETRIC_NO_CLIPPING_ERR";
        qscheme = Some(if mapping == "ASYMMETRIC" { QScheme::PerBlockAffine } else { QScheme::PerBlockSymmetric });
    }
    QuantizationSpec {
        dtype: dtype(case),
        quant_min: case["quant_min"].as_i64(),
        quant_max: case["quant_max"].as_i64(),
        qscheme,
        ch_axis: case.get("ch_axis").and_then(Value::as_u64).map(|a| a as usize),
        observer,
        is_dynamic: false,
    }
}

fn observed(case: &Value, group: &Value, wave: &[f32]) -> Observer {
    let steps = case.get("steps").unwrap_or_else(|| &group["sequences"][case["sequence"].as_str().unwrap()]);
    let mut o = Observer::new(&spec(case)).unwrap();
    for step in steps.as_array().unwrap() {
        let (shape, data) = tensor(step, wave);
        o.observe(&label(), &shape, &data).unwrap();
    }
    o
}

fn same(got: &[f32], want: &[f32]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}

fn check_qparams(case: &Value, got: &QuantParams) {
    let shown = || {
        let mut c = case.clone();
        for key in ["scale", "zero_point", "min", "max"] {
            c.as_object_mut().unwrap().remove(key);
        }
        c
    };
    assert!(same(&got.scale, &floats(&case["scale"])), "{}: {:?} {:?}", shown(), got.scale, floats(&case["scale"]));
    match &got.zero_point {
        ZeroPoint::Float(z) => assert!(same(z, &floats(&case["zero_point"])), "{}: {z:?}", shown()),
        // Affine observers give their zero points as floats.
        ZeroPoint::Int(z) if case.get("mapping").is_some() => {
            let want: Vec<i64> = floats(&case["zero_point"]).into_iter().map(|v| v as i64).collect();
            assert_eq!(z, &want, "{}", shown());
        }
        ZeroPoint::Int(z) => assert_eq!(z, &ints(&case["zero_point"]), "{}", shown()),
    }
}

fn check_group(name: &str, least: usize, check_state: impl Fn(&Value, &Observer)) {
    let file = goldens("observers.json");
    let wave = floats(&file["wave"]);
    let group = &file[name];
    let cases = group["cases"].as_array().unwrap();
    assert!(cases.len() >= least, "{name}: {} cases", cases.len());
    for case in cases {
        let o = observed(case, group, &wave);
        check_state(case, &o);
        check_qparams(case, &o.calculate_qparams(&label()).unwrap());
    }
}

#[test]
fn per_tensor_observers() {
    check_group("per_tensor", 400, |case, o| {
        assert_eq!(o.ranges(&label()).unwrap(), [(float(&case["min"]), float(&case["max"]))], "{case}");
        assert_eq!(o.calculate_qparams(&label()).unwrap().layout, Layout::PerTensor);
    });
}

#[test]
fn per_channel_observers() {
    check_group("per_channel", 300, |case, o| {
        let (min, max): (Vec<f32>, Vec<f32>) = o.ranges(&label()).unwrap().into_iter().unzip();
        assert!(same(&min, &floats(&case["min"])) && same(&max, &floats(&case["max"])), "{case}");
        let axis = case["ch_axis"].as_u64().unwrap() as usize;
        assert_eq!(o.calculate_qparams(&label()).unwrap().layout, Layout::PerChannel { axis });
    });
}

#[test]
fn histograms() {
    check_group("histogram", 110, |case, o| {
        let ObserverState::Histogram(h) = o.state() else { panic!("no histogram") };
        let shown = (&case["sequence"], &case["dtype"], &case["qscheme"]);
        assert_eq!(h.range(), Some((float(&case["min"]), float(&case["max"]))), "{shown:?}");
        let bytes: Vec<u8> = h.counts().iter().flat_map(|c| c.to_le_bytes()).collect();
        assert_eq!(u64::from(crc32(&bytes)), case["histogram_crc32"].as_u64().unwrap(), "{shown:?}");
        let found = o.ranges(&label()).unwrap();
        assert_eq!(found, [(float(&case["new_min"]), float(&case["new_max"]))], "{shown:?}");
    });
}

#[test]
fn affine_observers() {
    check_group("affine", 300, |case, o| {
        let block: Vec<usize> = ints(&case["block_size"]).into_iter().map(|b| b as usize).collect();
        assert_eq!(o.calculate_qparams(&label()).unwrap().layout, Layout::PerBlock { block_size: block }, "{case}");
    });
}

#[test]
fn loss_observers() {
    check_group("loss", 8, |case, o| {
        let (min, max): (Vec<f32>, Vec<f32>) = o.ranges(&label()).unwrap().into_iter().unzip();
        assert!(same(&min, &floats(&case["min"])) && same(&max, &floats(&case["max"])), "{case}");
    });
}

/// The reflected CRC-32 of zip files.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    })
}

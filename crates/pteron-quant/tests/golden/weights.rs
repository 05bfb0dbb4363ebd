//! Weight algorithms against torchao's and ExecuTorch's: codes and scales bit for bit.

use crate::common::{floats, goldens, ints, tensor};
use pteron_quant::TensorLabel;
use pteron_quant::weight::{Matrix, affine, hqq, int8};

#[test]
fn codes_and_scales_are_torchaos() {
    let file = goldens("weights.json");
    let wave = floats(&file["wave"]);
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    let label = TensorLabel::new("w", "weight");
    for case in cases {
        let (shape, data) = tensor(&case["input"], &wave);
        let w = Matrix::new(&label, &data, shape[0], shape[1]).unwrap();
        let group = case["group"].as_u64().unwrap() as usize;
        let range = (case["quant_min"].as_i64().unwrap(), case["quant_max"].as_i64().unwrap());
        let q = match case["algorithm"].as_str().unwrap() {
            "affine" => affine(&label, w, group, range).unwrap(),
            "hqq" => hqq(&label, w, group, range).unwrap(),
            "int8" => int8(&label, w).unwrap(),
            other => panic!("{other}"),
        };
        let shown = (&case["input"], &case["algorithm"], group, range);
        assert_eq!(q.scales, floats(&case["scale"]), "{shown:?}");
        let codes: Vec<i64> = q.codes.iter().map(|&c| i64::from(c)).collect();
        assert_eq!(codes, ints(&case["codes"]), "{shown:?}");
        assert_eq!(q.dequantize().len(), data.len());
    }
}

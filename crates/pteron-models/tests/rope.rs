//! Rotary frequencies and tables against transformers' (`goldens/rope.py`) and against a program of ExecuTorch's exporter.

use pteron_models::{ModelConfig, rope};
use pteron_tensor::{TensorSource, read_all};
use serde_json::Value;

fn goldens() -> Value {
    serde_json::from_str(include_str!("goldens/rope.json")).unwrap()
}

fn floats(bits: &Value) -> Vec<f32> {
    bits.as_array().unwrap().iter().map(|b| f32::from_bits(u32::try_from(b.as_u64().unwrap()).unwrap())).collect()
}

/// Steps between two floats of the same sign.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

#[test]
fn frequencies_are_those_of_transformers() {
    let goldens = goldens();
    let cases = goldens["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 9);
    for (name, case) in cases {
        let config = ModelConfig::from_hf(&case["config"]).unwrap();
        let found = rope::inv_freq(&config.rope, config.head_dim);
        let expected = floats(&case["inv_freq_bits"]);
        assert_eq!(found.len(), expected.len(), "{name}");
        let off: Vec<u32> = found.iter().zip(&expected).map(|(a, b)| ulps(*a, *b)).collect();
        // PyTorch's vectorized power is within one unit of the last place of the rounded one used here.
        assert!(off.iter().all(|u| *u <= 1) && off.iter().sum::<u32>() <= 1, "{name}: {off:?}");
        let factor = case["attention_factor"].as_f64().unwrap();
        assert!((rope::attention_factor(&config.rope) - factor).abs() <= 1e-15 * factor, "{name}");
    }
}

#[test]
fn tables_are_those_of_transformers() {
    let goldens = goldens();
    let positions: Vec<usize> = goldens["positions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| usize::try_from(p.as_u64().unwrap()).unwrap())
        .collect();
    for (name, case) in goldens["cases"].as_object().unwrap() {
        let config = ModelConfig::from_hf(&case["config"]).unwrap();
        let [cos, sin] = rope::RopeTable::pair(&config.rope, config.head_dim, 8192);
        let half = config.head_dim / 2;
        for (table, bits) in [(&cos, "cos_bits"), (&sin, "sin_bits")] {
            let expected = floats(&case[bits]);
            for (row, &position) in expected.chunks(half).zip(&positions) {
                let mut bytes = vec![0; half * 4];
                table.read_rows(position..position + 1, &mut bytes).unwrap();
                let found: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                for (j, (a, b)) in found.iter().zip(row).enumerate() {
                    assert!((a - b).abs() <= 3e-7, "{name} {bits} position {position} pair {j}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn rows_are_read_in_any_order() {
    let config = ModelConfig::from_hf(&goldens()["cases"]["yarn_given"]["config"]).unwrap();
    let [cos, _] = rope::RopeTable::pair(&config.rope, config.head_dim, 9);
    let all = read_all(&cos).unwrap();
    let n = cos.row_bytes();
    let mut part = vec![0; 2 * n];
    cos.read_rows(4..6, &mut part).unwrap();
    assert_eq!(part, all[4 * n..6 * n]);
    // The attention factor is in the table: 1.25 · cos 0.
    assert_eq!(f32::from_le_bytes(all[..4].try_into().unwrap()), 1.25);
    assert!(cos.read_rows(8..10, &mut part).is_err());
    assert!(cos.read_rows(0..1, &mut part).is_err());
}

/// ExecuTorch's exporter stores its tables as constants of the program: rows of 8 floats, 32 of them.
#[test]
fn tables_are_in_a_program_of_executorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/executorch/v1_nokv.pte");
    let program = std::fs::read(path).unwrap();
    let params: Value = serde_json::from_str(
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/executorch/params.json"))
            .unwrap(),
    )
    .unwrap();
    let config = ModelConfig::from_meta(&params, None).unwrap();
    for table in rope::RopeTable::pair(&config.rope, config.head_dim, 32) {
        let ours: Vec<f32> =
            read_all(&table).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let size = ours.len() * 4;
        assert_eq!(size, 1024);
        // Constants of the segment are aligned to 16 bytes. The best match is the table itself.
        let differences = |at: usize| -> usize {
            let theirs = program[at..at + size].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            ours.iter().zip(theirs).filter(|(a, b)| (*a - b).abs() > 1.2e-7 || b.is_nan()).count()
        };
        let found = (0..program.len() - size).step_by(16).find(|&at| differences(at) == 0);
        let at = found.unwrap_or_else(|| panic!("{} is not in the program", table.label()));
        let theirs = program[at..at + size].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let equal = ours.iter().zip(theirs).filter(|(a, b)| *a == b).count();
        // The others differ by the last place, in which PyTorch's vectorized sine and cosine are not rounded.
        assert!(equal * 10 >= ours.len() * 9);
    }
}

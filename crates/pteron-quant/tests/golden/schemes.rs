//! The table of schemes against ExecuTorch's own quantizers, field by field.

use crate::common::goldens;
use pteron_quant::annotation::BiasSpec;
use pteron_quant::scheme::{AppliesTo, Compat, Scheme};
use pteron_quant::spec::QuantizationSpec;
use serde_json::{Value, json};

/// The fields as the file has them, but that `eps` is read from Python's digits, exactly.
fn theirs(v: &Value) -> Value {
    let mut v = v.clone();
    if let Some(eps) = v.get_mut("eps")
        && let Some(text) = eps.as_str()
    {
        *eps = json!(text.parse::<f64>().unwrap().to_bits());
    }
    v
}

fn fields(spec: Option<&QuantizationSpec>) -> Value {
    let Some(s) = spec else { return Value::Null };
    json!({
        "dtype": s.dtype.torch_name(),
        "quant_min": s.quant_min,
        "quant_max": s.quant_max,
        "qscheme": s.qscheme.map(|q| q.name()),
        "ch_axis": s.ch_axis,
        "is_dynamic": s.is_dynamic,
        "observer": s.observer.kind.name(),
        "fake_quant": s.observer.fake_quant.map(|f| f.name()),
        "eps": s.observer.eps.map(f64::to_bits),
        "averaging_constant": s.observer.averaging_constant,
        "reduce_range": s.observer.reduce_range,
    })
}

#[test]
fn schemes_have_executorchs_numbers() {
    let file = goldens("schemes.json");
    let schemes = file["schemes"].as_object().unwrap();
    assert_eq!(schemes.len(), 19);
    for (name, rules) in schemes {
        let specs = Scheme::find(name).unwrap().specs(Compat::ExecuTorch1_5).unwrap();
        for (rule, config) in rules.as_object().unwrap() {
            if rule == "per_channel_on" {
                let convolutions = config.as_array().unwrap();
                let ours = specs.rule("per_channel").map(|r| r.applies_to);
                match convolutions.len() {
                    0 => assert_eq!(ours, None, "{name}"),
                    n => assert_eq!((n, ours), (6, Some(AppliesTo::ConvAndLinear)), "{name}"),
                }
                continue;
            }
            // 16a16w has a config by channel that no operator takes.
            let Some(ours) = specs.rule(rule) else {
                assert_eq!((name.as_str(), rule.as_str()), ("qnn_16a16w", "per_channel"));
                continue;
            };
            let bias = match &ours.config.bias {
                Some(BiasSpec::Derived) => json!({"derived": true}),
                Some(BiasSpec::Observed(s)) => fields(Some(s)),
                None => Value::Null,
            };
            assert_eq!(
                fields(ours.config.input_activation.as_ref()),
                theirs(&config["input_activation"]),
                "{name} {rule}"
            );
            assert_eq!(
                fields(ours.config.output_activation.as_ref()),
                theirs(&config["output_activation"]),
                "{name} {rule}"
            );
            assert_eq!(fields(ours.config.weight.as_ref()), theirs(&config["weight"]), "{name} {rule}");
            assert_eq!(bias, theirs(&config["bias"]), "{name} {rule}");
        }
        assert_eq!(specs.rules.len(), rules.as_object().unwrap().keys().filter(|r| specs.rule(r).is_some()).count());
    }
}

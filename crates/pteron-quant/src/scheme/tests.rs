use super::*;
use crate::format::Granularity;
use crate::spec::ObserverKind;

#[test]
fn every_row_is_a_whole_scheme() {
    for scheme in Scheme::all() {
        for compat in Compat::ALL {
            let Ok(specs) = scheme.specs(compat) else {
                assert!(scheme.unsupported().is_some() || compat == Compat::ExecuTorch0_5, "{}", scheme.name);
                continue;
            };
            assert!(specs.rule("operator").is_some(), "{}", scheme.name);
            for rule in &specs.rules {
                let mut config = rule.config.clone();
                if let Some(w) = &mut config.weight
                    && w.observer.kind == ObserverKind::PerBlockParam
                {
                    assert!(config.block_size.is_none() && w.observer.granularity.is_none());
                    w.observer.granularity = Some(Granularity::PerBlock(vec![1, 32]));
                }
                assert_eq!(config.validate(), Ok(()), "{} {}", scheme.name, rule.name);
            }
        }
    }
    let names: Vec<_> = Scheme::all().iter().map(|s| s.name).collect();
    for (i, n) in names.iter().enumerate() {
        assert!(!names[..i].contains(n), "{n} twice");
    }
}

#[test]
fn unknown_names_get_suggestions() {
    let said = |name: &str| Scheme::find(name).unwrap_err().to_string();
    assert!(said("qnn_8a8").contains("did you mean qnn_8a8w"), "{}", said("qnn_8a8"));
    assert!(said("qnn-16A4W").contains("qnn_16a4w"), "{}", said("qnn-16A4W"));
    assert!(said("xnnpack_dynamc").contains("did you mean xnnpack_dynamic"));
    assert!(said("coreml_8a_c4").contains("coreml_8a_c4w"));
    assert!(said("vulkan").contains("vulkan_8w"));
    assert!(!said("zzzzzz").contains("did you mean"));
    assert!(!said(&"q".repeat(100_000)).contains("did you mean"));
    assert!(!said("").contains("did you mean"));
}

#[test]
fn lists_are_checked() {
    let names = |t| Scheme::parse_list(t).map(|l| l.into_iter().map(|s| s.name).collect::<Vec<_>>());
    assert_eq!(names("embedding, xnnpack_dynamic"), Ok(vec!["embedding", "xnnpack_dynamic"]));
    let conflict = names("xnnpack_dynamic,xnnpack_dynamic_qc4").unwrap_err();
    assert_eq!(conflict, SchemeError::Conflict("xnnpack_dynamic", "xnnpack_dynamic_qc4"));
    assert!(matches!(names("embedding,embedding"), Err(SchemeError::List(_))));
    assert!(matches!(names("embedding,"), Err(SchemeError::List(_))));
    assert!(matches!(names(""), Err(SchemeError::List(_))));
}

#[test]
fn releases_differ_where_executorch_does() {
    let scheme = Scheme::find("qnn_16a4w").unwrap();
    let eps = |c: Compat, rule: &str| {
        let s = scheme.specs(c).unwrap();
        s.rule(rule).unwrap().config.input_activation.as_ref().unwrap().observer.eps.unwrap()
    };
    assert_eq!(eps(Compat::ExecuTorch0_5, "operator"), 2f64.powi(-20));
    assert_eq!(eps(Compat::ExecuTorch0_5, "per_channel"), 2f64.powi(-12));
    assert_eq!(eps(Compat::ExecuTorch1_5, "operator"), 0.0001 / 65535.0);
    let old = Scheme::find("qnn_8a8w").unwrap().specs(Compat::ExecuTorch0_5).unwrap();
    let config = &old.rule("per_channel").unwrap().config;
    assert_eq!(config.input_activation.as_ref().unwrap().quant_min, None);
    assert_eq!(config.weight.as_ref().unwrap().observer.kind, ObserverKind::PerChannelMinMax);
    let later = Scheme::find("qnn_16a4w_block").unwrap().specs(Compat::ExecuTorch0_5);
    assert_eq!(later, Err(SchemeError::NotInRelease { name: "qnn_16a4w_block" }));
    assert!(
        Scheme::find("openvino_4wo").unwrap().specs(Compat::ExecuTorch1_5).unwrap_err().to_string().contains("NNCF")
    );
}

#[test]
fn explanations_print_every_field() {
    let text = explain(Scheme::find("qnn_8a8w").unwrap(), Compat::ExecuTorch0_5).unwrap().to_string();
    for line in [
        "qnn_8a8w (qnn, numbers of et0.5)",
        "needs calibration data",
        "[per_channel] conv1d, conv2d",
        "input_activation: 8-bit unsigned [0, 255] as uint8, per_tensor_affine",
        "    quant_min          None (so 0)",
        "    eps                2^-12",
        "    observer           PerChannelMinMaxObserver",
        "    averaging_constant None (so 1e-2)",
        "bias: derived: scale[c]",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let text = explain(Scheme::find("xnnpack_dynamic").unwrap(), Compat::ExecuTorch1_5).unwrap();
    assert!(!text.needs_calibration);
    assert!(text.to_string().contains("range chosen at each call"));
    assert!(text.to_string().contains("output_activation: not quantized"));
}

#[test]
fn compat_names() {
    for c in Compat::ALL {
        assert_eq!(Compat::from_name(c.name()), Some(c));
    }
    assert_eq!(Compat::default().name(), "et1.5");
}

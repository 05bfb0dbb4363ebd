use half::f16;
use pteron_tensor::Tensor;

use super::*;
use crate::format::IntFormat;
use crate::format::QScheme::{PerChannelSymmetric, PerTensorAffine};
use crate::spec::ObserverCtr;

fn spec(kind: ObserverKind, qscheme: crate::format::QScheme) -> QuantizationSpec {
    QuantizationSpec {
        dtype: DType::I8,
        quant_min: Some(-127),
        quant_max: Some(127),
        qscheme: Some(qscheme),
        ch_axis: Some(0),
        observer: ObserverCtr::new(kind),
        is_dynamic: false,
    }
}

fn at() -> TensorLabel {
    TensorLabel::new("model.layers.3.mlp", "input 1")
}

#[test]
fn an_observer_without_data_names_the_tensor() {
    for (kind, scheme) in [
        (ObserverKind::MinMax, PerTensorAffine),
        (ObserverKind::MovingAverageMinMax, PerTensorAffine),
        (ObserverKind::Histogram, PerTensorAffine),
        (ObserverKind::ShardableHistogram, PerTensorAffine),
        (ObserverKind::PerChannelMinMax, PerChannelSymmetric),
        (ObserverKind::MovingAveragePerChannelMinMax, PerChannelSymmetric),
    ] {
        let mut o = Observer::new(&spec(kind, scheme)).unwrap();
        o.observe(&at(), &[0, 4], &[]).unwrap();
        assert!(!o.has_data(), "{kind}");
        let said = o.calculate_qparams(&at()).unwrap_err().to_string();
        assert!(
            said.contains("saw no data") && said.contains("model.layers.3.mlp") && said.contains("input 1"),
            "{said}"
        );
    }
}

#[test]
fn nan_and_infinity_name_the_tensor() {
    for (kind, scheme) in [
        (ObserverKind::MinMax, PerTensorAffine),
        (ObserverKind::MovingAverageMinMax, PerTensorAffine),
        (ObserverKind::Histogram, PerTensorAffine),
        (ObserverKind::PerChannelMinMax, PerChannelSymmetric),
        (ObserverKind::MovingAveragePerChannelMinMax, PerChannelSymmetric),
    ] {
        let mut o = Observer::new(&spec(kind, scheme)).unwrap();
        let e = o.observe(&at(), &[2, 2], &[1.0, 2.0, f32::NAN, 3.0]).unwrap_err();
        assert_eq!(e, ObserveError::NotANumber(at()), "{kind}");
        assert!(!o.has_data(), "{kind}");
        o.observe(&at(), &[2, 2], &[1.0, 2.0, f32::INFINITY, 3.0]).unwrap();
        let qparams = o.calculate_qparams(&at());
        match kind {
            ObserverKind::Histogram => assert_eq!(o.ranges(&at()).unwrap().len(), 1),
            _ => assert!(matches!(qparams, Err(ObserveError::Infinite { .. })), "{kind}: {qparams:?}"),
        }
    }
}

#[test]
fn shapes_must_hold_the_data() {
    let mut o = Observer::new(&spec(ObserverKind::MinMax, PerTensorAffine)).unwrap();
    assert!(o.observe(&at(), &[2, 3], &[1.0; 5]).unwrap_err().to_string().contains("5 elements"));
    assert!(o.observe(&at(), &[usize::MAX, 3], &[1.0; 5]).is_err());
    let mut o = Observer::new(&spec(ObserverKind::PerChannelMinMax, PerChannelSymmetric)).unwrap();
    assert!(o.observe(&at(), &[5], &[1.0; 5]).unwrap_err().to_string().contains("two axes"));
    o.observe(&at(), &[5, 1], &[1.0; 5]).unwrap();
    assert!(o.observe(&at(), &[1, 5], &[1.0; 5]).unwrap_err().to_string().contains("earlier steps"));
}

#[test]
fn half_precision_and_strides_are_read() {
    let mut o = Observer::new(&spec(ObserverKind::MinMax, PerTensorAffine)).unwrap();
    let t = Tensor::of(&[3], &[f16::from_f32(-1.5), f16::from_f32(0.25), f16::from_f32(2.0)]).unwrap();
    o.observe_view(&at(), &t.view()).unwrap();
    assert_eq!(o.ranges(&at()).unwrap(), [(-1.5, 2.0)]);
    let t = Tensor::of(&[2, 2], &[1f32, 9.0, 3.0, 4.0]).unwrap();
    let column = View::new(DType::F32, &[2], &[2], t.bytes()).unwrap();
    let mut o = Observer::new(&spec(ObserverKind::MinMax, PerTensorAffine)).unwrap();
    o.observe_view(&at(), &column).unwrap();
    assert_eq!(o.ranges(&at()).unwrap(), [(1.0, 3.0)]);
    let ints = Tensor::of(&[1], &[1i64]).unwrap();
    assert!(o.observe_view(&at(), &ints.view()).unwrap_err().to_string().contains("int64"));
}

#[test]
fn parameter_observers_look_once() {
    let mut o = Observer::new(&spec(ObserverKind::PerChannelParam, PerChannelSymmetric)).unwrap();
    o.observe(&at(), &[2, 2], &[1.0, -2.0, 3.0, 0.5]).unwrap();
    o.observe(&at(), &[2, 2], &[100.0; 4]).unwrap();
    assert_eq!(o.ranges(&at()).unwrap(), [(-2.0, 1.0), (0.5, 3.0)]);
}

#[test]
fn observers_without_parameters_say_why() {
    let placeholder = Observer::new(&spec(ObserverKind::Placeholder, PerTensorAffine)).unwrap();
    assert!(placeholder.has_data());
    assert!(placeholder.calculate_qparams(&at()).unwrap_err().to_string().contains("at run time"));
    let mut recording = Observer::new(&spec(ObserverKind::Recording, PerTensorAffine)).unwrap();
    recording.observe(&at(), &[2], &[1.0, 2.0]).unwrap();
    assert_eq!(recording.state(), &ObserverState::Recording(vec![(vec![2], vec![1.0, 2.0])]));
    assert!(recording.calculate_qparams(&at()).unwrap_err().to_string().contains("records"));
}

#[test]
fn fixed_parameters() {
    let o = Observer::fixed(&FixedQParamsQuantizationSpec {
        dtype: DType::I32,
        scale: 1.0 / 32768.0,
        zero_point: 32768,
        quant_min: Some(0),
        quant_max: Some(65535),
        qscheme: Some(PerTensorAffine),
        is_dynamic: false,
    })
    .unwrap();
    let p = o.calculate_qparams(&at()).unwrap();
    assert_eq!((p.scale[0], p.zero_point), (1.0 / 32768.0, ZeroPoint::Int(vec![32768])));
}

#[test]
fn a_shardable_histogram_takes_two_passes() {
    let mut o = Observer::new(&spec(ObserverKind::ShardableHistogram, PerTensorAffine)).unwrap();
    let data: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
    o.observe(&at(), &[1000], &data).unwrap();
    assert!(o.calculate_qparams(&at()).unwrap_err().to_string().contains("second pass"));
    let (min, max) = match o.state() {
        ObserverState::Shardable(h) => h.range().unwrap(),
        _ => panic!("no histogram"),
    };
    let mut counting = ShardableHistogram::new(DEFAULT_BINS);
    assert!(counting.fix_range(&at(), 0.0, f32::INFINITY).is_err());
    counting.fix_range(&at(), min, max).unwrap();
    assert!(counting.fix_range(&at(), min, max).is_err());
    o.restore(ObserverState::Shardable(counting), &at()).unwrap();
    o.observe(&at(), &[1000], &data).unwrap();
    let mut growing = Observer::new(&spec(ObserverKind::Histogram, PerTensorAffine)).unwrap();
    growing.observe(&at(), &[1000], &data).unwrap();
    assert_eq!(o.calculate_qparams(&at()), growing.calculate_qparams(&at()));
    assert!(o.observe(&at(), &[1], &[7.0]).unwrap_err().to_string().contains("beyond its range"));
}

#[test]
fn ranges_too_wide_for_bins_are_errors() {
    let mut o = Observer::new(&spec(ObserverKind::Histogram, PerTensorAffine)).unwrap();
    let e = o.observe(&at(), &[2], &[-3e38, 3e38]).unwrap_err();
    assert!(matches!(e, ObserveError::TooWide { .. }), "{e}");
    // Neighbours so far out that a step of 1 changes nothing.
    let mut o = Observer::new(&spec(ObserverKind::Histogram, PerTensorAffine)).unwrap();
    assert!(o.observe(&at(), &[2], &[1e30, 1e30]).is_err());
}

#[test]
fn other_observers_states_are_refused() {
    let mut o = Observer::new(&spec(ObserverKind::MinMax, PerTensorAffine)).unwrap();
    assert!(o.restore(ObserverState::Steps(vec![(0.0, 1.0)]), &at()).is_err());
    let mut h = Observer::new(&spec(ObserverKind::Histogram, PerTensorAffine)).unwrap();
    assert!(h.restore(ObserverState::Histogram(GrowingHistogram::new(16)), &at()).is_err());
    o.restore(ObserverState::Range { min: -1.0, max: 2.0 }, &at()).unwrap();
    assert_eq!(o.ranges(&at()).unwrap(), [(-1.0, 2.0)]);
}

#[test]
fn biases_follow_activation_and_weight() {
    let format = IntFormat::full(DType::I32).unwrap();
    let params = |scale: &[f32], layout| QuantParams {
        scale: scale.to_vec(),
        zero_point: ZeroPoint::Int(vec![0; scale.len()]),
        layout,
        format,
    };
    let act = params(&[0.5], Layout::PerTensor);
    let channel = params(&[1.0, 3.0], Layout::PerChannel { axis: 0 });
    let b = bias_qparams(&act, &channel, 2, 1, format).unwrap();
    assert_eq!((b.scale, b.layout), (vec![0.5, 1.5], Layout::PerChannel { axis: 0 }));
    let grouped = bias_qparams(&act, &channel, 4, 2, format).unwrap();
    assert_eq!(grouped.scale, [0.5, 0.5, 1.5, 1.5]);
    let block = params(&[1.0, 4.0, 2.0, 8.0], Layout::PerBlock { block_size: vec![1, 32] });
    assert_eq!(bias_qparams(&act, &block, 2, 1, format).unwrap().scale, [0.125, 0.25]);
    assert_eq!(bias_qparams(&act, &block, 3, 1, format), None);
    assert_eq!(bias_qparams(&channel, &channel, 2, 1, format), None);
}

#[test]
fn sums_cascade() {
    // 2^24 and ones: one after the other the ones are lost, in lanes they are not.
    let mut x = vec![1f32; 2048];
    x[0] = 16_777_216.0;
    assert!(torch_sum::sum(&x) > 16_777_216.0);
    assert_eq!(torch_sum::sum(&[1.5; 7]), 10.5);
    assert_eq!(torch_sum::sum(&[]), 0.0);
    assert_eq!(torch_sum::sum_column(3, 70, 40, |i| i as f32), 780.0);
    assert_eq!(torch_sum::sum_column(69, 70, 41, |i| i as f32), 820.0);
}

use proptest::prelude::*;
use pteron_tensor::DType;

use super::*;
use crate::format::{Granularity, QScheme};
use crate::spec::{ObserverCtr, QuantizationSpec};

fn header(shard: Shard) -> StateHeader {
    StateHeader {
        model: [1; 32],
        kernel_tier: "avx512".to_owned(),
        recipe: [3; 32],
        scheme: "xnnpack".to_owned(),
        data: [2; 32],
        windows: [4; 32],
        data_tokens: 4096,
        window_tokens: 64,
        shard,
        held_back: vec![vec![1, 2, 3], vec![4, 5, 6]],
    }
}

fn observer(kind: ObserverKind) -> Observer {
    let (qscheme, granularity) = match kind {
        ObserverKind::PerBlockParam => (QScheme::PerBlockSymmetric, Some(Granularity::PerBlock(vec![1, 4]))),
        k if k.is_per_channel() => (QScheme::PerChannelSymmetric, None),
        k if k.is_affine() => (QScheme::PerBlockAffine, Some(Granularity::PerGroup(4))),
        _ => (QScheme::PerTensorAffine, None),
    };
    let mut ctr = ObserverCtr::new(kind);
    ctr.granularity = granularity;
    let spec = QuantizationSpec {
        dtype: DType::I8,
        quant_min: None,
        quant_max: None,
        qscheme: Some(qscheme),
        ch_axis: Some(0),
        observer: ctr,
        is_dynamic: false,
    };
    Observer::new(&spec).unwrap()
}

fn window(w: u64, at: usize) -> Vec<f32> {
    (0..24).map(|i| ((w * 31 + i) as f32 * 0.37 + at as f32).sin() * (1.0 + w as f32 * 0.1)).collect()
}

fn label(kind: ObserverKind) -> TensorLabel {
    TensorLabel::new("model.layers.0", kind.name())
}

/// The states of a run's shards: parameters look at the same tensor, activations at one each window.
fn shard(index: u32, count: u32, total: u64, kinds: &[ObserverKind]) -> CalibrationState {
    let shard = Shard::of(index, count, total).unwrap();
    let mut state = CalibrationState::new(header(shard));
    for &kind in kinds {
        let mut o = observer(kind);
        let parameters = matches!(
            kind,
            ObserverKind::PerChannelParam
                | ObserverKind::PerChannelParamWithLossEvaluation
                | ObserverKind::PerBlockParam
        );
        let passes = if kind == ObserverKind::ShardableHistogram { 2 } else { 1 };
        for pass in 0..passes {
            if pass == 1 {
                let mut h = crate::observer::ShardableHistogram::new(crate::observer::DEFAULT_BINS);
                h.fix_range(&label(kind), -10.0, 10.0).unwrap();
                o.restore(ObserverState::Shardable(h), &label(kind)).unwrap();
            }
            for w in shard.first_window..shard.end_window {
                let w = if parameters { 0 } else { w };
                o.observe(&label(kind), &[3, 8], &window(w, kind as usize)).unwrap();
            }
        }
        state.insert(label(kind), &o).unwrap();
    }
    state
}

fn shardable() -> Vec<ObserverKind> {
    ObserverKind::ALL.into_iter().filter(|k| k.is_shardable() && *k != ObserverKind::FixedQParams).collect()
}

#[test]
fn shards_merge_to_the_bytes_of_one_run() {
    let kinds = shardable();
    let whole = shard(1, 1, 11, &kinds).to_bytes().unwrap();
    for count in [1, 2, 4, 7, 11, 13] {
        let mut shards: Vec<_> = (1..=count)
            .map(|i| CalibrationState::from_bytes(&shard(i, count, 11, &kinds).to_bytes().unwrap()).unwrap())
            .collect();
        shards.reverse();
        let merged = CalibrationState::merge(&shards).unwrap();
        assert_eq!(merged.header.shard, Shard::whole(11));
        assert!(merged.to_bytes().unwrap() == whole, "{count} shards");
    }
}

#[test]
fn a_histogram_that_grows_is_not_sharded() {
    let mut state = CalibrationState::new(header(Shard::of(1, 2, 8).unwrap()));
    let e = state.insert(label(ObserverKind::Histogram), &observer(ObserverKind::Histogram)).unwrap_err();
    assert!(
        e.to_string().contains("depends on the order of the data") && e.to_string().contains("model.layers.0"),
        "{e}"
    );
    let whole = shard(1, 1, 5, &[ObserverKind::Histogram, ObserverKind::Recording]);
    let read = CalibrationState::from_bytes(&whole.to_bytes().unwrap()).unwrap();
    assert_eq!(read, whole);
    assert_eq!(CalibrationState::merge(&[read]).unwrap(), whole);
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let kinds = [ObserverKind::MinMax];
    let good = || [shard(1, 3, 9, &kinds), shard(2, 3, 9, &kinds), shard(3, 3, 9, &kinds)];
    assert!(CalibrationState::merge(&good()).is_ok());
    let said = |change: fn(&mut Vec<CalibrationState>)| {
        let mut shards = good().to_vec();
        change(&mut shards);
        CalibrationState::merge(&shards).unwrap_err().to_string()
    };
    assert!(said(|s| s[1].header.model = [9; 32]).contains("their models differ (010101010101 and 090909090909)"));
    assert!(said(|s| s[1].header.kernel_tier = "avx2".to_owned()).contains("kernel tiers differ (avx512 and avx2)"));
    let other_scheme = |s: &mut Vec<CalibrationState>| {
        (s[1].header.recipe, s[1].header.scheme) = ([9; 32], "qnn_8a8w".to_owned());
    };
    assert!(said(other_scheme).contains("their schemes differ (xnnpack and qnn_8a8w)"));
    assert!(said(|s| s[1].header.recipe = [9; 32]).contains("schemes differ (030303030303 and 090909090909)"));
    assert!(said(|s| s[1].header.windows = [9; 32]).contains("choices of windows differ"));
    assert!(said(|s| s[1].header.held_back.clear()).contains("choices of windows differ"));
    assert!(said(|s| s[2].header.data = [0; 32]).contains("calibration data differ"));
    assert!(said(|s| s[2].header.window_tokens = 7).contains("window lengths differ (64 and 7)"));
    assert!(said(|s| s[2].header.shard.total_windows = 10).contains("numbers of windows differ"));
    assert!(said(|s| s[2].header.shard.count = 4).contains("numbers of shards differ"));
    assert!(said(|s| drop(s.remove(1))).contains("windows 3..6 of 9 are missing"));
    assert!(said(|s| drop(s.pop())).contains("windows 6..9 of 9 are missing"));
    assert!(said(|s| drop(s.remove(0))).contains("windows 0..3 of 9 are missing"));
    assert!(said(|s| s.push(s[1].clone())).contains("shards 2 and 2 overlap: both have window 3"));
    assert!(said(|s| s[1].header.shard.first_window = 2).contains("shards 1 and 2 overlap"));
    assert!(said(|s| s[1].header.shard.index = 0).contains("shard 0/3"));
    assert!(said(Vec::clear).contains("no calibration state"));
    assert!(
        said(|s| drop(s[0].insert(TensorLabel::new("a", "b"), &observer(ObserverKind::MinMax))))
            .contains("and not in shard 2")
    );
    assert!(
        said(|s| drop(s[2].insert(TensorLabel::new("a", "b"), &observer(ObserverKind::MinMax))))
            .contains("in shard 3 and not in shard 1")
    );
    let other = |s: &mut Vec<CalibrationState>| {
        s[1] = CalibrationState::new(s[1].header.clone());
        s[1].insert(label(ObserverKind::MinMax), &observer(ObserverKind::MovingAverageMinMax)).unwrap();
    };
    assert!(said(other).contains("the observers differ"));
}

#[test]
fn parameters_must_be_the_same_in_all_shards() {
    let kinds = [ObserverKind::PerChannelParam];
    let mut second = shard(2, 2, 4, &kinds);
    let mut o = observer(ObserverKind::PerChannelParam);
    o.observe(&label(ObserverKind::PerChannelParam), &[3, 8], &[9.0; 24]).unwrap();
    second.entries.clear();
    second.insert(label(ObserverKind::PerChannelParam), &o).unwrap();
    let e = CalibrationState::merge(&[shard(1, 2, 4, &kinds), second]).unwrap_err();
    assert!(e.to_string().contains("the parameters differ"), "{e}");
}

#[test]
fn histograms_of_different_passes_do_not_merge() {
    let kinds = [ObserverKind::ShardableHistogram];
    let mut first_pass = shard(2, 2, 4, &kinds);
    first_pass.entries.clear();
    first_pass.insert(label(kinds[0]), &observer(kinds[0])).unwrap();
    let e = CalibrationState::merge(&[shard(1, 2, 4, &kinds), first_pass]).unwrap_err();
    assert!(e.to_string().contains("the pass that counts"), "{e}");
}

#[test]
fn windows_are_divided_without_gaps() {
    for total in [0u64, 1, 5, 64, u64::MAX] {
        for count in [1u32, 2, 3, 7, 64] {
            let mut next = 0;
            for i in 1..=count {
                let s = Shard::of(i, count, total).unwrap();
                assert_eq!(s.first_window, next);
                next = s.end_window;
            }
            assert_eq!(next, total);
        }
    }
    assert_eq!(Shard::of(0, 3, 9), None);
    assert_eq!(Shard::of(4, 3, 9), None);
}

fn sample() -> Vec<u8> {
    let mut kinds = shardable();
    kinds.extend([ObserverKind::Histogram, ObserverKind::Recording]);
    shard(1, 1, 3, &kinds).to_bytes().unwrap()
}

#[test]
fn other_versions_and_files_are_named() {
    let mut bytes = sample();
    assert_eq!(CalibrationState::from_bytes(b"no state"), Err(StateError::NotAState));
    assert_eq!(CalibrationState::from_bytes(b""), Err(StateError::NotAState));
    bytes[8] = 7;
    assert_eq!(CalibrationState::from_bytes(&bytes), Err(StateError::Version { found: 7 }));
}

#[test]
fn every_prefix_and_every_flipped_byte_is_refused() {
    let bytes =
        shard(1, 2, 6, &[ObserverKind::MinMax, ObserverKind::MovingAveragePerChannelMinMax]).to_bytes().unwrap();
    for n in 0..bytes.len() {
        assert!(CalibrationState::from_bytes(&bytes[..n]).is_err(), "{n} bytes");
        let mut flipped = bytes.clone();
        flipped[n] ^= 0x41;
        assert!(CalibrationState::from_bytes(&flipped).is_err(), "byte {n}");
    }
    assert!(CalibrationState::from_bytes(&[bytes, vec![0]].concat()).is_err());
}

#[test]
fn names_have_limits() {
    let mut state = CalibrationState::new(header(Shard::whole(1)));
    state.insert(TensorLabel::new("m".repeat(5000), ""), &observer(ObserverKind::MinMax)).unwrap();
    assert!(state.to_bytes().unwrap_err().to_string().contains("5000 bytes"));
    let mut state = CalibrationState::new(header(Shard::whole(1)));
    state.insert(TensorLabel::new("m", "p"), &observer(ObserverKind::MinMax)).unwrap();
    let twice = state.insert(TensorLabel::new("m", "p"), &observer(ObserverKind::MinMax));
    assert_eq!(twice, Err(StateError::DuplicateLabel(TensorLabel::new("m", "p"))));
    assert_eq!((state.len(), state.is_empty()), (1, false));
}

proptest! {
    /// Whatever stands between the header and a right checksum: an answer, no panic, no large allocation.
    #[test]
    fn hostile_bytes_with_a_right_checksum(
        from in 12usize..2000,
        put in proptest::collection::vec(any::<u8>(), 1..24),
        cut in 0usize..400,
    ) {
        let mut bytes = sample();
        bytes.truncate(bytes.len() - 4);
        let at = from % bytes.len();
        let end = (at + put.len()).min(bytes.len());
        bytes.splice(at..end, put);
        bytes.truncate(bytes.len().saturating_sub(cut).max(12));
        let crc = !bytes.iter().fold(!0u32, |crc, b| {
            (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
        });
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(state) = CalibrationState::from_bytes(&bytes) {
            prop_assert_eq!(CalibrationState::from_bytes(&state.to_bytes().unwrap()), Ok(state));
        }
    }
}

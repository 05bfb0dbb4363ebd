use pteron_ir::DebugHandle;
use pteron_tensor::DType;

use super::*;
use crate::format::QScheme;
use crate::spec::{DeriveQParams, ObserverCtr, ObserverKind};

fn observed(dtype: DType) -> QuantizationSpec {
    QuantizationSpec {
        dtype,
        quant_min: None,
        quant_max: None,
        qscheme: Some(QScheme::PerTensorAffine),
        ch_axis: None,
        observer: ObserverCtr::new(ObserverKind::MinMax),
        is_dynamic: false,
    }
}

fn int8() -> Spec {
    Spec::Observed(observed(DType::I8))
}

fn out(node: u32) -> Point {
    Point::output(DebugHandle(node))
}

fn edge(user: u32, arg: u16) -> Point {
    Point::edge(DebugHandle(user), arg)
}

fn output(node: u32, spec: Spec) -> AnnotatedPoint {
    AnnotatedPoint { point: out(node), spec, source: None, allow_implicit_sharing: true }
}

fn input(user: u32, arg: u16, from: u32, spec: Spec) -> AnnotatedPoint {
    AnnotatedPoint { point: edge(user, arg), spec, source: Some(out(from)), allow_implicit_sharing: true }
}

#[test]
fn the_two_concatenations_of_torchao_are_one_group() {
    // op1, op2 -> cat1 -> cat2 <- op3, the example in torchao's documentation of the function.
    let (op1, op2, op3, cat1, cat2) = (1, 2, 3, 4, 5);
    let points = [
        output(op1, int8()),
        output(op2, int8()),
        input(cat1, 0, op1, int8()),
        input(cat1, 1, op2, Spec::Shared(edge(cat1, 0))),
        output(cat1, Spec::Shared(edge(cat1, 0))),
        input(cat2, 0, op3, int8()),
        input(cat2, 1, cat1, Spec::Shared(edge(cat2, 0))),
        output(cat2, Spec::Shared(edge(cat2, 0))),
    ];
    let groups = Groups::resolve(&points).unwrap();
    assert_eq!(groups.groups().len(), 1);
    assert_eq!(groups.groups()[0].members.len(), 8);
    assert_eq!(groups.groups()[0].spec, GroupSpec::Observed(observed(DType::I8)));
}

#[test]
fn equal_specs_of_one_tensor_share() {
    let points = [output(1, int8()), input(2, 0, 1, int8()), input(3, 0, 1, int8()), output(2, int8())];
    let groups = Groups::resolve(&points).unwrap();
    let g = |p| groups.of(p).unwrap();
    assert_eq!(groups.groups().len(), 2);
    assert_eq!(g(out(1)), g(edge(2, 0)));
    assert_eq!(g(out(1)), g(edge(3, 0)));
    assert_ne!(g(out(1)), g(out(2)));
    assert_eq!(groups.of(edge(9, 0)), None);
}

#[test]
fn readers_share_without_their_producer() {
    let source = Point::Output { node: DebugHandle(0), output: 7 };
    let mut points = [input(2, 0, 1, int8()), input(3, 1, 1, int8())];
    points[0].source = Some(source);
    points[1].source = Some(source);
    let groups = Groups::resolve(&points).unwrap();
    assert_eq!(groups.groups().len(), 1);
}

#[test]
fn different_specs_do_not_share() {
    let fields: [fn(&mut QuantizationSpec); 6] = [
        |s| s.dtype = DType::U8,
        |s| s.quant_min = Some(-127),
        |s| s.quant_max = Some(127),
        |s| s.qscheme = Some(QScheme::PerTensorSymmetric),
        |s| s.ch_axis = Some(0),
        |s| {
            s.is_dynamic = true;
            s.observer.kind = ObserverKind::Placeholder;
        },
    ];
    for change in fields {
        let mut other = observed(DType::I8);
        change(&mut other);
        let groups = Groups::resolve(&[output(1, int8()), input(2, 0, 1, Spec::Observed(other))]).unwrap();
        assert_eq!(groups.groups().len(), 2);
    }
    // The observer is not compared: the first member's is taken.
    let mut other = observed(DType::I8);
    other.observer = ObserverCtr::new(ObserverKind::Histogram);
    let groups = Groups::resolve(&[output(1, int8()), input(2, 0, 1, Spec::Observed(other))]).unwrap();
    assert_eq!(groups.groups().len(), 1);
    assert_eq!(groups.groups()[0].spec, GroupSpec::Observed(observed(DType::I8)));
}

#[test]
fn implicit_sharing_can_be_turned_off() {
    let mut points = [output(1, int8()), input(2, 0, 1, int8())];
    points[1].allow_implicit_sharing = false;
    assert_eq!(Groups::resolve(&points).unwrap().groups().len(), 2);
}

#[test]
fn fixed_specs_share_if_all_is_equal() {
    let fixed = |scale| {
        Spec::Fixed(FixedQParamsQuantizationSpec {
            dtype: DType::U8,
            scale,
            zero_point: 0,
            quant_min: None,
            quant_max: None,
            qscheme: None,
            is_dynamic: false,
        })
    };
    let count = |a, b| Groups::resolve(&[output(1, a), input(2, 0, 1, b)]).unwrap().groups().len();
    assert_eq!(count(fixed(0.5), fixed(0.5)), 1);
    assert_eq!(count(fixed(0.5), fixed(0.25)), 2);
    assert_eq!(count(fixed(0.5), int8()), 2);
}

#[test]
fn a_group_that_starts_with_a_shared_spec_takes_the_other() {
    let points = [input(2, 0, 1, Spec::Shared(out(2))), output(2, int8())];
    let groups = Groups::resolve(&points).unwrap();
    assert_eq!(groups.groups().len(), 1);
    assert_eq!(groups.groups()[0].spec, GroupSpec::Observed(observed(DType::I8)));
}

fn bias(from: Vec<Point>) -> Spec {
    Spec::Derived(DerivedQuantizationSpec {
        derived_from: from,
        derive: DeriveQParams::Bias { repeat: 1 },
        dtype: DType::I32,
        quant_min: None,
        quant_max: None,
        qscheme: Some(QScheme::PerChannelSymmetric),
        ch_axis: Some(0),
        is_dynamic: false,
    })
}

#[test]
fn derived_groups_come_after_their_sources() {
    let points = [input(5, 2, 3, bias(vec![edge(5, 0), edge(5, 1)])), input(5, 0, 1, int8()), input(5, 1, 2, int8())];
    let groups = Groups::resolve(&points).unwrap();
    let GroupSpec::Derived(_, from) = &groups.groups()[0].spec else { panic!("not derived") };
    assert_eq!(from, &[groups.of(edge(5, 0)).unwrap(), groups.of(edge(5, 1)).unwrap()]);
    assert_eq!(groups.order(), [GroupId(1), GroupId(2), GroupId(0)]);
}

#[test]
fn references_that_lead_nowhere_are_errors() {
    let said = |points: &[AnnotatedPoint]| Groups::resolve(points).unwrap_err().to_string();
    assert!(
        said(&[output(1, Spec::Shared(out(9)))]).contains("shares with the output of node #9, which has no annotation")
    );
    assert!(said(&[input(5, 2, 3, bias(vec![edge(5, 0)]))]).contains("derived from input 0 of node #5"));
    assert!(said(&[output(1, Spec::Shared(out(2))), output(2, Spec::Shared(out(1)))]).contains("circle"));
    assert!(said(&[output(1, Spec::Shared(out(1)))]).contains("circle"));
    assert!(said(&[input(5, 2, 3, bias(vec![edge(5, 2)]))]).contains("circle"));
    assert!(said(&[output(1, int8()), output(1, int8())]).contains("given twice"));
    let mut wrong = observed(DType::I8);
    wrong.quant_min = Some(5);
    wrong.quant_max = Some(-5);
    assert!(said(&[output(1, Spec::Observed(wrong))]).contains("quant_min is 5"));
}

#[test]
fn long_chains_need_no_stack() {
    let n = 20_000;
    let mut points = vec![output(0, int8())];
    points.extend((1..n).map(|i| output(i, Spec::Shared(out(i - 1)))));
    let groups = Groups::resolve(&points).unwrap();
    assert_eq!(groups.groups().len(), 1);
}

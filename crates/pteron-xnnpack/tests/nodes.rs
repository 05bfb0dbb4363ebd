//! Every kind of node that is executed, against its definition.

mod common;

use common::{Graph, NONE, NodeSpec, Slot, ids, module_of};
use std::sync::Arc;

use pteron_exec::DelegateFactory;
use pteron_exec::{Context, Fuel};
use pteron_tensor::{DType, Shape, Tensor, Tolerance, ViewMut};
use pteron_xnnpack::{Payload, XnnpackBackend, XnnpackError};

type Dims<'a> = &'a [u32];

const FP32: u16 = 1;

fn values(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 + seed) * 1.37).sin() * 2.5).collect()
}

fn numel(dims: Dims<'_>) -> usize {
    dims.iter().product::<u32>() as usize
}

/// Inputs first, then constants, then the output.
fn graph(inputs: &[Dims<'_>], constants: &[(Dims<'_>, Vec<f32>)], output: Dims<'_>, node: NodeSpec) -> Graph {
    let mut g = Graph { inputs: u32::try_from(inputs.len()).unwrap(), ..Graph::default() };
    g.values.extend(inputs.iter().map(|d| (FP32, d.to_vec(), None)));
    g.values.extend(constants.iter().map(|(d, x)| (FP32, d.to_vec(), Some(x.clone()))));
    g.outputs = vec![u32::try_from(g.values.len()).unwrap()];
    g.values.push((FP32, output.to_vec(), None));
    g.nodes.push(node);
    g
}

fn run(g: &Graph, inputs: &[(Vec<usize>, Vec<f32>)], declared: &[usize]) -> Result<(Shape, Vec<f64>), String> {
    let mut d =
        XnnpackBackend::new().with_max_memory(1 << 24).prepare(&g.delegate(), &Arc::new(Context::new(1)), u64::MAX)?;
    let tensors: Vec<Tensor> = inputs.iter().map(|(s, x)| Tensor::of(s, x).unwrap()).collect();
    let views: Vec<_> = tensors.iter().map(Tensor::view).collect();
    let sizes = d.output_sizes(&views, &[Shape::from_slice(declared)])?.remove(0);
    let mut out = Tensor::zeros(DType::F32, &sizes).unwrap();
    let out_views: &mut [ViewMut<'_>] = &mut [out.view_mut()];
    d.execute(&views, out_views, &mut Fuel::new(None))?;
    Ok((sizes, out.view().to_f64_vec()))
}

fn sizes(d: Dims<'_>) -> Vec<usize> {
    d.iter().map(|&d| d as usize).collect()
}

/// Runs a node on inputs of the declared sizes.
#[track_caller]
fn check(inputs: &[Dims<'_>], output: Dims<'_>, node: NodeSpec, expected: impl Fn(&[Vec<f64>]) -> Vec<f64>) {
    let data: Vec<Vec<f32>> = inputs.iter().enumerate().map(|(i, d)| values(numel(d), 1.0 + i as f32)).collect();
    let g = graph(inputs, &[], output, node);
    let given: Vec<_> = inputs.iter().zip(&data).map(|(d, x)| (sizes(d), x.clone())).collect();
    let (s, actual) = run(&g, &given, &sizes(output)).unwrap();
    assert_eq!(s.to_vec(), sizes(output));
    let data: Vec<Vec<f64>> = data.iter().map(|x| x.iter().map(|&v| f64::from(v)).collect()).collect();
    Tolerance::KERNEL_F32.check(&expected(&data), &actual).unwrap();
}

#[track_caller]
fn unary(code: u8, f: impl Fn(f64) -> f64) {
    check(&[&[2, 3, 5]], &[2, 3, 5], ids(code, &[0, 1]), |x| x[0].iter().map(|&v| f(v)).collect());
}

fn with_range(mut n: NodeSpec, min: f32, max: f32) -> NodeSpec {
    n.range = Some((min, max));
    n
}

#[test]
fn one_input() {
    unary(4, |x| 1.0 / (1.0 + (-x).exp()));
    unary(17, f64::floor);
    unary(18, |x| x);
    unary(22, f64::sqrt);
    unary(23, f64::ceil);
    unary(24, |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0);
    unary(27, |x| -x);
    unary(28, |x| x * x);
    unary(30, f64::abs);
    unary(40, |x| 1.0 / x.sqrt());
    unary(41, f64::ln);
    unary(43, f64::tanh);
    unary(44, f64::exp);
    unary(45, f64::sin);
    unary(46, |x| x);
    unary(47, f64::cos);
    // Φ(1) and Φ(-2), from tables of the normal distribution.
    let g = graph(&[&[1, 2]], &[], &[1, 2], ids(42, &[0, 1]));
    let (_, y) = run(&g, &[(vec![1, 2], vec![1.0, -2.0])], &[1, 2]).unwrap();
    Tolerance::KERNEL_F32.check(&[0.841_344_746, -2.0 * 0.022_750_132], &y).unwrap();
}

#[test]
fn softmax_is_over_the_last_dimension() {
    check(&[&[2, 3]], &[2, 3], ids(3, &[0, 1]), |x| {
        let row = |r: &[f64]| -> Vec<f64> {
            let sum: f64 = r.iter().map(|v| v.exp()).sum();
            r.iter().map(|v| v.exp() / sum).collect()
        };
        x[0].chunks(3).flat_map(row).collect()
    });
}

#[test]
fn clamps() {
    let inf = f32::INFINITY;
    let shape: Dims<'_> = &[3, 4];
    let each = |f: fn(f64) -> f64| move |x: &[Vec<f64>]| x[0].iter().map(|&v| f(v)).collect::<Vec<_>>();
    check(&[shape], shape, with_range(ids(6, &[0, 1]), 0.0, inf), each(|v| v.max(0.0)));
    check(&[shape], shape, with_range(ids(6, &[0, 1]), -1.0, 0.5), each(|v| v.clamp(-1.0, 0.5)));
    check(&[shape], shape, with_range(ids(6, &[0, 1]), -inf, 0.5), each(|v| v.min(0.5)));
    check(&[shape], shape, with_range(ids(6, &[0, 1]), -inf, inf), each(|v| v));
    let sum = |x: &[Vec<f64>]| x[0].iter().zip(&x[1]).map(|(a, b)| (a + b).max(0.0)).collect();
    check(&[shape, shape], shape, with_range(ids(1, &[0, 1, 2]), 0.0, inf), sum);
}

#[test]
fn two_inputs_broadcast() {
    type Definition = fn(f64, f64) -> f64;
    let pairs: [(u8, Definition); 6] =
        [(1, |a, b| a + b), (8, |a, b| a / b), (12, f64::min), (15, |a, b| a * b), (16, |a, b| a - b), (26, f64::max)];
    for (code, f) in pairs {
        let expected = |x: &[Vec<f64>]| x[0].iter().enumerate().map(|(i, &a)| f(a, x[1][i % 4])).collect();
        check(&[&[2, 3, 4], &[4]], &[2, 3, 4], ids(code, &[0, 1, 2]), expected);
    }
    let prelu =
        |x: &[Vec<f64>]| x[0].iter().enumerate().map(|(i, &a)| if a < 0.0 { a * x[1][i % 4] } else { a }).collect();
    check(&[&[2, 3, 4], &[4]], &[2, 3, 4], ids(31, &[0, 1, 2]), prelu);
    let slots = vec![(0, Slot::Float(0.1)), (1, Slot::Id(0)), (2, Slot::Id(1))];
    let leaky = |x: &[Vec<f64>]| x[0].iter().map(|&a| if a < 0.0 { a * f64::from(0.1f32) } else { a }).collect();
    check(&[&[2, 3]], &[2, 3], NodeSpec { code: 25, slots, range: None }, leaky);
}

fn product(a: &[f64], b: impl Fn(usize, usize) -> f64, m: usize, k: usize, n: usize) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|t| a[i / n * k + t] * b(t, i % n)).sum()).collect()
}

#[test]
fn fully_connected() {
    for transposed in [false, true] {
        for rank2 in [false, true] {
            for bias in [false, true] {
                let (x, y): (Dims<'_>, Dims<'_>) = if rank2 { (&[6, 4], &[6, 5]) } else { (&[2, 3, 4], &[2, 3, 5]) };
                let w: Dims<'_> = if transposed { &[4, 5] } else { &[5, 4] };
                let constants = [(w, values(20, 7.0)), (&[5][..], values(5, 9.0))];
                let mut node = ids(2, &[0, 1, if bias { 2 } else { NONE }, 3, u32::from(transposed)]);
                node.range = Some((-2.0, f32::INFINITY));
                let g = graph(&[x], &constants, y, node);
                let input = values(24, 3.0);
                let (_, actual) = run(&g, &[(sizes(x), input.clone())], &sizes(y)).unwrap();
                let input: Vec<f64> = input.iter().map(|&v| f64::from(v)).collect();
                let (w, b) = (&constants[0].1, &constants[1].1);
                let at = |k: usize, n: usize| f64::from(if transposed { w[k * 5 + n] } else { w[n * 4 + k] });
                let mut expected = product(&input, at, 6, 4, 5);
                for (i, e) in expected.iter_mut().enumerate() {
                    *e = (*e + if bias { f64::from(b[i % 5]) } else { 0.0 }).max(-2.0);
                }
                Tolerance::KERNEL_F32.check(&expected, &actual).unwrap();
            }
        }
    }
}

#[test]
fn matrix_products() {
    for flags in 0..4u32 {
        let a: Dims<'_> = if flags & 2 == 0 { &[2, 3, 4] } else { &[2, 4, 3] };
        let b: Dims<'_> = if flags & 1 == 0 { &[2, 4, 5] } else { &[2, 5, 4] };
        check(&[a, b], &[2, 3, 5], ids(37, &[0, 1, 2, flags]), |x| {
            let mut out = Vec::new();
            for batch in 0..2 {
                let (p, q) = (&x[0][batch * 12..], &x[1][batch * 20..]);
                let rows: Vec<f64> =
                    (0..12).map(|i| if flags & 2 == 0 { p[i] } else { p[i % 4 * 3 + i / 4] }).collect();
                out.extend(product(&rows, |k, n| if flags & 1 == 0 { q[k * 5 + n] } else { q[n * 4 + k] }, 3, 4, 5));
            }
            out
        });
    }
    check(&[&[3, 4], &[4, 5]], &[3, 5], ids(37, &[0, 1, 2]), |x| product(&x[0], |k, n| x[1][k * 5 + n], 3, 4, 5));
}

fn listed(code: u8, list: &[u32]) -> NodeSpec {
    let rank = u32::try_from(list.len()).unwrap();
    let slots = vec![(0, Slot::Id(rank)), (1, Slot::List(list.to_vec())), (2, Slot::Id(0)), (3, Slot::Id(1))];
    NodeSpec { code, slots, range: None }
}

fn slice(offsets: &[u32], lengths: &[u32]) -> NodeSpec {
    let rank = u32::try_from(offsets.len()).unwrap();
    let lists = [(1, Slot::List(offsets.to_vec())), (2, Slot::List(lengths.to_vec()))];
    let mut slots = vec![(0, Slot::Id(rank)), (3, Slot::Id(0)), (4, Slot::Id(1))];
    slots.extend(lists);
    NodeSpec { code: 35, slots, range: None }
}

#[test]
fn other_sizes_and_positions() {
    check(&[&[2, 3, 4]], &[4, 2, 3], listed(5, &[2, 0, 1]), |x| {
        (0..24).map(|i| x[0][(i / 3 % 2) * 12 + (i % 3) * 4 + i / 6]).collect()
    });
    check(&[&[2, 3, 4]], &[2, 12], listed(20, &[2, 12]), |x| x[0].clone());
    check(&[&[2, 3, 4]], &[6, 2, 2], listed(20, &[0, 2, 2]), |x| x[0].clone());
    check(&[&[4, 5]], &[2, 5], slice(&[1, 0], &[2, 5]), |x| x[0][5..15].to_vec());
    check(&[&[4, 5]], &[4, 2], slice(&[0, 3], &[0, 2]), |x| (0..8).map(|i| x[0][i / 2 * 5 + 3 + i % 2]).collect());
    for (code, count) in [(32u8, 2u32), (33, 3), (34, 4), (38, 5)] {
        let mut slots = vec![(0, Slot::Id(1)), (5, Slot::Id(count))];
        slots.extend((0..count).map(|i| (if i == 4 { 7 } else { u16::try_from(i).unwrap() + 1 }, Slot::Id(i))));
        let inputs = vec![&[2u32, 3][..]; count as usize];
        check(&inputs, &[2, 3 * count], NodeSpec { code, slots, range: None }, |x| {
            (0..2).flat_map(|r| x.iter().flat_map(move |v| v[r * 3..r * 3 + 3].to_vec())).collect()
        });
    }
}

#[test]
fn the_mean_of_an_image() {
    let mean = |x: &[Vec<f64>]| -> Vec<f64> {
        (0..6).map(|i| (0..20).map(|p| x[0][i / 3 * 60 + p * 3 + i % 3]).sum::<f64>() / 20.0).collect()
    };
    check(&[&[2, 4, 5, 3]], &[2, 1, 1, 3], ids(19, &[0, 1, 0x40]), mean);
    check(&[&[2, 4, 5, 3]], &[2, 3], ids(19, &[0, 1, 0]), mean);
}

#[test]
fn attention() {
    let shapes: [Dims<'_>; 5] = [&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 4], &[4], &[3, 5]];
    check(&shapes, &[1, 2, 3, 4], ids(36, &[0, 1, 2, 3, 4, 5]), |x| {
        let mut out = Vec::new();
        for h in 0..2 {
            for s in 0..3 {
                let score = |t: usize| -> f64 {
                    (0..4).map(|c| x[0][(h * 3 + s) * 4 + c] * x[3][c] * x[1][(h * 5 + t) * 4 + c]).sum::<f64>()
                        + x[4][s * 5 + t]
                };
                let e: Vec<f64> = (0..5).map(|t| score(t).exp()).collect();
                let sum: f64 = e.iter().sum();
                out.extend((0..4).map(|c| (0..5).map(|t| e[t] / sum * x[2][(h * 5 + t) * 4 + c]).sum::<f64>()));
            }
        }
        out
    });
}

#[test]
fn the_oldest_form_has_its_constants_in_the_graph() {
    let constants = [(&[5u32, 4][..], values(20, 7.0))];
    let mut g = graph(&[&[6, 4]], &constants, &[6, 5], ids(2, &[0, 1, NONE, 2]));
    let input = [(vec![6, 4], values(24, 3.0))];
    let now = run(&g, &input, &[6, 5]).unwrap();
    g.legacy = true;
    assert_eq!(&Payload::parse(&g.blob()).unwrap().identifier, b"XN00");
    assert_eq!(run(&g, &input, &[6, 5]).unwrap(), now);
}

#[test]
fn a_scalar_counts_as_a_vector_of_one() {
    let g = graph(&[&[1]], &[], &[1], ids(27, &[0, 1]));
    assert_eq!(run(&g, &[(vec![], vec![2.0])], &[]).unwrap(), (Shape::new(), vec![-2.0]));
}

#[test]
fn sizes_of_a_call_are_checked_at_every_node() {
    // A reshape and a slice that hold for the declared sizes only.
    let g = graph(&[&[1, 6, 4]], &[], &[1, 12, 2], listed(20, &[1, 12, 2]));
    assert!(run(&g, &[(vec![1, 6, 4], values(24, 0.0))], &[1, 12, 2]).is_ok());
    let e = run(&g, &[(vec![1, 3, 4], values(12, 0.0))], &[1, 12, 2]).unwrap_err();
    assert!(e.contains("view_copy"), "{e}");
    let g = graph(&[&[6, 4]], &[], &[3, 4], slice(&[2, 0], &[3, 0]));
    let (s, y) = run(&g, &[(vec![5, 4], values(20, 0.0))], &[3, 4]).unwrap();
    assert_eq!((s.as_slice(), y.len()), ([3, 4].as_slice(), 12));
    let e = run(&g, &[(vec![4, 4], values(16, 0.0))], &[3, 4]).unwrap_err();
    assert!(e.contains("slice_copy.Tensor gives f32[2, 4]"), "{e}");
}

#[track_caller]
fn refused(g: &Graph) -> XnnpackError {
    match module_of(&g.delegate()) {
        Err(e) => e,
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn kinds_without_an_operator_are_refused_by_name() {
    let slots = vec![(0, Slot::Float(1.0)), (1, Slot::Id(0)), (2, Slot::Id(1))];
    let g = graph(&[&[2, 4]], &[], &[2, 4], NodeSpec { code: 29, slots, range: None });
    assert_eq!(refused(&g).to_string(), "XNNPACK payloads with ELU nodes are not supported yet (node 0)");
    let g = graph(&[&[2, 4]], &[], &[2, 4], ids(48, &[0, 1]));
    assert!(refused(&g).to_string().contains("unknown node kind 48"));
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    let text = |g: &Graph| refused(g).to_string();
    let good = || graph(&[&[2, 4]], &[(&[4], values(4, 0.0))], &[2, 4], ids(1, &[0, 1, 2]));
    assert!(module_of(&good().delegate()).is_ok());
    let changed = |f: fn(&mut Graph)| {
        let mut g = good();
        f(&mut g);
        g
    };
    assert!(text(&changed(|g| g.nodes[0] = ids(1, &[0, 9, 2]))).contains("input2_id: found 9"));
    assert!(text(&changed(|g| g.nodes[0] = ids(1, &[0, 2, 2]))).contains("value 2, which no node before it computes"));
    assert!(text(&changed(|g| g.nodes[0] = ids(1, &[0, 1, 1]))).contains("value 1, which has a value already"));
    assert!(text(&changed(|g| g.nodes.push(ids(1, &[0, 1, 2])))).contains("node 1 Add"));
    assert!(text(&changed(|g| g.nodes.clear())).contains("no node that computes it"));
    assert!(text(&changed(|g| g.values[2].1 = vec![8])).contains("as value 2 is declared"));
    assert!(text(&changed(|g| g.values[2].1 = vec![2, 3])).contains("as value 2 is declared"));
    assert!(text(&changed(|g| g.values[1].1 = vec![5])).contains("a constant of 16 bytes"));
    assert!(text(&changed(|g| g.values[0].1 = vec![2, 0])).contains("size 0 of dimension 1"));
    assert!(text(&changed(|g| g.values[0].1 = vec![1; 7])).contains("at most 6"));
    assert!(text(&changed(|g| g.values[0].1 = vec![u32::MAX; 4])).contains("fits in memory"));
    assert!(text(&changed(|g| g.values[0].0 = 15)).contains("found 15"));
    assert!(text(&changed(|g| g.nodes[0].range = Some((1.0, 0.0)))).contains("1 to 0"));
    assert!(text(&changed(|g| g.nodes[0].range = Some((f32::NAN, 0.0)))).contains("NaN"));
    assert!(text(&changed(|g| g.nodes[0] = with_range(ids(26, &[0, 1, 2]), 0.0, 1.0))).contains("no output range"));
    assert!(text(&changed(|g| g.outputs = vec![2, 1])).contains("because the value is a constant"));
}

#[test]
fn memory_is_bounded() {
    let big: Dims<'_> = &[40_000, 40_000];
    let mut g = graph(&[big], &[], big, ids(27, &[0, 1]));
    let e = run(&g, &[(vec![1, 1], vec![1.0])], &[1, 1]).unwrap_err();
    assert!(e.contains("bytes of working memory"), "{e}");
    g.values.iter_mut().for_each(|v| v.1 = vec![40, 40]);
    assert!(run(&g, &[(vec![1, 1], vec![1.0])], &[1, 1]).is_ok());
}

//! Weights rounded together: the products of inputs that a run gathers, and what becomes of the layers that read them.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_ir::{ConstData, GraphBuilder, Module, Op, TensorType, args, verify};
use pteron_kernels::Context;
use pteron_quant::moments::{Moments, MomentsHook};
use pteron_quant::transform::{Algorithm, LayerChoice, LayerKind, LinearMode, Transform};
use pteron_tensor::{DType, MemorySource, View, read_all};
use pteron_testkit::{Numbers, quadratic_form};

const TOKENS: usize = 40;
const WIDTH: usize = 32;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    Numbers::new(seed).units(n)
}

/// Two layers that read the same input, and one that reads what they give.
fn module() -> Module {
    let mut m = Module::new("t");
    let names = ["a", "b", "c"];
    let weights = names.map(|name| {
        let full = format!("{name}.weight");
        let values = noise(WIDTH * WIDTH, u64::from(name.as_bytes()[0]));
        m.add_tensor_constant(&full, MemorySource::of(&full, &[WIDTH, WIDTH], &values).unwrap())
    });
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[1, TOKENS as i64, WIDTH as i64].map(|n| n as usize)));
    // The sum, so that what is read is a node's output.
    let x = b.call(Op::Add, args![x, x]).unwrap();
    let weights = weights.map(|c| b.constant(c));
    let [p, q] = [0, 1].map(|i| b.scope(names[i], |b| b.call(Op::Linear, args![x, weights[i]])).unwrap());
    let y = b.call(Op::Mul, args![p, q]).unwrap();
    let y = b.scope("c", |b| b.call(Op::Linear, args![y, weights[2]])).unwrap();
    b.finish(&[y]);
    m
}

/// Inputs that vary together.
fn inputs(seed: u64) -> Vec<f32> {
    let (common, own, mix) = (noise(TOKENS * 3, seed), noise(TOKENS * WIDTH, seed + 50), noise(3 * WIDTH, 99));
    let at = |t: usize, c: usize| (0..3).map(|k| common[t * 3 + k] * mix[k * WIDTH + c]).sum::<f32>();
    (0..TOKENS * WIDTH).map(|i| at(i / WIDTH, i % WIDTH) + 0.05 * own[i]).collect()
}

fn run(m: &Module, hook: &mut MomentsHook, x: &[f32]) {
    let mut session = Session::new(Arc::new(m.clone()), &SessionOptions::with_threads(1)).unwrap();
    let (sizes, strides) = ([1, TOKENS, WIDTH], [TOKENS * WIDTH, WIDTH, 1]);
    let view = View::new(DType::F32, &sizes, &strides, bytemuck::cast_slice(x)).unwrap();
    session.run_watched("forward", &[ValueRef::Tensor(view)], hook).unwrap();
}

fn gathered(m: &Module, threads: usize) -> Moments {
    let ctx = Arc::new(Context::new(threads));
    let hook = MomentsHook::new(m, &m.graphs[0]);
    let (mut hook, bytes) = hook.with_grams(m, &ctx, &|name| name != "c.weight");
    // One input of two layers.
    assert_eq!(bytes, (WIDTH * WIDTH * 4) as u64);
    run(m, &mut hook, &inputs(1));
    run(m, &mut hook, &inputs(2));
    hook.finish()
}

#[test]
fn products_of_columns_are_summed_over_runs() {
    let m = module();
    let moments = gathered(&m, 1);
    let gram = moments.gram("a.weight").unwrap();
    assert!(Arc::ptr_eq(gram, moments.gram("b.weight").unwrap()));
    assert!(moments.gram("c.weight").is_none() && moments.of("c.weight").is_some());
    let mut expected = vec![0f64; WIDTH * WIDTH];
    for x in [inputs(1), inputs(2)] {
        for row in x.chunks(WIDTH) {
            for i in 0..WIDTH {
                for j in 0..WIDTH {
                    expected[i * WIDTH + j] += 4.0 * f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
    }
    let most = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    assert!(gram.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5 * most));
    // The mean squares are the diagonal.
    let squares = moments.of("a.weight").unwrap().squares;
    let rows = (2 * TOKENS) as f64;
    assert!((0..WIDTH).all(|i| (f64::from(squares[i]) * rows - expected[i * WIDTH + i]).abs() < 1e-5 * most));
}

/// Codes and scales of `a` after a transform.
fn transformed(moments: Option<&Moments>, mode: LinearMode, algorithm: Algorithm, threads: usize) -> Module {
    let mut m = module();
    let choose =
        |path: &str, kind| (kind == LayerKind::Linear && path != "c").then_some(LayerChoice::Linear(mode, algorithm));
    let transform = Transform::new(&choose);
    let report = transform.apply(&mut [&mut m], moments, &Context::new(threads), &mut |_, _| {}).unwrap();
    verify::module(&m).unwrap();
    assert_eq!(report.quantized, 2);
    m
}

fn bytes(m: &Module, name: &str) -> Vec<u8> {
    let c = m.constants.values().find(|c| c.name.as_ref() == name).unwrap();
    let ConstData::Source(source) = &c.data else { panic!("{name} has no bytes") };
    read_all(source.as_ref()).unwrap().to_vec()
}

/// Expected squared error of the layer `a`.
fn error(m: &Module, gram: &[f32]) -> f64 {
    let codes = bytes(m, "a.weight_quantized");
    let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes(m, "a.weight_quantized_scale"));
    let w = noise(WIDTH * WIDTH, u64::from(b'a'));
    let groups = scales.len() / WIDTH;
    let row = |row: usize| {
        let off = |c: usize| {
            let scale = scales[row * groups + c * groups / WIDTH];
            f64::from(w[row * WIDTH + c]) - f64::from(codes[row * WIDTH + c] as i8) * f64::from(scale)
        };
        quadratic_form(&(0..WIDTH).map(off).collect::<Vec<f64>>(), gram)
    };
    (0..WIDTH).map(row).sum()
}

#[test]
fn errors_make_up_for_each_other_on_any_number_of_threads() {
    let m = module();
    let moments = gathered(&m, 1);
    let gram = moments.gram("a.weight").unwrap();
    for (mode, plain) in [
        (LinearMode::Int8, Algorithm::Affine),
        (LinearMode::Int8DynActInt8Weight { group: 0 }, Algorithm::Affine),
        (LinearMode::Int4Weight { group: 8 }, Algorithm::Mse),
    ] {
        let rounded = transformed(Some(&moments), mode, Algorithm::Gptq, 1);
        let nearest = transformed(Some(&moments), mode, plain, 1);
        // The same scales, other codes.
        let name = "a.weight_quantized_scale";
        assert_eq!(bytes(&rounded, name), bytes(&nearest, name));
        let (a, b) = (error(&rounded, gram), error(&nearest, gram));
        assert!(a < 0.6 * b, "{mode:?}: {a} {b}");
        let other = transformed(Some(&gathered(&m, 3)), mode, Algorithm::Gptq, 3);
        assert_eq!(bytes(&rounded, "b.weight_quantized"), bytes(&other, "b.weight_quantized"));
    }
}

#[test]
fn without_products_it_is_said() {
    let choose =
        |_: &str, kind| (kind == LayerKind::Linear).then_some(LayerChoice::Linear(LinearMode::Int8, Algorithm::Gptq));
    let moments = gathered(&module(), 1);
    for (moments, name) in [(None, "a.weight"), (Some(&moments), "c.weight")] {
        let mut m = module();
        let said = Transform::new(&choose).apply(&mut [&mut m], moments, &Context::new(1), &mut |_, _| {});
        let said = said.unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("`{name}`: the algorithm gptq")) && said.contains("--calibration-data"),
            "{said}"
        );
    }
}

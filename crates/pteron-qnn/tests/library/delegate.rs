//! The backend that programs are executed with.

use std::sync::Arc;

use pteron_exec::{Context, DelegateFactory, DelegateInstance, Fuel};
use pteron_ir::Delegate;
use pteron_qnn::graph::{DataType, Encoding, QnnGraph, QnnNode, QnnTensor, TensorKind};
use pteron_qnn::payload::write_payload;
use pteron_qnn::soc::Soc;
use pteron_qnn::spec::{BackendKind, COMPILE_SPEC, CompileSpec, HtpOptions};
use pteron_qnn::{BACKEND_ID, ComposeOptions, ProfileLevel, QnnBackend, QnnLibrary, names};
use pteron_tensor::{DType, Shape, Tensor};
use pteron_testkit::{QNN_RELEASES, qnn_libraries};

use crate::common::{IN, OUT, ROWS, host, input, linear, options, soc};

fn delegate(binary: &[u8], spec: &CompileSpec) -> Delegate {
    Delegate {
        backend: BACKEND_ID.into(),
        payload: write_payload(binary).into(),
        compile_specs: vec![(COMPILE_SPEC.into(), spec.write().expect("short"))],
        named_data: Vec::new(),
    }
}

fn spec(soc: Soc) -> CompileSpec {
    CompileSpec::for_soc(soc, HtpOptions::default())
}

fn compose(host: &dyn QnnLibrary, graphs: &[QnnGraph]) -> Vec<u8> {
    host.compose(graphs, &ComposeOptions::new(soc()), &mut |_| {}).expect("it compiles").binary().to_vec()
}

fn prepare(backend: &QnnBackend, d: &Delegate) -> Result<Box<dyn DelegateInstance>, String> {
    backend.prepare(d, &Arc::new(Context::new(1)), u64::MAX)
}

fn refused(backend: &QnnBackend, d: &Delegate) -> String {
    prepare(backend, d).expect_err("it must be refused")
}

fn u8s(sizes: &[usize], codes: &[u8]) -> Tensor {
    Tensor::of(sizes, codes).expect("as many codes as the sizes say")
}

/// Calls a method with u8 tensors; the output has the sizes `sizes`.
fn call(d: &mut dyn DelegateInstance, method: &str, inputs: &[Tensor], sizes: &[usize]) -> Result<Vec<u8>, String> {
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    d.method(method);
    let declared = [Shape::from_slice(sizes)];
    assert_eq!(d.output_sizes(&views, &declared)?, declared);
    let mut out = Tensor::zeros(DType::U8, sizes).expect("small");
    d.execute(&views, &mut [out.view_mut()], &mut Fuel::new(None))?;
    Ok(out.bytes().to_vec())
}

#[test]
fn a_payload_gives_what_the_library_gives() {
    let test = "a_payload_gives_what_the_library_gives";
    let Some(folder) = qnn_libraries(test, QNN_RELEASES[0]) else { return };
    let host = host(&folder);
    let binary = compose(host.as_ref(), &[linear("prefill_forward"), linear("kv_forward")]);
    let (context, _) = host.load(&binary, Some(soc())).expect("it was just made");
    let mut expected = vec![0u8; ROWS * OUT];
    host.execute(context, "kv_forward", &[&input()], &mut [&mut expected], ProfileLevel::Off).expect("it runs");

    let backend = QnnBackend::with_library(host);
    let d = delegate(&binary, &spec(soc()));
    let mut instance = prepare(&backend, &d).expect("it is prepared");
    let x = [u8s(&[ROWS, IN], &input())];
    let sizes = [ROWS, OUT];
    for method in ["kv_forward", "prefill_forward"] {
        assert_eq!(call(instance.as_mut(), method, &x, &sizes), Ok(expected.clone()), "{method}");
    }
    // Two payloads of one context share it.
    let mut second = prepare(&backend, &d).expect("it is prepared");
    assert_eq!(call(second.as_mut(), "kv_forward", &x, &sizes), Ok(expected.clone()));
    drop(instance);
    second.profile(true);
    assert_eq!(call(second.as_mut(), "kv_forward", &x, &sizes), Ok(expected));
    let events = second.take_events();
    assert!(events.iter().any(|e| e.name.contains("linear") && e.unit == "cycles"), "{events:?}");

    let unknown = call(second.as_mut(), "forward", &x, &sizes).expect_err("two graphs, neither of this name");
    assert_eq!(unknown, "found no graph for the method `forward`; there are `prefill_forward`, `kv_forward`");
    let short = [u8s(&[1, IN], &input()[..IN])];
    let short = call(second.as_mut(), "kv_forward", &short, &sizes).expect_err("half of the input");
    assert!(short.contains("the input `input_0_x@0` is u8 [1, 16], expected ufixed8 [2, 16]"), "{short}");
    let wrong = [Tensor::zeros(DType::I8, &[ROWS, IN]).expect("small")];
    let wrong = call(second.as_mut(), "kv_forward", &wrong, &sizes).expect_err("another type");
    assert!(wrong.contains("is i8, expected ufixed8"), "{wrong}");
    let two = [u8s(&[ROWS, IN], &input()), u8s(&[ROWS, IN], &input())];
    let two = call(second.as_mut(), "kv_forward", &two, &sizes).expect_err("one input too many");
    assert!(two.contains("called with 2 inputs, expected 1"), "{two}");
}

/// `y = s + x`, which is also what the buffer `s` then holds; all codes of one scale around 100.
fn accumulator() -> QnnGraph {
    let mut g = QnnGraph::new("forward");
    let tensor = |name: String, kind| QnnTensor {
        name,
        kind,
        dtype: DataType::UFixed8,
        dims: vec![1, 4],
        encoding: Encoding::per_tensor(0.25, 100),
        data: None,
    };
    // The buffer's input has the smaller number, and takes no argument.
    let s = g.add_tensor(tensor(names::mutable_input(0, 3, "s"), TensorKind::AppWrite));
    let x = g.add_tensor(tensor(names::input(1, "x"), TensorKind::AppWrite));
    let next = g.add_tensor(tensor(names::mutable_output(3, "s"), TensorKind::AppRead));
    let y = g.add_tensor(tensor(names::output("y"), TensorKind::AppRead));
    for (name, out) in [("step", next), ("look", y)] {
        let (name, op) = (name.to_owned(), "ElementWiseAdd".to_owned());
        g.add_node(QnnNode { name, op, params: Vec::new(), inputs: vec![s, x], outputs: vec![out] });
    }
    g
}

#[test]
fn mutable_buffers_live_from_call_to_call() {
    let Some(folder) = qnn_libraries("mutable_buffers_live_from_call_to_call", QNN_RELEASES[0]) else { return };
    let host = host(&folder);
    let binary = compose(host.as_ref(), &[accumulator()]);
    let backend = QnnBackend::with_library(host);
    let mut instance = prepare(&backend, &delegate(&binary, &spec(soc()))).expect("it is prepared");
    let x = [u8s(&[1, 4], &[101, 102, 100, 90])];
    // The buffer begins with zeros, which are the codes 100. A method of another name is the only graph's as well.
    let run = |instance: &mut dyn DelegateInstance| call(instance, "decode", &x, &[1, 4]);
    assert_eq!(run(instance.as_mut()), Ok(vec![101, 102, 100, 90]));
    assert_eq!(run(instance.as_mut()), Ok(vec![102, 104, 100, 80]));
    assert_eq!(run(instance.as_mut()), Ok(vec![103, 106, 100, 70]));
    instance.reset();
    assert_eq!(run(instance.as_mut()), Ok(vec![101, 102, 100, 90]));
    assert!(instance.memory() > binary.len() as u64);
}

#[test]
fn what_cannot_be_prepared_is_a_sentence() {
    let Some(folder) = qnn_libraries("what_cannot_be_prepared_is_a_sentence", QNN_RELEASES[0]) else { return };
    let host = host(&folder);
    let binary = compose(host.as_ref(), &[linear("forward")]);
    let backend = QnnBackend::with_library(host);
    let good = delegate(&binary, &spec(soc()));

    let other = Soc::by_name("SM8750").expect("it is in the table");
    let text = refused(&backend, &delegate(&binary, &spec(other)));
    assert!(text.contains("compiled for SM8650 (V75), expected one for SM8750 (V79)"), "{text}");

    let mut d = good.clone();
    d.compile_specs.clear();
    assert!(refused(&backend, &d).contains("found no compile spec `qnn_compile_spec`"));
    let gpu = CompileSpec { backend: BackendKind::Gpu, ..spec(soc()) };
    assert!(refused(&backend, &delegate(&binary, &gpu)).contains("compiled for the backend `gpu`, expected `htp`"));
    let text = refused(&backend, &delegate(&binary[..binary.len() / 2], &spec(soc())));
    assert!(text.contains("context binary"), "{text}");
    let text = refused(&backend, &delegate(b"nothing of Qualcomm's", &spec(soc())));
    assert!(text.contains("not a context binary"), "{text}");
    let mut d = good.clone();
    d.payload = good.payload[..300].into();
    assert!(refused(&backend, &d).contains("its header says"));
    let little = backend.prepare(&good, &Arc::new(Context::new(1)), 100).expect_err("100 bytes");
    assert!(little.contains("100 are allowed"), "{little}");
}

#[test]
fn without_the_library() {
    let nowhere = tempfile::tempdir().expect("a folder");
    let backend = QnnBackend::new(Some(nowhere.path().to_owned()));
    let text = refused(&backend, &delegate(b"whatever", &spec(soc())));
    assert!(text.contains("Qualcomm's QNN library was not found; looked at") && text.contains("(--qnn-sdk)"), "{text}");
    assert!(text.contains("`pteron doctor` says how to get it"), "{text}");
}

#[test]
fn a_crash_within_a_program_is_a_sentence() {
    let Some(folder) = qnn_libraries("a_crash_within_a_program_is_a_sentence", QNN_RELEASES[0]) else { return };
    let host = options(&folder, Some("crash@execute")).open().expect("it opens");
    let binary = compose(host.as_ref(), &[linear("forward")]);
    let backend = QnnBackend::with_library(host);
    let mut instance = prepare(&backend, &delegate(&binary, &spec(soc()))).expect("it is prepared");
    let text = call(instance.as_mut(), "forward", &[u8s(&[ROWS, IN], &input())], &[ROWS, OUT]);
    let text = text.expect_err("the library crashes");
    assert!(text.contains("crashed (segmentation fault) while it was asked to execute a graph"), "{text}");
}

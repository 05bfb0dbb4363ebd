//! Partitioning and compilation with a library that is none: it refuses the operators that a test names, and its context binaries
//! are the names of their graphs.

use std::sync::Mutex;

use pteron_ir::{Module, Op, parse, verify};
use pteron_qnn::graph::QnnGraph;
use pteron_qnn::lower::LinearForm;
use pteron_qnn::partition::{CompileError, CompileOptions, Compiled, Placement, Shards, compile, compile_specs, plan};
use pteron_qnn::payload::{Payload, write_payload};
use pteron_qnn::soc::Soc;
use pteron_qnn::spec::{COMPILE_SPEC, CompileSpec, HtpOptions};
use pteron_qnn::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, GraphInfo, LibraryInfo, QnnCompiler, QnnError, Verdict, Version,
};

/// Bytes that each of its graphs spills, by the length of its name.
const SPILL: u64 = 1 << 10;

#[derive(Debug)]
struct Fake {
    info: LibraryInfo,
    refused: Vec<&'static str>,
    asked: Mutex<usize>,
}

impl Fake {
    fn refusing(refused: &[&'static str]) -> Fake {
        let info = LibraryInfo {
            provider: "FAKE".to_owned(),
            backend_id: 6,
            build: "none".to_owned(),
            core: Version::default(),
            backend: Version::default(),
            system: None,
        };
        Fake { info, refused: refused.to_vec(), asked: Mutex::new(0) }
    }
}

impl QnnCompiler for Fake {
    fn info(&self) -> &LibraryInfo {
        &self.info
    }

    fn validate(&self, graph: &QnnGraph, nodes: &[usize], _: Soc) -> Result<Vec<Verdict>, QnnError> {
        *self.asked.lock().unwrap() += 1;
        let verdict = |i: &usize| match self.refused.contains(&graph.nodes[*i].op.as_str()) {
            true => Verdict::Refused("  it is out of order\n".to_owned()),
            false => Verdict::Supported,
        };
        Ok(nodes.iter().map(verdict).collect())
    }

    fn compose(
        &self,
        graphs: &[QnnGraph],
        options: &ComposeOptions,
        progress: &mut dyn FnMut(ComposeStage),
    ) -> Result<Composed, QnnError> {
        graphs.iter().try_for_each(QnnGraph::check)?;
        progress(ComposeStage::Serializing);
        let names: Vec<String> = graphs.iter().map(|g| format!("{}:{}", g.name, g.nodes.len())).collect();
        let mut binary = names.join(",").into_bytes();
        if options.weight_sharing {
            binary.truncate(1);
        }
        Ok(Composed {
            payload: write_payload(&binary).into(),
            finalize_us: graphs.iter().map(|g| (g.name.clone(), 1)).collect(),
        })
    }

    fn inspect(&self, binary: &[u8]) -> Result<BinaryInfo, QnnError> {
        let graph = |name: &str| GraphInfo {
            name: name.to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            spill_fill_bytes: SPILL * name.len() as u64,
        };
        let unknown = Version::default();
        Ok(BinaryInfo {
            backend_id: 6,
            build: String::new(),
            core: unknown,
            backend: unknown,
            blob: unknown,
            soc_model: None,
            graphs: std::str::from_utf8(binary).unwrap().split(',').map(graph).collect(),
        })
    }
}

fn soc() -> Soc {
    Soc::by_name("SM8650").unwrap()
}

/// A chain of quantized operators over `u8[2, 4]`, each with the same parameters; the text of one method.
fn method(name: &str, ops: &[&str]) -> String {
    let pair = |from: usize, to: usize| {
        format!(
            "    %{to} = quantized_decomposed::quantize_per_tensor(%{from}, 0.1, 128, 0, 255, u8) : u8[2, 4]\n    \
             %{} = quantized_decomposed::dequantize_per_tensor(%{to}, 0.1, 128, 0, 255, u8) : f32[2, 4]\n",
            to + 1
        )
    };
    let mut text = format!("  graph {name}(%0 \"x\": f32[2, 4]) {{\n{}", pair(0, 1));
    let mut at = 2;
    for op in ops {
        text.push_str(&format!("    %{} = {op}(%{at}) : f32[2, 4]\n{}", at + 1, pair(at + 1, at + 2)));
        at += 3;
    }
    format!("{text}    return %{at}\n  }}\n")
}

fn module(methods: &[String]) -> Module {
    let text = format!("module \"m\" {{\n{}}}\n", methods.concat());
    parse::module(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

fn options() -> CompileOptions<'static> {
    CompileOptions {
        form: LinearForm::Conv2d,
        compose: ComposeOptions::new(soc()),
        quantized_io: false,
        shards: None,
        require_full_delegation: false,
    }
}

fn compiled(module: &mut Module, fake: &Fake, options: &CompileOptions<'_>) -> Result<Compiled, CompileError> {
    let done = compile(module, fake, options, &compile_specs(soc(), HtpOptions::default()), &mut |_| {})?;
    verify::module(module).unwrap_or_else(|e| panic!("{e}"));
    Ok(done)
}

/// Operators of a method's body, in order.
fn ops(module: &Module, method: &str) -> Vec<Op> {
    let graph = module.graph(method).unwrap();
    graph.body().nodes.iter().map(|&n| graph.nodes[n].op).collect()
}

/// The compile spec of each delegate.
fn specs(module: &Module) -> Vec<HtpOptions> {
    let spec = |d: &pteron_ir::Delegate| {
        let (_, bytes) = d.compile_specs.iter().find(|(key, _)| key.as_ref() == COMPILE_SPEC).unwrap();
        CompileSpec::parse(bytes).unwrap().htp.unwrap()
    };
    module.delegates.values().map(spec).collect()
}

#[test]
fn what_is_taken_whole_is_one_delegate() {
    let mut m = module(&[method("forward", &["aten::sigmoid", "aten::tanh"])]);
    let done = compiled(&mut m, &Fake::refusing(&[]), &options()).unwrap();
    assert!(done.report.is_full(), "{}", done.report);
    assert_eq!(ops(&m, "forward"), [Op::Delegate]);
    let delegate = m.delegates.values().next().unwrap();
    let payload = Payload::parse(&delegate.payload).unwrap();
    // Quantize, two operators, dequantize.
    assert_eq!(payload.context(&delegate.payload), b"forward:4");
    let htp = &specs(&m)[0];
    assert_eq!((htp.use_multi_contexts, htp.max_sf_buf_size), (false, 0));
}

#[test]
fn a_node_that_is_refused_stands_between_two_delegates() {
    let mut m = module(&[method("forward", &["aten::sigmoid", "aten::tanh", "aten::relu"])]);
    let fake = Fake::refusing(&["Tanh"]);
    let done = compiled(&mut m, &fake, &options()).unwrap();
    let outside: Vec<(&str, &str)> = done.report.refused().map(|(_, n, why)| (n.op, why)).collect();
    assert_eq!(outside[0], ("aten::tanh", "the library refuses Tanh: it is out of order"));
    assert_eq!(ops(&m, "forward").iter().filter(|op| **op == Op::Delegate).count(), 2);
    assert!(ops(&m, "forward").contains(&Op::Tanh));
    // Integers cross, and what only changes their form stays with the delegates.
    assert_eq!(outside.len(), 1, "{}", done.report);
    let part = |op: &str| done.report.methods[0].nodes.iter().find(|n| n.op == op).unwrap().placement.clone();
    assert_eq!((part("aten::sigmoid"), part("aten::relu")), (Placement::Delegated(0), Placement::Delegated(1)));
    // Both contexts say that they are two, and how large a buffer the larger of them needs.
    let largest = SPILL * "forward:4".len() as u64;
    let told: Vec<_> = specs(&m).iter().map(|h| (h.use_multi_contexts, h.max_sf_buf_size as u64)).collect();
    assert_eq!(told, [(true, largest); 2]);
}

#[test]
fn branches_never_wait_for_each_other_in_a_circle() {
    // a → tanh (refused) → sum, and a → sum: the sum cannot be in a's part.
    let text = "module \"m\" {\n  graph forward(%0 \"x\": f32[4]) {\n    %1 = aten::sigmoid(%0) : f32[4]\n    \
                %2 = aten::tanh(%1) : f32[4]\n    %3 = aten::add.Tensor(%1, %2) : f32[4]\n    return %3\n  }\n}\n";
    let mut m = parse::module(text).unwrap_or_else(|e| panic!("{e:?}"));
    let fake = Fake::refusing(&["Tanh"]);
    let found = plan(&m, &m.graphs[0], &fake, soc(), LinearForm::Conv2d).unwrap();
    assert_eq!(found.parts.iter().map(|(nodes, _)| nodes.len()).collect::<Vec<_>>(), [1, 1]);
    compiled(&mut m, &fake, &options()).unwrap();
    assert_eq!(ops(&m, "forward"), [Op::Delegate, Op::Tanh, Op::Delegate]);
}

#[test]
fn nothing_outside_is_allowed_if_all_must_be_delegated() {
    let mut m = module(&[method("forward", &["aten::sigmoid", "aten::tanh"])]);
    let options = CompileOptions { require_full_delegation: true, ..options() };
    let error = compiled(&mut m, &Fake::refusing(&["Tanh"]), &options).unwrap_err();
    let text = error.to_string();
    // The quantization behind it stays outside with it.
    assert!(text.contains("3 node(s) are not delegated") && text.contains("the first is `aten::tanh`"), "{text}");
    assert!(text.contains("it is out of order") && !text.contains('\n'), "{text}");
    let CompileError::NotFull { report, .. } = error else { panic!("{text}") };
    assert!(report.to_string().contains("aten::sigmoid"), "{report}");
}

#[test]
fn a_library_that_takes_nothing_is_an_error() {
    let mut m = module(&[method("forward", &["aten::tanh"])]);
    let error = compiled(&mut m, &Fake::refusing(&["Tanh"]), &options()).unwrap_err().to_string();
    assert!(error.starts_with("no node can be delegated") && error.contains("Tanh"), "{error}");
}

#[test]
fn methods_share_contexts_part_by_part() {
    let (one, many) = (method("kv_forward", &["aten::sigmoid"]), method("prefill_forward", &["aten::tanh"]));
    let mut m = module(&[one, many]);
    let sharing = ComposeOptions { weight_sharing: true, ..ComposeOptions::new(soc()) };
    let done = compiled(&mut m, &Fake::refusing(&[]), &CompileOptions { compose: sharing, ..options() }).unwrap();
    assert_eq!(done.contexts.len(), 1);
    assert_eq!(done.contexts[0].graphs, ["kv_forward", "prefill_forward"]);
    // The context with shared weights is measured, the other one carried.
    assert_eq!(done.contexts[0].shared_bytes, Some(1));
    assert_eq!(done.contexts[0].bytes, "kv_forward:3,prefill_forward:3".len() as u64);
    assert_eq!((ops(&m, "kv_forward"), ops(&m, "prefill_forward")), (vec![Op::Delegate], vec![Op::Delegate]));

    // Where one method has more parts than the other, no context has both.
    let (one, many) = (
        method("kv_forward", &["aten::sigmoid"]),
        method("prefill_forward", &["aten::sigmoid", "aten::tanh", "aten::relu"]),
    );
    let mut m = module(&[one, many]);
    let done = compiled(&mut m, &Fake::refusing(&["Tanh"]), &options()).unwrap();
    let graphs: Vec<_> = done.contexts.iter().map(|c| c.graphs.join("+")).collect();
    assert_eq!(graphs, ["kv_forward", "prefill_forward", "prefill_forward"]);
}

/// Layers of a sum each.
fn layers(count: usize) -> Module {
    let mut text = "module \"m\" {\n  graph forward(%0 \"x\": f32[4]) {\n".to_owned();
    for i in 0..count {
        text.push_str(&format!("    %{} = aten::add.Tensor(%{i}, %{i}) : f32[4] @\"layers.{i}\"\n", i + 1));
    }
    text.push_str(&format!("    return %{count}\n  }}\n}}\n"));
    parse::module(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

#[test]
fn shards_are_contexts_with_marks_between_them() {
    let sharded = |count, shards| {
        let mut m = layers(count);
        let cut = Shards { count: shards, layers: count, prefix: "layers." };
        let options = CompileOptions { shards: Some(cut), require_full_delegation: true, ..options() };
        compiled(&mut m, &Fake::refusing(&[]), &options).map(|done| (m, done))
    };
    let (m, done) = sharded(4, 2).unwrap();
    assert_eq!(ops(&m, "forward"), [Op::Delegate, Op::Fallback, Op::Delegate]);
    assert_eq!((done.contexts.len(), specs(&m).iter().all(|h| h.use_multi_contexts)), (2, true));
    // A layer that is left over has a shard of its own, as ExecuTorch's `split_graph` has it.
    assert_eq!(sharded(5, 2).unwrap().1.contexts.len(), 3);
    let error = sharded(2, 3).unwrap_err().to_string();
    assert_eq!(error, "option `num_sharding`: found 3, expected at most 2 (the model's layers)");
}

#[test]
fn the_library_is_asked_once_for_a_graph_that_it_takes() {
    let m = module(&[method("forward", &["aten::sigmoid"; 20])]);
    let fake = Fake::refusing(&[]);
    plan(&m, &m.graphs[0], &fake, soc(), LinearForm::Conv2d).unwrap();
    assert_eq!(*fake.asked.lock().unwrap(), 1);
}

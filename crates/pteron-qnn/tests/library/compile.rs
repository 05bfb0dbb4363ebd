//! What works, in every release.

use pteron_qnn::graph::{DataType, TensorKind};
use pteron_qnn::{ComposeOptions, ComposeStage, ProfileLevel, QnnLibrary, Verdict};
use pteron_testkit::{QNN_RELEASES, qnn_libraries};

use crate::common::{OUT, ROWS, expected, host, input, linear, soc};

fn run(host: &dyn QnnLibrary, binary: &[u8], graph: &str) -> Vec<u8> {
    let (context, _) = host.load(binary, Some(soc())).expect("the context was just made");
    let mut out = vec![0u8; ROWS * OUT];
    let done = host.execute(context, graph, &[&input()], &mut [&mut out], ProfileLevel::Off);
    done.unwrap_or_else(|e| panic!("{graph}: {e}"));
    host.unload(context).expect("it is loaded");
    out
}

fn from_graph_to_numbers(test: &str, release: &str) {
    let Some(folder) = qnn_libraries(test, release) else { return };
    let host = host(&folder);
    let info = host.info().clone();
    assert_eq!((info.provider.as_str(), info.backend_id), ("HTP_QTI_AISW", 6));
    assert!(info.build.contains(release), "{info:?}");
    assert!(info.system.is_some(), "{info:?}");

    let operations = host.supported_operations().expect("the library lists its operators");
    assert!(operations.len() > 100 && operations.iter().any(|o| o == "FullyConnected"), "{operations:?}");

    let graphs = [linear("prefill_forward"), linear("kv_forward")];
    assert_eq!(host.validate(&graphs[0], &[0], soc()).expect("asked"), [Verdict::Supported]);

    let mut stages = Vec::new();
    let composed = host.compose(&graphs, &ComposeOptions::new(soc()), &mut |s| stages.push(s)).expect("it compiles");
    let stage = |g: &str| g.to_owned();
    assert_eq!(
        stages,
        [
            ComposeStage::Composing { graph: stage("prefill_forward") },
            ComposeStage::Finalizing { graph: stage("prefill_forward") },
            ComposeStage::Composing { graph: stage("kv_forward") },
            ComposeStage::Finalizing { graph: stage("kv_forward") },
            ComposeStage::Serializing,
        ]
    );
    let described = host.inspect(composed.binary()).expect("it was just made");
    assert_eq!((described.backend_id, described.soc_model), (6, Some(soc().model)));
    let graph = described.graph("kv_forward").expect("it is in the context");
    assert_eq!(graph.inputs.len(), 1);
    let x = &graph.inputs[0];
    assert_eq!((x.name.as_str(), x.kind, x.dtype), ("input_0_x@0", TensorKind::AppWrite, DataType::UFixed8));
    assert_eq!(x.encoding, graphs[1].tensors[0].encoding);

    for graph in ["prefill_forward", "kv_forward"] {
        let found = run(host.as_ref(), composed.binary(), graph);
        for (found, expected) in found.iter().zip(expected()) {
            assert!(found.abs_diff(expected) <= 1, "{graph}: {found} against {expected}");
        }
    }
}

#[test]
fn release_2_49() {
    from_graph_to_numbers("release_2_49", QNN_RELEASES[0]);
}

#[test]
fn release_2_47() {
    from_graph_to_numbers("release_2_47", QNN_RELEASES[1]);
}

#[test]
fn release_2_51() {
    from_graph_to_numbers("release_2_51", QNN_RELEASES[2]);
}

#[test]
fn a_profile_names_nodes() {
    let Some(folder) = qnn_libraries("a_profile_names_nodes", QNN_RELEASES[0]) else { return };
    let host = host(&folder);
    let composed = host.compose(&[linear("forward")], &ComposeOptions::new(soc()), &mut |_| {}).expect("it compiles");
    let (context, _) = host.load(composed.binary(), None).expect("the context was just made");
    let mut out = vec![0u8; ROWS * OUT];
    let events = host.execute(context, "forward", &[&input()], &mut [&mut out], ProfileLevel::Detailed);
    let events = events.expect("it runs");
    assert!(events.iter().any(|e| e.kind == 400), "{events:?}");
    assert!(events.iter().any(|e| e.kind == 404 && e.name.contains("linear")), "{events:?}");
}

#[test]
fn a_context_with_shared_weights_is_made_and_not_loaded() {
    let Some(folder) = qnn_libraries("a_context_with_shared_weights_is_made_and_not_loaded", QNN_RELEASES[0]) else {
        return;
    };
    let host = host(&folder);
    let graphs = [linear("prefill_forward"), linear("kv_forward")];
    let options = ComposeOptions { weight_sharing: true, ..ComposeOptions::new(soc()) };
    let shared = host.compose(&graphs, &options, &mut |_| {}).expect("it compiles");
    let refused = host.load(shared.binary(), Some(soc())).expect_err("x86 has no shared weights");
    let text = crate::common::sentence(&refused);
    assert!(text.contains("refused to load the context binary: error 1000"), "{text}");
}

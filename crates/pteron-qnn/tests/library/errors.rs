//! What goes wrong is one sentence, and the next call works where it can.

use std::sync::Arc;
use std::time::Duration;

use pteron_qnn::graph::{DataType, Encoding};
use pteron_qnn::soc::Soc;
use pteron_qnn::{ComposeOptions, HostOptions, Origin, ProfileLevel, QnnError, QnnLibrary, Sdk, Verdict};
use pteron_testkit::{QNN_RELEASES, qnn_libraries, skip};

use crate::common::{OUT, ROWS, host, input, linear, options, sentence, soc};

fn refused<T: std::fmt::Debug>(result: Result<T, QnnError>, words: &[&str]) {
    let text = sentence(&result.expect_err("it must be refused"));
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn verdicts(test: &str, release: &str) {
    let Some(folder) = qnn_libraries(test, release) else { return };
    let host = host(&folder);

    // The library's own reason.
    let mut graph = linear("forward");
    graph.tensors[1].dtype = DataType::UFixed16;
    let Verdict::Refused(why) = &host.validate(&graph, &[0], soc()).expect("asked")[0] else {
        panic!("a u16 weight of u8 activations is taken")
    };
    assert!(why.contains("error 3110"), "{why}");
    // It is asked again as if nothing had been.
    assert_eq!(host.validate(&linear("forward"), &[0], soc()).expect("asked"), [Verdict::Supported]);

    // A graph that the library refuses to build names the node.
    let mut graph = linear("forward");
    graph.nodes[0].op = "NoSuchOperator".to_owned();
    let made = host.compose(&[graph], &ComposeOptions::new(soc()), &mut |_| {});
    refused(made, &["refused to add the node `linear` (NoSuchOperator) to graph `forward`"]);

    // Ours come before the library's.
    let mut graph = linear("forward");
    graph.tensors[1].encoding = Encoding::AxisScaleOffset { axis: 0, scales: Vec::new() };
    let made = host.compose(&[graph], &ComposeOptions::new(soc()), &mut |_| {});
    refused(made, &["tensor `w`: found 0 scales, expected 4"]);

    // Bytes that are no context binary, and one that is cut.
    refused(host.inspect(b"no context binary"), &["refused to read the context binary", "not a context binary"]);
    refused(host.load(&[0; 4096], Some(soc())), &["not a context binary"]);
    let composed = host.compose(&[linear("forward")], &ComposeOptions::new(soc()), &mut |_| {}).expect("it compiles");
    for part in [64, composed.binary().len() / 2, composed.binary().len() - 1] {
        let cut = host.load(&composed.binary()[..part], Some(soc()));
        let text = sentence(&cut.expect_err("a part of a context is taken"));
        assert!(text.contains("context binary") || text.contains("context"), "{text}");
    }

    // Another system.
    let other = Soc::by_name("SM8750").expect("it is in the table");
    refused(host.load(composed.binary(), Some(other)), &["compiled for SM8650 (V75), expected one for SM8750 (V79)"]);

    // Buffers and names.
    let (context, _) = host.load(composed.binary(), Some(soc())).expect("the context was just made");
    let mut out = vec![0u8; ROWS * OUT];
    let short = &input()[1..];
    let done = host.execute(context, "forward", &[short], &mut [&mut out], ProfileLevel::Off);
    refused(done, &["found 31 bytes for the input `input_0_x@0` of graph `forward`, expected 32"]);
    let done = host.execute(context, "forward", &[&input()], &mut [&mut out[1..]], ProfileLevel::Off);
    refused(done, &["found 7 bytes for the output `output_y@0`"]);
    let done = host.execute(context, "forward", &[], &mut [&mut out], ProfileLevel::Off);
    refused(done, &["found 0 inputs of graph `forward`, expected 1"]);
    let done = host.execute(context, "backward", &[&input()], &mut [&mut out], ProfileLevel::Off);
    refused(done, &["no graph `backward`; it has `forward`"]);
    // And after all of that it still runs.
    host.execute(context, "forward", &[&input()], &mut [&mut out], ProfileLevel::Off).expect("it runs");
    host.unload(context).expect("it is loaded");
    let done = host.execute(context, "forward", &[&input()], &mut [&mut out], ProfileLevel::Off);
    refused(done, &["no such context"]);
}

#[test]
fn verdicts_of_2_49() {
    verdicts("verdicts_of_2_49", QNN_RELEASES[0]);
}

#[test]
fn verdicts_of_2_47() {
    verdicts("verdicts_of_2_47", QNN_RELEASES[1]);
}

#[test]
fn verdicts_of_2_51() {
    verdicts("verdicts_of_2_51", QNN_RELEASES[2]);
}

fn with_fault(test: &str, fault: &str, timeout: Duration) -> Option<Result<Arc<dyn QnnLibrary>, QnnError>> {
    let folder = qnn_libraries(test, QNN_RELEASES[0])?;
    Some(HostOptions { timeout, ..options(&folder, Some(fault)) }.open())
}

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_crash_in_the_library_is_a_sentence() {
    let Some(host) = with_fault("a_crash_in_the_library_is_a_sentence", "crash@execute", LONG) else { return };
    let host = host.expect("it opens");
    let composed = host.compose(&[linear("forward")], &ComposeOptions::new(soc()), &mut |_| {}).expect("it compiles");
    let (context, _) = host.load(composed.binary(), Some(soc())).expect("the context was just made");
    let mut out = vec![0u8; ROWS * OUT];
    let mut run = || host.execute(context, "forward", &[&input()], &mut [&mut out], ProfileLevel::Off);
    let words =
        ["crashed (segmentation fault) while it was asked to execute a graph", "(it said: the library's last words)"];
    refused(run(), &words);
    // Its contexts went with it, and a new process takes its place.
    refused(run(), &["the context is gone"]);
    assert!(host.load(composed.binary(), Some(soc())).is_ok());
}

#[test]
fn an_exit_of_the_library_is_a_sentence() {
    let Some(host) = with_fault("an_exit_of_the_library_is_a_sentence", "exit@validate", LONG) else { return };
    let asked = host.expect("it opens").validate(&linear("forward"), &[0], soc());
    refused(asked, &["ended its process (exit code 3) while it was asked to validate nodes"]);
}

#[test]
fn a_hang_of_the_library_is_a_sentence() {
    let soon = Duration::from_secs(2);
    let Some(host) = with_fault("a_hang_of_the_library_is_a_sentence", "hang@operations", soon) else { return };
    let asked = host.expect("it opens").supported_operations();
    refused(asked, &["gave no answer for 2 s while it was asked to list its operators"]);
}

#[test]
fn an_answer_that_cannot_be_read_is_a_sentence() {
    let test = "an_answer_that_cannot_be_read_is_a_sentence";
    let Some(host) = with_fault(test, "garbage@operations", LONG) else { return };
    refused(host.expect("it opens").supported_operations(), &["gave an answer that cannot be read"]);
}

#[test]
fn what_the_library_prints_does_not_mix_with_answers() {
    let test = "what_the_library_prints_does_not_mix_with_answers";
    let Some(host) = with_fault(test, "print@operations", LONG) else { return };
    assert!(host.expect("it opens").supported_operations().is_ok());
}

#[test]
fn files_that_are_not_the_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("libQnnHtp.so");
    let open = || options(folder.path(), None).open();
    std::fs::write(&library, b"#!/bin/sh\n").expect("a file");
    refused(open(), &["libQnnHtp.so: it cannot be opened"]);

    // A shared library that is not QNN: C's mathematics.
    let mathematics = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    match mathematics.iter().find(|p| std::path::Path::new(p).is_file()) {
        Some(path) => {
            std::fs::copy(path, &library).expect("a copy");
            refused(
                open(),
                &["libQnnHtp.so: it has no symbol `QnnInterface_getProviders`, so it is not a QNN library"],
            );
        }
        None => skip("files_that_are_not_the_library", "no shared library of C's mathematics is known here"),
    }

    // Qualcomm's system library under the backend's name, with what it needs beside it.
    let Some(libraries) = qnn_libraries("files_that_are_not_the_library", QNN_RELEASES[0]) else { return };
    let system = Sdk::at(&libraries, Origin::Argument).expect("it holds the library").system();
    std::fs::remove_file(&library).expect("it was made above");
    std::os::unix::fs::symlink(system, &library).expect("a link");
    for needed in std::fs::read_dir(libraries.with_file_name("onnxruntime_qnn.libs")).expect("it comes with the wheel")
    {
        let needed = needed.expect("an entry");
        std::os::unix::fs::symlink(needed.path(), folder.path().join(needed.file_name())).expect("a link");
    }
    refused(open(), &["it has no symbol `QnnInterface_getProviders`"]);
}

#[test]
fn a_worker_that_is_not_there_or_not_one() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("libQnnHtp.so"), b"").expect("a file");
    let mut options = options(folder.path(), None);
    options.worker.program = folder.path().join("none");
    refused(options.clone().open(), &["the worker process of Qualcomm's library cannot be started"]);
    options.worker.program = "/bin/false".into();
    refused(options.open(), &["ended its process (exit code 1) while it was asked to open its backend"]);
}

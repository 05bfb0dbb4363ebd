//! `pteron qat` on the bundled model.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Ran, pteron, with_glass};

const TEXT: &str = include_str!("../assets/glass-en/LICENSE");

fn qat(folder: &Path, more: &[&str]) -> Ran {
    std::fs::write(folder.join("text.txt"), TEXT).unwrap();
    let base =
        ["qat", "glass-en", "--data", "text.txt", "--seq-length", "17", "--batch", "1", "--warmup", "0", "--json"];
    let small = ["--calibration-windows", "2", "--evaluate-every", "0"];
    let args: Vec<&str> = base.iter().chain(&small).chain(more).copied().collect();
    pteron(folder, &args)
}

/// Begins a run and kills its process when it has saved its state for the second time.
fn killed(folder: &Path, more: &[&str]) {
    std::fs::write(folder.join("text.txt"), TEXT).unwrap();
    let base =
        ["qat", "glass-en", "--data", "text.txt", "--seq-length", "17", "--batch", "1", "--warmup", "0", "--json"];
    let small = ["--calibration-windows", "2", "--evaluate-every", "0", "--save-every", "1"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_pteron"))
        .args(base.iter().chain(&small).chain(more))
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let saved = out.lines().map(Result::unwrap).filter(|l| l.contains("\"saved\"")).nth(1);
    assert!(saved.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

fn losses(ran: Ran) -> Vec<f64> {
    let out = ran.ok();
    let events = out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let steps = events.filter(|e| e["event"] == "step");
    steps.map(|e| e["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_folder_is_trained_and_exported_and_a_run_goes_on() {
    let dir = with_glass();
    let folder = dir.path();
    let scheme = ["--pt2e-quantize", "qnn_16a4w"];
    let with = |more: &[&str]| qat(folder, &[&scheme, more].concat());
    let straight = losses(with(&["--steps", "4", "-o", "straight"]));
    assert_eq!(straight.len(), 4);
    assert!(straight.iter().all(|l| *l > 0.0));
    // The same on two threads, whose process is killed and which goes on.
    killed(folder, &[&scheme[..], &["--steps", "4", "-o", "again", "--cpu-threads", "2"]].concat());
    let rest = losses(with(&["--steps", "4", "-o", "again", "--cpu-threads", "2", "--resume"]));
    assert!(rest.len() <= 2 && straight.ends_with(&rest), "{rest:?} {straight:?}");
    for name in ["model.safetensors", "training_state.bin", "quantization_state.json"] {
        let read = |dir: &str| std::fs::read(folder.join(dir).join(name)).unwrap();
        assert!(read("straight") == read("again"), "{name}");
    }
    let begun = with(&["--steps", "4", "-o", "again"]).fails(1);
    assert!(begun.contains("training_state.bin") && begun.contains("--resume"), "{begun}");
    // Nothing is left to do.
    assert!(losses(with(&["--steps", "4", "-o", "again", "--resume"])).is_empty());
    let other = with(&["--steps", "5", "-o", "again", "--resume"]).fails(1);
    assert!(other.contains("other settings"), "{other}");
    // The export takes recipe and scales from the folder.
    let report = pteron(folder, &["export", "straight", "-o", "straight.pte", "--allow-degraded", "--json"]).json();
    assert!(report["quantization"]["scheme"].as_str().unwrap().contains("qnn_16a4w"), "{report}");
    assert_eq!(report["quantization"]["trained"]["calibrated"], 0, "{report}");
    assert!(report["quantization"]["trained"]["trained"].as_u64().unwrap() > 100, "{report}");
    // Forms that training did not see have tensors of their own, whose ranges are learnt from text.
    let cache = ["-kv", "--disable-dynamic-shape", "--max-seq-length", "64", "--max-context-length", "64"];
    let text = ["--calibration-data", "text.txt", "--calibration-limit", "3", "--calibration-seq-length", "48"];
    for form in [&[][..], &["--qnn", "--qnn-on-cpu", "--qnn-mode", "hybrid"]] {
        let export =
            [&["export", "straight", "-o", "form.pte", "--allow-degraded", "--json"], &cache[..], form].concat();
        let said = pteron(folder, &export).fails(1);
        assert!(
            said.contains("trained in the form without a KV cache") && said.contains("--calibration-data"),
            "{said}"
        );
        let report = pteron(folder, &[&export[..], &text].concat()).json();
        let count = |name: &str| report["quantization"]["trained"][name].as_u64().unwrap();
        assert!(count("trained") > 100 && count("calibrated") > 0, "{report}");
        assert!(report["quantization"]["evaluation"]["kl"].as_f64().unwrap() < 0.5, "{report}");
    }
    // Weights that were changed behind its back are not quantized with its scales.
    std::fs::copy(folder.join("glass-en/model.safetensors"), folder.join("straight/model.safetensors")).unwrap();
    let changed = pteron(folder, &["export", "straight", "-o", "changed.pte"]).fails(1);
    assert!(changed.contains("quantization_state.json") && changed.contains("other weights"), "{changed}");
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let dir = with_glass();
    let folder = dir.path();
    let none = qat(folder, &["-o", "out"]).fails(1);
    assert!(none.contains("no trainable quantizer"), "{none}");
    let int8 = qat(folder, &["-qmode", "int8", "-o", "out"]).fails(1);
    assert!(int8.contains("int8") && int8.contains("8da4w"), "{int8}");
    let args =
        ["qat", "glass-en", "--data", "text.txt", "-qmode", "8da4w", "-G", "32", "--seq-length", "129", "-o", "out"];
    let long = pteron(folder, &args).fails(1);
    assert!(long.contains("--seq-length is 129") && long.contains("128 positions"), "{long}");
    std::fs::write(folder.join("short.txt"), "Alice").unwrap();
    let args = ["qat", "glass-en", "--data", "short.txt", "-qmode", "8da4w", "-G", "32", "-o", "out"];
    let short = pteron(folder, &args).fails(1);
    assert!(short.contains("short.txt") && short.contains("less than one window of 128"), "{short}");
    assert!(short.contains("--data") && !short.contains("calibrat"), "{short}");
    assert!(!folder.join("out").exists());
}

/// A learning rate that overflows: the step and the tensor are named, and what was saved before stays.
#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_state() {
    let dir = with_glass();
    let folder = dir.path();
    let flags = ["-qmode", "4w", "-G", "32", "--steps", "6", "--save-every", "1", "--learning-rate", "1e30"];
    let said = qat(folder, &[&flags[..], &["--clip-norm", "1e30", "-o", "out"]].concat()).fails(1);
    assert!(said.contains("step ") && said.contains("went bad"), "{said}");
    assert!(folder.join("out/training_state.bin").is_file());
}

/// A disk on which the state has no room: the process may not make files of four million bytes, and the state has ten.
#[cfg(unix)]
#[test]
fn a_state_that_cannot_be_saved_leaves_the_one_before() {
    use std::os::unix::process::CommandExt;
    let dir = with_glass();
    let folder = dir.path();
    let flags = ["-qmode", "8da4w", "-G", "32", "--steps", "40", "-o", "out"];
    killed(folder, &flags);
    let state = folder.join("out/training_state.bin");
    let before = std::fs::read(&state).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pteron"));
    command.args(["qat", "glass-en", "--data", "text.txt", "--seq-length", "17", "--batch", "1", "--warmup", "0"]);
    command.args(["--calibration-windows", "2", "--evaluate-every", "0", "--save-every", "1", "--resume"]).args(flags);
    let set = || {
        let limit = libc::rlimit { rlim_cur: 4_000_000, rlim_max: 4_000_000 };
        // SAFETY: the call reads one structure, which is on our stack.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only `setrlimit` is called, which is safe there.
    unsafe { command.current_dir(folder).pre_exec(set) };
    let said = support::ran(command.output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    let sentence = said.err.rsplit_once("error: ").unwrap().1;
    assert!(sentence.contains("training_state.bin") && sentence.contains("File too large"), "{sentence}");
    assert!(std::fs::read(&state).unwrap() == before);
    let mut left: Vec<_> = std::fs::read_dir(folder.join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "{left:?}");
}

//! Runs the command.

#![allow(dead_code, reason = "every test file uses another part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run of the command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The output of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    /// The JSON of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// The message of a run that must have failed with this status, in one sentence.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("backtrace"), "{}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        self.err
    }
}

fn command(args: &[&str], folder: &Path) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_pteron"));
    c.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// Status and text of a run.
pub(crate) fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the command in `folder`.
pub(crate) fn pteron(folder: &Path, args: &[&str]) -> Ran {
    ran(command(args, folder).output().unwrap())
}

/// Runs the command in `folder` with text on standard input.
pub(crate) fn pteron_with_input(folder: &Path, args: &[&str], input: &str) -> Ran {
    let mut child = command(args, folder).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    ran(child.wait_with_output().unwrap())
}

/// A folder with the bundled model in `glass-en`.
pub(crate) fn with_glass() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("glass-en")).unwrap();
    pteron::bundled::write_to(dir.path().join("glass-en")).unwrap();
    dir
}

/// Prompt, greedy ids and text of the recorded cases.
pub(crate) fn golden() -> Vec<(String, Vec<u64>, String)> {
    let all: serde_json::Value = serde_json::from_slice(pteron::bundled::file("golden.json")).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let ids = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
    let case = |c: &serde_json::Value| (text(&c["prompt"]), ids(&c["greedy_ids"]), text(&c["text"]));
    all["cases"].as_array().unwrap().iter().map(case).collect()
}

/// A file that the real ExecuTorch made.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/executorch").join(name)
}

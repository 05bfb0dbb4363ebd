//! What tests of several crates share: how to say that a test could not run, where downloaded models lie, and how a parser
//! is tried with damaged files ([`hostile`]).
//!
//! A development dependency only.
#![allow(clippy::print_stderr, reason = "a skipped test is told to whoever watches the run")]

pub mod filetests;
pub mod gguf;
pub mod hostile;
pub mod torch;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The variable that names the file to which skipped tests append a line; `cargo xtask test` sets it and prints the lines.
pub const SKIP_LOG: &str = "PTERON_SKIP_LOG";

/// The variable that lets tests run which write gigabytes; `cargo xtask test` sets it.
pub const LARGE_TESTS: &str = "PTERON_LARGE_TESTS";

/// The variable that names the folder of downloads; `target/fetch` of the workspace otherwise.
pub const FETCH_DIR: &str = "PTERON_FETCH_DIR";

/// Says that `test` cannot run here and why. The test then returns: it counts as skipped, not as passed.
pub fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {}\n", reason.replace('\n', " "));
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os(SKIP_LOG) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        // A log that cannot be written must not turn a skipped test into a failed one.
        let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
    }
}

/// True if tests may run that write gigabytes; says so in the skip log otherwise.
pub fn large_tests_allowed(test: &str) -> bool {
    let allowed = std::env::var_os(LARGE_TESTS).is_some_and(|v| v == "1");
    if !allowed {
        skip(test, "writes gigabytes: runs under `cargo xtask test`, or with PTERON_LARGE_TESTS=1");
    }
    allowed
}

/// A downloaded model's folder, if it is there; says so in the skip log otherwise.
pub fn fetched(test: &str, name: &str) -> Option<PathBuf> {
    let folder = fetch_dir().join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    skip(test, &format!("{name} is not downloaded: `cargo xtask fetch --models` puts it into target/fetch"));
    None
}

/// The releases of Qualcomm's QNN that tests use: the one that ExecuTorch 1.5.1 accepts, the oldest and the newest.
pub const QNN_RELEASES: [&str; 3] = ["2.49", "2.47", "2.51"];

/// The folder with Qualcomm's QNN libraries of a release of [`QNN_RELEASES`], if they are there; says so in the skip log
/// otherwise.
pub fn qnn_libraries(test: &str, release: &str) -> Option<PathBuf> {
    let folder = fetch_dir().join(format!("qnn-{release}")).join("onnxruntime_qnn");
    if folder.join("libQnnHtp.so").is_file() {
        return Some(folder);
    }
    let get = "`cargo xtask fetch --qnn` downloads them, and says whose licence you accept by that";
    skip(test, &format!("Qualcomm's QNN libraries {release} are not there: {get}"));
    None
}

/// The folder of downloads.
fn fetch_dir() -> PathBuf {
    match std::env::var_os(FETCH_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => workspace_root().join("target").join("fetch"),
    }
}

/// The root of the checkout.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// A file under `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    workspace_root().join("fixtures").join(path)
}

/// `Σ v[i]·m[i, j]·v[j]` for a square matrix, row by row: the expected squared error of a sum whose weights are off by `v`, where
/// `m` are the products of its inputs.
pub fn quadratic_form(v: &[f64], m: &[f32]) -> f64 {
    let row = |(x, row): (&f64, &[f32])| x * v.iter().zip(row).map(|(y, m)| y * f64::from(*m)).sum::<f64>();
    v.iter().zip(m.chunks_exact(v.len().max(1))).map(row).sum()
}

/// A small deterministic generator of numbers (xorshift64*), for inputs of tests.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// A stream for each seed.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n.max(1)
    }

    /// A float between -1 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// So many of these.
    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

//! Exports and runs that are killed, interrupted, or out of room: the destination is absent, the old file, or the whole
//! new one.

mod full;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod signals;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pteron::checkpoint::{SafetensorsWriter, TensorSpec};
use pteron::models::{ModelConfig, SyntheticWeights, Weights, parameters};
use pteron::tensor::DType;

const OLD: &[u8] = b"the old file";

/// A folder with a checkpoint, and the export that its file is made by.
struct Job {
    folder: tempfile::TempDir,
    args: Vec<&'static str>,
    /// The names in the folder when nothing has been exported.
    inputs: Vec<String>,
}

impl Job {
    fn new(folder: tempfile::TempDir, args: &[&'static str]) -> Job {
        let inputs = names(folder.path());
        Job { folder, args: [&["export", "-o", "m.pte", "-kv", "--bare"], args].concat(), inputs }
    }

    /// The bundled model in f16: 1.7 MB.
    fn bundled() -> Job {
        Job::new(support::with_glass(), &["glass-en", "-d", "fp16"])
    }

    /// A model with a large vocabulary: 20 MB of bf16 that become 40 MB of f32, nearly all of it writing.
    fn large() -> Job {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let checkpoint = folder.path().join("large");
        fs::create_dir(&checkpoint).unwrap();
        write_checkpoint(&checkpoint);
        Job::new(folder, &["large"])
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("m.pte")
    }

    fn command(&self) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pteron"));
        c.args(&self.args).current_dir(self.folder.path()).stdin(Stdio::null());
        c.stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    /// Exports undisturbed; gives the file, and checks that nothing else came of it.
    fn whole(&self) -> Vec<u8> {
        support::ran(self.command().output().unwrap()).ok();
        assert_eq!(self.left(), ["m.pte"]);
        fs::read(self.out()).unwrap()
    }

    /// The names in the folder beside the inputs.
    fn left(&self) -> Vec<String> {
        names(self.folder.path()).into_iter().filter(|n| !self.inputs.contains(n)).collect()
    }

    /// Puts the old file in place, or none.
    fn begin(&self, old: bool) {
        let _ = fs::remove_file(self.out());
        if old {
            fs::write(self.out(), OLD).unwrap();
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn write_checkpoint(folder: &Path) {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32_000, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "torch_dtype": "bfloat16"
    });
    fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let config = ModelConfig::from_hf(&json).unwrap();
    let weights = SyntheticWeights::new(7).with_dtype(DType::BF16);
    let list = parameters(&config);
    let specs: Vec<TensorSpec> = list.iter().map(|p| TensorSpec::new(&p.name, DType::BF16, &p.shape)).collect();
    let mut writer = SafetensorsWriter::create(folder.join("model.safetensors"), &specs, &[]).unwrap();
    for p in &list {
        writer.write_source(&p.name, weights.get(&p.name, &p.shape).unwrap().as_ref()).unwrap();
    }
    writer.finish().unwrap();
}

/// Bytes that a process has handed to the system so far; 0 when it is gone.
#[cfg(target_os = "linux")]
fn written(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

/// Waits until a process has written `bytes`; false if it ended before.
#[cfg(target_os = "linux")]
fn wait_until_written(child: &mut std::process::Child, bytes: u64) -> bool {
    loop {
        if written(child.id()) >= bytes {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
}

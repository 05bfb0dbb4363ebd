//! An export of a 1B-shaped checkpoint holds next to nothing of it, and gives the same bytes each time.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pteron::checkpoint::{SafetensorsWriter, TensorSpec};
use pteron::models::{ModelConfig, SyntheticWeights, Weights, parameters};
use pteron::tensor::DType;
use pteron_testkit::large_tests_allowed;

/// What the process may hold beside mapped files, in bytes.
const RSS_ANON: u64 = 300_000_000;

/// Writes a checkpoint with the sizes of Llama-3.2-1B and synthetic bf16 weights.
fn write_checkpoint(folder: &Path) -> u64 {
    let json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192},
        "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 128_000,
        "eos_token_id": [128_001, 128_008, 128_009], "torch_dtype": "bfloat16"
    });
    fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let config = ModelConfig::from_hf(&json).unwrap();
    let weights = SyntheticWeights::new(5).with_dtype(DType::BF16);
    let list = parameters(&config);
    let specs: Vec<TensorSpec> = list.iter().map(|p| TensorSpec::new(&p.name, DType::BF16, &p.shape)).collect();
    let mut writer = SafetensorsWriter::create(folder.join("model.safetensors"), &specs, &[]).unwrap();
    for p in &list {
        writer.write_source(&p.name, weights.get(&p.name, &p.shape).unwrap().as_ref()).unwrap();
    }
    writer.finish().unwrap();
    fs::metadata(folder.join("model.safetensors")).unwrap().len()
}

/// Exports in a process of its own, held to `processors` processors, and gives the most anonymous memory seen from outside.
fn export(folder: &Path, out: &Path, processors: usize) -> u64 {
    let list = (0..processors).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let mut command = Command::new("taskset");
    command.args(["-c", &list, env!("CARGO_BIN_EXE_pteron"), "export"]).arg(folder).arg("-o").arg(out);
    command.args(["-kv", "--use-sdpa-with-kv-cache", "-d", "bf16", "--max-context-length", "2048"]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("taskset (util-linux) starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(1024 * kilobytes.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return most;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn same_bytes(a: &Path, b: &Path) -> bool {
    let (mut a, mut b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    if a.metadata().unwrap().len() != b.metadata().unwrap().len() {
        return false;
    }
    loop {
        let n = a.read(&mut x).unwrap();
        if n == 0 {
            return true;
        }
        b.read_exact(&mut y[..n]).unwrap();
        if x[..n] != y[..n] {
            return false;
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_1b_export_stays_small_and_is_deterministic() {
    if !large_tests_allowed("export_memory::a_1b_export_stays_small_and_is_deterministic") {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let weights = write_checkpoint(folder.path());
    assert!(weights > 2_400_000_000);
    let (one, two) = (folder.path().join("one.pte"), folder.path().join("two.pte"));
    for (out, processors) in [(&one, 1), (&two, 2)] {
        let most = export(folder.path(), out, processors);
        assert!(most > 0 && most < RSS_ANON, "{most} bytes of anonymous memory with {processors} processors");
        assert!(fs::metadata(out).unwrap().len() > weights);
    }
    assert!(same_bytes(&one, &two));
}

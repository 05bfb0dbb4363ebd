//! Language models for Qualcomm's tensor processor, in its emulator: every node is delegated, and the greedy tokens are those of
//! the same graphs on CPU kernels.

mod support;

use std::path::{Path, PathBuf};

use pteron::calibration::{CalibrationOptions, DataOptions, EvaluationOptions, write_state};
use pteron::llm::runner::{LogitsData, TextDecoder};
use pteron::qnn::soc::{DEFAULT_SOC, Soc};
use pteron::quant::recipe::Recipe;
use pteron::{ExportReport, Exporter, LoadOptions, Program, ProgramDecoder, QnnMode, QnnOptions, TokenizerSource};
use pteron_testkit::{QNN_RELEASES, fixture, qnn_libraries};
use support::with_glass;

/// Positions of the programs' caches.
const CONTEXT: usize = 48;
/// Tokens of a call of `prefill_forward`.
const BLOCK: usize = 8;
/// Greedy tokens that are compared.
const TOKENS: usize = 12;
/// Tokens of a window of calibration, and windows.
const WINDOW: usize = 40;
const WINDOWS: usize = 3;

const WIDE: &str = "pt2e-quantize = 'qnn_16a8w'\n";
const NARROW_CHANNELS: &str = "pt2e-quantize = 'qnn_16a4w'\n";
const BYTES: &str = "pt2e-quantize = 'qnn_8a8w'\n";

/// 4-bit weights: in blocks where the columns divide (LPBQ), per channel where they do not; 8 bits for the logits, as
/// ExecuTorch's recipes have it.
const NARROW: &str = "pt2e-quantize = 'qnn_16a4w_block'\n\
    [[rule]]\npath = 'model\\.layers\\.\\d+\\.(self_attn\\.[qkvo]_proj|mlp\\.(gate|up)_proj)'\n\
    granularity = 'group'\ngroup-size = 32\n\
    [[rule]]\npath = 'lm_head'\npt2e-quantize = 'qnn_16a8w'\n";

/// 16-bit activations, with the sums of the residual stream in float.
const FLOAT_SUMS: &str = "pt2e-quantize = 'qnn_16a8w'\n\
    [[rule]]\npath = 'model\\.layers\\.\\d+'\nkeep-float = true\n";

/// A model with its calibrated ranges.
struct Subject {
    folder: tempfile::TempDir,
    checkpoint: PathBuf,
    tokenizer: PathBuf,
    prompt: &'static str,
    recipe: &'static str,
    change: fn(&mut QnnOptions),
}

impl Subject {
    /// The bundled model; `change` makes its options others than the default.
    fn glass(recipe: &'static str, change: fn(&mut QnnOptions)) -> Subject {
        let folder = with_glass();
        let checkpoint = folder.path().join("glass-en");
        let tokenizer = checkpoint.join("tokenizer.json");
        let text: Vec<String> = support::golden().into_iter().map(|(prompt, _, text)| prompt + &text).collect();
        let prompt = "Alice was beginning to";
        Subject { folder, checkpoint, tokenizer, prompt, recipe, change }.calibrated(&text.join("\n"))
    }

    /// The bundled model after a few steps of training for `recipe`, whose scales go with the folder.
    fn trained(recipe: &'static str) -> Subject {
        let untrained = Subject::glass(recipe, |_| ());
        let folder = untrained.folder.path();
        std::fs::write(folder.join("recipe.toml"), recipe).unwrap();
        let steps = ["--steps", "3", "--learning-rate", "1e-4", "--warmup", "0", "--batch", "1", "--seq-length", "33"];
        let args = ["qat", "glass-en", "--recipe", "recipe.toml", "--data", "text.txt", "-o", "trained"];
        support::pteron(folder, &[&args[..], &steps].concat()).ok();
        let checkpoint = folder.join("trained");
        // The recipe is the folder's own.
        Subject { checkpoint, recipe: "", ..untrained }.with_ranges()
    }

    /// llama2.c's smallest model.
    fn stories(recipe: &'static str) -> Subject {
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture("llama2c/golden.json")).unwrap()).unwrap();
        let text = golden["text"].as_str().unwrap().replace("<0x0A>", "\n");
        let (checkpoint, tokenizer) = (fixture("llama2c/stories260K.bin"), fixture("llama2c/tok512.bin"));
        let folder = tempfile::tempdir().unwrap();
        let prompt = "Once upon a time";
        Subject { folder, checkpoint, tokenizer, prompt, recipe, change: |_| () }.calibrated(&text)
    }

    fn exporter(&self, mode: QnnMode, sdk: Option<&Path>) -> Exporter<'static> {
        let soc = Soc::by_name(DEFAULT_SOC).unwrap();
        let mut options = QnnOptions {
            mode,
            prefill_ar_len: BLOCK,
            on_cpu: sdk.is_none(),
            require_full_delegation: true,
            sdk: sdk.map(Path::to_owned),
            ..QnnOptions::new(soc)
        };
        (self.change)(&mut options);
        Exporter::open(&self.checkpoint)
            .unwrap()
            .tokenizer(&self.tokenizer)
            .kv_cache(true)
            .dynamic_shape(false)
            .max_seq_length(CONTEXT)
            .max_context_length(CONTEXT)
            .quantize(Recipe::parse(self.recipe).unwrap())
            .evaluation(EvaluationOptions { enabled: false, ..EvaluationOptions::default() })
            .bare(true)
            .qnn(options)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("ranges.state")
    }

    /// Learns ranges from what the model itself says.
    fn calibrated(self, text: &str) -> Subject {
        std::fs::write(self.folder.path().join("text.txt"), format!("{text}\n").repeat(4)).unwrap();
        self.with_ranges()
    }

    fn with_ranges(self) -> Subject {
        let file = self.folder.path().join("text.txt");
        let data = DataOptions { files: vec![file], limit: WINDOWS, window: Some(WINDOW), ..DataOptions::default() };
        let exporter = self.exporter(QnnMode::Kv, None);
        let calibrated = exporter.calibration(CalibrationOptions { data, state: None }).calibrate(None, None).unwrap();
        write_state(&self.state(), &calibrated.state).unwrap();
        self
    }

    fn export(&self, mode: QnnMode, sdk: Option<&Path>) -> (ProgramDecoder, ExportReport) {
        let name = format!("{}{}.pte", mode.name(), if sdk.is_some() { "" } else { "_cpu" });
        let path = self.folder.path().join(name);
        let calibration = CalibrationOptions { state: Some(self.state()), ..CalibrationOptions::default() };
        let report = self.exporter(mode, sdk).calibration(calibration).write(&path).unwrap_or_else(|e| panic!("{e}"));
        let trained = report.quantization.as_ref().and_then(|q| q.trained.as_ref());
        assert_eq!(trained.is_some_and(|t| t.trained > 90), self.recipe.is_empty(), "{trained:?}");
        let load = LoadOptions { qnn_sdk: sdk.map(Path::to_owned), threads: Some(2), ..LoadOptions::default() };
        let program = Program::open(&path, &load).unwrap_or_else(|e| panic!("{e}"));
        (ProgramDecoder::new(program, "forward").unwrap(), report)
    }

    fn prompt(&self) -> Vec<i64> {
        let tokenizer = TokenizerSource::open(&self.tokenizer).unwrap().tokenizer().unwrap();
        let ids = tokenizer.encode(self.prompt, false).unwrap();
        tokenizer.bos_id().into_iter().chain(ids).map(i64::from).collect()
    }
}

/// The logits of the last of these tokens.
fn logits(decoder: &mut ProgramDecoder, tokens: &[i64], start: usize) -> Vec<f64> {
    let mut last = Vec::new();
    let most = decoder.tokens_per_call().most();
    for (i, part) in tokens.chunks(most).enumerate() {
        let logits = decoder.step(part, (start + i * most) as i64).unwrap_or_else(|e| panic!("{e}"));
        let (rows, width) = logits.rows().unwrap();
        let LogitsData::F32(data) = &logits.data else { panic!("{:?}", logits.shape) };
        last = data[(rows - 1) * width..].iter().map(|v| f64::from(*v)).collect();
    }
    last
}

fn likeliest(logits: &[f64]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

/// Both choose the same tokens; where they do not, the two tokens are as good as alike to the first one. Gives the largest
/// difference of logits, as a share of the range of a row.
fn same_tokens(what: &str, first: &mut ProgramDecoder, second: &mut ProgramDecoder, prompt: &[i64], tie: f64) -> f64 {
    let (mut tokens, mut at, mut worst) = (prompt.to_vec(), 0, 0f64);
    for _ in 0..TOKENS {
        let (a, b) = (logits(first, &tokens[at..], at), logits(second, &tokens[at..], at));
        assert_eq!(a.len(), b.len());
        let (low, high) = a.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / (high - low);
        worst = worst.max(difference);
        let (x, y) = (likeliest(&a), likeliest(&b));
        let apart = (a[x] - a[y]) / (high - low);
        assert!(apart <= tie, "{what}: token {} is {y}, expected {x}, which is {apart:.4} better", tokens.len());
        at = tokens.len();
        tokens.push(x as i64);
    }
    worst
}

/// Logits of the emulator differ by this share of a row's range at most, and tokens that are this near are ties: 16-bit codes are
/// off by a step in each layer (with 4-bit weights per channel by about ten), which turns some 8-bit codes of keys and values.
const NEAR: f64 = 0.04;
/// The same where activations and logits have 8 bits, whose steps are 256 times as large.
const NEAR_IN_BYTES: f64 = 0.1;

fn check(test: &str, contexts: usize, subject: impl FnOnce() -> Subject) {
    check_within(test, contexts, NEAR, subject);
}

fn check_within(test: &str, contexts: usize, near: f64, subject: impl FnOnce() -> Subject) {
    let Some(sdk) = qnn_libraries(test, QNN_RELEASES[0]) else { return };
    let subject = subject();
    let prompt = subject.prompt();
    for (mode, graphs) in
        [(QnnMode::Hybrid, &["kv_forward", "prefill_forward"][..]), (QnnMode::Mutable, &["forward"][..])]
    {
        let (mut cpu, _) = subject.export(mode, None);
        let (mut emulator, report) = subject.export(mode, Some(&sdk));
        let qnn = report.qnn.unwrap();
        assert_eq!((qnn.outside, qnn.contexts.len()), (0, contexts), "{}", qnn.table);
        assert!(qnn.contexts.iter().all(|c| c.graphs == graphs));
        assert!(graphs.iter().all(|g| qnn.nodes.iter().any(|n| n.method == *g && n.delegate == Some(contexts - 1))));
        let what = format!("{test}, {}", mode.name());
        let worst = same_tokens(&what, &mut cpu, &mut emulator, &prompt, near);
        assert!(worst <= near, "{what}: logits differ by {worst:.4} of their range");
    }
}

#[test]
fn glass_en_16a8w() {
    check("glass_en_16a8w", 1, || Subject::glass(WIDE, |_| ()));
}

#[test]
fn glass_en_16a4w_in_blocks() {
    check("glass_en_16a4w_in_blocks", 1, || Subject::glass(NARROW, |_| ()));
}

#[test]
fn glass_en_with_float_sums() {
    check("glass_en_with_float_sums", 1, || Subject::glass(FLOAT_SUMS, |_| ()));
}

#[test]
fn glass_en_trained_16a4w() {
    check("glass_en_trained_16a4w", 1, || Subject::trained(NARROW_CHANNELS));
}

#[test]
fn glass_en_trained_8a8w() {
    check_within("glass_en_trained_8a8w", 1, NEAR_IN_BYTES, || Subject::trained(BYTES));
}

#[test]
fn stories260k_16a8w() {
    check("stories260k_16a8w", 1, || Subject::stories(WIDE));
}

#[test]
fn stories260k_16a4w_in_blocks() {
    check("stories260k_16a4w_in_blocks", 1, || Subject::stories(NARROW));
}

#[test]
fn glass_en_in_shards_and_head_by_head() {
    let change = |options: &mut QnnOptions| (options.num_sharding, options.single_heads) = (2, true);
    check("glass_en_in_shards_and_head_by_head", 2, || Subject::glass(WIDE, change));
}

/// One calibration serves all forms: caches as inputs and caches as buffers are one model, without Qualcomm's library too.
#[test]
fn forms_compute_the_same_from_one_calibration() {
    for recipe in [WIDE, NARROW] {
        let subject = Subject::glass(recipe, |_| ());
        let prompt = subject.prompt();
        let (mut hybrid, _) = subject.export(QnnMode::Hybrid, None);
        let (mut mutable, _) = subject.export(QnnMode::Mutable, None);
        let worst = same_tokens("mutable against hybrid", &mut hybrid, &mut mutable, &prompt, 1e-3);
        assert!(worst <= 1e-3, "logits differ by {worst} of their range");
    }
}

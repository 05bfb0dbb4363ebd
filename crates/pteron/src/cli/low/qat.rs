//! Low arguments of `pteron qat`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::export::QuantizationArgs;

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum LossArg {
    /// The divergence from the float model's next-token distribution
    Kl,
    /// The cross-entropy of the next token
    CrossEntropy,
}

/// Whether scales of weights follow the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ScalesArg {
    /// Chosen anew after each step, as an export would
    Live,
    /// As before the first step
    Frozen,
    /// Trained, and the ranges of activations too (LSQ)
    Learned,
}

/// By which rule ranges become scales while training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RuleArg {
    /// The observer's, with which an export quantizes
    Observer,
    /// That of PyTorch's fused operator
    Fbgemm,
}

/// Element type of the trained weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TrainedDType {
    /// 32-bit floats
    Fp32,
    /// 16-bit floats with 8 bits of exponent; the optimizer keeps 32-bit copies
    Bf16,
}

/// `pteron qat`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron qat glass-en --pt2e-quantize qnn_16a4w --data book.txt -o trained\n  \
        pteron qat SmolLM2-135M --quantization-mode 8da4w --group-size 32 --data text.jsonl --lora-rank 16 -o trained\n  \
        pteron export trained -kv --use-sdpa-with-kv-cache -o trained.pte   (of 8da4w; qnn_* without -kv)")]
pub(in crate::cli) struct QatArgs {
    /// Checkpoint: a Hugging Face folder
    #[arg(value_name = "CHECKPOINT")]
    pub(in crate::cli) checkpoint: PathBuf,
    /// Text to train on, or JSON Lines with a string `text`; several times for several files
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(in crate::cli) data: Vec<PathBuf>,
    /// Folder to write: the trained weights, tokenizer, quantization state, and the state of the run
    #[arg(short = 'o', long, value_name = "DIR")]
    pub(in crate::cli) output: PathBuf,
    /// Tokenizer of the model [default: tokenizer.json or tokenizer.model beside the weights]
    #[arg(short = 't', long, value_name = "FILE", alias = "tokenizer")]
    pub(in crate::cli) tokenizer_path: Option<PathBuf>,
    /// Go on with the run in the output folder
    #[arg(long)]
    pub(in crate::cli) resume: bool,
    /// Print events as JSON, one a line, on standard output
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Threads [default: as many as there are performance cores]
    #[arg(long, value_name = "N", default_value_t = -1, allow_hyphen_values = true)]
    pub(in crate::cli) cpu_threads: i64,
    #[command(flatten)]
    pub(in crate::cli) quantization: QuantizationArgs,
    #[command(flatten)]
    pub(in crate::cli) training: TrainingArgs,
}

/// How it is trained.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub(in crate::cli) struct TrainingArgs {
    /// Steps
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(in crate::cli) steps: u64,
    /// Windows of a step, whose gradients are averaged
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(in crate::cli) batch: usize,
    /// Tokens of a window, of which the last is only predicted [default: 257, or the model's positions if they are less]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) seq_length: Option<usize>,
    /// What is made small
    #[arg(long, value_enum, default_value = "kl")]
    pub(in crate::cli) loss: LossArg,
    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 1e-4)]
    pub(in crate::cli) learning_rate: f64,
    /// Steps in which the learning rate rises from 0
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(in crate::cli) warmup: u64,
    /// Share of the learning rate that half a cosine comes down to
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(in crate::cli) final_rate: f64,
    /// Weight decay of AdamW, for matrices
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(in crate::cli) weight_decay: f64,
    /// Largest norm of all gradients together
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub(in crate::cli) clip_norm: f64,
    /// Train adapters of this rank on frozen weights
    #[arg(long, value_name = "N")]
    pub(in crate::cli) lora_rank: Option<usize>,
    /// Factor of the adapters, times their rank [default: twice the rank]
    #[arg(long, value_name = "A", requires = "lora_rank")]
    pub(in crate::cli) lora_alpha: Option<f64>,
    /// Scales of weights
    #[arg(long, value_enum, default_value = "live")]
    pub(in crate::cli) scales: ScalesArg,
    /// Largest learning rate of learned scales, as a share of them, and of the ends of learned ranges
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    pub(in crate::cli) scale_rate: f64,
    /// Rule from ranges of activations to scales while training; an export always takes the observer's
    #[arg(long, value_enum, default_value = "observer")]
    pub(in crate::cli) qparams_rule: RuleArg,
    /// First step that is fake-quantized
    #[arg(long, value_name = "STEP", default_value_t = 1)]
    pub(in crate::cli) quantize_from: u64,
    /// Step at which ranges of activations stop moving
    #[arg(long, value_name = "STEP")]
    pub(in crate::cli) observe_until: Option<u64>,
    /// Windows that ranges are learnt from before the first step
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) calibration_windows: usize,
    /// Train the float model in the same way, to compare with
    #[arg(long)]
    pub(in crate::cli) no_fake_quantize: bool,
    /// Element type of the trained weights
    #[arg(short = 'd', long = "dtype", value_enum, default_value = "fp32", ignore_case = true)]
    pub(in crate::cli) dtype: TrainedDType,
    /// Seed of the order of windows and of adapters
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) seed: u64,
    /// Steps between two measurements on held-back windows; 0 for none but at the ends
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(in crate::cli) evaluate_every: u64,
    /// Steps between two saved states of the run; 0 for the end only
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(in crate::cli) save_every: u64,
}

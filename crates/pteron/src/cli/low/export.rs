//! What is exported, quantized, calibrated and lowered: the arguments of `export` and `calibrate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::QnnArgs;

/// Element types that a model is exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ExportDType {
    #[value(alias = "f32", alias = "float32")]
    Fp32,
    #[value(alias = "f16", alias = "float16")]
    Fp16,
    #[value(alias = "bfloat16")]
    Bf16,
}

/// How the scales of weights are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum AlgorithmArg {
    /// From the largest magnitude of a group
    Affine,
    /// HQQ that moves scales only, as ExecuTorch does by default
    Hqq,
    /// A search for the least squared error of the weights
    Mse,
    /// Codes that make up for each other's errors over the inputs of --calibration-data (GPTQ), which it needs; better with
    /// --rotate
    Gptq,
    /// The codes and scales that the checkpoint has: blocks of Q4_0 and Q8_0 in GGUF files. Nothing is quantized again; what is
    /// stored otherwise stays float
    Stored,
}

/// What is quantized.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub(in crate::cli) struct QuantizationArgs {
    /// A recipe (TOML): what the other flags of quantization say for the whole model, and rules for single modules
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quantization_mode", "group_size", "embedding_quantize", "weight_algorithm", "pt2e_quantize", "quant_compat", "rotate", "optimized_rotation_path", "use_spin_quant"])]
    pub(in crate::cli) recipe: Option<PathBuf>,
    /// Linear layers by a source transform: int8 (weights per channel, or in groups with -G), 8da4w (4-bit weights in groups,
    /// 8-bit dynamic activations), 4w (4-bit weights in groups), 8da8w (8-bit weights per channel, or in groups with -G, and 8-bit
    /// dynamic activations) (short form: -qmode)
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) quantization_mode: Option<String>,
    /// Columns of a group; 0 for whole rows [default: 128 for 8da4w, 256 for 4w, whole rows for int8 and 8da8w]
    #[arg(short = 'G', long, value_name = "N")]
    pub(in crate::cli) group_size: Option<usize>,
    /// Embeddings: bits (2, 4 or 8) and columns of a group (0 for whole rows), such as 4,32
    #[arg(short = 'E', long, value_name = "BITS,GROUP")]
    pub(in crate::cli) embedding_quantize: Option<String>,
    /// Keep keys and values as 8-bit codes, with a scale for each token and head; needs --use-sdpa-with-kv-cache
    #[arg(long)]
    pub(in crate::cli) quantize_kv_cache: bool,
    /// How the source transforms choose scales [default: mse for 4-bit weights, and for int8 without groups, with
    /// --calibration-data; without, the largest magnitude of a channel for int8 without groups; else hqq]
    #[arg(long, value_enum)]
    pub(in crate::cli) weight_algorithm: Option<AlgorithmArg>,
    /// PT2E schemes, commas between them: `pteron explain-scheme` lists them
    #[arg(long, value_name = "SCHEME,...")]
    pub(in crate::cli) pt2e_quantize: Option<String>,
    /// Whose numbers the PT2E schemes take: et0.5 or et1.5 [default: et1.5]
    #[arg(long, value_name = "RELEASE")]
    pub(in crate::cli) quant_compat: Option<String>,
    /// Multiply the residual stream and the values of each head by Hadamard matrices with random signs, folded into the weights:
    /// hadamard, or hadamard,SEED. The float model's function stays as it is; the output layer is no longer tied
    #[arg(long, value_name = "KIND", conflicts_with = "optimized_rotation_path")]
    pub(in crate::cli) rotate: Option<String>,
    /// The same with matrices of a file (torch.save, or safetensors): R1, and model.layers.N.self_attn.R2 of each layer, as
    /// SpinQuant's optimizer writes them
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) optimized_rotation_path: Option<PathBuf>,
    /// A Hadamard transform in front of the feed-forward's last layer, at run time. With a rotation the layer's weight undoes it;
    /// without, it is taken as one that does already, as in SpinQuant's checkpoints (short form: -sq)
    #[arg(long, value_enum, value_name = "KIND")]
    pub(in crate::cli) use_spin_quant: Option<SpinQuantArg>,
}

/// Kinds of the transform in front of the feed-forward's last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SpinQuantArg {
    /// ExecuTorch's operator `llama::fast_hadamard_transform`
    Native,
}

/// What a pre-quantized checkpoint has quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum PreqModeArg {
    /// Linear layers: 4-bit weights in groups, 8-bit dynamic activations
    #[value(name = "8da4w")]
    Int8DynActInt4Weight,
    /// The same, and 8-bit weights with a scale for each row in the output layer
    #[value(name = "8da4w_output_8da8w")]
    Int8DynActInt4WeightOutputInt8DynActInt8Weight,
}

/// Checkpoints that are quantized already.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Pre-quantized checkpoints")]
pub(in crate::cli) struct PreqArgs {
    /// The checkpoint is one of Meta's that is quantized already (NAME.weight are codes, NAME.scales stand beside them): codes and
    /// scales are taken over as they are
    #[arg(long, value_enum, value_name = "MODE", conflicts_with_all = ["recipe", "quantization_mode", "group_size", "embedding_quantize", "weight_algorithm", "pt2e_quantize", "quant_compat", "rotate", "optimized_rotation_path"])]
    pub(in crate::cli) preq_mode: Option<PreqModeArg>,
    /// Columns of a group of the linear layers' codes
    #[arg(long, value_name = "N", default_value_t = 32, requires = "preq_mode")]
    pub(in crate::cli) preq_group_size: usize,
    /// Codes of the embedding: bits (2, 4 or 8) and columns of a group (0 for whole rows)
    #[arg(long, value_name = "BITS,GROUP", default_value = "8,0", requires = "preq_mode")]
    pub(in crate::cli) preq_embedding_quantize: String,
}

/// Where a static scheme learns the ranges of activations.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Calibration")]
pub(in crate::cli) struct CalibrationArgs {
    /// Text to calibrate with, UTF-8, or JSON Lines with a string `text` in each (.jsonl, .ndjson, .json); may be given
    /// several times
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) calibration_data: Vec<PathBuf>,
    /// Most windows to calibrate with; one window is one step of every observer [default: 64]
    #[arg(long, value_name = "WINDOWS")]
    pub(in crate::cli) calibration_limit: Option<usize>,
    /// Tokens of a window [default: 512, or the model's positions if they are fewer]
    #[arg(long, value_name = "TOKENS")]
    pub(in crate::cli) calibration_seq_length: Option<usize>,
    /// Draw the windows from all of the text by this seed [default: the first ones]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) calibration_seed: Option<u64>,
}

/// How far a quantized model may be from the float one.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Evaluation of the quantized model")]
pub(in crate::cli) struct GateArgs {
    /// Largest mean KL divergence from the float model, in nats, on windows held back from calibration (without
    /// --calibration-data: on a bundled text); past it nothing is written and the exit status is 1 [default: 0.5]
    #[arg(long, value_name = "NATS")]
    pub(in crate::cli) max_kl: Option<f64>,
    /// Write a model past --max-kl all the same, with a warning
    #[arg(long)]
    pub(in crate::cli) allow_degraded: bool,
    /// Measure nothing: for models whose float form does not fit in memory
    #[arg(long, conflicts_with_all = ["max_kl", "allow_degraded"])]
    pub(in crate::cli) no_evaluation: bool,
}

/// `pteron calibrate`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron calibrate SmolLM2-135M -kv --pt2e-quantize xnnpack --calibration-data text.txt -o xnnpack.state\n  \
        pteron calibrate SmolLM2-135M --pt2e-quantize qnn_16a8w --calibration-data text.jsonl --shard 1/4 -o 1.state\n  \
        pteron calibrate --merge 1.state 2.state 3.state 4.state -o whole.state")]
pub(in crate::cli) struct CalibrateArgs {
    /// Checkpoint: a Hugging Face folder, or a safetensors file
    #[arg(value_name = "CHECKPOINT", required_unless_present = "merge")]
    pub(in crate::cli) checkpoint: Option<PathBuf>,
    /// State file to write
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(in crate::cli) output: PathBuf,
    /// Calibrate with the windows of shard I of N only
    #[arg(long, value_name = "I/N")]
    pub(in crate::cli) shard: Option<String>,
    /// Merged ranges of a first run in shards: histograms whose range is fixed (ShardableHistogramObserver) count in this one
    #[arg(long, value_name = "FILE", requires = "shard")]
    pub(in crate::cli) ranges: Option<PathBuf>,
    /// Join the state files of all shards
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["checkpoint", "shard", "calibration_data"])]
    pub(in crate::cli) merge: Vec<PathBuf>,
    /// Model arguments: a params.json of Meta's, or a config.json [default: config.json beside the weights]
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(in crate::cli) params: Option<PathBuf>,
    /// Tokenizer of the model [default: tokenizer.json or tokenizer.model beside the weights]
    #[arg(short = 't', long, value_name = "FILE", alias = "tokenizer")]
    pub(in crate::cli) tokenizer_path: Option<PathBuf>,
    /// The exported form keeps keys and values between calls (short form: -kv)
    #[arg(long)]
    pub(in crate::cli) use_kv_cache: bool,
    /// The exported form has ExecuTorch's custom operators of attention; needs --use-kv-cache
    #[arg(long)]
    pub(in crate::cli) use_sdpa_with_kv_cache: bool,
    /// The exported form is one for Qualcomm's tensor processors, whatever its methods: `pteron export --qnn`. Their libraries are
    /// not needed
    #[arg(long, conflicts_with_all = ["use_sdpa_with_kv_cache", "quantize_kv_cache"])]
    pub(in crate::cli) qnn: bool,
    /// The exported form computes attention head by head
    #[arg(long, requires = "qnn")]
    pub(in crate::cli) use_qnn_sha: bool,
    /// Positions of the exported form's caches: its tables of rotations are as long, and are quantized as well
    #[arg(long, value_name = "TOKENS", default_value_t = 128, requires = "qnn")]
    pub(in crate::cli) max_context_length: usize,
    /// Element type of the exported form
    #[arg(short = 'd', long, value_enum, default_value = "fp32", ignore_case = true)]
    pub(in crate::cli) dtype_override: ExportDType,
    /// Leave out tensors of the checkpoint that the model does not have, instead of failing
    #[arg(long)]
    pub(in crate::cli) allow_unexpected: bool,
    /// Print what was done as JSON on standard output
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) quantization: QuantizationArgs,
    #[command(flatten)]
    pub(in crate::cli) calibration: CalibrationArgs,
}

/// `pteron export`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron export SmolLM2-135M-Instruct -kv --use-sdpa-with-kv-cache --max-seq-length 512 --max-context-length 512 -o smollm2.pte\n  \
        pteron export -c model/model.safetensors -p model/params.json -d bf16 -o out -n llama")]
pub(in crate::cli) struct ExportArgs {
    /// Checkpoint: a Hugging Face folder, or a safetensors file
    #[arg(value_name = "CHECKPOINT", conflicts_with = "checkpoint_flag")]
    pub(in crate::cli) checkpoint: Option<PathBuf>,
    /// The same, as export_llama names it
    #[arg(short = 'c', long = "checkpoint", value_name = "PATH")]
    pub(in crate::cli) checkpoint_flag: Option<PathBuf>,
    /// Model arguments: a params.json of Meta's, or a config.json [default: config.json beside the weights]
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(in crate::cli) params: Option<PathBuf>,
    /// Tokenizer whose vocabulary and special tokens are checked and written [default: tokenizer.json beside the weights]
    #[arg(short = 't', long, value_name = "FILE", alias = "tokenizer")]
    pub(in crate::cli) tokenizer_path: Option<PathBuf>,
    /// Name of the model, from which the file is named [default: the checkpoint's own]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) model: Option<String>,
    /// File to write if it ends in .pte, else the folder to write in
    #[arg(short = 'o', long, alias = "output", value_name = "PATH", default_value = ".")]
    pub(in crate::cli) output_dir: PathBuf,
    /// Name of the file; taken as the whole path if it ends in .pte
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(in crate::cli) output_name: Option<String>,
    /// Keep keys and values between calls: the program takes a position (short form: -kv)
    #[arg(long)]
    pub(in crate::cli) use_kv_cache: bool,
    /// Attention and cache as ExecuTorch's custom operators; needs --use-kv-cache (recommended)
    #[arg(long)]
    pub(in crate::cli) use_sdpa_with_kv_cache: bool,
    /// Keep keys and values as 8-bit codes with a fixed scale for each element of a head, learnt from --calibration-data; needs
    /// --use-kv-cache, without --use-sdpa-with-kv-cache
    #[arg(long, conflicts_with_all = ["quantize_kv_cache", "use_sdpa_with_kv_cache", "calibration_state", "qnn"], help_heading = "Quantization")]
    pub(in crate::cli) static_quantize_kv_cache: bool,
    /// The scale of all keys and values, where none are learnt: 1/127 = 0.007874 reaches from -1 to 1
    #[arg(
        long,
        value_name = "SCALE",
        requires = "static_quantize_kv_cache",
        conflicts_with = "calibration_data",
        help_heading = "Quantization"
    )]
    pub(in crate::cli) static_quantize_kv_cache_scale: Option<f32>,
    /// Take a fixed number of tokens a call: 1 with a KV cache, else --max-seq-length
    #[arg(long)]
    pub(in crate::cli) disable_dynamic_shape: bool,
    /// Longest single call, in tokens; one less with a dynamic shape, as in export_llama's programs
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(in crate::cli) max_seq_length: usize,
    /// Positions that the cache holds, at least --max-seq-length
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(in crate::cli) max_context_length: usize,
    /// Element type of weights, activations and caches
    #[arg(short = 'd', long, value_enum, default_value = "fp32", ignore_case = true)]
    pub(in crate::cli) dtype_override: ExportDType,
    /// Logits of all tokens of a call, not only of the last
    #[arg(long)]
    pub(in crate::cli) generate_full_logits: bool,
    /// Give linear layers to XNNPACK: dynamically quantized ones and those of f32; on by itself with a PT2E scheme of linear
    /// layers for XNNPACK, as in export_llama
    #[arg(short = 'X', long)]
    pub(in crate::cli) xnnpack: bool,
    /// Give float operators to XNNPACK too; needs --xnnpack
    #[arg(long)]
    pub(in crate::cli) xnnpack_extended_ops: bool,
    /// Keep a program portable that --pt2e-quantize would give to XNNPACK
    #[arg(long, conflicts_with_all = ["xnnpack", "xnnpack_extended_ops"])]
    pub(in crate::cli) no_xnnpack: bool,
    /// Fail if a node that the backend should take is not delegated (XNNPACK: a linear layer, QNN: any), naming it and the reason
    #[arg(long)]
    pub(in crate::cli) require_full_delegation: bool,
    /// Further constant methods: a JSON object such as {"get_bos_id": 1, "get_eos_ids": [2, 3]}
    #[arg(short = 'm', long, value_name = "JSON")]
    pub(in crate::cli) metadata: Option<String>,
    /// Leave out tensors of the checkpoint that the model does not have, instead of failing
    #[arg(long)]
    pub(in crate::cli) allow_unexpected: bool,
    /// Capture and verify the model without writing a program
    #[arg(long)]
    pub(in crate::cli) export_only: bool,
    /// Print what the recipe makes of each operator, and do nothing else
    #[arg(long, alias = "dry-run")]
    pub(in crate::cli) print_plan: bool,
    /// Write the program alone, without tokenizer, chat template, recipe and card beside it
    #[arg(long)]
    pub(in crate::cli) bare: bool,
    /// Print the report as JSON on standard output
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Say more
    #[arg(short = 'v', long)]
    pub(in crate::cli) verbose: bool,
    #[command(flatten)]
    pub(in crate::cli) quantization: QuantizationArgs,
    #[command(flatten)]
    pub(in crate::cli) preq: PreqArgs,
    #[command(flatten)]
    pub(in crate::cli) calibration: CalibrationArgs,
    /// State file that `pteron calibrate` wrote, in the place of --calibration-data
    #[arg(long, value_name = "FILE", conflicts_with = "calibration_data", help_heading = "Calibration")]
    pub(in crate::cli) calibration_state: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) gate: GateArgs,
    #[command(flatten)]
    pub(in crate::cli) qnn: QnnExportArgs,
}

/// What programs for Qualcomm's tensor processors are made of.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Qualcomm QNN")]
pub(in crate::cli) struct QnnExportArgs {
    /// Lower to Qualcomm's QNN: needs Qualcomm's libraries (`pteron doctor`)
    #[arg(long, conflicts_with = "xnnpack")]
    pub(in crate::cli) qnn: bool,
    /// Methods: `mutable`, one token with caches as buffers, as export_llama has it; `kv`, one token with caches as inputs and
    /// outputs; `hybrid`, that and a method for a block of tokens
    #[arg(long, value_enum, default_value = "mutable", requires = "qnn")]
    pub(in crate::cli) qnn_mode: QnnModeArg,
    /// Tokens of one call of prefill_forward, which `--qnn-mode hybrid` has
    #[arg(long, value_name = "N", default_value_t = 32, requires = "qnn")]
    pub(in crate::cli) prefill_ar_len: usize,
    /// System on chip that is compiled for; `pteron doctor` lists them
    #[arg(long, value_name = "NAME", default_value = pteron::qnn::soc::DEFAULT_SOC, requires = "qnn")]
    pub(in crate::cli) soc_model: String,
    /// Shards of layers, each in a context of its own; 0 and 1 do not cut
    #[arg(long, value_name = "N", default_value_t = 0, requires = "qnn")]
    pub(in crate::cli) num_sharding: usize,
    /// Compute attention head by head
    #[arg(long, requires = "qnn")]
    pub(in crate::cli) use_qnn_sha: bool,
    /// Operator of linear layers; weights in blocks are convolutions in any case
    #[arg(long, value_enum, default_value = "conv2d", requires = "qnn")]
    pub(in crate::cli) qnn_linear: QnnLinearArg,
    /// How the processor is clocked: default, sustained-high-performance, burst, high-performance, power-saver,
    /// low-power-saver, high-power-saver, low-balanced, balanced
    #[arg(long, value_name = "MODE", default_value = "burst", requires = "qnn")]
    pub(in crate::cli) htp_performance_mode: String,
    /// How thoroughly the library optimizes, from 1 to 3
    #[arg(long, value_name = "LEVEL", default_value_t = 3, requires = "qnn", value_parser = clap::value_parser!(u32).range(1..=3))]
    pub(in crate::cli) htp_optimization: u32,
    /// Compress activations in memory
    #[arg(long, requires = "qnn")]
    pub(in crate::cli) htp_dlbc: bool,
    /// Build the context with weights shared between the methods of `hybrid` as well, and report its size: the emulator cannot load
    /// it, so the program has the other one
    #[arg(long, requires = "qnn")]
    pub(in crate::cli) weight_sharing: bool,
    /// Write the same graphs, quantized the same, for CPU kernels: nothing is lowered, to compare with
    #[arg(long, requires = "qnn")]
    pub(in crate::cli) qnn_on_cpu: bool,
    #[command(flatten)]
    pub(in crate::cli) libraries: QnnArgs,
}

/// Methods of a program for Qualcomm's tensor processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum QnnModeArg {
    /// One token, caches as mutable buffers
    Mutable,
    /// One token, caches as inputs and outputs
    Kv,
    /// One token, and a block of tokens
    Hybrid,
}

/// The operator of linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum QnnLinearArg {
    /// A 1×1 convolution
    Conv2d,
    /// A fully connected layer
    FullyConnected,
}

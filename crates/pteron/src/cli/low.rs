//! Low arguments: the command line as it was typed. [`super::high`] makes of them what the commands take.

mod export;
mod qat;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(super) use export::{
    AlgorithmArg, CalibrateArgs, CalibrationArgs, ExportArgs, ExportDType, GateArgs, PreqArgs, PreqModeArg,
    QnnLinearArg, QnnModeArg, QuantizationArgs,
};
pub(super) use qat::{LossArg, QatArgs, RuleArg, ScalesArg, TrainedDType};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "pteron",
    about = "Exports Llama-family checkpoints as ExecuTorch programs, and runs such programs.",
    long_about = "Exports Llama-family checkpoints as ExecuTorch programs (.pte), and runs such programs, whoever made them.\n\n\
                  Long flags may be spelled with hyphens or underscores. Exit status: 0 done, 1 failed, 2 wrong usage.",
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(super) struct Cli {
    /// Print the version and the instruction set that kernels use on this machine
    #[arg(long, short = 'V', action = ArgAction::SetTrue, exclusive = true)]
    pub(super) version: bool,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Export a checkpoint as an ExecuTorch program
    #[command(long_about = "Export a checkpoint as an ExecuTorch program.\n\n\
                  Flags have the names, short forms and defaults of ExecuTorch's export_llama. For text generation \
                  `-kv --use-sdpa-with-kv-cache` with --max-seq-length and --max-context-length of the length you need \
                  is recommended: the defaults of export_llama are a program without a KV cache for 128 tokens.")]
    Export(Box<ExportArgs>),
    /// Calibrate a static quantization scheme, whole or in shards, into a state file
    #[command(
        long_about = "Run text past the observers of a static quantization scheme and write what they learnt to a state file, \
                        from which `pteron export --calibration-state FILE` exports.\n\n\
                        With --shard I/N a run takes the windows of one shard; shards can run anywhere where the same kernels \
                        run, and --merge joins their files to that of the whole run, byte for byte. Flags of the model's form \
                        (-kv, --use-sdpa-with-kv-cache, -d) must be those of the export."
    )]
    Calibrate(Box<CalibrateArgs>),
    /// Train a checkpoint with its quantization simulated
    #[command(
        long_about = "Train a Hugging Face folder with quantization simulated, so that the model adapts to it, and write a folder that \
                        `pteron export` quantizes as was trained.\n\n\
                        The recipe is the export's (--pt2e-quantize, --quantization-mode, --recipe). By default the model learns to \
                        give the float model's next-token distribution (--loss kl). The state of the run is saved every \
                        --save-every steps; after a kill --resume goes on with the same losses."
    )]
    Qat(Box<QatArgs>),
    /// Generate text with a program
    #[command(long_about = "Generate text with a program, Pteron's own or one made by ExecuTorch's exporter.\n\n\
                        Flags have the names of ExecuTorch's llama_main. Without --max-new-tokens and --seq-len, \
                        generation ends with the text or with the model's context.")]
    Run(Box<RunArgs>),
    /// Measure perplexity, and how far a model is from its reference
    #[command(
        long_about = "Measure the perplexity of a program or a checkpoint on a text; with --reference also how far it is from \
                        that model: KL divergence, same top token, change of the next token's probability.\n\n\
                        A perplexity means something only beside its method, which is printed with it: windows, scored \
                        tokens, token of beginning. Compare figures of one method, one tokenizer and one text."
    )]
    Eval(Box<EvalArgs>),
    /// Rank layers by what quantizing each costs, and find a recipe that meets a divergence or a size
    #[command(
        long_about = "Rank layers by what quantizing each costs: each is quantized alone, all else in float, and the KL \
                        divergence from the float model is measured on a text.\n\n\
                        With --max-kl or --target-size a recipe is found that leaves layers float, those first that spare \
                        the most divergence for their bytes, and measured; -o writes it. Static schemes need \
                        --calibration-data, and are calibrated once."
    )]
    Sensitivity(Box<SensitivityArgs>),
    /// Call a method of a program with inputs from a JSON file
    #[command(long_about = "Call a method of a program with inputs from a JSON file.\n\n\
                        The file is a list of calls, a call a list of inputs, an input a number, a boolean or \
                        {\"dtype\": \"float32\", \"shape\": [1, 2], \"data\": [0.5, NaN]}. Outputs are written in the same \
                        way. State such as a KV cache lives from call to call.")]
    Exec(ExecArgs),
    /// Turn text into a tokenizer's ids, or ids into text
    #[command(long_about = "Turn text into a tokenizer's ids, or ids into text.\n\n\
                        The tokenizer is found by its content: a Hugging Face tokenizer.json, a SentencePiece or tiktoken \
                        model, tekken.json, a llama2.c tokenizer.bin, or a GGUF file. Which one it is is said on standard \
                        error, or in the JSON.")]
    Tokenize(TokenizeArgs),
    /// Say what a checkpoint or a program holds
    Inspect(InspectArgs),
    /// Export, inspect and run a small bundled model
    Demo(DemoArgs),
    /// Measure speed and memory beside what the machine can do
    #[command(long_about = "Measure speed and memory beside what the machine can do.\n\n\
                  Without a subcommand: prefill (pp) and decode (tg) of a program with a KV cache, with the flags, the table and \
                  the field names of llama-bench. Beside each figure stands what the machine can do with the same threads, \
                  measured in the same run: for a prompt the rate of the multiplying instruction that its products could use, \
                  for decoding the rate at which as many bytes as a token touches are read. These shares can be compared from \
                  machine to machine.")]
    Bench(Box<BenchArgs>),
    /// Say what this machine has for Pteron, and whether Qualcomm's libraries work
    #[command(long_about = "Say what this machine has for Pteron, and whether Qualcomm's libraries work.\n\n\
                  Qualcomm's QNN libraries are looked for at --qnn-sdk, at QNN_SDK_ROOT, then in the Python package \
                  onnxruntime-qnn; one operator is compiled and run. Exit status 1 if they are there and do not work.")]
    Doctor(DoctorArgs),
    /// List the operators of the intermediate representation
    Operators(OperatorsArgs),
    /// Print the numbers of a quantization scheme, field by field
    #[command(long_about = "Print the numbers of a quantization scheme, field by field.\n\n\
                  For each operator class that the scheme's quantizer annotates: how input and output activations, weight and \
                  bias are quantized. Without a name, the schemes are listed.")]
    ExplainScheme(ExplainSchemeArgs),
    /// Print the reference of the command line as Markdown
    #[command(hide = true)]
    HelpMarkdown,
}

/// How the bytes of a program are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LoadModeArg {
    /// Read what is needed into memory
    File,
    /// Map the file
    Mmap,
    /// Map the file and keep it in memory
    Mlock,
}

/// What a program may take.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct LimitArgs {
    /// Most memory that the program may declare (activations, caches, constants that must be decoded), such as 2GiB; what
    /// goes past it is refused before it is allocated [default: all the machine has]
    #[arg(long, value_name = "SIZE", value_parser = super::sizes::bytes)]
    pub(super) max_memory: Option<u64>,
    /// Most element operations of one call, such as 50G: one for each element written or read and each multiply-add of a
    /// matrix product, and 64 for each operator; a program that needs more is stopped [default: no limit]
    #[arg(long, value_name = "N", value_parser = super::sizes::count)]
    pub(super) max_operations: Option<u64>,
}

/// The threads of a run.
#[derive(Clone, Debug, Args)]
pub(super) struct ThreadArgs {
    /// Threads; -1 is the number of performance cores
    #[arg(long, visible_alias = "threads", value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) cpu_threads: i64,
    /// Processors that they run on: a mask in hexadecimal digits such as 0xf0, or a list such as 4-7 [default: the
    /// performance cores, where the system tells them apart]
    #[arg(long, value_name = "MASK", value_parser = super::sizes::cpus)]
    pub(super) cpu_mask: Option<super::sizes::Cpus>,
}

/// What is said about speed after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StatsArg {
    /// A report on standard error
    Text,
    /// ExecuTorch's PyTorchObserver line on standard output
    Json,
    /// Nothing
    None,
}

/// `pteron run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Program (.pte or .bpte)
    #[arg(value_name = "MODEL", required_unless_present = "model_path", conflicts_with = "model_path")]
    pub(super) model: Option<PathBuf>,
    /// The same, as llama_main names it
    #[arg(long, value_name = "PATH")]
    pub(super) model_path: Option<PathBuf>,
    /// Tokenizer of any kind (tokenizer.json, SentencePiece, tiktoken, Tekken, llama2.c, GGUF), or a folder [default: beside the program]
    #[arg(long, alias = "tokenizer-path", short = 't', value_name = "PATH")]
    pub(super) tokenizer: Option<PathBuf>,
    /// Text to continue [default: standard input]
    #[arg(long, short = 'p', value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "prompt")]
    pub(super) prompt_file: Option<PathBuf>,
    /// 0 takes the likeliest token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(super) temperature: f32,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.9, allow_negative_numbers = true)]
    pub(super) top_p: f32,
    /// Sample from this many likeliest tokens; 0 is off, else it goes before --top-p
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) top_k: usize,
    /// Seed of the random numbers [default: the clock]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) seed: Option<u64>,
    /// Most new tokens; -1 is no limit of its own
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) max_new_tokens: i64,
    /// Most tokens of prompt and answer together; -1 is no limit of its own (llama_main: 128)
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) seq_len: i64,
    /// Beginning tokens before the prompt [default: as the tokenizer's own rules say; llama_main: 0]
    #[arg(long, value_name = "N")]
    pub(super) num_bos: Option<usize>,
    /// End tokens after the prompt [default: as the tokenizer's own rules say; llama_main: 0]
    #[arg(long, value_name = "N")]
    pub(super) num_eos: Option<usize>,
    /// Go on past tokens that end a text
    #[arg(long)]
    pub(super) ignore_eos: bool,
    /// Run once before, so that times are those of a warm machine
    #[arg(long)]
    pub(super) warmup: bool,
    /// Print the prompt before the new text [default, but with --chat]
    #[arg(long, overrides_with = "no_echo")]
    pub(super) echo: bool,
    /// Do not print the prompt
    #[arg(long, overrides_with = "echo")]
    pub(super) no_echo: bool,
    #[command(flatten)]
    pub(super) threads: ThreadArgs,
    /// How the program's bytes are reached
    #[arg(long, value_enum, default_value = "mmap")]
    pub(super) load_mode: LoadModeArg,
    /// Method that is called; where it is missing, `prefill` and `decode`
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub(super) method_name: String,
    /// Files of external constants (.ptd)
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', alias = "data-path")]
    pub(super) data_paths: Vec<PathBuf>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    pub(super) chat: bool,
    /// System message; implies --chat
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) system: Option<String>,
    /// What is said about speed
    #[arg(long, value_enum, default_value = "text")]
    pub(super) stats: StatsArg,
    /// Print the whole result as JSON instead of streaming text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) qnn: QnnArgs,
}

/// Where Qualcomm's libraries lie.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct QnnArgs {
    /// Folder of Qualcomm's QNN libraries, for programs that are lowered to them [default: QNN_SDK_ROOT, then the Python
    /// package onnxruntime-qnn]
    #[arg(long, value_name = "DIR")]
    pub(super) qnn_sdk: Option<PathBuf>,
}

/// `pteron doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) qnn: QnnArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// How a text is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProtocolArg {
    /// Windows side by side, all but the first token of each scored: as the GPTQ literature reports WikiText-2
    #[value(alias = "gptq")]
    NonOverlapping,
    /// llama.cpp's: windows side by side, the second half of each scored, each begun by the token of beginning
    #[value(name = "llama.cpp", alias = "llama-cpp")]
    LlamaCpp,
    /// Overlapping windows every --stride tokens, each token scored once
    Strided,
}

/// `pteron eval`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron eval SmolLM2-135M-Instruct --text wiki.test.raw --window 2048\n  \
        pteron eval SmolLM2-135M-Instruct -qmode 8da4w -G 32 --reference SmolLM2-135M-Instruct --text wiki.test.raw\n  \
        pteron eval smollm2.pte --reference SmolLM2-135M-Instruct --text wiki.test.raw --window 512 --windows 64\n  \
        pteron eval SmolLM2-135M-Instruct -qmode 8da4w --reference SmolLM2-135M-Instruct --text wiki.test.raw --nodes --report page.html")]
pub(super) struct EvalArgs {
    /// What is measured: a program (.pte or .bpte) or a checkpoint
    #[arg(value_name = "SUBJECT")]
    pub(super) subject: PathBuf,
    /// Text to measure on, UTF-8
    #[arg(long, value_name = "FILE")]
    pub(super) text: PathBuf,
    /// What it is compared with: a checkpoint or a program of the same vocabulary
    #[arg(long, value_name = "PATH")]
    pub(super) reference: Option<PathBuf>,
    /// Tokenizer: a file or the folder it is in [default: that of the reference or of the subject's folder]
    #[arg(long, value_name = "PATH", alias = "tokenizer-path")]
    pub(super) tokenizer: Option<PathBuf>,
    /// How the text is cut and scored
    #[arg(long, value_enum, default_value = "non-overlapping")]
    pub(super) protocol: ProtocolArg,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(super) window: usize,
    /// Tokens from one window to the next, for --protocol strided [default: half a window]
    #[arg(long, value_name = "N")]
    pub(super) stride: Option<usize>,
    /// Most windows [default: all of the text]
    #[arg(long, value_name = "N")]
    pub(super) windows: Option<usize>,
    /// Compare the nodes of the quantized checkpoint with those of --reference as well, and print the N that add the most
    /// noise [default: 20]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20", requires = "reference")]
    pub(super) nodes: Option<usize>,
    /// Tokens of the text that nodes are compared on
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(super) node_tokens: usize,
    /// Write a page of HTML with all figures; with --reference and two checkpoints, with each node's signal to noise, values
    /// and ranges
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Write what was measured at each scored token, as CSV: what a paired comparison of two models needs
    #[arg(long, value_name = "FILE")]
    pub(super) positions: Option<PathBuf>,
    /// Element type in which checkpoints are computed
    #[arg(short = 'd', long, value_enum, default_value = "fp32", ignore_case = true)]
    pub(super) dtype: ExportDType,
    /// Method of a program
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub(super) method_name: String,
    /// Files of external constants (.ptd) of a program
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    pub(super) data_paths: Vec<PathBuf>,
    /// Threads; -1 is the number of performance cores
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) cpu_threads: i64,
    /// Print the figures as JSON on standard output
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) quantization: QuantizationArgs,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
    /// State file that `pteron calibrate -kv --use-sdpa-with-kv-cache` wrote, in the place of --calibration-data
    #[arg(long, value_name = "FILE", conflicts_with = "calibration_data", help_heading = "Calibration")]
    pub(super) calibration_state: Option<PathBuf>,
    #[command(flatten)]
    pub(super) qnn: QnnArgs,
}

/// `pteron sensitivity`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron sensitivity SmolLM2-135M -qmode 8da4w -G 32 --text wiki.test.raw --max-kl 0.05 -o recipe.toml\n  \
        pteron sensitivity SmolLM2-135M --pt2e-quantize qnn_8a8w --calibration-data text.txt --text wiki.test.raw --report page.html")]
pub(super) struct SensitivityArgs {
    /// Checkpoint: a Hugging Face folder, or a file of another kind that is read
    #[arg(value_name = "CHECKPOINT")]
    pub(super) checkpoint: PathBuf,
    /// Text to measure on, UTF-8
    #[arg(long, value_name = "FILE")]
    pub(super) text: PathBuf,
    /// Tokenizer: a file or the folder it is in [default: the checkpoint's]
    #[arg(long, value_name = "PATH", alias = "tokenizer-path")]
    pub(super) tokenizer: Option<PathBuf>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) window: usize,
    /// Windows, from the beginning of the text: each layer is measured on all of them
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) windows: usize,
    /// Find a recipe of at most this mean KL divergence from the float model, in nats
    #[arg(long, value_name = "NATS", conflicts_with = "target_size")]
    pub(super) max_kl: Option<f64>,
    /// Find the best recipe whose constants take at most this size, such as 100MiB
    #[arg(long, value_name = "SIZE", value_parser = super::sizes::bytes)]
    pub(super) target_size: Option<u64>,
    /// Write the recipe that was found
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Layers that are printed, the dearest first; 0 for all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(super) top: usize,
    /// Write a page of HTML
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Element type in which the checkpoint is computed
    #[arg(short = 'd', long, value_enum, default_value = "fp32", ignore_case = true)]
    pub(super) dtype: ExportDType,
    /// Print the figures as JSON on standard output
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) quantization: QuantizationArgs,
    #[command(flatten)]
    pub(super) calibration: CalibrationArgs,
}

/// `pteron exec`.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Program (.pte or .bpte)
    #[arg(value_name = "MODEL")]
    pub(super) model: PathBuf,
    /// Calls to make; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) calls: PathBuf,
    /// File for the outputs; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(super) out: PathBuf,
    /// Method to call
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub(super) method: String,
    /// Files of external constants (.ptd)
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', alias = "ptd")]
    pub(super) data: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) threads: ThreadArgs,
    /// How the program's bytes are reached
    #[arg(long, value_enum, default_value = "mmap")]
    pub(super) load_mode: LoadModeArg,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) qnn: QnnArgs,
}

/// How a tiktoken rank file's text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PatternArg {
    /// As the models' reference in Python does
    Python,
    /// As ExecuTorch's C++ tokenizer does
    Cpp,
}

/// `pteron tokenize`.
#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    /// Text, or with --decode ids [default: standard input]
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) text: Option<String>,
    /// Tokenizer, or the folder that has it
    #[arg(long, alias = "tokenizer-path", short = 't', value_name = "PATH")]
    pub(super) tokenizer: PathBuf,
    /// File with the text
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "text")]
    pub(super) file: Option<PathBuf>,
    /// The text is JSON, a string a line (with --decode a list of ids a line); one result a line
    #[arg(long)]
    pub(super) jsonl: bool,
    /// Turn ids into text
    #[arg(long)]
    pub(super) decode: bool,
    /// Leave out the beginning and end tokens that the tokenizer adds by its own rules; with --decode, leave out special tokens
    #[arg(long)]
    pub(super) no_special: bool,
    /// Take special tokens that the text spells out as text
    #[arg(long)]
    pub(super) as_text: bool,
    /// How text is cut, for a tiktoken rank file
    #[arg(long, value_enum, default_value = "python")]
    pub(super) pattern: PatternArg,
    /// Print JSON: ids and pieces, or text
    #[arg(long)]
    pub(super) json: bool,
}

/// Runtimes whose operators are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeArg {
    /// ExecuTorch 1.5.1 as its Python package ships it
    #[value(name = "executorch-1.5", alias = "executorch-1.5.1", alias = "executorch")]
    Executorch15,
    /// This program
    Pteron,
}

/// `pteron inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Checkpoint folder, .safetensors, .pte, .bpte, .ptd or .etdp
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Say which operators and backends of the program this runtime lacks; exit 1 if any
    #[arg(long, value_enum, value_name = "NAME")]
    pub(super) runtime: Option<RuntimeArg>,
    /// Print every value and instruction of the program
    #[arg(long, conflicts_with_all = ["json", "ir"])]
    pub(super) dump: bool,
    /// Print the program lifted to the intermediate representation
    #[arg(long, conflicts_with = "json")]
    pub(super) ir: bool,
}

/// `pteron demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Keep the model and the program in this folder
    #[arg(long, value_name = "DIR")]
    pub(super) keep: Option<PathBuf>,
}

/// `pteron operators`.
#[derive(Debug, Args)]
pub(super) struct OperatorsArgs {
    /// Print a Markdown document
    #[arg(long, conflicts_with = "json")]
    pub(super) markdown: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `pteron explain-scheme`.
#[derive(Debug, Args)]
pub(super) struct ExplainSchemeArgs {
    /// The scheme's name, as for --pt2e-quantize; several with commas between them
    #[arg(value_name = "SCHEME")]
    pub(super) scheme: Option<String>,
    /// Whose numbers, where ExecuTorch's releases differ: et0.5 or et1.5 [default: et1.5]
    #[arg(long, value_name = "RELEASE")]
    pub(super) quant_compat: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// `pteron bench`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(super) model: BenchModelArgs,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Measure how fast memory and cache are read and multiply-adds executed
    #[command(long_about = "Measure how fast memory and cache are read and multiply-adds executed.\n\n\
                  Memory is a buffer of --mib, cache one of a quarter of the last level's size. Each figure is the best \
                  of several runs.")]
    Bandwidth(BenchBandwidthArgs),
    /// Measure an export beside a copy of the file that it writes
    #[command(long_about = "Measure an export beside a copy of the file that it writes.\n\n\
                  Flags are those of `pteron export`. The program is written to a temporary file in the folder of -o \
                  and copied there, both flushed to the disk, by turns and --repeat times; nothing is kept.")]
    Export(Box<BenchExportArgs>),
}

/// `pteron bench bandwidth`.
#[derive(Debug, Args)]
pub(super) struct BenchBandwidthArgs {
    /// Numbers of threads [default: 1 and the number of performance cores]
    #[arg(long, value_name = "N,...", value_delimiter = ',', alias = "cpu-threads")]
    pub(super) threads: Vec<usize>,
    /// Size of the buffer that stands for memory, in MiB
    #[arg(long, value_name = "N", default_value_t = pteron::bench::DEFAULT_READ_MIB)]
    pub(super) mib: usize,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// How figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BenchOutputArg {
    /// Tables in Markdown
    Md,
    /// A list of objects, one a test
    Json,
    /// An object a line
    Jsonl,
    /// Comma-separated values under a line of names
    Csv,
}

/// `pteron bench MODEL`.
#[derive(Debug, Args)]
pub(super) struct BenchModelArgs {
    /// Program (.pte or .bpte)
    #[arg(value_name = "MODEL", conflicts_with = "model_flag")]
    pub(super) model: Option<PathBuf>,
    /// The same, as llama-bench names it
    #[arg(short = 'm', long = "model", value_name = "FILE")]
    pub(super) model_flag: Option<PathBuf>,
    /// Lengths of prompts; 0 is none
    #[arg(short = 'p', long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    pub(super) n_prompt: Vec<usize>,
    /// Tokens to decode one by one; 0 is none
    #[arg(short = 'n', long, value_name = "N,...", value_delimiter = ',', default_value = "128")]
    pub(super) n_gen: Vec<usize>,
    /// Tokens in the cache before
    #[arg(short = 'd', long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    pub(super) n_depth: Vec<usize>,
    /// Numbers of threads [default: the number of performance cores]
    #[arg(short = 't', long, value_name = "N,...", value_delimiter = ',', alias = "cpu-threads")]
    pub(super) threads: Vec<usize>,
    /// Processors that the threads run on: a mask in hexadecimal digits such as 0xf0, or a list such as 4-7
    #[arg(short = 'C', long, value_name = "MASK", value_parser = super::sizes::cpus)]
    pub(super) cpu_mask: Option<super::sizes::Cpus>,
    /// Times that each figure is measured
    #[arg(short = 'r', long = "repetitions", value_name = "N", default_value_t = 5, alias = "repeat")]
    pub(super) repetitions: usize,
    /// How figures are printed
    #[arg(short = 'o', long, value_enum, default_value = "md")]
    pub(super) output: BenchOutputArg,
    /// Print the time of each kind of operator as well, a table a test; operators off the fast path are marked
    #[arg(long)]
    pub(super) profile: bool,
    /// Write every call of an operator to a file that Chrome's and Perfetto's trace viewers open
    #[arg(long, value_name = "FILE")]
    pub(super) profile_trace: Option<PathBuf>,
    /// How the program's bytes are reached
    #[arg(long, value_enum, default_value = "mmap")]
    pub(super) load_mode: LoadModeArg,
    /// Method that is called; where it is missing, `prefill` and `decode`
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub(super) method_name: String,
    /// Files of external constants (.ptd)
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', alias = "data-path")]
    pub(super) data_paths: Vec<PathBuf>,
    /// Size of the buffer that stands for memory, in MiB [default: the bytes that a token touches]
    #[arg(long, value_name = "N")]
    pub(super) mib: Option<usize>,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) qnn: QnnArgs,
}

/// `pteron bench export`.
#[derive(Debug, Args)]
pub(super) struct BenchExportArgs {
    /// Times that each file is written
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) repeat: usize,
    #[command(flatten)]
    pub(super) export: ExportArgs,
}

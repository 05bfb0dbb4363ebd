//! Low arguments: the command line as it was typed. [`super::high`] makes of them what the commands take.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

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
    /// Generate text with a program
    #[command(long_about = "Generate text with a program, Pteron's own or one made by ExecuTorch's exporter.\n\n\
                        Flags have the names of ExecuTorch's llama_main. Without --max-new-tokens and --seq-len, \
                        generation ends with the text or with the model's context.")]
    Run(Box<RunArgs>),
    /// Call a method of a program with inputs from a JSON file
    #[command(long_about = "Call a method of a program with inputs from a JSON file.\n\n\
                        The file is a list of calls, a call a list of inputs, an input a number, a boolean or \
                        {\"dtype\": \"float32\", \"shape\": [1, 2], \"data\": [0.5, NaN]}. Outputs are written in the same \
                        way. State such as a KV cache lives from call to call.")]
    Exec(ExecArgs),
    /// Say what a checkpoint or a program holds
    Inspect(InspectArgs),
    /// Export, inspect and run a small bundled model
    Demo(DemoArgs),
    /// Measure speed and memory beside what the machine can do
    #[command(long_about = "Measure speed and memory beside what the machine can do.\n\n\
                  The machine's limits are measured in the same run: the rate at which its memory is read, and the rate \
                  of f32 multiply-adds in registers. Shares of these limits can be compared from machine to machine.")]
    Bench(Box<BenchArgs>),
    /// List the operators of the intermediate representation
    Operators(OperatorsArgs),
    /// Print the reference of the command line as Markdown
    #[command(hide = true)]
    HelpMarkdown,
}

/// Element types that a model is exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportDType {
    #[value(alias = "f32", alias = "float32")]
    Fp32,
    #[value(alias = "f16", alias = "float16")]
    Fp16,
    #[value(alias = "bfloat16")]
    Bf16,
}

/// `pteron export`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  \
        pteron export SmolLM2-135M-Instruct -kv --use-sdpa-with-kv-cache --max-seq-length 512 --max-context-length 512 -o smollm2.pte\n  \
        pteron export -c model/model.safetensors -p model/params.json -d bf16 -o out -n llama")]
pub(super) struct ExportArgs {
    /// Checkpoint: a Hugging Face folder, or a safetensors file
    #[arg(value_name = "CHECKPOINT", conflicts_with = "checkpoint_flag")]
    pub(super) checkpoint: Option<PathBuf>,
    /// The same, as export_llama names it
    #[arg(short = 'c', long = "checkpoint", value_name = "PATH")]
    pub(super) checkpoint_flag: Option<PathBuf>,
    /// Model arguments: a params.json of Meta's, or a config.json [default: config.json beside the weights]
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(super) params: Option<PathBuf>,
    /// Tokenizer whose vocabulary and special tokens are checked and written [default: tokenizer.json beside the weights]
    #[arg(short = 't', long, value_name = "FILE", alias = "tokenizer")]
    pub(super) tokenizer_path: Option<PathBuf>,
    /// Name of the model, from which the file is named [default: the checkpoint's own]
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// File to write if it ends in .pte, else the folder to write in
    #[arg(short = 'o', long, alias = "output", value_name = "PATH", default_value = ".")]
    pub(super) output_dir: PathBuf,
    /// Name of the file; taken as the whole path if it ends in .pte
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(super) output_name: Option<String>,
    /// Keep keys and values between calls: the program takes a position (short form: -kv)
    #[arg(long)]
    pub(super) use_kv_cache: bool,
    /// Attention and cache as ExecuTorch's custom operators; needs --use-kv-cache (recommended)
    #[arg(long)]
    pub(super) use_sdpa_with_kv_cache: bool,
    /// Take a fixed number of tokens a call: 1 with a KV cache, else --max-seq-length
    #[arg(long)]
    pub(super) disable_dynamic_shape: bool,
    /// Longest single call, in tokens; one less with a dynamic shape, as in export_llama's programs
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) max_seq_length: usize,
    /// Positions that the cache holds, at least --max-seq-length
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) max_context_length: usize,
    /// Element type of weights, activations and caches
    #[arg(short = 'd', long, value_enum, default_value = "fp32", ignore_case = true)]
    pub(super) dtype_override: ExportDType,
    /// Logits of all tokens of a call, not only of the last
    #[arg(long)]
    pub(super) generate_full_logits: bool,
    /// Further constant methods: a JSON object such as {"get_bos_id": 1, "get_eos_ids": [2, 3]}
    #[arg(short = 'm', long, value_name = "JSON")]
    pub(super) metadata: Option<String>,
    /// Leave out tensors of the checkpoint that the model does not have, instead of failing
    #[arg(long)]
    pub(super) allow_unexpected: bool,
    /// Capture and verify the model without writing a program
    #[arg(long)]
    pub(super) export_only: bool,
    /// Print the report as JSON on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Say more
    #[arg(short = 'v', long)]
    pub(super) verbose: bool,
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
    /// tokenizer.json, or the folder that has it [default: beside the program]
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
    /// Threads; -1 is the number of performance cores
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) cpu_threads: i64,
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
    /// Most working memory, in bytes
    #[arg(long, value_name = "BYTES")]
    pub(super) max_memory: Option<u64>,
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
    /// Threads; -1 is the number of performance cores
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub(super) cpu_threads: i64,
    /// How the program's bytes are reached
    #[arg(long, value_enum, default_value = "mmap")]
    pub(super) load_mode: LoadModeArg,
    /// Most working memory, in bytes
    #[arg(long, value_name = "BYTES")]
    pub(super) max_memory: Option<u64>,
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

/// `pteron bench`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: BenchCommand,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Measure how fast memory and cache are read and multiply-adds executed
    #[command(long_about = "Measure how fast memory and cache are read and multiply-adds executed.\n\n\
                  Memory is a buffer of --mib, cache one of a quarter of the last level's size. Each figure is the best \
                  of several runs.")]
    Bandwidth(BenchBandwidthArgs),
    /// Measure prefill and decode of a program with a KV cache
    #[command(long_about = "Measure prefill and decode of a program with a KV cache.\n\n\
                  Figures are medians of --repeat times after a warm-up: tokens a second of a prompt (pp) and of tokens \
                  one by one (tg) after a context. Beside a prompt stand the operations of its matrix products and \
                  attention and their share of the rate of multiply-adds; beside decoding, the bytes that a token must \
                  read (constants that are used, and the cache's positions so far) and their share of the rate at which \
                  memory is read.")]
    Model(BenchModelArgs),
    /// Measure an export beside a copy of the file that it writes
    #[command(long_about = "Measure an export beside a copy of the file that it writes.\n\n\
                  Flags are those of `pteron export`. The program is written to a temporary file in the folder of -o \
                  and copied there, both flushed to the disk, by turns and --repeat times; nothing is kept.")]
    Export(BenchExportArgs),
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

/// `pteron bench model`.
#[derive(Debug, Args)]
pub(super) struct BenchModelArgs {
    /// Program (.pte or .bpte)
    #[arg(value_name = "MODEL")]
    pub(super) model: PathBuf,
    /// Lengths of prompts
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "128,512")]
    pub(super) prompt_tokens: Vec<usize>,
    /// Tokens to decode one by one; 0 is none
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(super) generate: usize,
    /// Tokens in the cache when decoding begins
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0,512")]
    pub(super) context: Vec<usize>,
    /// Numbers of threads [default: 1 and the number of performance cores]
    #[arg(long, value_name = "N,...", value_delimiter = ',', alias = "cpu-threads")]
    pub(super) threads: Vec<usize>,
    /// Times that each figure is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) repeat: usize,
    /// How the program's bytes are reached
    #[arg(long, value_enum, default_value = "mmap")]
    pub(super) load_mode: LoadModeArg,
    /// Method that is called; where it is missing, `prefill` and `decode`
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub(super) method_name: String,
    /// Files of external constants (.ptd)
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', alias = "data-path")]
    pub(super) data_paths: Vec<PathBuf>,
    /// Size of the buffer that stands for memory, in MiB
    #[arg(long, value_name = "N", default_value_t = pteron::bench::DEFAULT_READ_MIB)]
    pub(super) mib: usize,
    /// Print the time of each kind of operator as well, for the first prompt and the last context
    #[arg(long)]
    pub(super) profile: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
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

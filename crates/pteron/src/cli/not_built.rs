//! Flags of `export_llama` that Pteron recognises and does not have yet.

/// A flag by its letter or its long name, and what it would do.
struct NotBuilt {
    long: &'static str,
    short: Option<char>,
    what: &'static str,
}

const fn flag(long: &'static str, what: &'static str) -> NotBuilt {
    NotBuilt { long, short: None, what }
}

const fn short(long: &'static str, short: char, what: &'static str) -> NotBuilt {
    NotBuilt { long, short: Some(short), what }
}

const LORA: &str = "LoRA adapters";
const COREML: &str = "the Core ML backend";
const VULKAN: &str = "the Vulkan backend";
const OPENVINO: &str = "the OpenVINO backend";
const VGF: &str = "the VGF backend";
const TORCHAO: &str = "torchao's ARM kernels";
const PROFILE: &str = "profiling of the export";
const PRUNE: &str = "pruning of the vocabulary";

/// In the order of `export_llama`'s own help.
const FLAGS: &[NotBuilt] = &[
    flag("adapter-checkpoint", LORA),
    flag("adapter-config", LORA),
    flag("use-lora", LORA),
    flag("local-global-attention", "ring caches of local attention layers"),
    flag("use-attention-sink", "attention sinks"),
    flag("use-shared-embedding", "a quantized embedding shared with the output layer"),
    flag("quantize-scope", "post-training quantization of the graph"),
    flag("use-qat", "checkpoints from quantization-aware training"),
    short("so-library", 's', "a library of quantized operators"),
    flag("profile-memory", PROFILE),
    flag("profile-path", PROFILE),
    flag("generate-etrecord", "the debug record (ETRecord)"),
    flag("output-prune-map", PRUNE),
    flag("input-prune-map", PRUNE),
    flag("expand-rope-table", "the expanded table of rotary positions"),
    short("vulkan", 'V', VULKAN),
    flag("vulkan-force-fp16", VULKAN),
    flag("mps", "the MPS backend"),
    flag("coreml", COREML),
    flag("coreml-enable-state", COREML),
    flag("coreml-preserve-sdpa", COREML),
    flag("coreml-quantize", COREML),
    flag("coreml-ios", COREML),
    flag("coreml-compute-units", COREML),
    flag("openvino", OPENVINO),
    flag("openvino-device", OPENVINO),
    flag("nncf-compression", OPENVINO),
    flag("awq", OPENVINO),
    flag("scale-estimation", OPENVINO),
    flag("mlx", "the MLX backend"),
    flag("vgf", VGF),
    flag("vgf-compile-spec", VGF),
    flag("vgf-quantize-scope", VGF),
    flag("tosa", "the TOSA backend"),
    flag("ethosu", "the Ethos-U backend"),
    flag("use-torchao-kernels", TORCHAO),
    flag("use-torchao-kernels-linear", TORCHAO),
    flag("use-torchao-kernels-tied-embedding", TORCHAO),
    flag("use-moe-quantized-op", "the fused mixture-of-experts operator"),
    flag("fairseq2", "checkpoints of fairseq2"),
    flag("checkpoint-dir", "checkpoints in several Meta shards"),
];

/// Flags of `export_llama` that name what Pteron does not have on purpose, each with a sentence.
const ELSEWHERE: &[(&str, &str)] = &[(
    "calibration-tasks",
    "tasks are lm-evaluation-harness's, a Python package that Pteron does not have: give the text itself with \
     --calibration-data FILE (wikitext's is a file of text)",
)];

/// What is said of the flag `name` (canonical, without hyphens), which was typed as `typed`; `None` if it is none of these.
pub(super) fn sentence(name: &str, typed: &str) -> Option<String> {
    let is = |f: &&NotBuilt| f.long == name || f.short.is_some_and(|s| name.len() == 1 && name.starts_with(s));
    let shown = typed.split_once('=').map_or(typed, |(flag, _)| flag);
    if let Some((_, why)) = ELSEWHERE.iter().find(|(long, _)| *long == name) {
        return Some(format!("{shown}: {why}"));
    }
    let found = FLAGS.iter().find(is)?;
    Some(format!("{shown}: {} is a part of export_llama that is not built yet in Pteron", found.what))
}

/// The long names, for the help.
pub(super) fn long_names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|f| f.long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_flag_is_both_built_and_not() {
        let command = super::super::low::Cli::command();
        let export = command.find_subcommand("export").unwrap();
        for a in export.get_arguments() {
            let long = a.get_long().unwrap_or_default();
            assert!(FLAGS.iter().all(|f| f.long != long && (f.short.is_none() || f.short != a.get_short())), "{long}");
        }
    }

    #[test]
    fn names_are_there_once() {
        let mut names: Vec<_> = long_names().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

//! Spellings: from what people type to what the parser knows.
//!
//! `export_llama` and `llama_main` spell long flags with underscores or hyphens, and have short flags of several letters
//! behind one hyphen (`-kv`). Both are rewritten here to the canonical spelling, before the parser sees them. Values are
//! left as they are: what follows a flag that takes one, what follows `=`, and everything after `--`.

use std::ffi::{OsStr, OsString};

use clap::{ArgAction, Command};

use super::not_built;

/// What an argument list comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Spelled {
    /// The list in canonical spelling.
    Args(Vec<OsString>),
    /// A flag of `export_llama` that is not built yet: the sentence to print.
    NotBuilt(String),
}

/// Short flags of several letters and their long names.
const MULTI_LETTER: &[(&str, &str)] = &[
    ("kv", "use-kv-cache"),
    ("qmode", "quantization-mode"),
    ("lora", "use-lora"),
    ("qat", "use-qat"),
    ("sq", "use-spin-quant"),
    ("prof", "profile-path"),
];

/// Rewrites `args` (the program's name first) for `command`.
pub(super) fn spell(command: &Command, args: Vec<OsString>) -> Spelled {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.by_ref().take(1).collect();
    let mut current: Option<&Command> = None;
    let mut rest = args;
    while let Some(arg) = rest.next() {
        let Some(text) = arg.to_str() else {
            out.push(arg);
            continue;
        };
        if text == "--" {
            out.push(arg);
            break;
        }
        let is_export = current.is_some_and(|c| c.get_name() == "export");
        let has_forms =
            is_export || current.is_some_and(|c| ["eval", "calibrate", "qat", "sensitivity"].contains(&c.get_name()));
        let Some(flag) = parse(text, has_forms) else {
            if let Some(inner) = current.unwrap_or(command).find_subcommand(text) {
                current = Some(inner);
            }
            out.push(arg);
            continue;
        };
        if is_export && let Some(sentence) = not_built::sentence(&flag.name, text) {
            return Spelled::NotBuilt(sentence);
        }
        let takes_value = takes_value(current.unwrap_or(command), &flag);
        out.push(flag.canonical);
        if takes_value {
            out.extend(rest.next());
        }
    }
    out.extend(rest);
    Spelled::Args(out)
}

struct Flag {
    /// Its name without hyphens, in canonical spelling: one letter or a long name.
    name: String,
    /// The argument in canonical spelling, with its value if that was attached.
    canonical: OsString,
    has_value: bool,
}

fn parse(text: &str, has_forms: bool) -> Option<Flag> {
    if let Some(long) = text.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let name = name.replace('_', "-");
        let canonical = match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        };
        return Some(Flag { name, canonical: canonical.into(), has_value: value.is_some() });
    }
    let short = text.strip_prefix('-').filter(|s| !s.is_empty())?;
    // `-1` is a number wherever one is expected.
    if short.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if has_forms {
        let (name, value) = match short.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (short, None),
        };
        if let Some((_, long)) = MULTI_LETTER.iter().find(|(s, _)| *s == name) {
            let canonical = match value {
                Some(value) => format!("--{long}={value}"),
                None => format!("--{long}"),
            };
            return Some(Flag { name: (*long).to_owned(), canonical: canonical.into(), has_value: value.is_some() });
        }
    }
    let name: String = short.chars().take(1).collect();
    let has_value = short.len() > name.len();
    Some(Flag { name, canonical: OsStr::new(text).to_owned(), has_value })
}

/// True if the next argument is this flag's value.
fn takes_value(command: &Command, flag: &Flag) -> bool {
    if flag.has_value {
        return false;
    }
    let mut letters = flag.name.chars();
    let short = letters.next().filter(|_| letters.next().is_none());
    command
        .get_arguments()
        .find(|a| {
            let long = a.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = a.get_all_aliases().unwrap_or_default();
            long.contains(&flag.name.as_str())
                || hidden.contains(&flag.name.as_str())
                || short.is_some_and(|s| a.get_short() == Some(s))
        })
        .is_some_and(|a| matches!(a.get_action(), ArgAction::Set | ArgAction::Append))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn spelled(args: &[&str]) -> Vec<String> {
        let list = std::iter::once("pteron").chain(args.iter().copied()).map(OsString::from).collect();
        match spell(&super::super::low::Cli::command(), list) {
            Spelled::Args(a) => a.into_iter().skip(1).map(|a| a.into_string().unwrap()).collect(),
            Spelled::NotBuilt(s) => vec![s],
        }
    }

    #[test]
    fn underscores_and_short_forms_become_canonical() {
        assert_eq!(
            spelled(&["export", "dir", "-kv", "--max_seq_length", "64", "--dtype_override=fp16", "-n", "a_b"]),
            ["export", "dir", "--use-kv-cache", "--max-seq-length", "64", "--dtype-override=fp16", "-n", "a_b"]
        );
        assert_eq!(
            spelled(&["run", "a_b.pte", "--tokenizer_path", "my_tok", "--max_new_tokens", "-1", "--ignore_eos"]),
            ["run", "a_b.pte", "--tokenizer-path", "my_tok", "--max-new-tokens", "-1", "--ignore-eos"]
        );
    }

    #[test]
    fn values_are_left_alone() {
        assert_eq!(
            spelled(&["run", "m", "--prompt", "--a_b", "--prompt=--c_d", "--", "--e_f"]),
            ["run", "m", "--prompt", "--a_b", "--prompt=--c_d", "--", "--e_f"]
        );
        assert_eq!(spelled(&["export", "-o", "-kv", "-c", "x_y"]), ["export", "-o", "-kv", "-c", "x_y"]);
    }

    #[test]
    fn short_forms_belong_to_export_and_eval() {
        assert_eq!(spelled(&["qat", "m", "-qmode", "4w"]), ["qat", "m", "--quantization-mode", "4w"]);
        assert_eq!(spelled(&["eval", "m", "-qmode", "int8"]), ["eval", "m", "--quantization-mode", "int8"]);
        assert_eq!(spelled(&["run", "-kv"]), ["run", "-kv"]);
    }

    #[test]
    fn an_inner_command_has_its_own_forms() {
        assert_eq!(spelled(&["bench", "export", "dir", "-kv"]), ["bench", "export", "dir", "--use-kv-cache"]);
        assert_eq!(spelled(&["bench", "x", "--load_mode", "a_b"]), ["bench", "x", "--load-mode", "a_b"]);
        assert!(spelled(&["bench", "export", "dir", "--use_attention_sink"])[0].contains("not built yet"));
        assert_eq!(
            spelled(&["bench", "export", "dir", "-qmode", "8da4w"]),
            ["bench", "export", "dir", "--quantization-mode", "8da4w"]
        );
    }

    #[test]
    fn flags_that_are_not_built_are_told() {
        for flag in ["--use_attention_sink", "--coreml-ios=18", "-lora", "--expand_rope_table", "-qat"] {
            let said = spelled(&["export", "dir", flag]);
            assert!(said[0].contains("not built yet"), "{flag}: {said:?}");
        }
    }
}

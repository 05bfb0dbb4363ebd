//! Help, and the reference of the command line.

use std::fmt::Write;

use clap::{ArgAction, Command, CommandFactory};

use super::low::Cli;
use super::not_built;
use super::output::{Done, put};

/// The command with what is generated into its help.
pub(super) fn command() -> Command {
    // `mut_subcommand` would move it behind the others.
    Cli::command().mut_subcommands(|c| {
        if c.get_name() != "export" {
            return c;
        }
        let examples = c.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        c.after_long_help(format!("{examples}\n\nFlags of export_llama that are not built yet:\n  {}", wrapped()))
    })
}

/// The flags that are not built, in lines of at most 90 columns.
fn wrapped() -> String {
    let mut out = String::new();
    let mut column = 0;
    for name in not_built::long_names() {
        if column + name.len() + 3 > 90 {
            out.push_str("\n  ");
            column = 0;
        }
        let _ = write!(out, "{}--{name}", if column > 0 { " " } else { "" });
        column += name.len() + 3;
    }
    out
}

/// Prints the reference as Markdown.
pub(super) fn markdown() -> Done {
    let root = command();
    let mut out = String::from("# The command line\n\n");
    let about = root.get_long_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(out, "{about}\n");
    options(&mut out, &root);
    let shown = |c: &&Command| !c.is_hide_set() && c.get_name() != "help";
    for c in root.get_subcommands().filter(shown) {
        section(&mut out, "##", "pteron", c);
        let parent = format!("pteron {}", c.get_name());
        c.get_subcommands().filter(shown).for_each(|inner| section(&mut out, "###", &parent, inner));
    }
    put(&out)
}

fn section(out: &mut String, level: &str, parent: &str, c: &Command) {
    let name = format!("{parent} {}", c.get_name());
    let _ = writeln!(out, "{level} `{name}`\n");
    let about = c.get_long_about().or(c.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(out, "{about}\n");
    let usage = c.clone().bin_name(name).render_usage().to_string();
    let _ = writeln!(out, "```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
    options(out, c);
    if let Some(more) = c.get_after_long_help() {
        let _ = writeln!(out, "```text\n{more}\n```\n");
    }
}

fn options(out: &mut String, command: &Command) {
    let mut rows = 0;
    for a in command.get_arguments().filter(|a| !a.is_hide_set()) {
        if rows == 0 {
            out.push_str("| argument | default | meaning |\n|---|---|---|\n");
        }
        rows += 1;
        let value = a.get_value_names().and_then(|v| v.first()).map(ToString::to_string).unwrap_or_default();
        let takes = matches!(a.get_action(), ArgAction::Set | ArgAction::Append);
        let mut spelled: Vec<String> = Vec::new();
        spelled.extend(a.get_short().map(|s| format!("-{s}")));
        spelled.extend(a.get_long().map(|l| format!("--{l}")));
        if spelled.is_empty() {
            spelled.push(value);
        } else if let Some(last) = spelled.last_mut()
            && takes
        {
            let _ = write!(last, " {value}");
        }
        let values: Vec<String> = match takes {
            true => a.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect(),
            false => Vec::new(),
        };
        let default: Vec<_> = a.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
        let default = if takes && !default.is_empty() { format!("`{}`", default.join(",")) } else { String::new() };
        let mut meaning = a.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        if !values.is_empty() {
            let _ = write!(meaning, ": {}", values.join(", "));
        }
        let _ = writeln!(out, "| `{}` | {default} | {meaning} |", spelled.join("`, `"));
    }
    if rows > 0 {
        out.push('\n');
    }
}

//! Tests that are text files.
//!
//! A file is one case. Its first lines are comments that say what is run, then comes a module in the text form, then, for
//! commands that print, a line `; ---` and what they print:
//!
//! ```text
//! ; test: pass dce
//! module "t" {
//!   …
//! }
//! ; ---
//! module "t" {
//!   …
//! }
//! ```
//!
//! | command | checks |
//! |---|---|
//! | `cat` | what printing gives; without `; ---`, that the module is printed as it stands |
//! | `verify` | the broken rules, as `; error: RULE: MESSAGE` under the line they belong to; none if there is no such line |
//! | `infer` | the inferred types of nodes written without types, as `; infer: TYPES` or `; error: …` under each |
//! | `pass NAME, NAME…` | what the module is after these passes |
//!
//! A text that cannot be read is shown by `; error: …` under the line, with the column. Further lines `; KEY: VALUE` are
//! settings: `pass` knows `; target: executorch-portable`, which may be followed by `without OP, OP…`, and `; steps: N`.
//! Several `; test:` lines make several tests of one file.
//!
//! This module touches no file: [`Registry::run`] takes names and texts, and a function that writes a text back. Other crates
//! add commands, such as one that runs the module, with [`Registry::add`].

use crate::location::insert_notes;
use crate::op::Op;
use crate::parse::{self, ParseError, Parsed};
use crate::pass::{Pass, PassContext, Runner};
use crate::passes;
use crate::print;
use crate::verify;

/// The line before what a command prints.
const SEPARATOR: &str = "; ---";

/// One file, taken apart.
#[derive(Clone, Debug)]
pub struct Case<'t> {
    /// What follows the command's name on the `; test:` line.
    pub args: &'t str,
    /// The module's text, without notes of earlier runs. Its first line is line 1.
    pub body: &'t str,
    /// True if the file has a part after `; ---`.
    pub has_output: bool,
    settings: &'t [(String, String)],
}

impl Case<'_> {
    /// The value of the line `; KEY: VALUE`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Reads the module.
    ///
    /// # Errors
    /// What a command shows in place of its own output if the text cannot be read.
    pub fn parse(&self) -> Result<Parsed, Output> {
        parse::module_with_lines(self.body).map_err(|e| Output::Notes(vec![parse_note(&e)]))
    }
}

fn parse_note(e: &ParseError) -> (usize, String) {
    (e.line, format!("error: column {}: {}", e.column, e.kind))
}

/// What a command gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text for the part after `; ---`.
    Text(String),
    /// Comments under lines of the body, counted from 1, each beginning with a word of [`Command::notes`].
    Notes(Vec<(usize, String)>),
}

/// A command of `; test:` lines.
pub trait Command {
    /// Its name.
    fn name(&self) -> &str;

    /// The words with which its notes begin, besides `error`.
    fn notes(&self) -> &[&str] {
        &[]
    }

    /// Runs it.
    ///
    /// # Errors
    /// What is wrong with the file itself: no expectation could make the test pass.
    fn run(&self, case: &Case<'_>) -> Result<Output, String>;
}

/// What has become of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as its commands say.
    Passed,
    /// It is not: what it would be.
    Differs(String),
    /// It cannot be run.
    Broken(String),
}

/// Writes a file back: its name, its new text.
pub type Write<'w> = &'w mut dyn FnMut(&str, &str);

/// The commands that files may use.
pub struct Registry {
    commands: Vec<Box<dyn Command>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.commands.iter().map(|c| c.name())).finish()
    }
}

impl Default for Registry {
    /// The commands of this crate, over its passes.
    fn default() -> Self {
        Registry { commands: vec![Box::new(Cat), Box::new(Verify), Box::new(Infer), Box::new(RunPasses::default())] }
    }
}

struct Split<'t> {
    header: &'t str,
    body: String,
    output: Option<&'t str>,
}

impl Registry {
    /// Adds a command, which takes the place of one of the same name.
    pub fn add(&mut self, command: impl Command + 'static) {
        self.commands.retain(|c| c.name() != command.name());
        self.commands.push(Box::new(command));
    }

    /// The names of the commands.
    pub fn names(&self) -> Vec<&str> {
        self.commands.iter().map(|c| c.name()).collect()
    }

    /// Runs the commands of a file's text.
    pub fn check(&self, text: &str) -> Verdict {
        match self.expected(text) {
            Ok(expected) if expected == text => Verdict::Passed,
            Ok(expected) => Verdict::Differs(expected),
            Err(reason) => Verdict::Broken(reason),
        }
    }

    /// Checks files, given by name and text. With `bless`, those that differ are handed to it as they must be, instead of
    /// failing. Gives their number.
    ///
    /// # Errors
    /// The name and the first difference of each file that fails.
    pub fn run<'t>(
        &self,
        files: impl IntoIterator<Item = (&'t str, &'t str)>,
        mut bless: Option<Write<'_>>,
    ) -> Result<usize, String> {
        let (mut count, mut failures) = (0, Vec::new());
        for (name, text) in files {
            count += 1;
            match (self.check(text), &mut bless) {
                (Verdict::Passed, _) => {}
                (Verdict::Differs(expected), Some(write)) => write(name, &expected),
                (Verdict::Differs(expected), None) => {
                    failures.push(format!("{name}: differs {}", difference(text, &expected)));
                }
                (Verdict::Broken(why), _) => failures.push(format!("{name}: {why}\n")),
            }
        }
        if failures.is_empty() {
            return Ok(count);
        }
        let hint = "BLESS=1 rewrites what differs; read the diff";
        Err(format!("{} of {count} files fail ({hint}):\n{}", failures.len(), failures.concat()))
    }

    /// The text as it must be.
    fn expected(&self, text: &str) -> Result<String, String> {
        let split = self.split(text);
        let mut settings: Vec<(String, String)> = Vec::new();
        for line in split.header.lines() {
            let (key, value) = line.trim_start_matches([';', ' ']).split_once(':').unwrap_or((line, ""));
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        let (mut output, mut notes) = (None, Vec::new());
        let mut ran = false;
        for (_, line) in settings.iter().filter(|(key, _)| key == "test") {
            ran = true;
            let (name, args) = line.split_once(' ').unwrap_or((line, ""));
            let Some(command) = self.commands.iter().find(|c| c.name() == name) else {
                return Err(format!("unknown command `{name}`: known are {}", self.names().join(", ")));
            };
            let case =
                Case { args: args.trim(), body: &split.body, has_output: split.output.is_some(), settings: &settings };
            match command.run(&case)? {
                Output::Text(t) => {
                    if output.replace(t).is_some() {
                        return Err("two commands print what follows `; ---`: make it two files".into());
                    }
                }
                Output::Notes(more) => {
                    for note in more {
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                    }
                }
            }
        }
        if !ran {
            return Err("the first line is no `; test: COMMAND`".into());
        }
        let mut expected = split.header.to_owned();
        expected.push_str(&insert_notes(&split.body, &notes));
        if let Some(output) = output {
            expected.push_str(SEPARATOR);
            expected.push('\n');
            expected.push_str(&output);
        }
        Ok(expected)
    }

    /// Header, body without notes, and output.
    fn split<'t>(&self, text: &'t str) -> Split<'t> {
        let is_header = |line: &str| line.trim_start().starts_with(';') && line.contains(':');
        let header = text.split_inclusive('\n').take_while(|l| is_header(l)).map(str::len).sum();
        let (header, rest) = text.split_at(header);
        let mut offset = 0;
        let separator = rest.split_inclusive('\n').find_map(|l| {
            let start = offset;
            offset += l.len();
            (l.trim_end() == SEPARATOR).then_some((start, offset))
        });
        let (body, output) = match separator {
            Some((start, end)) => (&rest[..start], Some(&rest[end..])),
            None => (rest, None),
        };
        let is_note = |line: &str| {
            let Some((word, _)) = line.trim_start().strip_prefix("; ").and_then(|l| l.split_once(':')) else {
                return false;
            };
            word == "error" || self.commands.iter().any(|c| c.notes().contains(&word))
        };
        let body = body.split_inclusive('\n').filter(|l| !is_note(l)).collect();
        Split { header, body, output }
    }
}

/// The first lines in which two texts differ, for people.
pub fn difference(found: &str, expected: &str) -> String {
    const SHOWN: usize = 12;
    let (a, b): (Vec<&str>, Vec<&str>) = (found.lines().collect(), expected.lines().collect());
    let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[common..].iter().rev().zip(b[common..].iter().rev()).take_while(|(x, y)| x == y).count();
    let mut out = format!("from line {} on\n", common + 1);
    for (sign, lines) in [('-', &a[common..a.len() - tail]), ('+', &b[common..b.len() - tail])] {
        for line in lines.iter().take(SHOWN) {
            out.push_str(&format!("{sign} {line}\n"));
        }
        if lines.len() > SHOWN {
            out.push_str(&format!("{sign} … {} more lines\n", lines.len() - SHOWN));
        }
    }
    out
}

struct Cat;

impl Command for Cat {
    fn name(&self) -> &str {
        "cat"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        let printed = print::module(&parsed.module);
        let again = parse::module(&printed).map_err(|e| format!("what was printed cannot be read: {e}\n{printed}"))?;
        if print::module(&again) != printed {
            return Err(format!("what was printed reads back as something else:\n{}", print::module(&again)));
        }
        Ok(match case.has_output || printed != case.body {
            true => Output::Text(printed),
            false => Output::Notes(Vec::new()),
        })
    }
}

struct Verify;

impl Command for Verify {
    fn name(&self) -> &str {
        "verify"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        let errors = verify::module(&parsed.module).err().map_or_else(Vec::new, |e| e.0);
        Ok(Output::Notes(errors.iter().map(|e| (parsed.lines.line(e.location), verify::note(e))).collect()))
    }
}

struct Infer;

impl Command for Infer {
    fn name(&self) -> &str {
        "infer"
    }

    fn notes(&self) -> &[&str] {
        &["infer"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        let note = |i: &parse::Inferred| match &i.result {
            Ok(types) => (parsed.lines.line(i.location), format!("infer: {types}")),
            Err(reason) => (parsed.lines.line(i.location), format!("error: {reason}")),
        };
        Ok(Output::Notes(parsed.inferred.iter().map(note).collect()))
    }
}

/// The command `pass`, over any passes.
#[derive(Clone, Debug)]
pub struct RunPasses {
    /// The passes that files may name.
    pub passes: Vec<Pass>,
}

impl Default for RunPasses {
    fn default() -> Self {
        RunPasses { passes: passes::all().to_vec() }
    }
}

/// The operators that the line `; target: …` takes out of `executorch-portable`.
fn operators_taken_out(target: &str) -> Result<Vec<Op>, String> {
    let (name, without) = match target.split_once(" without ") {
        Some((name, list)) => (name, list),
        None => (target, ""),
    };
    if name != "executorch-portable" {
        return Err(format!("unknown target `{name}`: known is executorch-portable"));
    }
    let names = without.split(',').map(str::trim).filter(|n| !n.is_empty());
    names.map(|n| n.parse::<Op>().map_err(|e| e.to_string())).collect()
}

impl Command for RunPasses {
    fn name(&self) -> &str {
        "pass"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let mut parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        let find = |name: &str| {
            let found = self.passes.iter().find(|p| p.name == name).copied();
            let known: Vec<&str> = self.passes.iter().map(|p| p.name).collect();
            found.ok_or_else(|| format!("unknown pass `{name}`: known are {}", known.join(", ")))
        };
        let passes = case.args.split(',').map(|n| find(n.trim())).collect::<Result<Vec<_>, _>>()?;
        let out = operators_taken_out(case.setting("target").unwrap_or("executorch-portable"))?;
        let has = |op: Op| passes::executorch_portable(op) && !out.contains(&op);
        let steps = case.setting("steps").map(str::parse::<usize>).transpose().map_err(|e| format!("steps: {e}"))?;
        let context = PassContext::new(&has).with_step_limit(steps);
        Ok(Output::Text(match Runner::new(passes).run(&mut parsed.module, &context) {
            Ok(_) => print::module(&parsed.module),
            Err(e) => format!("; error: {}\n", e.to_string().replace('\n', "\n; ")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_apart_and_put_together_again() {
        let module = "module \"t\" {\n  graph f(%0: f32[2]) {\n    return %0\n  }\n}\n";
        let r = Registry::default();
        assert_eq!(r.check(&format!("; test: cat\n{module}")), Verdict::Passed);
        assert_eq!(r.check(&format!("; test: verify\n; note: x\n\n{module}")), Verdict::Passed);
        let loose = "module \"t\" { graph f(%9: f32[2]) { return %9 } }\n";
        let blessed = format!("; test: cat\n{loose}; ---\n{module}");
        assert_eq!(r.check(&format!("; test: cat\n{loose}")), Verdict::Differs(blessed.clone()));
        assert_eq!(r.check(&blessed), Verdict::Passed);
        assert_eq!(r.check(&blessed.replace("return %0", "return %1")), Verdict::Differs(blessed));
    }

    #[test]
    fn notes_are_replaced() {
        let r = Registry::default();
        let right = "; test: cat\nmodule \"t\" {\n  what\n  ; error: column 3: found `what`, expected `const`, `buffer`, `delegate`, \
                     `metadata`, `graph` or `}`\n}\n";
        assert_eq!(r.check(right), Verdict::Passed);
        let wrong = right.replace("column 3", "column 4");
        assert_eq!(r.check(&wrong), Verdict::Differs(right.to_owned()));
        assert!(difference(&wrong, right).starts_with("from line 4 on\n-   ; error: column 4"));
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let r = Registry::default();
        let why = |t: &str| match r.check(t) {
            Verdict::Broken(s) => s,
            other => panic!("{other:?}"),
        };
        assert!(why("module").contains("no `; test:"));
        assert_eq!(why("; test: fly\n"), "unknown command `fly`: known are cat, verify, infer, pass");
        assert!(why("; test: pass fly\nmodule \"t\" {}\n").contains("known are canonicalize, dce, decompose"));
        assert!(why("; test: pass dce\n; target: moon\nmodule \"t\" {}\n").contains("unknown target `moon`"));
    }

    struct Count;

    impl Command for Count {
        fn name(&self) -> &str {
            "count"
        }
        fn notes(&self) -> &[&str] {
            &["nodes"]
        }
        fn run(&self, case: &Case<'_>) -> Result<Output, String> {
            let Ok(p) = case.parse() else { return Err("unreadable".into()) };
            Ok(Output::Notes(vec![(1, format!("nodes: {}", p.module.graphs[0].all_nodes().len()))]))
        }
    }

    #[test]
    fn other_crates_add_commands() {
        let mut r = Registry::default();
        r.add(Count);
        let text = "; test: count\nmodule \"t\" {\n; nodes: 0\ngraph f() { return } }\n";
        assert_eq!(r.check(text), Verdict::Passed);
    }
}

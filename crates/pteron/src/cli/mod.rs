//! The command line: arguments to calls, progress, errors for people.

mod argv;
mod bench;
mod calibrate;
mod demo;
mod doctor;
mod eval;
mod exec;
mod explain_scheme;
mod export;
mod help;
mod high;
mod inspect;
mod interrupt;
mod json;
mod low;
mod not_built;
mod operators;
mod output;
mod payloads;
mod qat;
mod run;
mod sensitivity;
mod sizes;
mod tokenize;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use low::{Cli, Command};
use output::{Done, Failure, put_line, say};

const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// Does what `args` (the program's name first) say.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    // The process of Qualcomm's library: its input and output are no person's.
    if args.get(1).is_some_and(|a| a == pteron::qnn::WORKER_ARGUMENT) {
        return pteron::qnn::serve(args.into_iter().skip(2));
    }
    let command = help::command();
    let args = match argv::spell(&command, args) {
        argv::Spelled::Args(args) => args,
        argv::Spelled::NotBuilt(sentence) => {
            say(&format!("error: {sentence}"));
            return ExitCode::from(USAGE);
        }
    };
    let parsed = command.try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output, errors to standard error; a closed pipe is nobody's concern.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { USAGE } else { 0 });
        }
    };
    interrupt::install();
    let done = dispatch(cli);
    if let Some(code) = interrupt::exit_code() {
        return ExitCode::from(code);
    }
    match done {
        Ok(()) | Err(Failure::Pipe) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::from(FAILED),
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { USAGE } else { FAILED })
        }
    }
}

fn dispatch(cli: Cli) -> Done {
    if cli.version {
        let isa = pteron::host::instruction_set();
        return put_line(&format!("pteron {} ({isa})", env!("CARGO_PKG_VERSION")));
    }
    match cli.command {
        Some(Command::Export(a)) => export::run(&a),
        Some(Command::Calibrate(a)) => calibrate::run(&a),
        Some(Command::Qat(a)) => qat::run(&a),
        Some(Command::Run(a)) => run::run(&a),
        Some(Command::Eval(a)) => eval::run(&a),
        Some(Command::Sensitivity(a)) => sensitivity::run(&a),
        Some(Command::Exec(a)) => exec::run(&a),
        Some(Command::Tokenize(a)) => tokenize::run(&a),
        Some(Command::Inspect(a)) => inspect::run(&a),
        Some(Command::Demo(a)) => demo::run(&a),
        Some(Command::Bench(a)) => bench::run(&a),
        Some(Command::Doctor(a)) => doctor::run(&a),
        Some(Command::Operators(a)) => operators::run(&a),
        Some(Command::ExplainScheme(a)) => explain_scheme::run(&a),
        Some(Command::HelpMarkdown) => help::markdown(),
        None => Err(Failure::Usage(Cli::command().render_usage().to_string())),
    }
}

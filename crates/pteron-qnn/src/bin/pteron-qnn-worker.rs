//! The process that Qualcomm's library lives in, for users of the library crates and for tests: what `pteron qnn-worker` does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == pteron_qnn::WORKER_ARGUMENT => pteron_qnn::serve(args),
        _ => ExitCode::FAILURE,
    }
}

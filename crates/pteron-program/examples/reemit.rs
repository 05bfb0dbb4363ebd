//! Reads a program, lifts it, emits it again: `reemit IN.pte OUT.pte [--text]`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use pteron_program::{EmitOptions, LiftOptions, emit, lift};
use pteron_pte::ParsedHead;
use pteron_tensor::{ByteSource, SourceError};

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl ByteSource for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(start..start.saturating_add(out.len()));
        let found = found.ok_or_else(|| SourceError::OutOfRange {
            what: "file".into(),
            start: offset,
            end: offset.saturating_add(out.len() as u64),
            len: self.len(),
        })?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(from), Some(to)) = (args.first(), args.get(1)) else {
        return Err("usage: reemit IN.pte OUT.pte [--text]".into());
    };
    let bytes = std::fs::read(from)?;
    let head = ParsedHead::parse(&bytes, bytes.len() as u64)?;
    let lifted = lift(&head, Arc::new(Bytes(bytes)), &LiftOptions::default())?;
    if args.iter().any(|a| a == "--text") {
        print!("{}", pteron_ir::print::module(&lifted.module));
    }
    for n in &lifted.notes {
        eprintln!("note: {n}");
    }
    let emitted = emit(&lifted.module, &EmitOptions::default())?;
    for m in &emitted.report.methods {
        for a in &m.arenas {
            let (name, memory, ours, theirs) = (&m.name, a.memory, a.bytes, a.executorch_bytes);
            println!("{name}: memory {memory}: {ours} bytes, ExecuTorch's placement {theirs}");
        }
    }
    let mut out = BufWriter::new(std::fs::File::create(to)?);
    emitted.write_to(&mut out, &mut |_| {})?;
    out.flush()?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("reemit: {e}");
            ExitCode::FAILURE
        }
    }
}

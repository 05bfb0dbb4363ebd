//! Failures and standard output.

use std::fmt;
use std::io::{self, Write};

use pteron::exec::ExecError;

/// Why a command ended without its result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense: exit status 2.
    Usage(String),
    /// The work failed: exit status 1.
    Error(anyhow::Error),
    /// A check did not hold, which has been said: exit status 1.
    Told,
    /// Nobody reads standard output any more: a quiet end.
    Pipe,
}

pub(crate) type Done = Result<(), Failure>;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Failure {
        Failure::Error(e.into())
    }
}

impl fmt::Display for Failure {
    /// One sentence. Errors of libraries name their causes themselves: a cause is added only where it says more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(s) => f.write_str(s),
            Failure::Told | Failure::Pipe => Ok(()),
            Failure::Error(e) => {
                let mut text = String::new();
                for cause in e.chain() {
                    let cause = cause.to_string();
                    if text.is_empty() {
                        text = cause;
                    } else if !text.contains(&cause) {
                        text = format!("{text}: {cause}");
                    }
                }
                text.push_str(hint(e));
                // Names of a file may be part of it, and it goes to a terminal.
                for c in text.chars() {
                    if c.is_control() && c != '\n' { write!(f, "{}", c.escape_unicode())? } else { write!(f, "{c}")? }
                }
                Ok(())
            }
        }
    }
}

/// The flag that may help, where an error comes of a limit.
fn hint(e: &anyhow::Error) -> &'static str {
    let limit = e
        .chain()
        .find_map(|c| c.downcast_ref::<ExecError>().or_else(|| c.downcast_ref::<Box<ExecError>>().map(AsRef::as_ref)));
    match limit {
        Some(ExecError::MemoryLimit { .. }) => "; --max-memory SIZE allows another amount",
        Some(ExecError::OutOfFuel { .. }) => "; --max-operations N allows another number",
        _ => "",
    }
}

/// Writes to standard output at once.
pub(crate) fn put(text: &str) -> Done {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Pipe),
        Err(e) => Err(anyhow::Error::new(e).context("standard output cannot be written").into()),
    }
}

/// Writes a line to standard output.
pub(crate) fn put_line(text: &str) -> Done {
    put(&format!("{text}\n"))
}

/// Writes a line to standard error. Nobody can be told if that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes JSON for people to standard output.
pub(crate) fn put_json(value: &impl serde::Serialize) -> Done {
    put_line(&serde_json::to_string_pretty(value)?)
}

/// `1.63 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for u in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = u;
    }
    format!("{value:.2} {unit}")
}

/// `852,608`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!([0, 1023, 1024, 1 << 20, 3 << 29].map(bytes), ["0 B", "1023 B", "1.00 KiB", "1.00 MiB", "1.50 GiB"]);
        assert_eq!([0, 999, 1000, 852_608].map(number), ["0", "999", "1,000", "852,608"]);
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let inner = io::Error::other("disk full");
        let e = anyhow::Error::new(inner).context("a.pte: cannot write: disk full");
        assert_eq!(Failure::Error(e).to_string(), "a.pte: cannot write: disk full");
        let e = anyhow::anyhow!("disk full").context("a.pte");
        assert_eq!(Failure::Error(e).to_string(), "a.pte: disk full");
    }
}

//! One worker process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::sdk::Sdk;
use super::types::LibraryInfo;
use super::worker_command::WorkerCommand;
use crate::error::QnnError;
use crate::room::unnamed_file;
use crate::worker::message::{Request, read_info, status};
use crate::worker::tail;
use crate::worker::wire::{Frame, Reader, Writer, read_vec, write_frame};

/// The head of an answer may be this long.
const MAX_ANSWER_HEAD: u64 = 256 << 20;

/// One end of a pipe, which waits for the other side no longer than it is told.
struct Timed<T> {
    pipe: T,
    timeout: Duration,
}

fn wait(fd: RawFd, events: libc::c_short, timeout: Duration) -> io::Result<()> {
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    loop {
        // SAFETY: `poll` is one descriptor, valid for writes.
        match unsafe { libc::poll(&raw mut poll, 1, millis) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            n if n > 0 => return Ok(()),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl<T: Read + AsRawFd> Read for Timed<T> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.pipe.read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.pipe.as_raw_fd(), libc::POLLIN, self.timeout)?;
                }
                other => return other,
            }
        }
    }
}

impl<T: Write + AsRawFd> Write for Timed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.pipe.as_raw_fd(), libc::POLLOUT, self.timeout)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

/// A worker process with the library open in it.
pub(super) struct Connection {
    child: Child,
    input: Timed<ChildStdin>,
    output: Timed<ChildStdout>,
    chatter: File,
    pub(super) info: LibraryInfo,
}

/// The answer to a request.
pub(super) struct Answer {
    pub(super) head: Vec<u8>,
    pub(super) bulk: u64,
}

impl Connection {
    /// Starts a worker and has it open the library with a device of the system with the number `soc`.
    pub(super) fn open(
        sdk: &Sdk,
        command: &WorkerCommand,
        soc: Option<u32>,
        timeout: Duration,
    ) -> Result<Connection, QnnError> {
        let failed = |e: io::Error| QnnError::Worker(format!("{}: {e}", command.program.display()));
        let chatter = unnamed_file().map_err(failed)?;
        let mut search = sdk.folder().as_os_str().to_owned();
        if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|old| !old.is_empty()) {
            search.push(":");
            search.push(old);
        }
        let mut child = Command::new(&command.program)
            .args(&command.args)
            .env("LD_LIBRARY_PATH", search)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(chatter.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(QnnError::Worker("it has no pipes".to_owned()));
        };
        set_nonblocking(input.as_raw_fd()).map_err(failed)?;
        set_nonblocking(output.as_raw_fd()).map_err(failed)?;
        let unknown = super::types::Version::default();
        let info = LibraryInfo {
            provider: String::new(),
            backend_id: 0,
            build: String::new(),
            core: unknown,
            backend: unknown,
            system: None,
        };
        let (input, output) = (Timed { pipe: input, timeout }, Timed { pipe: output, timeout });
        let mut connection = Connection { child, input, output, chatter, info };
        let mut w = Writer::default();
        w.bytes(sdk.backend().as_os_str().as_encoded_bytes()).bytes(sdk.system().as_os_str().as_encoded_bytes());
        w.option(soc, |w, model| {
            w.u32(model);
        });
        let answer = connection.ask(Request::Open, &w.0, &[], &mut |_| {}).map_err(|e| match e {
            // What keeps the library from being opened is said of its file.
            QnnError::Refused { what, code: 0, .. } => QnnError::Library { path: sdk.backend(), what },
            other => other,
        })?;
        connection.info = connection.read(Request::Open, &answer.head, read_info)?;
        Ok(connection)
    }

    /// Sends a request with `bulk` behind it, and gives the head of the answer, whose bulk is then to be read with [`Connection::bulk`]. `progress`
    /// gets the heads of what comes before it.
    pub(super) fn ask(
        &mut self,
        request: Request,
        head: &[u8],
        bulk: &[&[u8]],
        progress: &mut dyn FnMut(&[u8]),
    ) -> Result<Answer, QnnError> {
        write_frame(&mut self.input, request.code(), head, bulk).map_err(|e| self.lost(request, &e))?;
        loop {
            let frame = match Frame::read(&mut self.output) {
                Ok(Some(frame)) if frame.head <= MAX_ANSWER_HEAD => frame,
                Ok(Some(_)) => return Err(self.lost(request, &io::ErrorKind::InvalidData.into())),
                Ok(None) => return Err(self.lost(request, &io::ErrorKind::UnexpectedEof.into())),
                Err(e) => return Err(self.lost(request, &e)),
            };
            let head = read_vec(&mut self.output, frame.head).map_err(|e| self.lost(request, &e))?;
            match frame.kind {
                status::DONE => return Ok(Answer { head, bulk: frame.bulk }),
                status::PROGRESS => progress(&head),
                _ => {
                    let failure = |r: &mut Reader<'_>| {
                        let (doing, what, code, chatter) = (r.str()?, r.str()?, r.u32()?, r.str()?);
                        Ok(QnnError::Refused { doing, what, code, chatter })
                    };
                    return Err(self.read(request, &head, failure)?);
                }
            }
        }
    }

    /// Reads the answer's bulk into `parts`, which together have its length.
    pub(super) fn bulk(&mut self, request: Request, parts: &mut [&mut [u8]]) -> Result<(), QnnError> {
        parts.iter_mut().try_for_each(|p| self.output.read_exact(p)).map_err(|e| self.lost(request, &e))
    }

    /// Takes an answer's head apart.
    pub(super) fn read<T>(
        &mut self,
        request: Request,
        head: &[u8],
        read: impl FnOnce(&mut Reader<'_>) -> io::Result<T>,
    ) -> Result<T, QnnError> {
        read(&mut Reader::new(head)).map_err(|e| self.lost(request, &e))
    }

    /// Ends the process and says what became of it.
    pub(super) fn lost(&mut self, request: Request, error: &io::Error) -> QnnError {
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        let exit = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => self.await_exit(),
            _ => self.end(),
        };
        let what = match exit {
            _ if timed_out => format!("gave no answer for {} s", self.output.timeout.as_secs()),
            _ if error.kind() == io::ErrorKind::InvalidData => format!("gave an answer that cannot be read ({error})"),
            Ok(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("crashed ({})", signal_name(signal)),
                (None, Some(code)) => format!("ended its process (exit code {code})"),
                (None, None) => "ended its process".to_owned(),
            },
            Err(e) => format!("was lost ({e})"),
        };
        QnnError::Crashed { what, doing: request.doing().to_owned(), chatter: tail(&self.chatter, 0) }
    }

    /// Waits for a process that has closed its pipes, which may take a while where a core is written.
    fn await_exit(&mut self) -> io::Result<ExitStatus> {
        const STEP: Duration = Duration::from_millis(20);
        const STEPS: u32 = 500;
        for _ in 0..STEPS {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(STEP);
        }
        self.end()
    }

    fn end(&mut self) -> io::Result<ExitStatus> {
        // A process that has ended already cannot be killed, which is no matter.
        let _ = self.child.kill();
        self.child.wait()
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGSEGV => "segmentation fault".to_owned(),
        libc::SIGABRT => "abort".to_owned(),
        libc::SIGBUS => "bus error".to_owned(),
        libc::SIGILL => "illegal instruction".to_owned(),
        libc::SIGFPE => "arithmetic exception".to_owned(),
        libc::SIGKILL => "killed, perhaps because memory ran out".to_owned(),
        other => format!("signal {other}"),
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

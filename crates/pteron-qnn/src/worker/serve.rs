//! The loop: a request in, an answer out.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::message::{
    Request, level_from, read_options, status, write_binary, write_event, write_info, write_stage, write_verdict,
};
use super::wire::{Frame, Reader, Writer, read_graph, read_vec, write_frame};
use crate::graph::QnnTensor;
use crate::room::SealedRoom;
use crate::sys::{Composition, Failure, ReceivedGraph, Session, flush_printed};

/// The argument that makes `pteron` this process.
pub const WORKER_ARGUMENT: &str = "qnn-worker";

/// The longest end of what the library printed that is kept, bytes.
const MAX_CHATTER: u64 = 8 << 10;

/// The end of what was printed to an unnamed file from byte `from` on.
pub(crate) fn tail(file: &File, from: u64) -> String {
    let end = file.metadata().map_or(0, |m| m.len());
    let from = from.max(end.saturating_sub(MAX_CHATTER)).min(end);
    let mut bytes = vec![0u8; usize::try_from(end - from).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, from) {
        // What goes to a terminal has no control characters but line ends.
        Ok(()) => {
            let text = String::from_utf8_lossy(&bytes);
            text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
        }
        Err(_) => String::new(),
    }
}

/// What the library prints: both of its streams end in the unnamed file that the host gave as standard error.
struct Chatter {
    file: ManuallyDrop<File>,
    seen: u64,
}

impl Chatter {
    /// Points standard output at standard error and gives a copy of what standard output was.
    fn divert() -> io::Result<(Chatter, File)> {
        // SAFETY: descriptor 1 is open: the host gave it.
        let copy = unsafe { libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `copy` is a descriptor of our own from here on.
        let out = unsafe { File::from_raw_fd(copy) };
        // SAFETY: both are open.
        if unsafe { libc::dup2(2, 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: descriptor 2 stays open as long as the process: it is never closed through this.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
        Ok((Chatter { file, seen: 0 }, out))
    }

    /// What was printed since the last time.
    fn take(&mut self) -> String {
        flush_printed();
        let text = tail(&self.file, self.seen);
        self.seen = self.file.metadata().map_or(0, |m| m.len());
        text
    }

    /// Forgets all of it, so that the file does not grow from request to request.
    fn clear(&mut self) {
        flush_printed();
        // Where the streams are no file, there is nothing to be cut.
        if self.file.set_len(0).is_ok() {
            // SAFETY: descriptor 2 is open.
            unsafe { libc::lseek(2, 0, libc::SEEK_SET) };
        }
        self.seen = 0;
    }
}

/// A fault that tests ask for: `crash@execute`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    Exit,
    Hang,
    /// Prints to standard output what the library might print.
    Print,
    /// Writes to the host what is no frame.
    Garbage,
}

fn fault(text: &str) -> Option<(Fault, Request)> {
    let (kind, at) = text.split_once('@')?;
    let kind = match kind {
        "crash" => Fault::Crash,
        "exit" => Fault::Exit,
        "hang" => Fault::Hang,
        "print" => Fault::Print,
        "garbage" => Fault::Garbage,
        _ => return None,
    };
    Some((kind, Request::from_name(at)?))
}

#[allow(clippy::exit, reason = "a fault that a test asked for")]
fn inject(fault: Fault, out: &mut File) {
    let text = c"the library's last words\n";
    // SAFETY: the text is NUL-terminated and has no conversions.
    unsafe { libc::printf(text.as_ptr()) };
    flush_printed();
    match fault {
        Fault::Crash => {
            // SAFETY: the default action of the signal ends the process, which is what is wanted.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            // SAFETY: as above.
            unsafe { libc::raise(libc::SIGSEGV) };
        }
        Fault::Exit => std::process::exit(3),
        Fault::Hang => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        Fault::Print => {}
        Fault::Garbage => {
            let _ = io::Write::write_all(out, b"this is no frame at all, and long enough");
        }
    }
}

/// Serves requests from standard input until it ends. `args` are those after [`WORKER_ARGUMENT`].
pub fn serve(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut wanted = None;
    while let Some(arg) = args.next() {
        let value = args.next();
        match (arg.to_str(), value.as_ref().and_then(|v| v.to_str())) {
            (Some("--fault"), Some(text)) => wanted = fault(text),
            _ => return ExitCode::FAILURE,
        }
    }
    // SAFETY: it sets which signal this process gets when its parent ends.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: an interrupt from the terminal is the host's to handle; it closes the pipe.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let Ok((chatter, out)) = Chatter::divert() else { return ExitCode::FAILURE };
    let mut worker = Worker { session: None, chatter, out, fault: wanted, given: None };
    match worker.run(&mut io::stdin().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Worker {
    session: Option<Session>,
    chatter: Chatter,
    out: File,
    fault: Option<(Fault, Request)>,
    /// What the last answer told of, until the host asks again.
    given: Option<SealedRoom>,
}

/// A request that failed: in the library, or in the pipe.
enum Problem {
    Library(Failure),
    Pipe(io::Error),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Library(failure)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Pipe(error)
    }
}

fn no_session() -> Failure {
    Failure { doing: "do anything".to_owned(), what: "it is not open yet".to_owned(), code: 0 }
}

/// A graph whose constants' bytes lie in `len` bytes that came with it.
fn received(reader: &mut Reader<'_>, len: usize) -> io::Result<ReceivedGraph> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a constant lies outside of what came with its graph");
    let (graph, places) = read_graph(reader)?;
    let range = |(t, place): (&QnnTensor, Option<u64>)| {
        let Some(start) = place else { return Ok(None) };
        let end = t.bytes().and_then(|b| start.checked_add(b)).ok_or_else(wrong)?;
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).map(|(start, end)| start..end);
        range.filter(|r| r.end <= len && u32::try_from(r.len()).is_ok()).map(Some).ok_or_else(wrong)
    };
    let places = graph.tensors.iter().zip(places).map(range).collect::<io::Result<_>>()?;
    Ok(ReceivedGraph { graph, places })
}

impl Worker {
    fn run(&mut self, input: &mut dyn Read) -> io::Result<()> {
        while let Some(frame) = Frame::read(input)? {
            let head = read_vec(input, frame.head)?;
            let mut bulk = input.take(frame.bulk);
            let request = Request::from_code(frame.kind).ok_or(io::ErrorKind::InvalidData)?;
            if let Some((fault, at)) = self.fault
                && at == request
            {
                inject(fault, &mut self.out);
            }
            let answer = self.answer(request, &mut Reader::new(&head), &mut bulk, frame.bulk);
            io::copy(&mut bulk, &mut io::sink())?;
            match answer {
                Ok(None) => {}
                Ok(Some(head)) => write_frame(&mut self.out, status::DONE, &head.0, &[])?,
                Err(Problem::Library(failure)) => {
                    let mut w = Writer::default();
                    w.str(&failure.doing).str(&failure.what).u32(failure.code).str(&self.chatter.take());
                    write_frame(&mut self.out, status::FAILED, &w.0, &[])?;
                }
                Err(Problem::Pipe(error)) => return Err(error),
            }
            self.chatter.clear();
        }
        Ok(())
    }

    /// Does what is asked, and gives the head of the answer; `None` where the answer is written already.
    fn answer(
        &mut self,
        request: Request,
        r: &mut Reader<'_>,
        bulk: &mut dyn Read,
        bulk_len: u64,
    ) -> Result<Option<Writer>, Problem> {
        let mut w = Writer::default();
        if request == Request::Open {
            let path = |r: &mut Reader<'_>| -> io::Result<PathBuf> {
                // SAFETY: the bytes are those of a path of this system, encoded by the host, which is of the same build.
                Ok(PathBuf::from(unsafe { OsString::from_encoded_bytes_unchecked(r.bytes()?.to_vec()) }))
            };
            let (backend, system) = (path(r)?, path(r)?);
            let soc = r.option(Reader::u32)?;
            let session = Session::open(&backend, &system, soc)?;
            write_info(&mut w, &session.info());
            self.session = Some(session);
            return Ok(Some(w));
        }
        let Worker { session, chatter, out, given, .. } = self;
        let session = session.as_mut().ok_or_else(no_session)?;
        *given = None;
        match request {
            Request::Open => {}
            Request::Operations => {
                w.list(&session.operations()?, |w, name| {
                    w.str(name);
                });
            }
            Request::Validate => {
                let data = read_vec(bulk, bulk_len)?;
                let received = received(r, data.len())?;
                let nodes = r.list(|r| Ok(usize::try_from(r.u64()?).unwrap_or(usize::MAX)))?;
                let verdicts = session.validate(received, &data, &nodes, &mut || chatter.take())?;
                w.list(&verdicts, write_verdict);
            }
            Request::Compose => {
                let mut data = SealedRoom::read(r)?.map_copy()?;
                let options = read_options(r)?;
                let graphs = r.list(|r| received(r, data.len()))?;
                let mut sent = Ok(());
                let composition = Composition { graphs, data: &mut data, options: &options };
                let composed = session.compose(composition, &mut |stage| {
                    let mut w = Writer::default();
                    write_stage(&mut w, stage);
                    if sent.is_ok() {
                        sent = write_frame(out, status::PROGRESS, &w.0, &[]);
                    }
                })?;
                sent?;
                w.list(&composed.finalize_us, |w, (graph, us)| {
                    w.str(graph).u64(*us);
                });
                composed.payload.write(&mut w);
                *given = Some(composed.payload);
                // The host has its answer while the library gives back the memory of the context.
                write_frame(out, status::DONE, &w.0, &[])?;
                drop(composed.context);
                return Ok(None);
            }
            Request::Inspect => write_binary(&mut w, &session.inspect(&read_vec(bulk, bulk_len)?)?),
            Request::Load => {
                let (id, info) = session.load(&read_vec(bulk, bulk_len)?)?;
                write_binary(w.u32(id), &info);
            }
            Request::Execute => {
                let (context, graph, level) = (r.u32()?, r.str()?, level_from(r.u8()?));
                for input in session.inputs(context, &graph)? {
                    bulk.read_exact(input)?;
                }
                let events = session.execute(context, &graph, level)?;
                w.list(&events, write_event);
                // The outputs lie in buffers of the session, and go out from there.
                write_frame(out, status::DONE, &w.0, &session.outputs(context, &graph)?)?;
                return Ok(None);
            }
            Request::Unload => session.unload(r.u32()?)?,
        }
        Ok(Some(w))
    }
}

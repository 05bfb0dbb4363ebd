//! The disk is full at each 64 KiB of an export.

use std::io::{self, Write};

use pteron::Exporter;
use pteron::checkpoint::atomic::AtomicFile;
use pteron::program_format::{EmitOptions, WriteError, emit};
use pteron::tensor::DType;

use super::*;

const STEP: u64 = 64 << 10;

/// A file on a disk that is full after so many bytes.
struct Limited<'a> {
    file: &'a mut AtomicFile,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(usize::try_from(self.left).unwrap());
        if n == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left -= n as u64;
        self.file.write(&bytes[..n])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[test]
fn a_program_on_a_full_disk() {
    let job = Job::bundled();
    let exporter = Exporter::open(job.folder.path().join("glass-en")).unwrap().kv_cache(true).dtype(DType::F16);
    let emitted = emit(&exporter.module().unwrap(), &EmitOptions::default()).unwrap();
    let total = emitted.file.total_len;
    for room in (0..total).step_by(STEP as usize).chain([total - 1]) {
        let old = (room / STEP).is_multiple_of(2);
        job.begin(old);
        let mut file = AtomicFile::create(job.out()).unwrap();
        let mut told = 0;
        let result = emitted.write_to(&mut Limited { file: &mut file, left: room }, &mut |n| told += n);
        assert!(matches!(&result, Err(WriteError::Sink(e)) if e.kind() == io::ErrorKind::StorageFull), "{room}");
        assert!(told <= room, "{told} bytes said to be written of {room}");
        drop(file);
        assert_eq!(fs::read(job.out()).ok().as_deref(), old.then_some(OLD), "{room}");
        assert_eq!(job.left().len(), usize::from(old), "{room}");
    }
    let mut file = AtomicFile::create(job.out()).unwrap();
    emitted.write_to(&mut Limited { file: &mut file, left: total }, &mut |_| {}).unwrap();
    file.commit().unwrap();
    assert!(job.whole().len() as u64 == total);
}

/// One sentence, exit status 1, and everything as it was.
fn check(job: &Job, ran: support::Ran, old: bool, reason: &str) {
    let said = ran.fails(1);
    assert_eq!(said.lines().count(), 1, "{said}");
    let end = if old { "the old file was kept" } else { "no file was made" };
    assert!(said.contains("m.pte: cannot write") && said.contains(reason) && said.trim_end().ends_with(end), "{said}");
    assert_eq!(fs::read(job.out()).ok().as_deref(), old.then_some(OLD));
    assert_eq!(job.left().len(), usize::from(old));
}

/// The process may not make files longer than so many bytes.
#[cfg(unix)]
#[test]
fn the_command_past_its_limit_of_file_size() {
    use std::os::unix::process::CommandExt;
    let job = Job::bundled();
    let total = job.whole().len() as u64;
    for limit in (0..total).step_by(STEP as usize).chain([total - 1]) {
        let old = (limit / STEP).is_multiple_of(2);
        job.begin(old);
        let mut command = job.command();
        let set = move || {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: the call reads one structure, which is on our stack.
            match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec only `setrlimit` is called, which is safe there.
        unsafe { command.pre_exec(set) };
        check(&job, support::ran(command.output().unwrap()), old, "File too large");
    }
}

/// A real disk without room: a small tmpfs in a mount namespace of its own.
#[cfg(target_os = "linux")]
#[test]
fn the_command_on_a_full_file_system() {
    const TEST: &str = "crash::full::the_command_on_a_full_file_system";
    const SCRIPT: &str = "mount -t tmpfs -o size=$1k tmpfs disk && shift && printf old > disk/m.pte && { \"$@\"; \
                          echo \"$?\"; ls -A disk; cat disk/m.pte; }";
    let job = Job::bundled();
    let total = job.whole().len() as u64;
    fs::create_dir(job.folder.path().join("disk")).unwrap();
    let run = |kib: u64| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", SCRIPT, "sh", &kib.to_string(), env!("CARGO_BIN_EXE_pteron")]);
        let args = job.args.iter().map(|&arg| if arg == "m.pte" { "disk/m.pte" } else { arg });
        command.args(args).current_dir(job.folder.path());
        command.output()
    };
    let mut trial = Command::new("unshare");
    trial.args(["-rm", "sh", "-c", "mount -t tmpfs tmpfs ."]).current_dir(job.folder.path());
    if !trial.status().is_ok_and(|status| status.success()) {
        return pteron_testkit::skip(TEST, "no file system can be mounted here");
    }
    for kib in (64..total / 1024).step_by(256) {
        let output = run(kib).unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(out, "1\nm.pte\nold", "{kib} KiB: {err}");
        assert!(err.contains("No space left on device") && err.trim_end().ends_with("the old file was kept"), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

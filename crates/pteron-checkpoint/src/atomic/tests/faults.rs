//! Each operation on the disk fails once, and the disk fills up at each 64 KiB.

use std::sync::Mutex;

use super::*;
use crate::writer::{SafetensorsWriter, TensorSpec};
use pteron_tensor::DType;

/// A disk that writes down what it is asked for, and fails once or when it is full.
#[derive(Debug, Default)]
struct Faulty {
    /// False for a disk without nameless files.
    nameless: bool,
    /// Which operation fails, counted from 0.
    fails: Option<usize>,
    /// Bytes that can be written before the disk is full.
    room: Option<u64>,
    log: Mutex<Vec<&'static str>>,
    written: Mutex<u64>,
}

impl Faulty {
    fn step(&self, what: &'static str) -> io::Result<()> {
        let mut log = self.log.lock().unwrap();
        log.push(what);
        if self.fails == Some(log.len() - 1) { Err(io::Error::other("injected")) } else { Ok(()) }
    }

    fn log(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }
}

impl Disk for Faulty {
    fn open_nameless(&self, folder: &Path) -> io::Result<File> {
        self.step("open nameless")?;
        if self.nameless { System.open_nameless(folder) } else { Err(io::ErrorKind::Unsupported.into()) }
    }
    fn open_new(&self, path: &Path) -> io::Result<File> {
        self.step("open new")?;
        System.open_new(path)
    }
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        self.step("write")?;
        let mut written = self.written.lock().unwrap();
        let left = self.room.map_or(u64::MAX, |room| room - *written);
        let part = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if part.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = System.write(file, part)?;
        *written += n as u64;
        Ok(n)
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.step("set length")?;
        System.set_len(file, len)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        self.step("sync")?;
        System.sync(file)
    }
    fn link(&self, file: &File, path: &Path) -> io::Result<()> {
        self.step("link")?;
        System.link(file, path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        System.rename(from, to)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step("sync folder")?;
        System.sync_folder(folder)
    }
}

const LEN: usize = BUFFER + BUFFER / 2;

fn make(disk: &Arc<Faulty>, path: &Path) -> Result<(), AtomicError> {
    let mut f = AtomicFile::create_on(Arc::clone(disk) as Arc<dyn Disk>, path)?;
    let io = |e| AtomicError::from_io(path, e);
    f.set_len(LEN as u64).map_err(io)?;
    for part in vec![9; LEN].chunks(100_000) {
        f.write_all(part).map_err(io)?;
    }
    f.commit()
}

fn has_nameless(folder: &Path) -> bool {
    System.open_nameless(folder).is_ok()
}

#[test]
fn the_order_of_operations_is_the_durable_one() {
    let dir = tempfile::tempdir().unwrap();
    for nameless in [false, true] {
        if nameless && !has_nameless(dir.path()) {
            continue;
        }
        let path = dir.path().join(format!("out-{nameless}"));
        for replaces in [false, true] {
            let disk = Arc::new(Faulty { nameless, ..Faulty::default() });
            make(&disk, &path).unwrap();
            let begin: &[&str] =
                if nameless { &["open nameless", "open nameless", "link"] } else { &["open nameless", "open new"] };
            let body = ["set length", "write", "write", "sync"].as_slice();
            let end: &[&str] = match (nameless, replaces) {
                (true, false) => &["link", "sync folder"],
                (true, true) => &["link", "link", "rename", "sync folder"],
                (false, _) => &["rename", "sync folder"],
            };
            assert_eq!(disk.log(), [begin, body, end].concat(), "nameless {nameless}, replaces {replaces}");
        }
    }
}

/// Which file stands where after each single failure.
#[test]
fn each_operation_fails_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.bin");
    for nameless in [false, true] {
        if nameless && !has_nameless(dir.path()) {
            continue;
        }
        for old in [None, Some(b"the old file".as_slice())] {
            let begin = || {
                let _ = std::fs::remove_file(&path);
                old.inspect(|old| std::fs::write(&path, old).unwrap());
            };
            begin();
            let whole = Arc::new(Faulty { nameless, ..Faulty::default() });
            make(&whole, &path).unwrap();
            for (at, what) in whole.log().into_iter().enumerate() {
                begin();
                let disk = Arc::new(Faulty { nameless, fails: Some(at), ..Faulty::default() });
                let result = make(&disk, &path);
                let case = format!("nameless {nameless}, old {}, {what} ({at})", old.is_some());
                let found = std::fs::read(&path).ok();
                let is_trial = what == "open nameless" || (what == "link" && at < 3);
                if is_trial {
                    // A disk without nameless files is not a failure.
                    result.unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(found.unwrap() == vec![9; LEN], "{case}");
                } else {
                    let e = result.expect_err(&case);
                    let text = e.to_string();
                    assert!(
                        text.starts_with(&path.display().to_string()) && text.contains("injected"),
                        "{case}: {text}"
                    );
                    if what == "sync folder" {
                        assert!(found.unwrap() == vec![9; LEN], "{case}");
                        assert_eq!(e.outcome, Outcome::NotDurable, "{case}");
                        assert!(text.ends_with("a loss of power may undo that"), "{case}: {text}");
                    } else {
                        assert_eq!(found.as_deref(), old, "{case}");
                        let (outcome, said) = match old {
                            None => (Outcome::NotMade, "no file was made"),
                            Some(_) => (Outcome::Kept, "the old file was kept"),
                        };
                        assert_eq!(e.outcome, outcome, "{case}");
                        assert!(text.ends_with(said), "{case}: {text}");
                    }
                }
                let left: &[&str] = if path.exists() { &["out.bin"] } else { &[] };
                assert_eq!(names(dir.path()), left, "{case}");
            }
        }
    }
}

#[test]
fn a_full_disk_at_every_64_kib() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.bin");
    for nameless in [false, true] {
        for room in (0..LEN as u64).step_by(64 << 10).chain([LEN as u64 - 1]) {
            for old in [false, true] {
                let _ = std::fs::remove_file(&path);
                if old {
                    std::fs::write(&path, b"old").unwrap();
                }
                let disk = Arc::new(Faulty { nameless, room: Some(room), ..Faulty::default() });
                let e = make(&disk, &path).unwrap_err();
                assert_eq!((e.source.kind(), e.action), (io::ErrorKind::StorageFull, "write"), "{room}");
                assert_eq!(std::fs::read(&path).ok().as_deref(), old.then_some(b"old".as_slice()), "{room}");
                assert_eq!(names(dir.path()).len(), usize::from(old), "{room}");
            }
        }
        let disk = Arc::new(Faulty { nameless, room: Some(LEN as u64), ..Faulty::default() });
        make(&disk, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), LEN as u64);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn after_a_failed_write_nothing_is_put_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, b"old").unwrap();
    let disk = Arc::new(Faulty { room: Some(BUFFER as u64), ..Faulty::default() });
    let mut f = AtomicFile::create_on(disk, &path).unwrap();
    let e = f.write_all(&vec![0; 2 * BUFFER]).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::StorageFull);
    assert!(e.to_string().starts_with(&path.display().to_string()), "{e}");
    let e = AtomicError::from_io(Path::new("other"), e);
    assert_eq!(e.path, path);
    // Whoever passes over the failure and goes on where there is room again gets it at the end.
    f.seek(SeekFrom::Start(0)).unwrap();
    f.write_all(b"short").unwrap();
    let e = f.commit().unwrap_err();
    assert_eq!((e.path.as_path(), e.source.kind()), (path.as_path(), io::ErrorKind::StorageFull));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["f"]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_device_that_is_always_full_gives_its_own_reason() {
    /// Opens that device in place of a file.
    #[derive(Debug)]
    struct Full;
    impl Disk for Full {
        fn open_nameless(&self, _: &Path) -> io::Result<File> {
            Err(io::ErrorKind::Unsupported.into())
        }
        fn write(&self, _: &File, bytes: &[u8]) -> io::Result<usize> {
            File::options().write(true).open("/dev/full")?.write(bytes)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let mut f = AtomicFile::create_on(Arc::new(Full), &path).unwrap();
    f.write_all(b"buffered").unwrap();
    let text = f.commit().unwrap_err().to_string();
    assert!(text.contains("No space left on device") && text.ends_with("no file was made"), "{text}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_safetensors_writer_passes_a_failure_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.safetensors");
    let specs = [TensorSpec::new("w", DType::U8, &[LEN])];
    for (fails, said) in [("write", "cannot write"), ("sync", "cannot flush it"), ("rename", "cannot put")] {
        let find = |fails: Option<usize>| {
            let disk = Arc::new(Faulty { fails, ..Faulty::default() });
            let begin = |path: &Path| AtomicFile::create_on(Arc::clone(&disk) as Arc<dyn Disk>, path);
            let result = SafetensorsWriter::create_with(&path, &specs, &[], begin).and_then(|mut writer| {
                writer.write(&vec![1; LEN])?;
                writer.finish()
            });
            (result, disk.log())
        };
        let (result, log) = find(None);
        result.unwrap();
        std::fs::remove_file(&path).unwrap();
        let at = log.iter().position(|&op| op == fails).unwrap();
        let text = find(Some(at)).0.unwrap_err().to_string();
        assert!(text.starts_with(&path.display().to_string()) && text.contains(said), "{text}");
        assert!(text.ends_with("no file was made"), "{text}");
        assert!(names(dir.path()).is_empty());
    }
}

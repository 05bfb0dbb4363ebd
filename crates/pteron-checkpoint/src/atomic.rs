//! Files that appear whole or not at all.
//!
//! [`AtomicFile`] writes to a temporary file in the destination's folder. [`AtomicFile::commit`] flushes it to the disk,
//! renames it over the destination and flushes the folder. At every moment the destination is absent, the old file, or
//! the whole new one; a run that is killed leaves a temporary file, which the next writer of the same destination
//! removes.
//!
//! The temporary file is locked while its writer lives. A temporary file whose lock can be had was left by a dead one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes gathered before they are handed to the system.
const BUFFER: usize = 256 << 10;

/// Names tried for the temporary file before giving up.
const ATTEMPTS: usize = 100;

/// Why a file could not be written. The destination is as it was, unless the message says that the folder could not be
/// flushed: then the new file is in place and may be lost with the power.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct AtomicError {
    /// The destination.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

impl AtomicError {
    /// The error that [`Write`] or [`Seek`] gave on an [`AtomicFile`], or on something that stands before one.
    pub fn from_io(path: &Path, error: io::Error) -> AtomicError {
        error.downcast::<AtomicError>().unwrap_or_else(|source| AtomicError {
            path: path.to_owned(),
            action: "write",
            source,
        })
    }
}

/// A file under construction; see the [module](self).
///
/// What [`Write`] and [`Seek`] give as errors names the destination ([`AtomicError::from_io`] has the parts). Positions may be written in any order; bytes that
/// never were are zero. Dropping it without [`AtomicFile::commit`] removes the temporary file and leaves the destination
/// as it was.
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    temporary: PathBuf,
    folder: PathBuf,
    /// `None` once committed or dropped.
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Begins a file that will stand at `destination`. Its folder must be there. A symbolic link is followed, so that
    /// what it points to is replaced. The file gets the permissions that any new file of the process gets.
    ///
    /// # Errors
    /// [`AtomicError`] if the destination is a folder, a device or a pipe, or if its folder does not take a file.
    pub fn create(destination: impl AsRef<Path>) -> Result<AtomicFile, AtomicError> {
        let asked = destination.as_ref();
        let fail = |action, source| AtomicError { path: asked.to_owned(), action, source };
        let destination = resolve(asked).map_err(|e| fail("write there", e))?;
        let Some(name) = destination.file_name() else {
            return Err(fail("write there", io::Error::new(io::ErrorKind::InvalidInput, "the path names no file")));
        };
        let folder = match destination.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            let text = format!("there is no folder `{}`", folder.display());
            return Err(fail("write there", io::Error::new(io::ErrorKind::NotFound, text)));
        }
        sweep(&folder, name);
        let (temporary, file) = temporary(&folder, name).map_err(|e| fail("create a temporary file beside it", e))?;
        let writer = Some(BufWriter::with_capacity(BUFFER, file));
        Ok(AtomicFile { destination, temporary, folder, writer })
    }

    /// Where the file will stand; the target if a symbolic link was given.
    pub fn path(&self) -> &Path {
        &self.destination
    }

    /// Sets the length of the file: what is added reads as zeros, and takes no room on the disk where the file system
    /// can leave it out.
    ///
    /// # Errors
    /// What the system gives, naming the destination.
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.with(|w| {
            w.flush()?;
            w.get_ref().set_len(len)
        })
    }

    /// Puts the file in its place, durably.
    ///
    /// # Errors
    /// [`AtomicError`]; the destination is then as it was, except when only flushing the folder failed.
    pub fn commit(mut self) -> Result<(), AtomicError> {
        let path = self.destination.clone();
        let fail = |action, source| AtomicError { path: path.clone(), action, source };
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.flush().map_err(|e| fail("write", e))?;
        writer.get_ref().sync_all().map_err(|e| fail("flush it to the disk", e))?;
        #[cfg(windows)]
        drop(self.writer.take());
        std::fs::rename(&self.temporary, &self.destination)
            .map_err(|e| fail("rename the finished temporary file to it", e))?;
        let synced = sync_folder(&self.folder).map_err(|e| fail("flush its folder to the disk", e));
        self.temporary = PathBuf::new();
        synced
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>) -> io::Result<T> {
        let result = match &mut self.writer {
            Some(w) => f(w),
            None => Err(io::Error::other("the file is finished")),
        };
        result.map_err(|source| {
            let path = self.destination.clone();
            io::Error::new(source.kind(), AtomicError { path, action: "write", source })
        })
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|w| w.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.with(Write::flush)
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.with(|w| w.seek(to))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.temporary.as_os_str().is_empty() {
            return;
        }
        // What is still buffered is not worth writing. The name goes before the lock, so that no one else takes the
        // file for a dead writer's; where open files cannot be removed, it goes after.
        let file = self.writer.take().map(BufWriter::into_parts);
        let removed = std::fs::remove_file(&self.temporary);
        drop(file);
        if removed.is_err() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// The file that is meant by `path`: links followed, folders and devices refused.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let text = path.as_os_str().as_encoded_bytes();
    if path.is_dir() || text.last().is_some_and(|&b| std::path::is_separator(char::from(b))) {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(m) => m,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(e) => return Err(e),
    };
    let target = if metadata.is_symlink() { std::fs::canonicalize(path)? } else { path.to_owned() };
    if std::fs::metadata(&target)?.is_file() {
        Ok(target)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a regular file nor free"))
    }
}

const SUFFIX: &str = ".tmp";

/// `.NAME.`: how temporary files for `name` begin. Long names are cut, so that the whole stays a valid name.
fn prefix(name: &OsStr) -> OsString {
    const LONGEST: usize = 64;
    let name = name.to_string_lossy();
    let cut = name.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|&end| end <= LONGEST).last().unwrap_or(0);
    OsString::from(format!(".{}.", &name[..cut]))
}

/// A new, locked file in `folder`.
fn temporary(folder: &Path, name: &OsStr) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..ATTEMPTS {
        let mut file_name = prefix(name);
        file_name.push(format!("{}-{}{SUFFIX}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let path = folder.join(file_name);
        let file = match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        // Where files cannot be locked nobody can take the lock either, and nothing is swept.
        let _ = file.try_lock();
        // Between creation and lock another writer may have taken the file for a dead one's and removed it.
        if still_there(&path, &file) {
            return Ok((path, file));
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name tried for it is taken"))
}

#[cfg(unix)]
fn still_there(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
    std::fs::symlink_metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|opened| id(&named) == id(&opened)))
}

#[cfg(not(unix))]
fn still_there(path: &Path, _file: &File) -> bool {
    path.exists()
}

/// Removes what dead writers of `name` left in `folder`. Failing to is no reason not to write.
fn sweep(folder: &Path, name: &OsStr) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let prefix = prefix(name);
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|t| t.is_file());
        if !is_file || !is_temporary(&entry.file_name(), &prefix) {
            continue;
        }
        let path = entry.path();
        if let Ok(file) = File::options().read(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// True for `PREFIX` + digits + `-` + digits + `.tmp`.
fn is_temporary(name: &OsStr, prefix: &OsStr) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.to_str()
        .zip(prefix.to_str())
        .and_then(|(name, prefix)| name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?.split_once('-'))
        .is_some_and(|(process, count)| digits(process) && digits(count))
}

/// Makes a rename in `folder` durable. File systems that cannot flush folders are taken to need no flush.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if !matches!(e.kind(), InvalidInput | PermissionDenied | Unsupported) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn commit_replaces_and_drop_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"one").unwrap();
        assert!(!path.exists());
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");

        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(&vec![7; 3 * BUFFER]).unwrap();
        assert_eq!(names(dir.path()).len(), 2);
        drop(f);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["out.bin"]);

        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"two-").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two-");
        assert_eq!(names(dir.path()), ["out.bin"]);
    }

    #[test]
    fn positions_are_written_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let mut f = AtomicFile::create(&path).unwrap();
        f.set_len(6).unwrap();
        f.seek(SeekFrom::Start(4)).unwrap();
        f.write_all(b"ef").unwrap();
        f.seek(SeekFrom::Start(0)).unwrap();
        f.write_all(b"ab").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ab\0\0ef");
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_the_living_are_spared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        let dead = dir.path().join(".out.bin.4242-0.tmp");
        let foreign = [".out.bin.x-0.tmp", ".other.4242-0.tmp", "out.bin.4242-0.tmp", ".out.bin.tmp"];
        std::fs::write(&dead, b"half").unwrap();
        for name in foreign {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let mut first = AtomicFile::create(&path).unwrap();
        assert!(!dead.exists());
        let mut second = AtomicFile::create(&path).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        first.commit().unwrap();
        second.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        for name in foreign {
            assert!(dir.path().join(name).exists(), "{name}");
        }
        assert_eq!(names(dir.path()).len(), foreign.len() + 1);
    }

    #[test]
    fn destinations_that_cannot_be_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| AtomicFile::create(path).unwrap_err().to_string();
        let e = refused(dir.path());
        assert!(e.starts_with(&dir.path().display().to_string()) && e.contains("it is a folder"), "{e}");
        assert!(refused(&dir.path().join("new/")).contains("it is a folder"));
        let e = refused(&dir.path().join("absent").join("f"));
        assert!(e.contains("there is no folder") && e.contains("absent"), "{e}");
        assert!(refused(Path::new("")).contains("names no file"));
        #[cfg(unix)]
        assert!(refused(Path::new("/dev/null")).contains("neither a regular file nor free"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_plain_name_lies_in_the_current_folder() {
        let f = AtomicFile::create("pteron-atomic-test-that-is-never-committed").unwrap();
        assert_eq!(f.folder, Path::new("."));
        assert!(f.temporary.exists());
        let temporary = f.temporary.clone();
        drop(f);
        assert!(!temporary.exists());
    }

    #[test]
    fn long_and_odd_names_work() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ä".repeat(120), "x".repeat(250), ".hidden".to_owned(), "a b-1.tmp".to_owned()] {
            let path = dir.path().join(&name);
            let mut f = AtomicFile::create(&path).unwrap();
            f.write_all(name.as_bytes()).unwrap();
            f.commit().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), name.as_bytes());
        }
    }

    #[test]
    fn a_folder_that_goes_away_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gone");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("f");
        let f = AtomicFile::create(&path).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let e = f.commit().unwrap_err();
        assert_eq!(e.path, path);
        assert!(e.to_string().contains("cannot rename"), "{e}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn write_errors_name_the_destination_and_leave_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"old").unwrap();
        let mut f = AtomicFile::create(&path).unwrap();
        // Every write to this device fails for lack of room.
        let full = File::options().write(true).open("/dev/full").unwrap();
        f.writer = Some(BufWriter::with_capacity(BUFFER, full));
        let e = f.write_all(&vec![0; 2 * BUFFER]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        assert!(e.to_string().starts_with(&path.display().to_string()), "{e}");
        let e = AtomicError::from_io(Path::new("other"), e);
        assert_eq!(e.path, path);
        f.write_all(b"buffered").unwrap();
        let e = f.commit().unwrap_err();
        assert_eq!((e.path.as_path(), e.source.kind()), (path.as_path(), io::ErrorKind::StorageFull));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_are_those_of_new_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (real, link, plain) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("plain"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let mut f = AtomicFile::create(&link).unwrap();
        f.write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        std::fs::write(&plain, b"").unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&real), mode(&plain));
    }
}

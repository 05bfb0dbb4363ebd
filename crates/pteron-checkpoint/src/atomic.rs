//! Files that appear whole or not at all.
//!
//! [`AtomicFile`] writes to a temporary file in the destination's folder. [`AtomicFile::commit`] flushes it to the disk,
//! puts it in the destination's place and flushes the folder. At every moment the destination is absent, the old file, or
//! the whole new one.
//!
//! On Linux the temporary file has no name until it is finished (`O_TMPFILE`), so that nothing is left of a process that
//! is killed. Only to replace a file it has one for the moment between being linked and being renamed. Where a file
//! cannot be named later, it has a name from the beginning. What a killed process left is removed by the next writer
//! of the same destination: the temporary file is locked while its writer lives, and one whose lock can be had was left
//! by a dead one. A process that ends by a signal calls [`remove_temporaries`].

mod disk;
mod live;
mod temporary;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{Disk, System};

pub use live::remove_temporaries;
pub use temporary::TemporaryFolder;

/// Bytes gathered before they are handed to the system.
const BUFFER: usize = 256 << 10;

/// What stands at the destination after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No file, as before.
    NotMade,
    /// The file that was there before.
    Kept,
    /// The new file, whole; but its name may not be on the disk yet.
    NotDurable,
}

impl Outcome {
    /// What a failure leaves that changed nothing.
    fn unchanged(path: &Path) -> Outcome {
        if path.is_file() { Outcome::Kept } else { Outcome::NotMade }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NotMade => "no file was made",
            Outcome::Kept => "the old file was kept",
            Outcome::NotDurable => "the new file is in place, but a loss of power may undo that",
        })
    }
}

/// Why a file could not be written, and what stands in its place now.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}; {outcome}", path.display())]
pub struct AtomicError {
    /// The destination.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// Why it failed.
    pub source: io::Error,
    /// What is at the destination.
    pub outcome: Outcome,
}

impl AtomicError {
    /// A failure that changed nothing.
    fn unchanged(path: &Path, action: &'static str, source: io::Error) -> AtomicError {
        AtomicError { path: path.to_owned(), action, source, outcome: Outcome::unchanged(path) }
    }

    /// The error that [`Write`] or [`Seek`] gave on an [`AtomicFile`], or on something that stands before one.
    pub fn from_io(path: &Path, error: io::Error) -> AtomicError {
        error.downcast::<AtomicError>().unwrap_or_else(|source| AtomicError::unchanged(path, "write", source))
    }
}

/// A file under construction; see the [module](self).
///
/// What [`Write`] and [`Seek`] give as errors names the destination ([`AtomicError::from_io`] has the parts). Positions
/// may be written in any order; bytes that never were are zero. Dropping it without [`AtomicFile::commit`] removes the
/// temporary file and leaves the destination as it was.
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    folder: PathBuf,
    /// The destination's name in its folder.
    name: OsString,
    /// The temporary file's name, if it has one.
    temporary: Option<PathBuf>,
    /// `None` once committed or dropped.
    writer: Option<BufWriter<Handle>>,
    /// The first failure of writing: what is missing then cannot be known, and the file is not put in place.
    failed: Option<Failed>,
    disk: Arc<dyn Disk>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    code: Option<i32>,
    kind: io::ErrorKind,
}

impl From<Failed> for io::Error {
    fn from(f: Failed) -> io::Error {
        f.code.map_or_else(|| f.kind.into(), io::Error::from_raw_os_error)
    }
}

/// An open file whose writes go through [`Disk`].
#[derive(Debug)]
struct Handle {
    file: File,
    disk: Arc<dyn Disk>,
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write(&self.file, bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Handle {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl AtomicFile {
    /// Begins a file that will stand at `destination`. Its folder must be there. A symbolic link is followed, so that
    /// what it points to is replaced. The file gets the permissions that any new file of the process gets.
    ///
    /// # Errors
    /// [`AtomicError`] if the destination is a folder, a device or a pipe, or if its folder does not take a file.
    pub fn create(destination: impl AsRef<Path>) -> Result<AtomicFile, AtomicError> {
        AtomicFile::create_on(Arc::new(System), destination.as_ref())
    }

    fn create_on(disk: Arc<dyn Disk>, asked: &Path) -> Result<AtomicFile, AtomicError> {
        let fail = |action, source| AtomicError::unchanged(asked, action, source);
        let destination = resolve(asked).map_err(|e| fail("write there", e))?;
        let Some(name) = destination.file_name().map(OsString::from) else {
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
        temporary::sweep(&folder, &name);
        let (temporary, file) = temporary::create(disk.as_ref(), &folder, &name)
            .map_err(|e| fail("create a temporary file beside it", e))?;
        let writer = Some(BufWriter::with_capacity(BUFFER, Handle { file, disk: Arc::clone(&disk) }));
        Ok(AtomicFile { destination, folder, name, temporary, writer, failed: None, disk })
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
            let handle = w.get_ref();
            handle.disk.set_len(&handle.file, len)
        })
    }

    /// Puts the file in its place, durably.
    ///
    /// # Errors
    /// [`AtomicError`]; the destination is then as it was, except when only flushing the folder failed
    /// ([`Outcome::NotDurable`]). A file of which any write failed is not put in place.
    pub fn commit(self) -> Result<(), AtomicError> {
        AtomicFile::commit_all([self])
    }

    /// Puts files that belong together in their places, in this order. All are whole and on the disk before the first of them is
    /// put in its place, so that nothing but changes of names lies between the first and the last.
    ///
    /// # Errors
    /// As [`AtomicFile::commit`], of the first file that fails. If one cannot be finished, no destination has changed; if a name
    /// cannot be given, the files before it are in their places.
    pub fn commit_all(files: impl IntoIterator<Item = AtomicFile>) -> Result<(), AtomicError> {
        let mut finished = Vec::new();
        for mut file in files {
            if let Some(handle) = file.finish()? {
                finished.push((file, handle));
            }
        }
        let mut placed: Vec<AtomicFile> = Vec::with_capacity(finished.len());
        for (mut file, handle) in finished {
            if let Err(e) = file.put_in_place(handle) {
                file.remove_temporary();
                return Err(AtomicError::unchanged(&file.destination, "put the finished file in its place", e));
            }
            placed.push(file);
        }
        let mut synced: Vec<&Path> = Vec::new();
        for file in &placed {
            if synced.contains(&file.folder.as_path()) {
                continue;
            }
            file.disk.sync_folder(&file.folder).map_err(|e| AtomicError {
                outcome: Outcome::NotDurable,
                ..AtomicError::unchanged(&file.destination, "flush its folder to the disk", e)
            })?;
            synced.push(&file.folder);
        }
        Ok(())
    }

    /// Brings all bytes to the disk; `None` if that was done before.
    fn finish(&mut self) -> Result<Option<Handle>, AtomicError> {
        let path = self.destination.clone();
        let fail = |action, source| AtomicError::unchanged(&path, action, source);
        if let Some(failed) = self.failed {
            return Err(fail("write", failed.into()));
        }
        let Some(mut writer) = self.writer.take() else { return Ok(None) };
        let flushed = writer.flush().map_err(|e| fail("write", e));
        // From here on nothing is buffered, or it is not worth writing.
        let (handle, _) = writer.into_parts();
        let done = flushed.and_then(|()| self.disk.sync(&handle.file).map_err(|e| fail("flush it to the disk", e)));
        if done.is_err() {
            self.remove_temporary();
        }
        done.map(|()| Some(handle))
    }

    /// Gives the finished file the destination's name.
    fn put_in_place(&mut self, handle: Handle) -> io::Result<()> {
        if self.temporary.is_none() {
            let link = |path: &Path| self.disk.link(&handle.file, path);
            // Where nothing is, nothing has to be replaced, and there is no moment with another name.
            match live::with(|_| link(&self.destination)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done,
            }
            self.temporary = Some(temporary::take_name(&self.folder, &self.name, link)?.0);
        }
        // Windows does not rename an open file. Elsewhere the lock holds until the temporary name is gone.
        let open = if cfg!(windows) { None } else { Some(handle) };
        if let Some(temporary) = &self.temporary {
            live::with(|live| {
                self.disk.rename(temporary, &self.destination)?;
                live.remove(temporary);
                Ok(())
            })?;
        }
        drop(open);
        self.temporary = None;
        Ok(())
    }

    fn remove_temporary(&mut self) {
        if let Some(path) = self.temporary.take() {
            // The next writer tries again.
            let _ = temporary::give_up_name(&path);
        }
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut BufWriter<Handle>) -> io::Result<T>) -> io::Result<T> {
        let result = match &mut self.writer {
            Some(w) => f(w),
            None => Err(io::Error::other("the file is finished")),
        };
        result.map_err(|source| {
            let kind = source.kind();
            // The caller repeats an interrupted write.
            if kind != io::ErrorKind::Interrupted {
                self.failed.get_or_insert(Failed { code: source.raw_os_error(), kind });
            }
            io::Error::new(kind, AtomicError::unchanged(&self.destination, "write", source))
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
        // What is still buffered is not worth writing. The name goes before the lock, so that no one else takes the
        // file for a dead writer's; where open files cannot be removed, it goes after.
        let file = self.writer.take().map(BufWriter::into_parts);
        if !cfg!(windows) {
            self.remove_temporary();
        }
        drop(file);
        self.remove_temporary();
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

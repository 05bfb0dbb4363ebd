//! The operations on the disk that can fail while a file is made, one by one, so that tests can let each fail.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What a file's making asks of the system. The bodies here are the real operations.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// A new file in `folder` that has no name yet and goes with its last handle. Not every system and file system has
    /// such files.
    fn open_nameless(&self, folder: &Path) -> io::Result<File> {
        open_nameless(folder)
    }

    /// A new file at `path`, where none may be.
    fn open_new(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(path)
    }

    /// Writes some of `bytes` at the file's position.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Sets the file's length.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Flushes the file's bytes and length to the disk.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Gives a nameless file the name `path`, which must be free.
    fn link(&self, file: &File, path: &Path) -> io::Result<()> {
        link(file, path)
    }

    /// Puts `from` in the place of `to`, which may be there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Makes the names in `folder` durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }
}

/// The system itself.
#[derive(Debug)]
pub(super) struct System;

impl Disk for System {}

#[cfg(target_os = "linux")]
fn open_nameless(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).map_err(io::Error::other)?;
    File::options().read(true).write(true).custom_flags(flags).open(folder)
}

#[cfg(not(target_os = "linux"))]
fn open_nameless(_folder: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    // A descriptor by itself can be linked by privileged processes only; its name under /proc by its owner.
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, name, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// File systems that cannot flush folders are taken to need no flush.
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

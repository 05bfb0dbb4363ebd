//! Names of temporary files and folders, and what dead processes left of them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;
use super::live;

/// Names tried before giving up.
const ATTEMPTS: usize = 100;

const SUFFIX: &str = ".tmp";

/// `.NAME.`: how temporary files for `name` begin. Long names are cut, so that the whole stays a valid name.
fn prefix(name: &OsStr) -> OsString {
    const LONGEST: usize = 64;
    let name = name.to_string_lossy();
    let cut = name.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|&end| end <= LONGEST).last().unwrap_or(0);
    OsString::from(format!(".{}.", &name[..cut]))
}

/// A name in `folder` that this process has not used before.
fn fresh(folder: &Path, name: &OsStr) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut file_name = prefix(name);
    file_name.push(format!("{}-{}{SUFFIX}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    folder.join(file_name)
}

/// Calls `make` with fresh names until one is free; notes the name that was taken.
pub(super) fn take_name<T>(
    folder: &Path,
    name: &OsStr,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    for _ in 0..ATTEMPTS {
        let path = fresh(folder, name);
        let made = live::with(|live| {
            let made = make(&path)?;
            live.add(&path);
            Ok(made)
        });
        match made {
            Ok(made) => return Ok((path, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name tried for it is taken"))
}

/// Removes a name that [`take_name`] took.
pub(super) fn give_up_name(path: &Path) -> io::Result<()> {
    let removed = std::fs::remove_file(path);
    live::forget(path);
    removed
}

/// A new, locked file for `name` in `folder`: without a name where the system can name it later, else with one.
pub(super) fn create(disk: &dyn Disk, folder: &Path, name: &OsStr) -> io::Result<(Option<PathBuf>, File)> {
    if let Some(file) = nameless(disk, folder, name) {
        return Ok((None, file));
    }
    for _ in 0..ATTEMPTS {
        let (path, file) = take_name(folder, name, |path| disk.open_new(path))?;
        // Where files cannot be locked nobody can take the lock either, and nothing is swept.
        let _ = file.try_lock();
        // Between creation and lock another writer may have taken the file for a dead one's and removed it.
        if still_there(&path, &file) {
            return Ok((Some(path), file));
        }
        live::forget(&path);
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name tried for it is taken"))
}

/// A file without a name. `None` where there are none, or where they could not be named later (no `/proc`, hard links
/// forbidden by the file system or by a policy, as in Android's sandbox): that is tried on another one first.
fn nameless(disk: &dyn Disk, folder: &Path, name: &OsStr) -> Option<File> {
    let (file, trial) = (disk.open_nameless(folder).ok()?, disk.open_nameless(folder).ok()?);
    let (path, ()) = take_name(folder, name, |path| disk.link(&trial, path)).ok()?;
    // Another writer may have swept it.
    let _ = give_up_name(&path);
    let _ = file.try_lock();
    Some(file)
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
pub(super) fn sweep(folder: &Path, name: &OsStr) {
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

/// A folder that is removed with all that is in it when it is dropped, and by
/// [`remove_temporaries`](super::remove_temporaries).
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    /// A new, empty folder in `parent` that only its owner may open. Its name begins with `.NAME.`.
    ///
    /// # Errors
    /// What the system gives.
    pub fn create_in(parent: impl AsRef<Path>, name: &str) -> io::Result<TemporaryFolder> {
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let (path, ()) = take_name(parent.as_ref(), OsStr::new(name), |path| builder.create(path))?;
        Ok(TemporaryFolder { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Nobody can be told.
        let _ = std::fs::remove_dir_all(&self.path);
        live::forget(&self.path);
    }
}

//! The names that this process has given to unfinished files and folders, for the end of an interrupted process.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names of unfinished files and folders.
#[derive(Debug)]
pub(super) struct Live {
    /// Nothing is begun or put in place any more.
    closed: bool,
    names: BTreeSet<PathBuf>,
}

static LIVE: Mutex<Live> = Mutex::new(Live { closed: false, names: BTreeSet::new() });

fn lock() -> MutexGuard<'static, Live> {
    // A set of names has no state that a panic could leave half made.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(super) fn add(&mut self, path: &Path) {
        self.names.insert(path.to_owned());
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.names.remove(path);
    }
}

/// Makes or moves names while nobody removes them.
///
/// # Errors
/// Those of `change`, and one after [`remove_temporaries`].
pub(super) fn with<T>(change: impl FnOnce(&mut Live) -> io::Result<T>) -> io::Result<T> {
    let mut live = lock();
    if live.closed {
        return Err(io::Error::other("the process is ending"));
    }
    change(&mut live)
}

/// Takes a name off the list, as it is gone.
pub(super) fn forget(path: &Path) {
    lock().remove(path);
}

/// Removes the unfinished files and folders of this process, for an end that runs no destructors, such as that by a
/// signal. What has been put in its place stays; nothing can be begun or put in its place afterwards.
pub fn remove_temporaries() {
    let mut live = lock();
    live.closed = true;
    for path in std::mem::take(&mut live.names) {
        // Nobody can be told, and what stays is removed by the next writer of the same name.
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}

//! Spans of bytes in files: mapped, read at positions, or held in memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use pteron_tensor::{ByteSource, SourceError, copy_range};

use crate::error::CheckpointError;

/// How the bytes of weights are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// The files are mapped: nothing is copied, and pages that are not needed any more cost nothing.
    ///
    /// The files must not be cut short by anyone while the checkpoint is open: touching a mapped page that is no
    /// longer in its file ends the process with `SIGBUS`. Where that can happen, use [`LoadMode::File`].
    #[default]
    Mmap,
    /// The files are read at the positions asked for. A file that is cut short meanwhile gives an error.
    File,
}

/// A file mapped into memory for reading. See [`LoadMode::Mmap`] for the hazard of truncation.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`, which the caller has found to be there.
    fn new(path: &Path, file: &File, len: u64) -> Result<MappedFile, CheckpointError> {
        let fail = |source| CheckpointError::Io { path: path.to_owned(), action: "map", source };
        let len = usize::try_from(len).map_err(|_| fail(io::ErrorKind::FileTooLarge.into()))?;
        // SAFETY: the map is read-only and never handed out as anything but bytes, for which every pattern is valid.
        // Soundness rests on nobody changing the file while it is mapped, which no program can enforce: the hazard is
        // documented at `LoadMode::Mmap`, and `LoadMode::File` is the way around it.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }.map_err(fail)?;
        Ok(MappedFile { path: path.to_owned(), map })
    }

    /// Tells the system that bytes `offset..offset + len` will be read from front to back soon. A hint: where the
    /// system has no such call, or refuses it, nothing happens.
    pub fn will_read(&self, offset: u64, len: u64) {
        #[cfg(unix)]
        if let Some((offset, len)) = self.span(offset, len) {
            // A refused hint changes no result.
            let _ = self.map.advise_range(memmap2::Advice::Sequential, offset, len);
            let _ = self.map.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    /// Tells the system that bytes `offset..offset + len` are not needed for now, so that they stop counting as
    /// resident. They are read from the file again when they are touched. A hint, as [`MappedFile::will_read`].
    pub fn release(&self, offset: u64, len: u64) {
        #[cfg(unix)]
        if let Some((offset, len)) = self.span(offset, len) {
            // SAFETY: the map is shared, file-backed and read-only, so that a dropped page comes back from the file
            // with the same bytes at the next touch: borrowed slices stay valid and unchanged.
            let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    #[cfg(unix)]
    fn span(&self, offset: u64, len: u64) -> Option<(usize, usize)> {
        let end = offset.checked_add(len)?;
        if len == 0 || end > self.map.len() as u64 {
            return None;
        }
        Some((usize::try_from(offset).ok()?, usize::try_from(len).ok()?))
    }
}

impl ByteSource for MappedFile {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        copy_range(&self.path.display(), &self.map, offset, out)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.map)
    }
    fn release(&self, offset: u64, len: u64) {
        MappedFile::release(self, offset, len);
    }
}

/// A file read at the positions asked for.
#[derive(Debug)]
pub struct FileBytes {
    path: PathBuf,
    file: File,
    len: u64,
}

impl ByteSource for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len {
            let what = self.path.display().to_string();
            return Err(SourceError::OutOfRange { what, start: offset, end, len: self.len });
        }
        read_exact_at(&self.file, offset, out).map_err(|e| SourceError::Failed {
            what: self.path.display().to_string(),
            reason: if e.kind() == io::ErrorKind::UnexpectedEof {
                format!("the file was cut short while it was open: bytes {offset}..{end} are gone")
            } else {
                e.to_string()
            },
        })
    }
}

/// Bytes that are in memory already: a bundled model, or a test.
#[derive(Debug, Clone)]
pub struct MemoryBytes(Cow<'static, [u8]>);

impl MemoryBytes {
    /// The given bytes, owned or `'static`.
    pub fn new(bytes: impl Into<Cow<'static, [u8]>>) -> MemoryBytes {
        MemoryBytes(bytes.into())
    }
}

impl ByteSource for MemoryBytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        copy_range(&"bytes in memory", &self.0, offset, out)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                offset += n as u64;
                out = &mut out[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A regular file opened for reading, and its length. Symbolic links are followed: the hub's cache is made of them.
fn open_regular(path: &Path) -> Result<(File, u64), CheckpointError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::NotFound { path: path.to_owned() },
        _ => CheckpointError::Io { path: path.to_owned(), action: "open", source },
    };
    // Opening a pipe would wait for a writer, so the kind is asked for first, and again of what was opened.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(CheckpointError::NotRegular { path: path.to_owned() });
    }
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(CheckpointError::NotRegular { path: path.to_owned() });
    }
    Ok((file, metadata.len()))
}

/// A file's bytes, reached by mapping or by reading.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    Mapped(Arc<MappedFile>),
    Other(Arc<dyn ByteSource>),
}

impl Bytes {
    pub(crate) fn open(path: &Path, mode: LoadMode) -> Result<Bytes, CheckpointError> {
        let (file, len) = open_regular(path)?;
        // Nothing can be mapped of an empty file.
        if mode == LoadMode::Mmap && len > 0 {
            return Ok(Bytes::Mapped(Arc::new(MappedFile::new(path, &file, len)?)));
        }
        Ok(Bytes::Other(Arc::new(FileBytes { path: path.to_owned(), file, len })))
    }

    pub(crate) fn shared(&self) -> Arc<dyn ByteSource> {
        match self {
            Bytes::Mapped(m) => Arc::clone(m) as Arc<dyn ByteSource>,
            Bytes::Other(o) => Arc::clone(o),
        }
    }
}

/// Opens the bytes of any regular file for reading.
///
/// # Errors
/// [`CheckpointError::NotFound`], [`CheckpointError::NotRegular`], or [`CheckpointError::Io`].
pub fn open_bytes(path: &Path, mode: LoadMode) -> Result<Arc<dyn ByteSource>, CheckpointError> {
    Ok(Bytes::open(path, mode)?.shared())
}

/// The whole of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`CheckpointError::TooLarge`] above the limit, [`CheckpointError::NotFound`], [`CheckpointError::NotRegular`], or
/// [`CheckpointError::Io`].
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, CheckpointError> {
    let (file, len) = open_regular(path)?;
    let too_large =
        |found| CheckpointError::TooLarge { path: path.to_owned(), what: "the file's size in bytes", found, limit };
    if len > limit {
        return Err(too_large(len));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that grew meanwhile.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| CheckpointError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_modes_deliver_the_same_and_check_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let data: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        for mode in [LoadMode::Mmap, LoadMode::File] {
            let source = open_bytes(&path, mode).unwrap();
            assert_eq!(source.len(), 10_000);
            let mut out = vec![0; 5000];
            source.read_at(4097, &mut out).unwrap();
            assert_eq!(out, data[4097..9097]);
            source.read_at(10_000, &mut []).unwrap();
            for (offset, len) in [(9_999, 2), (10_001, 0), (u64::MAX, 1)] {
                let e = source.read_at(offset, &mut vec![0; len]).unwrap_err();
                assert!(matches!(e, SourceError::OutOfRange { .. }), "{mode:?} {e}");
            }
        }
    }

    #[test]
    fn released_pages_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 13) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let Bytes::Mapped(map) = Bytes::open(&path, LoadMode::Mmap).unwrap() else { panic!("not mapped") };
        map.will_read(5, 90_000);
        assert!(map.as_slice().unwrap() == data);
        map.release(5, 90_000);
        map.release(0, u64::MAX);
        map.release(99_999, 2);
        assert!(map.as_slice().unwrap() == data);
    }

    #[test]
    fn a_file_cut_short_is_an_error_in_file_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 100]).unwrap();
        let source = open_bytes(&path, LoadMode::File).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        let e = source.read_at(50, &mut [0; 10]).unwrap_err().to_string();
        assert!(e.contains("cut short"), "{e}");
    }

    #[test]
    fn sizes_are_limited_and_folders_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [0; 100]).unwrap();
        assert_eq!(read_limited(&path, 100).unwrap().len(), 100);
        assert!(matches!(read_limited(&path, 99), Err(CheckpointError::TooLarge { found: 100, limit: 99, .. })));
        assert!(matches!(read_limited(dir.path(), 99), Err(CheckpointError::NotRegular { .. })));
        assert!(matches!(read_limited(&dir.path().join("g"), 99), Err(CheckpointError::NotFound { .. })));
        assert!(matches!(open_bytes(dir.path(), LoadMode::Mmap), Err(CheckpointError::NotRegular { .. })));
    }
}

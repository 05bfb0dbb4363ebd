//! Memory that two processes see: what is too large to be copied through a pipe.
//!
//! A room is an unnamed file in memory. One side fills it and seals it, so that nobody can change or shrink it any more, and tells
//! the other its process and descriptor; the other opens it by these and maps it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::worker::wire::{Reader, Writer};

/// After these, the bytes of a file stay as they are, and stay there.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// An unnamed file in memory, empty.
pub(crate) fn unnamed_file() -> io::Result<File> {
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(c"pteron-qnn".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Has the pages of `len` bytes from `start` made, to be written to: those that lie in the range as a whole. What cannot be made
/// now is made when it is written.
///
/// # Safety
/// The range is memory of this process.
pub(crate) unsafe fn populate(start: *mut u8, len: usize) {
    // SAFETY: it takes a number and gives one.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(1 << 12);
    let skipped = start.align_offset(page).min(len);
    let start = start.wrapping_add(skipped);
    // SAFETY: the range is the caller's, and making its pages changes no byte.
    unsafe { libc::madvise(start.cast(), (len - skipped) / page * page, libc::MADV_POPULATE_WRITE) };
}

/// A room that is being filled. Its pages take memory when they are first written.
#[derive(Debug)]
pub(crate) struct Room {
    file: File,
    map: MmapMut,
}

impl Room {
    /// A room of `len` bytes, all of them 0.
    pub(crate) fn new(len: u64) -> io::Result<Room> {
        let file = unnamed_file()?;
        file.set_len(len)?;
        // SAFETY: the file is nobody else's until it is sealed, and then this map is gone.
        let map = unsafe { MmapMut::map_mut(&file) }?;
        Ok(Room { file, map })
    }

    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Has the pages of the first `len` bytes made, from any thread, while others wait for something else.
    pub(crate) fn populate(&self, len: usize) {
        // SAFETY: the range is this map's.
        unsafe { populate(self.map.as_ptr().cast_mut(), len.min(self.map.len())) };
    }

    /// The room as it stays, cut to `len` bytes.
    pub(crate) fn seal(self, len: u64) -> io::Result<SealedRoom> {
        let Room { file, map } = self;
        drop(map);
        file.set_len(len)?;
        // SAFETY: the descriptor is open.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(SealedRoom { file, len })
    }
}

/// A room that stays as it is.
#[derive(Debug)]
pub(crate) struct SealedRoom {
    file: File,
    len: u64,
}

impl SealedRoom {
    /// Tells the other side where it is. It has to stay open until that side has opened it.
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u32(std::process::id()).i32(self.file.as_raw_fd()).u64(self.len);
    }

    /// Opens the room that the other side tells of.
    pub(crate) fn read(r: &mut Reader<'_>) -> io::Result<SealedRoom> {
        let (process, descriptor, len): (u32, RawFd, u64) = (r.u32()?, r.i32()?, r.u64()?);
        let file = File::open(format!("/proc/{process}/fd/{descriptor}"))?;
        // SAFETY: the descriptor is open.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & SEALS != SEALS || file.metadata()?.len() != len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "found a room that is not sealed"));
        }
        Ok(SealedRoom { file, len })
    }

    /// Its bytes.
    pub(crate) fn map(&self) -> io::Result<Mmap> {
        // SAFETY: the file is sealed: it is neither written nor shortened.
        unsafe { Mmap::map(&self.file) }
    }

    /// Its bytes for one that may write to them, which nobody else sees.
    pub(crate) fn map_copy(&self) -> io::Result<MmapMut> {
        // SAFETY: as above; pages that are written are this map's own.
        unsafe { MmapOptions::new().map_copy(&self.file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_side_sees_what_was_written() {
        let mut room = Room::new(10_000).expect("there is memory");
        room.populate(20_000);
        room.bytes()[..3].copy_from_slice(b"abc");
        let sealed = room.seal(5_000).expect("nobody else has it");
        let mut w = Writer::default();
        sealed.write(&mut w);
        let there = SealedRoom::read(&mut Reader::new(&w.0)).expect("it is open");
        let map = there.map().expect("it can be mapped");
        assert_eq!((map.len(), &map[..4]), (5_000, &b"abc\0"[..]));
        let mut own = there.map_copy().expect("it can be mapped");
        own[0] = b'x';
        assert_eq!(map[0], b'a');
    }

    #[test]
    fn what_may_change_is_refused() {
        let file = unnamed_file().expect("there is memory");
        file.set_len(8).expect("there is memory");
        let mut w = Writer::default();
        let open = SealedRoom { file, len: 8 };
        open.write(&mut w);
        let refused = SealedRoom::read(&mut Reader::new(&w.0)).expect_err("it is not sealed");
        assert!(refused.to_string().contains("not sealed"), "{refused}");
    }
}

//! Memory for packed weights: few large mappings with huge pages where the system allows them, cut into rooms.

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapOptions};

/// Size of a huge page, at whose multiples a mapping's rooms begin.
const HUGE: usize = 2 << 20;
/// Size of a mapping. Pages that nothing is written to take no memory.
const CHUNK: usize = 64 << 20;
/// Where rooms begin.
const ALIGN: usize = 64;

/// A mapping. Rooms in it do not overlap.
#[derive(Debug)]
struct Chunk {
    start: *mut u8,
    len: usize,
    /// Keeps the mapping.
    _map: MmapMut,
}

// SAFETY: the pointer is into the mapping, which lives as long; whoever reads or writes through it does so in a room of its own.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(len: usize) -> std::io::Result<Chunk> {
        let len = len.next_multiple_of(HUGE);
        let mut map = MmapOptions::new().len(len + HUGE).map_anon()?;
        // Where it is refused, pages stay small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let skip = map.as_ptr().align_offset(HUGE).min(HUGE);
        let start = map.as_mut_ptr().wrapping_add(skip);
        Ok(Chunk { start, len, _map: map })
    }
}

/// A part of a mapping that belongs to one owner, on a cache line's boundary.
#[derive(Debug)]
pub(crate) struct Room {
    chunk: Arc<Chunk>,
    at: usize,
    len: usize,
}

impl Room {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the room lies inside the mapping, which is zeroed when it is made; only this room's owner writes there, by
        // `bytes_mut`, which borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.chunk.start.add(self.at), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; rooms do not overlap, and this one is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start.add(self.at), self.len) }
    }
}

/// Where rooms are cut from.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    open: Mutex<Option<(Arc<Chunk>, usize)>>,
}

impl Slab {
    /// A room of `len` zero bytes.
    ///
    /// # Errors
    /// If the system has no memory.
    pub(crate) fn room(&self, len: usize) -> std::io::Result<Room> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((chunk, used)) = open.as_mut()
            && chunk.len - *used >= len
        {
            let at = *used;
            *used = (at + len).next_multiple_of(ALIGN).min(chunk.len);
            return Ok(Room { chunk: Arc::clone(chunk), at, len });
        }
        let chunk = Arc::new(Chunk::new(len.max(CHUNK))?);
        *open = Some((Arc::clone(&chunk), len.next_multiple_of(ALIGN)));
        Ok(Room { chunk, at: 0, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_do_not_overlap() {
        let slab = Slab::default();
        let mut rooms: Vec<Room> =
            [1usize, 63, 64, 100, 0, 70 << 20, 5, CHUNK].iter().map(|&n| slab.room(n).unwrap()).collect();
        for (i, r) in rooms.iter_mut().enumerate() {
            assert!(r.len == 0 || (r.bytes().as_ptr() as usize).is_multiple_of(ALIGN));
            assert!(r.bytes().iter().take(4096).all(|&b| b == 0));
            let n = r.len.min(4096);
            r.bytes_mut()[..n].fill(i as u8 + 1);
        }
        for (i, r) in rooms.iter().enumerate() {
            assert!(r.bytes().iter().take(4096).all(|&b| b == i as u8 + 1));
        }
    }
}

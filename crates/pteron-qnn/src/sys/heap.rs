//! The heap of C's library, which the QNN library takes its memory from.
//!
//! New pages from the system are what takes time where memory is large: more than the copies that are made into them. What
//! is here saves some, and makes others while the library is busy. Nothing depends on it.

use std::ffi::c_void;

use crate::room::populate;

/// While this lives, what is freed stays in the heap, for the next one who asks: large blocks as well, which are otherwise mapped
/// one by one. Then the heap's free pages go back to the system.
pub(super) struct Kept(());

impl Kept {
    pub(super) fn new() -> Kept {
        tune(0, i32::MAX, 64 << 20);
        Kept(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The GNU C library's own values.
        tune(65_536, 128 << 10, 128 << 10);
        #[cfg(target_env = "gnu")]
        // SAFETY: it gives back what is free, and touches nothing else.
        unsafe {
            libc::malloc_trim(0)
        };
    }
}

/// Sets how many blocks may be mapped by themselves, how many bytes may lie free at the heap's end, and how many it grows by.
#[cfg(target_env = "gnu")]
fn tune(mapped: i32, free: i32, step: i32) {
    for (option, value) in [(libc::M_MMAP_MAX, mapped), (libc::M_TRIM_THRESHOLD, free), (libc::M_TOP_PAD, step)] {
        // SAFETY: it takes numbers and sets numbers; blocks that are there stay what they are.
        unsafe { libc::mallopt(option, value) };
    }
}

#[cfg(not(target_env = "gnu"))]
fn tune(_: i32, _: i32, _: i32) {}

/// A block of the heap that nobody uses. The next block that is asked for and is not larger is taken from it once it is dropped,
/// with the pages that were made for it.
pub(super) struct Reserve {
    block: *mut c_void,
    len: usize,
}

// SAFETY: the block is the reserve's alone, and no byte of it is read or written through it.
unsafe impl Sync for Reserve {}

impl Reserve {
    /// A block of `len` bytes, or of none if there is no such block.
    pub(super) fn new(len: usize) -> Reserve {
        // SAFETY: any size may be asked for.
        let block = unsafe { libc::malloc(len) };
        Reserve { block, len: if block.is_null() { 0 } else { len } }
    }

    /// Has the pages of its first `len` bytes made, from any thread.
    pub(super) fn populate(&self, len: usize) {
        // SAFETY: the bytes are this block's, which nobody reads or writes.
        unsafe { populate(self.block.cast(), len.min(self.len)) };
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: the block is from `malloc`, or null.
        unsafe { libc::free(self.block) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_made_and_given_back() {
        let kept = Kept::new();
        let reserve = Reserve::new(3 << 20);
        assert_eq!(reserve.len, 3 << 20);
        reserve.populate(usize::MAX);
        drop(reserve);
        drop(kept);
        let none = Reserve::new(isize::MAX as usize);
        none.populate(1);
        assert_eq!(none.len, 0);
    }
}

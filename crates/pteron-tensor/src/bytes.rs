//! Zeroed byte buffers on cache-line boundaries.

use std::fmt;

/// What an empty buffer lies on: also its beginning is on a boundary, as casts to other elements expect.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A growable-never, zero-initialised byte buffer whose first byte lies on a 64-byte boundary.
#[derive(Default)]
pub struct AlignedBytes {
    /// The buffer, from `skip` on.
    memory: Vec<u8>,
    skip: usize,
    len: usize,
}

impl AlignedBytes {
    /// The alignment of the first byte.
    pub const ALIGN: usize = 64;

    /// `len` zero bytes. The operating system commits the pages as they are written.
    pub fn zeroed(len: usize) -> AlignedBytes {
        if len == 0 {
            return AlignedBytes::default();
        }
        // What the system gives as zeros is not written, but only where no alignment is asked for: the standard library fills
        // other memory itself. So some bytes more are taken, and those before the boundary left out.
        let memory = vec![0u8; len.saturating_add(AlignedBytes::ALIGN - 1)];
        let skip = (memory.as_ptr() as usize).wrapping_neg() % AlignedBytes::ALIGN;
        AlignedBytes { memory, skip, len }
    }

    /// A copy of `bytes`.
    pub fn copied(bytes: &[u8]) -> AlignedBytes {
        let mut b = AlignedBytes::zeroed(bytes.len());
        b.copy_from_slice(bytes);
        b
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> AlignedBytes {
        AlignedBytes::copied(self)
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        if self.len == 0 {
            return bytemuck::cast_slice::<Line, u8>(&[]);
        }
        &self.memory[self.skip..self.skip + self.len]
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.len == 0 {
            return bytemuck::cast_slice_mut::<Line, u8>(&mut []);
        }
        &mut self.memory[self.skip..self.skip + self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_begins_on_a_line() {
        for len in [0, 1, 63, 64, 65, 4096, 100_000] {
            let bytes = AlignedBytes::zeroed(len);
            let copy = AlignedBytes::copied(&vec![7u8; len]).clone();
            for b in [&bytes, &copy] {
                assert!(b.len() == len && (b.as_ptr() as usize).is_multiple_of(AlignedBytes::ALIGN), "{len}");
            }
            assert!(bytes.iter().all(|&b| b == 0) && copy.iter().all(|&b| b == 7), "{len}");
        }
        assert!((AlignedBytes::default().as_ptr() as usize).is_multiple_of(AlignedBytes::ALIGN));
    }

    /// What is not written takes no memory.
    #[cfg(target_os = "linux")]
    #[test]
    fn pages_are_taken_when_they_are_written() {
        let resident = || -> usize {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
        };
        let before = resident();
        let mut bytes = AlignedBytes::zeroed(512 << 20);
        bytes[100 << 20] = 1;
        let after = resident();
        assert!(after < before + (256 << 20), "{before} bytes before, {after} after");
        assert_eq!(bytes[100 << 20], 1);
    }
}

//! Memory that a thread keeps from call to call.

use std::ops::{Deref, DerefMut};

/// Elements of a cache line.
const LINE: usize = 16;

/// A cache line of f32.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

// SAFETY: an array of f32 as large as its alignment: no padding, and all bits zero are sixteen zeros.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; every pattern of bits is a value.
unsafe impl bytemuck::Pod for Line {}

/// Floats that begin on a cache line: loads of whole registers do not meet two lines, which would take twice as long.
#[derive(Debug, Default)]
pub(crate) struct Floats {
    lines: Vec<Line>,
    len: usize,
}

impl Floats {
    /// None.
    pub(crate) const fn new() -> Floats {
        Floats { lines: Vec::new(), len: 0 }
    }

    /// Makes room for `len` elements. Those that were there before keep what they held, and new ones hold anything.
    pub(crate) fn resize(&mut self, len: usize) {
        let lines = len.div_ceil(LINE);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0.0; LINE]));
        }
        self.len = len;
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

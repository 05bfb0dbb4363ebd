//! Products with a matrix of codes: 4 or 8 bits a code, one scale for each group of neighbours in a row.
//!
//! **Layout.** Rows of the matrix (output channels) lie in blocks of [`CHANNELS`], and a block is read from its beginning to
//! its end: memory gives its full rate to one stream only. A block is a run of chunks, of one group, or of two where two lines
//! of scales fit a cache line. In front of the chunks of a matrix of 4-bit codes with several groups in a row stands a line of
//! `−Σ scale·code` over each channel, in f32, sixteen codes at a time. A chunk holds, each part from a cache line on:
//!
//! * a line with its scales, `[groups][CHANNELS]`, as f32 or, where that loses nothing, as bf16;
//! * with 8 bits, the sums of its codes, `[groups][CHANNELS]` of i32, modulo 2³²;
//! * its codes, `[groups][units][CHANNELS][interleave]` bytes. With 8 bits a byte is a code; with 4 bits a unit has two planes:
//!   the lower nibble is that of the first `interleave` codes of a channel, the upper one of the next. Nibbles are two's
//!   complement. What a row lacks to whole units is 0, and so are the channels that the last block lacks.
//!
//! **Results.** Codes of activations are 0 to 255, `zero` among them. In f32 and in the order of the groups:
//!
//! * 4 bits, several groups in a row: `I[g] = Σ_{k in g} x[k]·w[k]` exactly; `t = zero·(−Σ scale·code)`, then
//!   `t = fma(I[g], scale[g], t)`, and `t·row_scale`;
//! * whole rows: `I = Σ_k (x[k] - zero)·w[k]` exactly, and `(I·row_scale)·scale`;
//! * 8 bits, several groups: `t = fma(I[g], scale[g], t)` with the `I[g]` of whole rows, from 0 on, and `t·row_scale`.
//!
//! The first two are the operations of XNNPACK's kernels `qd8-f32-qb4w` and `qd8-f32-qc8w` for x86, so that a row of codes gives
//! the numbers that ExecuTorch has. With activations in f32: in the order of `k` `s = fma(x[k], w[k], s)` within a group, and
//! `t = fma(s, scale[g], t)`. Every variant computes just this, so that all of them agree bit for bit, a row is the same in any
//! batch, and nothing depends on how work was split. (x86 keeps 4-bit codes times 16, which is a shift of the exponent until
//! the result is scaled back.)

#[cfg(target_arch = "x86_64")]
mod encode;
#[cfg(target_arch = "aarch64")]
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(super) use i8mm::TABLE as I8MM;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::TABLE as NEON;
pub(super) use scalar::SCALAR;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::TABLE as X86;

/// Output channels in a block.
pub(crate) const CHANNELS: usize = 16;
/// Bytes of a cache line, the alignment of a block's parts.
const LINE: usize = 64;
/// Codes after which an exact sum of products could leave 32 bits: a group that is longer is cut there.
pub(crate) const LONGEST_GROUP: usize = 32_768;

/// How wide a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// −8 to 7.
    Four,
    /// −128 to 127.
    Eight,
}

/// How scales are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleBits {
    /// bf16: chosen where every scale is one.
    Sixteen,
    /// f32.
    ThirtyTwo,
}

/// Sizes and layout of a matrix of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Geometry {
    /// Rows.
    pub(crate) n: usize,
    /// Codes in a row.
    pub(crate) k: usize,
    /// Codes that share a scale: `k`, or a multiple of 16 that divides it.
    pub(crate) group: usize,
    pub(crate) bits: CodeBits,
    pub(crate) scales: ScaleBits,
    /// Neighbouring codes of one channel: 4 or 8.
    pub(crate) interleave: usize,
}

impl Geometry {
    pub(crate) fn planes(&self) -> usize {
        if self.bits == CodeBits::Four { 2 } else { 1 }
    }

    /// Bytes of a unit.
    pub(crate) fn unit(&self) -> usize {
        CHANNELS * self.interleave
    }

    /// Codes of one channel in a unit.
    pub(crate) fn step(&self) -> usize {
        self.interleave * self.planes()
    }

    /// Units of one group.
    pub(crate) fn units(&self) -> usize {
        self.group.div_ceil(self.step())
    }

    pub(crate) fn groups(&self) -> usize {
        self.k.checked_div(self.group).unwrap_or(0)
    }

    /// 4-bit codes with several groups in a row: blocks begin with a line of sums.
    pub(crate) fn is_grouped(&self) -> bool {
        self.bits == CodeBits::Four && self.groups() > 1
    }

    fn codes_of_group(&self) -> usize {
        self.units() * self.unit()
    }

    fn sums_of_group(&self) -> usize {
        if self.bits == CodeBits::Eight { CHANNELS * 4 } else { 0 }
    }

    /// Where the parts of groups lie.
    pub(crate) fn steps(&self) -> Steps {
        let shift = u32::from(self.scales == ScaleBits::Sixteen && self.groups() > 1);
        let (sums, codes) = (self.sums_of_group(), self.codes_of_group());
        let front = if self.is_grouped() { LINE } else { 0 };
        let (groups, units) = (self.groups(), self.units());
        let steps =
            Steps { groups, units, block: 0, shift, front, chunk: LINE + ((sums + codes) << shift), sums, codes };
        Steps { block: groups.checked_sub(1).map_or(0, |last| steps.place(last).codes + codes), ..steps }
    }

    /// Where the parts of group `group` begin in a block.
    pub(crate) fn place(&self, group: usize) -> Place {
        self.steps().place(group)
    }

    /// Bytes of a block.
    pub(crate) fn block(&self) -> usize {
        self.steps().block
    }

    pub(crate) fn blocks(&self) -> usize {
        self.n.div_ceil(CHANNELS)
    }

    /// Bytes of the matrix.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks() * self.block()
    }
}

/// How far apart the parts of groups lie, worked out once for loops over groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    /// [`Geometry::groups`], [`Geometry::units`] and [`Geometry::block`].
    pub(crate) groups: usize,
    pub(crate) units: usize,
    pub(crate) block: usize,
    /// Logarithm of the groups of a chunk.
    shift: u32,
    /// Bytes in front of the first chunk, and of a chunk.
    front: usize,
    chunk: usize,
    /// Bytes of the sums and codes of a group.
    sums: usize,
    codes: usize,
}

impl Steps {
    /// Where the parts of group `group` begin in a block.
    #[inline(always)]
    pub(crate) fn place(&self, group: usize) -> Place {
        let (chunk, within) = (group >> self.shift, group & ((1 << self.shift) - 1));
        let at = self.front + chunk * self.chunk;
        Place {
            scales: at + within * CHANNELS * 2,
            sums: at + LINE + within * self.sums,
            codes: at + LINE + (self.sums << self.shift) + within * self.codes,
        }
    }
}

/// Where the parts of a group of a block begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) scales: usize,
    pub(crate) sums: usize,
    pub(crate) codes: usize,
}

/// Distance between the rows of activations that are codes: whole units of every layout.
pub(crate) fn code_row(k: usize) -> usize {
    k.next_multiple_of(LINE)
}

/// Some rows by some blocks of a matrix of codes.
///
/// Whoever calls a kernel with it vouches that `x` has `m` rows `ldx` elements apart, of [`code_row`] codes or of `k` floats;
/// that `zero` and `scale` have `m` elements if `x` has codes; that `blocks` blocks of `geometry` lie behind `w`, which is
/// aligned to a cache line; and that `out` may be written for `m` rows of `n <= blocks·CHANNELS` elements `ldo` apart while
/// nobody else reads or writes those.
#[derive(Clone, Copy)]
pub(crate) struct CodesArgs<X> {
    pub(crate) x: *const X,
    pub(crate) ldx: usize,
    /// Zero point of a row, 0 to 255.
    pub(crate) zero: *const i32,
    /// Scale of a row.
    pub(crate) scale: *const f32,
    pub(crate) w: *const u8,
    pub(crate) blocks: usize,
    pub(crate) geometry: Geometry,
    pub(crate) out: *mut f32,
    pub(crate) ldo: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// What is read after this: a kernel of many rows asks for it while it computes. It is never read through.
    pub(crate) next: *const [u8],
}

/// A kernel with activations that are codes, and memory that it uses between.
pub(crate) type CodesFn = unsafe fn(CodesArgs<u8>, &mut Vec<i32>);
/// A kernel with activations in f32.
pub(crate) type FloatsFn = unsafe fn(CodesArgs<f32>);

/// How a number becomes a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodeKind {
    /// As [`crate::quant::quantize::Form::ExecuTorch`].
    ExecuTorch,
    /// As [`crate::quant::quantize::Form::First`].
    First,
    /// As [`crate::quant::qd8::quantize_row`].
    Qd8,
}

/// Quantization of a row.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no kernel of this architecture reads it"))]
pub(crate) struct Encode {
    pub(crate) kind: EncodeKind,
    /// What a number is multiplied by.
    pub(crate) factor: f32,
    /// Its zero point, least and largest code.
    pub(crate) zero: f32,
    pub(crate) low: f32,
    pub(crate) high: f32,
    /// Bits of a code that are turned over at the end.
    pub(crate) flip: u8,
}

/// Kernels that make rows of codes, where there are any faster than plain loops.
#[derive(Clone, Copy)]
pub(crate) struct RowFns {
    /// Codes of as many numbers as there are codes.
    pub(crate) encode: unsafe fn(Encode, &[f32], &mut [u8]),
    /// Least and largest of a number and a row, and whether the row has a NaN.
    pub(crate) extremes: unsafe fn(f32, &[f32]) -> (f32, f32, bool),
}

/// The kernels of one variant.
#[derive(Clone, Copy)]
pub(crate) struct CodesFns {
    /// The layout that it reads.
    pub(crate) interleave: usize,
    pub(crate) codes: CodesFn,
    pub(crate) floats: FloatsFn,
    pub(crate) rows: Option<RowFns>,
    /// Loops that measure its multiplication: so many rounds of 12 independent instructions.
    pub(crate) chains: unsafe fn(usize) -> i32,
    /// Products in one instruction of `chains`.
    pub(crate) products: usize,
}

/// The kernels that read any layout.
pub(crate) const PLAIN: CodesFns = scalar::FNS;

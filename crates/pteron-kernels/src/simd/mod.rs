//! Instruction sets, the table of kernel variants, and which of them this processor executes.
//!
//! A variant is a line of the table: operator, name, instruction set, quality. [`Context::new`](crate::Context::new) takes
//! the best supported line of each operator; [`Context::with_isa`](crate::Context::with_isa) those of one instruction set.
//! [`kernels`] lists the table for people.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
#[cfg(target_arch = "x86_64")]
mod dot;
mod generic;
#[cfg(target_arch = "x86_64")]
mod keys;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod probe;
mod scalar;

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

pub(crate) use codes::{CHANNELS, CodesArgs, CodesFns, Encode, EncodeKind, Geometry, LONGEST_GROUP, PLAIN, code_row};
pub use codes::{CodeBits, ScaleBits};
pub(crate) use lanes::Weight;
pub use probe::{READ_PATTERNS, code_chains, dot_chains, fma_chains, lanes, read_all};

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust; everywhere.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] with AVX512-BF16, which multiplies pairs of bf16.
    Avx512Bf16,
    /// [`Isa::Avx512`] with AVX512-VNNI, which adds four products of bytes.
    Avx512Vnni,
    /// [`Isa::Avx2`] with AVX-VNNI, which does so with registers of 256 bits.
    AvxVnni,
    /// AArch64 with NEON.
    Neon,
    /// [`Isa::Neon`] with dotprod, which adds four products of bytes.
    NeonDot,
    /// [`Isa::Neon`] with i8mm, which multiplies small matrices of bytes.
    NeonI8mm,
}

impl Isa {
    /// Every instruction set, the scalar one first.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx512Bf16,
        Isa::Avx512Vnni,
        Isa::Neon,
        Isa::NeonDot,
        Isa::NeonI8mm,
    ];

    /// True if this processor executes it and this build has kernels for it.
    pub fn is_supported_here(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_supported_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_supported_here() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_supported_here() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_supported_here() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Isa::Neon.is_supported_here() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Isa::Neon.is_supported_here() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::AvxVnni => false,
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon | Isa::NeonDot | Isa::NeonI8mm => false,
        }
    }

    /// The name, as [`Isa::from_str`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::AvxVnni => "avxvnni",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "neoni8mm",
        }
    }

    /// True if kernels of this set may call those of `other`, because it has all of its instructions.
    fn includes(self, other: Isa) -> bool {
        self == other
            || match self {
                Isa::Avx512Bf16 | Isa::Avx512Vnni => other == Isa::Avx512 || Isa::Avx512.includes(other),
                Isa::Avx512 | Isa::AvxVnni => other == Isa::Avx2,
                Isa::NeonDot | Isa::NeonI8mm => other == Isa::Neon,
                Isa::Scalar | Isa::Avx2 | Isa::Neon => false,
            }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown instruction set `{0}`: known are scalar, avx2, avxvnni, avx512, avx512bf16, avx512vnni, neon, neondot and \
     neoni8mm"
)]
pub struct UnknownIsa(pub String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(s: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == s).ok_or_else(|| UnknownIsa(s.to_owned()))
    }
}

/// A block `out[m, n] = Σ_k x[m, k]·w[n, k]`, both operands row-major with their own distance between rows.
///
/// Whoever calls a kernel with it vouches that `x` has `m` rows of `k` elements `ldx` apart, `w` `n` rows of `k` elements
/// `ldw` apart, and that `out` may be written for `m` rows of `n` elements `ldo` apart while nobody else reads or writes
/// those elements.
#[derive(Clone, Copy)]
pub(crate) struct NtArgs<W> {
    pub(crate) x: *const f32,
    pub(crate) ldx: usize,
    pub(crate) w: *const W,
    pub(crate) ldw: usize,
    pub(crate) out: *mut f32,
    pub(crate) ldo: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// With each cache line of `w` the one that lies so many bytes further is asked for where several rows of `x` use it; 0 for
    /// what the kernel finds best.
    pub(crate) ahead: usize,
}

/// A block `out[m, n] = Σ_k a[m, k]·b[k, n]`; `b` has rows of contiguous elements, `a` any two strides.
///
/// Whoever calls a kernel with it vouches for the elements as in [`NtArgs`].
#[derive(Clone, Copy)]
pub(crate) struct NnArgs<W> {
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_col: usize,
    pub(crate) b: *const W,
    pub(crate) ldb: usize,
    pub(crate) out: *mut f32,
    pub(crate) ldo: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// `out` has sums already, of smaller `k`, which go on.
    pub(crate) onto: bool,
    /// With each cache line of `b` the one that lies so many bytes further is asked for; 0 for what the kernel finds best.
    pub(crate) ahead: usize,
}

/// A block `out[m, n] = Σ_k x[m, k]·w[n, k]` of operands of one type, both row-major with their own distance between rows.
///
/// Whoever calls a kernel with it vouches for the elements as in [`NtArgs`].
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no kernel of this architecture reads it"))]
pub(crate) struct DotArgs<W> {
    pub(crate) x: *const W,
    pub(crate) ldx: usize,
    pub(crate) w: *const W,
    pub(crate) ldw: usize,
    pub(crate) out: *mut f32,
    pub(crate) ldo: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// With each cache line of `w` the one that lies so many bytes further is asked for where rows of `x` are few; 0 for
    /// what the kernel finds best.
    pub(crate) ahead: usize,
}

/// A cache line of a right-hand matrix that is laid out for a tile.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(crate) struct PanelLine([bf16; 32]);

/// Columns of a panel: four lines of four columns.
pub(crate) const PANEL_COLUMNS: usize = 16;
/// Elements of each of them in one line.
pub(crate) const PANEL_GROUP: usize = 8;

/// Lines of a panel of `k` factors.
pub(crate) fn panel_lines(k: usize) -> usize {
    k.div_ceil(PANEL_GROUP) * (PANEL_COLUMNS / 4)
}

/// A kernel for [`DotArgs`] with the memory that it lays the right-hand matrix out in.
pub(crate) type DotFn<W> = unsafe fn(DotArgs<W>, &mut Vec<PanelLine>);

type NtFn<W> = unsafe fn(NtArgs<W>);
type NnFn<W> = unsafe fn(NnArgs<W>);

/// The functions of the softmax family, which share their eˣ.
#[derive(Clone, Copy)]
pub(crate) struct ExpFns {
    in_place: unsafe fn(&mut [f32]),
    sub_sum: unsafe fn(&mut [f32], f32) -> f32,
    max: unsafe fn(&[f32]) -> f32,
}

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    /// eˣ.
    Exp,
    /// 1/(1 + e⁻ˣ).
    Sigmoid,
    /// x/(1 + e⁻ˣ).
    Silu,
    /// tanh x.
    Tanh,
    /// x·Φ(x).
    Gelu,
    /// x·(1 + tanh(β·(x + 0.044715·x³)))/2.
    GeluTanh,
}

/// √(2/π).
const GELU_BETA: f32 = 0.797_884_6;

type MapFn = unsafe fn(Function, &[f32], &mut [f32]);

/// Loops that measure the processor.
#[derive(Clone, Copy)]
struct ProbeFns {
    fma_chains: unsafe fn(usize) -> f32,
    read_all: [unsafe fn(&[f32]) -> f32; READ_PATTERNS],
    lanes: usize,
}

#[derive(Clone, Copy)]
enum Run {
    NtF32(NtFn<f32>),
    NtF16(NtFn<f16>),
    NtBf16(NtFn<bf16>),
    NnF32(NnFn<f32>),
    NnF16(NnFn<f16>),
    NnBf16(NnFn<bf16>),
    Exp(ExpFns),
    Map(MapFn),
    Probe(ProbeFns),
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no variant of this architecture has it"))]
    Dot(DotFns),
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no variant of this architecture has it"))]
    Keys(KeysFns),
    Codes(CodesFns),
}

/// Products of bf16 operands, and the loop that measures their instruction.
#[derive(Clone, Copy)]
struct DotFns {
    dot: DotFn<bf16>,
    panels: PanelFns,
    chains: unsafe fn(usize) -> f32,
}

/// Right-hand matrices that stay laid out.
#[derive(Clone, Copy)]
pub(crate) struct PanelFns {
    /// Lays up to [`PANEL_COLUMNS`] rows, so far apart, of so many factors out.
    pub(crate) lay_out: unsafe fn(*const bf16, usize, usize, usize, *mut PanelLine),
    /// The kernel of [`DotFns::dot`], to the same bits, with a panel for each [`PANEL_COLUMNS`] columns.
    pub(crate) dot: unsafe fn(DotArgs<bf16>, *const PanelLine),
}

/// Keys that stand side by side where they are laid out for [`KeysFns::scores`].
pub(crate) const KEYS_STEP: usize = 16;

/// Lays out `n` rows, so far apart, of `k` elements, a multiple of [`KEYS_STEP`]: [`KEYS_STEP`] rows become `k` lines of as
/// many elements. What is missing of the last lines is 0.
pub(crate) type LayOutKeys<W> = unsafe fn(*const W, usize, usize, usize, *mut f32);

/// `out[m, n] = scale · Σ_k x[m, k]·keys[n, k]`, with keys as [`LayOutKeys`] leaves them; the bits of [`NtFn`] and a product.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no kernel of this architecture reads it"))]
pub(crate) struct KeysArgs {
    pub(crate) x: *const f32,
    pub(crate) ldx: usize,
    pub(crate) keys: *const f32,
    pub(crate) out: *mut f32,
    /// Rows of the output have room for whole steps of keys.
    pub(crate) ldo: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) scale: f32,
}

/// A kernel for [`KeysArgs`].
pub(crate) type ScoresFn = unsafe fn(KeysArgs);

/// The kernels for the scores of many queries.
#[derive(Clone, Copy)]
struct KeysFns {
    f32: LayOutKeys<f32>,
    f16: LayOutKeys<f16>,
    scores: ScoresFn,
}

/// Multiply-adds of one vector of [`DotFns::chains`].
const DOT_LANES: usize = 32;

struct Kernel {
    op: &'static str,
    name: &'static str,
    isa: Isa,
    /// Among the supported variants of an operator the highest is taken.
    quality: u32,
    run: Run,
}

/// The variants of one instruction set: the generic kernels, compiled with its features.
macro_rules! variants {
    ($module:ident, $lanes:ty, $isa:expr, $features:literal, $quality:literal,
     nt: $nt_rows:literal, nn: $nn_rows:literal x $nn_regs:literal) => {
        mod $module {
            use super::*;

            macro_rules! kernel {
                ($name:ident, $args:ty, $body:expr) => {
                    #[target_feature(enable = $features)]
                    unsafe fn $name(a: $args) {
                        // SAFETY: the caller vouches for the block; the features are those of this function.
                        unsafe { $body(a) }
                    }
                };
            }
            kernel!(nt_f32, NtArgs<f32>, generic::nt::<$lanes, f32, $nt_rows>);
            kernel!(nt_f16, NtArgs<f16>, generic::nt::<$lanes, f16, $nt_rows>);
            kernel!(nt_bf16, NtArgs<bf16>, generic::nt::<$lanes, bf16, $nt_rows>);
            kernel!(nn_f32, NnArgs<f32>, generic::nn::<$lanes, f32, $nn_rows, $nn_regs>);
            kernel!(nn_f16, NnArgs<f16>, generic::nn::<$lanes, f16, $nn_rows, $nn_regs>);
            kernel!(nn_bf16, NnArgs<bf16>, generic::nn::<$lanes, bf16, $nn_rows, $nn_regs>);

            #[target_feature(enable = $features)]
            unsafe fn exp_in_place(row: &mut [f32]) {
                // SAFETY: the features are those of this function.
                unsafe { generic::exp_in_place::<$lanes>(row) }
            }
            #[target_feature(enable = $features)]
            unsafe fn exp_sub_sum(row: &mut [f32], max: f32) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::exp_sub_sum::<$lanes>(row, max) }
            }
            #[target_feature(enable = $features)]
            unsafe fn map(f: Function, x: &[f32], out: &mut [f32]) {
                // SAFETY: the features are those of this function.
                unsafe { generic::map::<$lanes>(f, x, out) }
            }
            #[target_feature(enable = $features)]
            unsafe fn row_max(row: &[f32]) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::row_max::<$lanes>(row) }
            }
            #[target_feature(enable = $features)]
            unsafe fn fma_chains(rounds: usize) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::fma_chains::<$lanes>(rounds) }
            }
            #[target_feature(enable = $features)]
            unsafe fn read_one(data: &[f32]) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::read_all::<$lanes, 1, 0>(data) }
            }
            #[target_feature(enable = $features)]
            unsafe fn read_ahead(data: &[f32]) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::read_all::<$lanes, 1, 8192>(data) }
            }
            #[target_feature(enable = $features)]
            unsafe fn read_two(data: &[f32]) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::read_all::<$lanes, 2, 0>(data) }
            }
            #[target_feature(enable = $features)]
            unsafe fn read_four(data: &[f32]) -> f32 {
                // SAFETY: the features are those of this function.
                unsafe { generic::read_all::<$lanes, 4, 0>(data) }
            }

            pub(super) static TABLE: [Kernel; 9] = {
                const fn line(op: &'static str, name: &'static str, run: Run) -> Kernel {
                    Kernel { op, name, isa: $isa, quality: $quality, run }
                }
                [
                    line("x·wᵀ, w f32", concat!(stringify!($module), " dot ", $nt_rows, "x4"), Run::NtF32(nt_f32)),
                    line("x·wᵀ, w f16", concat!(stringify!($module), " dot ", $nt_rows, "x4"), Run::NtF16(nt_f16)),
                    line("x·wᵀ, w bf16", concat!(stringify!($module), " dot ", $nt_rows, "x4"), Run::NtBf16(nt_bf16)),
                    line(
                        "a·b, b f32",
                        concat!(stringify!($module), " outer ", $nn_rows, "x", $nn_regs),
                        Run::NnF32(nn_f32),
                    ),
                    line(
                        "a·b, b f16",
                        concat!(stringify!($module), " outer ", $nn_rows, "x", $nn_regs),
                        Run::NnF16(nn_f16),
                    ),
                    line(
                        "a·b, b bf16",
                        concat!(stringify!($module), " outer ", $nn_rows, "x", $nn_regs),
                        Run::NnBf16(nn_bf16),
                    ),
                    line(
                        "exp",
                        concat!(stringify!($module), " Taylor 7"),
                        Run::Exp(ExpFns { in_place: exp_in_place, sub_sum: exp_sub_sum, max: row_max }),
                    ),
                    line("functions", concat!(stringify!($module), " functions"), Run::Map(map)),
                    line(
                        "probe",
                        concat!(stringify!($module), " probe"),
                        Run::Probe(ProbeFns {
                            fma_chains,
                            read_all: [read_one, read_ahead, read_two, read_four],
                            lanes: <$lanes as lanes::Lanes>::N,
                        }),
                    ),
                ]
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
variants!(avx512_kernels, avx512::Avx512, Isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", 30,
    nt: 6, nn: 6 x 4);
#[cfg(target_arch = "x86_64")]
variants!(avx2_kernels, avx2::Avx2, Isa::Avx2, "avx2,fma,f16c", 20, nt: 3, nn: 6 x 2);
#[cfg(target_arch = "aarch64")]
variants!(neon_kernels, neon::Neon, Isa::Neon, "neon", 20, nt: 6, nn: 6 x 4);

static SCALAR: [Kernel; 9] = {
    const fn line(op: &'static str, run: Run) -> Kernel {
        Kernel { op, name: "scalar", isa: Isa::Scalar, quality: 1, run }
    }
    [
        line("x·wᵀ, w f32", Run::NtF32(scalar::nt::<f32>)),
        line("x·wᵀ, w f16", Run::NtF16(scalar::nt::<f16>)),
        line("x·wᵀ, w bf16", Run::NtBf16(scalar::nt::<bf16>)),
        line("a·b, b f32", Run::NnF32(scalar::nn::<f32>)),
        line("a·b, b f16", Run::NnF16(scalar::nn::<f16>)),
        line("a·b, b bf16", Run::NnBf16(scalar::nn::<bf16>)),
        line(
            "exp",
            Run::Exp(ExpFns { in_place: scalar::exp_in_place, sub_sum: scalar::exp_sub_sum, max: scalar::row_max }),
        ),
        line("functions", Run::Map(scalar::map)),
        line(
            "probe",
            Run::Probe(ProbeFns {
                fma_chains: scalar::fma_chains,
                read_all: [scalar::read_all; READ_PATTERNS],
                lanes: 1,
            }),
        ),
    ]
};

#[cfg(target_arch = "x86_64")]
static AVX512_BF16: [Kernel; 1] = [Kernel {
    op: "x·wᵀ, x and w bf16",
    name: "vdpbf16ps 6x16",
    isa: Isa::Avx512Bf16,
    quality: 40,
    run: Run::Dot(DotFns {
        dot: dot::dot,
        panels: PanelFns { lay_out: dot::lay_out, dot: dot::dot_panels },
        chains: dot::chains,
    }),
}];

#[cfg(target_arch = "x86_64")]
static AVX512_KEYS: [Kernel; 1] = [Kernel {
    op: "scores of many queries",
    name: "avx512 6x16",
    isa: Isa::Avx512,
    quality: 30,
    run: Run::Keys(KeysFns { f32: keys::lay_out_f32, f16: keys::lay_out_f16, scores: keys::scores }),
}];

fn table() -> impl Iterator<Item = &'static Kernel> {
    let all = SCALAR.iter().chain(&codes::SCALAR);
    #[cfg(target_arch = "x86_64")]
    let all = all
        .chain(&avx2_kernels::TABLE)
        .chain(&avx512_kernels::TABLE)
        .chain(&AVX512_BF16)
        .chain(&AVX512_KEYS)
        .chain(&codes::X86);
    #[cfg(target_arch = "aarch64")]
    let all = all.chain(&neon_kernels::TABLE).chain(&codes::NEON).chain(&codes::I8MM);
    all
}

/// One line of the table of kernel variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// What it computes.
    pub op: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The instruction set it is written for.
    pub isa: Isa,
    /// Rank among the variants of `op`: the highest one supported is taken.
    pub quality: u32,
    /// Whether this processor executes it.
    pub supported_here: bool,
    /// Whether [`Context::new`](crate::Context::new) takes it here.
    pub chosen_here: bool,
}

/// Every kernel variant of this build, by operator, the best first.
pub fn kernels() -> Vec<KernelInfo> {
    let mut list: Vec<KernelInfo> = table()
        .map(|k| KernelInfo {
            op: k.op,
            name: k.name,
            isa: k.isa,
            quality: k.quality,
            supported_here: k.isa.is_supported_here(),
            chosen_here: false,
        })
        .collect();
    list.sort_by_key(|k| (k.op, std::cmp::Reverse(k.quality)));
    let mut decided = None;
    for k in &mut list {
        k.chosen_here = k.supported_here && decided != Some(k.op);
        if k.chosen_here {
            decided = Some(k.op);
        }
    }
    list
}

/// The variants a [`Context`](crate::Context) uses. Every one is executable here, which is what makes calling them sound.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    pub(crate) isa: Isa,
    nt_f32: NtFn<f32>,
    nt_f16: NtFn<f16>,
    nt_bf16: NtFn<bf16>,
    nn_f32: NnFn<f32>,
    nn_f16: NnFn<f16>,
    nn_bf16: NnFn<bf16>,
    exp: ExpFns,
    map: MapFn,
    probe: ProbeFns,
    /// `None` where no variant is allowed: the operands are widened then.
    dot: Option<DotFns>,
    /// `None` where no variant is allowed: scores are products like others then.
    keys: Option<KeysFns>,
    codes: CodesFns,
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernels {
    /// The best variants this processor executes.
    pub(crate) fn best() -> Kernels {
        Kernels::pick(|isa| isa.is_supported_here())
    }

    /// The variants of `isa`, if it is supported, and scalar ones for the rest.
    pub(crate) fn of(isa: Isa) -> Kernels {
        let chosen = Kernels::pick(|candidate| isa.includes(candidate) && isa.is_supported_here());
        if isa.is_supported_here() { Kernels { isa, ..chosen } } else { chosen }
    }

    fn pick(allowed: impl Fn(Isa) -> bool) -> Kernels {
        let mut chosen = Kernels {
            isa: Isa::Scalar,
            nt_f32: scalar::nt::<f32>,
            nt_f16: scalar::nt::<f16>,
            nt_bf16: scalar::nt::<bf16>,
            nn_f32: scalar::nn::<f32>,
            nn_f16: scalar::nn::<f16>,
            nn_bf16: scalar::nn::<bf16>,
            exp: ExpFns { in_place: scalar::exp_in_place, sub_sum: scalar::exp_sub_sum, max: scalar::row_max },
            map: scalar::map,
            probe: ProbeFns { fma_chains: scalar::fma_chains, read_all: [scalar::read_all; READ_PATTERNS], lanes: 1 },
            dot: None,
            keys: None,
            codes: PLAIN,
        };
        let mut lines: Vec<&Kernel> = table().filter(|k| allowed(k.isa)).collect();
        lines.sort_by_key(|k| k.quality);
        for k in lines {
            match k.run {
                Run::NtF32(f) => (chosen.nt_f32, chosen.isa) = (f, k.isa),
                Run::NtF16(f) => chosen.nt_f16 = f,
                Run::NtBf16(f) => chosen.nt_bf16 = f,
                Run::NnF32(f) => chosen.nn_f32 = f,
                Run::NnF16(f) => chosen.nn_f16 = f,
                Run::NnBf16(f) => chosen.nn_bf16 = f,
                Run::Exp(f) => chosen.exp = f,
                Run::Map(f) => chosen.map = f,
                Run::Probe(f) => chosen.probe = f,
                Run::Dot(f) => (chosen.dot, chosen.isa) = (Some(f), k.isa),
                Run::Keys(f) => chosen.keys = Some(f),
                Run::Codes(f) => chosen.codes = f,
            }
        }
        chosen
    }

    /// The kernel for two bf16 operands, where there is one.
    pub(crate) fn dot(&self) -> Option<DotFn<bf16>> {
        self.dot.map(|d| d.dot)
    }

    /// The kernels for a bf16 matrix that stays laid out for its product with another, where there are some.
    pub(crate) fn panels(&self) -> Option<PanelFns> {
        self.dot.map(|d| d.panels)
    }

    /// The kernels for a matrix of codes.
    pub(crate) fn codes(&self) -> CodesFns {
        self.codes
    }

    /// `x = eˣ`.
    pub(crate) fn exp_in_place(&self, row: &mut [f32]) {
        // SAFETY: `pick` takes only what this processor executes.
        unsafe { (self.exp.in_place)(row) }
    }

    /// `out = f(x)` for as many elements as both have.
    pub(crate) fn map(&self, f: Function, x: &[f32], out: &mut [f32]) {
        // SAFETY: `pick` takes only what this processor executes.
        unsafe { (self.map)(f, x, out) }
    }

    /// `x = eˣ⁻ᵐᵃˣ`; gives the sum.
    pub(crate) fn exp_sub_sum(&self, row: &mut [f32], max: f32) -> f32 {
        // SAFETY: `pick` takes only what this processor executes.
        unsafe { (self.exp.sub_sum)(row, max) }
    }

    /// The largest element, -∞ if there is none; where some are NaN, any of the others or NaN.
    pub(crate) fn row_max(&self, row: &[f32]) -> f32 {
        // SAFETY: `pick` takes only what this processor executes.
        unsafe { (self.exp.max)(row) }
    }
}

/// The matrix kernels for an element type of the right-hand operand.
pub(crate) trait MatrixElement: Weight {
    /// The kernel for rows of `w`.
    fn nt(k: &Kernels) -> NtFn<Self>;
    /// The kernel for rows of `b`.
    fn nn(k: &Kernels) -> NnFn<Self>;
    /// The kernel for rows of `w` where the left-hand operand has this type as well, if there is one.
    fn own(k: &Kernels) -> Option<DotFn<Self>> {
        let _ = k;
        None
    }
    /// The kernels for the scores of many queries, if there are some for keys of this type.
    fn keys(k: &Kernels) -> Option<(LayOutKeys<Self>, ScoresFn)> {
        let _ = k;
        None
    }
}

macro_rules! matrix_element {
    ($($t:ty: $nt:ident, $nn:ident $(=> $keys:ident)? $(, $own:ident)?;)*) => {
        $(impl MatrixElement for $t {
            fn nt(k: &Kernels) -> NtFn<$t> {
                k.$nt
            }
            fn nn(k: &Kernels) -> NnFn<$t> {
                k.$nn
            }
            $(fn keys(k: &Kernels) -> Option<(LayOutKeys<$t>, ScoresFn)> {
                k.keys.map(|f| (f.$keys, f.scores))
            })?
            $(fn own(k: &Kernels) -> Option<DotFn<$t>> {
                k.$own()
            })?
        })*
    };
}
matrix_element! {
    f32: nt_f32, nn_f32 => f32;
    f16: nt_f16, nn_f16 => f16;
    bf16: nt_bf16, nn_bf16, dot;
}

/// Asks for the cache lines of `items`, which will be read soon, without waiting for them.
#[inline]
pub fn ask_for<T>(items: &[T]) {
    let (start, bytes) = (items.as_ptr().cast::<u8>(), size_of_val(items));
    (0..bytes).step_by(64).for_each(|at| prefetch_far(start.wrapping_add(at)));
    if bytes > 0 {
        prefetch_far(start.wrapping_add(bytes - 1));
    }
}

/// Asks for a cache line, into the second-level cache.
#[inline]
pub(crate) fn prefetch_far(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever the address; every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

#[cfg(test)]
mod tests;

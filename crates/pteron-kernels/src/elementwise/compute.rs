//! The types that kernels compute in, and how elements of every dtype reach them.
//!
//! Elements are loaded by rows into one of three compute types (`f32` for 16- and 32-bit floats, `f64`, and `i64` for
//! integers and `bool`), computed there, and rounded once when they are stored.

use half::{bf16, f16};
use pteron_tensor::{B8, DType, Element, Scalar, Shape, View, ViewMut};

use crate::{KernelError, wide};

/// Expands `$body` with `$T` as the element type of `$dtype`; `$bad` for `i4`, whose elements share bytes.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr, $bad:expr) => {
        match $dtype {
            ::pteron_tensor::DType::U8 => {
                type $T = u8;
                $body
            }
            ::pteron_tensor::DType::I8 => {
                type $T = i8;
                $body
            }
            ::pteron_tensor::DType::I16 => {
                type $T = i16;
                $body
            }
            ::pteron_tensor::DType::I32 => {
                type $T = i32;
                $body
            }
            ::pteron_tensor::DType::I64 => {
                type $T = i64;
                $body
            }
            ::pteron_tensor::DType::F16 => {
                type $T = ::half::f16;
                $body
            }
            ::pteron_tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            ::pteron_tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            ::pteron_tensor::DType::Bool => {
                type $T = ::pteron_tensor::B8;
                $body
            }
            ::pteron_tensor::DType::BF16 => {
                type $T = ::half::bf16;
                $body
            }
            ::pteron_tensor::DType::U16 => {
                type $T = u16;
                $body
            }
            ::pteron_tensor::DType::I4 => $bad,
        }
    };
}

/// Expands `$body` with `$C` as the compute type of `$dtype`.
macro_rules! in_compute {
    ($dtype:expr, $C:ident => $body:expr) => {
        match $crate::elementwise::compute::class($dtype) {
            $crate::elementwise::compute::Class::F32 => {
                type $C = f32;
                $body
            }
            $crate::elementwise::compute::Class::F64 => {
                type $C = f64;
                $body
            }
            $crate::elementwise::compute::Class::Int => {
                type $C = i64;
                $body
            }
        }
    };
}

/// Expands `$body` with `$C` as the floating compute type of `$dtype`: `f64` for `f64`, otherwise `f32`.
macro_rules! in_float {
    ($dtype:expr, $C:ident => $body:expr) => {
        if $dtype == ::pteron_tensor::DType::F64 {
            type $C = f64;
            $body
        } else {
            type $C = f32;
            $body
        }
    };
}

pub(crate) use {in_compute, in_float};

/// Which compute type a dtype has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    F32,
    F64,
    Int,
}

pub(crate) fn class(dtype: DType) -> Class {
    match dtype {
        DType::F64 => Class::F64,
        DType::F16 | DType::BF16 | DType::F32 => Class::F32,
        DType::U8 | DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::Bool | DType::U16 | DType::I4 => {
            Class::Int
        }
    }
}

/// Conversion of one element from and to a compute type, as C++'s `static_cast` does it.
pub(crate) trait Convert<C>: Element {
    fn load(self) -> C;
    fn store(c: C) -> Self;
}

macro_rules! convert_int {
    ($($t:ty),*) => { $(
        impl Convert<f32> for $t {
            fn load(self) -> f32 { self as f32 }
            fn store(c: f32) -> Self { c as i64 as $t }
        }
        impl Convert<f64> for $t {
            fn load(self) -> f64 { self as f64 }
            fn store(c: f64) -> Self { c as i64 as $t }
        }
        impl Convert<i64> for $t {
            fn load(self) -> i64 { self as i64 }
            fn store(c: i64) -> Self { c as $t }
        }
        impl Convert<B8> for $t {
            fn load(self) -> B8 { B8::from(self != 0) }
            fn store(c: B8) -> Self { c.0 as $t }
        }
    )* };
}
convert_int!(u8, i8, i16, i32, i64, u16);

macro_rules! convert_float {
    ($($t:ty),*) => { $(
        impl Convert<f32> for $t {
            fn load(self) -> f32 { self as f32 }
            fn store(c: f32) -> Self { c as $t }
        }
        impl Convert<f64> for $t {
            fn load(self) -> f64 { self as f64 }
            fn store(c: f64) -> Self { c as $t }
        }
        impl Convert<i64> for $t {
            fn load(self) -> i64 { self as i64 }
            fn store(c: i64) -> Self { c as $t }
        }
        impl Convert<B8> for $t {
            fn load(self) -> B8 { B8::from(self != 0.0) }
            fn store(c: B8) -> Self { c.0 as $t }
        }
    )* };
}
convert_float!(f32, f64);

// A double or an integer reaches a 16-bit float through `f32`, as in C++.
macro_rules! convert_half {
    ($($t:ty),*) => { $(
        impl Convert<f32> for $t {
            fn load(self) -> f32 { self.to_f32() }
            fn store(c: f32) -> Self { <$t>::from_f32(c) }
        }
        impl Convert<f64> for $t {
            fn load(self) -> f64 { self.to_f64() }
            fn store(c: f64) -> Self { <$t>::from_f32(c as f32) }
        }
        impl Convert<i64> for $t {
            fn load(self) -> i64 { self.to_f32() as i64 }
            fn store(c: i64) -> Self { <$t>::from_f32(c as f32) }
        }
        impl Convert<B8> for $t {
            fn load(self) -> B8 { B8::from(self.to_f32() != 0.0) }
            fn store(c: B8) -> Self { <$t>::from_f32(f32::from(c.0)) }
        }
    )* };
}
convert_half!(f16, bf16);

impl Convert<f32> for B8 {
    fn load(self) -> f32 {
        f32::from(u8::from(self.get()))
    }
    fn store(c: f32) -> B8 {
        B8::from(c != 0.0)
    }
}
impl Convert<f64> for B8 {
    fn load(self) -> f64 {
        f64::from(u8::from(self.get()))
    }
    fn store(c: f64) -> B8 {
        B8::from(c != 0.0)
    }
}
impl Convert<i64> for B8 {
    fn load(self) -> i64 {
        i64::from(self.get())
    }
    fn store(c: i64) -> B8 {
        B8::from(c != 0)
    }
}
impl Convert<B8> for B8 {
    fn load(self) -> B8 {
        B8::from(self.get())
    }
    fn store(c: B8) -> B8 {
        c
    }
}

fn load_as<T: Convert<C>, C>(bytes: &[u8], at: usize, stride: usize, out: &mut [C]) {
    let w = size_of::<T>();
    let n = out.len();
    if stride == 1 {
        for (o, b) in out.iter_mut().zip(bytes[at * w..(at + n) * w].chunks_exact(w)) {
            *o = bytemuck::pod_read_unaligned::<T>(b).load();
        }
    } else {
        let mut p = at;
        for o in out {
            *o = bytemuck::pod_read_unaligned::<T>(&bytes[p * w..p * w + w]).load();
            p = p.wrapping_add(stride);
        }
    }
}

fn store_as<T: Convert<C>, C: Copy>(bytes: &mut [u8], at: usize, stride: usize, values: &[C]) {
    let w = size_of::<T>();
    let n = values.len();
    if stride == 1 {
        for (v, b) in values.iter().zip(bytes[at * w..(at + n) * w].chunks_exact_mut(w)) {
            b.copy_from_slice(bytemuck::bytes_of(&T::store(*v)));
        }
    } else {
        let mut p = at;
        for v in values {
            bytes[p * w..p * w + w].copy_from_slice(bytemuck::bytes_of(&T::store(*v)));
            p = p.wrapping_add(stride);
        }
    }
}

/// A type that rows are computed in or results are held in. Positions and strides count elements; a negative stride is
/// its two's complement. Callers pass positions that lie inside a checked view, and no `i4`.
pub(crate) trait Compute: Element + Default {
    fn from_scalar(s: Scalar) -> Self;

    fn load(dtype: DType, bytes: &[u8], at: usize, stride: usize, out: &mut [Self]);

    fn store(dtype: DType, bytes: &mut [u8], at: usize, stride: usize, values: &[Self]);

    /// Brings values to what a dtype can hold, before they go on to a wider type; `None` where nothing is to be done.
    const NARROW: Option<fn(DType, &mut [Self])>;

    /// The row itself where it is stored as this type.
    fn direct(dtype: DType, bytes: &[u8], at: usize, n: usize) -> Option<&[Self]> {
        if dtype != Self::DTYPE {
            return None;
        }
        let w = size_of::<Self>();
        bytemuck::try_cast_slice(bytes.get(at * w..(at + n) * w)?).ok()
    }

    fn direct_mut(dtype: DType, bytes: &mut [u8], at: usize, n: usize) -> Option<&mut [Self]> {
        if dtype != Self::DTYPE {
            return None;
        }
        let w = size_of::<Self>();
        bytemuck::try_cast_slice_mut(bytes.get_mut(at * w..(at + n) * w)?).ok()
    }

    /// [`Compute::load`] of a whole row at the start of `bytes`, for the types that have a faster way; true if it did.
    fn load_row(_dtype: DType, _bytes: &[u8], _out: &mut [Self]) -> bool {
        false
    }

    /// [`Compute::store`] of a whole row, as [`Compute::load_row`].
    fn store_row(_dtype: DType, _bytes: &mut [u8], _values: &[Self]) -> bool {
        false
    }

    fn load_one(view: &View<'_>, at: usize) -> Self {
        let mut v = [Self::default()];
        Self::load(view.dtype(), view.bytes(), at, 1, &mut v);
        v[0]
    }

    fn store_one(out: &mut ViewMut<'_>, at: usize, value: Self) {
        Self::store(out.dtype(), out.bytes_mut(), at, 1, &[value]);
    }
}

macro_rules! compute {
    ($c:ty, $from:expr, $narrow:expr $(, { $($rows:tt)* })?) => {
        impl Compute for $c {
            fn from_scalar(s: Scalar) -> Self {
                ($from)(s)
            }
            fn load(dtype: DType, bytes: &[u8], at: usize, stride: usize, out: &mut [Self]) {
                if let (1, Some(row)) = (stride, Self::direct(dtype, bytes, at, out.len())) {
                    return out.copy_from_slice(row);
                }
                if stride == 1 && Self::load_row(dtype, &bytes[at * (dtype.bits() / 8)..], out) {
                    return;
                }
                by_dtype!(dtype, T => load_as::<T, $c>(bytes, at, stride, out), ());
            }
            fn store(dtype: DType, bytes: &mut [u8], at: usize, stride: usize, values: &[Self]) {
                if let (1, Some(row)) = (stride, Self::direct_mut(dtype, bytes, at, values.len())) {
                    return row.copy_from_slice(values);
                }
                if stride == 1 && Self::store_row(dtype, &mut bytes[at * (dtype.bits() / 8)..], values) {
                    return;
                }
                by_dtype!(dtype, T => store_as::<T, $c>(bytes, at, stride, values), ());
            }
            const NARROW: Option<fn(DType, &mut [Self])> = $narrow;
            $($($rows)*)?
        }
    };
}
compute!(f32, |s: Scalar| s.as_f64() as f32, None, {
    fn load_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
        match dtype {
            DType::BF16 => wide::widen_bf16(&bytes[..out.len() * 2], out),
            DType::F16 => wide::widen_f16(&bytes[..out.len() * 2], out),
            _ => return false,
        }
        true
    }
    fn store_row(dtype: DType, bytes: &mut [u8], values: &[f32]) -> bool {
        match dtype {
            DType::BF16 => wide::round_bf16(values, &mut bytes[..values.len() * 2]),
            DType::F16 => wide::round_f16(values, &mut bytes[..values.len() * 2]),
            _ => return false,
        }
        true
    }
});
compute!(f64, |s: Scalar| s.as_f64(), None);
compute!(B8, |s: Scalar| B8::from(s.as_bool()), None);
compute!(i64, |s: Scalar| s.as_i64(), Some(narrow_integers));

fn narrow_integers(dtype: DType, values: &mut [i64]) {
    match dtype {
        DType::Bool => values.iter_mut().for_each(|v| *v = i64::from(*v != 0)),
        DType::U8 => values.iter_mut().for_each(|v| *v = i64::from(*v as u8)),
        DType::I8 => values.iter_mut().for_each(|v| *v = i64::from(*v as i8)),
        DType::I16 => values.iter_mut().for_each(|v| *v = i64::from(*v as i16)),
        DType::U16 => values.iter_mut().for_each(|v| *v = i64::from(*v as u16)),
        DType::I32 => values.iter_mut().for_each(|v| *v = i64::from(*v as i32)),
        DType::I64 | DType::F16 | DType::F32 | DType::F64 | DType::BF16 | DType::I4 => {}
    }
}

/// Arithmetic that all three compute types share. Integers wrap.
pub(crate) trait Num: Compute + PartialOrd {
    const ZERO: Self;
    /// What sums are held in: `f64` for floats.
    type Acc: Copy + Default;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn negated(self) -> Self;
    fn magnitude(self) -> Self;
    fn nan(self) -> bool;
    fn inf(self) -> bool;
    fn floored(self) -> Self;
    fn ceiled(self) -> Self;
    fn rounded(self) -> Self;
    /// Quotient rounded towards zero. Integers: the divisor is not 0.
    fn quotient_trunc(self, other: Self) -> Self;
    /// Quotient rounded down, as PyTorch does it. Integers: the divisor is not 0.
    fn quotient_floor(self, other: Self) -> Self;
    fn power(self, exponent: Self) -> Self;
    /// The sum of a block in a fixed order.
    fn block_sum(block: &[Self]) -> Self::Acc;
    fn acc_plus(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn widen(self) -> Self::Acc;
    fn from_acc(a: Self::Acc) -> Self;

    /// True if `self` replaces `best` as the maximum: NaN wins over everything but NaN.
    fn above(self, best: Self) -> bool {
        self > best || (self.nan() && !best.nan())
    }
    /// True if `self` replaces `best` as the minimum: NaN wins over everything but NaN.
    fn below(self, best: Self) -> bool {
        self < best || (self.nan() && !best.nan())
    }
}

/// The best element of a block by [`Num::above`] or [`Num::below`], in sixteen lanes; `start` where nothing beats it.
pub(crate) fn block_best<C: Num>(block: &[C], start: C, beats: impl Fn(C, C) -> bool) -> C {
    let mut best = [start; 16];
    let (chunks, rest) = block.as_chunks::<16>();
    for c in chunks {
        for (b, &v) in best.iter_mut().zip(c) {
            *b = if beats(v, *b) { v } else { *b };
        }
    }
    let lanes = best.iter().chain(rest);
    lanes.fold(start, |b, &v| if beats(v, b) { v } else { b })
}

/// Sixteen partial sums, then halves added to halves: the order depends on the length only.
fn lanes<T: Copy + Default + std::ops::Add<Output = T>>(block: &[T]) -> T {
    let mut acc = [T::default(); 16];
    let (chunks, rest) = block.as_chunks::<16>();
    for c in chunks {
        for (a, v) in acc.iter_mut().zip(c) {
            *a = *a + *v;
        }
    }
    for (a, v) in acc.iter_mut().zip(rest) {
        *a = *a + *v;
    }
    let mut n = 8;
    while n > 0 {
        for i in 0..n {
            acc[i] = acc[i] + acc[i + n];
        }
        n /= 2;
    }
    acc[0]
}

macro_rules! num_float {
    ($t:ty) => {
        impl Num for $t {
            const ZERO: Self = 0.0;
            type Acc = f64;
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn minus(self, other: Self) -> Self {
                self - other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn negated(self) -> Self {
                -self
            }
            fn magnitude(self) -> Self {
                self.abs()
            }
            fn nan(self) -> bool {
                self.is_nan()
            }
            fn inf(self) -> bool {
                self.is_infinite()
            }
            fn floored(self) -> Self {
                self.floor()
            }
            fn ceiled(self) -> Self {
                self.ceil()
            }
            fn rounded(self) -> Self {
                self.round_ties_even()
            }
            fn quotient_trunc(self, other: Self) -> Self {
                (self / other).trunc()
            }
            fn quotient_floor(self, other: Self) -> Self {
                if other == 0.0 {
                    return self / other;
                }
                // Exact remainder first, so that the quotient is an integer but for rounding.
                let rem = self % other;
                let mut q = (self - rem) / other;
                if rem != 0.0 && (other < 0.0) != (rem < 0.0) {
                    q -= 1.0;
                }
                if q == 0.0 {
                    return <$t>::copysign(0.0, self / other);
                }
                let down = q.floor();
                if q - down > 0.5 { down + 1.0 } else { down }
            }
            fn power(self, exponent: Self) -> Self {
                self.powf(exponent)
            }
            fn block_sum(block: &[Self]) -> f64 {
                f64::from(lanes(block))
            }
            fn acc_plus(a: f64, b: f64) -> f64 {
                a + b
            }
            fn widen(self) -> f64 {
                f64::from(self)
            }
            fn from_acc(a: f64) -> Self {
                a as $t
            }
        }
    };
}
num_float!(f32);
num_float!(f64);

impl Num for i64 {
    const ZERO: Self = 0;
    type Acc = i64;
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }
    fn times(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
    fn negated(self) -> Self {
        self.wrapping_neg()
    }
    fn magnitude(self) -> Self {
        self.wrapping_abs()
    }
    fn nan(self) -> bool {
        false
    }
    fn inf(self) -> bool {
        false
    }
    fn floored(self) -> Self {
        self
    }
    fn ceiled(self) -> Self {
        self
    }
    fn rounded(self) -> Self {
        self
    }
    fn quotient_trunc(self, other: Self) -> Self {
        if other == 0 { 0 } else { self.wrapping_div(other) }
    }
    fn quotient_floor(self, other: Self) -> Self {
        if other == 0 {
            return 0;
        }
        let q = self.wrapping_div(other);
        if self.wrapping_rem(other) != 0 && (self < 0) != (other < 0) { q - 1 } else { q }
    }
    fn power(self, exponent: Self) -> Self {
        match (self, exponent) {
            (1, _) => 1,
            (-1, e) => {
                if e % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            (_, e) if e < 0 => 0,
            (mut base, mut e) => {
                let mut r = 1i64;
                while e > 0 {
                    if e & 1 == 1 {
                        r = r.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    e >>= 1;
                }
                r
            }
        }
    }
    fn block_sum(block: &[Self]) -> i64 {
        block.iter().fold(0, |a, &b| a.wrapping_add(b))
    }
    fn acc_plus(a: i64, b: i64) -> i64 {
        a.wrapping_add(b)
    }
    fn widen(self) -> i64 {
        self
    }
    fn from_acc(a: i64) -> Self {
        a
    }
}

/// The functions of a real variable that kernels use.
pub(crate) trait Flt: Num<Acc = f64> {
    fn of(v: f64) -> Self;
    fn over(self, other: Self) -> Self;
    fn root(self) -> Self;
    fn ln_e(self) -> Self;
    fn sine(self) -> Self;
    fn cosine(self) -> Self;
}

macro_rules! flt {
    ($t:ty) => {
        impl Flt for $t {
            fn of(v: f64) -> Self {
                v as $t
            }
            fn over(self, other: Self) -> Self {
                self / other
            }
            fn root(self) -> Self {
                self.sqrt()
            }
            fn ln_e(self) -> Self {
                self.ln()
            }
            fn sine(self) -> Self {
                self.sin()
            }
            fn cosine(self) -> Self {
                self.cos()
            }
        }
    };
}
flt!(f32);
flt!(f64);

/// PyTorch's `result_type`: tensors with dimensions outrank tensors without, and those outrank numbers; a lower rank
/// changes the result only by its category (`bool` < integer < float).
pub(crate) fn result_type(operands: &[Operand<'_>]) -> DType {
    fn join(a: Option<DType>, b: DType) -> Option<DType> {
        Some(a.map_or(b, |a| DType::promote(a, b)))
    }
    fn combine(higher: Option<DType>, lower: Option<DType>) -> Option<DType> {
        match (higher, lower) {
            (Some(h), Some(l)) if !h.is_float() && (h == DType::Bool || l.is_float()) => Some(DType::promote(h, l)),
            (Some(h), _) => Some(h),
            (None, l) => l,
        }
    }
    let (mut dims, mut zero, mut number) = (None, None, None);
    for o in operands {
        match o {
            Operand::View(v) if v.rank() > 0 => dims = join(dims, v.dtype()),
            Operand::View(v) => zero = join(zero, v.dtype()),
            Operand::Scalar(Scalar::Float(_)) => number = join(number, DType::F32),
            Operand::Scalar(Scalar::Int(_)) => number = join(number, DType::I64),
            Operand::Scalar(Scalar::Bool(_)) => number = join(number, DType::Bool),
        }
    }
    combine(dims, combine(zero, number)).unwrap_or(DType::F32)
}

/// A tensor or a number.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A tensor.
    View(View<'a>),
    /// A number; it takes part in type promotion by its category only.
    Scalar(Scalar),
}

impl<'a> From<View<'a>> for Operand<'a> {
    fn from(v: View<'a>) -> Self {
        Operand::View(v)
    }
}

impl From<Scalar> for Operand<'_> {
    fn from(s: Scalar) -> Self {
        Operand::Scalar(s)
    }
}

impl Operand<'_> {
    pub(crate) fn sizes(&self) -> &[usize] {
        match self {
            Operand::View(v) => v.sizes(),
            Operand::Scalar(_) => &[],
        }
    }
}

/// Sizes of all operands broadcast together, aligned at the last dimension.
pub(crate) fn broadcast_sizes(op: &'static str, all: &[&[usize]]) -> Result<Shape, KernelError> {
    let rank = all.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = Shape::from_elem(1, rank);
    for sizes in all {
        for (o, &s) in out[rank - sizes.len()..].iter_mut().zip(*sizes) {
            if *o == 1 {
                *o = s;
            } else if s != 1 && s != *o {
                return Err(KernelError::new(op, format!("sizes {all:?} do not broadcast together")));
            }
        }
    }
    Ok(out)
}

/// Strides of a tensor seen as one of the broadcast `sizes`.
pub(crate) fn broadcast_strides(sizes: &[usize], own: &[usize], strides: &[usize]) -> Shape {
    let lead = sizes.len() - own.len();
    (0..sizes.len())
        .map(|d| if d < lead || (own[d - lead] == 1 && sizes[d] != 1) { 0 } else { strides[d - lead] })
        .collect()
}

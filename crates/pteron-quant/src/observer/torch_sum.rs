//! The order in which ATen adds `f32` (`aten/src/ATen/native/cpu/SumKernel.cpp`, the AVX2 kernel, which processors with
//! AVX-512 use as well): eight lanes of four accumulators, each a cascade of four levels. A histogram's search compares such sums, so that their last bit counts.

const LANES: usize = 8;
const ACCUMULATORS: usize = 4;
const LEVELS: usize = 4;

/// Elements of a sequence that are added up before the cascade's first level is carried, at the least.
const STEP: usize = 16;

/// Sums of `N` interleaved sequences of `size` elements each, of which `load(i, k)` gives element `i` of sequence `k`.
fn cascade<const N: usize>(size: usize, load: impl Fn(usize, usize) -> f32) -> [f32; N] {
    let ceil_log2 = if size <= 1 { 0 } else { (size - 1).ilog2() as usize + 1 };
    let power = (ceil_log2 / LEVELS).max(4);
    let step = 1usize << power;
    let mut acc = [[0f32; N]; LEVELS];
    let mut i = 0;
    while i + step <= size {
        for _ in 0..step {
            for k in 0..N {
                acc[0][k] += load(i, k);
            }
            i += 1;
        }
        for level in 1..LEVELS {
            for k in 0..N {
                acc[level][k] += acc[level - 1][k];
                acc[level - 1][k] = 0.0;
            }
            if i & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    while i < size {
        for k in 0..N {
            acc[0][k] += load(i, k);
        }
        i += 1;
    }
    let [mut out, upper @ ..] = acc;
    for level in upper {
        for k in 0..N {
            out[k] += level[k];
        }
    }
    out
}

/// One sequence in four interleaved parts (`row_sum`).
fn row(size: usize, load: impl Fn(usize) -> f32) -> f32 {
    let rows = size / ACCUMULATORS;
    let mut parts = cascade::<ACCUMULATORS>(rows, |i, k| load(i * ACCUMULATORS + k));
    for i in rows * ACCUMULATORS..size {
        parts[0] += load(i);
    }
    parts[1..].iter().fold(parts[0], |sum, part| sum + part)
}

/// [`cascade`] of so few rows that nothing is carried.
#[inline(always)]
fn few(x: &[f32], rows: usize) -> [f32; LANES * ACCUMULATORS] {
    let mut acc = [0f32; LANES * ACCUMULATORS];
    for line in x.as_chunks::<{ LANES * ACCUMULATORS }>().0.iter().take(rows) {
        for (a, v) in acc.iter_mut().zip(line) {
            *a += v;
        }
    }
    acc
}

/// `torch.sum` of contiguous elements, of which there are few enough for one thread.
///
/// Always inlined, so that a loop that is compiled for wider registers has it with them.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    if x.len() < LANES {
        return row(x.len(), |i| x[i]);
    }
    let vectors = x.len() / LANES;
    let rows = vectors / ACCUMULATORS;
    let wide = if rows < STEP {
        few(x, rows)
    } else {
        cascade::<{ LANES * ACCUMULATORS }>(rows, |i, k| x[i * LANES * ACCUMULATORS + k])
    };
    let mut lanes = [0f32; LANES];
    lanes.copy_from_slice(&wide[..LANES]);
    for v in rows * ACCUMULATORS..vectors {
        for k in 0..LANES {
            lanes[k] += x[v * LANES + k];
        }
    }
    for a in 1..ACCUMULATORS {
        for k in 0..LANES {
            lanes[k] += wide[a * LANES + k];
        }
    }
    let mut total = 0.0;
    for v in &x[vectors * LANES..] {
        total += v;
    }
    for lane in lanes {
        total += lane;
    }
    total
}

/// `torch.sum` over the rows of a contiguous matrix: column `column` of `columns`, of which `load` gives the `size` elements.
pub(super) fn sum_column(column: usize, columns: usize, size: usize, load: impl Fn(usize) -> f32) -> f32 {
    let together = if columns >= LANES { LANES * ACCUMULATORS } else { ACCUMULATORS };
    match column < columns / together * together {
        true => cascade::<1>(size, |i, _| load(i))[0],
        false => row(size, load),
    }
}

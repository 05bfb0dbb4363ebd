//! The histogram observers' search for the range of least squared error (`HistogramObserver._non_linear_param_search`).

use super::torch_sum;

/// How much of the mass each step may cut off, as a fraction.
const STEP: f64 = 1e-5;

/// The range, within `min..=max`, that the search keeps. `counts` is the histogram over `min..=max`; `destination` the number
/// of codes that the error is computed for.
///
/// The search trims bins from the end that holds less mass and stops at the first trim that makes the error larger. The first
/// trim is always taken.
pub(super) fn range(counts: &[f32], min: f32, max: f32, destination: f64) -> (f32, f32) {
    let bins = counts.len();
    let width = (max - min) / bins as f32;
    let total = f64::from(torch_sum::sum(counts));
    let mut running = 0f64;
    let cumulative: Vec<f32> = counts
        .iter()
        .map(|&c| {
            running += f64::from(c);
            running as f32
        })
        .collect();
    let mut errors =
        Errors { counts, width: (f64::from(max) - f64::from(min)) / bins as f64, destination, norm: vec![0.0; bins] };
    let (mut alpha, mut beta) = (0f64, 1f64);
    let (mut start, mut end) = (0usize, bins - 1);
    let mut least = f64::INFINITY;
    while alpha < beta {
        let (next_alpha, next_beta) = (alpha + STEP, beta - STEP);
        let (mut l, mut r) = (start, end);
        // A comparison of a tensor with a number is one in the tensor's dtype.
        while l < end && cumulative[l] < (next_alpha * total) as f32 {
            l += 1;
        }
        while r > start && cumulative[r] > (next_beta * total) as f32 {
            r -= 1;
        }
        let (next_start, next_end);
        if l - start > end - r {
            (next_start, next_end) = (l, end);
            alpha = next_alpha;
        } else {
            (next_start, next_end) = (start, r);
            beta = next_beta;
        }
        if (next_start, next_end) == (start, end) {
            continue;
        }
        let error = errors.of(next_start, next_end);
        if error > least {
            break;
        }
        least = error;
        (start, end) = (next_start, next_end);
    }
    (min + width * start as f32, min + width * (end + 1) as f32)
}

struct Errors<'a> {
    counts: &'a [f32],
    /// Width of a bin, in double as Python computes it.
    width: f64,
    destination: f64,
    norm: Vec<f32>,
}

impl Errors<'_> {
    /// The squared error if bins `start..=end` are spread over the codes and the rest is clipped.
    fn of(&mut self, start: usize, end: usize) -> f64 {
        let code_width = self.width * (end as f64 - start as f64 + 1.0) / self.destination;
        if code_width == 0.0 {
            return 0.0;
        }
        let (width, code, half) = (self.width as f32, code_width as f32, (code_width / 2.0) as f32);
        let last = (self.destination - 1.0) as f32;
        let cube = |v: f32| v * v * v;
        let third = |from: f32, to: f32| (cube(to) - cube(from)) / 3.0;
        let whole = third((-code_width / 2.0) as f32, half);
        for (i, (norm, count)) in self.norm.iter_mut().zip(self.counts).enumerate() {
            let density = count / width;
            let begin = (i as i64 - start as i64) as f32 * width;
            let finish = begin + width;
            let first = floor_div(begin, code).clamp(0.0, last);
            let first_centre = (first + 0.5) * code;
            let final_ = floor_div(finish, code).clamp(0.0, last);
            let mut sum = 0.0 + density * third(begin - first_centre, half);
            sum += (final_ - first - 1.0) * (density * whole);
            let final_centre = final_ * code + half;
            sum += density * third(-half, finish - final_centre);
            *norm = sum;
        }
        f64::from(torch_sum::sum(&self.norm))
    }
}

/// `torch.div(a, b, rounding_mode="floor")` for a finite `b` above 0.
fn floor_div(a: f32, b: f32) -> f32 {
    let remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder != 0.0 && remainder < 0.0 {
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return 0.0f32.copysign(a / b);
    }
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

//! How far two tensors are apart.

use serde::Serialize;

/// Sums over the elements of a tensor and of its reference, over any number of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSums {
    elements: u64,
    signal: f64,
    model: f64,
    noise: f64,
    cross: f64,
    max_abs: f64,
}

/// How far a tensor is from its reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TensorError {
    /// Elements compared.
    pub elements: u64,
    /// Signal to quantization noise in decibel: `10 log₁₀(Σr² / Σ(r-m)²)`; infinite for equal tensors.
    pub sqnr_db: f64,
    /// `Σrm / √(Σr² Σm²)`; 1 for two tensors of zeros.
    pub cosine: f64,
    /// Mean of the squared differences.
    pub mse: f64,
    /// The largest difference.
    pub max_abs: f64,
}

impl ErrorSums {
    /// Adds the elements of one call. Both slices have the same length; what is past the shorter one is left out.
    pub fn add(&mut self, model: &[f32], reference: &[f32]) {
        for (m, r) in model.chunks(4096).zip(reference.chunks(4096)) {
            let (mut signal, mut own, mut noise, mut cross, mut most) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for (&m, &r) in m.iter().zip(r) {
                let (m, r) = (f64::from(m), f64::from(r));
                let d = r - m;
                signal += r * r;
                own += m * m;
                noise += d * d;
                cross += r * m;
                // A difference that is no number stays visible: `max` would drop it.
                most = if d.abs() > most || d.is_nan() { d.abs() } else { most };
            }
            self.elements += m.len().min(r.len()) as u64;
            self.signal += signal;
            self.model += own;
            self.noise += noise;
            self.cross += cross;
            self.max_abs = if most > self.max_abs || most.is_nan() { most } else { self.max_abs };
        }
    }

    /// The figures; `None` before any element.
    pub fn error(&self) -> Option<TensorError> {
        if self.elements == 0 {
            return None;
        }
        let norms = (self.signal * self.model).sqrt();
        Some(TensorError {
            elements: self.elements,
            sqnr_db: if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() },
            cosine: if norms == 0.0 && self.signal == self.model { 1.0 } else { self.cross / norms },
            mse: self.noise / self.elements as f64,
            max_abs: self.max_abs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_definitions() {
        let mut s = ErrorSums::default();
        assert!(s.error().is_none());
        s.add(&[1.0, 2.0], &[1.0, 2.5]);
        s.add(&[0.0], &[-1.0]);
        let e = s.error().unwrap();
        assert_eq!((e.elements, e.max_abs), (3, 1.0));
        assert!((e.sqnr_db - 10.0 * (8.25f64 / 1.25).log10()).abs() < 1e-12);
        assert!((e.cosine - 6.0 / (8.25f64 * 5.0).sqrt()).abs() < 1e-12);
        assert!((e.mse - 1.25 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn equal_tensors_have_no_noise() {
        let mut s = ErrorSums::default();
        s.add(&[0.0, 0.0], &[0.0, 0.0]);
        let e = s.error().unwrap();
        assert_eq!((e.sqnr_db, e.cosine), (f64::INFINITY, 1.0));
        s.add(&[f32::NAN], &[1.0]);
        assert!(s.error().unwrap().max_abs.is_nan());
    }
}

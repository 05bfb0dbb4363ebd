//! Element types of programs and of Pteron.

use pteron_pte::ScalarType;
use pteron_tensor::DType;

/// Pteron's element type for one of a program; `None` for a type that Pteron does not compute with.
pub fn dtype_of(t: ScalarType) -> Option<DType> {
    DType::from_scalar_type_code(i64::from(t.code()))
}

/// A program's element type for one of Pteron's; `None` for `i4`, which has no code.
pub fn scalar_type_of(d: DType) -> Option<ScalarType> {
    ScalarType::from_code(i64::from(d.scalar_type_code()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_but_i4_has_a_scalar_type_and_back() {
        for d in DType::ALL {
            match scalar_type_of(d) {
                Some(s) => {
                    assert_eq!(dtype_of(s), Some(d));
                    assert_eq!(s.size_of(), d.bits() / 8);
                }
                None => assert_eq!(d, DType::I4),
            }
        }
        assert_eq!(dtype_of(ScalarType::QInt8), None);
    }
}

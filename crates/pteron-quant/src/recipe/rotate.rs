//! Rotations as a recipe names them. What they do to a model is `pteron_models`'.

use std::fmt;

/// By what a model's residual stream and the values of its heads are multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// Hadamard matrices with signs drawn by a seed.
    Hadamard {
        /// The seed.
        seed: u64,
    },
    /// The matrices R1 and R2 of a file, as SpinQuant's optimizer writes it: its path.
    File(String),
}

impl Rotate {
    /// `hadamard` with the seed 0, or `hadamard,SEED`.
    pub fn parse(text: &str) -> Option<Rotate> {
        match text.split_once(',') {
            None if text == "hadamard" => Some(Rotate::Hadamard { seed: 0 }),
            Some(("hadamard", seed)) if seed.bytes().all(|b| b.is_ascii_digit()) => {
                Some(Rotate::Hadamard { seed: seed.parse().ok()? })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Rotate {
    /// What [`Rotate::parse`] reads; a file as `of PATH`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rotate::Hadamard { seed } => write!(f, "hadamard,{seed}"),
            Rotate::File(path) => write!(f, "of {path}"),
        }
    }
}

//! Damaged files: a structure-aware mutator and the harness that runs a parser on what it makes.
//!
//! A test names its format's [`Seed`]s, each with the [`Field`]s that a [walker](walk) found in it, and a function that
//! drives the parser as far as the bytes go. [`mutants`] runs it on numbered mutants, [`truncations`] on every prefix of the
//! header, [`bit_flips`] on every bit of it. Each run has a small stack, a bound on time and one on memory; what goes past
//! them, or panics, fails the test with the mutant's number and what was changed. `PTERON_MUTANT=NUMBER` runs one mutant,
//! after which a test that counts fails at its count.

mod alloc;
mod harness;
mod mutate;
pub mod walk;

pub use alloc::{Counting, is_installed, measured};
pub use harness::{
    Drive, Limits, SEED_DIR, Tally, Verdict, bit_flips, check, mutant_count, mutants, mutants_within, truncations,
};
pub use mutate::{Field, Kind, Mutant, Mutator, Repair, Seed};

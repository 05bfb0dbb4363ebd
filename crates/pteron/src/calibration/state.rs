//! State files: what the observers of a calibration have learnt.

use std::io::Write;
use std::path::{Path, PathBuf};

use pteron_checkpoint::atomic::{AtomicError, AtomicFile};
use pteron_checkpoint::read_limited;
use pteron_quant::state::{CalibrationState, StateError};

use crate::error::Error;

/// Most bytes of a state file.
pub const MAX_STATE_BYTES: u64 = 1 << 30;

fn wrong(path: &Path, e: &StateError) -> Error {
    Error::Calibration { reason: format!("{}: {e}", path.display()) }
}

/// Reads a state file.
///
/// # Errors
/// [`Error::Calibration`] naming the file: it is none, of another version, or damaged; [`Error::Checkpoint`] if it cannot
/// be read.
pub fn read_state(path: &Path) -> Result<CalibrationState, Error> {
    let bytes = read_limited(path, MAX_STATE_BYTES)?;
    CalibrationState::from_bytes(&bytes).map_err(|e| wrong(path, &e))
}

/// Writes a state file, whole or not at all.
///
/// # Errors
/// [`Error::Calibration`] if the state cannot be written by its rules, [`Error::Atomic`] if the file cannot.
pub fn write_state(path: &Path, state: &CalibrationState) -> Result<(), Error> {
    let bytes = state.to_bytes().map_err(|e| wrong(path, &e))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(|e| AtomicError::from_io(path, e))?;
    Ok(file.commit()?)
}

/// The state of a whole run from the files of its shards, in any order.
///
/// # Errors
/// As [`read_state`]; [`Error::Calibration`] if they do not belong together or are not all there, naming the shards.
pub fn merge(paths: &[PathBuf]) -> Result<CalibrationState, Error> {
    let shards = paths.iter().map(|p| read_state(p)).collect::<Result<Vec<_>, _>>()?;
    CalibrationState::merge(&shards).map_err(|e| {
        let files: Vec<String> = paths
            .iter()
            .zip(&shards)
            .map(|(p, s)| format!("{} is shard {}/{}", p.display(), s.header.shard.index, s.header.shard.count))
            .collect();
        Error::Calibration { reason: format!("{e} ({})", files.join(", ")) }
    })
}

//! An export beside a copy of the file that it writes.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use super::median;
use crate::calibration::EvaluationOptions;
use crate::error::Error;
use crate::export::Exporter;
use pteron_checkpoint::atomic::{AtomicError, TemporaryFolder};

/// An export, and a copy of its file, to the same folder.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ExportBench {
    /// Bytes of the program.
    pub file_bytes: u64,
    /// Elements of all weights.
    pub parameters: u64,
    /// Element type of the program.
    pub dtype: String,
    /// Seconds of each export, from opening the checkpoint to the file on the disk.
    pub export_seconds: Vec<f64>,
    /// Seconds of each copy of the file, its bytes flushed to the disk.
    pub copy_seconds: Vec<f64>,
    /// Median of the exports by the median of the copies.
    pub ratio: f64,
    /// Largest anonymous memory of the process during the exports; `None` where the system does not tell.
    pub peak_anonymous_bytes: Option<u64>,
    /// The same by the file's bytes.
    pub peak_anonymous_of_file: Option<f64>,
}

impl ExportBench {
    /// Median of the exports.
    pub fn median_export_seconds(&self) -> f64 {
        median(self.export_seconds.clone())
    }

    /// Median of the copies.
    pub fn median_copy_seconds(&self) -> f64 {
        median(self.copy_seconds.clone())
    }
}

/// Exports with what `exporter` makes and copies the file, by turns and `repeat` times (at least once), in a folder of its
/// own in `folder`, of which nothing is left.
///
/// # Errors
/// [`Error`] of the export, or naming the file that cannot be written.
pub fn export<'p, E: From<Error>>(
    folder: &Path,
    repeat: usize,
    exporter: &mut dyn FnMut() -> Result<Exporter<'p>, E>,
) -> Result<ExportBench, E> {
    let temporary = TemporaryFolder::create_in(folder, "pteron-bench")
        .map_err(|e| Error::Atomic(AtomicError::from_io(folder, e)))?;
    let (out, copy) = (temporary.path().join("export.pte"), temporary.path().join("copy.pte"));
    let mut turn = || {
        // The program alone: what is measured is compared with a copy of its file.
        let unmeasured = EvaluationOptions { enabled: false, ..EvaluationOptions::default() };
        let report = exporter()?.bare(true).evaluation(unmeasured).write(&out)?;
        let seconds = copy_flushed(&out, &copy).map_err(|e| Error::Atomic(AtomicError::from_io(&copy, e)))?;
        for path in [&out, &copy] {
            std::fs::remove_file(path).map_err(|e| Error::Atomic(AtomicError::from_io(path, e)))?;
        }
        Ok::<_, E>((report, seconds))
    };
    let (first, copied) = turn()?;
    let (mut exports, mut copies) = (vec![first.seconds], vec![copied]);
    let mut peak = first.peak_anonymous_bytes;
    for _ in 1..repeat {
        let (report, copied) = turn()?;
        exports.push(report.seconds);
        copies.push(copied);
        peak = peak.max(report.peak_anonymous_bytes);
    }
    Ok(ExportBench {
        file_bytes: first.file_bytes,
        parameters: first.parameters,
        dtype: first.dtype,
        ratio: median(exports.clone()) / median(copies.clone()).max(f64::MIN_POSITIVE),
        peak_anonymous_of_file: peak.map(|p| p as f64 / first.file_bytes.max(1) as f64),
        export_seconds: exports,
        copy_seconds: copies,
        peak_anonymous_bytes: peak,
    })
}

/// Copies through memory, so that no file system can share the blocks, and gives the seconds until all is on the disk.
fn copy_flushed(from: &Path, to: &Path) -> std::io::Result<f64> {
    let mut buffer = vec![0u8; 1 << 20];
    let start = Instant::now();
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    loop {
        let n = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
        to.write_all(part)?;
    }
    to.sync_all()?;
    Ok(start.elapsed().as_secs_f64())
}

//! What of Qualcomm's is there, and whether it works.

use std::path::Path;

use pteron_qnn::soc::{DEFAULT_SOC, Soc};
use pteron_qnn::{HostOptions, LibraryInfo, QnnError, Sdk, SelfTest, self_test};

/// How the libraries come to this machine, a line each.
pub const HOW_TO_GET: [&str; 3] = [
    "pip install onnxruntime-qnn==2.5.0: the wheel carries the libraries and is found by itself",
    "or Qualcomm's AI Engine Direct SDK: name its folder with --qnn-sdk or QNN_SDK_ROOT",
    "either way you accept Qualcomm's licence, which lies beside the libraries; Pteron carries nothing of them",
];

/// Qualcomm's libraries as they were found.
#[derive(Debug)]
pub struct QnnReport {
    /// Where they lie; `None` if they were not found.
    pub sdk: Option<Sdk>,
    /// What the library says of itself.
    pub info: Option<LibraryInfo>,
    /// How many operators it knows.
    pub operations: Option<usize>,
    /// The test run.
    pub test: Option<SelfTest>,
    /// What went wrong first.
    pub problem: Option<QnnError>,
}

impl QnnReport {
    /// Whether the libraries are there and do not work.
    pub fn is_broken(&self) -> bool {
        self.sdk.is_some() && self.problem.is_some()
    }
}

/// Looks for Qualcomm's libraries (at `sdk`, else where [`Sdk::find`] looks), opens them and runs one operator.
pub fn qnn(sdk: Option<&Path>) -> QnnReport {
    let mut report = QnnReport { sdk: None, info: None, operations: None, test: None, problem: None };
    if let Err(problem) = examine(sdk, &mut report) {
        report.problem = Some(problem);
    }
    report
}

fn examine(sdk: Option<&Path>, report: &mut QnnReport) -> Result<(), QnnError> {
    let sdk = Sdk::find(sdk)?;
    report.sdk = Some(sdk.clone());
    let host = HostOptions::new(sdk)?.open()?;
    report.info = Some(host.info().clone());
    report.operations = Some(host.supported_operations()?.len());
    let soc = Soc::by_name(DEFAULT_SOC).ok_or_else(|| QnnError::Mismatch(format!("{DEFAULT_SOC} is no system")))?;
    report.test = Some(self_test(host.as_ref(), soc)?);
    Ok(())
}

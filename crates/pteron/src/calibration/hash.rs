//! SHA-256 of data and of checkpoints.

use pteron_checkpoint::Checkpoint;
use pteron_quant::state::Sha256;
use sha2::Digest;

use crate::error::Error;

/// A SHA-256 under way.
#[derive(Debug, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher::default()
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256 {
        self.0.finalize().into()
    }
}

/// The SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    let mut hash = Hasher::new();
    hash.update(bytes);
    hash.finish()
}

/// As hexadecimal digits.
pub fn hex(hash: &Sha256) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// A file of a checkpoint, as a card names it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileHash {
    /// Its name, without folders.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// The files of a checkpoint that hold its weights.
///
/// # Errors
/// [`Error::Source`] for one that cannot be read.
pub(crate) fn of_files(checkpoint: &Checkpoint) -> Result<Vec<FileHash>, Error> {
    const PIECE: usize = 4 << 20;
    let mut buffer = Vec::new();
    let mut out = Vec::new();
    for (path, bytes) in checkpoint.contents() {
        let mut hash = Hasher::new();
        let mut at = 0u64;
        while at < bytes.len() {
            let n = usize::try_from(bytes.len() - at).unwrap_or(PIECE).min(PIECE);
            buffer.resize(n, 0);
            let failed = |source| Error::Source { path: path.to_owned(), source: Box::new(source) };
            bytes.read_at(at, &mut buffer).map_err(failed)?;
            hash.update(&buffer);
            at += n as u64;
        }
        let file = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        out.push(FileHash { file, bytes: bytes.len(), sha256: hex(&hash.finish()) });
    }
    Ok(out)
}

/// One hash for a model: of its files' hashes, in their order, and of its configuration.
pub(crate) fn of_model(files: &[FileHash], config: &pteron_models::ModelConfig) -> Sha256 {
    let mut hash = Hasher::new();
    for f in files {
        hash.update(f.sha256.as_bytes());
        hash.update(b"\n");
    }
    hash.update(format!("{config:?}").as_bytes());
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&sha256(b"abc")), abc);
    }
}

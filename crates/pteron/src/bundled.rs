//! The model that comes with the program: glass-en, a Llama of 0.85M parameters.

use std::path::Path;

use pteron_checkpoint::atomic::{AtomicError, AtomicFile};
use std::io::Write;

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        /// Names and bytes of the model's files.
        pub const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../assets/glass-en/", $name)))),*];
    };
}

bundled![
    "LICENSE",
    "README.md",
    "config.json",
    "generation_config.json",
    "golden.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// A text to measure quantized models on where none is given, UTF-8.
pub const EVALUATION_TEXT: &[u8] = include_bytes!("../assets/evaluation/text.txt");

/// The bytes of one of the model's files; nothing for a name that is not among them.
pub fn file(name: &str) -> &'static [u8] {
    FILES.iter().find(|(n, _)| *n == name).map_or(&[], |(_, bytes)| bytes)
}

/// Writes the model's files to `folder`, which must be there.
///
/// # Errors
/// [`AtomicError`] naming the file.
pub fn write_to(folder: impl AsRef<Path>) -> Result<(), AtomicError> {
    for (name, bytes) in FILES {
        let path = folder.as_ref().join(name);
        let mut out = AtomicFile::create(&path)?;
        out.write_all(bytes).map_err(|e| AtomicError::from_io(&path, e))?;
        out.commit()?;
    }
    Ok(())
}

//! What stands beside a program: its tokenizer, its chat template, the recipe and a card. Each file is named after the
//! program, so that several programs of a folder keep theirs apart: `model.tokenizer.json` beside `model.pte`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use pteron_checkpoint::atomic::{AtomicError, AtomicFile};
use pteron_ir::op::Library;
use pteron_ir::{Level, OPERATORS};
use pteron_quant::state::Sha256;
use serde_json::json;

use super::{Exporter, Lowered};
use crate::calibration::{hash, hex};
use crate::error::Error;

/// Version of the card's form.
const CARD_VERSION: u32 = 1;

/// A whole file that is not in its place yet.
pub(super) struct Beside {
    pub(super) path: PathBuf,
    pub(super) file: AtomicFile,
}

impl Beside {
    fn new(path: PathBuf, bytes: &[u8]) -> Result<Beside, Error> {
        let mut file = AtomicFile::create(&path)?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(|e| AtomicError::from_io(&path, e))?;
        Ok(Beside { path, file })
    }
}

/// Operators of a program, as it names them, that ExecuTorch's runtime has no kernel for: those that are no kernel
/// operators of the table.
pub(super) fn missing(operators: &[String]) -> Vec<String> {
    let has = |name: &str| {
        let base = name.split_once(".").map_or(name, |(base, _)| base);
        let of = |n: &str| n.split_once('.').map_or(n, |(base, _)| base) == base;
        let known = || OPERATORS.iter().filter(|d| of(d.name));
        known().next().is_none() || known().any(|d| d.level == Level::Kernel)
    };
    operators.iter().filter(|name| !has(name)).cloned().collect()
}

/// The libraries of ExecuTorch that have a program's operators: a runtime is built with some of them.
fn libraries(operators: &[String]) -> Vec<&'static str> {
    let all: BTreeSet<Library> = operators.iter().map(|name| Library::of_key(name)).collect();
    all.into_iter().map(Library::name).collect()
}

impl Exporter<'_> {
    /// Writes what stands beside the program `out`, whose SHA-256 is `sha256`, up to the last step.
    pub(super) fn beside(&self, out: &Path, lowered: &Lowered, sha256: &Sha256) -> Result<Vec<Beside>, Error> {
        let stem = out.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let folder = out.parent().unwrap_or(Path::new(""));
        let mut files = Vec::new();
        let mut names = serde_json::Map::new();
        let mut add = |key: &str, suffix: &str, bytes: &[u8]| -> Result<(), Error> {
            let name = format!("{stem}.{suffix}");
            names.insert(key.to_owned(), json!(name));
            files.push(Beside::new(folder.join(&name), bytes)?);
            Ok(())
        };
        match self.tokenizer_source() {
            Ok(Some(source)) => {
                for part in source.parts()? {
                    add(part.key, part.suffix, &part.bytes)?;
                }
            }
            // One that was not asked for is not needed for an export: a warning has been given.
            Ok(None) => {}
            Err(_) if self.tokenizer.is_none() => {}
            Err(e) => return Err(e),
        }
        if let Some(q) = &lowered.quantization {
            let plan: String = q.plan.lines().map(|line| format!("# {line}\n")).collect();
            add("recipe", "recipe.toml", format!("{}\n# What it made of this model:\n{plan}", q.recipe).as_bytes())?;
        }
        let card = self.card(out, lowered, sha256, names)?;
        let mut text = serde_json::to_string_pretty(&card).unwrap_or_default();
        text.push('\n');
        files.push(Beside::new(folder.join(format!("{stem}.card.json")), text.as_bytes())?);
        Ok(files)
    }

    fn card(
        &self,
        out: &Path,
        lowered: &Lowered,
        sha256: &Sha256,
        names: serde_json::Map<String, serde_json::Value>,
    ) -> Result<serde_json::Value, Error> {
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
        let sources = hash::of_files(&self.checkpoint)?;
        let model = hash::of_model(&sources, &lowered.config);
        let (o, operators) = (&self.options, lowered.operators());
        Ok(json!({
            "card_version": CARD_VERSION,
            "producer": concat!("pteron ", env!("CARGO_PKG_VERSION")),
            "program": { "file": name(out), "bytes": lowered.emitted.file.total_len, "sha256": hex(sha256) },
            "beside": names,
            "source": {
                "name": name(self.checkpoint.path()),
                "architecture": lowered.config.architecture.model_type(),
                "parameters": lowered.parameters,
                "files": sources,
                "sha256": hex(&model),
            },
            "form": {
                "dtype": o.dtype.to_string(),
                "backend": self.xnnpack.map(|_| "xnnpack"),
                "use_kv_cache": o.use_kv_cache,
                "use_sdpa_with_kv_cache": o.use_sdpa_with_kv_cache,
                "quantize_kv_cache": o.quantize_kv_cache,
                "static_quantize_kv_cache": o.static_kv_cache.is_some(),
                "dynamic_shape": o.dynamic_shape,
                "max_seq_length": o.max_seq_length,
                "max_context_length": o.max_context_length,
                "rotation": self.recipe.rotation(),
                "rotation_sha256": self.rotation_sha256,
            },
            "quantization": lowered.quantization,
            "libraries": libraries(&operators),
            "missing_operators": missing(&operators),
        }))
    }
}

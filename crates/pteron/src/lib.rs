//! Exports Llama-family checkpoints as ExecuTorch programs, and runs such programs.
//!
//! [`Exporter`] takes a checkpoint and writes a `.pte`; [`Program`] loads a `.pte` (or `.bpte`), whoever made it, and
//! [`ProgramDecoder`] puts it under [`pteron_llm`]'s runner. The crates below are re-exported under their own names for
//! whoever needs more.
//!
//! ```
//! use pteron::llm::{clock::SystemClock, runner::{GenerationConfig, Runner}, tokenizer::Tokenizer};
//! use pteron::{Exporter, LoadOptions, Program, ProgramDecoder, bundled};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let folder = temporary.path();
//! bundled::write_to(folder)?; // or any folder from the Hugging Face hub
//! let report = Exporter::open(folder)?.kv_cache(true).sdpa_with_kv_cache(true).write(folder.join("glass.pte"))?;
//! assert_eq!(report.parameters, 852_608);
//!
//! let program = Program::open(folder.join("glass.pte"), &LoadOptions::default())?;
//! let metadata = program.metadata()?;
//! let tokenizer = Tokenizer::from_bytes(bundled::file("tokenizer.json"), None)?;
//! let decoder = ProgramDecoder::new(program, "forward")?;
//! let mut runner = Runner::new(tokenizer, decoder, metadata, SystemClock)?;
//! let config = GenerationConfig { temperature: 0.0, max_new_tokens: 5, echo: false, ..Default::default() };
//! let result = runner.generate("Alice was beginning to", &config, &mut |_| {})?;
//! assert_eq!(result.token_ids, [97, 4, 373, 111, 97]);
//! # Ok(())
//! # }
//! ```

mod backend;
pub mod bench;
pub mod bundled;
pub mod calibration;
pub mod doctor;
mod error;
mod eval;
mod export;
pub mod host;
mod program;
pub mod qat;
pub mod quantize;
mod static_llama;
mod text;

pub use backend::{PartitionReport, Undelegated, Xnnpack};
pub use error::{Error, short};
pub use eval::{EvalModel, compare_nodes};
pub use export::{
    Budget, CALIBRATION_SHA256, CALIBRATION_TOKENS, Calibrated, ExportReport, Exporter, FoundRecipe, Progress,
    ROTATION, Search, Sensitivity, ShardOf, odd_vocabulary,
};
pub use export::{QnnContextReport, QnnMode, QnnNodeReport, QnnOptions, QnnReport};
pub use program::{LoadMode, LoadOptions, Program, ProgramFile, constant_methods, delegates, open_data};
pub use quantize::QuantizationReport;
pub use text::{ProgramDecoder, TokenizerPart, TokenizerSource, gguf_parts};

pub use pteron_checkpoint as checkpoint;
pub use pteron_eval as evaluation;
pub use pteron_exec as exec;
pub use pteron_ir as ir;
pub use pteron_kernels as kernels;
pub use pteron_llm as llm;
pub use pteron_models as models;
pub use pteron_program as program_format;
pub use pteron_pte as pte;
pub use pteron_qnn as qnn;
pub use pteron_quant as quant;
pub use pteron_tensor as tensor;
pub use pteron_train as train;
pub use pteron_xnnpack as xnnpack;

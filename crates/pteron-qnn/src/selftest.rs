//! A graph of one operator, from its description to its numbers: whether the library works here.

use std::time::{Duration, Instant};

use crate::error::QnnError;
use crate::graph::{DataType, Encoding, QnnGraph, QnnNode, QnnTensor, TensorKind};
use crate::host::{ComposeOptions, ProfileLevel, QnnLibrary, Verdict};
use crate::soc::Soc;

/// What the test took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    /// The system that was compiled for.
    pub soc: Soc,
    /// Bytes of the context binary.
    pub binary_bytes: u64,
    /// Validating and compiling.
    pub compile: Duration,
    /// Loading and executing.
    pub run: Duration,
}

const LENGTH: u32 = 16;
/// Codes: `x + x` at twice the scale has the codes of `x`.
const SCALE: f32 = 1.0 / 64.0;
const ZERO_POINT: i32 = 128;

fn graph() -> QnnGraph {
    let mut g = QnnGraph::new("selftest");
    let tensor = |name: &str, kind, scale| QnnTensor {
        name: name.to_owned(),
        kind,
        dtype: DataType::UFixed8,
        dims: vec![1, LENGTH],
        encoding: Encoding::per_tensor(scale, ZERO_POINT),
        data: None,
    };
    let x = g.add_tensor(tensor(&crate::names::input(0, "x"), TensorKind::AppWrite, SCALE));
    let y = g.add_tensor(tensor(&crate::names::output("y"), TensorKind::AppRead, 2.0 * SCALE));
    let (name, op) = ("add".to_owned(), "ElementWiseAdd".to_owned());
    g.add_node(QnnNode { name, op, params: Vec::new(), inputs: vec![x, x], outputs: vec![y] });
    g
}

/// Validates, compiles, loads and executes one addition for `soc`, and checks what comes out.
///
/// # Errors
/// [`QnnError`]: what the library says, or numbers that are wrong.
pub fn self_test(library: &dyn QnnLibrary, soc: Soc) -> Result<SelfTest, QnnError> {
    let graph = graph();
    let start = Instant::now();
    if let Some(Verdict::Refused(why)) = library.validate(&graph, &[0], soc)?.into_iter().next() {
        return Err(QnnError::Mismatch(format!("Qualcomm's library refuses an addition of 8-bit tensors: {why}")));
    }
    let name = graph.name.clone();
    let composed = library.compose(&[graph], &ComposeOptions::new(soc), &mut |_| {})?;
    let compile = start.elapsed();
    let start = Instant::now();
    let (context, _) = library.load(composed.binary(), Some(soc))?;
    let x: Vec<u8> = (0..LENGTH).map(|i| (i * 16) as u8).collect();
    let mut y = vec![0u8; x.len()];
    let done = library.execute(context, &name, &[&x], &mut [&mut y], ProfileLevel::Off);
    library.unload(context)?;
    done?;
    if x.iter().zip(&y).any(|(x, y)| x.abs_diff(*y) > 1) {
        return Err(QnnError::Mismatch(format!("Qualcomm's library adds {x:?} to itself and finds {y:?}")));
    }
    Ok(SelfTest { soc, binary_bytes: composed.binary().len() as u64, compile, run: start.elapsed() })
}

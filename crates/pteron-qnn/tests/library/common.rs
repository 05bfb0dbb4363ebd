//! A small quantized graph, and the library opened for tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pteron_qnn::graph::{DataType, Encoding, QnnGraph, QnnNode, QnnTensor, ScaleOffset, TensorKind};
use pteron_qnn::soc::Soc;
use pteron_qnn::{HostOptions, Origin, QnnError, QnnLibrary, Sdk, WorkerCommand};

pub(crate) const IN: usize = 16;
pub(crate) const OUT: usize = 4;
pub(crate) const ROWS: usize = 2;

/// The phone that ExecuTorch compiles for by default.
pub(crate) fn soc() -> Soc {
    Soc::by_name("SM8650").expect("it is in the table")
}

/// The options for the libraries in `folder`; `fault` is injected in the worker.
pub(crate) fn options(folder: &Path, fault: Option<&str>) -> HostOptions {
    let sdk = Sdk::at(folder, Origin::Argument).expect("the folder holds the library");
    let mut worker = WorkerCommand::new(env!("CARGO_BIN_EXE_pteron-qnn-worker"));
    if let Some(fault) = fault {
        worker.args.extend(["--fault".into(), fault.into()]);
    }
    HostOptions { sdk, worker, timeout: Duration::from_secs(120) }
}

pub(crate) fn host(folder: &Path) -> Arc<dyn QnnLibrary> {
    options(folder, None).open().unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

pub(crate) fn sentence(error: &QnnError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() < 600, "no sentence: {text:?}");
    text
}

/// Weights in [-127, 127], a row for each output.
pub(crate) fn weights() -> Vec<i8> {
    (0..IN * OUT).map(|i| (((i * 37) % 255) as i32 - 127) as i8).collect()
}

pub(crate) const X_SCALE: f32 = 4.0 / 255.0;
pub(crate) const Y_SCALE: f32 = 16.0 / 255.0;
pub(crate) const ZERO_POINT: i32 = 128;

pub(crate) fn weight_scales() -> Vec<f32> {
    (0..OUT).map(|n| 0.01 * (n + 1) as f32 / 4.0).collect()
}

fn activation(name: &str, kind: TensorKind, columns: usize, scale: f32) -> QnnTensor {
    QnnTensor {
        name: name.to_owned(),
        kind,
        dtype: DataType::UFixed8,
        dims: vec![ROWS as u32, columns as u32],
        encoding: Encoding::per_tensor(scale, ZERO_POINT),
        data: None,
    }
}

/// `y = x · wᵀ`, u8 activations and i8 weights with a scale for each output.
pub(crate) fn linear(name: &str) -> QnnGraph {
    let mut g = QnnGraph::new(name);
    let x = g.add_tensor(activation("input_0_x@0", TensorKind::AppWrite, IN, X_SCALE));
    let scales = weight_scales().into_iter().map(|scale| ScaleOffset { scale, offset: 0 }).collect();
    let w = g.add_tensor(QnnTensor {
        name: "w".to_owned(),
        kind: TensorKind::Static,
        dtype: DataType::SFixed8,
        dims: vec![OUT as u32, IN as u32],
        encoding: Encoding::AxisScaleOffset { axis: 0, scales },
        data: Some(weights().iter().map(|v| *v as u8).collect::<Vec<_>>().into()),
    });
    let y = g.add_tensor(activation("output_y@0", TensorKind::AppRead, OUT, Y_SCALE));
    let (node, op) = ("linear".to_owned(), "FullyConnected".to_owned());
    g.add_node(QnnNode { name: node, op, params: Vec::new(), inputs: vec![x, w], outputs: vec![y] });
    g
}

pub(crate) fn input() -> Vec<u8> {
    (0..ROWS * IN).map(|i| ((i * 53 + 11) % 256) as u8).collect()
}

/// What integers give exactly, rounded once.
pub(crate) fn expected() -> Vec<u8> {
    let (x, w, scales) = (input(), weights(), weight_scales());
    let mut out = Vec::new();
    for row in 0..ROWS {
        for n in 0..OUT {
            let products = (0..IN).map(|k| (i32::from(x[row * IN + k]) - ZERO_POINT) * i32::from(w[n * IN + k]));
            let sum: i32 = products.sum();
            let real = f64::from(sum) * f64::from(X_SCALE) * f64::from(scales[n]) / f64::from(Y_SCALE);
            out.push((real.round_ties_even() as i32 + ZERO_POINT).clamp(0, 255) as u8);
        }
    }
    out
}

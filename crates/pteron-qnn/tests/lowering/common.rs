//! Quantizing, compiling and running modules on Qualcomm's library.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pteron_exec::{Delegates, Session, SessionOptions, Value, ValueRef};
use pteron_ir::Module;
use pteron_qnn::lower::LinearForm;
use pteron_qnn::partition::{CompileError, CompileOptions, Compiled, compile, compile_specs};
use pteron_qnn::soc::Soc;
use pteron_qnn::spec::HtpOptions;
use pteron_qnn::{ComposeOptions, HostOptions, Origin, QnnBackend, QnnLibrary, Sdk, WorkerCommand};
use pteron_quant::pt2e::{Calibration, PreparedGraph};
use pteron_testkit::{QNN_RELEASES, qnn_libraries};

pub(crate) fn soc() -> Soc {
    Soc::by_name("SM8650").unwrap()
}

/// The libraries of all releases, each by its name: no test's verdict depends on which it is. Where the first one is not there,
/// the skip log says so and there are none.
pub(crate) fn libraries(test: &str) -> Vec<(&'static str, Arc<dyn QnnLibrary>)> {
    let open = |release| qnn_libraries(test, release).map(|f| (release, open(&f)));
    QNN_RELEASES.into_iter().map_while(open).collect()
}

pub(crate) fn open(folder: &Path) -> Arc<dyn QnnLibrary> {
    let sdk = Sdk::at(folder, Origin::Argument).unwrap();
    let worker = WorkerCommand::new(env!("CARGO_BIN_EXE_pteron-qnn-worker"));
    HostOptions { sdk, worker, timeout: Duration::from_secs(300) }
        .open()
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// Shows observers what a module computes of these inputs.
pub(crate) fn calibrate(module: &Module, prepared: &mut PreparedGraph, inputs: &[Vec<Value>]) {
    let graph = &module.graphs[0];
    let mut session = Session::new(Arc::new(module.clone()), &SessionOptions::with_threads(2)).unwrap();
    for inputs in inputs {
        let mut hook = Calibration::new(prepared);
        hook.inputs(graph, inputs).unwrap();
        let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
        session.run_watched(&graph.name, &given, &mut hook).unwrap();
        hook.finish().unwrap();
    }
}

/// The module with its parts as delegates.
pub(crate) fn compiled(
    library: &Arc<dyn QnnLibrary>,
    module: &Module,
    form: LinearForm,
    quantized_io: bool,
) -> Result<(Module, Compiled), CompileError> {
    let mut module = module.clone();
    let options = CompileOptions {
        form,
        compose: ComposeOptions::new(soc()),
        quantized_io,
        shards: None,
        require_full_delegation: false,
    };
    let done =
        compile(&mut module, library.as_ref(), &options, &compile_specs(soc(), HtpOptions::default()), &mut |_| {})?;
    pteron_ir::verify::module(&module).unwrap_or_else(|e| panic!("{e}"));
    Ok((module, done))
}

pub(crate) fn session(library: &Arc<dyn QnnLibrary>, module: &Module) -> Session {
    let mut options = SessionOptions::with_threads(2);
    options.delegates = Delegates::none().with(QnnBackend::with_library(Arc::clone(library)));
    Session::new(Arc::new(module.clone()), &options).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn run(session: &mut Session, method: &str, inputs: &[Value]) -> Vec<f64> {
    let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
    session.run(method, &given).unwrap_or_else(|e| panic!("{e}")).tensor(0).unwrap().to_f64_vec()
}

pub(crate) fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

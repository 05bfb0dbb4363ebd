//! Runs every file of `filetests/`: the commands of `pteron_ir::filetest`, and `quantize SCHEME,…`, which prepares the module for
//! these schemes (with `; compat: et0.5` by the numbers of that release), runs it three times over waves of growing height as
//! calibration, and converts it. After `; ---` stands the converted module.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, Value, ValueRef};
use pteron_ir::filetest::{Case, Command, Output, Registry};
use pteron_ir::{Graph, Module, Type, print};
use pteron_quant::pt2e::{Calibration, convert_module, parameters, prepare_module};
use pteron_quant::quantizer::{ComposableQuantizer, Quantizer, of_scheme};
use pteron_quant::scheme::{Compat, Scheme};
use pteron_tensor::{Scalar, Tensor};

struct Quantize;

/// A wave for floats, 0 1 2 0 1 2 … for ints.
fn input(graph: &Graph, ty: &Type, height: f64) -> Result<Value, String> {
    let Type::Tensor(t) = ty else { return Err(format!("graph `{}` has an input that is no tensor", graph.name)) };
    let sizes = t.dims.iter().map(|d| d.as_const().and_then(|c| usize::try_from(c).ok()));
    let sizes: Vec<usize> = sizes.collect::<Option<_>>().ok_or("an input has no fixed sizes")?;
    let mut tensor = Tensor::zeros(t.dtype, &sizes).map_err(|e| e.to_string())?;
    for i in 0..tensor.numel() {
        let wave = f64::from((height * (0.37 * i as f64).sin() + 0.2) as f32);
        let x = if t.dtype.is_float() { Scalar::Float(wave) } else { Scalar::Int((i % 3) as i64) };
        tensor.view_mut().set_scalar(i, x).ok_or("past the end")?;
    }
    Ok(Value::Tensor(tensor))
}

fn quantize(module: &mut Module, schemes: &str, compat: Compat) -> Result<(), String> {
    let mut quantizers: Vec<Box<dyn Quantizer>> = Vec::new();
    for scheme in Scheme::parse_list(schemes).map_err(|e| e.to_string())? {
        let specs = scheme.specs(compat).map_err(|e| e.to_string())?;
        quantizers.extend(of_scheme(scheme.name, &specs)?);
    }
    let mut prepared = prepare_module(module, &ComposableQuantizer::new(quantizers)).map_err(|e| e.to_string())?;
    let session = Session::new(Arc::new(module.clone()), &SessionOptions::with_threads(1));
    let mut session = session.map_err(|e| e.to_string())?;
    for (graph, prepared) in module.graphs.iter().zip(&mut prepared) {
        for height in [1.0, 1.5, 2.0] {
            let types = graph.inputs.iter().map(|&v| graph.ty(v));
            let values = types.map(|ty| input(graph, ty, height)).collect::<Result<Vec<_>, _>>()?;
            let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
            let mut hook = Calibration::new(prepared);
            hook.inputs(graph, &values).map_err(|e| e.to_string())?;
            session.run_watched(&graph.name, &refs, &mut hook).map_err(|e| e.to_string())?;
            hook.finish().map_err(|e| e.to_string())?;
        }
    }
    let params = module.graphs.iter().zip(&prepared).map(|(g, p)| parameters(g, p));
    let params = params.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    convert_module(module, &prepared, &params).map(drop).map_err(|e| e.to_string())
}

impl Command for Quantize {
    fn name(&self) -> &str {
        "quantize"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let mut parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        let compat = case.setting("compat").map_or(Some(Compat::default()), Compat::from_name);
        let compat = compat.ok_or("unknown release")?;
        Ok(match quantize(&mut parsed.module, case.args, compat) {
            Ok(()) => Output::Text(print::module(&parsed.module)),
            Err(e) => Output::Text(format!("; error: {e}\n")),
        })
    }
}

#[test]
fn every_file_is_as_its_commands_say() {
    let mut registry = Registry::default();
    registry.add(Quantize);
    pteron_testkit::filetests::every(env!("CARGO_MANIFEST_DIR"), 6, |files, bless| {
        registry.run(files.iter().copied(), bless)
    });
}

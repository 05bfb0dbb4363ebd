//! Static Llama programs on a session.

use pteron_exec::{NodeHook, Session, ValueRef};
use pteron_llm::metadata::ConstantValue;
use pteron_llm::runner::DecoderError;
use pteron_llm::static_llama::{
    Element, KV_FORWARD, LogitsCode, PREFILL_FORWARD, Port, StaticForm, StaticLlama, StaticMethod, StaticProgram,
};
use pteron_models::SLIDING_WINDOW;
use pteron_program::{InputSlot, OutputSlot};
use pteron_tensor::{AlignedBytes, DType, Tensor};

use crate::error::Error;
use crate::program::Program;

/// The methods of a static Llama among `known`, if that is what the program is.
pub(crate) fn methods(known: &[&str]) -> Option<Vec<String>> {
    let has = |name: &&str| known.contains(name);
    has(&KV_FORWARD).then(|| [KV_FORWARD, PREFILL_FORWARD].iter().filter(|n| has(n)).map(|n| (*n).to_owned()).collect())
}

fn element(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::I64 => Element::I64,
        DType::I32 => Element::I32,
        DType::U8 => Element::U8,
        DType::U16 => Element::U16,
        DType::F32 => Element::F32,
        _ => return None,
    })
}

fn dtype(element: Element) -> DType {
    match element {
        Element::I64 => DType::I64,
        Element::I32 => DType::I32,
        Element::U8 => DType::U8,
        Element::U16 => DType::U16,
        Element::F32 => DType::F32,
    }
}

/// Positions in the module's graph of a method's inputs and outputs, in the program's order.
#[derive(Debug, Clone)]
struct Places {
    method: String,
    inputs: Vec<(usize, Port)>,
    outputs: Vec<usize>,
}

/// What a method takes and gives; `None` if there are values that no static Llama has.
fn describe(program: &Program, method: &str) -> Option<(StaticMethod, Places)> {
    let (graph, io) = (program.module().graph(method)?, program.io(method)?);
    let port = |v: pteron_ir::ValueId| -> Option<Port> {
        let t = graph.ty(v).as_tensor()?;
        let sizes = t.dims.iter().map(|d| d.as_const().and_then(|n| usize::try_from(n).ok()));
        Some(Port { element: element(t.dtype)?, shape: sizes.collect::<Option<_>>()? })
    };
    let mut inputs = Vec::new();
    for slot in &io.inputs {
        let InputSlot::Graph { position, .. } = slot else { return None };
        inputs.push((*position, port(*graph.inputs.get(*position)?)?));
    }
    let mut outputs = Vec::new();
    for slot in &io.outputs {
        let OutputSlot::Graph { position } = slot else { return None };
        outputs.push((*position, port(*graph.outputs().get(*position)?)?));
    }
    let described = StaticMethod {
        name: method.to_owned(),
        inputs: inputs.iter().map(|i| i.1.clone()).collect(),
        outputs: outputs.iter().map(|o| o.1.clone()).collect(),
    };
    let places = Places { method: method.to_owned(), inputs, outputs: outputs.iter().map(|o| o.0).collect() };
    Some((described, places))
}

/// A static Llama with where its methods' tensors are in the session.
#[derive(Debug)]
pub(crate) struct StaticDecoder {
    llama: StaticLlama,
    places: Vec<Places>,
}

/// What the constant methods say of the logits' codes.
fn logits_code(program: &Program) -> Option<LogitsCode> {
    let methods = crate::program::constant_methods(program.module());
    let one = |name: &str| methods.get(name).and_then(|v| v.first()).cloned();
    let ConstantValue::Float(scale) = one("get_logits_scale")? else { return None };
    let ConstantValue::Int(zero_point) = one("get_logits_zero_point")? else { return None };
    Some(LogitsCode { scale, zero_point })
}

/// What the constant methods say of sliding windows.
pub(crate) fn window(module: &pteron_ir::Module) -> Option<usize> {
    let methods = crate::program::constant_methods(module);
    match methods.get(SLIDING_WINDOW).and_then(|v| v.first()) {
        Some(ConstantValue::Int(window)) => usize::try_from(*window).ok().filter(|w| *w > 0),
        _ => None,
    }
}

impl StaticDecoder {
    /// The static Llama of a program's prepared methods; `None` if it is none.
    ///
    /// # Errors
    /// [`Error::NotText`] if it begins as one and then is none.
    pub(crate) fn of(program: &Program) -> Result<Option<StaticDecoder>, Error> {
        let known: Vec<&str> = program.module().graphs.iter().map(|g| g.name.as_str()).collect();
        let Some(methods) = methods(&known) else { return Ok(None) };
        let not_text = |method: &str, reason: String| Error::NotText {
            path: program.path().to_owned(),
            method: method.to_owned(),
            reason,
        };
        let (mut forms, mut places) = (Vec::new(), Vec::new());
        for method in &methods {
            let Some((described, place)) = describe(program, method) else { return Ok(None) };
            match StaticForm::of(described).map_err(|e| not_text(method, e.to_string()))? {
                Some(form) => forms.push(form),
                None => return Ok(None),
            }
            places.push(place);
        }
        let mut forms = forms.into_iter();
        let Some(decode) = forms.next() else { return Ok(None) };
        let llama = StaticLlama::new(decode, forms.next(), logits_code(program), window(program.module()));
        let llama = llama.map_err(|e| not_text(KV_FORWARD, e.to_string()))?;
        Ok(Some(StaticDecoder { llama, places }))
    }

    /// Tokens of a call, and of a conversation.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.llama.ar_len(), self.llama.context())
    }

    /// Forgets the conversation.
    pub(crate) fn reset(&mut self) {
        self.llama.reset();
    }

    /// [`StaticLlama::step`] on the program's session, with a hook around every node.
    pub(crate) fn step(
        &mut self,
        program: &mut Program,
        tokens: &[i64],
        start: i64,
        hook: &mut dyn NodeHook,
    ) -> Result<Vec<f32>, DecoderError> {
        let mut called = Called { session: program.session(), places: &self.places, hook };
        self.llama.step(&mut called, tokens, start)
    }
}

/// Methods on a session.
struct Called<'a> {
    session: &'a mut Session,
    places: &'a [Places],
    hook: &'a mut dyn NodeHook,
}

impl StaticProgram for Called<'_> {
    fn call(&mut self, method: &str, inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>) -> Result<(), DecoderError> {
        let places = self.places.iter().find(|p| p.method == method).ok_or("there is no such method")?;
        let mut tensors: Vec<Option<Tensor>> = vec![None; places.inputs.len()];
        for ((position, port), bytes) in places.inputs.iter().zip(inputs) {
            let tensor = Tensor::from_bytes(dtype(port.element), &port.shape, AlignedBytes::copied(bytes))?;
            *tensors.get_mut(*position).ok_or("an input has no place")? = Some(tensor);
        }
        let tensors: Vec<Tensor> = tensors.into_iter().collect::<Option<_>>().ok_or("an input is missing")?;
        let given: Vec<ValueRef<'_>> = tensors.iter().map(|t| ValueRef::Tensor(t.view())).collect();
        let results = self.session.run_watched(method, &given, self.hook)?;
        outputs.clear();
        for &position in &places.outputs {
            let view = results.tensor(position).ok_or("an output is no tensor")?;
            if !view.is_contiguous() {
                return Err("an output is not row-major".into());
            }
            let len = view.dtype().bytes_for(view.numel()).ok_or("an output's size overflows")?;
            outputs.push(view.bytes().get(..len).ok_or("an output is too short")?.to_vec());
        }
        Ok(())
    }
}

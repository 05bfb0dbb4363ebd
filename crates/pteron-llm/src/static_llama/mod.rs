//! Programs of a *static Llama*, as ExecuTorch's Qualcomm scripts make them: every size is fixed, caches are inputs and
//! outputs, and a mask says which of their columns hold tokens.
//!
//! Such a program has a method for one token, `kv_forward`, and perhaps one for several, `prefill_forward`. Each call gives
//! the logits and the new columns, which the caller keeps. Two ways to keep them ([`CacheUpdate`]) are known from
//! ExecuTorch's runners; attention does not depend on the order of columns, so both give the same text.

mod form;

pub use form::{Element, Port, StaticForm, StaticMethod};

use crate::runner::DecoderError;
use form::CacheShape;

/// The method for one token.
pub const KV_FORWARD: &str = "kv_forward";
/// The method for several tokens.
pub const PREFILL_FORWARD: &str = "prefill_forward";

/// A program that is no static Llama after all, or is called as none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StaticError {
    /// A method's types.
    #[error("method `{method}`, a static Llama's by its first inputs: found {what}")]
    Method {
        /// The method.
        method: String,
        /// What was found and what was expected.
        what: String,
    },
    /// Two methods that do not go together.
    #[error("methods `{decode}` and `{prefill}` of a static Llama do not go together: {what}")]
    Pair {
        /// The method for one token.
        decode: String,
        /// The method for several.
        prefill: String,
        /// What differs.
        what: String,
    },
    /// Logits as codes without their scale.
    #[error(
        "method `{method}` gives logits as codes of {bits} bits, and the program does not say what they stand for \
         (get_logits_scale and get_logits_zero_point)"
    )]
    NoLogitsScale {
        /// The method.
        method: String,
        /// Width of a code.
        bits: usize,
    },
    /// A mask for sliding windows of unknown length.
    #[error(
        "method `{method}` takes a mask for sliding windows, and the program does not say how long they are (get_sliding_window)"
    )]
    NoWindow {
        /// The method.
        method: String,
    },
    /// A position that was not reached, or one past the context.
    #[error(
        "found position {position} with {tokens} tokens, expected at most {reached} and an end of at most {context}"
    )]
    Position {
        /// The position.
        position: i64,
        /// Tokens of the call.
        tokens: usize,
        /// Tokens that the caches hold.
        reached: usize,
        /// Columns of the context.
        context: usize,
    },
    /// The program gave another number of bytes.
    #[error("method `{method}`: output {output} has {found} bytes, expected {expected}")]
    Output {
        /// The method.
        method: String,
        /// The output.
        output: usize,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A token that no input can hold.
    #[error("token id {0} does not fit the program's input")]
    Token(i64),
}

/// Where new columns go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUpdate {
    /// Each token keeps its column; the mask opens the first ones. What ExecuTorch's runner does today.
    SmartMask,
    /// The newest token is always in the last column, older ones move down; the mask opens the last ones. What the runners
    /// of releases up to 0.7 did for caches of single heads, by moving pointers.
    ShiftPointer,
}

/// What codes of logits stand for: real = (code - zero_point) · scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitsCode {
    /// `get_logits_scale`.
    pub scale: f64,
    /// `get_logits_zero_point`.
    pub zero_point: i64,
}

/// A program that methods of a static Llama can be called on.
pub trait StaticProgram {
    /// Calls `method` with the bytes of each input, and puts the bytes of each output into `outputs`.
    ///
    /// # Errors
    /// What the program gives.
    fn call(&mut self, method: &str, inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>) -> Result<(), DecoderError>;
}

/// A cache with one column for each token of the context, in the order of positions.
#[derive(Clone, Debug)]
struct Cache {
    shape: CacheShape,
    /// `outer` pieces of `context` columns.
    bytes: Vec<u8>,
}

/// Fills with what stands for 0 in a cache: codes are symmetric, around half of their range.
fn fill_with_zero(element: Element, bytes: &mut [u8]) {
    match element {
        Element::U8 => bytes.fill(0x80),
        Element::U16 => bytes.chunks_exact_mut(2).for_each(|c| c.copy_from_slice(&0x8000u16.to_le_bytes())),
        Element::I32 | Element::I64 | Element::F32 => bytes.fill(0),
    }
}

/// Copies `count` columns of every piece.
#[derive(Clone, Copy)]
struct Columns {
    outer: usize,
    inner: usize,
}

impl Columns {
    /// From column `from` of `source`, whose pieces have `source_columns`, to column `to` of `target`.
    fn copy(
        self,
        (source, source_columns, from): (&[u8], usize, usize),
        (target, target_columns, to): (&mut [u8], usize, usize),
        count: usize,
    ) {
        let bytes = count * self.inner;
        for piece in 0..self.outer {
            let s = (piece * source_columns + from) * self.inner;
            let t = (piece * target_columns + to) * self.inner;
            target[t..t + bytes].copy_from_slice(&source[s..s + bytes]);
        }
    }
}

/// The caches of a conversation, and how a static Llama's methods are called with them.
#[derive(Debug)]
pub struct StaticLlama {
    decode: StaticForm,
    prefill: Option<StaticForm>,
    update: CacheUpdate,
    logits: Option<LogitsCode>,
    /// Tokens that a layer with a sliding window sees.
    window: usize,
    caches: Vec<Cache>,
    reached: usize,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

/// What a masked column gets in floats, which ExecuTorch's runner uses as well.
const MASKED: f32 = -65535.0;

impl StaticLlama {
    /// A conversation without tokens. `prefill`, if there is one, takes more tokens a call than `decode`; `window` is what
    /// `get_sliding_window` says.
    ///
    /// # Errors
    /// [`StaticError::Pair`], [`StaticError::NoLogitsScale`] or [`StaticError::NoWindow`].
    pub fn new(
        decode: StaticForm,
        prefill: Option<StaticForm>,
        logits: Option<LogitsCode>,
        window: Option<usize>,
    ) -> Result<StaticLlama, StaticError> {
        for form in std::iter::once(&decode).chain(&prefill) {
            if form.window_mask.is_some() && window.is_none() {
                return Err(StaticError::NoWindow { method: form.method.name.clone() });
            }
            let element = form.method.outputs.first().map_or(Element::F32, |p| p.element);
            if element != Element::F32 && logits.is_none() {
                let (method, bits) = (form.method.name.clone(), element.bytes() * 8);
                return Err(StaticError::NoLogitsScale { method, bits });
            }
        }
        if let Some(prefill) = &prefill {
            let pair = |what: &str| StaticError::Pair {
                decode: decode.method.name.clone(),
                prefill: prefill.method.name.clone(),
                what: what.to_owned(),
            };
            if (decode.context, decode.vocab) != (prefill.context, prefill.vocab) {
                return Err(pair("their contexts or vocabularies differ"));
            }
            let key = |f: &StaticForm| f.caches.iter().map(|c| (c.element, c.outer, c.inner)).collect::<Vec<_>>();
            if key(&decode) != key(prefill) {
                return Err(pair("their caches differ"));
            }
            if prefill.ar_len <= decode.ar_len {
                return Err(pair("the second takes no more tokens than the first"));
            }
        }
        // Caches of single heads, [1, head_dim, columns], are those of old programs.
        let is_old = decode.method.inputs.iter().skip(decode.leading()).all(|p| p.shape.len() == 3);
        let update = if is_old { CacheUpdate::ShiftPointer } else { CacheUpdate::SmartMask };
        let context = decode.context;
        let cache = |shape: &CacheShape| Cache { shape: *shape, bytes: vec![0; shape.outer * shape.inner * context] };
        let caches = decode.caches.iter().map(cache).collect();
        let mut llama = StaticLlama {
            decode,
            prefill,
            update,
            logits,
            window: window.unwrap_or(usize::MAX),
            caches,
            reached: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        llama.reset();
        Ok(llama)
    }

    /// The same with another way to keep columns.
    #[must_use]
    pub fn with_update(self, update: CacheUpdate) -> StaticLlama {
        StaticLlama { update, ..self }
    }

    /// How columns are kept.
    pub fn update(&self) -> CacheUpdate {
        self.update
    }

    /// The most tokens of a call.
    pub fn ar_len(&self) -> usize {
        self.prefill.as_ref().map_or(self.decode.ar_len, |p| p.ar_len)
    }

    /// Tokens that a conversation can have.
    pub fn context(&self) -> usize {
        self.decode.context
    }

    /// Forgets the conversation.
    pub fn reset(&mut self) {
        self.reached = 0;
        self.caches.iter_mut().for_each(|c| fill_with_zero(c.shape.element, &mut c.bytes));
    }

    /// Passes tokens from position `start` on, and gives a row of logits for each of them. What the caches hold from there on
    /// is forgotten.
    ///
    /// # Errors
    /// [`StaticError::Position`] if `start` was not reached or the end is past the context, [`StaticError::Token`], and what
    /// the program gives.
    pub fn step(
        &mut self,
        program: &mut dyn StaticProgram,
        tokens: &[i64],
        start: i64,
    ) -> Result<Vec<f32>, DecoderError> {
        let context = self.decode.context;
        let begin = usize::try_from(start).ok().filter(|s| *s <= self.reached && s + tokens.len() <= context);
        let Some(begin) = begin else {
            let (tokens, reached) = (tokens.len(), self.reached);
            return Err(StaticError::Position { position: start, tokens, reached, context }.into());
        };
        self.reached = begin;
        let mut logits = Vec::with_capacity(tokens.len() * self.decode.vocab);
        let mut rest = tokens;
        while !rest.is_empty() {
            // Where the past does not leave the longer call its columns, the shorter one goes on.
            let fits = |f: &&StaticForm| rest.len() > 1 && self.reached + f.ar_len <= context;
            let form = self.prefill.as_ref().filter(fits).unwrap_or(&self.decode).clone();
            let (now, later) = rest.split_at(rest.len().min(form.ar_len));
            self.call(program, &form, now, &mut logits)?;
            rest = later;
        }
        Ok(logits)
    }

    fn call(
        &mut self,
        program: &mut dyn StaticProgram,
        form: &StaticForm,
        tokens: &[i64],
        logits: &mut Vec<f32>,
    ) -> Result<(), DecoderError> {
        let past = self.reached;
        if past + form.ar_len > form.context {
            let (position, tokens, reached) = (past as i64, tokens.len(), past);
            return Err(StaticError::Position { position, tokens, reached, context: form.context }.into());
        }
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.resize_with(form.leading() + self.caches.len(), Vec::new);
        let (leading, caches) = inputs.split_at_mut(form.leading());
        let [ids, masks @ .., positions] = leading else { return Ok(()) };
        let element = |at: usize| form.method.inputs.get(at).map_or(Element::I32, |p| p.element);
        integers(element(0), tokens.iter().copied().chain(std::iter::repeat(0)).take(form.ar_len), ids)?;
        integers(element(form.leading() - 1), (past as i64..).take(form.ar_len), positions)?;
        for (out, (element, window)) in
            masks.iter_mut().zip([(Some(form.mask), usize::MAX), (form.window_mask, self.window)])
        {
            self.mask(form, element.unwrap_or(form.mask), window, past, out);
        }
        for ((cache, shape), out) in self.caches.iter().zip(&form.caches).zip(caches) {
            out.resize(shape.outer * shape.columns * shape.inner, 0);
            fill_with_zero(shape.element, out);
            let to = match self.update {
                CacheUpdate::SmartMask => 0,
                CacheUpdate::ShiftPointer => shape.columns - past,
            };
            let columns = Columns { outer: shape.outer, inner: shape.inner };
            columns.copy((&cache.bytes, form.context, 0), (out, shape.columns, to), past);
        }
        let given: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let done = program.call(&form.method.name, &given, &mut self.outputs);
        drop(given);
        self.inputs = inputs;
        done?;
        for (output, port) in form.method.outputs.iter().enumerate() {
            let found = self.outputs.get(output).map_or(0, Vec::len);
            if found != port.bytes() {
                let (method, expected) = (form.method.name.clone(), port.bytes());
                return Err(StaticError::Output { method, output, found, expected }.into());
            }
        }
        let Some((first, news)) = self.outputs.split_first() else { return Ok(()) };
        for ((cache, shape), new) in self.caches.iter_mut().zip(&form.caches).zip(news) {
            let columns = Columns { outer: shape.outer, inner: shape.inner };
            columns.copy((new, form.ar_len, 0), (&mut cache.bytes, form.context, past), tokens.len());
        }
        self.reached += tokens.len();
        let element = form.method.outputs.first().map_or(Element::F32, |p| p.element);
        logits.extend(reals(element, first, self.logits).take(tokens.len() * form.vocab));
        Ok(())
    }

    /// A row for each token: the columns of the past, and of the call those up to the token's own; of these the last `window`.
    fn mask(&self, form: &StaticForm, element: Element, window: usize, past: usize, out: &mut Vec<u8>) {
        let columns = form.context - form.ar_len;
        let first = match self.update {
            CacheUpdate::SmartMask => 0,
            CacheUpdate::ShiftPointer => columns - past,
        };
        out.clear();
        for row in 0..form.ar_len {
            for column in 0..form.context {
                // The position of the token in this column, if it is one.
                let position = match column {
                    c if c >= columns => Some(past + c - columns),
                    c if (first..first + past).contains(&c) => Some(c - first),
                    _ => None,
                };
                let open = position.is_some_and(|p| p <= past + row && past + row - p < window);
                match element {
                    Element::U8 => out.push(if open { u8::MAX } else { 0 }),
                    Element::U16 => out.extend((if open { u16::MAX } else { 0 }).to_le_bytes()),
                    Element::F32 | Element::I32 | Element::I64 => {
                        out.extend((if open { 0.0 } else { MASKED }).to_le_bytes());
                    }
                }
            }
        }
    }
}

fn integers(element: Element, values: impl Iterator<Item = i64>, out: &mut Vec<u8>) -> Result<(), StaticError> {
    out.clear();
    for v in values {
        match element {
            Element::I64 => out.extend(v.to_le_bytes()),
            _ => out.extend(i32::try_from(v).map_err(|_| StaticError::Token(v))?.to_le_bytes()),
        }
    }
    Ok(())
}

/// Logits as numbers.
fn reals(element: Element, bytes: &[u8], code: Option<LogitsCode>) -> impl Iterator<Item = f32> + '_ {
    let code = code.unwrap_or(LogitsCode { scale: 1.0, zero_point: 0 });
    bytes.chunks_exact(element.bytes()).map(move |c| {
        let real = |q: i64| ((q - code.zero_point) as f64 * code.scale) as f32;
        match *c {
            [b] => real(i64::from(b)),
            [a, b] => real(i64::from(u16::from_le_bytes([a, b]))),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    })
}

#[cfg(test)]
mod tests;

//! What the methods of a static Llama take and give, read from their types.

use super::StaticError;

/// Type of an element of a method's input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 64-bit integers.
    I64,
    /// 32-bit integers.
    I32,
    /// 8-bit codes.
    U8,
    /// 16-bit codes.
    U16,
    /// Single precision.
    F32,
}

impl Element {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 => 1,
            Element::U16 => 2,
            Element::I32 | Element::F32 => 4,
            Element::I64 => 8,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, Element::I32 | Element::I64)
    }
}

/// An input or output of a method: static sizes, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Type of its elements.
    pub element: Element,
    /// Its sizes.
    pub shape: Vec<usize>,
}

impl Port {
    /// Number of elements; `None` on overflow.
    fn numel(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
    }

    /// Bytes; 0 on overflow, which [`StaticForm::of`] has excluded.
    pub(super) fn bytes(&self) -> usize {
        self.numel().and_then(|n| n.checked_mul(self.element.bytes())).unwrap_or(0)
    }
}

/// A method with its inputs and outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticMethod {
    /// Its name.
    pub name: String,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order.
    pub outputs: Vec<Port>,
}

/// A cache tensor as `outer` pieces of `columns` columns of `inner` bytes each. A column is one token's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheShape {
    pub(super) element: Element,
    pub(super) outer: usize,
    pub(super) inner: usize,
    /// Columns of the past.
    pub(super) columns: usize,
}

/// What a method of a static Llama takes: tokens `[1, n]`, a mask over `context` columns for each of them, their positions
/// `[1, n]` (before them, where layers have a sliding window, a second mask), and for each layer the keys, then for each layer the values, of `context - n` columns; old programs have one
/// of each for every head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticForm {
    pub(super) method: StaticMethod,
    /// Tokens of a call.
    pub(super) ar_len: usize,
    /// Columns of the mask: those of the past, then those of the call.
    pub(super) context: usize,
    pub(super) vocab: usize,
    pub(super) mask: Element,
    /// The mask of layers with a sliding window, if there is one.
    pub(super) window_mask: Option<Element>,
    pub(super) caches: Vec<CacheShape>,
}

fn wrong(method: &StaticMethod, what: String) -> StaticError {
    StaticError::Method { method: method.name.clone(), what }
}

/// Finds the axis along which the past has `columns` and the new tokens `ar_len`.
fn cache_shape(past: &Port, new: &Port, columns: usize, ar_len: usize) -> Option<CacheShape> {
    if past.element != new.element || past.shape.len() != new.shape.len() {
        return None;
    }
    let axes = past.shape.iter().zip(&new.shape);
    // Where several axes fit, all others are equal on them, so the last one is as good as any: sizes then coincide.
    let fits = |at: &usize| {
        let others = axes.clone().enumerate().all(|(i, (p, n))| i == *at || p == n);
        others && past.shape.get(*at) == Some(&columns) && new.shape.get(*at) == Some(&ar_len)
    };
    let axis = (0..past.shape.len()).rev().find(fits)?;
    let product = |s: &[usize]| s.iter().product::<usize>();
    let (before, after) = past.shape.split_at(axis);
    let inner = product(after.get(1..).unwrap_or_default()) * past.element.bytes();
    Some(CacheShape { element: past.element, outer: product(before), inner, columns })
}

impl StaticForm {
    /// Reads a method's types; `None` if it is no static Llama's.
    ///
    /// # Errors
    /// [`StaticError::Method`] if it begins as one and then is none.
    pub fn of(method: StaticMethod) -> Result<Option<StaticForm>, StaticError> {
        let (tokens, mask, window_mask, positions, caches) = match method.inputs.as_slice() {
            [tokens, mask, second, positions, caches @ ..] if !second.element.is_integer() => {
                (tokens, mask, Some(second), positions, caches)
            }
            [tokens, mask, positions, caches @ ..] => (tokens, mask, None, positions, caches),
            _ => return Ok(None),
        };
        let is_static = tokens.element.is_integer() && positions.element.is_integer() && !mask.element.is_integer();
        if caches.is_empty() || !is_static {
            return Ok(None);
        }
        let all = method.inputs.iter().chain(&method.outputs);
        if all.clone().any(|p| p.bytes() == 0 && p.numel() != Some(0)) {
            return Err(wrong(&method, "a tensor's size overflows".to_owned()));
        }
        let (ar_len, context) = match (tokens.shape.as_slice(), mask.shape.last()) {
            ([1, n], Some(&context)) if *n > 0 && context > *n => (*n, context),
            (shape, _) => return Err(wrong(&method, format!("tokens of shape {shape:?} and a mask {:?}", mask.shape))),
        };
        if let Some(other) = window_mask.filter(|m| m.shape != mask.shape) {
            let what = format!("masks {:?} and {:?}, expected masks of one shape", mask.shape, other.shape);
            return Err(wrong(&method, what));
        }
        if mask.numel() != ar_len.checked_mul(context) || positions.numel() != Some(ar_len) {
            let what = format!(
                "a mask {:?} and positions {:?}, expected {ar_len} rows of {context} and {ar_len} positions",
                mask.shape, positions.shape
            );
            return Err(wrong(&method, what));
        }
        let [logits, news @ ..] = method.outputs.as_slice() else {
            return Err(wrong(&method, "no output".to_owned()));
        };
        let vocab = logits.shape.last().copied().unwrap_or(0);
        if vocab == 0 || logits.numel() != ar_len.checked_mul(vocab) || logits.element.is_integer() {
            let what = format!("a first output of shape {:?}, expected logits [1, {ar_len}, vocabulary]", logits.shape);
            return Err(wrong(&method, what));
        }
        if news.len() != caches.len() {
            let what = format!("{} caches and {} outputs for them", caches.len(), news.len());
            return Err(wrong(&method, what));
        }
        let columns = context - ar_len;
        let shapes = caches.iter().zip(news).map(|(past, new)| {
            cache_shape(past, new, columns, ar_len).ok_or_else(|| {
                let (past, new) = (&past.shape, &new.shape);
                wrong(
                    &method,
                    format!("a cache {past:?} with new entries {new:?}, expected {columns} columns and {ar_len}"),
                )
            })
        });
        let caches = shapes.collect::<Result<_, _>>()?;
        let (mask, window_mask) = (mask.element, window_mask.map(|m| m.element));
        Ok(Some(StaticForm { ar_len, context, vocab, mask, window_mask, caches, method }))
    }

    /// Inputs before the caches: tokens, one mask or two, positions.
    pub(super) fn leading(&self) -> usize {
        3 + usize::from(self.window_mask.is_some())
    }

    /// Tokens of a call.
    pub fn ar_len(&self) -> usize {
        self.ar_len
    }
}

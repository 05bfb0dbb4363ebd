//! *Static Llama*: every size is a constant.
//!
//! Backends without dynamic sizes run one method for one token and another for a block of tokens. Caches are inputs and
//! outputs, and the runner moves what is new into them between calls, as in ExecuTorch's
//! `examples/qualcomm/oss_scripts/llama`; or they are mutable buffers of a method for one token, as `export_llama --qnn` has it.

use std::ops::Range;
use std::sync::Arc;

use pteron_ir::{Arg, Def, GraphBuilder, MetaValue, Module, Op, TensorType, ValueId, args};
use pteron_tensor::{CastSource, DType, SourceError, TensorSource, check_rows};

use super::{Build, call, int};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::limits::MAX_ELEMENTS;
use crate::metadata;
use crate::options::{BuildOptions, StaticOptions};
use crate::rope::RopeTable;
use crate::weights::Weights;

/// The method for one token.
pub const KV_FORWARD: &str = "kv_forward";
/// The method for a block of tokens.
pub const PREFILL_FORWARD: &str = "prefill_forward";
/// The graph that is calibrated: a text as a whole, without caches. It is no method of a program.
pub const CALIBRATE_FORWARD: &str = "calibrate_forward";

/// The constant method with the tokens that a layer with a sliding window sees, itself included.
pub const SLIDING_WINDOW: &str = "get_sliding_window";

/// What a mask holds where a token does not see another: the softmax of f32 scores gives zero there, and 16 bits still resolve
/// the scores that are seen.
pub const MASKED: f32 = -255.0;

/// Tokens of a call and columns of its caches.
#[derive(Clone, Copy)]
struct Shape {
    ar: usize,
    past: usize,
    /// [`StaticOptions::single_heads`].
    single_heads: bool,
}

impl Shape {
    fn new(ar: usize, past: usize) -> Shape {
        Shape { ar, past, single_heads: false }
    }
}

/// Where earlier keys, or earlier values, of a layer are.
#[derive(Clone, Copy)]
enum Past {
    /// There are none.
    None,
    /// In an input.
    Input(ValueId),
    /// In a buffer, in which new rows are written at these positions.
    Buffer(ValueId),
}

/// Captures the model as [`KV_FORWARD`] and, if [`StaticOptions::prefill_ar_len`] is given, [`PREFILL_FORWARD`], with the
/// constant methods of ExecuTorch's static runners.
///
/// With `n` tokens a call (1, or `prefill_ar_len`), a context of `c` positions and caches of `c - n` columns, inputs are
/// `tokens` i32 `[1, n]`, `atten_mask` f32 `[1, 1, n, c]` (0 where a token sees a column, [`MASKED`] where not; the last `n`
/// columns are the call's tokens), `input_pos` i32 `[1, n]`, then for each layer `k_cache` `[1, Hkv, D, c - n]`, and for each
/// layer `v_cache` `[1, Hkv, c - n, D]`. Where layers have a sliding window shorter than the context, a second mask
/// `window_atten_mask` for them stands behind the first one, and the constant method [`SLIDING_WINDOW`] says how long the window
/// is. Outputs are logits `[1, n, vocab_size]`, for each layer the new keys
/// `[1, Hkv, D, n]`, and for each layer the new values `[1, Hkv, n, D]`.
///
/// # Errors
/// [`ModelError`] as of [`crate::build`]; sliding windows of several lengths.
pub fn build_static(
    config: &ModelConfig,
    weights: &dyn Weights,
    options: &StaticOptions,
) -> Result<Module, ModelError> {
    let context = options.max_context_length;
    let mut shapes = vec![(KV_FORWARD, Shape::new(1, context.saturating_sub(1)))];
    if let Some(ar) = options.prefill_ar_len {
        shapes.push((PREFILL_FORWARD, Shape::new(ar, context.saturating_sub(ar))));
    }
    let mut module = of_shapes(config, weights, options, &shapes)?;
    write_metadata(&mut module, config, options);
    Ok(module)
}

/// Captures [`CALIBRATE_FORWARD`]: the same layers over `tokens` tokens at once, without caches. It has the modules of
/// [`build_static`]'s methods but for those that join caches, so that what calibration learns of it holds for them.
///
/// # Errors
/// As of [`build_static`].
pub fn build_static_calibration(
    config: &ModelConfig,
    weights: &dyn Weights,
    options: &StaticOptions,
    tokens: usize,
) -> Result<Module, ModelError> {
    if !(1..=options.max_context_length).contains(&tokens) {
        return Err(ModelError::Option {
            option: "calibration_seq_length",
            found: tokens.to_string(),
            expected: format!("an integer from 1 to {} (max_context_length)", options.max_context_length),
        });
    }
    of_shapes(config, weights, options, &[(CALIBRATE_FORWARD, Shape::new(tokens, 0))])
}

/// Captures the model as one method `forward` for one token, whose caches are mutable buffers `[c, Hkv, D]`.
///
/// Inputs are `tokens` i64 `[1, 1]` and `input_pos` i64 `[1]`; the output is logits `[1, vocab_size]`. The constant methods are
/// those of [`crate::build`]. It has the modules of [`build_static_calibration`]'s graph but for the caches and the mask.
///
/// # Errors
/// As of [`build_static`].
pub fn build_static_mutable(
    config: &ModelConfig,
    weights: &dyn Weights,
    options: &StaticOptions,
) -> Result<Module, ModelError> {
    config.validate()?;
    options.validate(config)?;
    let inner = ordinary_options(options);
    let build = Build { config, options: &inner, weights };
    let mut module = Module::new(config.architecture.class_name());
    let mut b = GraphBuilder::new(&mut module, "forward");
    let logits = build.mutable_forward(&mut b, options)?;
    b.finish(&[logits]);
    metadata::write(&mut module, config, &inner);
    Ok(module)
}

/// The options of the ordinary form that say the same.
fn ordinary_options(options: &StaticOptions) -> BuildOptions {
    BuildOptions {
        dtype: options.dtype,
        use_kv_cache: true,
        dynamic_shape: false,
        max_seq_length: options.max_context_length,
        max_context_length: options.max_context_length,
        tokens: options.tokens.clone(),
        metadata: options.metadata.clone(),
        ..BuildOptions::default()
    }
}

fn of_shapes(
    config: &ModelConfig,
    weights: &dyn Weights,
    options: &StaticOptions,
    shapes: &[(&str, Shape)],
) -> Result<Module, ModelError> {
    config.validate()?;
    options.validate(config)?;
    let inner = ordinary_options(options);
    let build = Build { config, options: &inner, weights };
    let mut module = Module::new(config.architecture.class_name());
    for (name, shape) in shapes {
        let mut b = GraphBuilder::new(&mut module, name);
        let outputs = build.static_forward(&mut b, Shape { single_heads: options.single_heads, ..*shape })?;
        b.finish(&outputs);
        if let Some(window) = window(config, shape.ar + shape.past) {
            module.set_metadata(SLIDING_WINDOW, vec![MetaValue::Int(int(window))]);
        }
    }
    Ok(module)
}

impl StaticOptions {
    /// Checks the options against each other and against the model.
    ///
    /// # Errors
    /// [`ModelError::Option`] that names the option.
    pub fn validate(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let fail = |option, found: String, expected: String| Err(ModelError::Option { option, found, expected });
        let context = self.max_context_length;
        if context < 2 {
            return fail("max_context_length", context.to_string(), "an integer of at least 2".into());
        }
        if let Some(ar) = self.prefill_ar_len
            && !(2..context).contains(&ar)
        {
            let expected = format!("an integer from 2 to {} (less than max_context_length)", context - 1);
            return fail("prefill_ar_len", ar.to_string(), expected);
        }
        ordinary_options(self).validate(config)?;
        let rows = self.prefill_ar_len.unwrap_or(1) as u64;
        if rows * config.vocab_size as u64 > MAX_ELEMENTS {
            return fail("prefill_ar_len", rows.to_string(), format!("logits of at most {MAX_ELEMENTS} elements"));
        }
        if let Some(shortest) = window(config, context)
            && let Some(other) = config.windows.iter().flatten().find(|&&w| w < context && w != shortest)
        {
            let longest = shortest.max(*other);
            let expected = format!(
                "at most {longest}: the static methods have one mask for sliding windows, and this model has windows of \
                 {shortest} and {other} tokens"
            );
            return fail("max_context_length", context.to_string(), expected);
        }
        Ok(())
    }
}

/// The sliding window that is shorter than `context`, if a layer has one.
fn window(config: &ModelConfig, context: usize) -> Option<usize> {
    config.windows.iter().flatten().copied().find(|&w| w < context)
}

/// Attention of a layer: from its normed input to what it adds.
type Attention<'a> =
    dyn FnMut(&Build<'_>, &mut GraphBuilder<'_>, usize, ValueId, Rotary) -> Result<ValueId, ModelError> + 'a;

/// A mask f32 `[positions, positions]`: row `p` is 0 at column `p` and the `window - 1` columns before it, [`MASKED`] elsewhere.
#[derive(Debug)]
struct CausalMask {
    shape: [usize; 2],
    window: usize,
}

impl TensorSource for CausalMask {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let width = self.shape[1];
        for (row, out) in rows.zip(out.chunks_exact_mut((width * size_of::<f32>()).max(1))) {
            for (column, out) in out.chunks_exact_mut(size_of::<f32>()).enumerate() {
                let seen = column <= row && row - column < self.window;
                out.copy_from_slice(&if seen { 0.0f32 } else { MASKED }.to_le_bytes());
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        "mask"
    }
}

/// The rotary rows of a call, `[1, n, 1, D/2]`.
#[derive(Clone, Copy)]
struct Rotary {
    cos: ValueId,
    sin: ValueId,
}

impl Build<'_> {
    /// Logits, new keys, new values.
    fn static_forward(&self, b: &mut GraphBuilder<'_>, shape: Shape) -> Result<Vec<ValueId>, ModelError> {
        let c = self.config;
        let (ar, context) = (shape.ar, shape.ar + shape.past);
        let tokens = b.input("tokens", TensorType::fixed(DType::I32, &[1, ar]));
        let mask_type = TensorType::fixed(self.options.dtype, &[1, 1, ar, context]);
        let mask = b.input("atten_mask", mask_type.clone());
        let window_mask = window(c, context).map(|_| b.input("window_atten_mask", mask_type));
        let pos = b.input("input_pos", TensorType::fixed(DType::I32, &[1, ar]));
        let mut caches = |prefix: &str, sizes: [usize; 4]| -> Vec<ValueId> {
            let ty = TensorType::fixed(self.options.dtype, &sizes);
            let count = if shape.past == 0 { 0 } else { c.n_layers };
            (0..count).map(|i| b.input(&format!("{prefix}_{i}"), ty.clone())).collect()
        };
        let k_caches = caches("k_cache", [1, c.n_kv_heads, c.head_dim, shape.past]);
        let v_caches = caches("v_cache", [1, c.n_kv_heads, shape.past, c.head_dim]);

        let past = |caches: &[ValueId], layer: usize| caches.get(layer).map_or(Past::None, |&v| Past::Input(v));
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let logits = self.layers(b, tokens, pos, ar, &mut |build, b, layer, x, rotary| {
            let past = [past(&k_caches, layer), past(&v_caches, layer)];
            let mask = self.mask_of(layer, context, mask, window_mask);
            let (out, k, v) = build.static_attention(b, x, rotary, mask, past, pos, shape)?;
            keys.push(k);
            values.push(v);
            Ok(out)
        })?;
        Ok(std::iter::once(logits).chain(keys).chain(values).collect())
    }

    /// The logits of one token.
    fn mutable_forward(&self, b: &mut GraphBuilder<'_>, options: &StaticOptions) -> Result<ValueId, ModelError> {
        let (c, context) = (self.config, self.options.max_context_length);
        let tokens = b.input("tokens", TensorType::fixed(DType::I64, &[1, 1]));
        let pos = b.input("input_pos", TensorType::fixed(DType::I64, &[1]));
        let mut rows = |name: &str, window: usize| {
            b.scope(name, |b| {
                let table = self.shared_table(b, CausalMask { shape: [context, context], window });
                let row = call(b, Op::Index, [table.into(), Arg::tensors(&[pos])])?;
                call(b, Op::ViewCopy, args![row, Arg::ints(&[1, 1, 1, int(context)])])
            })
        };
        let mask = rows("mask", context)?;
        let window_mask = window(c, context).map(|w| rows("window_mask", w)).transpose()?;
        let shape = Shape { single_heads: options.single_heads, ..Shape::new(1, context - 1) };
        let logits = self.layers(b, tokens, pos, 1, &mut |build, b, layer, x, rotary| {
            let mask = build.mask_of(layer, context, mask, window_mask);
            let past = ["k_cache", "v_cache"].map(|name| {
                let name = b.path_of(&format!("kv_cache.{name}"));
                let ty = TensorType::fixed(build.options.dtype, &[context, c.n_kv_heads, c.head_dim]);
                let buffer = b.module_mut().add_buffer(&name, ty);
                Past::Buffer(b.buffer(buffer))
            });
            Ok(build.static_attention(b, x, rotary, mask, past, pos, shape)?.0)
        })?;
        b.scope("lm_head", |b| call(b, Op::ViewCopy, args![logits, Arg::ints(&[1, int(c.vocab_size)])]))
    }

    /// The mask of a layer.
    fn mask_of(&self, layer: usize, context: usize, mask: ValueId, window_mask: Option<ValueId>) -> ValueId {
        let is_windowed = self.config.windows.get(layer).is_some_and(|w| w.is_some_and(|w| w < context));
        window_mask.filter(|_| is_windowed).unwrap_or(mask)
    }

    /// From tokens to logits, with `attention` for that of each layer.
    fn layers(
        &self,
        b: &mut GraphBuilder<'_>,
        tokens: ValueId,
        pos: ValueId,
        ar: usize,
        attention: &mut Attention<'_>,
    ) -> Result<ValueId, ModelError> {
        let c = self.config;
        let (x, embedding) = b.scope("model", |b| {
            let (mut x, embedding) = b.scope("embed_tokens", |b| {
                let weight = self.weight(b, &[c.vocab_size, c.dim])?;
                Ok::<_, ModelError>((call(b, Op::Embedding, args![weight, tokens])?, weight))
            })?;
            let rotary = self.rotary(b, pos, ar)?;
            for layer in 0..c.n_layers {
                x = b.scope(&format!("layers.{layer}"), |b| {
                    let normed = b.scope("input_layernorm", |b| self.norm(b, x, c.dim))?;
                    let attended = b.scope("self_attn", |b| attention(self, b, layer, normed, rotary))?;
                    let x = call(b, Op::Add, args![x, attended])?;
                    let normed = b.scope("post_attention_layernorm", |b| self.norm(b, x, c.dim))?;
                    let fed = b.scope("mlp", |b| self.feed_forward(b, normed))?;
                    call(b, Op::Add, args![x, fed])
                })?;
            }
            let x = b.scope("norm", |b| self.norm(b, x, c.dim))?;
            Ok::<_, ModelError>((x, embedding))
        })?;
        b.scope("lm_head", |b| {
            let weight = match c.tie_word_embeddings {
                true => embedding,
                false => self.weight(b, &[c.vocab_size, c.dim])?,
            };
            call(b, Op::Linear, args![x, weight])
        })
    }

    /// A computed constant as the weight of the present module, in the model's element type.
    fn shared_table(&self, b: &mut GraphBuilder<'_>, table: impl TensorSource + 'static) -> ValueId {
        let name = b.path_of("weight");
        let known = b.module_mut().constant_named(&name);
        let id = known.unwrap_or_else(|| {
            let table = CastSource::wrap(Arc::new(table), self.options.dtype);
            b.module_mut().add_constant(&name, table)
        });
        b.constant(id)
    }

    fn rotary(&self, b: &mut GraphBuilder<'_>, pos: ValueId, ar: usize) -> Result<Rotary, ModelError> {
        let c = self.config;
        let [cos_table, sin_table] = RopeTable::pair(&c.rope, c.head_dim, self.options.max_context_length);
        let mut rows = |name: &str, table: RopeTable| {
            b.scope(name, |b| {
                let table = self.shared_table(b, table);
                let rows = call(b, Op::Index, [table.into(), Arg::tensors(&[pos])])?;
                call(b, Op::ViewCopy, args![rows, Arg::ints(&[1, int(ar), 1, int(c.head_dim / 2)])])
            })
        };
        Ok(Rotary { cos: rows("freqs_cos", cos_table)?, sin: rows("freqs_sin", sin_table)? })
    }

    /// What attention adds, the new keys `[1, Hkv, D, n]` and the new values `[1, Hkv, n, D]`.
    fn static_attention(
        &self,
        b: &mut GraphBuilder<'_>,
        x: ValueId,
        rotary: Rotary,
        mask: ValueId,
        [past_keys, past_values]: [Past; 2],
        pos: ValueId,
        shape: Shape,
    ) -> Result<(ValueId, ValueId, ValueId), ModelError> {
        let c = self.config;
        let (heads, kv_heads, head) = (int(c.n_heads), int(c.n_kv_heads), int(c.head_dim));
        let (ar, context) = (int(shape.ar), int(shape.ar + shape.past));
        let q = self.linear(b, "q_proj", x, c.q_dim(), c.dim, c.qkv_bias)?;
        let k = self.linear(b, "k_proj", x, c.kv_dim(), c.dim, c.qkv_bias)?;
        let v = self.linear(b, "v_proj", x, c.kv_dim(), c.dim, c.qkv_bias)?;
        let split = |b: &mut GraphBuilder<'_>, x: ValueId, n: i64| {
            call(b, Op::ViewCopy, args![x, Arg::ints(&[1, ar, n, head])])
        };
        let (mut q, mut k, v) = (split(b, q, heads)?, split(b, k, kv_heads)?, split(b, v, kv_heads)?);
        if c.qk_norm {
            q = b.scope("q_norm", |b| self.norm(b, q, c.head_dim))?;
            k = b.scope("k_norm", |b| self.norm(b, k, c.head_dim))?;
        }
        let q = b.scope("q_rope", |b| self.rotated(b, q, rotary))?;
        let k = b.scope("k_rope", |b| self.rotated(b, k, rotary))?;
        let (keys_order, values_order): ([i64; 4], [i64; 4]) = ([0, 2, 3, 1], [0, 2, 1, 3]);
        let (k, keys) = b.scope("k_cache", |b| self.cached_rows(b, k, past_keys, pos, keys_order))?;
        let (v, values) = b.scope("v_cache", |b| self.cached_rows(b, v, past_values, pos, values_order))?;
        let out = b.scope("sdpa", |b| {
            if shape.single_heads {
                return self.by_heads(b, q, keys, values, mask, shape);
            }
            // Query heads that share a key head are neighbours: they are rows of one product, and no key is repeated.
            let rows = int(c.n_heads / c.n_kv_heads) * ar;
            let q = call(b, Op::PermuteCopy, args![q, Arg::ints(&[0, 2, 1, 3])])?;
            let q = call(b, Op::MulScalar, args![q, 1.0 / (c.head_dim as f64).sqrt()])?;
            let q = call(b, Op::ViewCopy, args![q, Arg::ints(&[kv_heads, rows, head])])?;
            let keys = call(b, Op::ViewCopy, args![keys, Arg::ints(&[kv_heads, head, context])])?;
            let scores = call(b, Op::Bmm, args![q, keys])?;
            let scores = call(b, Op::ViewCopy, args![scores, Arg::ints(&[1, heads, ar, context])])?;
            let scores = call(b, Op::Add, args![scores, mask])?;
            let weights = call(b, Op::Softmax, args![scores, -1i64, false])?;
            let weights = call(b, Op::ViewCopy, args![weights, Arg::ints(&[kv_heads, rows, context])])?;
            let values = call(b, Op::ViewCopy, args![values, Arg::ints(&[kv_heads, context, head])])?;
            let out = call(b, Op::Bmm, args![weights, values])?;
            let out = call(b, Op::ViewCopy, args![out, Arg::ints(&[1, heads, ar, head])])?;
            let out = call(b, Op::PermuteCopy, args![out, Arg::ints(&[0, 2, 1, 3])])?;
            call(b, Op::ViewCopy, args![out, Arg::ints(&[1, ar, heads * head])])
        })?;
        Ok((self.linear(b, "o_proj", out, c.dim, c.q_dim(), c.o_bias)?, k, v))
    }

    /// Attention of queries `[1, n, H, D]` head by head, and the heads side by side.
    fn by_heads(
        &self,
        b: &mut GraphBuilder<'_>,
        q: ValueId,
        keys: ValueId,
        values: ValueId,
        mask: ValueId,
        shape: Shape,
    ) -> Result<ValueId, ModelError> {
        let c = self.config;
        let (kv_heads, head) = (int(c.n_kv_heads), int(c.head_dim));
        let (ar, context) = (int(shape.ar), int(shape.ar + shape.past));
        let q = call(b, Op::MulScalar, args![q, 1.0 / (c.head_dim as f64).sqrt()])?;
        let keys = call(b, Op::ViewCopy, args![keys, Arg::ints(&[kv_heads, head, context])])?;
        let values = call(b, Op::ViewCopy, args![values, Arg::ints(&[kv_heads, context, head])])?;
        let mut heads = Vec::with_capacity(c.n_heads);
        for h in 0..c.n_heads {
            heads.push(b.scope(&format!("head.{h}"), |b| {
                let (at, of_kv) = (int(h), int(h / (c.n_heads / c.n_kv_heads)));
                let q = call(b, Op::SliceCopy, args![q, 2i64, at, at + 1])?;
                let q = call(b, Op::ViewCopy, args![q, Arg::ints(&[1, ar, head])])?;
                let keys = call(b, Op::SliceCopy, args![keys, 0i64, of_kv, of_kv + 1])?;
                let scores = call(b, Op::Bmm, args![q, keys])?;
                let scores = call(b, Op::ViewCopy, args![scores, Arg::ints(&[1, 1, ar, context])])?;
                let scores = call(b, Op::Add, args![scores, mask])?;
                let weights = call(b, Op::Softmax, args![scores, -1i64, false])?;
                let weights = call(b, Op::ViewCopy, args![weights, Arg::ints(&[1, ar, context])])?;
                let values = call(b, Op::SliceCopy, args![values, 0i64, of_kv, of_kv + 1])?;
                call(b, Op::Bmm, args![weights, values])
            })?);
        }
        call(b, Op::Cat, [Arg::tensors(&heads), 2i64.into()])
    }

    /// New rows `[1, n, Hkv, D]` with their dimensions in `order`, and behind what is past.
    fn cached_rows(
        &self,
        b: &mut GraphBuilder<'_>,
        new: ValueId,
        past: Past,
        pos: ValueId,
        order: [i64; 4],
    ) -> Result<(ValueId, ValueId), ModelError> {
        // Where the tokens went.
        let along = order.iter().position(|&d| d == 1).unwrap_or(0);
        match past {
            Past::None | Past::Input(_) => {
                let new = call(b, Op::PermuteCopy, args![new, Arg::ints(&order)])?;
                let all = match past {
                    Past::Input(past) => call(b, Op::Cat, [Arg::tensors(&[past, new]), int(along).into()])?,
                    Past::None | Past::Buffer(_) => new,
                };
                Ok((new, all))
            }
            Past::Buffer(old) => {
                let Def::Buffer(buffer) = b.graph().values[old].def else { return Ok((new, new)) };
                let (heads, head) = (int(self.config.n_kv_heads), int(self.config.head_dim));
                let rows = call(b, Op::ViewCopy, args![new, Arg::ints(&[1, heads, head])])?;
                let next = call(b, Op::IndexPutInto, [old.into(), Arg::tensors(&[pos]), rows.into()])?;
                b.write_back(buffer, next);
                let order: Vec<i64> = order[1..].iter().map(|d| d - 1).collect();
                Ok((rows, call(b, Op::PermuteCopy, args![next, Arg::ints(&order)])?))
            }
        }
    }

    /// Rotary embedding of `[1, n, heads, D]` by halves.
    fn rotated(&self, b: &mut GraphBuilder<'_>, x: ValueId, rotary: Rotary) -> Result<ValueId, ModelError> {
        let (half, end) = (int(self.config.head_dim / 2), int(self.config.head_dim));
        let Rotary { cos, sin } = rotary;
        let first = call(b, Op::SliceCopy, args![x, 3i64, 0i64, half])?;
        let second = call(b, Op::SliceCopy, args![x, 3i64, half, end])?;
        let (a, c) = (call(b, Op::Mul, args![first, cos])?, call(b, Op::Mul, args![second, sin])?);
        let left = call(b, Op::Sub, args![a, c])?;
        let (a, c) = (call(b, Op::Mul, args![second, cos])?, call(b, Op::Mul, args![first, sin])?);
        let right = call(b, Op::Add, args![a, c])?;
        call(b, Op::Cat, [Arg::tensors(&[left, right]), 3i64.into()])
    }
}

/// The constant methods of ExecuTorch's static runners, then the user's, which win. Those of scales are the exporter's.
fn write_metadata(module: &mut Module, config: &ModelConfig, options: &StaticOptions) {
    let mut set = |name: &str, value: usize| {
        module.set_metadata(name, vec![MetaValue::Int(int(value))]);
    };
    set("get_ar_len", options.prefill_ar_len.unwrap_or(1));
    set("get_dim", config.dim);
    set("get_head_dim", config.head_dim);
    set("get_max_batch_size", 1);
    set("get_max_seq_len", options.max_context_length);
    set("get_max_context_len", options.max_context_length);
    set("get_n_bos", 1);
    set("get_n_eos", 1);
    set("get_n_kv_heads", config.n_kv_heads);
    set("get_n_layers", config.n_layers);
    set("get_vocab_size", config.vocab_size);
    module.set_metadata("get_use_kv_cache", vec![MetaValue::Bool(true)]);
    if let Some(bos) = options.tokens.bos {
        module.set_metadata("get_bos_id", vec![MetaValue::Int(bos)]);
    }
    if let Some(&eos) = options.tokens.eos.first() {
        module.set_metadata("get_eos_id", vec![MetaValue::Int(eos)]);
        module.set_metadata("get_eos_ids", options.tokens.eos.iter().map(|&id| MetaValue::Int(id)).collect());
    }
    for (name, values) in &options.metadata {
        module.set_metadata(name, values.clone());
    }
}

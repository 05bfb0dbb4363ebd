//! From a configuration to a graph.

mod attention;
mod positions;
mod static_llama;

use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId, args};
use pteron_tensor::{CastSource, DType};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::metadata;
use crate::options::BuildOptions;
use crate::weights::Weights;
use positions::Positions;

pub use static_llama::{
    CALIBRATE_FORWARD, KV_FORWARD, MASKED, PREFILL_FORWARD, SLIDING_WINDOW, build_static, build_static_calibration,
    build_static_mutable,
};

/// What every part of the model needs.
struct Build<'a> {
    config: &'a ModelConfig,
    options: &'a BuildOptions,
    weights: &'a dyn Weights,
}

/// Captures the model as a module with one method `forward` and its constant methods.
///
/// Inputs: `tokens` i64 `[1, s]`, and with a cache `input_pos` i64 `[1]`, the position of the first token. `s` is 1 to
/// `max_seq_length - 1` ([`crate::DYNAMIC_RESERVE`]) with a dynamic shape; else 1 with a cache and `max_seq_length`
/// without. Output: logits in [`BuildOptions::dtype`], `[1, vocab_size]` of the last token, or `[1, s, vocab_size]` with
/// [`BuildOptions::full_logits`]. RMSNorm, rotary embedding, SiLU and attention (but for ExecuTorch's custom operators) are
/// captured as high-level operators.
///
/// Weights are not read: the module's constants are their sources, converted to the element type when they are read.
/// Rotary tables are f32 whatever the element type.
///
/// # Errors
/// [`ModelError`] if configuration and options do not fit each other, or a weight is missing or of other sizes.
pub fn build(config: &ModelConfig, weights: &dyn Weights, options: &BuildOptions) -> Result<Module, ModelError> {
    config.validate()?;
    options.validate(config)?;
    let build = Build { config, options, weights };
    let mut module = Module::new(config.architecture.class_name());
    let mut builder = GraphBuilder::new(&mut module, "forward");
    let logits = build.forward(&mut builder)?;
    builder.finish(&[logits]);
    metadata::write(&mut module, config, options);
    Ok(module)
}

/// Appends a node; an error names the module path.
fn call(b: &mut GraphBuilder<'_>, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<ValueId, ModelError> {
    b.call(op, args).map_err(|source| ModelError::Graph { path: path(b), source })
}

fn path(b: &GraphBuilder<'_>) -> String {
    let path = b.path_of("");
    path.strip_suffix('.').unwrap_or(&path).to_owned()
}

fn int(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Build<'_> {
    /// The whole method; gives the logits.
    fn forward(&self, b: &mut GraphBuilder<'_>) -> Result<ValueId, ModelError> {
        let most = self.options.max_tokens();
        let seq = if self.options.dynamic_shape { b.symbol(1, int(most)) } else { SymInt::from(most) };
        let tokens = b.input("tokens", TensorType::new(DType::I64, [SymInt::Const(1), seq]));
        let input_pos = self.options.use_kv_cache.then(|| b.input("input_pos", TensorType::fixed(DType::I64, &[1])));

        let (x, embedding) = b.scope("model", |b| {
            let (mut x, embedding) = b.scope("embed_tokens", |b| {
                let weight = self.weight(b, &[self.config.vocab_size, self.config.dim])?;
                Ok::<_, ModelError>((call(b, Op::Embedding, args![weight, tokens])?, weight))
            })?;
            let positions = Positions::new(self, b, tokens, input_pos)?;
            for layer in 0..self.config.n_layers {
                x = b.scope(&format!("layers.{layer}"), |b| self.layer(b, layer, x, &positions))?;
            }
            if !self.options.full_logits {
                // What follows works on each token by itself, so that the others can be dropped first.
                x = call(b, Op::SelectCopy, args![x, 1i64, -1i64])?;
            }
            let x = b.scope("norm", |b| self.norm(b, x, self.config.dim))?;
            Ok::<_, ModelError>((x, embedding))
        })?;
        b.scope("lm_head", |b| {
            let weight = match self.config.tie_word_embeddings {
                true => embedding,
                false => self.weight(b, &[self.config.vocab_size, self.config.dim])?,
            };
            call(b, Op::Linear, args![x, weight])
        })
    }

    fn layer(
        &self,
        b: &mut GraphBuilder<'_>,
        layer: usize,
        x: ValueId,
        positions: &Positions,
    ) -> Result<ValueId, ModelError> {
        let normed = b.scope("input_layernorm", |b| self.norm(b, x, self.config.dim))?;
        let attended = b.scope("self_attn", |b| self.attention(b, layer, normed, positions))?;
        let x = call(b, Op::Add, args![x, attended])?;
        let normed = b.scope("post_attention_layernorm", |b| self.norm(b, x, self.config.dim))?;
        let fed = b.scope("mlp", |b| self.feed_forward(b, normed))?;
        call(b, Op::Add, args![x, fed])
    }

    /// `down(silu(gate(x)) · up(x))`, with a Hadamard transform of the product in front of `down` where that is asked for.
    fn feed_forward(&self, b: &mut GraphBuilder<'_>, x: ValueId) -> Result<ValueId, ModelError> {
        let (dim, hidden, bias) = (self.config.dim, self.config.hidden_dim, self.config.mlp_bias);
        let gate = self.linear(b, "gate_proj", x, hidden, dim, bias)?;
        let gate = call(b, Op::Silu, args![gate])?;
        let up = self.linear(b, "up_proj", x, hidden, dim, bias)?;
        let mut product = call(b, Op::Mul, args![gate, up])?;
        if self.options.use_spin_quant {
            product = call(b, Op::FastHadamardTransform, args![product])?;
        }
        self.linear(b, "down_proj", product, dim, hidden, bias)
    }

    /// A linear layer as the module `name`.
    fn linear(
        &self,
        b: &mut GraphBuilder<'_>,
        name: &str,
        x: ValueId,
        rows: usize,
        columns: usize,
        bias: bool,
    ) -> Result<ValueId, ModelError> {
        b.scope(name, |b| {
            let weight = self.weight(b, &[rows, columns])?;
            let bias = if bias { Some(self.parameter(b, "bias", &[rows])?) } else { None };
            call(b, Op::Linear, args![x, weight, bias])
        })
    }

    /// RMSNorm over the last dimension, of `size` elements, by the present module's weight.
    fn norm(&self, b: &mut GraphBuilder<'_>, x: ValueId, size: usize) -> Result<ValueId, ModelError> {
        let weight = self.weight(b, &[size])?;
        call(b, Op::RmsNorm, args![x, Arg::ints(&[int(size)]), weight, self.config.norm_eps])
    }

    fn weight(&self, b: &mut GraphBuilder<'_>, shape: &[usize]) -> Result<ValueId, ModelError> {
        self.parameter(b, "weight", shape)
    }

    /// The present module's `leaf` as the model's element type; methods of one module share it.
    fn parameter(&self, b: &mut GraphBuilder<'_>, leaf: &str, shape: &[usize]) -> Result<ValueId, ModelError> {
        let name = b.path_of(leaf);
        if let Some(known) = b.module_mut().constant_named(&name) {
            return Ok(b.constant(known));
        }
        let source = self.weights.get(&name, shape)?;
        if source.shape() != shape {
            return Err(ModelError::WeightShape { name, found: source.shape().to_vec(), expected: shape.to_vec() });
        }
        if !source.dtype().is_float() {
            return Err(ModelError::WeightDType { name, found: source.dtype() });
        }
        let id = b.module_mut().add_constant(&name, CastSource::wrap(source, self.options.dtype));
        Ok(b.constant(id))
    }
}

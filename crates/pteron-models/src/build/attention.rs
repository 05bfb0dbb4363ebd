//! Attention in its forms: without a cache, with one, with ExecuTorch's custom operators over floats or codes.

use pteron_ir::{Arg, BufferId, GraphBuilder, Op, TensorType, ValueId, args};
use pteron_tensor::{DType, MemorySource};

use super::positions::Positions;
use super::{Build, call, int, path};
use crate::error::ModelError;

impl Build<'_> {
    pub(super) fn attention(
        &self,
        b: &mut GraphBuilder<'_>,
        layer: usize,
        x: ValueId,
        positions: &Positions,
    ) -> Result<ValueId, ModelError> {
        let c = self.config;
        let q = self.linear(b, "q_proj", x, c.q_dim(), c.dim, c.qkv_bias)?;
        let k = self.linear(b, "k_proj", x, c.kv_dim(), c.dim, c.qkv_bias)?;
        let v = self.linear(b, "v_proj", x, c.kv_dim(), c.dim, c.qkv_bias)?;
        // [1, s, heads, D]
        let (mut q, mut k) = (self.heads(b, q, c.n_heads)?, self.heads(b, k, c.n_kv_heads)?);
        let v = self.heads(b, v, c.n_kv_heads)?;
        if c.qk_norm {
            q = b.scope("q_norm", |b| self.norm(b, q, c.head_dim))?;
            k = b.scope("k_norm", |b| self.norm(b, k, c.head_dim))?;
        }
        let (cos, sin) = (positions.cos, positions.sin);
        let q = call(b, Op::Rope, args![q, cos, sin, false])?;
        let k = call(b, Op::Rope, args![k, cos, sin, false])?;
        let mask = positions.mask(self.window(layer));
        let out = match (positions.start, self.options.use_sdpa_with_kv_cache) {
            (Some(start), true) if self.options.quantize_kv_cache => self.quantized(b, [q, k, v], start, mask)?,
            (Some(start), true) => self.custom(b, [q, k, v], start, mask)?,
            (Some(_), false) => self.cached(b, [q, k, v], positions, mask)?,
            (None, _) => {
                let [q, k, v] = [transposed(b, q)?, transposed(b, k)?, transposed(b, v)?];
                self.sdpa(b, q, k, v, mask)?
            }
        };
        let flat = call(b, Op::ViewCopy, args![out, Arg::ints(&[1, -1, int(c.q_dim())])])?;
        self.linear(b, "o_proj", flat, c.dim, c.q_dim(), c.o_bias)
    }

    /// `[1, s, n·D]` as `[1, s, n, D]`.
    fn heads(&self, b: &mut GraphBuilder<'_>, x: ValueId, n: usize) -> Result<ValueId, ModelError> {
        call(b, Op::ViewCopy, args![x, Arg::ints(&[1, -1, int(n), int(self.config.head_dim)])])
    }

    /// A cache of keys or values of the present module.
    fn cache(&self, b: &mut GraphBuilder<'_>, name: &str, dtype: DType, sizes: [usize; 4]) -> BufferId {
        let name = b.path_of(&format!("kv_cache.{name}"));
        b.module_mut().add_buffer(&name, TensorType::fixed(dtype, &sizes))
    }

    /// Writes `new`, `[1, s, Hkv, n]`, into the cache `name` at the position `start`; gives the cache's new version.
    fn update(
        &self,
        b: &mut GraphBuilder<'_>,
        name: &str,
        (dtype, n): (DType, usize),
        new: ValueId,
        start: ValueId,
    ) -> Result<ValueId, ModelError> {
        let sizes = [1, self.options.max_context_length, self.config.n_kv_heads, n];
        let cache = self.cache(b, name, dtype, sizes);
        let old = b.buffer(cache);
        let node = b.node(Op::UpdateCache, args![new, old, start]);
        let node = node.map_err(|source| ModelError::Graph { path: path(b), source })?;
        // Output 0 is a placeholder, output 1 the new version of the cache.
        let next = b.graph().nodes[node].outputs[1];
        b.write_back(cache, next);
        Ok(next)
    }

    /// Caches `[1, ctx, Hkv, D]`, as `llama::update_cache` writes and `llama::custom_sdpa` reads them.
    fn custom(
        &self,
        b: &mut GraphBuilder<'_>,
        [q, k, v]: [ValueId; 3],
        start: ValueId,
        mask: Option<ValueId>,
    ) -> Result<ValueId, ModelError> {
        let form = (self.options.dtype, self.config.head_dim);
        let keys = self.update(b, "k_cache", form, k, start)?;
        let values = self.update(b, "v_cache", form, v, start)?;
        match mask {
            None => call(b, Op::CustomSdpa, args![q, keys, values, start, Arg::None, 0.0, true]),
            // With a mask every row of the cache is read, and the position says nothing.
            Some(mask) => call(b, Op::CustomSdpa, args![q, keys, values, 0i64, mask, 0.0, false]),
        }
    }

    /// Caches of 8-bit codes `[1, ctx, Hkv, D]`, with their scales and zero points `[1, ctx, Hkv, 1]` in caches of their own, as
    /// `llama::custom_quantized_sdpa` reads them (ExecuTorch's `QuantizedKVCache` with `QuantizedSDPA`). Keys, values and
    /// queries get their parameters token by token and head by head.
    fn quantized(
        &self,
        b: &mut GraphBuilder<'_>,
        [q, k, v]: [ValueId; 3],
        start: ValueId,
        mask: Option<ValueId>,
    ) -> Result<ValueId, ModelError> {
        let cached = |b: &mut GraphBuilder<'_>, name: &str, x: ValueId| {
            let [codes, scales, zeros] = self.codes(b, x)?;
            let codes = self.update(b, name, (DType::I8, self.config.head_dim), codes, start)?;
            let scales = self.update(b, &format!("{name}_scales"), (DType::F32, 1), scales, start)?;
            let zeros = self.update(b, &format!("{name}_zero_points"), (DType::I8, 1), zeros, start)?;
            Ok::<_, ModelError>([codes, scales, zeros])
        };
        let [k, k_scales, k_zeros] = cached(b, "k_cache", k)?;
        let [v, v_scales, v_zeros] = cached(b, "v_cache", v)?;
        let [q, q_scales, q_zeros] = self.codes(b, q)?;
        let (start, causal) = match mask {
            None => (Arg::from(start), true),
            Some(_) => (Arg::from(0i64), false),
        };
        let out = call(
            b,
            Op::CustomQuantizedSdpa,
            args![
                q,
                k,
                v,
                start,
                mask,
                0.0,
                causal,
                Arg::None,
                q_zeros,
                q_scales,
                k_zeros,
                k_scales,
                v_zeros,
                v_scales,
                false
            ],
        )?;
        match self.options.dtype {
            DType::F32 => Ok(out),
            dtype => call(b, Op::ToCopy, args![out, dtype]),
        }
    }

    /// `x` as 8-bit codes with an f32 scale and an 8-bit zero point for each run of its last dimension.
    fn codes(&self, b: &mut GraphBuilder<'_>, x: ValueId) -> Result<[ValueId; 3], ModelError> {
        let x = if self.options.dtype == DType::F32 { x } else { call(b, Op::ToCopy, args![x, DType::F32])? };
        let node = b.node(Op::ChooseQparamsPerTokenAsymmetric, args![x, DType::I8]);
        let node = node.map_err(|source| ModelError::Graph { path: path(b), source })?;
        let outputs = &b.graph().nodes[node].outputs;
        let (scales, zeros) = (outputs[0], outputs[1]);
        let codes = call(b, Op::QuantizePerToken, args![x, scales, zeros, -128i64, 127i64, DType::I8])?;
        let scales = call(b, Op::ToCopy, args![scales, DType::F32])?;
        let zeros = call(b, Op::ToCopy, args![zeros, DType::I8])?;
        Ok([codes, scales, zeros])
    }

    /// Caches `[1, Hkv, ctx, D]`, written in place at the tokens' positions and attended as a whole under a mask.
    fn cached(
        &self,
        b: &mut GraphBuilder<'_>,
        [q, k, v]: [ValueId; 3],
        positions: &Positions,
        mask: Option<ValueId>,
    ) -> Result<ValueId, ModelError> {
        let sizes = [1, self.config.n_kv_heads, self.options.max_context_length, self.config.head_dim];
        let index = Arg::Values([None, None, positions.indices].into_iter().collect());
        let update = |b: &mut GraphBuilder<'_>, name: &str, new: ValueId| {
            let new = transposed(b, new)?;
            if self.options.static_kv_cache.is_some() {
                return self.static_codes(b, name, sizes, new, &index);
            }
            let cache = self.cache(b, name, self.options.dtype, sizes);
            let old = b.buffer(cache);
            let next = call(b, Op::IndexPutInto, [old.into(), index.clone(), new.into()])?;
            b.write_back(cache, next);
            Ok::<_, ModelError>(next)
        };
        let keys = update(b, "k_cache", k)?;
        let values = update(b, "v_cache", v)?;
        let q = transposed(b, q)?;
        self.sdpa(b, q, keys, values, mask)
    }

    /// Writes `new`, `[1, Hkv, s, D]`, as 8-bit codes into the cache `name`; gives the cache's numbers, in which the present
    /// tokens' keys and values are those of `new` itself. Codes are `clamp(round(x / scale), −128, 127)`, their numbers
    /// `code · scale` (ExecuTorch's `StaticQuantizedKVCache`).
    fn static_codes(
        &self,
        b: &mut GraphBuilder<'_>,
        name: &str,
        sizes: [usize; 4],
        new: ValueId,
        index: &Arg,
    ) -> Result<ValueId, ModelError> {
        let scales = self.static_scales(b, name)?;
        let float = self.options.dtype;
        let wide = if float == DType::F32 { new } else { call(b, Op::ToCopy, args![new, DType::F32])? };
        let codes = call(b, Op::Div, args![wide, scales])?;
        let codes = call(b, Op::Round, args![codes])?;
        let codes = call(b, Op::Clamp, args![codes, -128i64, 127i64])?;
        let codes = call(b, Op::ToCopy, args![codes, DType::I8])?;
        let cache = self.cache(b, name, DType::I8, sizes);
        let old = b.buffer(cache);
        let next = call(b, Op::IndexPutInto, [old.into(), index.clone(), codes.into()])?;
        b.write_back(cache, next);
        let numbers = call(b, Op::ToCopy, args![next, DType::F32])?;
        let mut numbers = call(b, Op::Mul, args![numbers, scales])?;
        if float != DType::F32 {
            numbers = call(b, Op::ToCopy, args![numbers, float])?;
        }
        call(b, Op::IndexPut, [numbers.into(), index.clone(), new.into()])
    }

    /// The scales of the cache `name` of the present module, f32 `[1, 1, 1, D]`.
    fn static_scales(&self, b: &mut GraphBuilder<'_>, name: &str) -> Result<ValueId, ModelError> {
        let cache = b.path_of(&format!("kv_cache.{name}"));
        let name = format!("{cache}_scales");
        if let Some(known) = b.module_mut().constant_named(&name) {
            return Ok(b.constant(known));
        }
        let given = self.options.static_kv_cache.clone().unwrap_or_default();
        let scales = given.scales.get(&cache).cloned();
        let scales = scales.unwrap_or_else(|| vec![given.scale; self.config.head_dim]);
        let source = MemorySource::of(&name, &[1, 1, 1, scales.len()], &scales)?;
        let id = b.module_mut().add_tensor_constant(&name, source);
        Ok(b.constant(id))
    }

    /// Attention over `[1, H, s, D]`, causal if there is no mask. Gives `[1, s, H, D]`.
    fn sdpa(
        &self,
        b: &mut GraphBuilder<'_>,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        mask: Option<ValueId>,
    ) -> Result<ValueId, ModelError> {
        let gqa = self.config.n_heads != self.config.n_kv_heads;
        let causal = mask.is_none();
        let out = call(b, Op::Sdpa, args![q, k, v, mask, 0.0, causal, Arg::None, gqa])?;
        transposed(b, out)
    }
}

/// Tokens and heads exchanged.
fn transposed(b: &mut GraphBuilder<'_>, x: ValueId) -> Result<ValueId, ModelError> {
    call(b, Op::TransposeCopy, args![x, 1i64, 2i64])
}

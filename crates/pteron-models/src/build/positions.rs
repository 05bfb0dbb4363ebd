//! What depends on positions only and is computed once for all layers: rotary rows, indices into the cache, masks.

use std::collections::BTreeMap;

use pteron_ir::{Arg, GraphBuilder, Op, ValueId, args};
use pteron_tensor::DType;

use super::{Build, call, int, path};
use crate::error::ModelError;
use crate::rope::RopeTable;

/// Values that all layers share.
pub(super) struct Positions {
    /// Rows of the rotary tables for the call's tokens, f32 `[s, D/2]`.
    pub(super) cos: ValueId,
    pub(super) sin: ValueId,
    /// The position of the first token, an int; with a cache only.
    pub(super) start: Option<ValueId>,
    /// The tokens' positions, i64 `[s]`, where something needs them.
    pub(super) indices: Option<ValueId>,
    /// Masks by window. Attention without one is causal from `start` on.
    masks: BTreeMap<Option<usize>, ValueId>,
}

impl Positions {
    pub(super) fn new(
        build: &Build<'_>,
        b: &mut GraphBuilder<'_>,
        tokens: ValueId,
        input_pos: Option<ValueId>,
    ) -> Result<Positions, ModelError> {
        let options = build.options;
        let rows = options.positions();
        let tables = RopeTable::pair(&build.config.rope, build.config.head_dim, rows);
        let [cos, sin] = ["freqs_cos", "freqs_sin"].map(|name| b.path_of(name));
        let [cos_table, sin_table] = tables;
        let cos = b.module_mut().add_tensor_constant(&cos, cos_table);
        let sin = b.module_mut().add_tensor_constant(&sin, sin_table);
        let (cos, sin) = (b.constant(cos), b.constant(sin));

        let count = match options.dynamic_shape {
            true => Arg::from(call(b, Op::SymSize, args![tokens, 1i64])?),
            false => Arg::from(int(options.max_tokens())),
        };
        let (start, begin, end) = match input_pos {
            Some(pos) => {
                let start =
                    b.local_int(pos, 0, int(rows) - 1).map_err(|source| ModelError::Graph { path: path(b), source })?;
                let end = call(b, Op::PrimAdd, [start.into(), count])?;
                (Some(start), Arg::from(start), Arg::from(end))
            }
            None => (None, Arg::from(0i64), count),
        };
        // Without a cache, a static call uses every row of the tables.
        let whole = start.is_none() && !options.dynamic_shape;
        let row = |b: &mut GraphBuilder<'_>, table: ValueId| {
            if whole {
                return Ok(table);
            }
            call(b, Op::SliceCopy, [table.into(), 0i64.into(), begin.clone(), end.clone()])
        };
        let (cos, sin) = (row(b, cos)?, row(b, sin)?);
        let mut positions = Positions { cos, sin, start, indices: None, masks: BTreeMap::new() };
        positions.add_masks(build, b, input_pos, begin, end)?;
        Ok(positions)
    }

    /// Where the whole cache is attended, and where a window is shorter than the context, a mask says what a token sees.
    fn add_masks(
        &mut self,
        build: &Build<'_>,
        b: &mut GraphBuilder<'_>,
        input_pos: Option<ValueId>,
        begin: Arg,
        end: Arg,
    ) -> Result<(), ModelError> {
        let options = build.options;
        let plain_cache = options.use_kv_cache && !options.use_sdpa_with_kv_cache;
        let windows: Vec<Option<usize>> = build.windows().filter(|w| w.is_some() || plain_cache).collect();
        if windows.is_empty() && !plain_cache {
            return Ok(());
        }
        let indices = match input_pos {
            // One token a call: its index is the input itself.
            Some(pos) if !options.dynamic_shape => pos,
            _ => call(b, Op::Arange, [begin, end.clone(), 1i64.into(), DType::I64.into()])?,
        };
        self.indices = Some(indices);
        // Every row of the cache is a key; without a cache, the call's tokens are.
        let keys = match input_pos {
            Some(_) => call(b, Op::Arange, args![0i64, int(options.positions()), 1i64, DType::I64])?,
            None => indices,
        };
        let column = call(b, Op::UnsqueezeCopy, args![indices, 1i64])?;
        let causal = call(b, Op::Le, args![keys, column])?;
        for window in windows {
            if self.masks.contains_key(&window) {
                continue;
            }
            let visible = match window {
                None => causal,
                Some(n) => {
                    let before = call(b, Op::SubScalar, args![column, int(n)])?;
                    let recent = call(b, Op::Gt, args![keys, before])?;
                    call(b, Op::LogicalAnd, args![causal, recent])?
                }
            };
            let mask = if options.use_sdpa_with_kv_cache {
                // `llama::custom_sdpa` adds its mask, which must be f32.
                let zero = call(b, Op::ScalarTensor, args![0.0, DType::F32])?;
                let minus_infinity = call(b, Op::ScalarTensor, args![f64::NEG_INFINITY, DType::F32])?;
                call(b, Op::Where, args![visible, zero, minus_infinity])?
            } else {
                visible
            };
            self.masks.insert(window, mask);
        }
        Ok(())
    }

    /// The mask for a layer with this window, if it needs one.
    pub(super) fn mask(&self, window: Option<usize>) -> Option<ValueId> {
        self.masks.get(&window).copied()
    }
}

impl Build<'_> {
    /// The window of a layer, if it hides anything within the program's positions.
    pub(super) fn window(&self, layer: usize) -> Option<usize> {
        let window = self.config.windows.get(layer).copied().flatten();
        window.filter(|&w| w < self.options.positions())
    }

    fn windows(&self) -> impl Iterator<Item = Option<usize>> {
        (0..self.config.n_layers).map(|layer| self.window(layer))
    }
}

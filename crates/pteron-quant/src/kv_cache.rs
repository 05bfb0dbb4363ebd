//! The scales of a static cache of keys and values: how large each element of a head becomes.

use std::collections::BTreeMap;

use pteron_exec::{NodeEvent, NodeHook};
use pteron_ir::{Arg, Def, Graph, Module, Op, ValueId};

use crate::watch;

/// The hook that watches what is written into the caches of a float graph, over any number of runs.
#[derive(Debug)]
pub struct KvCacheHook {
    graph: String,
    /// Values that are written into a cache.
    taps: BTreeMap<ValueId, Tap>,
}

#[derive(Debug)]
struct Tap {
    cache: String,
    /// The largest magnitude of each element of the last dimension.
    most: Vec<f32>,
}

/// Why a cache has no scales.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvCacheError {
    /// The graph writes no cache by positions.
    #[error("the model keeps no keys and values that could be watched")]
    NoCache,
    /// Nothing was written.
    #[error("the cache `{0}` saw no data: no calibration window reached it")]
    NoData(String),
    /// A NaN or an infinity was written.
    #[error("the cache `{0}` was given a value that is no finite number")]
    NotFinite(String),
}

impl KvCacheHook {
    /// A hook for runs of `graph` of `module`.
    pub fn new(module: &Module, graph: &Graph) -> KvCacheHook {
        let mut taps = BTreeMap::new();
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let (Op::IndexPutInto, Some(Arg::Value(cache)), Some(Arg::Value(new))) =
                (node.op, node.args.first(), node.args.get(2))
            else {
                continue;
            };
            if let Def::Buffer(buffer) = graph.values[*cache].def {
                taps.insert(*new, Tap { cache: module.buffers[buffer].name.to_string(), most: Vec::new() });
            }
        }
        KvCacheHook { graph: graph.name.clone(), taps }
    }

    /// The scales of each cache by its name, one for each element of a head: `absmax / 127`, at least the least normal `f32`
    /// (ExecuTorch's `StaticQuantizedKVCache.finalize_calibration`).
    ///
    /// # Errors
    /// [`KvCacheError`] that names the cache.
    pub fn finish(self) -> Result<BTreeMap<String, Vec<f32>>, KvCacheError> {
        if self.taps.is_empty() {
            return Err(KvCacheError::NoCache);
        }
        let mut scales = BTreeMap::new();
        for Tap { cache, most } in self.taps.into_values() {
            if most.is_empty() {
                return Err(KvCacheError::NoData(cache));
            }
            if most.iter().any(|v| !v.is_finite()) {
                return Err(KvCacheError::NotFinite(cache));
            }
            scales.insert(cache, most.iter().map(|v| (v / 127.0).max(f32::MIN_POSITIVE)).collect());
        }
        Ok(scales)
    }
}

impl NodeHook for KvCacheHook {
    fn after(&mut self, event: &NodeEvent<'_>) {
        watch::rows(event, &self.graph, &mut self.taps, |tap, row| {
            tap.most.resize(row.len(), 0.0);
            for (most, v) in tap.most.iter_mut().zip(row.iter().map(|v| v.abs())) {
                // Whatever comes after it, a NaN stays.
                if v > *most || v.is_nan() {
                    *most = v;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pteron_exec::{Session, SessionOptions, Value, ValueRef};
    use pteron_ir::{GraphBuilder, TensorType, args};
    use pteron_tensor::{DType, Tensor};

    use super::*;

    /// A cache of four positions with heads of two elements; what is written is the negated input.
    fn module() -> Module {
        let mut m = Module::new("t");
        let mut b = GraphBuilder::new(&mut m, "forward");
        let x = b.input("x", TensorType::fixed(DType::F32, &[1, 1, 2, 2]));
        let at = b.input("at", TensorType::fixed(DType::I64, &[2]));
        let cache = b.module_mut().add_buffer("layer.k_cache", TensorType::fixed(DType::F32, &[1, 1, 4, 2]));
        let new = b.call(Op::Neg, args![x]).unwrap();
        let old = b.buffer(cache);
        let index = Arg::Values([None, None, Some(at)].into_iter().collect());
        let next = b.call(Op::IndexPutInto, [old.into(), index, new.into()]).unwrap();
        b.write_back(cache, next);
        b.finish(&[next]);
        m
    }

    fn watched(windows: &[[f32; 4]]) -> Result<BTreeMap<String, Vec<f32>>, KvCacheError> {
        let module = Arc::new(module());
        let mut hook = KvCacheHook::new(&module, &module.graphs[0]);
        let mut session = Session::new(module, &SessionOptions::with_threads(1)).unwrap();
        for w in windows {
            let inputs = [
                Value::Tensor(Tensor::of(&[1, 1, 2, 2], w).unwrap()),
                Value::Tensor(Tensor::of(&[2], &[0i64, 1]).unwrap()),
            ];
            let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
            session.run_watched("forward", &given, &mut hook).unwrap();
        }
        hook.finish()
    }

    #[test]
    fn a_scale_for_each_element_of_a_head() {
        let found = watched(&[[1.0, -2.0, 0.5, 4.0], [-3.0, 0.0, 0.25, 1.0]]).unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("layer.k_cache".to_owned(), vec![3.0 / 127.0, 4.0 / 127.0])]
        );
        let zeros = watched(&[[0.0, 1.0, 0.0, 0.0]]).unwrap();
        assert_eq!(zeros["layer.k_cache"], [f32::MIN_POSITIVE, 1.0 / 127.0]);
    }

    #[test]
    fn what_gives_no_scale_is_named() {
        assert_eq!(watched(&[]).unwrap_err(), KvCacheError::NoData("layer.k_cache".to_owned()));
        let e = watched(&[[1.0, f32::NAN, 1.0, 1.0], [1.0; 4]]).unwrap_err();
        assert_eq!(e, KvCacheError::NotFinite("layer.k_cache".to_owned()));
        let mut m = Module::new("t");
        let mut b = GraphBuilder::new(&mut m, "forward");
        let x = b.input("x", TensorType::fixed(DType::F32, &[1]));
        b.finish(&[x]);
        assert_eq!(KvCacheHook::new(&m, &m.graphs[0]).finish().unwrap_err(), KvCacheError::NoCache);
    }
}

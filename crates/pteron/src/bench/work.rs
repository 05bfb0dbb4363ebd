//! What a call of a program must read and compute, counted while it is executed.

use pteron_exec::{NodeEvent, NodeHook, Output};
use pteron_ir::{
    Arg, BufferId, ConstData, ConstId, Def, DelegateId, Extra, Graph, Module, Node, Op, SideTable, ValueId,
};
use pteron_tensor::{DType, read_all};

/// What a call must read and compute at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Work {
    /// Bytes of constants: all of those that are read whole, of looked-up ones the rows.
    pub constant_bytes: u64,
    /// Bytes of buffers: of a KV cache under causal attention the positions that are attended to.
    pub cache_bytes: u64,
    /// Operations of matrix products, a multiply-add being two.
    pub matrix_flops: u64,
    /// Those of them whose operands are both bf16.
    pub bf16_flops: u64,
    /// Those of them whose operands are both codes of at most 8 bits that are dequantized.
    pub int8_flops: u64,
    /// Operations of attention's two products; of a causal one only those of the positions before each token.
    pub attention_flops: u64,
    /// Calls of delegates: their operations are not counted, their payloads are as constants.
    pub delegate_calls: u64,
}

impl Work {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.constant_bytes.saturating_add(self.cache_bytes)
    }

    /// All operations; `None` if a delegate does some that are not known.
    pub fn flops(&self) -> Option<u64> {
        (self.delegate_calls == 0).then(|| self.matrix_flops.saturating_add(self.attention_flops))
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.constant_bytes = self.constant_bytes.saturating_add(other.constant_bytes);
        self.cache_bytes = self.cache_bytes.saturating_add(other.cache_bytes);
        self.matrix_flops = self.matrix_flops.saturating_add(other.matrix_flops);
        self.bf16_flops = self.bf16_flops.saturating_add(other.bf16_flops);
        self.int8_flops = self.int8_flops.saturating_add(other.int8_flops);
        self.attention_flops = self.attention_flops.saturating_add(other.attention_flops);
        self.delegate_calls = self.delegate_calls.saturating_add(other.delegate_calls);
    }
}

/// A hook that counts the [`Work`] of one call of a method with a KV cache.
#[derive(Debug)]
pub struct WorkCounter<'m> {
    module: &'m Module,
    /// Position of the call's first token.
    start: u64,
    /// Sizes of what nodes gave.
    sizes: SideTable<ValueId, Vec<usize>>,
    constants: Vec<ConstId>,
    buffers: Vec<BufferId>,
    delegates: Vec<DelegateId>,
    work: Work,
}

impl<'m> WorkCounter<'m> {
    /// A counter for a call whose first token has the position `start`.
    pub fn new(module: &'m Module, start: usize) -> WorkCounter<'m> {
        WorkCounter {
            module,
            start: start as u64,
            sizes: SideTable::new(Vec::new()),
            constants: Vec::new(),
            buffers: Vec::new(),
            delegates: Vec::new(),
            work: Work::default(),
        }
    }

    /// What was counted.
    pub fn work(&self) -> Work {
        self.work
    }

    fn sizes(&self, graph: &Graph, v: ValueId) -> Vec<usize> {
        match &self.sizes[v] {
            known if !known.is_empty() => known.clone(),
            _ => graph.ty(v).as_tensor().and_then(|t| t.fixed_sizes()).map(|s| s.to_vec()).unwrap_or_default(),
        }
    }

    /// Bytes of `n` elements of `v`; 0 of what is no tensor.
    fn bytes_of(graph: &Graph, v: ValueId, n: u64) -> u64 {
        let ty = graph.ty(v).as_tensor();
        ty.and_then(|t| t.dtype.bytes_for(usize::try_from(n).ok()?)).unwrap_or(0) as u64
    }

    fn bytes(&self, graph: &Graph, v: ValueId) -> u64 {
        WorkCounter::bytes_of(graph, v, numel(&self.sizes(graph, v)))
    }

    /// True for numbers of f32 that bf16 holds as well: scales that files and packed weights have in 16 bits.
    fn fits_bf16(&self, c: ConstId) -> bool {
        let Some(ConstData::Source(s)) = self.module.constants.get(c).map(|c| &c.data) else { return false };
        let all = (s.dtype() == DType::F32).then(|| read_all(s.as_ref()).ok()).flatten();
        all.is_some_and(|bytes| bytes.as_chunks::<4>().0.iter().all(|[low, next, ..]| *low == 0 && *next == 0))
    }

    fn count(&mut self, graph: &Graph, node: &Node, out: &[usize]) {
        let arg = |i: usize| value(node, i);
        let last = |v: Option<ValueId>| v.and_then(|v| self.sizes(graph, v).last().copied()).unwrap_or(0) as u64;
        match node.op {
            Op::Linear | Op::Mm | Op::Bmm => {
                let flops = 2 * numel(out) * last(arg(0));
                self.work.matrix_flops += flops;
                let bf16 = |v: Option<ValueId>| {
                    v.and_then(|v| graph.ty(v).as_tensor()).is_some_and(|t| t.dtype == DType::BF16)
                };
                if bf16(arg(0)) && bf16(arg(1)) {
                    self.work.bf16_flops += flops;
                }
                if are_codes(graph, arg(0)) && are_codes(graph, arg(1)) {
                    self.work.int8_flops += flops;
                }
            }
            Op::AddMm => {
                let flops = 2 * numel(out) * last(arg(1));
                self.work.matrix_flops += flops;
                if are_codes(graph, arg(1)) && are_codes(graph, arg(2)) {
                    self.work.int8_flops += flops;
                }
            }
            Op::Sdpa | Op::CustomSdpa | Op::SdpaWithKvCache => {
                let of = |i: usize| arg(i).map(|v| self.sizes(graph, v)).unwrap_or_default();
                self.work.attention_flops += self.attention(node, &of(0), &of(1));
            }
            _ => {}
        }
    }

    /// Queries are `[batch, tokens, heads, width]` for llama's operators, `[batch, heads, tokens, width]` for aten's.
    fn attention(&self, node: &Node, query: &[usize], key: &[usize]) -> u64 {
        let ([batch, q1, q2, width], [_, k1, k2, _]) = (query, key) else { return 0 };
        let (heads, tokens, keys) = match node.op {
            Op::Sdpa => (*q1 as u64, *q2 as u64, *k2 as u64),
            _ => (*q2 as u64, *q1 as u64, *k1 as u64),
        };
        let causal = match (node.op, node.args.get(if node.op == Op::CustomSdpa { 6 } else { 9 })) {
            (Op::Sdpa, _) => matches!(node.args.get(5), Some(Arg::Bool(true))),
            (_, Some(Arg::Bool(b))) => *b,
            _ => false,
        };
        let start = if node.op == Op::Sdpa { 0 } else { self.start };
        let pairs = match causal {
            true => (0..tokens).map(|i| start + i + 1).sum(),
            false if node.op == Op::Sdpa => tokens * keys,
            false => tokens * (start + tokens),
        };
        4 * pairs * heads * (*width as u64) * (*batch as u64)
    }

    /// Bytes that the node reads of constants and buffers, each once a call.
    fn read(&mut self, graph: &Graph, node: &Node, out: &[usize]) {
        let looks_up = matches!(
            node.op,
            Op::Embedding | Op::SliceCopy | Op::SelectCopy | Op::IndexSelect | Op::Gather | Op::Index
        );
        let tokens = match node.op {
            Op::SdpaWithKvCache | Op::CustomSdpa => value(node, 0).and_then(|q| self.sizes(graph, q).get(1).copied()),
            _ => None,
        };
        let rows = |v: ValueId| WorkCounter::bytes_of(graph, v, numel(out));
        // Of a table of codes, and of their scales, the rows that are looked up.
        let table = matches!(
            node.op,
            Op::EmbeddingByte
                | Op::EmbeddingByteDType
                | Op::Embedding4Bit
                | Op::Embedding4BitDType
                | Op::Embedding2Bit
                | Op::Embedding2BitDType
        );
        let looked_up = numel(out) / out.last().map_or(1, |&d| d.max(1) as u64);
        // Codes of at most four bits need half a byte, however wide they are stored.
        let half = node.op.is_dequantize() && code_range(node).is_some_and(|(lo, hi)| hi - lo < 16);
        let mut all = Vec::new();
        node.args.iter().for_each(|a| a.for_each_value(|v| all.push(v)));
        for (i, &v) in all.iter().enumerate() {
            let whole = self.bytes(graph, v);
            match root(graph, v) {
                Some(Def::Const(_)) if table => {
                    let rows = self.sizes(graph, v).first().copied().unwrap_or(1).max(1) as u64;
                    self.work.constant_bytes += whole / rows * looked_up;
                }
                Some(Def::Const(c)) if half && i == 0 && !self.constants.contains(&c) => {
                    self.constants.push(c);
                    let elements = numel(&self.sizes(graph, v));
                    self.work.constant_bytes += whole.min(elements.div_ceil(2));
                }
                Some(Def::Const(c)) if node.op.is_dequantize() && i > 0 && !self.constants.contains(&c) => {
                    self.constants.push(c);
                    self.work.constant_bytes += if self.fits_bf16(c) { whole / 2 } else { whole };
                }
                Some(Def::Const(_)) if looks_up && i == 0 => self.work.constant_bytes += rows(v),
                Some(Def::Buffer(_)) if looks_up && i == 0 => self.work.cache_bytes += rows(v),
                Some(Def::Const(c)) if !self.constants.contains(&c) => {
                    self.constants.push(c);
                    self.work.constant_bytes += whole;
                }
                Some(Def::Buffer(b)) if !self.buffers.contains(&b) => {
                    // Caches of llama's operators are [1, positions, heads, width]: those so far are read.
                    let positions = self.sizes(graph, v).get(1).copied().unwrap_or(0) as u64;
                    let part = match tokens {
                        Some(n) if positions > 0 => whole / positions * (self.start + n as u64).min(positions),
                        // What only writes reads nothing.
                        None if node.op.mutates() => continue,
                        _ => whole,
                    };
                    self.buffers.push(b);
                    self.work.cache_bytes += part;
                }
                _ => {}
            }
        }
    }
}

/// Least and largest code of a node of quantization, where they stand in the graph.
fn code_range(node: &Node) -> Option<(i64, i64)> {
    let schema = node.op.schema();
    let bound = |name: &str| {
        let at = schema.args.iter().position(|a| a.name == name)?;
        match node.args.get(schema.input_of(at)) {
            Some(Arg::Int(i)) => Some(*i),
            _ => None,
        }
    };
    Some((bound("quant_min")?, bound("quant_max")?))
}

/// True if `v` is made of codes of at most 8 bits: dequantized, and then at most viewed otherwise.
fn are_codes(graph: &Graph, v: Option<ValueId>) -> bool {
    let narrow = |v: ValueId| {
        let ty = graph.ty(v).as_tensor();
        ty.is_some_and(|t| matches!(t.dtype, DType::I8 | DType::U8 | DType::I4))
    };
    let mut at = v;
    while let Some(Def::Node(n, 0)) = at.map(|v| graph.values[v].def) {
        let node = &graph.nodes[n];
        if node.op.is_dequantize() {
            return value(node, 0).is_some_and(narrow);
        }
        if !node.op.is_view() && !matches!(node.op, Op::PermuteCopy | Op::TransposeCopy) {
            return false;
        }
        at = value(node, 0);
    }
    false
}

fn numel(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1u64, |n, &s| n.saturating_mul(s as u64))
}

fn value(node: &Node, i: usize) -> Option<ValueId> {
    match node.args.get(i) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

/// The constant or buffer that `v` is, or that it is after a node wrote into it.
fn root(graph: &Graph, v: ValueId) -> Option<Def> {
    let mut v = v;
    loop {
        match graph.values[v].def {
            Def::Node(n, output) if graph.nodes[n].op.mutates() => {
                // The arguments that are written into are the last outputs.
                let node = &graph.nodes[n];
                let written = node.op.schema().args.iter().enumerate().filter(|(_, a)| a.is_mutated());
                let targets: Vec<usize> = written.map(|(i, _)| i).collect();
                let first = node.outputs.len().saturating_sub(targets.len());
                let target = (output as usize).checked_sub(first).and_then(|i| targets.get(i))?;
                v = value(node, *target)?;
            }
            def @ (Def::Const(_) | Def::Buffer(_)) => return Some(def),
            _ => return None,
        }
    }
}

impl NodeHook for WorkCounter<'_> {
    fn after(&mut self, event: &NodeEvent<'_>) {
        let graph = event.graph;
        let node = &graph.nodes[event.node];
        for (&v, o) in node.outputs.iter().zip(event.outputs) {
            if let Output::Tensor(t) = o {
                self.sizes[v] = t.sizes().to_vec();
            }
        }
        if let Extra::Delegate(d) = &node.extra {
            self.work.delegate_calls += 1;
            if !self.delegates.contains(d)
                && let Some(delegate) = self.module.delegates.get(*d)
            {
                self.delegates.push(*d);
                let named: usize = delegate.named_data.iter().map(|(_, source)| source.byte_len()).sum();
                self.work.constant_bytes += (delegate.payload.len() + named) as u64;
            }
        }
        let out = node.outputs.first().map(|&v| self.sizes(graph, v)).unwrap_or_default();
        self.count(graph, node, &out);
        self.read(graph, node, &out);
    }
}

//! The text form, written.
//!
//! The text is canonical: values are numbered densely in order of definition (inputs, then for each node its outputs and
//! the parameters of its regions), an argument that has its default is left out, and arguments after such a gap are written
//! `name=value`. Ids of constants (`c0`), buffers (`b0`), delegates (`d0`) and symbols (`s0`) are those of the module.
//!
//! ```text
//! module "tiny" {
//!   const c0 "tok_embeddings.weight" : f32[512, 64]
//!   const c1 "norm.eps" : f32[] = [1e-5]
//!   const c2 "output.weight" : f32[512, 64] external "output"
//!   buffer b0 "layers.0.k_cache" : f32[1, 32, 2, 16]
//!   delegate d0 "XnnpackBackend" 1234 bytes
//!   metadata get_eos_ids = [2, 3]
//!   graph forward(%0 "tokens": i64[1, s0], %1 "input_pos": i64[1]) where s0 in 1..=31, s1 in 0..=31 {
//!     %2 = aten::embedding(c0, %0) : f32[1, s0, 64] @"tok_embeddings" #0
//!     %3 = aten::_local_scalar_dense(%1) : int(s1) #1
//!     %4, %5 = llama::update_cache(%2, b0, %3) : f32[1], f32[1, 32, 2, 16] #2
//!     %6 = cond(%5) : f32[2, 3] #3 then {
//!       yield %5
//!     } else {
//!       yield %5
//!     }
//!     mutate b0 = %5
//!     return %2
//!   }
//! }
//! ```
//!
//! What is not written: the bytes of constants of more than [`MAX_PRINTED_ELEMENTS`] elements or not in memory (read back as
//! [`ConstData::Missing`]), of payloads over [`MAX_PRINTED_BYTES`] bytes (read back as zeros of that length), the payload
//! bits of NaNs.

use std::fmt::{self, Write as _};

use pteron_tensor::{DType, Scalar, Tensor, read_scalar};

use crate::arg::{Arg, IntArg};
use crate::entity::{Id, NodeId, RegionId, SideTable, ValueId};
use crate::graph::{Def, Extra, Graph, Node};
use crate::location::{LineMap, Location};
use crate::module::{ConstData, Constant, Delegate, MetaValue, Metadata, Module};
use crate::op::Op;
use crate::schema::{ArgKind, SchemaArg};

/// Constants with more elements are printed without their values.
pub const MAX_PRINTED_ELEMENTS: usize = 16;

/// Payloads with more bytes are printed by their length.
pub const MAX_PRINTED_BYTES: usize = 64;

/// Regions nested deeper are left out; the verifier refuses far less.
const MAX_PRINTED_DEPTH: usize = 256;

/// The text of a module.
pub fn module(m: &Module) -> String {
    module_with_lines(m).0
}

/// The text of a module, and on which line each of its places stands.
pub fn module_with_lines(m: &Module) -> (String, LineMap) {
    let mut p = Printer { out: String::new(), line: 1, lines: LineMap::default() };
    p.module(m);
    (p.out, p.lines)
}

/// The text of one graph, as it stands in its module's.
pub fn graph(g: &Graph) -> String {
    let mut p = Printer { out: String::new(), line: 1, lines: LineMap::default() };
    p.graph(g, 0, 0);
    p.out
}

/// The line of one node, without its regions.
pub fn node(g: &Graph, n: NodeId) -> String {
    node_line(g, &Names::new(g), n)
}

pub(crate) fn node_line(g: &Graph, names: &Names, n: NodeId) -> String {
    g.nodes.get(n).map_or_else(|| format!("{n}"), |node| NodeHead { g, names, node }.to_string())
}

/// The numbers under which a graph's values are printed.
pub(crate) struct Names {
    numbers: SideTable<ValueId, u32>,
}

impl Names {
    pub(crate) fn new(g: &Graph) -> Names {
        let mut names = Names { numbers: SideTable::new(u32::MAX) };
        let mut next = 0;
        for &v in &g.inputs {
            names.give(g, v, &mut next);
        }
        let mut seen = SideTable::new(false);
        names.region(g, g.body_id(), &mut next, &mut seen, 0);
        names
    }

    fn give(&mut self, g: &Graph, v: ValueId, next: &mut u32) {
        if g.values.get(v).is_some() && self.numbers[v] == u32::MAX {
            self.numbers[v] = *next;
            *next += 1;
        }
    }

    fn region(&mut self, g: &Graph, r: RegionId, next: &mut u32, seen: &mut SideTable<RegionId, bool>, depth: usize) {
        let Some(region) = g.regions.get(r) else { return };
        if std::mem::replace(&mut seen[r], true) || depth > MAX_PRINTED_DEPTH {
            return;
        }
        for &v in &region.params {
            self.give(g, v, next);
        }
        for node in region.nodes.iter().filter_map(|&n| g.nodes.get(n)) {
            for &v in &node.outputs {
                self.give(g, v, next);
            }
            for &inner in &node.regions {
                self.region(g, inner, next, seen, depth + 1);
            }
        }
    }

    /// The name of a value: `%3`, `c0`, `b0`; `%?9` for one that the graph does not define.
    pub(crate) fn of(&self, g: &Graph, v: ValueId) -> String {
        match g.values.get(v).map(|d| d.def) {
            Some(Def::Const(c)) => c.to_string(),
            Some(Def::Buffer(b)) => b.to_string(),
            Some(_) if self.numbers[v] != u32::MAX => format!("%{}", self.numbers[v]),
            _ => format!("%?{}", v.index()),
        }
    }
}

/// A float that reads back as the same float and never as an integer.
pub(crate) struct Float(pub(crate) f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() { f.write_str("nan") } else { write!(f, "{:?}", self.0) }
    }
}

/// A string in quotes.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                // Line separators would move the lines of a text that some programs count by them.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A name: bare where it is an identifier, else quoted.
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        let plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain { f.write_str(self.0) } else { Quoted(self.0).fmt(f) }
    }
}

fn separated<T>(
    f: &mut impl fmt::Write,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut dyn fmt::Write, T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        each(f, item)?;
    }
    Ok(())
}

/// The value that a missing argument has.
pub(crate) fn default_of(a: &SchemaArg) -> Option<Arg> {
    a.default.clone().or_else(|| a.optional.then_some(Arg::None))
}

/// Equality that tells 0.0 from -0.0 and 1 from 1.0.
fn same_arg(a: &Arg, b: &Arg) -> bool {
    match (a, b) {
        (Arg::Float(x), Arg::Float(y)) => x.to_bits() == y.to_bits(),
        (a, b) => a == b,
    }
}

struct NodeHead<'a> {
    g: &'a Graph,
    names: &'a Names,
    node: &'a Node,
}

impl NodeHead<'_> {
    fn arg(&self, f: &mut dyn fmt::Write, a: &Arg, kind: Option<ArgKind>) -> fmt::Result {
        let mut f = f;
        let value = |v: ValueId| self.names.of(self.g, v);
        let open = |f: &mut &mut dyn fmt::Write, word: &str, kinds: &[ArgKind]| {
            let bare = kind.is_some_and(|k| kinds.contains(&k));
            write!(f, "{}[", if bare { "" } else { word })
        };
        match a {
            Arg::None => f.write_str("None"),
            Arg::Value(v) => f.write_str(&value(*v)),
            Arg::Int(i) => write!(f, "{i}"),
            Arg::Float(x) => write!(f, "{}", Float(*x)),
            Arg::Bool(b) => write!(f, "{b}"),
            Arg::Str(s) => write!(f, "{}", Quoted(s)),
            Arg::DType(d) => write!(f, "{d}"),
            Arg::Ints(items) => {
                open(&mut f, "ints", &[ArgKind::IntList])?;
                separated(&mut f, items, |f, i| match i {
                    IntArg::Const(c) => write!(f, "{c}"),
                    IntArg::Value(v) => f.write_str(&value(*v)),
                })?;
                f.write_char(']')
            }
            Arg::Floats(items) => {
                open(&mut f, "floats", &[ArgKind::FloatList])?;
                separated(&mut f, items, |f, x| write!(f, "{}", Float(*x)))?;
                f.write_char(']')
            }
            Arg::Bools(items) => {
                open(&mut f, "bools", &[ArgKind::BoolList])?;
                separated(&mut f, items, |f, b| write!(f, "{b}"))?;
                f.write_char(']')
            }
            Arg::Values(items) => {
                open(&mut f, "tensors", &[ArgKind::TensorList, ArgKind::OptionalTensorList])?;
                separated(&mut f, items, |f, v| match v {
                    Some(v) => f.write_str(&value(*v)),
                    None => f.write_str("None"),
                })?;
                f.write_char(']')
            }
        }
    }

    fn args(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs: Vec<&SchemaArg> =
            if self.node.op.is_structural() { Vec::new() } else { self.node.op.schema().inputs().collect() };
        let (mut gap, mut first) = (false, true);
        for (i, a) in self.node.args.iter().enumerate() {
            let declared = inputs.get(i);
            if declared.and_then(|d| default_of(d)).is_some_and(|d| same_arg(a, &d)) {
                gap = true;
                continue;
            }
            if !std::mem::take(&mut first) {
                f.write_str(", ")?;
            }
            if let (true, Some(d)) = (gap, declared) {
                write!(f, "{}=", d.name)?;
            }
            self.arg(f, a, declared.map(|d| d.kind))?;
        }
        Ok(())
    }
}

impl fmt::Display for NodeHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (g, node) = (self.g, self.node);
        if !node.outputs.is_empty() {
            separated(f, &node.outputs, |f, &v| {
                f.write_str(&self.names.of(g, v))?;
                match g.values.get(v).and_then(|d| d.name.as_deref()) {
                    Some(name) => write!(f, " {}", Quoted(name)),
                    None => Ok(()),
                }
            })?;
            f.write_str(" = ")?;
        }
        f.write_str(node.op.name())?;
        match &node.extra {
            Extra::None => {}
            Extra::Custom(key) => write!(f, " {}", Quoted(key))?,
            Extra::Delegate(d) => write!(f, " {d}")?,
        }
        f.write_char('(')?;
        self.args(f)?;
        f.write_char(')')?;
        if !node.outputs.is_empty() {
            f.write_str(" : ")?;
            separated(f, &node.outputs, |f, &v| match g.values.get(v) {
                Some(d) => write!(f, "{}", d.ty),
                None => f.write_char('_'),
            })?;
        }
        match g.paths.get(node.path).map(AsRef::as_ref) {
            None | Some("") => {}
            Some(path) => write!(f, " @{}", Quoted(path))?,
        }
        write!(f, " {}", node.handle)
    }
}

struct Printer {
    out: String,
    line: usize,
    lines: LineMap,
}

impl Printer {
    /// One line at `depth`, which is where `at` stands.
    fn line(&mut self, depth: usize, at: Option<Location>, text: impl fmt::Display) {
        if let Some(at) = at {
            self.lines.set(at, self.line);
        }
        for _ in 0..depth {
            self.out.push_str("  ");
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{text}");
        self.line += 1;
    }

    fn module(&mut self, m: &Module) {
        self.line(0, Some(Location::Module), format_args!("module {} {{", Quoted(&m.name)));
        for (id, c) in m.constants.iter() {
            let text = format!("const {id} {} : {}{}", Quoted(&c.name), c.ty, ConstSuffix(c));
            self.line(1, Some(Location::Constant(id)), text);
        }
        for (id, b) in m.buffers.iter() {
            let init = b.init.map_or_else(String::new, |c| format!(" = {c}"));
            let text = format!("buffer {id} {} : {}{init}", Quoted(&b.name), b.ty);
            self.line(1, Some(Location::Buffer(id)), text);
        }
        for (id, d) in m.delegates.iter() {
            self.line(1, Some(Location::Delegate(id)), format_args!("delegate {id} {}", DelegateBody(d)));
        }
        for (i, meta) in m.metadata.iter().enumerate() {
            self.line(1, Some(Location::Metadata(i)), MetadataLine(meta));
        }
        for (i, g) in m.graphs.iter().enumerate() {
            self.graph(g, i, 1);
        }
        self.line(0, None, "}");
    }

    fn graph(&mut self, g: &Graph, index: usize, depth: usize) {
        let names = Names::new(g);
        let mut head = format!("graph {}(", Name(&g.name));
        let _ = separated(&mut head, &g.inputs, |f, &v| param(f, g, &names, v));
        head.push(')');
        for (i, (s, symbol)) in g.symbols.iter().enumerate() {
            let word = if i == 0 { " where" } else { "," };
            let _ = write!(head, "{word} {s} in {}..={}", symbol.min, symbol.max);
        }
        if g.next_handle != implied_next_handle(g) {
            let _ = write!(head, " next #{}", g.next_handle);
        }
        head.push_str(" {");
        self.line(depth, Some(Location::Graph(index)), head);
        let mut seen = SideTable::new(false);
        self.region(g, &names, g.body_id(), index, depth + 1, &mut seen);
        self.line(depth, None, "}");
    }

    fn region(
        &mut self,
        g: &Graph,
        names: &Names,
        r: RegionId,
        index: usize,
        depth: usize,
        seen: &mut SideTable<RegionId, bool>,
    ) {
        let Some(region) = g.regions.get(r) else { return self.line(depth, None, format_args!("; no region {r}")) };
        if std::mem::replace(&mut seen[r], true) {
            return self.line(depth, None, format_args!("; region {r} again"));
        }
        if depth > MAX_PRINTED_DEPTH {
            return self.line(0, None, format_args!("; region {r} is nested too deep"));
        }
        for &n in &region.nodes {
            let Some(node) = g.nodes.get(n) else {
                self.line(depth, None, format_args!("; no node {n}"));
                continue;
            };
            let mut text = NodeHead { g, names, node }.to_string();
            let at = Some(Location::Node(index, n));
            for (i, &inner) in node.regions.iter().enumerate() {
                let word = match (node.op, i) {
                    (Op::Cond, 0) => "then",
                    (Op::Cond, 1) => "else",
                    (Op::Loop, 0) => "body",
                    _ => "region",
                };
                let _ = write!(text, " {word}");
                if let Some(params) = g.regions.get(inner).map(|r| &r.params).filter(|p| !p.is_empty()) {
                    text.push('(');
                    let _ = separated(&mut text, params, |f, &v| param(f, g, names, v));
                    text.push(')');
                }
                text.push_str(" {");
                self.line(depth, at.filter(|_| i == 0), &text);
                self.region(g, names, inner, index, depth + 1, seen);
                text = "}".to_owned();
            }
            self.line(depth, at.filter(|_| node.regions.is_empty()), text);
        }
        let list = |values: &[ValueId]| {
            let mut s = String::new();
            for (i, &v) in values.iter().enumerate() {
                s.push_str(if i > 0 { ", " } else { " " });
                s.push_str(&names.of(g, v));
            }
            s
        };
        let body = r == g.body_id();
        if body {
            for (i, (b, v)) in g.mutations.iter().enumerate() {
                self.line(depth, Some(Location::Mutation(index, i)), format_args!("mutate {b} = {}", names.of(g, *v)));
            }
        }
        let word = if body { "return" } else { "yield" };
        self.line(depth, Some(Location::Results(index, r)), format_args!("{word}{}", list(&region.results)));
    }
}

/// What [`Graph::fresh_handle`] gives if no handle was ever dropped.
pub(crate) fn implied_next_handle(g: &Graph) -> u32 {
    let mut next = 0;
    let mut seen = SideTable::new(false);
    let mut todo = vec![g.body_id()];
    while let Some(r) = todo.pop() {
        let Some(region) = g.regions.get(r) else { continue };
        if std::mem::replace(&mut seen[r], true) {
            continue;
        }
        for node in region.nodes.iter().filter_map(|&n| g.nodes.get(n)) {
            next = next.max(node.handle.0.saturating_add(1));
            todo.extend(&node.regions);
        }
    }
    next
}

fn param(f: &mut dyn fmt::Write, g: &Graph, names: &Names, v: ValueId) -> fmt::Result {
    f.write_str(&names.of(g, v))?;
    let Some(data) = g.values.get(v) else { return Ok(()) };
    if let Some(name) = data.name.as_deref() {
        write!(f, " {}", Quoted(name))?;
    }
    write!(f, ": {}", data.ty)
}

/// An element as the text form writes it: floats in the shortest form that reads back to the same value of their type.
fn element(f: &mut dyn fmt::Write, dtype: DType, s: Scalar) -> fmt::Result {
    match s {
        Scalar::Int(i) => write!(f, "{i}"),
        Scalar::Bool(b) => write!(f, "{b}"),
        Scalar::Float(x) if x.is_nan() => f.write_str("nan"),
        Scalar::Float(x) if dtype == DType::F64 => write!(f, "{x:?}"),
        Scalar::Float(x) => write!(f, "{:?}", x as f32),
    }
}

struct ConstSuffix<'a>(&'a Constant);

impl fmt::Display for ConstSuffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        let source = match &c.data {
            ConstData::Missing => return Ok(()),
            ConstData::External(key) => return write!(f, " external {}", Quoted(key)),
            ConstData::Source(s) => s,
        };
        let (Some(sizes), Some(bytes)) = (c.ty.fixed_sizes(), source.as_slice()) else { return Ok(()) };
        let numel = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).unwrap_or(usize::MAX);
        if numel > MAX_PRINTED_ELEMENTS || source.dtype() != c.ty.dtype || source.shape() != sizes.as_slice() {
            return Ok(());
        }
        f.write_str(" = [")?;
        separated(f, (0..numel).filter_map(|i| read_scalar(c.ty.dtype, bytes, i)), |f, s| element(f, c.ty.dtype, s))?;
        f.write_char(']')
    }
}

struct Blob<'a>(&'a [u8]);

impl fmt::Display for Blob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > MAX_PRINTED_BYTES {
            return write!(f, "{} bytes", self.0.len());
        }
        f.write_str("hex \"")?;
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        f.write_char('"')
    }
}

struct DelegateBody<'a>(&'a Delegate);

impl fmt::Display for DelegateBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = self.0;
        write!(f, "{} {}", Quoted(&d.backend), Blob(&d.payload))?;
        for (key, value) in &d.compile_specs {
            write!(f, " spec {} = {}", Quoted(key), Blob(value))?;
        }
        for (key, source) in &d.named_data {
            write!(f, " data {} = ", Quoted(key))?;
            match source.as_slice() {
                Some(bytes) => write!(f, "{}", Blob(bytes))?,
                None => write!(f, "{} bytes", source.byte_len())?,
            }
        }
        Ok(())
    }
}

struct MetadataLine<'a>(&'a Metadata);

impl fmt::Display for MetadataLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata {} = [", Name(&self.0.name))?;
        separated(f, &self.0.values, |f, v| match v {
            MetaValue::Int(i) => write!(f, "{i}"),
            MetaValue::Bool(b) => write!(f, "{b}"),
            MetaValue::Float(x) => write!(f, "{}", Float(*x)),
            MetaValue::Str(s) => write!(f, "{}", Quoted(s)),
            MetaValue::Tensor(t) => meta_tensor(f, t),
        })?;
        f.write_char(']')
    }
}

fn meta_tensor(f: &mut dyn fmt::Write, t: &Tensor) -> fmt::Result {
    let mut f = f;
    write!(f, "{}[", t.dtype())?;
    separated(&mut f, t.sizes(), |f, s| write!(f, "{s}"))?;
    f.write_char(']')?;
    let view = t.view();
    if !view.is_contiguous() {
        // Dimensions of size 1 may stand anywhere in the order: in front, so that equal layouts have one spelling.
        let mut order: Vec<usize> = (0..view.rank()).collect();
        order.sort_by_key(|&d| {
            (view.sizes()[d] != 1, std::cmp::Reverse(if view.sizes()[d] == 1 { 0 } else { view.strides()[d] }), d)
        });
        f.write_char('{')?;
        for (i, d) in order.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
        }
        f.write_char('}')?;
    }
    f.write_str(" = [")?;
    separated(&mut f, (0..t.numel()).filter_map(|i| view.scalar(i)), |f, s| element(f, t.dtype(), s))?;
    f.write_char(']')
}

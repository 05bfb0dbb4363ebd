//! Ids, ownership, and definitions before uses.

use super::{Cx, MAX_DEPTH, Rule};
use crate::entity::{NodeId, RegionId, SideTable, ValueId};
use crate::graph::{Def, Extra};
use crate::location::Location;
use crate::types::Type;

/// True if the graph may be walked.
pub(super) fn check(cx: &mut Cx<'_>) -> bool {
    let before = cx.found.len();
    let mut walk =
        Walk { region_seen: SideTable::new(false), node_seen: SideTable::new(false), defined: SideTable::new(false) };
    for i in 0..cx.g.inputs.len() {
        let v = cx.g.inputs[i];
        define(cx, &mut walk, cx.header(), v, |d| matches!(d, Def::Input(p) if p as usize == i), "an input");
    }
    region(cx, &mut walk, cx.g.body_id(), 0);
    let mut module_values: Vec<(Location, ValueId)> = Vec::new();
    for i in 0..cx.g.mutations.len() {
        let (b, v) = cx.g.mutations[i];
        let at = Location::Mutation(cx.index, i);
        value_exists(cx, at, v);
        if cx.m.buffers.get(b).is_none() {
            cx.report(at, Rule::Ids, format!("there is no buffer {b}"));
        }
        module_values.push((at, v));
    }
    if cx.found.len() > before {
        return false;
    }
    // One value stands for a constant or buffer, so that its versions have one beginning.
    let mut standing: Vec<(Def, ValueId)> = Vec::new();
    let mut seen = SideTable::new(false);
    for_each_use(cx, &mut |at, v| module_values.push((at, v)));
    let mut found = Vec::new();
    for (at, v) in module_values {
        if std::mem::replace(&mut seen[v], true) {
            continue;
        }
        let def = cx.g.values[v].def;
        let name = match def {
            Def::Const(c) if cx.m.constants.get(c).is_some() => c.to_string(),
            Def::Buffer(b) if cx.m.buffers.get(b).is_some() => b.to_string(),
            Def::Const(c) => {
                found.push((at, Rule::Ids, format!("there is no constant {c}")));
                continue;
            }
            Def::Buffer(b) => {
                found.push((at, Rule::Ids, format!("there is no buffer {b}")));
                continue;
            }
            Def::Input(_) | Def::Node(..) | Def::Param(..) => continue,
        };
        standing.push((def, v));
        if let Some(ty) = cx.m.def_type(def)
            && ty != *cx.g.ty(v)
        {
            found.push((at, Rule::Types, format!("the value of {name} is {}, declared as {ty}", cx.g.ty(v))));
        }
    }
    standing.sort_by_key(|(d, v)| (format!("{d:?}"), *v));
    for pair in standing.windows(2) {
        if pair[0].0 == pair[1].0 {
            let message = format!("{:?} has two values, {} and {}", pair[0].0, pair[0].1, pair[1].1);
            found.push((cx.header(), Rule::Structure, message));
        }
    }
    let walkable = !found.iter().any(|f| matches!(f.1, Rule::Ids | Rule::Structure));
    cx.found.extend(found);
    walkable
}

struct Walk {
    region_seen: SideTable<RegionId, bool>,
    node_seen: SideTable<NodeId, bool>,
    defined: SideTable<ValueId, bool>,
}

fn value_exists(cx: &mut Cx<'_>, at: Location, v: ValueId) -> bool {
    let there = cx.g.values.get(v).is_some();
    if !there {
        cx.report(at, Rule::Ids, format!("there is no value {v}"));
    }
    there
}

fn define(cx: &mut Cx<'_>, walk: &mut Walk, at: Location, v: ValueId, fits: impl Fn(Def) -> bool, what: &str) {
    if !value_exists(cx, at, v) {
        return;
    }
    let def = cx.g.values[v].def;
    if std::mem::replace(&mut walk.defined[v], true) {
        cx.report(at, Rule::Structure, format!("value {v} is defined twice"));
    } else if !fits(def) {
        cx.report(at, Rule::Structure, format!("value {v} is {what} here, but says it is {def:?}"));
    }
}

fn region(cx: &mut Cx<'_>, walk: &mut Walk, r: RegionId, depth: usize) {
    let g = cx.g;
    let results = Location::Results(cx.index, r);
    let Some(region_data) = g.regions.get(r) else {
        return cx.report(cx.header(), Rule::Ids, format!("there is no region {r}"));
    };
    if std::mem::replace(&mut walk.region_seen[r], true) {
        return cx.report(cx.header(), Rule::Structure, format!("region {r} belongs to two nodes"));
    }
    if depth > MAX_DEPTH {
        return cx.report(cx.header(), Rule::Structure, format!("regions are nested more than {MAX_DEPTH} deep"));
    }
    for (i, &p) in region_data.params.iter().enumerate() {
        let fits = |d| matches!(d, Def::Param(q, k) if q == r && k as usize == i);
        define(cx, walk, cx.header(), p, fits, "a region's parameter");
    }
    for &n in &region_data.nodes {
        let at = cx.node(n);
        let Some(node) = g.nodes.get(n) else {
            cx.report(cx.header(), Rule::Ids, format!("there is no node {n}"));
            continue;
        };
        if std::mem::replace(&mut walk.node_seen[n], true) {
            cx.report(at, Rule::Structure, format!("node {n} stands twice in the graph"));
            continue;
        }
        if g.paths.get(node.path).is_none() {
            cx.report(at, Rule::Ids, format!("there is no module path {}", node.path));
        }
        if let Extra::Delegate(d) = node.extra
            && cx.m.delegates.get(d).is_none()
        {
            cx.report(at, Rule::Ids, format!("there is no delegate {d}"));
        }
        node.args.iter().for_each(|a| {
            a.for_each_value(|v| {
                value_exists(cx, at, v);
            });
        });
        for (i, &v) in node.outputs.iter().enumerate() {
            let fits = |d| matches!(d, Def::Node(m, k) if m == n && k as usize == i);
            define(cx, walk, at, v, fits, "a node's output");
        }
        for &inner in &node.regions {
            region(cx, walk, inner, depth + 1);
        }
    }
    for &v in &region_data.results {
        value_exists(cx, results, v);
    }
}

/// Every use of a value by a node or a region's results, in order of the text.
pub(super) fn for_each_use(cx: &Cx<'_>, f: &mut dyn FnMut(Location, ValueId)) {
    fn visit(cx: &Cx<'_>, r: RegionId, f: &mut dyn FnMut(Location, ValueId)) {
        for &n in &cx.g.regions[r].nodes {
            cx.g.nodes[n].args.iter().for_each(|a| a.for_each_value(|v| f(cx.node(n), v)));
            for &inner in &cx.g.nodes[n].regions {
                visit(cx, inner, f);
            }
        }
        cx.g.regions[r].results.iter().for_each(|&v| f(Location::Results(cx.index, r), v));
    }
    visit(cx, cx.g.body_id(), f);
}

/// Definitions before uses, symbols bound before types that name them, and the types themselves.
pub(super) fn dominance(cx: &mut Cx<'_>) {
    let mut scope =
        Scope { visible: SideTable::new(false), bound: SideTable::new(false), values: Vec::new(), symbols: Vec::new() };
    for (s, symbol) in cx.g.symbols.iter() {
        if symbol.min > symbol.max {
            let message = format!("{s} has bounds {}..={}", symbol.min, symbol.max);
            cx.report(cx.header(), Rule::Symbols, message);
        }
    }
    // Inputs come together: a dimension may name the symbol that a later input binds.
    for &v in &cx.g.inputs {
        match cx.g.ty(v) {
            Type::Tensor(t) => t.dims.iter().for_each(|d| scope.bind(d)),
            Type::Int(s) => scope.bind(s),
            Type::Bool | Type::Float => {}
        }
    }
    for i in 0..cx.g.inputs.len() {
        scope.define(cx, cx.header(), cx.g.inputs[i]);
    }
    scope.region(cx, cx.g.body_id());
    for i in 0..cx.g.mutations.len() {
        scope.used(cx, Location::Mutation(cx.index, i), cx.g.mutations[i].1);
    }
}

struct Scope {
    visible: SideTable<ValueId, bool>,
    bound: SideTable<crate::entity::SymbolId, bool>,
    /// What became visible, innermost last.
    values: Vec<ValueId>,
    symbols: Vec<crate::entity::SymbolId>,
}

impl Scope {
    fn bind(&mut self, s: &crate::symint::SymInt) {
        if let Some(s) = s.as_symbol()
            && !std::mem::replace(&mut self.bound[s], true)
        {
            self.symbols.push(s);
        }
    }

    fn define(&mut self, cx: &mut Cx<'_>, at: Location, v: ValueId) {
        self.visible[v] = true;
        self.values.push(v);
        self.ty(cx, at, v);
    }

    /// The rules `dims` and `symbols` for the type of `v`.
    fn ty(&self, cx: &mut Cx<'_>, at: Location, v: ValueId) {
        let ty = cx.g.ty(v).clone();
        let dims = match &ty {
            Type::Tensor(t) => {
                if let Some(problem) = super::items::order_problem(t) {
                    cx.report(at, Rule::Dims, problem);
                }
                t.dims.as_slice()
            }
            Type::Int(s) => std::slice::from_ref(s),
            Type::Bool | Type::Float => &[],
        };
        for d in dims {
            let terms = match d {
                crate::symint::SymInt::Linear(l) => l.terms(),
                _ => &[],
            };
            let mut known = true;
            for &(s, _) in terms {
                if cx.g.symbols.get(s).is_none() {
                    known = false;
                    cx.report(at, Rule::Symbols, format!("symbol {s} in {ty} is not declared"));
                } else if !self.bound[s] {
                    cx.report(at, Rule::Symbols, format!("symbol {s} in {ty} is not bound before"));
                }
            }
            let (min, max) = d.range(&cx.g.symbols);
            if min > max {
                cx.report(at, Rule::Dims, format!("{d} in {ty} has no value between {min} and {max}"));
            } else if known && max < 0 && matches!(ty, Type::Tensor(_)) {
                cx.report(at, Rule::Dims, format!("size {d} in {ty} is negative"));
            }
        }
    }

    fn used(&self, cx: &mut Cx<'_>, at: Location, v: ValueId) {
        if self.visible[v] || matches!(cx.g.values[v].def, Def::Const(_) | Def::Buffer(_)) {
            return;
        }
        let name = cx.name(v);
        cx.report(at, Rule::Dominance, format!("{name} is used where it is not defined: later, elsewhere or never"));
    }

    fn region(&mut self, cx: &mut Cx<'_>, r: RegionId) {
        let (values, symbols) = (self.values.len(), self.symbols.len());
        let g = cx.g;
        for &n in &g.regions[r].nodes {
            let at = cx.node(n);
            let node = &g.nodes[n];
            node.args.iter().for_each(|a| a.for_each_value(|v| self.used(cx, at, v)));
            for &inner in &node.regions {
                let (outer_values, outer_symbols) = (self.values.len(), self.symbols.len());
                for &p in &g.regions[inner].params {
                    self.bind_int(cx, p);
                    self.define(cx, at, p);
                }
                self.region(cx, inner);
                self.close(outer_values, outer_symbols);
            }
            for &v in &node.outputs {
                self.bind_int(cx, v);
            }
            for &v in &node.outputs {
                self.define(cx, at, v);
            }
        }
        for &v in &g.regions[r].results {
            self.used(cx, Location::Results(cx.index, r), v);
        }
        if r != g.body_id() {
            self.close(values, symbols);
        }
    }

    fn bind_int(&mut self, cx: &Cx<'_>, v: ValueId) {
        if let Type::Int(s) = cx.g.ty(v) {
            self.bind(s);
        }
    }

    fn close(&mut self, values: usize, symbols: usize) {
        for v in self.values.drain(values..) {
            self.visible[v] = false;
        }
        for s in self.symbols.drain(symbols..) {
            self.bound[s] = false;
        }
    }
}

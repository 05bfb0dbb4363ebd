//! Graphs, nodes and their arguments.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::infer::Holes;
use super::lexer::{Position, Token, invalid};
use super::{MAX_REGION_DEPTH, Parse, Parser, numbered};
use crate::arg::{Arg, IntArg};
use crate::entity::{BufferId, ConstId, DebugHandle, DelegateId, Id, NodeId, PathId, RegionId, ValueId};
use crate::graph::{Def, Extra, Graph, Node, Region};
use crate::location::Location;
use crate::op::Op;
use crate::print::default_of;
use crate::schema::{ArgKind, SchemaArg};
use crate::types::Type;

/// A graph being read.
pub(super) struct Draft {
    pub(super) graph: Graph,
    index: usize,
    /// The value of each number, and where it was used first if it is not defined yet.
    values: FxHashMap<u32, (ValueId, Option<Position>)>,
    module_values: FxHashMap<(char, usize), ValueId>,
    paths: FxHashMap<String, PathId>,
    /// Nodes without a debug handle.
    unnumbered: Vec<NodeId>,
    pub(super) holes: Holes,
}

/// The type of a value until its own is known.
pub(super) const PLACEHOLDER: Type = Type::Bool;

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Parser<'_> {
    pub(super) fn graph(&mut self, line: usize) -> Parse<()> {
        let name = self.name("the graph's name")?;
        let index = self.parsed.module.graphs.len();
        self.parsed.lines.set(Location::Graph(index), line);
        let mut d = Draft {
            graph: Graph::new(&name),
            index,
            values: FxHashMap::default(),
            module_values: FxHashMap::default(),
            paths: FxHashMap::from_iter([(String::new(), PathId::from_index(0))]),
            unnumbered: Vec::new(),
            holes: Holes::default(),
        };
        self.list("(", ")", |p| {
            let position = u32_of(d.graph.inputs.len());
            let v = p.param(&mut d, Def::Input(position))?;
            if d.holes.contains(v) {
                return p.unexpected("nothing: the type of an input cannot be inferred");
            }
            d.graph.inputs.push(v);
            Ok(())
        })?;
        if self.eat_word("where")? {
            loop {
                self.symbol_bounds(&mut d)?;
                if !self.eat(",")? {
                    break;
                }
            }
        }
        let mut next_handle = 0;
        if self.eat_word("next")? {
            let Token::Handle(n) = self.token else { return self.unexpected("a debug handle `#0`") };
            self.advance()?;
            next_handle = n;
        }
        self.expect("{")?;
        let body = d.graph.body_id();
        self.region(&mut d, body, 0)?;
        self.finish(d, next_handle)
    }

    fn finish(&mut self, mut d: Draft, next_handle: u32) -> Parse<()> {
        let undefined = d.values.iter().filter_map(|(n, v)| v.1.map(|at| (at, n)));
        if let Some((at, n)) = undefined.min_by_key(|(at, _)| (at.line, at.column)) {
            return Err(invalid(at, format!("value %{n} of graph `{}` is defined nowhere", d.graph.name)));
        }
        d.graph.next_handle = next_handle;
        let handles: Vec<DebugHandle> = d.graph.nodes.values().map(|n| n.handle).collect();
        for (i, h) in handles.into_iter().enumerate() {
            if d.unnumbered.binary_search(&NodeId::from_index(i)).is_err() {
                d.graph.reserve_handle(h);
            }
        }
        for n in std::mem::take(&mut d.unnumbered) {
            d.graph.nodes[n].handle = d.graph.fresh_handle();
        }
        for (node, result) in d.holes.resolve(&mut d.graph) {
            self.parsed.inferred.push(super::Inferred { location: Location::Node(d.index, node), result });
        }
        self.parsed.module.graphs.push(d.graph);
        Ok(())
    }

    fn symbol_bounds(&mut self, d: &mut Draft) -> Parse<()> {
        let next = d.graph.symbols.len();
        match self.token {
            Token::Word(w) if numbered(w, 's') == Some(next) => self.advance()?,
            _ => return self.unexpected(format!("`s{next}`: symbols are bounded in order")),
        };
        self.expect_word("in")?;
        let min = self.int("the smallest value")?;
        self.expect("..=")?;
        let max = self.int("the largest value")?;
        d.graph.add_symbol(min, max);
        Ok(())
    }

    /// `%0 "name": type`.
    fn param(&mut self, d: &mut Draft, def: Def) -> Parse<ValueId> {
        let v = self.define(d, def)?;
        self.expect(":")?;
        match self.type_or_hole()? {
            Some(ty) => d.graph.values[v].ty = ty,
            None => d.holes.add(v),
        }
        Ok(v)
    }

    /// A value where it is defined, with the name it may have.
    fn define(&mut self, d: &mut Draft, def: Def) -> Parse<ValueId> {
        let at = self.position;
        let Token::Value(n) = self.token else { return self.unexpected("a value `%0`") };
        self.advance()?;
        let v = match d.values.get_mut(&n) {
            Some((_, None)) => return Err(invalid(at, format!("value %{n} is defined a second time"))),
            Some((v, undefined)) => {
                *undefined = None;
                d.graph.values[*v].def = def;
                *v
            }
            None => {
                let v = d.graph.add_value(PLACEHOLDER, def, None);
                d.values.insert(n, (v, None));
                v
            }
        };
        if matches!(self.token, Token::Str(_)) {
            d.graph.values[v].name = Some(self.string("a name")?.into());
        }
        Ok(v)
    }

    /// A value where it is used, if the next token is one.
    fn use_if_value(&mut self, d: &mut Draft) -> Parse<Option<ValueId>> {
        let at = self.position;
        let v = match self.token {
            Token::Value(n) => match d.values.get(&n) {
                Some((v, _)) => *v,
                None => {
                    // Its place is filled in where it is defined.
                    let v = d.graph.add_value(PLACEHOLDER, Def::Input(u32::MAX), None);
                    d.values.insert(n, (v, Some(at)));
                    v
                }
            },
            Token::Word(w) => {
                let (letter, number) = match (numbered(w, 'c'), numbered(w, 'b')) {
                    (Some(n), _) => ('c', n),
                    (_, Some(n)) => ('b', n),
                    _ => return Ok(None),
                };
                match d.module_values.get(&(letter, number)) {
                    Some(v) => *v,
                    None => {
                        let def = match letter {
                            'c' => Def::Const(ConstId::from_index(number)),
                            _ => Def::Buffer(BufferId::from_index(number)),
                        };
                        let ty = self.parsed.module.def_type(def);
                        let ty = ty.ok_or_else(|| invalid(at, format!("`{w}` is not declared before its use")))?;
                        let v = d.graph.add_value(ty, def, None);
                        d.module_values.insert((letter, number), v);
                        v
                    }
                }
            }
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(v))
    }

    fn used(&mut self, d: &mut Draft) -> Parse<ValueId> {
        match self.use_if_value(d)? {
            Some(v) => Ok(v),
            None => self.unexpected("a value `%0`, `c0` or `b0`"),
        }
    }

    /// Values up to the end of a `return`, `yield` line.
    fn results(&mut self, d: &mut Draft) -> Parse<Vec<ValueId>> {
        let mut out = Vec::new();
        match self.use_if_value(d)? {
            Some(v) => out.push(v),
            None => return Ok(out),
        }
        while self.eat(",")? {
            out.push(self.used(d)?);
        }
        Ok(out)
    }

    fn region(&mut self, d: &mut Draft, r: RegionId, depth: usize) -> Parse<()> {
        self.limit("nested regions", depth, MAX_REGION_DEPTH)?;
        let body = r == d.graph.body_id();
        let (end, location) = (if body { "return" } else { "yield" }, Location::Results(d.index, r));
        loop {
            let line = self.position.line;
            if self.eat_word(end)? {
                self.parsed.lines.set(location, line);
                d.graph.regions[r].results = self.results(d)?;
                return self.expect("}");
            }
            if body && self.eat_word("mutate")? {
                let buffer = match self.token {
                    Token::Word(w) => numbered(w, 'b'),
                    _ => None,
                };
                let Some(b) = buffer else { return self.unexpected("a buffer `b0`") };
                self.advance()?;
                self.expect("=")?;
                let v = self.used(d)?;
                self.parsed.lines.set(Location::Mutation(d.index, d.graph.mutations.len()), line);
                d.graph.mutations.push((BufferId::from_index(b), v));
                continue;
            }
            if !matches!(self.token, Token::Value(_) | Token::Word(_)) {
                return self.unexpected(format!("a node, `mutate` or `{end}`"));
            }
            self.node(d, r, depth)?;
        }
    }

    fn node(&mut self, d: &mut Draft, r: RegionId, depth: usize) -> Parse<()> {
        let line = self.position.line;
        let id = d.graph.nodes.next_id();
        let mut outputs: SmallVec<[ValueId; 1]> = SmallVec::new();
        if matches!(self.token, Token::Value(_)) {
            loop {
                let def = Def::Node(id, u32_of(outputs.len()));
                outputs.push(self.define(d, def)?);
                if !self.eat(",")? {
                    break;
                }
            }
            self.expect("=")?;
        }
        let op = self.op()?;
        let extra = self.extra(op)?;
        // The node takes its place before its regions' nodes do, as its id was given to its outputs.
        let handle = DebugHandle(0);
        let path = PathId::from_index(0);
        let (args, regions) = (SmallVec::new(), SmallVec::new());
        d.graph.nodes.push(Node { op, args, outputs: outputs.clone(), regions, extra, handle, path });
        d.graph.regions[r].nodes.push(id);
        self.parsed.lines.set(Location::Node(d.index, id), line);
        d.graph.nodes[id].args = self.args(d, op)?;
        self.output_types(d, id, &outputs)?;
        if self.eat("@")? {
            let path = self.string("a module path")?;
            let known = d.paths.get(&path).copied();
            d.graph.nodes[id].path = known.unwrap_or_else(|| {
                let p = d.graph.paths.push(path.as_str().into());
                d.paths.insert(path, p);
                p
            });
        }
        match self.token {
            Token::Handle(n) => {
                self.advance()?;
                d.graph.nodes[id].handle = DebugHandle(n);
            }
            _ => d.unnumbered.push(id),
        }
        while let Token::Word("then" | "else" | "body" | "region") = self.token {
            self.advance()?;
            let inner = d.graph.regions.push(Region::default());
            d.graph.nodes[id].regions.push(inner);
            if matches!(self.token, Token::Punct("(")) {
                self.list("(", ")", |p| {
                    let position = u32_of(d.graph.regions[inner].params.len());
                    let v = p.param(d, Def::Param(inner, position))?;
                    d.graph.regions[inner].params.push(v);
                    Ok(())
                })?;
            }
            self.expect("{")?;
            self.region(d, inner, depth + 1)?;
        }
        Ok(())
    }

    fn output_types(&mut self, d: &mut Draft, node: NodeId, outputs: &[ValueId]) -> Parse<()> {
        if outputs.is_empty() {
            return Ok(());
        }
        if !self.eat(":")? {
            outputs.iter().for_each(|&v| d.holes.add(v));
            d.holes.nodes.push(node);
            return Ok(());
        }
        let mut hole = false;
        for (i, &v) in outputs.iter().enumerate() {
            if i > 0 {
                self.expect(",")?;
            }
            match self.type_or_hole()? {
                Some(ty) => d.graph.values[v].ty = ty,
                None => {
                    d.holes.add(v);
                    hole = true;
                }
            }
        }
        if hole {
            d.holes.nodes.push(node);
        }
        Ok(())
    }

    fn op(&mut self) -> Parse<Op> {
        let at = self.position;
        let Token::Word(word) = self.token else { return self.unexpected("an operator") };
        let op =
            word.parse::<Op>().map_err(|e| super::ParseError { line: at.line, column: at.column, kind: e.into() })?;
        self.advance()?;
        Ok(op)
    }

    fn extra(&mut self, op: Op) -> Parse<Extra> {
        Ok(match (op, &self.token) {
            (Op::Custom, _) => Extra::Custom(self.string("the kernel key of the operator")?.into()),
            (Op::Delegate, Token::Word(w)) => match numbered(w, 'd') {
                Some(n) => {
                    self.advance()?;
                    Extra::Delegate(DelegateId::from_index(n))
                }
                None => return self.unexpected("a delegate `d0`"),
            },
            (Op::Delegate, _) => return self.unexpected("a delegate `d0`"),
            _ => Extra::None,
        })
    }

    fn args(&mut self, d: &mut Draft, op: Op) -> Parse<SmallVec<[Arg; 4]>> {
        if op.is_structural() {
            let mut args = SmallVec::new();
            self.list("(", ")", |p| {
                args.push(p.arg(d, None)?);
                Ok(())
            })?;
            return Ok(args);
        }
        let inputs: Vec<&'static SchemaArg> = op.schema().inputs().collect();
        let mut given: Vec<Option<Arg>> = vec![None; inputs.len()];
        let (mut position, mut by_name) = (0usize, false);
        let end = self.position;
        self.list("(", ")", |p| {
            let at = p.position;
            let slot = match p.token {
                Token::Word(w) if p.lexer.at_equals() => {
                    p.advance()?;
                    p.expect("=")?;
                    by_name = true;
                    let found = inputs.iter().position(|a| a.name == w);
                    found.ok_or_else(|| invalid(at, format!("{op} has no argument `{w}`")))?
                }
                _ if by_name => return p.unexpected("an argument `name=value`, as those after a named one"),
                _ => position,
            };
            position += 1;
            let Some(a) = inputs.get(slot) else {
                return Err(invalid(at, format!("{op} has {} arguments, here is one more", inputs.len())));
            };
            let value = p.arg(d, Some(a.kind))?;
            match given[slot].replace(value) {
                None => Ok(()),
                Some(_) => Err(invalid(at, format!("argument `{}` of {op} is given twice", a.name))),
            }
        })?;
        inputs
            .iter()
            .zip(given)
            .map(|(a, g)| {
                g.or_else(|| default_of(a))
                    .ok_or_else(|| invalid(end, format!("argument `{}` of {op} is missing", a.name)))
            })
            .collect()
    }

    fn arg(&mut self, d: &mut Draft, kind: Option<ArgKind>) -> Parse<Arg> {
        if let Some(v) = self.use_if_value(d)? {
            return Ok(Arg::Value(v));
        }
        Ok(match self.token {
            Token::Int(_) => Arg::Int(self.int("an integer")?),
            Token::Float(_) | Token::Word("inf" | "nan") => Arg::Float(self.float()?),
            Token::Word("true" | "false") => Arg::Bool(self.bool()?),
            Token::Word("None") => {
                self.advance()?;
                Arg::None
            }
            Token::Str(_) => Arg::Str(self.string("a string")?.into()),
            Token::Word(word @ ("ints" | "floats" | "bools" | "tensors")) => {
                self.advance()?;
                self.list_arg(d, word)?
            }
            Token::Punct("[") => match kind {
                Some(ArgKind::IntList) => self.list_arg(d, "ints")?,
                Some(ArgKind::FloatList) => self.list_arg(d, "floats")?,
                Some(ArgKind::BoolList) => self.list_arg(d, "bools")?,
                Some(ArgKind::TensorList | ArgKind::OptionalTensorList) => self.list_arg(d, "tensors")?,
                _ => {
                    return self.unexpected(
                        "an argument that is no list, or `ints[…]`, `floats[…]`, `bools[…]`, `tensors[…]`",
                    );
                }
            },
            _ => match self.dtype() {
                Ok(dtype) => Arg::DType(dtype),
                Err(_) => return self.unexpected("an argument"),
            },
        })
    }

    fn list_arg(&mut self, d: &mut Draft, what: &str) -> Parse<Arg> {
        let mut arg = match what {
            "ints" => Arg::Ints(SmallVec::new()),
            "floats" => Arg::Floats(Vec::new()),
            "bools" => Arg::Bools(Vec::new()),
            _ => Arg::Values(SmallVec::new()),
        };
        self.list("[", "]", |p| {
            match &mut arg {
                Arg::Ints(items) => match p.use_if_value(d)? {
                    Some(v) => items.push(IntArg::Value(v)),
                    None => items.push(IntArg::Const(p.int("an integer or a value")?)),
                },
                Arg::Floats(items) => items.push(p.float()?),
                Arg::Bools(items) => items.push(p.bool()?),
                Arg::Values(items) => {
                    let none = p.eat_word("None")?;
                    items.push(if none { None } else { Some(p.used(d)?) });
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(arg)
    }
}

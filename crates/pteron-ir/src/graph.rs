//! Graphs: values, nodes and regions in static single assignment.

use smallvec::SmallVec;

use crate::arg::Arg;
use crate::entity::{BufferId, ConstId, DebugHandle, Id, IdMap, NodeId, PathId, RegionId, SymbolId, ValueId};
use crate::op::Op;
use crate::symint::{SymInt, Symbol, Symbols};
use crate::types::Type;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// The graph's input of that position.
    Input(u32),
    /// A constant of the module.
    Const(ConstId),
    /// A mutable buffer of the module, as it is when the graph begins.
    Buffer(BufferId),
    /// Output `1` of node `0`.
    Node(NodeId, u32),
    /// Parameter `1` of region `0`.
    Param(RegionId, u32),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
    /// Where it comes from.
    pub def: Def,
    /// A name for people: of inputs, as in the checkpoint's or program's signature.
    pub name: Option<Box<str>>,
}

/// A node: one call of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: Op,
    /// Its arguments, one for each input of the schema. For [`Op::Delegate`]: its tensors. For [`Op::Cond`]: the predicate.
    /// For [`Op::Loop`]: the first values of the loop's parameters.
    pub args: SmallVec<[Arg; 4]>,
    /// Its outputs.
    pub outputs: SmallVec<[ValueId; 1]>,
    /// The regions of [`Op::Cond`] (then, else) and [`Op::Loop`] (body).
    pub regions: SmallVec<[RegionId; 1]>,
    /// Name and overload of an operator outside the table ([`Op::Custom`]), or the delegate's number.
    pub extra: Extra,
    /// Its stable number.
    pub handle: DebugHandle,
    /// The module path it came from.
    pub path: PathId,
}

/// What some operators carry beside their arguments.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Extra {
    /// Nothing.
    #[default]
    None,
    /// The kernel key of an operator outside the table.
    Custom(Box<str>),
    /// The delegate that is called.
    Delegate(crate::entity::DelegateId),
}

/// A list of nodes with parameters and results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Region {
    /// Values that the region is entered with. Only the body of a loop has any.
    pub params: Vec<ValueId>,
    /// The nodes in order of execution.
    pub nodes: Vec<NodeId>,
    /// The results: the graph's outputs, a branch's results, or a loop body's `continue?` followed by the next parameters.
    pub results: Vec<ValueId>,
}

/// The region every graph begins with.
pub const BODY: usize = 0;

/// One method of a module.
///
/// Semantics: values are computed in the order of the body's nodes. A buffer's value at entry is its [`Def::Buffer`] value;
/// when the graph ends, each buffer named in [`Graph::mutations`] holds the value given there.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The method's name: `forward`.
    pub name: String,
    /// Symbols of this graph's dimensions and ints.
    pub symbols: Symbols,
    /// All values.
    pub values: IdMap<ValueId, ValueData>,
    /// All nodes; only those that a reachable region lists are executed.
    pub nodes: IdMap<NodeId, Node>,
    /// All regions; the first is the body.
    pub regions: IdMap<RegionId, Region>,
    /// The inputs, in order.
    pub inputs: Vec<ValueId>,
    /// What each written buffer holds when the graph ends, in order of buffer.
    pub mutations: Vec<(BufferId, ValueId)>,
    /// Module paths of the nodes.
    pub paths: IdMap<PathId, Box<str>>,
    pub(crate) next_handle: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        let mut regions = IdMap::new();
        regions.push(Region::default());
        let mut paths = IdMap::new();
        paths.push(Box::from(""));
        Graph {
            name: name.to_owned(),
            symbols: IdMap::new(),
            values: IdMap::new(),
            nodes: IdMap::new(),
            regions,
            inputs: Vec::new(),
            mutations: Vec::new(),
            paths,
            next_handle: 0,
        }
    }

    /// The id of the body.
    pub fn body_id(&self) -> RegionId {
        RegionId::from_index(BODY)
    }

    /// The body.
    pub fn body(&self) -> &Region {
        &self.regions[self.body_id()]
    }

    /// The outputs.
    pub fn outputs(&self) -> &[ValueId] {
        &self.body().results
    }

    /// Sets the outputs.
    pub fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        let body = self.body_id();
        self.regions[body].results = outputs;
    }

    /// A new symbol.
    pub fn add_symbol(&mut self, min: i64, max: i64) -> SymbolId {
        self.symbols.push(Symbol { min, max })
    }

    /// A new value.
    pub fn add_value(&mut self, ty: Type, def: Def, name: Option<&str>) -> ValueId {
        self.values.push(ValueData { ty, def, name: name.map(Box::from) })
    }

    /// A new input at the end of the list.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let position = u32::try_from(self.inputs.len()).unwrap_or(u32::MAX);
        let v = self.add_value(ty, Def::Input(position), Some(name));
        self.inputs.push(v);
        v
    }

    /// The value that stands for `def` (a constant or a buffer), made on first use with type `ty`.
    pub fn module_value(&mut self, def: Def, ty: impl FnOnce() -> Type) -> ValueId {
        if let Some((v, _)) = self.values.iter().find(|(_, d)| d.def == def) {
            return v;
        }
        let ty = ty();
        self.add_value(ty, def, None)
    }

    /// The id of a module path, made on first use.
    pub fn intern_path(&mut self, path: &str) -> PathId {
        if let Some((id, _)) = self.paths.iter().rev().find(|(_, p)| p.as_ref() == path) {
            return id;
        }
        self.paths.push(path.into())
    }

    /// A fresh stable number.
    pub fn fresh_handle(&mut self) -> DebugHandle {
        let h = DebugHandle(self.next_handle);
        self.next_handle += 1;
        h
    }

    /// Makes later [`Graph::fresh_handle`]s larger than `handle`.
    pub fn reserve_handle(&mut self, handle: DebugHandle) {
        self.next_handle = self.next_handle.max(handle.0.saturating_add(1));
    }

    /// Adds a node with outputs of the given types at the end of `region`.
    pub fn add_node(
        &mut self,
        region: RegionId,
        op: Op,
        args: impl IntoIterator<Item = Arg>,
        output_types: impl IntoIterator<Item = Type>,
        extra: Extra,
        path: PathId,
    ) -> NodeId {
        let handle = self.fresh_handle();
        let node = Node {
            op,
            args: args.into_iter().collect(),
            outputs: SmallVec::new(),
            regions: SmallVec::new(),
            extra,
            handle,
            path,
        };
        let id = self.nodes.push(node);
        for (i, ty) in output_types.into_iter().enumerate() {
            let v = self.add_value(ty, Def::Node(id, u32::try_from(i).unwrap_or(u32::MAX)), None);
            self.nodes[id].outputs.push(v);
        }
        self.regions[region].nodes.push(id);
        id
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.values[v].ty
    }

    /// Every value that `node` reads: its arguments, and what its regions read from outside them.
    pub fn reads(&self, node: NodeId) -> Vec<ValueId> {
        let mut out = Vec::new();
        self.nodes[node].args.iter().for_each(|a| a.for_each_value(|v| out.push(v)));
        for &r in &self.nodes[node].regions {
            for &n in &self.regions[r].nodes {
                out.extend(self.reads(n));
            }
            out.extend(&self.regions[r].results);
        }
        out
    }

    /// Nodes of the body and of all regions under it, in order of execution; a node stands before the nodes of its regions.
    pub fn all_nodes(&self) -> Vec<NodeId> {
        fn visit(g: &Graph, r: RegionId, out: &mut Vec<NodeId>) {
            for &n in &g.regions[r].nodes {
                out.push(n);
                for &inner in &g.nodes[n].regions {
                    visit(g, inner, out);
                }
            }
        }
        let mut out = Vec::with_capacity(self.nodes.len());
        visit(self, self.body_id(), &mut out);
        out
    }

    /// Replaces `old` by `new` wherever it is read, in results and in mutations as well.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        let swap = |v: ValueId| if v == old { new } else { v };
        for (_, n) in self.nodes.iter_mut() {
            n.args.iter_mut().for_each(|a| a.map_values(swap));
        }
        for (_, r) in self.regions.iter_mut() {
            r.results.iter_mut().for_each(|v| *v = swap(*v));
        }
        self.mutations.iter_mut().for_each(|m| m.1 = swap(m.1));
    }

    /// The symbol's largest value for each dimension: for messages and plans.
    pub fn max_of(&self, s: &SymInt) -> i64 {
        s.max(&self.symbols)
    }
}

//! From annotations to observers.

use std::collections::BTreeMap;

use pteron_ir::{Arg, ConstId, DebugHandle, Def, Graph, Id, Module, Node, NodeId, Op, PathId, ValueId};

use super::QuantizeError;
use crate::annotation::{Annotations, InputIndex, Point};
use crate::error::TensorLabel;
use crate::groups::{AnnotatedPoint, GroupId, GroupSpec, Groups};
use crate::observer::Observer;
use crate::spec::ObserverKind;

/// The number of an observer in a prepared graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// An observer with what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// What it is made from.
    pub spec: GroupSpec,
    /// The observer; `None` where parameters are derived from other slots.
    pub observer: Option<Observer>,
    /// The tensor of the first member. No other slot has it.
    pub label: TensorLabel,
    /// The edges and outputs that share it.
    pub members: Vec<Point>,
}

/// The observers that see one value, in the order in which they stand behind each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The value.
    pub value: ValueId,
    /// That of the value's own annotation. All readers read through it.
    pub output: Option<SlotId>,
    /// Those of readers' annotations that have another observer than [`Tap::output`], each once, in the order of the readers.
    pub edges: Vec<SlotId>,
}

impl Tap {
    /// All its observers.
    pub fn slots(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.output.into_iter().chain(self.edges.iter().copied())
    }
}

/// A concatenation whose inputs all take the range of its output (QNN's `ConcatObserver`).
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// The observer of the output.
    pub output: SlotId,
    /// Those of the inputs.
    pub inputs: Vec<SlotId>,
}

/// A graph with observers.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedGraph {
    /// The graph's name.
    pub graph: String,
    /// The observers; a [`SlotId`] is the index.
    pub slots: Vec<Slot>,
    /// Slots, a derived one after those it is derived from.
    pub order: Vec<SlotId>,
    /// The values that are observed, by number.
    pub taps: BTreeMap<ValueId, Tap>,
    /// The observer through which an annotated edge reads.
    pub edges: BTreeMap<Point, SlotId>,
    /// Concatenations with such an observer, in the order of the nodes.
    pub concats: Vec<Concat>,
    /// Least and largest value of constants whose moving average computed tensors share.
    pub again: Vec<(SlotId, f32, f32)>,
    /// What every annotated point is called: the same in all graphs that are captured of one model, and of one slot only.
    pub labels: BTreeMap<Point, TensorLabel>,
}

impl PreparedGraph {
    /// A slot.
    ///
    /// # Panics
    /// If `id` is of another graph.
    pub fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    /// What a point is called by the operator that reads or gives it, also where [`PreparedGraph::labels`] has a constant's name.
    pub fn node_label(&self, graph: &Graph, point: Point) -> Option<TensorLabel> {
        let nodes = graph.all_nodes();
        let (Point::Edge { user: handle, .. } | Point::Output { node: handle, .. }) = point;
        let n = nodes.iter().copied().find(|&n| graph.nodes[n].handle == handle)?;
        Some(Names::of(graph, &nodes).label(graph, n, point))
    }

    /// How many tensors of one run a slot's observer sees: those that nodes compute, and inputs.
    pub(crate) fn observed_values(&self, graph: &Graph, slot: SlotId) -> usize {
        let seen = self.taps.values().filter(|t| t.slots().any(|s| s == slot));
        seen.filter(|t| matches!(graph.values[t.value].def, Def::Node(..) | Def::Input(_))).count()
    }

    /// The observers that see a value, if any do.
    pub fn tap(&self, value: ValueId) -> Option<&Tap> {
        self.taps.get(&value)
    }
}

/// The tensor that `node` reads at `input`.
pub(crate) fn value_at(node: &Node, input: InputIndex) -> Option<ValueId> {
    match node.args.get(usize::from(input.arg))? {
        Arg::Value(v) if input.item == 0 => Some(*v),
        Arg::Values(items) => items.get(usize::from(input.item)).copied().flatten(),
        _ => None,
    }
}

/// The point that stands for a value as a source of edges: an output, or, for graph inputs, constants and buffers, a number
/// that no node has.
fn source(g: &Graph, v: ValueId) -> Point {
    match g.values[v].def {
        Def::Node(n, output) => {
            Point::Output { node: g.nodes[n].handle, output: u16::try_from(output).unwrap_or(u16::MAX) }
        }
        Def::Input(_) | Def::Const(_) | Def::Buffer(_) | Def::Param(..) => {
            let number = u32::try_from(v.index()).unwrap_or(u32::MAX);
            Point::output(DebugHandle(u32::MAX - number))
        }
    }
}

/// Places observers in `graph` of `module` from `annotations`: `torchao.quantization.pt2e.prepare`'s algorithm. Edges of one
/// sharing group have one observer; an edge whose producer has the same observer at its output gets no other; an edge with
/// another observer sees the value behind the producer's.
///
/// # Errors
/// [`QuantizeError`] if an annotation is wrong, names an input that is no tensor or a node that is not there.
pub fn prepare(module: &Module, graph: &Graph, annotations: &Annotations) -> Result<PreparedGraph, QuantizeError> {
    let nodes = graph.all_nodes();
    let by_handle: BTreeMap<DebugHandle, NodeId> = nodes.iter().map(|&n| (graph.nodes[n].handle, n)).collect();
    if let Some((handle, _)) = annotations.iter().find(|(h, _)| !by_handle.contains_key(h)) {
        return Err(QuantizeError::NoNode { graph: graph.name.clone(), node: handle.to_string() });
    }
    let mut points = Vec::new();
    // Values with their annotated readers, in the order of the readers.
    let mut reads: Vec<(Point, ValueId)> = Vec::new();
    let names = Names::of(graph, &nodes);
    for &n in &nodes {
        let node = &graph.nodes[n];
        let Some(annotation) = annotations.get(node.handle) else { continue };
        for (input, spec) in &annotation.inputs {
            let point = Point::Edge { user: node.handle, input: *input };
            let Some(value) = value_at(node, *input) else {
                return Err(QuantizeError::NoTensor { graph: graph.name.clone(), point: point.to_string() });
            };
            points.push(AnnotatedPoint {
                point,
                spec: spec.clone(),
                source: Some(source(graph, value)),
                allow_implicit_sharing: annotation.allow_implicit_sharing,
            });
            reads.push((point, value));
        }
        for (output, spec) in &annotation.outputs {
            let point = Point::Output { node: node.handle, output: *output };
            if node.outputs.get(usize::from(*output)).is_none() {
                return Err(QuantizeError::NoTensor { graph: graph.name.clone(), point: point.to_string() });
            }
            let allow_implicit_sharing = annotation.allow_implicit_sharing;
            points.push(AnnotatedPoint { point, spec: spec.clone(), source: None, allow_implicit_sharing });
        }
    }
    let groups = Groups::resolve(&points)?;
    let labels = labels(module, graph, &names, &by_handle, &points, &groups);
    let mut prepared = PreparedGraph {
        graph: graph.name.clone(),
        slots: Vec::with_capacity(groups.groups().len()),
        order: groups.order().iter().map(|g| SlotId(g.0)).collect(),
        taps: BTreeMap::new(),
        edges: BTreeMap::new(),
        concats: Vec::new(),
        again: Vec::new(),
        labels,
    };
    for group in groups.groups() {
        let observer = match &group.spec {
            GroupSpec::Observed(s) => Some(Observer::new(s)?),
            GroupSpec::Fixed(s) => Some(Observer::fixed(s)?),
            GroupSpec::Derived(..) => None,
        };
        let label = group.members.first().and_then(|p| prepared.labels.get(p)).cloned().unwrap_or_default();
        prepared.slots.push(Slot { spec: group.spec.clone(), observer, label, members: group.members.clone() });
    }
    let slot_of = |p: Point| groups.of(p).map(|g| SlotId(g.0));
    for &n in &nodes {
        let node = &graph.nodes[n];
        for (i, &value) in node.outputs.iter().enumerate() {
            let output = slot_of(Point::Output { node: node.handle, output: u16::try_from(i).unwrap_or(u16::MAX) });
            if output.is_some() {
                prepared.taps.insert(value, Tap { value, output, edges: Vec::new() });
            }
        }
    }
    for (point, value) in reads {
        let Some(slot) = slot_of(point) else { continue };
        let tap = prepared.taps.entry(value).or_insert(Tap { value, output: None, edges: Vec::new() });
        if tap.output != Some(slot) && !tap.edges.contains(&slot) {
            tap.edges.push(slot);
        }
        prepared.edges.insert(point, slot);
    }
    for &n in &nodes {
        let handle = graph.nodes[n].handle;
        let output = slot_of(Point::output(handle)).filter(|o| is_concat(prepared.slot(*o)));
        if let (Some(output), Op::Cat, Some(annotation)) = (output, graph.nodes[n].op, annotations.get(handle)) {
            let inputs = annotation.inputs.iter();
            let inputs = inputs.filter_map(|&(input, _)| slot_of(Point::Edge { user: handle, input }));
            let inputs = inputs.filter(|i| *i != output).collect();
            prepared.concats.push(Concat { output, inputs });
        }
    }
    Ok(prepared)
}

fn is_concat(slot: &Slot) -> bool {
    matches!(&slot.spec, GroupSpec::Observed(s) if s.observer.kind == ObserverKind::Concat)
}

/// The module path of a node.
pub(crate) fn path_of<'g>(graph: &'g Graph, node: &Node) -> &'g str {
    &graph.paths[node.path]
}

/// What each node is called within its module: the operator, and its number where the module has several.
struct Names(BTreeMap<NodeId, String>);

impl Names {
    fn of(graph: &Graph, nodes: &[NodeId]) -> Names {
        let mut seen: BTreeMap<(PathId, &str), usize> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for &n in nodes {
            let node = &graph.nodes[n];
            let name = node.op.name();
            let name = name.split("::").nth(1).unwrap_or(name);
            let name = name.split('.').next().unwrap_or(name);
            let count = seen.entry((node.path, name)).or_insert(0);
            names.insert(n, if *count == 0 { name.to_owned() } else { format!("{name}_{count}") });
            *count += 1;
        }
        Names(names)
    }

    fn label(&self, graph: &Graph, n: NodeId, point: Point) -> TensorLabel {
        let node = &graph.nodes[n];
        let name = self.0.get(&n).map_or("", String::as_str);
        let port = match point {
            Point::Output { output: 0, .. } => format!("{name}.output"),
            Point::Output { output, .. } => format!("{name}.output{output}"),
            Point::Edge { input, .. } => {
                let arg = node.op.schema().inputs().nth(usize::from(input.arg)).map_or("input", |a| a.name);
                match node.args.get(usize::from(input.arg)) {
                    Some(Arg::Values(_)) => format!("{name}.{arg}[{}]", input.item),
                    _ => format!("{name}.{arg}"),
                }
            }
        };
        TensorLabel::new(path_of(graph, node), port)
    }
}

/// A constant is called as in the checkpoint, by the first slot that reads it; everything else by module, operator and argument.
fn labels(
    module: &Module,
    graph: &Graph,
    names: &Names,
    by_handle: &BTreeMap<DebugHandle, NodeId>,
    points: &[AnnotatedPoint],
    groups: &Groups,
) -> BTreeMap<Point, TensorLabel> {
    let mut of_constants: BTreeMap<ConstId, Option<GroupId>> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for &AnnotatedPoint { point, .. } in points {
        let (Point::Edge { user: handle, .. } | Point::Output { node: handle, .. }) = point;
        let Some(&n) = by_handle.get(&handle) else { continue };
        let constant = match point {
            Point::Edge { input, .. } => value_at(&graph.nodes[n], input),
            Point::Output { .. } => None,
        };
        let constant = constant.and_then(|v| match graph.values[v].def {
            Def::Const(c) => Some(c),
            _ => None,
        });
        let name = constant.and_then(|c| {
            let owner = of_constants.entry(c).or_insert(groups.of(point));
            let name = module.constants[c].name.rsplit_once('.')?;
            // Numbers that became constants are none of the checkpoint's.
            if name.0.starts_with('_') {
                return None;
            }
            (*owner == groups.of(point)).then_some(name)
        });
        let label = match name {
            Some((path, port)) => TensorLabel::new(path, port),
            None => names.label(graph, n, point),
        };
        out.insert(point, label);
    }
    out
}

//! Which edges and outputs share an observer: `torchao.quantization.pt2e.prepare`'s sharing groups.
//!
//! Points share explicitly, by a shared spec, and implicitly: an edge joins the other edges of the same tensor and the tensor's
//! own annotation where the specs are alike. The graph comes in as a list, so that this can be tested without one.

use std::collections::BTreeMap;

use crate::annotation::Point;
use crate::error::SpecError;
use crate::spec::{DerivedQuantizationSpec, FixedQParamsQuantizationSpec, QuantizationSpec, Spec};

/// An annotated point with what the graph knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotatedPoint {
    /// The point.
    pub point: Point,
    /// Its spec.
    pub spec: Spec,
    /// For an edge: the tensor it reads, as the output that gives it or any other point that stands for a graph input or a
    /// constant. Edges that read the same tensor have the same source.
    pub source: Option<Point>,
    /// `allow_implicit_sharing` of the node's annotation.
    pub allow_implicit_sharing: bool,
}

/// The number of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// What the observer of a group is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupSpec {
    /// An observer.
    Observed(QuantizationSpec),
    /// A given scale and zero point.
    Fixed(FixedQParamsQuantizationSpec),
    /// Derived from these groups, in the order of `derived_from`; each has a smaller rank in [`Groups::order`].
    Derived(DerivedQuantizationSpec, Vec<GroupId>),
}

/// Points that share an observer.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What the observer is made from: the spec of the first member that does not itself share.
    pub spec: GroupSpec,
    /// The members, in the order of annotation.
    pub members: Vec<Point>,
}

/// The groups of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    groups: Vec<Group>,
    of: BTreeMap<Point, GroupId>,
    order: Vec<GroupId>,
}

impl Groups {
    /// All groups; a [`GroupId`] is the index.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The group of a point; `None` if it is not annotated.
    pub fn of(&self, point: Point) -> Option<GroupId> {
        self.of.get(&point).copied()
    }

    /// A group by its number.
    pub fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0 as usize)
    }

    /// Every group once, a derived one after those it is derived from.
    pub fn order(&self) -> &[GroupId] {
        &self.order
    }

    /// Finds the groups of `points`, which stand in the order of the graph: by node, its inputs in the order of their
    /// annotation, then its outputs. The order decides which spec a group takes, as in PT2E.
    ///
    /// # Errors
    /// If a spec is wrong, a point is annotated twice, or a shared or derived spec refers to a point that is not annotated or,
    /// in a circle, to itself.
    pub fn resolve(points: &[AnnotatedPoint]) -> Result<Groups, SpecError> {
        let mut forest = Forest::new(points)?;
        for at in 0..points.len() {
            forest.join(at)?;
        }
        forest.finish()
    }
}

/// Disjoint sets of points.
struct Forest<'a> {
    points: &'a [AnnotatedPoint],
    index: BTreeMap<Point, usize>,
    parent: Vec<usize>,
    /// The edges that read each source.
    readers: BTreeMap<Point, Vec<usize>>,
}

fn reference(point: Point, problem: String) -> SpecError {
    SpecError::Reference { point: point.to_string(), problem }
}

impl<'a> Forest<'a> {
    fn new(points: &'a [AnnotatedPoint]) -> Result<Forest<'a>, SpecError> {
        let mut index = BTreeMap::new();
        let mut readers: BTreeMap<Point, Vec<usize>> = BTreeMap::new();
        for (at, p) in points.iter().enumerate() {
            p.spec.validate()?;
            if index.insert(p.point, at).is_some() {
                return Err(reference(p.point, "is given twice".to_owned()));
            }
            if let Some(source) = p.source {
                readers.entry(source).or_default().push(at);
            }
        }
        Ok(Forest { points, index, parent: (0..points.len()).collect(), readers })
    }

    fn find(&mut self, at: usize) -> usize {
        let mut root = at;
        while self.parent[root] != root {
            root = self.parent[root];
        }
        let mut walk = at;
        while self.parent[walk] != root {
            walk = std::mem::replace(&mut self.parent[walk], root);
        }
        root
    }

    /// What a shared spec of `from` refers to.
    fn target(&self, from: usize, to: Point) -> Result<usize, SpecError> {
        let missing = || reference(self.points[from].point, format!("shares with {to}, which has no annotation"));
        self.index.get(&to).copied().ok_or_else(missing)
    }

    /// Puts the tree of `child` under that of `parent`; the other way round where `parent`'s root already refers to `child`'s
    /// root, so that the spec that is not shared stays at the root.
    fn union(&mut self, parent: usize, child: usize) {
        let (p, c) = (self.find(parent), self.find(child));
        let refers = matches!(self.points[p].spec, Spec::Shared(to) if to == self.points[c].point);
        match refers {
            true => self.parent[p] = c,
            false => self.parent[c] = p,
        }
    }

    /// The point whose spec, itself not shared, stands for that of `at`.
    fn unwrap(&mut self, at: usize) -> Result<usize, SpecError> {
        let mut walk = at;
        for _ in 0..=self.points.len() {
            let Spec::Shared(to) = self.points[walk].spec else {
                return Ok(walk);
            };
            let target = self.target(walk, to)?;
            walk = self.find(target);
        }
        Err(reference(self.points[at].point, "shares in a circle, without a spec of its own".to_owned()))
    }

    fn join(&mut self, at: usize) -> Result<(), SpecError> {
        let p = &self.points[at];
        if matches!(p.point, Point::Edge { .. }) {
            let mine = self.unwrap(at)?;
            if let (true, Some(source)) = (p.allow_implicit_sharing, p.source) {
                // First the other readers, then the producer, as PT2E does. PT2E knows one edge for a node that reads a tensor
                // twice; here these are two, which share like any others.
                let others: Vec<usize> = self.readers.get(&source).into_iter().flatten().copied().collect();
                for other in others {
                    if other != at {
                        self.join_alike(at, mine, other)?;
                    }
                }
                if let Some(&producer) = self.index.get(&source) {
                    self.join_alike(at, mine, producer)?;
                }
            }
        }
        if let Spec::Shared(to) = p.spec {
            let parent = self.target(at, to)?;
            self.union(parent, at);
        }
        Ok(())
    }

    fn join_alike(&mut self, at: usize, mine: usize, other: usize) -> Result<(), SpecError> {
        let theirs = self.unwrap(other)?;
        if alike(&self.points[mine].spec, &self.points[theirs].spec) {
            self.union(other, at);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Groups, SpecError> {
        let mut out = Groups::default();
        let mut by_root: BTreeMap<usize, GroupId> = BTreeMap::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for at in 0..self.points.len() {
            let root = self.find(at);
            let id = *by_root.entry(root).or_insert_with(|| {
                members.push(Vec::new());
                GroupId(members.len() as u32 - 1)
            });
            members[id.0 as usize].push(at);
            out.of.insert(self.points[at].point, id);
        }
        for group in &members {
            let own = group.iter().copied().find(|&m| !matches!(self.points[m].spec, Spec::Shared(_)));
            let at = match own {
                Some(m) => m,
                None => self.unwrap(group[0])?,
            };
            let spec = match &self.points[at].spec {
                Spec::Observed(s) => GroupSpec::Observed(s.clone()),
                Spec::Fixed(s) => GroupSpec::Fixed(s.clone()),
                Spec::Derived(s) => {
                    let find = |p: &Point| {
                        let missing = || {
                            reference(self.points[at].point, format!("is derived from {p}, which has no annotation"))
                        };
                        out.of.get(p).copied().ok_or_else(missing)
                    };
                    let from = s.derived_from.iter().map(find).collect::<Result<_, _>>()?;
                    GroupSpec::Derived(s.clone(), from)
                }
                Spec::Shared(_) => {
                    return Err(reference(
                        self.points[at].point,
                        "shares in a circle, without a spec of its own".to_owned(),
                    ));
                }
            };
            out.groups.push(Group { spec, members: group.iter().map(|&m| self.points[m].point).collect() });
        }
        out.order = order(&out.groups)?;
        Ok(out)
    }
}

/// Whether two specs may share implicitly: dtype, is_dynamic, quant_min, quant_max, qscheme, ch_axis, scale and zero_point are
/// equal, or both specs lack them. The observer is not compared.
fn alike(a: &Spec, b: &Spec) -> bool {
    match (a, b) {
        (Spec::Observed(a), Spec::Observed(b)) => {
            (a.dtype, a.is_dynamic, a.quant_min, a.quant_max, a.qscheme, a.ch_axis)
                == (b.dtype, b.is_dynamic, b.quant_min, b.quant_max, b.qscheme, b.ch_axis)
        }
        (Spec::Fixed(a), Spec::Fixed(b)) => a == b,
        (Spec::Derived(a), Spec::Derived(b)) => {
            (a.dtype, a.is_dynamic, a.quant_min, a.quant_max, a.qscheme, a.ch_axis)
                == (b.dtype, b.is_dynamic, b.quant_min, b.quant_max, b.qscheme, b.ch_axis)
        }
        // These two have the same fields; neither has a scale.
        (Spec::Observed(a), Spec::Derived(b)) | (Spec::Derived(b), Spec::Observed(a)) => {
            (a.dtype, a.is_dynamic, a.quant_min, a.quant_max, a.qscheme, a.ch_axis)
                == (b.dtype, b.is_dynamic, b.quant_min, b.quant_max, b.qscheme, b.ch_axis)
        }
        // A fixed spec has a scale and no ch_axis, a shared one is unwrapped before.
        (Spec::Fixed(_) | Spec::Shared(_), _) | (_, Spec::Fixed(_) | Spec::Shared(_)) => false,
    }
}

/// Sorts the groups so that a derived one comes after those it is derived from.
fn order(groups: &[Group]) -> Result<Vec<GroupId>, SpecError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; groups.len()];
    let mut out = Vec::with_capacity(groups.len());
    for start in 0..groups.len() {
        // A stack of (group, next of those it is derived from).
        let mut stack = vec![(start, 0usize)];
        while let Some((at, next)) = stack.pop() {
            if marks[at] == Mark::Done {
                continue;
            }
            let from: &[GroupId] = match &groups[at].spec {
                GroupSpec::Derived(_, from) => from,
                GroupSpec::Observed(_) | GroupSpec::Fixed(_) => &[],
            };
            marks[at] = Mark::Open;
            match from.get(next) {
                None => {
                    marks[at] = Mark::Done;
                    out.push(GroupId(at as u32));
                }
                Some(id) => {
                    stack.push((at, next + 1));
                    let source = id.0 as usize;
                    match marks[source] {
                        Mark::Open => {
                            return Err(reference(
                                groups[at].members[0],
                                "is derived from itself in a circle".to_owned(),
                            ));
                        }
                        Mark::New => stack.push((source, 0)),
                        Mark::Done => {}
                    }
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;

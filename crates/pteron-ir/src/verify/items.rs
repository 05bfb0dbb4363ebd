//! What a module's graphs share.

use std::collections::BTreeMap;

use pteron_tensor::DimOrder;

use super::{Rule, VerifyError};
use crate::location::Location;
use crate::module::{ConstData, Module};
use crate::types::TensorType;

pub(super) fn check(m: &Module, errors: &mut Vec<VerifyError>) {
    let mut report = |location, rule, message: String| {
        errors.push(VerifyError { location, graph: None, node: None, rule, message });
    };
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let entries = m.metadata.iter().enumerate().map(|(i, e)| (Location::Metadata(i), "metadata", e.name.as_ref()));
    let graphs = m.graphs.iter().enumerate().map(|(i, g)| (Location::Graph(i), "graph", g.name.as_str()));
    for (location, kind, name) in entries.chain(graphs) {
        if name.is_empty() {
            report(location, Rule::Names, format!("a {kind} without a name"));
        } else if let Some(other) = names.insert(name, kind) {
            report(location, Rule::Names, format!("the name `{name}` is taken by another {other}"));
        }
    }
    for (id, c) in m.constants.iter() {
        let at = Location::Constant(id);
        if let Some(problem) = not_static(&c.ty) {
            report(at, Rule::Constants, problem);
            continue;
        }
        let ConstData::Source(source) = &c.data else { continue };
        let found = TensorType::fixed(source.dtype(), source.shape());
        if found.dtype != c.ty.dtype || found.dims != c.ty.dims {
            report(at, Rule::Constants, format!("declared as {}, its source has {found}", c.ty));
        }
    }
    for (id, b) in m.buffers.iter() {
        let at = Location::Buffer(id);
        if let Some(problem) = not_static(&b.ty) {
            report(at, Rule::Buffers, problem);
        }
        match b.init.map(|c| (c, m.constants.get(c))) {
            None => {}
            Some((c, None)) => report(at, Rule::Ids, format!("there is no constant {c}")),
            Some((c, Some(init))) if init.ty.dtype != b.ty.dtype || init.ty.dims != b.ty.dims => {
                report(at, Rule::Buffers, format!("declared as {}, its initial value {c} is {}", b.ty, init.ty));
            }
            Some(_) => {}
        }
    }
}

fn not_static(t: &TensorType) -> Option<String> {
    if t.fixed_sizes().is_none() {
        return Some(format!("{t} has a size that is not a known, non-negative number"));
    }
    order_problem(t)
}

pub(super) fn order_problem(t: &TensorType) -> Option<String> {
    let order: &DimOrder = t.order.as_ref()?;
    let rank = t.rank();
    let valid = order.len() == rank && (0..rank).all(|d| order.iter().any(|&o| usize::from(o) == d));
    (!valid).then(|| format!("the dim order of {t} is not a permutation of its {rank} dimensions"))
}

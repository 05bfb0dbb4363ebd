//! Which operators and backends a runtime has.

use std::collections::BTreeMap;

use pteron_ir::Op;
use pteron_pte::{Instruction, ParsedHead};

/// Keys of the kernels that ExecuTorch 1.5.1's Python runtime registers (CPU build, with its custom operators for language
/// models and its quantized kernels), one a line.
const EXECUTORCH_1_5_1: &str = include_str!("tables/executorch-1.5.1.txt");

/// A runtime whose operators are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeProfile {
    /// ExecuTorch 1.5.1's Python runtime.
    ExecuTorch1_5_1,
    /// Pteron: the operator table.
    Pteron,
}

impl RuntimeProfile {
    /// The profile's name.
    pub fn name(self) -> &'static str {
        match self {
            RuntimeProfile::ExecuTorch1_5_1 => "ExecuTorch 1.5.1",
            RuntimeProfile::Pteron => "Pteron",
        }
    }

    /// True if the runtime has a kernel under `key`.
    pub fn has_operator(self, key: &str) -> bool {
        match self {
            RuntimeProfile::ExecuTorch1_5_1 => EXECUTORCH_1_5_1.lines().any(|l| l == key),
            RuntimeProfile::Pteron => key == "executorch_prim::et_view.default" || Op::from_kernel_key(key).is_some(),
        }
    }

    /// True if the runtime has the backend. Of XNNPACK payloads, Pteron executes those in fp32.
    pub fn has_backend(self, id: &str) -> bool {
        match self {
            RuntimeProfile::ExecuTorch1_5_1 => matches!(id, "XnnpackBackend" | "QnnBackend" | "OpenvinoBackend"),
            RuntimeProfile::Pteron => id == "XnnpackBackend",
        }
    }
}

/// An operator or backend that a program calls and a runtime lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingOperator {
    /// Kernel key, or the backend's id.
    pub key: String,
    /// True for a backend.
    pub is_backend: bool,
    /// The methods that call it, in order.
    pub methods: Vec<String>,
    /// Calls in all of them.
    pub calls: usize,
}

/// Operators and backends that the program calls and the runtime lacks, sorted by key.
pub fn missing_operators(head: &ParsedHead, profile: RuntimeProfile) -> Vec<MissingOperator> {
    let mut found: BTreeMap<(bool, String), MissingOperator> = BTreeMap::new();
    for plan in &head.program().execution_plans {
        for i in plan.chains.iter().flat_map(|c| &c.instructions) {
            let called = match i {
                Instruction::KernelCall { op_index, .. } => plan
                    .operators
                    .get(*op_index as usize)
                    .map(|o| (false, o.to_string()))
                    .filter(|(_, key)| !profile.has_operator(key)),
                Instruction::DelegateCall { delegate_index, .. } => plan
                    .delegates
                    .get(*delegate_index as usize)
                    .map(|d| (true, d.id.clone()))
                    .filter(|(_, id)| !profile.has_backend(id)),
                _ => None,
            };
            let Some((is_backend, key)) = called else { continue };
            let entry = found.entry((is_backend, key.clone())).or_insert_with(|| MissingOperator {
                key,
                is_backend,
                methods: Vec::new(),
                calls: 0,
            });
            entry.calls += 1;
            if entry.methods.last() != Some(&plan.name) {
                entry.methods.push(plan.name.clone());
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        assert!(EXECUTORCH_1_5_1.lines().count() > 250);
        assert!(RuntimeProfile::ExecuTorch1_5_1.has_operator("aten::add.out"));
        assert!(!RuntimeProfile::ExecuTorch1_5_1.has_operator("aten::add"));
        assert!(!RuntimeProfile::ExecuTorch1_5_1.has_operator("pteron::rope.out"));
        assert!(RuntimeProfile::Pteron.has_operator("executorch_prim::et_view.default"));
        assert!(!RuntimeProfile::Pteron.has_operator("aten::acos.out"));
    }
}

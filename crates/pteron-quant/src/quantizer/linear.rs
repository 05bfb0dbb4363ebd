//! Linear layers.

use pteron_ir::{NodeId, Op};

use super::PatternQuantizer;
use super::rules::Rules;
use crate::annotation::QuantizationConfig;

impl PatternQuantizer {
    /// Annotates every `aten::linear` with one configuration: what ExecuTorch's `XNNPACKQuantizer` does with a dynamic
    /// configuration, and `VulkanQuantizer` with a weight-only one (`_annotate_linear` of their `*_quantizer_utils.py`).
    /// Messages call it `name`.
    pub fn linear(name: &str, config: QuantizationConfig) -> PatternQuantizer {
        PatternQuantizer { name: name.to_owned(), config, lacking: &[], annotate }
    }
}

fn annotate(mut rules: Rules<'_>, nodes: &[NodeId], config: &QuantizationConfig) {
    for &n in nodes {
        if rules.node(n).op == Op::Linear && !rules.is_annotated(n) {
            rules.weighted(n, config, None, true);
        }
    }
}

//! QNN's quantizer.

mod custom;
mod infinities;
mod ops;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use pteron_ir::passes::{DCE, RECOMPOSE_RMS_NORM};
use pteron_ir::{Arg, Graph, Module, NodeId, Op};

use super::rules::Rules;
use super::{Quantizer, decompose, transform};
use crate::annotation::{Annotations, QuantizationConfig};
use crate::error::SpecError;
use crate::pt2e::QuantizeError;
use crate::scheme::{CustomAnnotation, ModuleQConfig};

/// What is captured whole here and taken apart before QNN's rules see it (`QnnPassManager.get_annotation_passes`:
/// `DecomposeScaledDotProductAttention`, `DecomposeSilu`, `DecomposeReciprocal`, `LiftConstantScalarOperands`); rotary embedding
/// is no operator of ExecuTorch at all. RMSNorm stays whole: QNN has it.
const LACKING: &[Op] =
    &[Op::Sdpa, Op::Silu, Op::Rope, Op::Reciprocal, Op::AddScalar, Op::SubScalar, Op::MulScalar, Op::DivScalar];

/// Whether a module path is meant.
pub type ModulePredicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// ExecuTorch's `QnnQuantizer` with the rules of HTP (`quantizer/annotators/htp_rules.py`), as far as the operator table has the
/// operators.
///
/// A node takes, in this order: nothing, if it or its operator is discarded; the configuration by blocks, if its module has an
/// entry in the block-size map; that of the first submodule configuration whose predicate matches, else the default; of it the
/// one by channel for convolutions, linear layers and embeddings that are set so. Custom annotations come last and may overwrite.
#[derive(Clone)]
pub struct QnnQuantizer {
    name: String,
    default: ModuleQConfig,
    submodules: Vec<(ModulePredicate, ModuleQConfig)>,
    block_sizes: BTreeMap<String, Vec<usize>>,
    custom: Vec<CustomAnnotation>,
    discarded_nodes: BTreeSet<String>,
    discarded_ops: BTreeSet<Op>,
}

impl fmt::Debug for QnnQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QnnQuantizer")
            .field("name", &self.name)
            .field("default", &self.default)
            .field("submodules", &self.submodules.len())
            .field("block_sizes", &self.block_sizes)
            .field("custom", &self.custom)
            .field("discarded_nodes", &self.discarded_nodes)
            .field("discarded_ops", &self.discarded_ops)
            .finish()
    }
}

impl QnnQuantizer {
    /// What is taken apart before the rules see a graph.
    pub const LACKING: &'static [Op] = LACKING;

    /// A quantizer that messages call `name`, with the default configuration `default`.
    pub fn new(name: &str, default: ModuleQConfig) -> QnnQuantizer {
        QnnQuantizer {
            name: name.to_owned(),
            default,
            submodules: Vec::new(),
            block_sizes: BTreeMap::new(),
            custom: Vec::new(),
            discarded_nodes: BTreeSet::new(),
            discarded_ops: BTreeSet::new(),
        }
    }

    /// `set_submodule_qconfig_list`: configurations of the modules whose path a predicate accepts; the first that does counts.
    #[must_use]
    pub fn with_submodule_qconfigs(mut self, list: Vec<(ModulePredicate, ModuleQConfig)>) -> QnnQuantizer {
        self.submodules = list;
        self
    }

    /// `set_block_size_map`: by module path, the sizes of its weight's blocks, one for each axis: `[1, 32]` for groups of 32
    /// along the rows of a linear layer. Only [`crate::scheme::QuantDtype::Use16a4wBlock`] has blocks.
    #[must_use]
    pub fn with_block_size_map(mut self, map: BTreeMap<String, Vec<usize>>) -> QnnQuantizer {
        self.block_sizes = map;
        self
    }

    /// `add_custom_quant_annotations`: passes over the whole graph after the rules, in this order.
    #[must_use]
    pub fn with_custom_annotations(mut self, custom: Vec<CustomAnnotation>) -> QnnQuantizer {
        self.custom = custom;
        self
    }

    /// `add_discard_nodes`: module paths whose operators stay float.
    #[must_use]
    pub fn with_discarded_nodes(mut self, paths: impl IntoIterator<Item = String>) -> QnnQuantizer {
        self.discarded_nodes.extend(paths);
        self
    }

    /// `add_discard_ops`: operators that stay float.
    #[must_use]
    pub fn with_discarded_ops(mut self, ops: impl IntoIterator<Item = Op>) -> QnnQuantizer {
        self.discarded_ops.extend(ops);
        self
    }

    /// The configuration of a node; `None` if it is not to be annotated.
    fn config(&self, rules: &Rules<'_>, n: NodeId) -> Result<Option<QuantizationConfig>, SpecError> {
        let node = rules.node(n);
        let path: &str = &rules.graph.paths[node.path];
        if self.discarded_ops.contains(&node.op) || self.discarded_nodes.contains(path) {
            return Ok(None);
        }
        let of_module = self.submodules.iter().find(|(matches, _)| matches(path)).map(|(_, config)| config);
        let config = of_module.unwrap_or(&self.default);
        let weighted = matches!(node.op, Op::Linear | Op::Convolution);
        if let (true, Some(sizes)) = (weighted, self.block_sizes.get(path)) {
            let by_block = config.per_block(Some(sizes));
            let problem = || SpecError::Reference {
                point: path.to_owned(),
                problem: "is in the block-size map, and its weights have no blocks: only 16a4w_block has".to_owned(),
            };
            return by_block.map(Some).ok_or_else(problem);
        }
        // A transposed convolution has its output channels on the second axis.
        let transposed = matches!(node.args.get(6), Some(Arg::Bool(true)));
        let axis = match node.op {
            Op::Convolution if config.is_conv_per_channel => Some(usize::from(transposed)),
            Op::Linear if config.is_linear_per_channel => Some(0),
            Op::Embedding if config.is_embedding_per_channel => Some(0),
            _ => None,
        };
        Ok(Some(axis.map_or_else(|| config.per_tensor(), |axis| config.per_channel(axis))))
    }
}

impl Quantizer for QnnQuantizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        // A norm that came in pieces, as out of a program, is put together first.
        transform(module, &[RECOMPOSE_RMS_NORM, DCE], &|_| true)?;
        decompose(module, LACKING)
    }

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        let nodes = graph.all_nodes();
        let mut rules = Rules::new(module, graph, annotations);
        for &n in &nodes {
            if rules.is_annotated(n) || !ops::is_known(graph.nodes[n].op) {
                continue;
            }
            if let Some(config) = self.config(&rules, n)? {
                config.validate()?;
                ops::annotate(&mut rules, n, &config, self.default.compat);
            }
        }
        for &custom in &self.custom {
            custom::annotate(&mut rules, custom, self.default.compat);
        }
        Ok(())
    }

    fn adjust(&self, module: &mut Module, graph: &mut Graph, annotations: &Annotations) -> Result<(), QuantizeError> {
        infinities::replace(module, graph, annotations)
    }
}

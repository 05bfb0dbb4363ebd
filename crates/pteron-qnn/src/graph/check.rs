//! What must hold of a graph before the library sees it: the library itself does not look.

use super::{Encoding, ParamValue, QnnGraph, QnnTensor, TensorKind};

/// What is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A tensor does not hold.
    #[error("graph `{graph}`, tensor `{tensor}`: {what}")]
    Tensor {
        /// The graph.
        graph: String,
        /// The tensor.
        tensor: String,
        /// What was found and what was expected.
        what: String,
    },
    /// A node does not hold.
    #[error("graph `{graph}`, node `{node}`: {what}")]
    Node {
        /// The graph.
        graph: String,
        /// The node.
        node: String,
        /// What was found and what was expected.
        what: String,
    },
}

/// Names reach C as NUL-terminated strings.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains('\0') {
        return Err(format!("found the name {name:?}, expected one that is not empty and has no NUL"));
    }
    Ok(())
}

fn check_axis(t: &QnnTensor, axis: i32, count: usize, what: &str) -> Result<(), String> {
    let len = usize::try_from(axis).ok().and_then(|a| t.dims.get(a)).copied();
    let Some(len) = len else {
        return Err(format!("found axis {axis} of an encoding, expected one of {} sizes", t.dims.len()));
    };
    if len as usize != count {
        return Err(format!("found {count} {what}, expected {len}, the size along axis {axis}"));
    }
    Ok(())
}

fn check_encoding(t: &QnnTensor) -> Result<(), String> {
    match &t.encoding {
        Encoding::None | Encoding::ScaleOffset(_) | Encoding::BwScaleOffset { .. } => Ok(()),
        Encoding::AxisScaleOffset { axis, scales } => check_axis(t, *axis, scales.len(), "scales"),
        Encoding::BwAxisScaleOffset { axis, scales, offsets, .. } => {
            check_axis(t, *axis, scales.len(), "scales")?;
            if offsets.is_empty() { Ok(()) } else { check_axis(t, *axis, offsets.len(), "offsets") }
        }
        Encoding::BlockwiseExpansion { axis, scales, blocks_per_axis, block_scales, .. } => {
            check_axis(t, *axis, scales.len(), "scales")?;
            let expected = scales.len().checked_mul(*blocks_per_axis as usize);
            if *blocks_per_axis == 0 || Some(block_scales.len()) != expected {
                return Err(format!(
                    "found {} block scales, expected {} channels of {blocks_per_axis} blocks",
                    block_scales.len(),
                    scales.len()
                ));
            }
            Ok(())
        }
        Encoding::Other(code) => Err(format!("found an encoding known only by its number {code}")),
    }
}

fn check_tensor(t: &QnnTensor) -> Result<(), String> {
    check_name(&t.name)?;
    check_encoding(t)?;
    let Some(bytes) = t.bytes().filter(|b| *b <= u64::from(u32::MAX)) else {
        return Err(format!("found sizes {:?}, expected at most 4 GiB", t.dims));
    };
    match (t.kind, &t.data) {
        (TensorKind::Static, Some(data)) if data.len() == bytes => Ok(()),
        (TensorKind::Static, Some(data)) => {
            Err(format!("found {} bytes, expected {bytes} for {} {:?}", data.len(), t.dtype, t.dims))
        }
        (TensorKind::Static, None) => Err("found no data, expected the bytes of the constant".to_owned()),
        (_, Some(_)) => Err(format!("found data of a tensor of kind {:?}, expected none", t.kind)),
        (_, None) => Ok(()),
    }
}

impl QnnGraph {
    /// Checks names, sizes, encodings and indices, and that each tensor is made before it is read.
    ///
    /// # Errors
    /// [`GraphError`] naming the first tensor or node that does not hold.
    pub fn check(&self) -> Result<(), GraphError> {
        let mut names = std::collections::BTreeSet::new();
        for t in &self.tensors {
            let unique = if names.insert(t.name.as_str()) {
                Ok(())
            } else {
                Err("found a second tensor of this name, expected names to be unique".to_owned())
            };
            check_tensor(t).and(unique).map_err(|what| GraphError::Tensor {
                graph: self.name.clone(),
                tensor: t.name.clone(),
                what,
            })?;
        }
        let mut made = vec![false; self.tensors.len()];
        for (index, t) in self.tensors.iter().enumerate() {
            made[index] = matches!(t.kind, TensorKind::AppWrite | TensorKind::Static | TensorKind::Null);
        }
        let mut node_names = std::collections::BTreeSet::new();
        for node in &self.nodes {
            self.check_node(node, &mut made, &mut node_names).map_err(|what| GraphError::Node {
                graph: self.name.clone(),
                node: node.name.clone(),
                what,
            })?;
        }
        for (t, made) in self.tensors.iter().zip(&made) {
            if t.kind == TensorKind::AppRead && !made {
                let what = "found an output that no node makes".to_owned();
                return Err(GraphError::Tensor { graph: self.name.clone(), tensor: t.name.clone(), what });
            }
        }
        Ok(())
    }

    fn check_node<'a>(
        &'a self,
        node: &'a super::QnnNode,
        made: &mut [bool],
        names: &mut std::collections::BTreeSet<&'a str>,
    ) -> Result<(), String> {
        check_name(&node.name)?;
        check_name(&node.op)?;
        if !names.insert(&node.name) {
            return Err("found a second node of this name, expected names to be unique".to_owned());
        }
        for p in &node.params {
            check_name(&p.name)?;
            if let ParamValue::Tensor { dtype, dims, data } = &p.value {
                let numel = dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
                let bytes = numel.and_then(|n| dtype.bytes_for(n));
                if bytes != Some(data.len() as u64) {
                    let found = data.len();
                    return Err(format!("parameter `{}`: found {found} bytes for {dtype} {dims:?}", p.name));
                }
            }
        }
        for &i in &node.inputs {
            match made.get(i) {
                Some(true) => {}
                Some(false) => return Err(format!("reads `{}` before a node makes it", self.tensors[i].name)),
                None => return Err(format!("found tensor index {i}, expected one below {}", made.len())),
            }
        }
        for &i in &node.outputs {
            let Some(t) = self.tensors.get(i) else {
                return Err(format!("found tensor index {i}, expected one below {}", made.len()));
            };
            if !matches!(t.kind, TensorKind::Native | TensorKind::AppRead) || made[i] {
                return Err(format!("writes `{}`, which is no output or is made already", t.name));
            }
            made[i] = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DataType, QnnNode};
    use super::*;

    fn tensor(name: &str, kind: TensorKind) -> QnnTensor {
        let data = (kind == TensorKind::Static).then(|| vec![0u8; 6].into());
        let dims = vec![2, 3];
        QnnTensor { name: name.to_owned(), kind, dtype: DataType::UFixed8, dims, encoding: Encoding::None, data }
    }

    fn graph() -> QnnGraph {
        let mut g = QnnGraph::new("forward");
        let x = g.add_tensor(tensor("x", TensorKind::AppWrite));
        let w = g.add_tensor(tensor("w", TensorKind::Static));
        let y = g.add_tensor(tensor("y", TensorKind::AppRead));
        let (name, op) = ("add".to_owned(), "ElementWiseAdd".to_owned());
        g.add_node(QnnNode { name, op, params: Vec::new(), inputs: vec![x, w], outputs: vec![y] });
        g
    }

    fn refused(change: impl FnOnce(&mut QnnGraph)) -> String {
        let mut g = graph();
        change(&mut g);
        g.check().expect_err("the graph must be refused").to_string()
    }

    #[test]
    fn a_graph_that_holds() {
        assert_eq!(graph().check(), Ok(()));
    }

    #[test]
    fn what_does_not_hold_is_named() {
        assert!(refused(|g| g.tensors[1].data = None).contains("tensor `w`: found no data"));
        assert!(refused(|g| g.tensors[1].data = Some(vec![0; 5].into())).contains("found 5 bytes, expected 6"));
        assert!(refused(|g| g.tensors[2].name = "x".to_owned()).contains("second tensor"));
        assert!(refused(|g| g.tensors[0].name = "a\0".to_owned()).contains("no NUL"));
        assert!(refused(|g| g.nodes[0].inputs[0] = 9).contains("index 9"));
        assert!(refused(|g| g.nodes[0].inputs[0] = 2).contains("before a node makes it"));
        assert!(refused(|g| g.nodes[0].outputs[0] = 0).contains("made already"));
        assert!(refused(|g| g.nodes.clear()).contains("no node makes"));
        assert!(refused(|g| g.tensors[0].dims = vec![1 << 31, 1 << 31]).contains("4 GiB"));
        let scales = vec![super::super::ScaleOffset { scale: 1.0, offset: 0 }; 2];
        let axis = |axis| Encoding::AxisScaleOffset { axis, scales: scales.clone() };
        assert!(refused(|g| g.tensors[1].encoding = axis(1)).contains("found 2 scales, expected 3"));
        assert!(refused(|g| g.tensors[1].encoding = axis(2)).contains("found axis 2"));
        let block = Encoding::BlockwiseExpansion {
            axis: 0,
            scales: scales.clone(),
            blocks_per_axis: 3,
            block_scale_bitwidth: 4,
            block_scales: super::super::BlockScales::U8(vec![1; 5]),
        };
        assert!(refused(|g| g.tensors[1].encoding = block).contains("found 5 block scales"));
    }
}

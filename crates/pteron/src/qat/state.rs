//! What training found, as a file beside the weights: the recipe, and scale and zero point of every tensor.

use std::path::Path;
use std::sync::Arc;

use pteron_checkpoint::read_limited;
use pteron_quant::TensorLabel;
use pteron_quant::format::IntFormat;
use pteron_quant::observer::{Layout, QuantParams, ZeroPoint};
use pteron_quant::pt2e::{Encodings, SlotParams};
use pteron_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The file's name, in the folder of the weights.
pub const STATE_FILE: &str = "quantization_state.json";
/// Most bytes of one.
pub const MAX_STATE_BYTES: u64 = 1 << 30;

const VERSION: u32 = 1;

/// What training found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    version: u32,
    /// The recipe that it was trained for, as TOML.
    pub recipe: String,
    /// SHA-256 of the weights' file, in hexadecimal digits.
    pub weights: String,
    tensors: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    module: String,
    port: String,
    dtype: String,
    quant_min: i64,
    quant_max: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    axis: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<Vec<usize>>,
    /// As f64, which a file's digits bring back exactly.
    scale: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zero_point: Option<Vec<i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    float_zero_point: Option<Vec<f64>>,
}

const CONTAINERS: [DType; 5] = [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32];

impl Trained {
    /// What a run found, for the weights of this hash.
    pub(crate) fn new(recipe: String, weights: String, found: Vec<(TensorLabel, QuantParams)>) -> Trained {
        let entry = |(label, p): (TensorLabel, QuantParams)| {
            let (axis, block) = match p.layout {
                Layout::PerTensor => (None, None),
                Layout::PerChannel { axis } => (Some(axis), None),
                Layout::PerBlock { block_size } => (None, Some(block_size)),
            };
            let (zero_point, float_zero_point) = match p.zero_point {
                ZeroPoint::Int(z) => (Some(z), None),
                ZeroPoint::Float(z) => (None, Some(z.into_iter().map(f64::from).collect())),
            };
            Entry {
                module: label.module,
                port: label.port,
                dtype: p.format.container.torch_name().to_owned(),
                quant_min: p.format.quant_min,
                quant_max: p.format.quant_max,
                axis,
                block,
                scale: p.scale.into_iter().map(f64::from).collect(),
                zero_point,
                float_zero_point,
            }
        };
        Trained { version: VERSION, recipe, weights, tensors: found.into_iter().map(entry).collect() }
    }

    /// Reads the file in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Quantize`] that names the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Option<Trained>, Error> {
        let path = folder.join(STATE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = read_limited(&path, MAX_STATE_BYTES)?;
        let wrong = |reason: String| Error::Quantize { reason: format!("{}: {reason}", path.display()) };
        let state: Trained = serde_json::from_slice(&bytes)
            .map_err(|e| wrong(format!("it is no quantization state of `pteron qat`: {e}")))?;
        if state.version != VERSION {
            return Err(wrong(format!("version is {}, expected {VERSION}", state.version)));
        }
        state.encodings().map_err(wrong)?;
        Ok(Some(state))
    }

    /// Scales and zero points by tensor.
    ///
    /// # Errors
    /// A sentence that names the tensor whose numbers contradict each other.
    pub fn encodings(&self) -> Result<Encodings, String> {
        let one = |e: &Entry| {
            let label = TensorLabel::new(e.module.as_str(), e.port.as_str());
            let wrong = |what: String| format!("{label}: {what}");
            let dtype = CONTAINERS.into_iter().find(|d| d.torch_name() == e.dtype);
            let dtype = dtype.ok_or_else(|| wrong(format!("dtype is {:?}, expected that of codes", e.dtype)))?;
            let format = IntFormat::new(dtype, e.quant_min, e.quant_max).map_err(|e| wrong(e.to_string()))?;
            let layout = match (e.axis, &e.block) {
                (None, None) => Layout::PerTensor,
                (Some(axis), None) => Layout::PerChannel { axis },
                (None, Some(block)) if !block.contains(&0) => Layout::PerBlock { block_size: block.clone() },
                _ => return Err(wrong("it has both `axis` and `block`, or a block of size 0".to_owned())),
            };
            let scale: Vec<f32> = e.scale.iter().map(|&s| s as f32).collect();
            if scale.is_empty() || scale.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
                return Err(wrong("its scales must be finite and above 0, and one at least".to_owned()));
            }
            let zero_point = match (&e.zero_point, &e.float_zero_point) {
                (Some(z), None) => ZeroPoint::Int(z.clone()),
                (None, Some(z)) => ZeroPoint::Float(z.iter().map(|&z| z as f32).collect()),
                _ => return Err(wrong("it needs either `zero_point` or `float_zero_point`".to_owned())),
            };
            if zero_point.len() != scale.len() || (layout == Layout::PerTensor && scale.len() != 1) {
                return Err(wrong(format!("{} scales and {} zero points", scale.len(), zero_point.len())));
            }
            Ok((label, SlotParams::Static(Arc::new(QuantParams { scale, zero_point, layout, format }))))
        };
        self.tensors.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> QuantParams {
        QuantParams {
            scale: vec![0.1, 1.1754944e-38, 3.0e-5],
            zero_point: ZeroPoint::Int(vec![0, -3, 7]),
            layout: Layout::PerChannel { axis: 0 },
            format: IntFormat::new(DType::I8, -127, 127).unwrap(),
        }
    }

    #[test]
    fn scales_come_back_to_the_bit() {
        let label = TensorLabel::new("model.layers.0", "weight");
        let state = Trained::new("x = 1".into(), "ab".into(), vec![(label.clone(), params())]);
        let text = serde_json::to_string(&state).unwrap();
        let again: Trained = serde_json::from_str(&text).unwrap();
        assert_eq!(again.encodings().unwrap().get(&label), Some(&SlotParams::Static(Arc::new(params()))));
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let label = TensorLabel::new("m", "weight");
        let said = |change: &dyn Fn(&mut Entry)| {
            let mut state = Trained::new(String::new(), String::new(), vec![(label.clone(), params())]);
            change(&mut state.tensors[0]);
            state.encodings().unwrap_err()
        };
        assert!(said(&|e| e.scale.truncate(1)).contains("1 scales and 3 zero points"));
        assert!(said(&|e| e.scale[1] = -1.0).contains("above 0"));
        assert!(said(&|e| e.dtype = "float32".into()).contains("float32"));
        assert!(said(&|e| e.block = Some(vec![0])).contains("`block`"));
        assert!(said(&|e| e.zero_point = None).contains("zero_point"));
        assert!(said(&|e| e.quant_max = 999).contains("999"));
    }
}

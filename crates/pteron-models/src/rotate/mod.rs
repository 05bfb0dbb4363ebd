//! Rotations that leave a model's function as it is and make its weights and activations easier to quantize (QuaRot, Ashkboos et
//! al. 2024, arXiv 2404.00456; SpinQuant, Liu et al. 2024, arXiv 2405.16406).
//!
//! The residual stream is multiplied by an orthogonal matrix R1, the values of each head by R2: what writes them is multiplied by
//! the matrix, what reads them by its transpose, and RMSNorm, whose weight is moved into the linear layers behind it first, gives
//! the same for a rotated vector. R4 is multiplied at run time, by `llama::fast_hadamard_transform` in front of the feed-forward's
//! last layer, whose weight undoes it.
//!
//! | weight `[out, in]` | becomes |
//! |---|---|
//! | embedding | `E · R1` |
//! | norms over the residual stream | ones |
//! | query, key, gate, up, output | `W · diag(norm) · R1` |
//! | value | `R2ᵀ · W · diag(norm) · R1`, head by head |
//! | attention's output | `R1ᵀ · W · R2`, head by head |
//! | down | `R1ᵀ · W`, and `· R4⁻¹` |
//! | biases | as the rows of their weights |
//!
//! ExecuTorch's `apply_spin_quant_r1_r2.py` subtracts its mean from each row of the embedding as well, as is right in front of
//! layer norms; in a model with RMSNorm that changes the function, and it is not done here.

mod matrix;
mod source;

use std::sync::Arc;

use pteron_checkpoint::{Checkpoint, Shown};
use pteron_tensor::{CastSource, DType, MemorySource, SharedSource, read_all};

use self::matrix::Matrix;
use self::source::{Desk, RotatedSource};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::names::{EMBEDDING, OUTPUT};
use crate::weights::Weights;

/// Largest element of `v · R · Rᵀ − v`, for vectors of signs, that counts as orthogonal: what matrices that were stored in 16 bits
/// are off by is far more.
const MOST_SKEW: f64 = 1e-3;

/// The rotations of a model.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// R1.
    residual: Arc<Matrix>,
    /// R2 of each layer.
    heads: Vec<Arc<Matrix>>,
    /// The inverse of R4.
    fed: Option<Arc<Matrix>>,
    desk: Arc<Desk>,
}

impl Rotation {
    /// Hadamard matrices with signs drawn by `seed`. Where no Hadamard matrix of a size is known, the odd factor of the size takes
    /// a cosine transform.
    ///
    /// # Errors
    /// [`ModelError::Option`] for a size with an odd factor that is too large.
    pub fn hadamard(config: &ModelConfig, seed: u64) -> Result<Rotation, ModelError> {
        let n = config.format.names();
        let make = |size: usize, field: &str, name: &str| {
            let made = Matrix::hadamard(size, name, seed).ok_or_else(|| ModelError::Option {
                option: "rotate",
                found: format!("hadamard for a {field} of {size}"),
                expected: "a size whose odd factor is smaller, or a file with --optimized-rotation-path".to_owned(),
            });
            made.map(Arc::new)
        };
        let residual = make(config.dim, n.dim, "R1")?;
        let heads = (0..config.n_layers).map(|i| make(config.head_dim, n.head_dim, &heads_name(i)));
        Ok(Rotation { residual, heads: heads.collect::<Result<_, _>>()?, fed: None, desk: Arc::default() })
    }

    /// The matrices of a file as SpinQuant's optimizer saves them: `R1` of the residual stream, and
    /// `model.layers.N.self_attn.R2` of each layer.
    ///
    /// # Errors
    /// [`ModelError::Rotation`] that names the matrix: one that is missing, not the model's, of other sizes, not finite or not
    /// orthogonal; [`ModelError::Source`] where it cannot be read.
    pub fn from_file(file: &Checkpoint, config: &ModelConfig) -> Result<Rotation, ModelError> {
        let fail = |reason: String| ModelError::Rotation { path: file.path().to_owned(), reason };
        let n = config.format.names();
        let read = |name: &str, size: usize, because: &str| -> Result<Arc<Matrix>, ModelError> {
            let Some(found) = file.info(name) else {
                return Err(fail(format!(
                    "there is no rotation `{name}`; expected one of {size} × {size} ({because})"
                )));
            };
            let (found, dtype) = (found.shape.to_vec(), found.dtype);
            if found != [size, size] || !dtype.is_float() {
                return Err(fail(format!(
                    "rotation `{name}` is {dtype} {found:?}, expected floats {:?} ({because})",
                    [size; 2]
                )));
            }
            let bytes = read_all(CastSource::wrap(file.get(name)?, DType::F64).as_ref())?;
            let values: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let (row, column, value) = (at / size, at % size, values[at]);
                return Err(fail(format!("rotation `{name}`: row {row}, column {column} is {value}")));
            }
            let matrix = Matrix::dense(size, &values);
            let skew = matrix.skew();
            if skew > MOST_SKEW {
                return Err(fail(format!(
                    "rotation `{name}` is not orthogonal: its product with its transpose is {skew:.1e} off, expected at most \
                     {MOST_SKEW:.0e}"
                )));
            }
            Ok(Arc::new(matrix))
        };
        let residual = read("R1", config.dim, &format!("{} {} of {}", n.dim, config.dim, n.file))?;
        let because = format!("{} {} of {}", n.head_dim, config.head_dim, n.file);
        let heads: Vec<_> =
            (0..config.n_layers).map(|i| read(&heads_name(i), config.head_dim, &because)).collect::<Result<_, _>>()?;
        let known = |name: &str| name == "R1" || (0..config.n_layers).any(|i| heads_name(i) == name);
        if let Some(other) = file.tensors().find(|t| !known(t.name)) {
            let (name, layers) = (Shown(other.name), config.n_layers);
            return Err(fail(format!(
                "`{name}` is no rotation of this model, which has R1 and those of {layers} layers"
            )));
        }
        Ok(Rotation { residual, heads, fed: None, desk: Arc::default() })
    }

    /// The same with R4: the weights of [`crate::BuildOptions::use_spin_quant`]'s model, whose function stays as it is.
    ///
    /// # Errors
    /// [`ModelError::Option`] for a feed-forward part of a size that the operator does not have.
    pub fn with_spin_quant(mut self, config: &ModelConfig) -> Result<Rotation, ModelError> {
        let matrix = Matrix::undoing_operator(config.hidden_dim).ok_or_else(|| no_operator(config))?;
        self.fed = Some(Arc::new(matrix));
        Ok(self)
    }

    /// The weight `name` of the rotated model, whose output layer is not tied: `inner` gives those of the model as it is, the
    /// embedding as well under the output layer's name if they are tied.
    ///
    /// Weights are rotated when they are read. Those with a matrix on the left are rotated whole, in f32, one at a time.
    ///
    /// # Errors
    /// What `inner` gives; [`ModelError::WeightShape`] for weights of sizes that are not the model's.
    pub fn weight(&self, name: &str, shape: &[usize], inner: &dyn Weights) -> Result<SharedSource, ModelError> {
        let (layer, leaf) = match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, leaf)) => (Some(layer), leaf),
            None => (None, name),
        };
        let dim = self.residual.size();
        if leaf == "input_layernorm.weight" || leaf == "post_attention_layernorm.weight" || leaf == "model.norm.weight"
        {
            return Ok(Arc::new(MemorySource::of(name, &[dim], &vec![1f32; dim])?));
        }
        let source = inner.get(name, shape)?;
        if source.shape() != shape {
            return Err(ModelError::WeightShape {
                name: name.to_owned(),
                found: source.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let gain = |norm: &str| -> Result<Option<Arc<[f64]>>, ModelError> {
            let norm = layer.map_or_else(|| norm.to_owned(), |layer| format!("model.layers.{layer}.{norm}"));
            let source = CastSource::wrap(inner.get(&norm, &[dim])?, DType::F32);
            if source.shape() != [dim] {
                let (found, expected) = (source.shape().to_vec(), vec![dim]);
                return Err(ModelError::WeightShape { name: norm, found, expected });
            }
            let bytes = read_all(source.as_ref())?;
            Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()))
        };
        let heads = layer.and_then(|layer| self.heads.get(layer.parse::<usize>().ok()?));
        let residual = || Some(Arc::clone(&self.residual));
        let mut s = RotatedSource::new(source, &self.desk);
        match leaf {
            EMBEDDING => s.right = residual(),
            OUTPUT => (s.gain, s.right) = (gain("model.norm.weight")?, residual()),
            "self_attn.q_proj.weight" | "self_attn.k_proj.weight" => {
                (s.gain, s.right) = (gain("input_layernorm.weight")?, residual());
            }
            "self_attn.v_proj.weight" => {
                (s.left, s.gain, s.right) = (heads.cloned(), gain("input_layernorm.weight")?, residual());
            }
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => {
                (s.gain, s.right) = (gain("post_attention_layernorm.weight")?, residual());
            }
            "self_attn.o_proj.weight" => (s.left, s.right) = (residual(), heads.cloned()),
            "mlp.down_proj.weight" => (s.left, s.right) = (residual(), self.fed.clone()),
            "self_attn.v_proj.bias" => s.left = heads.cloned(),
            "self_attn.o_proj.bias" | "mlp.down_proj.bias" => s.left = residual(),
            _ => return inner.get(name, shape),
        }
        let fits = |m: &Option<Arc<Matrix>>, n: usize| m.as_ref().is_none_or(|m| n.is_multiple_of(m.size()));
        let columns = shape.get(1).copied().unwrap_or(1);
        if !fits(&s.left, shape[0]) || !fits(&s.right, columns) || s.gain.as_ref().is_some_and(|g| g.len() != columns) {
            let (name, found) = (name.to_owned(), shape.to_vec());
            return Err(ModelError::WeightShape { name, found, expected: vec![dim, columns] });
        }
        Ok(Arc::new(s))
    }
}

/// What a file of rotations calls R2 of a layer.
fn heads_name(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.R2")
}

/// That `llama::fast_hadamard_transform` does not have the size of the feed-forward part.
pub(crate) fn no_operator(config: &ModelConfig) -> ModelError {
    let n = config.format.names();
    ModelError::Option {
        option: "use_spin_quant",
        found: format!("native for an {} of {}", n.hidden_dim, config.hidden_dim),
        expected: "2^k or 28·2^k elements, which llama::fast_hadamard_transform takes".to_owned(),
    }
}

/// Whether `llama::fast_hadamard_transform` takes rows of `n` elements.
pub(crate) fn has_operator(n: usize) -> bool {
    matrix::operator_parts(n).is_some()
}

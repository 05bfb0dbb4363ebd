//! The weights of a checkpoint, with the rotations of the recipe.

use std::path::Path;

use pteron_checkpoint::Checkpoint;
use pteron_models::{CheckpointWeights, ModelConfig, Rotation};
use pteron_quant::recipe::Rotate;

use super::Exporter;
use crate::calibration::{hash, hex};
use crate::error::Error;
use crate::quantize;

/// A constant method with the rotations of the weights and of the feed-forward part, in a few words.
pub const ROTATION: &str = "get_rotation";

impl Exporter<'_> {
    /// The weights of `checkpoint` as the recipe has them rotated; `config` says afterwards whether the output layer is tied.
    pub(super) fn open_weights<'c>(
        &mut self,
        checkpoint: &'c Checkpoint,
        config: &mut ModelConfig,
    ) -> Result<CheckpointWeights<'c>, Error> {
        let (rotate, spin_quant) = (self.recipe.base.rotate.clone(), self.recipe.base.spin_quant);
        self.options.use_spin_quant = spin_quant;
        self.options.validate(config)?;
        if spin_quant && self.qnn.is_some() {
            let reason = "--use-spin-quant is for the forms of the model without --qnn".to_owned();
            return Err(Error::Quantize { reason });
        }
        // Codes of a pre-quantized checkpoint, which cannot be rotated, among the rest.
        quantize::check(&self.recipe)?;
        let rotation = match rotate {
            None => None,
            Some(Rotate::Hadamard { seed }) => Some(Rotation::hadamard(config, seed)?),
            Some(Rotate::File(path)) => {
                let file = Checkpoint::open(Path::new(&path))?;
                let files = hash::of_files(&file)?;
                let all: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
                // Of one file it is the file's own.
                self.rotation_sha256 = Some(match all.as_slice() {
                    [only] => (*only).to_owned(),
                    all => hex(&hash::sha256(all.join("\n").as_bytes())),
                });
                Some(Rotation::from_file(&file, config)?)
            }
        };
        self.weights.rotation = match rotation {
            Some(rotation) if spin_quant => Some(rotation.with_spin_quant(config)?),
            rotation => rotation,
        };
        let weights = CheckpointWeights::new(checkpoint, config, &self.weights)?;
        weights.configure(config);
        Ok(weights)
    }
}

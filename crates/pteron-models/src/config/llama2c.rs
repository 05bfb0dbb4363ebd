//! The header of a llama2.c model. What it does not say is fixed in that program: RMSNorm with 1e-5, rotary embedding of
//! neighbours with base 10000.

use pteron_checkpoint::Llama2cHeader;

use super::{Architecture, ConfigFormat, ModelConfig, RopeConfig, RopeScaling};
use crate::error::ModelError;

impl ModelConfig {
    /// Takes over the header of a llama2.c model.
    ///
    /// # Errors
    /// [`ModelError::Field`] for a size that is out of range or does not fit the others.
    pub fn from_llama2c(header: &Llama2cHeader) -> Result<ModelConfig, ModelError> {
        let head_dim = match header.dim.checked_rem(header.n_heads) {
            Some(0) => header.dim / header.n_heads,
            _ => {
                let expected = format!("a multiple of n_heads {}", header.n_heads);
                return Err(ModelError::Field {
                    file: ConfigFormat::Llama2c.names().file,
                    field: "dim".to_owned(),
                    found: header.dim.to_string(),
                    expected,
                });
            }
        };
        let config = ModelConfig {
            architecture: Architecture::Llama,
            format: ConfigFormat::Llama2c,
            interleaved: true,
            dim: header.dim,
            hidden_dim: header.hidden_dim,
            n_layers: header.n_layers,
            n_heads: header.n_heads,
            n_kv_heads: header.n_kv_heads,
            head_dim,
            vocab_size: header.vocab_size,
            norm_eps: 1e-5,
            rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
            tie_word_embeddings: header.shared_classifier,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            windows: vec![None; header.n_layers],
            max_position_embeddings: header.max_seq_len,
            dtype: None,
            // Token 1 stands before every text and so ends the one before it, where llama2.c stops; 2 is the end of text of
            // the tokenizers that the format's models are trained with.
            bos_token_id: Some(1).filter(|_| header.vocab_size > 2),
            eos_token_ids: [1, 2].into_iter().filter(|_| header.vocab_size > 2).collect(),
            quantization_group: None,
        };
        config.validate()?;
        Ok(config)
    }
}

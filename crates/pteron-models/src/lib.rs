//! One Llama-family graph builder driven by a configuration.
//!
//! [`ModelConfig`] is what a checkpoint says about a model: `config.json` (Hugging Face), `params.json` (Meta), the metadata
//! of a GGUF file or the header of a llama2.c model. The members of the family (Llama 1 to 3.3, TinyLlama, SmolLM2, Mistral,
//! Qwen2, Qwen2.5, Qwen3) differ in its fields only. [`build`] takes it, a [`Weights`] look-up and [`BuildOptions`], and
//! gives a [`pteron_ir::Module`] with the method `forward` and the constant methods that ExecuTorch's runners read. Weights
//! stay byte sources that nothing decodes before the program is written or run.
//!
//! The module does not depend on the checkpoint's format: its paths are Hugging Face's, and rotary pairs lie half a head
//! apart. [`CheckpointWeights`] finds each weight under the format's name and gives the rows of query and key in that order.
//!
//! [`Rotation`] gives the weights of the same function with the residual stream, the heads' values and the feed-forward part
//! multiplied by orthogonal matrices.
//!
//! | form | inputs | attention |
//! |---|---|---|
//! | no cache | tokens `[1, s]` | `aten::scaled_dot_product_attention` over the call's tokens |
//! | cache | tokens `[1, s]`, input_pos `[1]` | caches `[1, Hkv, ctx, D]`, written in place by `aten::index_put_` |
//! | cache, `use_sdpa_with_kv_cache` | the same | caches `[1, ctx, Hkv, D]`, `llama::update_cache` and `llama::custom_sdpa` |
//! | static ([`build_static`]) | tokens, mask, positions, caches | products and a softmax under the mask; new keys and values are outputs |
//! | static, mutable ([`build_static_mutable`]) | tokens `[1, 1]`, input_pos `[1]` | the same, over caches `[ctx, Hkv, D]` that are buffers |
//!
//! ```
//! use pteron_models::{BuildOptions, ModelConfig, SyntheticWeights, build};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig::from_hf(&serde_json::json!({
//!     "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
//!     "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "rms_norm_eps": 1e-5
//! }))?;
//! let options = BuildOptions { use_kv_cache: true, ..BuildOptions::default() };
//! let module = build(&config, &SyntheticWeights::new(0), &options)?;
//! assert_eq!(module.buffers.len(), 4);
//! # Ok(())
//! # }
//! ```

mod build;
mod config;
mod error;
pub mod limits;
mod metadata;
mod names;
mod options;
pub mod rope;
mod rotate;
mod synthetic;
mod weights;

pub use build::{
    CALIBRATE_FORWARD, KV_FORWARD, MASKED, PREFILL_FORWARD, SLIDING_WINDOW, build, build_static,
    build_static_calibration, build_static_mutable,
};
pub use config::{Architecture, ConfigFormat, ModelConfig, RopeConfig, RopeScaling};
pub use error::ModelError;
pub use metadata::{SpecialTokens, parse_metadata};
pub use names::{Parameter, parameters};
pub use options::{BuildOptions, DYNAMIC_RESERVE, StaticKvCache, StaticOptions};
pub use rotate::Rotation;
pub use synthetic::{SyntheticSource, SyntheticWeights};
pub use weights::{CheckpointWeights, PreQuantized, Weights, WeightsOptions};

//! Drives the readers of configurations, and the builder behind them; the fuzz targets use this file as well.
#![allow(dead_code, reason = "each user takes a part")]

use pteron_models::{BuildOptions, ModelConfig, SyntheticWeights, build};

/// Layers above which a configuration is read and checked, and no graph is built of it: one of 4096 layers is within the
/// limits and takes seconds.
const MOST_LAYERS: usize = 16;

fn built(config: &ModelConfig) -> Result<(), String> {
    config.validate().map_err(|e| e.to_string())?;
    if config.n_layers > MOST_LAYERS {
        return Ok(());
    }
    for (use_kv_cache, use_sdpa_with_kv_cache) in [(false, false), (true, false), (true, true)] {
        let options = BuildOptions { use_kv_cache, use_sdpa_with_kv_cache, ..BuildOptions::default() };
        match build(config, &SyntheticWeights::new(0), &options) {
            Ok(module) => pteron_ir::verify::module(&module).unwrap(),
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    Ok(())
}

/// Reads a `config.json` and builds the model.
pub(crate) fn config(bytes: &[u8]) -> Result<(), String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    built(&ModelConfig::from_hf(&value).map_err(|e| e.to_string())?)
}

/// Reads a `params.json` and builds the model.
pub(crate) fn params(bytes: &[u8]) -> Result<(), String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    built(&ModelConfig::from_meta(&value, Some(256)).map_err(|e| e.to_string())?)
}

//! `rope_scaling` (until transformers 4) and `rope_parameters` (since 5).

use super::fields::{Fields, describe};
use super::{RopeConfig, RopeScaling};
use crate::error::ModelError;
use crate::limits::MAX_POSITIONS;

const KNOWN: &str = "one of default, linear, llama3, yarn";

/// Reads the rotary embedding of a `config.json`; `max_positions` is its `max_position_embeddings`.
pub(super) fn read(fields: &Fields<'_>, max_positions: usize) -> Result<RopeConfig, ModelError> {
    let (old, new) = (fields.object("rope_scaling")?, fields.object("rope_parameters")?);
    if old.is_some() && new.is_some() && fields.get("rope_scaling") != fields.get("rope_parameters") {
        return Err(fields.error("rope_scaling", "an object", "nothing, since rope_parameters is there and differs"));
    }
    let object = new.or(old);
    for place in object.iter().chain([fields]) {
        if let Some(part) = place.number("partial_rotary_factor")?
            && part != 1.0
        {
            let expected = "1: rotating a part of each head is not supported";
            return Err(place.error("partial_rotary_factor", part.to_string(), expected));
        }
    }
    // An interleaved layout is a property of the weights that transformers' classes do not compute.
    if fields.bool("rope_interleaved")? == Some(true) {
        return Err(fields.error("rope_interleaved", "true", "false: Hugging Face weights rotate halves of a head"));
    }
    if let Some(o) = &object
        && let Some((key, _)) = o.keys().find(|(k, v)| k.ends_with("_attention") && v.is_object())
    {
        return Err(o.error(key, "an object", "one rotary embedding for all layers"));
    }
    let theta = match &object {
        Some(o) => o.positive("rope_theta")?,
        None => None,
    };
    let theta = theta.or(fields.positive("rope_theta")?).unwrap_or(10_000.0);
    let scaling = match &object {
        Some(o) => scaling(o, max_positions)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta, scaling })
}

fn scaling(o: &Fields<'_>, max_positions: usize) -> Result<RopeScaling, ModelError> {
    let key = if o.get("rope_type").is_some() { "rope_type" } else { "type" };
    let name = match (o.text(key)?, o.keys().next()) {
        (Some(name), _) => name,
        (None, None) => "default",
        // transformers 5 takes an object without a type as plain rotary embedding.
        (None, Some(_)) if o.get("factor").is_none() => "default",
        (None, Some(_)) => return Err(o.missing("rope_type", KNOWN)),
    };
    let original = || -> Result<usize, ModelError> {
        let given = o.size("original_max_position_embeddings", 1..=MAX_POSITIONS)?;
        Ok(given.unwrap_or(max_positions))
    };
    match name {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: o.required_positive("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: o.required_positive("factor")?,
            low_freq_factor: o.required_positive("low_freq_factor")?,
            high_freq_factor: o.required_positive("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        }),
        "yarn" => yarn(o, max_positions, original()?),
        other => Err(o.error(key, format!("\"{other}\""), KNOWN)),
    }
}

fn yarn(o: &Fields<'_>, max_positions: usize, original: usize) -> Result<RopeScaling, ModelError> {
    let factor = match o.positive("factor")? {
        Some(f) => f,
        None if o.get("original_max_position_embeddings").is_some() => max_positions as f64 / original as f64,
        None => return Err(o.missing("factor", "a number above 0")),
    };
    // Section 3.4 of the paper; a zero counts as absent, as in transformers.
    let given = |name: &str| -> Result<Option<f64>, ModelError> { Ok(o.number(name)?.filter(|&n| n != 0.0)) };
    let temperature = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
    let attention_factor = match (o.positive("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
        (Some(f), _, _) => f,
        (None, Some(m), Some(all)) => temperature(m) / temperature(all),
        (None, _, _) => temperature(1.0),
    };
    if attention_factor <= 0.0 || !attention_factor.is_finite() {
        let found = o.get("mscale").map_or_else(|| "nothing".into(), describe);
        return Err(o.error("mscale", found, "a value that gives a positive attention factor"));
    }
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: given("beta_fast")?.unwrap_or(32.0),
        beta_slow: given("beta_slow")?.unwrap_or(1.0),
        original_max_position_embeddings: original,
        attention_factor,
        truncate: o.bool("truncate")?.unwrap_or(true),
    })
}

//! A recipe as text: the same recipe, the same bytes.

use std::fmt::{self, Write};

use super::{Recipe, Rotate, Rule};
use crate::scheme::Compat;
use crate::transform::EmbeddingMode;

/// A TOML string: literal where it can be, so that a regular expression reads as it was written.
fn quoted(s: &str) -> String {
    if !s.contains('\'') && !s.chars().any(char::is_control) {
        return format!("'{s}'");
    }
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn embedding(e: EmbeddingMode) -> String {
    format!("'{},{}'", e.bits, e.group)
}

impl fmt::Display for Recipe {
    /// TOML that [`Recipe::parse`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.base;
        if let Some(mode) = b.linear {
            writeln!(f, "quantization-mode = '{}'", mode.name())?;
            if let Some(group) = mode.group() {
                writeln!(f, "group-size = {group}")?;
            }
        }
        if let Some(e) = b.embedding {
            writeln!(f, "embedding-quantize = {}", embedding(e))?;
        }
        if let Some(algorithm) = b.algorithm {
            writeln!(f, "weight-algorithm = '{algorithm}'")?;
        }
        if let Some(list) = &b.pt2e {
            writeln!(f, "pt2e-quantize = {}", quoted(list))?;
        }
        if b.pt2e.is_some() || b.compat != Compat::default() {
            writeln!(f, "quant-compat = '{}'", b.compat)?;
        }
        match &b.rotate {
            None => {}
            Some(Rotate::File(path)) => writeln!(f, "optimized-rotation-path = {}", quoted(path))?,
            Some(rotate) => writeln!(f, "rotate = '{rotate}'")?,
        }
        if b.spin_quant {
            writeln!(f, "use-spin-quant = 'native'")?;
        }
        self.rules.iter().try_for_each(|rule| write_rule(f, rule))
    }
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule) -> fmt::Result {
    let c = &rule.change;
    writeln!(f, "\n[[rule]]\npath = {}", quoted(rule.path.as_str()))?;
    if c.keep_float {
        writeln!(f, "keep-float = true")?;
    }
    let texts = [
        ("quantization-mode", c.mode.clone()),
        ("pt2e-quantize", c.scheme.clone()),
        ("weight-algorithm", c.algorithm.map(|a| a.name().to_owned())),
        ("activation", c.activation.map(|a| a.name().to_owned())),
        ("granularity", c.granularity.map(|g| g.name().to_owned())),
        ("observer", c.observer.map(|o| o.name().to_owned())),
        ("weight-observer", c.weight_observer.map(|o| o.name().to_owned())),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            writeln!(f, "{key} = {}", quoted(&value))?;
        }
    }
    if let Some(e) = c.embedding {
        writeln!(f, "embedding-quantize = {}", embedding(e))?;
    }
    if let Some(bits) = c.bits {
        writeln!(f, "bits = {bits}")?;
    }
    if let Some(group) = c.group {
        writeln!(f, "group-size = {group}")?;
    }
    Ok(())
}

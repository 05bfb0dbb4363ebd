//! `pteron sensitivity`.

use std::fmt::Write;

use pteron::evaluation::report::Report;
use pteron::evaluation::sensitivity::LayerCost;
use pteron::{Budget, Exporter, FoundRecipe, Search, Sensitivity};
use serde_json::json;

use super::low::SensitivityArgs;
use super::output::{Done, Failure, bytes, put, put_json, say};
use super::{eval, high, run};

pub(super) fn run(a: &SensitivityArgs) -> Done {
    let budget = match (a.max_kl, a.target_size) {
        (Some(kl), _) if kl.is_nan() || kl < 0.0 => {
            return Err(Failure::Usage(format!("--max-kl is {kl}, expected nats from 0 up")));
        }
        (Some(kl), _) => Some(Budget::Divergence(kl)),
        (None, Some(size)) => Some(Budget::Bytes(size)),
        (None, None) => None,
    };
    if a.output.is_some() && budget.is_none() {
        return Err(Failure::Usage("-o is for the recipe that --max-kl or --target-size asks for".to_owned()));
    }
    if a.window < 2 || a.windows == 0 {
        return Err(Failure::Usage(format!(
            "--window is {} and --windows {}, expected at least 2 and 1",
            a.window, a.windows
        )));
    }
    let recipe = high::recipe(&a.quantization, &a.calibration.calibration_data)?;
    let calibration = high::calibration(&a.calibration, None)?;
    let text = eval::text(&a.text)?;
    let place = a.tokenizer.as_deref().unwrap_or(&a.checkpoint);
    let (tokenizer, _) = run::tokenizer(Some(place), place)?;
    let tokens = tokenizer.encode(&text, true)?;
    let windows: Vec<Vec<u32>> = tokens.chunks_exact(a.window).take(a.windows).map(<[u32]>::to_vec).collect();
    if windows.is_empty() {
        return Err(anyhow::anyhow!(
            "{}: the text has {} tokens, less than one window of {}: give more text or a smaller --window",
            a.text.display(),
            tokens.len(),
            a.window
        )
        .into());
    }
    let scored = windows.len() * (a.window - 1);
    let bar = eval::bar("{msg} {wide_bar} {pos}/{len}  {eta}");
    let mut exporter = Exporter::open(&a.checkpoint)?
        .dtype(high::dtype(a.dtype))
        .kv_cache(true)
        .sdpa_with_kv_cache(true)
        .quantize(recipe)
        .calibration(calibration);
    if let Some(path) = &a.tokenizer {
        exporter = exporter.tokenizer(path);
    }
    let found = exporter.sensitivity(windows, budget, &mut |step| {
        let (name, at) = match step {
            Search::Calibrating(done, total) => ("calibrating, windows".to_owned(), Some((done, total))),
            Search::Layers(done, total) => ("measuring, layers".to_owned(), Some((done, total))),
            Search::Recipe(kept) => (format!("measuring a recipe that leaves {kept} layers float"), None),
        };
        if bar.message() != name {
            bar.set_message(name);
            bar.reset_eta();
        }
        if let Some((done, total)) = at {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    });
    bar.finish_and_clear();
    let found = found.map_err(|e| anyhow::Error::new(e).context(a.checkpoint.display().to_string()))?;
    let facts = facts(a, &found, scored);
    if let Some(path) = &a.report {
        let title = format!("Sensitive layers of {}", eval::name_of(&a.checkpoint));
        let page = Report { title: &title, facts: &facts, evaluation: None, layers: &found.layers, nodes: &[] };
        eval::write(path, &page.to_html())?;
    }
    if let (Some(path), Some(f)) = (&a.output, &found.found) {
        eval::write(path, &f.recipe.to_string())?;
        say(&format!("recipe written to {}", path.display()));
    }
    if a.json {
        let recipe = |f: &FoundRecipe| json!({"recipe": f.recipe.to_string(), "kept_float": f.kept, "bytes": f.bytes, "evaluation": f.evaluation});
        return put_json(&json!({
            "checkpoint": a.checkpoint,
            "text": a.text,
            "scored": scored,
            "float_bytes": found.float_bytes,
            "layers": found.layers,
            "whole": recipe(&found.whole),
            "found": found.found.as_ref().map(recipe),
        }));
    }
    let shown = if a.top == 0 { found.layers.len() } else { a.top.min(found.layers.len()) };
    put(&table(&facts, &found.layers[..shown], found.layers.len()))
}

fn describe(f: &FoundRecipe) -> String {
    let kl = f.evaluation.divergence.as_ref().map_or(f64::NAN, |d| d.kl.mean);
    format!("KL {kl:.3e} nats, {} of constants", bytes(f.bytes))
}

fn facts(a: &SensitivityArgs, found: &Sensitivity, scored: usize) -> Vec<(String, String)> {
    let mut rows = vec![
        ("checkpoint", a.checkpoint.display().to_string()),
        ("text", format!("{}: {scored} tokens scored", a.text.display())),
        ("recipe", found.whole.recipe.describe()),
        ("float", format!("{} of constants", bytes(found.float_bytes))),
        ("all quantized", describe(&found.whole)),
    ];
    if let Some(f) = &found.found {
        rows.push(("recipe found", format!("{}, {} layers left float", describe(f), f.kept.len())));
    }
    rows.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

fn table(facts: &[(String, String)], layers: &[LayerCost], all: usize) -> String {
    let mut out = String::new();
    for (name, text) in facts {
        let _ = writeln!(out, "{name:<18} {text}");
    }
    let paths = layers.iter().map(|l| l.path.len()).max().unwrap_or(0);
    let _ = writeln!(out, "\n{:<paths$}  {:>10}  {:>8}  {:>12}", "layer", "KL, nats", "±", "bytes saved");
    for l in layers {
        let _ = writeln!(out, "{:<paths$}  {:>10.3e}  {:>8.1e}  {:>12}", l.path, l.kl.mean, l.kl.stderr, l.bytes_saved);
    }
    if layers.len() < all {
        let _ = writeln!(out, "({} more; --top 0 shows all)", all - layers.len());
    }
    out
}

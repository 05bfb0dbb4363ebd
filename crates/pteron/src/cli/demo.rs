//! `pteron demo`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use pteron::checkpoint::atomic::TemporaryFolder;
use pteron::llm::runner::GenerationConfig;
use pteron::llm::tokenizer::Tokenizer;
use pteron::{Exporter, LoadOptions, bundled};

use super::low::DemoArgs;
use super::output::{Done, Failure, put, put_line, say};
use super::{export, inspect, run};

/// A case of `golden.json`.
#[derive(serde::Deserialize)]
struct Case {
    prompt: String,
    greedy_ids: Vec<u32>,
    text: String,
}

#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

pub(super) fn run(a: &DemoArgs) -> Done {
    match &a.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
            demo(folder)
        }
        None => {
            let folder = TemporaryFolder::create_in(std::env::temp_dir(), "pteron-demo")
                .context("no temporary folder can be made")?;
            demo(folder.path())
        }
    }
}

fn demo(folder: &Path) -> Done {
    let start = Instant::now();
    let golden: Golden = serde_json::from_slice(bundled::file("golden.json"))?;
    let case = golden.cases.first().ok_or_else(|| anyhow!("golden.json has no case"))?;
    bundled::write_to(folder)?;
    let path = folder.join("glass-en.pte");

    put_line("# export: glass-en, a Llama trained on the books of Lewis Carroll\n")?;
    let report = Exporter::open(folder)?.kv_cache(true).sdpa_with_kv_cache(true).write(&path)?;
    put(&export::summary(&report))?;

    put_line("\n# inspect\n")?;
    put(&inspect::brief(&path)?)?;

    put_line("\n# run\n")?;
    let tokenizer =
        Tokenizer::from_bytes(bundled::file("tokenizer.json"), Some(bundled::file("tokenizer_config.json")))?;
    let mut runner = run::runner(&path, "forward", LoadOptions::default(), tokenizer)?;
    let config = GenerationConfig {
        echo: true,
        temperature: 0.0,
        max_new_tokens: i64::try_from(case.greedy_ids.len())?,
        ignore_eos: true,
        ..GenerationConfig::default()
    };
    let mut written = Ok(());
    let result = runner.generate(&case.prompt, &config, &mut |piece| {
        if written.is_ok() {
            written = put(piece);
        }
    })?;
    written?;
    put_line("")?;

    if result.text != case.text || result.token_ids != case.greedy_ids {
        say(&format!("\nerror: the text is not the pinned one, which is:\n{}{}", case.prompt, case.text));
        return Err(Failure::Told);
    }
    let speed = result.stats.decode_tokens_per_second();
    let speed = speed.map_or(String::new(), |s| format!(", {s:.0} tokens a second"));
    put_line(&format!(
        "\n# the pinned text: {} parameters exported, inspected and run in {}{speed}",
        super::output::number(report.parameters),
        run::seconds(start)
    ))
}

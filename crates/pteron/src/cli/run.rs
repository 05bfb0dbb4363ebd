//! `pteron run`.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use pteron::llm::chat::{Message, RenderOptions};
use pteron::llm::clock::{Clock, SystemClock};
use pteron::llm::runner::{FinishReason, GenerationConfig, GenerationResult, Runner};
use pteron::llm::tokenizer::{Tokenizer, TokenizerKind};
use pteron::{Error, LoadOptions, Program, ProgramDecoder, ProgramFile, TokenizerSource};
use serde_json::json;

use super::low::{RunArgs, StatsArg};
use super::output::{Done, Failure, put, put_json, put_line, say};
use super::{high, interrupt};

type TextRunner = Runner<ProgramDecoder, SystemClock>;

pub(super) fn run(a: &RunArgs) -> Done {
    let load = high::run_load(a)?;
    let model = a.model.as_ref().or(a.model_path.as_ref()).ok_or_else(|| Failure::Usage("no program".to_owned()))?;
    let config = generation(a)?;
    let prompt = prompt(a)?;
    let clock = SystemClock;
    let start = clock.now_ms();
    let file = ProgramFile::open(model, load.mode)?;
    // The tokenizer is read while the program is lifted and its weights are made ready.
    let (tokenizer, program) = std::thread::scope(|s| {
        let other = s.spawn(|| tokenizer(a.tokenizer.as_deref(), model));
        let program = lift(&file, model, &a.method_name, load);
        (other.join(), program)
    });
    let (tokenizer, source) = tokenizer.map_err(|_| anyhow!("the tokenizer's thread panicked"))??;
    let kind = tokenizer.kind();
    let mut runner = assemble(program?, model, &a.method_name, tokenizer)?;
    runner.set_load_times(start, clock.now_ms());

    let chat = a.chat || a.system.is_some();
    let (text, ids) = if chat { render(a, &source, &runner, &prompt)? } else { encode(a, &runner, &prompt)? };
    if a.warmup {
        runner.generate_ids(&ids, &config, &mut |_| {})?;
        runner.reset()?;
        runner.set_load_times(start, runner.stats().model_load_end_ms);
    }
    let echo = !a.json && (a.echo || (!a.no_echo && !chat));
    if echo {
        put(&text)?;
    }
    let cancel = runner.cancel_handle();
    let stops = interrupt::stops(cancel.clone());
    let mut written = Ok(());
    let result = runner.generate_ids(&ids, &config, &mut |piece| {
        if !a.json && written.is_ok() {
            written = put(piece);
            if written.is_err() {
                cancel.cancel();
            }
        }
    });
    written?;
    if result.is_err() && !a.json {
        put("\n")?;
    }
    let result = result?;
    drop(stops);
    report(a, kind, &text, &ids, &result)
}

/// The settings of the run. Their names are those of the flags, but for the spelling.
fn generation(a: &RunArgs) -> Result<GenerationConfig, Failure> {
    let config = GenerationConfig {
        echo: false,
        ignore_eos: a.ignore_eos,
        max_new_tokens: a.max_new_tokens,
        seq_len: a.seq_len,
        temperature: a.temperature,
        topp: a.top_p,
        topk: a.top_k,
        seed: a.seed,
        ..GenerationConfig::default()
    };
    match config.validate() {
        Ok(()) => Ok(config),
        Err(e) => Err(Failure::Usage(format!("--{}", e.to_string().replace('_', "-")))),
    }
}

fn report(a: &RunArgs, kind: TokenizerKind, prompt: &str, ids: &[u32], r: &GenerationResult) -> Done {
    if a.json {
        let stats: serde_json::Value = serde_json::from_str(&r.stats.to_json())?;
        return put_json(&json!({
            "tokenizer": kind.to_string(),
            "prompt": prompt,
            "prompt_ids": ids,
            "text": r.text,
            "token_ids": r.token_ids,
            "finish_reason": finish(r.finish_reason),
            "stats": stats,
        }));
    }
    if !r.text.ends_with('\n') {
        put("\n")?;
    }
    if r.finish_reason == FinishReason::ContextFull {
        say("note: the model's context is full; export with a larger --max-context-length for more");
    }
    match a.stats {
        StatsArg::Json => put_line(&r.stats.observer_line()),
        StatsArg::Text => {
            say(&format!("\n{}", r.stats));
            Ok(())
        }
        StatsArg::None => Ok(()),
    }
}

fn finish(r: FinishReason) -> &'static str {
    match r {
        FinishReason::EndOfText(_) => "stop",
        FinishReason::Length => "length",
        FinishReason::ContextFull => "context_full",
        FinishReason::Cancelled => "cancelled",
    }
}

/// The program's methods for text and the tokenizer, put together.
pub(super) fn runner(
    model: &Path,
    method: &str,
    load: LoadOptions,
    tokenizer: Tokenizer,
) -> Result<TextRunner, Failure> {
    let program = lift(&ProgramFile::open(model, load.mode)?, model, method, load)?;
    assemble(program, model, method, tokenizer)
}

/// The program's methods for text.
fn lift(file: &ProgramFile, model: &Path, method: &str, load: LoadOptions) -> Result<Program, Failure> {
    // Constant methods take nothing.
    let plans = file.head().program().execution_plans.iter();
    let known: Vec<&str> = plans.filter(|p| !p.inputs.is_empty()).map(|p| p.name.as_str()).collect();
    let methods = ProgramDecoder::methods(&known, method);
    if let Some(missing) = methods.iter().find(|m| !known.contains(&m.as_str())) {
        return Err(anyhow!(
            "{}: there is no method `{missing}`; the program has {}",
            model.display(),
            known.join(", ")
        )
        .into());
    }
    Ok(file.load(&LoadOptions { methods, ..load })?)
}

fn assemble(program: Program, model: &Path, method: &str, tokenizer: Tokenizer) -> Result<TextRunner, Failure> {
    let decoder = ProgramDecoder::new(program, method)?;
    let metadata = decoder.metadata()?;
    if let Some(vocab) = metadata.vocab_size
        && let Some(odd) = pteron::odd_vocabulary(tokenizer.vocab_size(), vocab)
    {
        say(&format!("warning: the tokenizer may be another model's: {odd} of {}", model.display()));
    }
    let runner = Runner::new(tokenizer, decoder, metadata, SystemClock);
    Ok(runner.map_err(|e| anyhow!("{}: {e}", model.display()))?)
}

/// The prompt: of the flag, the file, or standard input.
fn prompt(a: &RunArgs) -> Result<String, Failure> {
    if let Some(p) = &a.prompt {
        return Ok(p.clone());
    }
    if let Some(path) = &a.prompt_file {
        return Ok(std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?);
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::Usage(
            "no prompt: give --prompt TEXT, --prompt-file FILE, or text on standard input".into(),
        ));
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).context("standard input cannot be read")?;
    Ok(text)
}

/// The tokenizer that was asked for, else the one beside the program.
pub(super) fn tokenizer(asked: Option<&Path>, model: &Path) -> Result<(Tokenizer, TokenizerSource), Failure> {
    let source = match asked {
        Some(path) => TokenizerSource::open(path)?,
        None => match TokenizerSource::beside(model) {
            Err(e @ Error::Kind { .. }) => return Err(anyhow!("{e}; give one with --tokenizer PATH").into()),
            other => other?,
        },
    };
    Ok((source.tokenizer()?, source))
}

/// The prompt's ids, with the special tokens that were asked for or that the tokenizer's own rules add.
fn encode(a: &RunArgs, runner: &TextRunner, prompt: &str) -> Result<(String, Vec<u32>), Failure> {
    let tokenizer = runner.tokenizer();
    if a.num_bos.is_some() || a.num_eos.is_some() {
        let ids = tokenizer.encode_counted(prompt, a.num_bos.unwrap_or(0), a.num_eos.unwrap_or(0))?;
        return Ok((prompt.to_owned(), ids));
    }
    let mut ids = tokenizer.encode(prompt, true)?;
    // A prompt that spells the beginning token has it already.
    if let Some(bos) = tokenizer.bos_id()
        && ids.starts_with(&[bos, bos])
    {
        ids.remove(0);
    }
    Ok((prompt.to_owned(), ids))
}

/// The prompt in the model's chat template.
fn render(
    a: &RunArgs,
    source: &TokenizerSource,
    runner: &TextRunner,
    prompt: &str,
) -> Result<(String, Vec<u32>), Failure> {
    let templates = source.chat_templates().map_err(|e| anyhow!("{}: {e}", source.path().display()))?;
    let mut messages: Vec<Message> = a.system.as_deref().map(Message::system).into_iter().collect();
    messages.push(Message::user(prompt));
    let options = RenderOptions { add_generation_prompt: true, now: Some(now()), ..RenderOptions::default() };
    let text = templates.render(&messages, &options)?;
    let ids = runner.tokenizer().encode(&text, false)?;
    Ok((text, ids))
}

/// Now, in UTC.
fn now() -> pteron::llm::chat::DateTime {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    pteron::llm::chat::DateTime::from_unix_seconds(i64::try_from(seconds).unwrap_or(0))
}

/// Seconds since `start`, for summaries.
pub(super) fn seconds(start: Instant) -> String {
    format!("{:.2} s", start.elapsed().as_secs_f64())
}

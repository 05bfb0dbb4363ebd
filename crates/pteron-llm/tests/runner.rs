//! The runner's rules, on a model whose next token is a fixed function of the tokens it has seen.

mod common;

use common::{BYTE_LEVEL_CONFIG, TickingClock, byte_level, byte_level_json};
use half::f16;
use pteron_llm::metadata::ModelMetadata;
use pteron_llm::runner::{
    CancelHandle, DecoderError, FinishReason, GenerationConfig, GenerationResult, Logits, LogitsData, PrefillMode,
    Runner, RunnerError, TextDecoder, TokensPerCall,
};
use pteron_llm::stats::Stats;
use pteron_llm::tokenizer::Tokenizer;
use std::borrow::Cow;

const VOCAB: usize = 269;
const EOS: u32 = 267;

/// After byte `b` comes `b + 1`; after `z` comes the end.
fn next_of(token: i64) -> u32 {
    if token == i64::from(b'z') { EOS } else { (token as u32 + 1) % 256 }
}

#[derive(Debug)]
struct Fake {
    kv: bool,
    per_call: TokensPerCall,
    last_only: bool,
    half: bool,
    two_dimensional: bool,
    width: usize,
    /// What the cache holds, by position.
    cache: Vec<i64>,
    /// (tokens, start_pos) of each call.
    calls: Vec<(Vec<i64>, i64)>,
    resets: usize,
    cancel_at_call: Option<(usize, CancelHandle)>,
    fail_at_call: Option<usize>,
    wraps: bool,
}

impl Fake {
    fn new(kv: bool, per_call: TokensPerCall) -> Self {
        Self {
            kv,
            per_call,
            last_only: false,
            half: false,
            two_dimensional: false,
            width: VOCAB,
            cache: Vec::new(),
            calls: Vec::new(),
            resets: 0,
            cancel_at_call: None,
            fail_at_call: None,
            wraps: true,
        }
    }

    fn shapes(&self) -> Vec<(usize, i64)> {
        self.calls.iter().map(|(tokens, start)| (tokens.len(), *start)).collect()
    }
}

impl TextDecoder for Fake {
    fn step(&mut self, tokens: &[i64], start_pos: i64) -> Result<Logits<'_>, DecoderError> {
        match self.per_call {
            TokensPerCall::Exactly(n) => assert_eq!(tokens.len(), n),
            TokensPerCall::UpTo(n) => assert!((1..=n).contains(&tokens.len())),
            TokensPerCall::Any => assert!(!tokens.is_empty()),
        }
        self.calls.push((tokens.to_vec(), start_pos));
        if self.fail_at_call == Some(self.calls.len()) {
            return Err("out of order".into());
        }
        if let Some((call, handle)) = &self.cancel_at_call
            && *call == self.calls.len()
        {
            handle.cancel();
        }
        if self.kv {
            assert!(start_pos as usize <= self.cache.len(), "a hole in the cache");
            self.cache.truncate(start_pos as usize);
            self.cache.extend_from_slice(tokens);
        } else {
            assert_eq!(start_pos, 0);
        }
        let rows = if self.last_only { &tokens[tokens.len() - 1..] } else { tokens };
        let mut data = vec![0f32; rows.len() * self.width];
        for (row, &token) in rows.iter().enumerate() {
            data[row * self.width + next_of(token) as usize] = 20.0;
        }
        let shape = if self.two_dimensional { vec![rows.len(), self.width] } else { vec![1, rows.len(), self.width] };
        let data = if self.half {
            LogitsData::F16(Cow::Owned(data.into_iter().map(f16::from_f32).collect()))
        } else {
            LogitsData::F32(Cow::Owned(data))
        };
        Ok(Logits { data, shape })
    }

    fn uses_kv_cache(&self) -> bool {
        self.kv
    }

    fn tokens_per_call(&self) -> TokensPerCall {
        self.per_call
    }

    fn can_wrap(&self) -> bool {
        self.wraps
    }

    fn reset(&mut self) -> Result<(), DecoderError> {
        self.resets += 1;
        self.cache.clear();
        Ok(())
    }
}

fn metadata(kv: bool, dynamic: bool, max_seq_len: usize) -> ModelMetadata {
    ModelMetadata {
        max_seq_len,
        declares_max_seq_len: true,
        max_context_len: max_seq_len,
        use_kv_cache: kv,
        enable_dynamic_shape: dynamic,
        vocab_size: Some(VOCAB),
        ..ModelMetadata::default()
    }
}

type TestRunner = Runner<Fake, TickingClock>;

fn runner(fake: Fake, metadata: ModelMetadata) -> TestRunner {
    Runner::new(byte_level(), fake, metadata, TickingClock::default()).unwrap()
}

fn kv_dynamic(max_seq_len: usize) -> TestRunner {
    runner(Fake::new(true, TokensPerCall::UpTo(max_seq_len - 1)), metadata(true, true, max_seq_len))
}

fn greedy(max_new_tokens: i64) -> GenerationConfig {
    GenerationConfig { echo: false, temperature: 0.0, max_new_tokens, ..GenerationConfig::default() }
}

fn pieces(runner: &mut TestRunner, prompt: &str, config: &GenerationConfig) -> (Vec<String>, GenerationResult) {
    let mut pieces = Vec::new();
    let result = runner.generate(prompt, config, &mut |piece| pieces.push(piece.to_owned())).unwrap();
    (pieces, result)
}

fn error(runner: &mut TestRunner, prompt: &str, config: &GenerationConfig) -> RunnerError {
    runner.generate(prompt, config, &mut |_| {}).unwrap_err()
}

#[test]
fn one_callback_a_token_and_one_call_a_decoded_token() {
    let mut runner = kv_dynamic(64);
    let (pieces, result) = pieces(&mut runner, "abc", &greedy(5));
    assert_eq!(pieces, ["d", "e", "f", "g", "h"]);
    assert_eq!(result.text, "defgh");
    assert_eq!(result.token_ids, "defgh".bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(result.finish_reason, FinishReason::Length);
    assert_eq!(runner.decoder().shapes(), [(3, 0), (1, 3), (1, 4), (1, 5), (1, 6)]);
    // The last token was chosen, not seen.
    assert_eq!(runner.position(), 7);
    assert_eq!(runner.history(), "abcdefg".bytes().map(u32::from).collect::<Vec<_>>());
}

#[test]
fn echo_gives_the_prompt_first() {
    let config = GenerationConfig { echo: true, ..greedy(2) };
    let (echoed, result) = pieces(&mut kv_dynamic(64), "abc", &config);
    assert_eq!(echoed, ["abc", "d", "e"]);
    assert_eq!(result.text, "de");
    let mut ids = Vec::new();
    kv_dynamic(64).generate_ids(&[97, 98], &config, &mut |piece| ids.push(piece.to_owned())).unwrap();
    assert_eq!(ids, ["ab", "c", "d"]);
}

#[test]
fn prefill_is_chunked_at_the_smaller_of_max_seq_len_and_the_programs_bound() {
    // The sequence limit is 4, the context 100: a ring, 10 tokens go as 4 + 4 + 2.
    let mut ring = metadata(true, true, 4);
    ring.max_context_len = 100;
    let mut by_metadata = runner(Fake::new(true, TokensPerCall::Any), ring);
    assert_eq!(by_metadata.prefill_mode(), PrefillMode::Chunks(4));
    assert_eq!(pieces(&mut by_metadata, "abcdefghij", &greedy(1)).1.text, "k");
    assert_eq!(by_metadata.decoder().shapes(), [(4, 0), (4, 4), (2, 8)]);

    let mut by_program = runner(Fake::new(true, TokensPerCall::UpTo(3)), metadata(true, true, 64));
    assert_eq!(pieces(&mut by_program, "abcdef", &greedy(2)).1.text, "gh");
    assert_eq!(by_program.decoder().shapes(), [(3, 0), (3, 3), (1, 6)]);
}

#[test]
fn calls_shorter_than_the_cache_make_no_ring_of_it() {
    let mut declared = metadata(true, true, 4);
    declared.max_context_len = 10;
    let mut fake = Fake::new(true, TokensPerCall::UpTo(3));
    fake.wraps = false;
    let mut runner = runner(fake, declared);
    let (_, result) = pieces(&mut runner, "abcdef", &greedy(-1));
    assert_eq!((result.text.as_str(), result.finish_reason), ("ghij", FinishReason::ContextFull));
    runner.reset().unwrap();
    let limited = GenerationConfig { seq_len: 8, ..greedy(-1) };
    assert_eq!(pieces(&mut runner, "abcdef", &limited).1.text, "gh");
    runner.reset().unwrap();
    let message = error(&mut runner, "abcdefghij", &greedy(-1)).to_string();
    assert!(message.contains("the prompt has 10 tokens") && message.contains("--max-context-length"), "{message}");
}

#[test]
fn static_cache_programs_get_the_prompt_token_by_token() {
    for fake in [Fake::new(true, TokensPerCall::Exactly(1)), Fake::new(true, TokensPerCall::UpTo(63))] {
        let dynamic = fake.per_call == TokensPerCall::Exactly(1);
        let mut runner = runner(fake, metadata(true, dynamic, 64));
        assert_eq!(runner.prefill_mode(), PrefillMode::Sequential);
        assert_eq!(pieces(&mut runner, "abc", &greedy(2)).1.text, "de");
        assert_eq!(runner.decoder().shapes(), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    }
    let fake = Fake::new(true, TokensPerCall::Exactly(4));
    let error = Runner::new(byte_level(), fake, metadata(true, true, 64), TickingClock::default()).unwrap_err();
    assert!(matches!(error, RunnerError::FixedLength { fixed: 4, .. }));
}

#[test]
fn without_a_cache_the_whole_text_grows_over_calls_and_turns() {
    let mut runner = runner(Fake::new(false, TokensPerCall::UpTo(63)), metadata(false, true, 64));
    assert_eq!(runner.prefill_mode(), PrefillMode::Whole);
    assert_eq!(pieces(&mut runner, "abc", &greedy(3)).1.text, "def");
    assert_eq!(runner.decoder().shapes(), [(3, 0), (4, 0), (5, 0)]);
    assert_eq!(pieces(&mut runner, "mn", &greedy(2)).1.text, "op");
    let seen: Vec<i64> = "abcdemn".bytes().map(i64::from).collect();
    assert_eq!(runner.decoder().calls[3].0, seen);
    assert_eq!(runner.decoder().shapes()[3..], [(7, 0), (8, 0)]);
}

#[test]
fn fixed_length_without_a_cache_is_filled_up_on_the_right() {
    let mut full = runner(Fake::new(false, TokensPerCall::Exactly(6)), metadata(false, false, 64));
    let (_, result) = pieces(&mut full, "abc", &greedy(-1));
    // 3 + 3 tokens fill the program; the token chosen after the sixth is still given out.
    assert_eq!((result.text.as_str(), result.finish_reason), ("defg", FinishReason::ContextFull));
    assert_eq!(full.decoder().calls[1].0, [97, 98, 99, 100, 0, 0]);
    assert!(matches!(error(&mut full, "h", &greedy(1)), RunnerError::PromptTooLong { .. }));

    let last_only = Fake { last_only: true, ..Fake::new(false, TokensPerCall::Exactly(6)) };
    let message = error(&mut runner(last_only, metadata(false, false, 64)), "abc", &greedy(1)).to_string();
    assert!(message.contains("exactly 6 tokens") && message.contains("last token's logits only"), "{message}");
}

#[test]
fn any_of_the_eos_ids_ends_the_text_and_is_not_text() {
    let mut runner = kv_dynamic(64);
    assert_eq!(runner.eos_ids(), [EOS]);
    let (pieces_given, result) = pieces(&mut runner, "x", &greedy(10));
    assert_eq!(pieces_given, ["y", "z"]);
    assert_eq!(result.finish_reason, FinishReason::EndOfText(EOS));
    assert_eq!(result.token_ids, [u32::from(b'y'), u32::from(b'z'), EOS]);

    let mut listed = metadata(true, true, 64);
    listed.eos_ids = Some(vec![5, u32::from(b'e')]);
    let mut listed = runner_with(listed);
    listed.add_eos_ids(&[5, u32::from(b'q')]);
    assert_eq!(listed.eos_ids(), [5, u32::from(b'e'), u32::from(b'q')]);
    assert_eq!(pieces(&mut listed, "c", &greedy(9)).1.finish_reason, FinishReason::EndOfText(u32::from(b'e')));
    listed.reset().unwrap();
    assert_eq!(pieces(&mut listed, "o", &greedy(9)).1.text, "pq");
}

fn runner_with(metadata: ModelMetadata) -> TestRunner {
    runner(Fake::new(true, TokensPerCall::Any), metadata)
}

#[test]
fn a_first_token_that_ends_the_text_stops_the_run() {
    let (given, result) = pieces(&mut kv_dynamic(64), "z", &greedy(10));
    assert!(given.is_empty());
    assert_eq!((result.token_ids.as_slice(), result.finish_reason), ([EOS].as_slice(), FinishReason::EndOfText(EOS)));
    assert_eq!(result.stats.num_generated_tokens, 0);
}

#[test]
fn ignore_eos_runs_on() {
    let config = GenerationConfig { ignore_eos: true, ..greedy(4) };
    let (_, result) = pieces(&mut kv_dynamic(64), "y", &config);
    assert_eq!(result.token_ids, [u32::from(b'z'), EOS, 12, 13]);
    assert_eq!(result.finish_reason, FinishReason::Length);
    let shown = GenerationConfig { skip_special_tokens: false, ..greedy(4) };
    assert_eq!(pieces(&mut kv_dynamic(64), "y", &shown).1.text, "z<|eos|>");
}

#[test]
fn limits_are_seq_len_max_new_tokens_and_the_context() {
    let with = |seq_len, max_new_tokens| {
        let config = GenerationConfig { seq_len, ..greedy(max_new_tokens) };
        let (_, result) = pieces(&mut kv_dynamic(10), "abc", &config);
        (result.token_ids.len(), result.finish_reason)
    };
    assert_eq!(with(-1, -1), (7, FinishReason::ContextFull));
    assert_eq!(with(-1, 4), (4, FinishReason::Length));
    assert_eq!(with(8, -1), (5, FinishReason::Length));
    assert_eq!(with(8, 2), (2, FinishReason::Length));
    assert_eq!(with(100, 100), (7, FinishReason::ContextFull));
    assert_eq!(with(-1, 7), (7, FinishReason::Length));
    let message = error(&mut kv_dynamic(10), "abc", &GenerationConfig { seq_len: 3, ..greedy(-1) }).to_string();
    assert!(message.contains("seq_len 3") && message.contains("after the 3 of the prompt"), "{message}");
}

#[test]
fn turns_continue_at_the_position_that_the_model_has_seen() {
    let mut runner = kv_dynamic(64);
    pieces(&mut runner, "abc", &greedy(3));
    assert_eq!(runner.position(), 5);
    assert_eq!(pieces(&mut runner, "mn", &greedy(2)).1.text, "op");
    assert_eq!(runner.decoder().shapes()[3..], [(2, 5), (1, 7)]);
    assert_eq!(runner.position(), 8);
    runner.reset().unwrap();
    assert_eq!((runner.position(), runner.decoder().resets), (0, 1));
    pieces(&mut runner, "a", &greedy(1));
    assert_eq!(runner.decoder().calls.last().unwrap().1, 0);
}

#[test]
fn a_conversation_is_continued_from_where_it_parts() {
    let mut runner = kv_dynamic(64);
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    runner.generate_conversation(&ids("abc"), &greedy(3), &mut |_| {}).unwrap();
    // Seen: abcde; the whole conversation now has f, then a new prompt.
    let result = runner.generate_conversation(&ids("abcdefmn"), &greedy(1), &mut |_| {}).unwrap();
    assert_eq!((result.text.as_str(), result.prompt_tokens), ("o", 3));
    assert_eq!(runner.decoder().calls.last().unwrap(), &("fmn".bytes().map(i64::from).collect(), 5));
    // An edited history goes back.
    runner.generate_conversation(&ids("abQ"), &greedy(1), &mut |_| {}).unwrap();
    assert_eq!(runner.decoder().shapes().last(), Some(&(1, 2)));
    // The same again: the last token is passed again, to know what follows.
    runner.generate_conversation(&ids("abQ"), &greedy(1), &mut |_| {}).unwrap();
    assert_eq!(runner.decoder().shapes().last(), Some(&(1, 2)));
    assert!(matches!(runner.rewind(9), Err(RunnerError::Rewind { wanted: 9, position: 3 })));
    assert!(matches!(runner.generate_conversation(&[], &greedy(1), &mut |_| {}), Err(RunnerError::EmptyPrompt)));
}

#[test]
fn warmup_leaves_only_the_load_times() {
    let mut runner = kv_dynamic(64);
    runner.set_load_times(7, 9);
    runner.warmup("abc", &GenerationConfig { echo: true, ..greedy(4) }).unwrap();
    assert_eq!(runner.decoder().calls.len(), 4);
    assert_eq!(runner.position(), 0);
    assert_eq!(runner.stats(), &Stats { model_load_start_ms: 7, model_load_end_ms: 9, ..Stats::default() });
    let (given, _) = pieces(&mut runner, "abc", &GenerationConfig { warming: true, ..greedy(4) });
    assert!(given.is_empty() && runner.position() == 0);
    assert_eq!(pieces(&mut runner, "abc", &greedy(1)).1.text, "d");
    assert_eq!(runner.decoder().shapes().last(), Some(&(3, 0)));
}

#[test]
fn stats_count_and_time() {
    let mut runner = kv_dynamic(64);
    runner.set_load_times(1, 2);
    let (_, result) = pieces(&mut runner, "abc", &greedy(3));
    let stats = &result.stats;
    assert_eq!(runner.stats(), stats);
    assert_eq!((stats.num_prompt_tokens, stats.num_generated_tokens), (3, 2));
    // One reading of the clock is one millisecond: each call and each choice takes one.
    assert_eq!(stats.aggregate_model_execution_time_us, 3000);
    assert_eq!(stats.aggregate_sampling_time_us, 3000);
    assert_eq!((stats.model_load_start_ms, stats.model_load_end_ms), (1, 2));
    assert!(stats.inference_start_ms < stats.first_token_ms);
    assert_eq!(stats.first_token_ms, stats.prompt_eval_end_ms);
    assert!(stats.prompt_eval_end_ms < stats.model_execution_start_ms);
    assert!(stats.model_execution_end_ms < stats.inference_end_ms);
}

#[test]
fn cancelling_ends_the_run_before_the_next_call() {
    let mut runner = kv_dynamic(64);
    let handle = runner.cancel_handle();
    let mut text = String::new();
    let result = runner
        .generate("abc", &greedy(20), &mut |piece| {
            text.push_str(piece);
            if piece == "f" {
                handle.cancel();
            }
        })
        .unwrap();
    assert_eq!((text.as_str(), result.finish_reason), ("def", FinishReason::Cancelled));
    // The next run is not affected.
    assert_eq!(pieces(&mut runner, "g", &greedy(2)).1.text, "hi");
    // During the prompt: no token.
    handle.cancel();
    let (given, result) = pieces(&mut runner, "abc", &greedy(2));
    assert!(given.is_empty() && result.token_ids.is_empty());
    assert_eq!(result.finish_reason, FinishReason::Cancelled);
}

#[test]
fn cancelling_between_chunks_keeps_what_was_seen() {
    let fake = Fake { cancel_at_call: Some((2, CancelHandle::default())), ..Fake::new(true, TokensPerCall::UpTo(2)) };
    let handle = fake.cancel_at_call.as_ref().unwrap().1.clone();
    let mut runner = runner(fake, metadata(true, true, 64)).with_cancel_handle(handle);
    let (given, result) = pieces(&mut runner, "abcdef", &greedy(5));
    assert!(given.is_empty());
    assert_eq!((result.finish_reason, runner.position()), (FinishReason::Cancelled, 4));
}

#[test]
fn prompts_that_cannot_run_are_refused_before_the_model_is_called() {
    let mut runner = kv_dynamic(10);
    assert!(matches!(error(&mut runner, "", &greedy(1)), RunnerError::EmptyPrompt));
    let message = error(&mut runner, "abcdefghij", &greedy(1)).to_string();
    assert!(message.contains("10 tokens at position 0") && message.contains("context holds 10"), "{message}");
    pieces(&mut runner, "abcdef", &greedy(1));
    let message = error(&mut runner, "ghij", &greedy(1)).to_string();
    assert!(message.contains("4 tokens at position 6"), "{message}");
    let mut narrow = metadata(true, true, 64);
    narrow.vocab_size = Some(100);
    let mut narrow = runner_with(narrow);
    let message = error(&mut narrow, "az", &greedy(1)).to_string();
    assert!(message.contains("token \"z\" has id 122") && message.contains("100 entries"), "{message}");
    assert!(narrow.decoder().calls.is_empty());
    let bad = GenerationConfig { temperature: -1.0, ..greedy(1) };
    assert!(matches!(error(&mut narrow, "a", &bad), RunnerError::Sampler(_)));
    assert!(matches!(error(&mut narrow, "a", &greedy(0)), RunnerError::Limit { .. }));
    let no_bos = Tokenizer::from_bytes(byte_level_json().to_string().as_bytes(), None).unwrap();
    let fake = Fake::new(true, TokensPerCall::Any);
    let mut no_bos = Runner::new(no_bos, fake, metadata(true, true, 64), TickingClock::default()).unwrap();
    assert!(no_bos.eos_ids().is_empty());
    let with_bos = GenerationConfig { num_bos: 1, ..greedy(1) };
    assert!(matches!(error(&mut no_bos, "a", &with_bos), RunnerError::Tokenizer(_)));
}

#[test]
fn bos_and_eos_counts_surround_the_prompt() {
    assert!(BYTE_LEVEL_CONFIG.len() > 2);
    let mut runner = kv_dynamic(64);
    pieces(&mut runner, "ab", &GenerationConfig { num_bos: 2, num_eos: 1, ..greedy(1) });
    assert_eq!(runner.decoder().calls[0].0, [266, 266, 97, 98, 267]);
}

#[test]
fn a_model_that_fails_or_lies_is_reported_and_the_position_stays_true() {
    let failing = Fake { fail_at_call: Some(3), ..Fake::new(true, TokensPerCall::Any) };
    let mut failing = runner(failing, metadata(true, true, 64));
    let message = error(&mut failing, "abc", &greedy(9)).to_string();
    assert_eq!(message, "the model failed at position 4 with 1 tokens: out of order");
    assert_eq!(failing.position(), 4);

    let wide = Fake { width: 300, ..Fake::new(true, TokensPerCall::Any) };
    let message = error(&mut runner(wide, metadata(true, true, 64)), "abc", &greedy(9)).to_string();
    assert_eq!(message, "the model returned 300 logits a token, but the program declares a vocabulary of 269");

    let data = LogitsData::F32(Cow::Owned(vec![0.0; 6]));
    for shape in [vec![6], vec![2, 1, 3], vec![1, 2, 4], vec![0, 6], vec![1, 6, 0], vec![usize::MAX, 2]] {
        assert!(matches!(Logits { data: data.clone(), shape }.rows(), Err(RunnerError::LogitsShape { .. })));
    }
    let fake = Fake::new(false, TokensPerCall::Any);
    let error = Runner::new(byte_level(), fake, metadata(true, true, 64), TickingClock::default()).unwrap_err();
    assert!(matches!(error, RunnerError::CacheMismatch { metadata: true, inputs: false }));
}

#[test]
fn logits_of_any_layout_and_dtype_give_the_same_text() {
    for (last_only, half, two_dimensional) in [(true, false, false), (false, true, true), (true, true, true)] {
        let fake = Fake { last_only, half, two_dimensional, ..Fake::new(true, TokensPerCall::Any) };
        assert_eq!(pieces(&mut runner(fake, metadata(true, true, 64)), "abc", &greedy(4)).1.text, "defg");
    }
}

#[test]
fn the_first_token_is_greedy_unless_told_otherwise_and_seeds_repeat() {
    let run = |first_token_greedy, seed| {
        let config = GenerationConfig {
            temperature: 1e6,
            topp: 1.0,
            seed: Some(seed),
            first_token_greedy,
            ignore_eos: true,
            ..greedy(6)
        };
        pieces(&mut kv_dynamic(64), "abc", &config).1.token_ids
    };
    let greedy_first: Vec<u32> = (1..20).map(|seed| run(true, seed)[0]).collect();
    assert!(greedy_first.iter().all(|&id| id == u32::from(b'd')));
    let sampled_first: Vec<u32> = (1..20).map(|seed| run(false, seed)[0]).collect();
    assert!(sampled_first.iter().any(|&id| id != u32::from(b'd')));
    assert_eq!(run(true, 5), run(true, 5));
    assert_ne!(run(true, 5), run(true, 6));
}

#[test]
fn split_characters_arrive_whole() {
    let mut runner = kv_dynamic(600);
    // The model counts bytes up from 0xC3: bytes that start characters and never finish them become U+FFFD.
    let config = GenerationConfig { ignore_eos: true, ..greedy(3) };
    let mut given = Vec::new();
    let result = runner.generate_ids(&[0xC2], &config, &mut |p| given.push(p.to_owned())).unwrap();
    assert_eq!(result.token_ids, [0xC3, 0xC4, 0xC5]);
    assert_eq!(given, ["\u{FFFD}", "\u{FFFD}", "\u{FFFD}"]);
    assert_eq!(result.text, given.concat());
}

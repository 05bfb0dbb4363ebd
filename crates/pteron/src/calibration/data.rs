//! Calibration data: texts, as windows of tokens.

use std::path::{Path, PathBuf};

use pteron_checkpoint::read_limited;
use pteron_llm::tokenizer::Tokenizer;
use pteron_quant::state::Sha256;

use super::hash;
use crate::error::Error;

/// Most bytes of a file of calibration data.
pub const MAX_DATA_BYTES: u64 = 1 << 30;
/// Windows that are calibrated with if nothing else is said.
pub const DEFAULT_WINDOWS: usize = 64;
/// Tokens of a window if nothing else is said, and the model has as many positions.
pub const DEFAULT_WINDOW: usize = 512;
/// Windows that are held back, for the evaluation after the export.
pub const HELD_BACK: usize = 4;

/// What texts are read for: messages name its flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Calibration.
    #[default]
    Calibration,
    /// Quantization-aware training.
    Training,
}

impl Purpose {
    const fn data_flag(self) -> &'static str {
        match self {
            Purpose::Calibration => "--calibration-data",
            Purpose::Training => "--data",
        }
    }

    const fn window_flag(self) -> &'static str {
        match self {
            Purpose::Calibration => "--calibration-seq-length",
            Purpose::Training => "--seq-length",
        }
    }

    const fn data(self) -> &'static str {
        match self {
            Purpose::Calibration => "calibration data",
            Purpose::Training => "training data",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Purpose::Calibration => "calibrate with",
            Purpose::Training => "train on",
        }
    }
}

/// Which data a calibration takes, and how they are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataOptions {
    /// What they are for.
    pub purpose: Purpose,
    /// Texts, and JSON Lines (`.jsonl`, `.ndjson`, `.json`: one object a line, with a string `text`).
    pub files: Vec<PathBuf>,
    /// Most windows.
    pub limit: usize,
    /// Tokens of a window; [`DEFAULT_WINDOW`] or the model's positions, whichever are less, if `None`.
    pub window: Option<usize>,
    /// Windows are drawn from all of the text by this seed; without one, the first of the text are taken.
    pub seed: Option<u64>,
}

impl Default for DataOptions {
    fn default() -> DataOptions {
        DataOptions {
            purpose: Purpose::Calibration,
            files: Vec::new(),
            limit: DEFAULT_WINDOWS,
            window: None,
            seed: None,
        }
    }
}

/// Windows of tokens, cut from texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationData {
    /// The windows to calibrate with, in the order of the text.
    pub windows: Vec<Vec<u32>>,
    /// Windows of the same text that are not among them, for the evaluation.
    pub held_back: Vec<Vec<u32>>,
    /// Tokens of a window.
    pub window: usize,
    /// The files' names, without folders.
    pub names: Vec<String>,
    /// SHA-256 of the files' bytes, one file after the other.
    pub sha256: Sha256,
}

fn wrong(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Calibration { reason: format!("{}: {reason}", path.display()) }
}

impl CalibrationData {
    /// Reads the files, and cuts windows for a model with `positions` positions. A window begins with the token of beginning
    /// where the tokenizer puts one before a text; else the texts lie one behind the other, and what does not fill a window
    /// at the end is left out.
    ///
    /// # Errors
    /// [`Error::Calibration`] naming the file, or the line of it: empty, no UTF-8, no JSON, without `text`, shorter than a
    /// window; [`Error::Checkpoint`] for a file that cannot be read.
    pub fn read(options: &DataOptions, tokenizer: &Tokenizer, positions: usize) -> Result<CalibrationData, Error> {
        let fail = |reason: String| Error::Calibration { reason };
        let purpose = options.purpose;
        let window = options.window.unwrap_or(DEFAULT_WINDOW.min(positions));
        if !(2..=positions).contains(&window) {
            let flag = purpose.window_flag();
            return Err(fail(format!("{flag} is {window}, expected 2 to the model's {positions} positions")));
        }
        if options.limit == 0 {
            return Err(fail("--calibration-limit is 0, expected at least 1 window".to_owned()));
        }
        let bos = begins(tokenizer)?;
        let body = window - usize::from(bos.is_some());
        // Drawn windows come from anywhere.
        let wanted = options.limit.saturating_add(HELD_BACK).saturating_mul(body);
        let wanted = if options.seed.is_some() { usize::MAX } else { wanted };
        let mut hash = hash::Hasher::new();
        let mut tokens: Vec<u32> = Vec::new();
        let mut names = Vec::new();
        for path in &options.files {
            let bytes = read_limited(path, MAX_DATA_BYTES)?;
            hash.update(&bytes);
            names.push(path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()));
            for text in documents(path, &bytes, purpose)? {
                if tokens.len() < wanted {
                    let found = encode(tokenizer, &text, wanted - tokens.len()).map_err(|e| wrong(path, e))?;
                    tokens.extend(found);
                }
            }
        }
        let names_text = names.join(", ");
        if tokens.len() < body {
            return Err(fail(format!(
                "the {} ({names_text}) have {} tokens, less than one window of {window}: give more text with {}, or a smaller {}",
                purpose.data(),
                tokens.len(),
                purpose.data_flag(),
                purpose.window_flag()
            )));
        }
        let all = tokens.len() / body;
        let held = match all {
            1 => 0,
            n if n >= options.limit.saturating_add(HELD_BACK) => HELD_BACK,
            n => (n / 8).clamp(1, HELD_BACK),
        };
        let count = options.limit.min(all - held);
        let mut order: Vec<usize> = (0..all).collect();
        if let Some(seed) = options.seed {
            shuffle(&mut order, seed);
            order.truncate(count + held);
            order[..count].sort_unstable();
            order[count..].sort_unstable();
        }
        let cut = |&i: &usize| bos.into_iter().chain(tokens[i * body..(i + 1) * body].iter().copied()).collect();
        Ok(CalibrationData {
            windows: order[..count].iter().map(cut).collect(),
            held_back: order[count..count + held].iter().map(cut).collect(),
            window,
            names,
            sha256: hash.finish(),
        })
    }

    /// Tokens of all windows to calibrate with.
    pub fn tokens(&self) -> u64 {
        self.windows.len() as u64 * self.window as u64
    }

    /// SHA-256 of the windows' tokens, each as four bytes.
    pub fn windows_sha256(&self) -> Sha256 {
        let mut hash = hash::Hasher::new();
        for token in self.windows.iter().flatten() {
            hash.update(&token.to_le_bytes());
        }
        hash.finish()
    }
}

/// The token of beginning, if the tokenizer puts it before a text.
pub(crate) fn begins(tokenizer: &Tokenizer) -> Result<Option<u32>, Error> {
    let probe = tokenizer.encode("a", true).map_err(|e| Error::Calibration { reason: e.to_string() })?;
    Ok(tokenizer.bos_id().filter(|bos| probe.first() == Some(bos)))
}

/// At least `wanted` tokens of a text, or all that it has: a long text is not encoded to its end for a few windows.
fn encode(tokenizer: &Tokenizer, text: &str, wanted: usize) -> Result<Vec<u32>, Error> {
    const BYTES_A_TOKEN: usize = 8;
    const LEAST: usize = 1 << 16;
    let mut bytes = wanted.saturating_mul(BYTES_A_TOKEN).max(LEAST);
    loop {
        let cut = text.floor_char_boundary(bytes);
        let tokens = tokenizer.encode(&text[..cut], false).map_err(|e| Error::Calibration { reason: e.to_string() })?;
        // The last token of a text that was cut may be another one.
        if cut == text.len() || tokens.len() > wanted {
            return Ok(tokens);
        }
        bytes = bytes.saturating_mul(4);
    }
}

/// The texts of a file.
fn documents(path: &Path, bytes: &[u8], purpose: Purpose) -> Result<Vec<String>, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| wrong(path, format!("byte {} is not UTF-8, expected a text or JSON Lines", e.valid_up_to())))?;
    if text.trim().is_empty() {
        return Err(wrong(path, format!("the file is empty, expected text to {}", purpose.verb())));
    }
    let is_json =
        path.extension().is_some_and(|e| ["jsonl", "ndjson", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)));
    if !is_json {
        return Ok(vec![text.to_owned()]);
    }
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = i + 1;
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| {
            let why = e.to_string();
            let why = why.split(" at line ").next().unwrap_or(&why);
            wrong(path, format!("line {number} is no JSON: {why} at column {}", e.column()))
        })?;
        match value.get("text") {
            Some(serde_json::Value::String(text)) => out.push(text.clone()),
            _ => {
                return Err(wrong(path, format!("line {number} has no string `text`: expected {{\"text\": \"...\"}}")));
            }
        }
    }
    if out.iter().all(|t| t.trim().is_empty()) {
        return Err(wrong(path, format!("no line has any text, expected text to {}", purpose.verb())));
    }
    Ok(out)
}

/// Fisher and Yates's shuffle with SplitMix64's numbers.
fn shuffle(order: &mut [usize], seed: u64) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for i in (1..order.len()).rev() {
        let j = ((u128::from(next()) * (i as u128 + 1)) >> 64) as usize;
        order.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(crate::bundled::file("tokenizer.json"), None).unwrap()
    }

    fn read(name: &str, content: &str, change: impl Fn(&mut DataOptions)) -> Result<CalibrationData, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut options = DataOptions { files: vec![path], window: Some(16), ..DataOptions::default() };
        change(&mut options);
        CalibrationData::read(&options, &tokenizer(), 128)
    }

    const TEXT: &str =
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do. ";

    #[test]
    fn windows_lie_side_by_side_and_some_are_held_back() {
        let text = TEXT.repeat(20);
        let data = read("a.txt", &text, |o| o.limit = 5).unwrap();
        assert_eq!((data.windows.len(), data.held_back.len(), data.window, data.tokens()), (5, HELD_BACK, 16, 80));
        let bos = begins(&tokenizer()).unwrap();
        let body = 16 - usize::from(bos.is_some());
        let all = tokenizer().encode(&text, false).unwrap();
        for (i, window) in data.windows.iter().chain(&data.held_back).enumerate() {
            assert_eq!(window[16 - body..], all[i * body..(i + 1) * body]);
        }
        // What there is, if there is less: one in eight is held back.
        let some = read("a.txt", &TEXT.repeat(12), |_| {}).unwrap();
        assert!(some.windows.len() > 8 && some.held_back.len() == (some.windows.len() + some.held_back.len()) / 8);
        let one = read("a.txt", TEXT, |o| o.window = Some(24)).unwrap();
        assert_eq!((one.windows.len(), one.held_back.len()), (1, 0));
    }

    #[test]
    fn a_seed_draws_windows() {
        let text = TEXT.repeat(40);
        let draw = |seed| read("a.txt", &text, |o| (o.limit, o.seed) = (6, Some(seed))).unwrap();
        let (a, b) = (draw(1), draw(2));
        assert_eq!(a, draw(1));
        assert_ne!(a.windows, b.windows);
        assert_eq!((a.windows.len(), a.held_back.len()), (6, HELD_BACK));
        assert_ne!(a.windows_sha256(), b.windows_sha256());
        assert_eq!(a.sha256, b.sha256);
        let mut order: Vec<usize> = (0..100).collect();
        shuffle(&mut order, 7);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn lines_of_json_are_texts() {
        let line = serde_json::json!({"id": 3, "text": TEXT.repeat(8)}).to_string();
        let lines = read("a.jsonl", &format!("{line}\n\n{line}\n"), |o| o.limit = 2).unwrap();
        let text = read("a.txt", &TEXT.repeat(16), |o| o.limit = 2).unwrap();
        assert_eq!(lines.windows, text.windows);
        assert_eq!(lines.names, ["a.jsonl"]);
    }

    #[test]
    fn what_is_wrong_with_data_is_said() {
        let said = |name: &str, content: &str, change: &dyn Fn(&mut DataOptions)| {
            read(name, content, |o| change(o)).unwrap_err().to_string()
        };
        let none: &dyn Fn(&mut DataOptions) = &|_| {};
        for (name, content, change, parts) in [
            ("a.txt", " \n", none, &["a.txt", "is empty"][..]),
            ("a.jsonl", "{\"text\": \"x\"}\n{\"text\": ", none, &["a.jsonl: line 2 is no JSON", "column"]),
            ("a.jsonl", "{\"text\": \"x\"}\n\n{\"txt\": \"y\"}", none, &["line 3 has no string `text`"]),
            ("a.jsonl", "{\"text\": \"\"}", none, &["no line has any text"]),
            ("a.txt", "Alice", none, &["a.txt", "less than one window of 16", "--calibration-seq-length"]),
            ("a.txt", TEXT, &|o| o.window = Some(129), &["--calibration-seq-length is 129", "128 positions"]),
            ("a.txt", TEXT, &|o| o.limit = 0, &["--calibration-limit is 0"]),
        ] {
            let said = said(name, content, change);
            assert!(parts.iter().all(|p| said.contains(p)) && !said.contains('\n'), "{said}");
        }
        for (content, window, parts) in [
            (" \n", 16, &["expected text to train on"][..]),
            ("Alice", 16, &["training data", "with --data", "smaller --seq-length"]),
            (TEXT, 129, &["error: --seq-length is 129"]),
        ] {
            let change = |o: &mut DataOptions| (o.purpose, o.window) = (Purpose::Training, Some(window));
            let said = format!("error: {}", said("a.txt", content, &change));
            assert!(parts.iter().all(|p| said.contains(p)) && !said.contains("alibrat"), "{said}");
        }
    }
}

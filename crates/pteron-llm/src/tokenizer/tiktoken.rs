//! tiktoken's rank files: a line for each token, its bytes in base64 and its rank, which is its id.
//!
//! Such a file says neither how text is cut nor which special tokens there are. Meta's Llama is where they are met
//! (`tokenizer.model`), and [`TiktokenOptions`] says what is taken.

use super::byte_bpe::{ByteBpe, Merges, Parts};
use super::pattern::{Cutter, LLAMA3, LLAMA3_RE2, O200K, Published};
use super::validate::{self, MAX_VOCABULARY, TIKTOKEN, invalid};
use super::{SpecialToken, TokenizerError, TokenizerKind, base64};

/// How text is cut before bytes are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TiktokenPattern {
    /// As the reference in Python (`llama-models`) does.
    #[default]
    Python,
    /// As ExecuTorch's C++ tokenizer does, whose pattern has no look-ahead: `"   hello"` is `"   "`, `"hello"` there, and
    /// `"  "`, `" hello"` in Python. A model was trained with Python's. Llama 4's ranks have no C++ pattern.
    Cpp,
}

/// The special tokens behind the ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TiktokenSpecial {
    /// By the number of ranks: [`Llama4`](Self::Llama4) for its 200,000, else [`Llama3`](Self::Llama3), as ExecuTorch does
    /// for every rank file.
    #[default]
    Auto,
    /// The 256 of Llama 3 (`llama-models`, `llama3/tokenizer.py`).
    Llama3,
    /// The 2,048 of Llama 4 (`llama-models`, `llama4/tokenizer.py`).
    Llama4,
    /// These, from the first id behind the ranks on.
    Listed {
        /// Their spellings.
        tokens: Vec<String>,
        /// Which of them begins a text.
        bos: Option<String>,
        /// Which of them ends it.
        eos: Option<String>,
    },
}

/// What a rank file does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TiktokenOptions {
    /// How text is cut.
    pub pattern: TiktokenPattern,
    /// The special tokens.
    pub special: TiktokenSpecial,
}

const BEGIN: &str = "<|begin_of_text|>";
const END: &str = "<|end_of_text|>";
/// Ranks of Llama 4.
const LLAMA4_RANKS: usize = 200_000;

fn llama3() -> Vec<String> {
    const COUNT: usize = 256;
    let named = [
        BEGIN,
        END,
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|image|>",
    ];
    let reserved = (2..).map(|i| format!("<|reserved_special_token_{i}|>"));
    named.iter().map(|&t| t.to_owned()).chain(reserved).take(COUNT).collect()
}

fn llama4() -> Vec<String> {
    const COUNT: usize = 2048;
    let reserved = |name: &'static str, range: std::ops::Range<usize>| {
        range.map(move |i| format!("<|{name}reserved_special_token_{i}|>"))
    };
    let named = |names: &'static [&'static str]| names.iter().map(|n| format!("<|{n}|>"));
    let mut tokens: Vec<String> = Vec::with_capacity(COUNT);
    tokens.extend(named(&["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]));
    tokens.extend(named(&["header_start", "header_end", "eom", "eot", "step"]));
    tokens.extend(reserved("text_post_train_", 0..6));
    tokens.extend(named(&["python_start", "python_end", "finetune_right_pad"]));
    tokens.extend(reserved("text_post_train_", 8..69));
    tokens.extend(named(&["image_start", "image_end"]));
    tokens.extend(reserved("vision_", 0..2));
    tokens.extend(named(&["tile_x_separator", "tile_y_separator"]));
    tokens.extend(reserved("vision_", 2..6));
    tokens.extend(named(&["image"]));
    tokens.extend(reserved("vision_", 6..7));
    tokens.extend(named(&["patch"]));
    tokens.extend(reserved("vision_", 7..1048));
    tokens.extend(reserved("reasoning_", 0..8));
    tokens.extend(named(&["reasoning_thinking_start", "reasoning_thinking_end"]));
    let rest = COUNT - tokens.len();
    tokens.extend(reserved("", 0..rest));
    tokens
}

/// Reads a rank file.
pub(super) fn open(bytes: &[u8], options: &TiktokenOptions) -> Result<ByteBpe, TokenizerError> {
    validate::check_small(TIKTOKEN, bytes)?;
    let mut pieces = ranks(bytes)?;
    let is_llama4 = match options.special {
        TiktokenSpecial::Auto => pieces.len() == LLAMA4_RANKS,
        TiktokenSpecial::Llama4 => true,
        TiktokenSpecial::Llama3 | TiktokenSpecial::Listed { .. } => false,
    };
    let pattern: Published = match options.pattern {
        TiktokenPattern::Python if is_llama4 => O200K,
        TiktokenPattern::Python => LLAMA3,
        TiktokenPattern::Cpp if is_llama4 => {
            return Err(invalid(TIKTOKEN, "ExecuTorch's C++ tokenizer has no pattern for Llama 4's ranks"));
        }
        TiktokenPattern::Cpp => LLAMA3_RE2,
    };
    let (tokens, bos, eos) = match &options.special {
        TiktokenSpecial::Listed { tokens, bos, eos } => (tokens.clone(), bos.clone(), eos.clone()),
        _ if is_llama4 => (llama4(), Some(BEGIN.to_owned()), Some(END.to_owned())),
        _ => (llama3(), Some(BEGIN.to_owned()), Some(END.to_owned())),
    };
    let first = pieces.len() as u32;
    let special: Vec<SpecialToken> =
        (first..).zip(&tokens).map(|(id, content)| SpecialToken { id, content: content.clone() }).collect();
    pieces.extend(tokens.iter().map(|t| t.as_bytes().into()));
    let find = |name: Option<String>| match name {
        None => Ok(None),
        Some(name) => match special.iter().find(|t| t.content == name) {
            Some(token) => Ok(Some(token.id)),
            None => Err(invalid(TIKTOKEN, format_args!("{name:?} is none of the special tokens"))),
        },
    };
    let (bos, eos) = (find(bos)?, find(eos)?);
    ByteBpe::new(Parts {
        kind: TokenizerKind::Tiktoken,
        file: TIKTOKEN,
        pieces,
        special,
        user_defined: Vec::new(),
        merges: Merges::ById,
        cutter: Cutter::new(&[pattern]).map_err(|e| invalid(TIKTOKEN, e))?,
        nfc: false,
        bos,
        eos,
        add_bos: bos.is_some(),
        add_eos: false,
        all_bytes: true,
    })
}

/// The tokens by rank; ranks are 0, 1, 2, … in any order.
fn ranks(bytes: &[u8]) -> Result<Vec<Box<[u8]>>, TokenizerError> {
    let mut found: Vec<(u32, Box<[u8]>)> = Vec::new();
    for (number, line) in (1usize..).zip(bytes.split(|&b| b == b'\n')) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| invalid(TIKTOKEN, format_args!("line {number}: {what}"));
        let Some(space) = line.iter().position(|&b| b == b' ') else {
            return Err(wrong("expected a token in base64, a space and its rank"));
        };
        let (token, rank) = (&line[..space], &line[space + 1..]);
        let piece = base64::decode(token).ok_or_else(|| wrong("the token is not base64"))?;
        let rank = std::str::from_utf8(rank).ok().and_then(|r| r.parse::<u32>().ok());
        let rank = rank.ok_or_else(|| wrong("the rank is not a number"))?;
        if found.len() == MAX_VOCABULARY {
            return Err(wrong(&format!("more than {MAX_VOCABULARY} tokens")));
        }
        found.push((rank, piece.into_boxed_slice()));
    }
    found.sort_by_key(|(rank, _)| *rank);
    for (expected, (rank, _)) in (0u32..).zip(&found) {
        if expected != *rank {
            let what = if *rank < expected { "stands twice" } else { "is there, but not the one before it" };
            return Err(invalid(TIKTOKEN, format_args!("rank {rank} {what}; ranks are 0 to {}", found.len() - 1)));
        }
    }
    Ok(found.into_iter().map(|(_, piece)| piece).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_special_tokens_of_llama() {
        let tokens = llama3();
        assert_eq!(tokens.len(), 256);
        assert_eq!(tokens[9], "<|eot_id|>");
        assert_eq!(tokens[255], "<|reserved_special_token_245|>");
        let tokens = llama4();
        assert_eq!(tokens.len(), 2048);
        assert_eq!(tokens[8], "<|eot|>");
        let mut unique = tokens.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 2048);
    }

    #[test]
    fn what_is_wrong_in_a_rank_file_is_named() {
        for (text, part) in [
            ("IQ==\n", "line 1: expected a token in base64"),
            ("IQ== 0\nI 1\n", "line 2: the token is not base64"),
            ("IQ== x\n", "line 1: the rank is not a number"),
            ("IQ== -1\n", "line 1: the rank is not a number"),
            ("IQ== 0\nIg== 0\n", "rank 0 stands twice"),
            ("IQ== 1\n", "rank 1 is there, but not the one before it"),
            ("IQ== 0\nIg== 2\n", "ranks are 0 to 1"),
            ("IQ== 0\nIQ== 1\n", "two tokens are \"!\""),
            ("IQ== 0\n", "no token is the single byte 0x00"),
            (" 0\n", "token 0 has 0 bytes"),
        ] {
            let error = open(text.as_bytes(), &TiktokenOptions::default()).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}

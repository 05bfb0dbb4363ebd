//! Vocabularies of GGUF files. The file's reader gives the parts, this module the tokenizer.
//!
//! `llama` is SentencePiece's BPE with scores, `gpt2` is byte-level BPE with a list of merges, whose pre-tokenizer the file
//! names in `tokenizer.ggml.pre`. Sources: the GGUF specification; for the names, llama.cpp's `llama-vocab.cpp`; the
//! patterns are the models' own.

use super::byte_bpe::{ByteBpe, Merges, Pairs, Parts};
use super::byte_level;
use super::pattern::{self as p, Cutter, Published};
use super::sentencepiece::proto::{Model, ModelType, NormalizerSpec, Piece, PieceType};
use super::sentencepiece::{Ends, SentencePiece};
use super::validate::{FileMap, GGUF, MAX_MERGES, MAX_VOCABULARY, invalid};
use super::{Backend, SpecialToken, TokenizerError, TokenizerKind};

/// What a GGUF file says about its tokenizer: the entries `tokenizer.ggml.*`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabularyParts {
    /// `model`: `llama` or `gpt2`.
    pub model: String,
    /// `pre`: the pre-tokenizer of `gpt2`.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores`, one for each token or none at all.
    pub scores: Vec<f32>,
    /// `token_type`, one for each token or none at all: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `merges`: pairs with a space between them.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`.
    pub precompiled_charsmap: Vec<u8>,
}

/// A pre-tokenizer: its names in GGUF files, its patterns, and what else follows from the name.
struct Pre {
    names: &'static [&'static str],
    patterns: &'static [Published],
    /// A part that is a token as a whole is that token.
    whole: bool,
    /// A text begins with bos where the file does not say.
    add_bos: bool,
    /// Text is put into Unicode's composed form first.
    nfc: bool,
}

const fn pre(names: &'static [&'static str], patterns: &'static [Published]) -> Pre {
    Pre { names, patterns, whole: false, add_bos: false, nfc: false }
}

const PRE: &[Pre] = &[
    pre(&["default"], &[p::PUNCTUATION, p::GPT2, p::DIGITS, p::THREE_DIGITS]),
    Pre {
        whole: true,
        add_bos: true,
        ..pre(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[p::LLAMA3])
    },
    pre(
        &[
            "gpt-2",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
        ],
        &[p::GPT2],
    ),
    Pre { nfc: true, ..pre(&["qwen2"], &[p::QWEN2]) },
    pre(&["deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "grok-2", "kormo"], &[p::QWEN2]),
    Pre { nfc: true, ..pre(&["qwen35"], &[p::QWEN35]) },
    pre(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[p::DIGIT, p::GPT2],
    ),
    pre(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[p::LLAMA3]),
    Pre { whole: true, ..pre(&["glm4", "glm5"], &[p::LLAMA3]) },
    Pre { whole: true, add_bos: true, ..pre(&["tekken"], &[p::TEKKEN]) },
    pre(&["gpt-4o", "llama4", "kanana2"], &[p::O200K]),
    pre(&["falcon"], &[p::FALCON_PUNCTUATION, p::GPT2, p::THREE_DIGITS]),
    pre(&["deepseek-coder"], &[p::NEW_LINE, p::WORD, p::PUNCTUATION_RUN, p::CJK, p::DIGIT]),
    pre(&["deepseek-v3", "hunyuan-dense", "joyai-llm"], &[p::THREE_NUMBERS, p::CJK_KANA, p::DEEPSEEK3]),
    pre(&["seed-coder"], &[p::SEED_CODER]),
    pre(&["bailingmoe", "bailingmoe2", "llada-moe"], &[p::BAILING]),
];

const MODELS: &str = "supported are llama (SentencePiece's BPE) and gpt2 (byte-level BPE)";

/// Makes the tokenizer.
pub(super) fn open(parts: GgufVocabularyParts) -> Result<Box<dyn Backend>, TokenizerError> {
    let count = parts.tokens.len();
    if count == 0 || count > MAX_VOCABULARY {
        return Err(invalid(GGUF, format_args!("{count} tokens, expected 1 to {MAX_VOCABULARY}")));
    }
    for (name, length) in [("token_type", parts.token_types.len()), ("scores", parts.scores.len())] {
        if length != 0 && length != count {
            return Err(invalid(GGUF, format_args!("`tokenizer.ggml.{name}` has {length} entries for {count} tokens")));
        }
    }
    for (name, id) in [("bos", parts.bos), ("eos", parts.eos), ("unknown", parts.unk)] {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            let field = format_args!("`tokenizer.ggml.{name}_token_id` is {id}, there are {count} tokens");
            return Err(invalid(GGUF, field));
        }
    }
    let kinds = kinds(&parts)?;
    match parts.model.as_str() {
        "llama" => Ok(Box::new(sentencepiece(parts, kinds)?)),
        "gpt2" => Ok(Box::new(byte_level_bpe(parts, kinds)?)),
        other => {
            let what = match other {
                "bert" => "bert (WordPiece)",
                "t5" => "t5 (SentencePiece's unigram)",
                other => other,
            };
            Err(invalid(GGUF, format_args!("`tokenizer.ggml.model` is {what}; {MODELS}")))
        }
    }
}

fn kinds(parts: &GgufVocabularyParts) -> Result<Vec<PieceType>, TokenizerError> {
    if parts.token_types.is_empty() {
        return Ok(vec![PieceType::Normal; parts.tokens.len()]);
    }
    let kind = |(id, &number): (usize, &i32)| {
        PieceType::from_number(i64::from(number))
            .ok_or_else(|| invalid(GGUF, format_args!("token {id} has type {number}, expected 1 to 6")))
    };
    parts.token_types.iter().enumerate().map(kind).collect()
}

fn sentencepiece(parts: GgufVocabularyParts, mut kinds: Vec<PieceType>) -> Result<SentencePiece, TokenizerError> {
    let unk = parts.unk.unwrap_or(0);
    if parts.scores.is_empty() {
        return Err(invalid(GGUF, "`tokenizer.ggml.scores` is missing, which the model llama needs"));
    }
    if !kinds.contains(&PieceType::Unknown)
        && let Some(kind) = kinds.get_mut(unk as usize)
    {
        *kind = PieceType::Unknown;
    }
    let byte_fallback = kinds.contains(&PieceType::Byte);
    let pieces = parts.tokens.into_iter().zip(parts.scores).zip(kinds);
    let pieces = pieces.map(|((text, score), kind)| Piece { text: text.into_boxed_str(), score, kind }).collect();
    let model = Model {
        pieces,
        model_type: ModelType::Bpe,
        byte_fallback,
        normalizer: NormalizerSpec {
            charsmap: parts.precompiled_charsmap,
            add_dummy_prefix: parts.add_space_prefix.unwrap_or(true),
            remove_extra_whitespaces: parts.remove_extra_whitespaces.unwrap_or(false),
            escape_whitespaces: true,
        },
        ..Model::default()
    };
    let ends = Ends {
        bos: parts.bos,
        eos: parts.eos,
        add_bos: parts.add_bos.unwrap_or(true),
        add_eos: parts.add_eos.unwrap_or(false),
    };
    SentencePiece::new(TokenizerKind::Gguf, GGUF, model, Some(ends))
}

fn byte_level_bpe(parts: GgufVocabularyParts, kinds: Vec<PieceType>) -> Result<ByteBpe, TokenizerError> {
    let known = || PRE.iter().flat_map(|p| p.names).copied().collect::<Vec<_>>().join(", ");
    let pre = match parts.pre.as_deref() {
        None => {
            return Err(invalid(
                GGUF,
                format_args!("`tokenizer.ggml.pre` is missing: how text is cut is unknown; known are {}", known()),
            ));
        }
        Some(name) => PRE
            .iter()
            .find(|p| p.names.contains(&name))
            .ok_or_else(|| invalid(GGUF, format_args!("`tokenizer.ggml.pre` is {name:?}; known are {}", known())))?,
    };
    let pairs = pairs(&parts)?;
    let mut special = Vec::new();
    let mut user_defined = Vec::new();
    let mut pieces: Vec<Box<[u8]>> = Vec::with_capacity(parts.tokens.len());
    for ((id, token), kind) in (0u32..).zip(parts.tokens).zip(kinds) {
        match kind {
            PieceType::Control | PieceType::Unknown => {
                special.push(SpecialToken { id, content: token.clone() });
                pieces.push(token.into_bytes().into());
            }
            PieceType::UserDefined => {
                user_defined.push(id);
                pieces.push(token.into_bytes().into());
            }
            PieceType::Normal | PieceType::Unused | PieceType::Byte => {
                let mut bytes = Vec::new();
                byte_level::push_bytes(&token, &mut bytes);
                pieces.push(bytes.into());
            }
        }
    }
    ByteBpe::new(Parts {
        kind: TokenizerKind::Gguf,
        file: GGUF,
        pieces,
        special,
        user_defined,
        merges: Merges::Listed { pairs, whole: pre.whole },
        cutter: Cutter::new(pre.patterns).map_err(|e| invalid(GGUF, e))?,
        nfc: pre.nfc,
        bos: parts.bos,
        eos: parts.eos,
        add_bos: parts.add_bos.unwrap_or(pre.add_bos),
        add_eos: parts.add_eos.unwrap_or(false),
        all_bytes: false,
    })
}

/// The list of merges by ids.
fn pairs(parts: &GgufVocabularyParts) -> Result<Pairs, TokenizerError> {
    if parts.merges.is_empty() || parts.merges.len() > MAX_MERGES {
        let count = parts.merges.len();
        return Err(invalid(
            GGUF,
            format_args!("`tokenizer.ggml.merges` has {count} entries, expected 1 to {MAX_MERGES}"),
        ));
    }
    let ids: FileMap<&str, u32> = parts.tokens.iter().map(String::as_str).zip(0u32..).collect();
    let mut pairs = Pairs::default();
    let mut together = String::new();
    for (rank, merge) in (0u32..).zip(&parts.merges) {
        let wrong = |what: &str| invalid(GGUF, format_args!("merge {rank} ({merge:?}) {what}"));
        // The left side has at least one character, which may be a space in vocabularies that are not byte-level.
        let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (left, right) = space.map(|at| (&merge[..at], &merge[at + 1..])).ok_or_else(|| wrong("is no pair"))?;
        together.clear();
        together.push_str(left);
        together.push_str(right);
        let id = |token: &str| ids.get(token).copied().ok_or_else(|| wrong(&format!("needs the token {token:?}")));
        let merged = (rank, id(&together)?);
        // A pair that stands twice counts where it stands last, as in the `tokenizers` library.
        pairs.insert((id(left)?, id(right)?), merged);
    }
    Ok(pairs)
}

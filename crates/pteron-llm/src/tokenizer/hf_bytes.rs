//! Byte-level BPE in a `tokenizer.json`, the pipeline of GPT-2's descendants, without the `tokenizers` library, which takes
//! longer over its tables than a small model over its weights. Of such a file everything must be what is known here;
//! [`open`] gives nothing for any other, and the library runs that.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::byte_bpe::{ByteBpe, Merges, Pairs, Parts};
use super::byte_level;
use super::pattern::{self as p, Cutter, Published};
use super::validate::{FileMap, MAX_MERGES, MAX_PIECE_BYTES, MAX_VOCABULARY, TOKENIZER_JSON};
use super::{SpecialToken, TokenizerKind};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// Tokens with their ids, in the file's order.
struct Vocab(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vocab;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Vocab(all))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// The two sides of a merge: a list of two, or, in older files, with a space between.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Merge, E> {
                let (a, b) = s.split_once(' ').filter(|(_, b)| !b.contains(' ')).ok_or_else(|| E::custom("no pair"))?;
                Ok(Merge(a.to_owned(), b.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let few = || serde::de::Error::custom("no pair");
                let (a, b) = (seq.next_element()?.ok_or_else(few)?, seq.next_element()?.ok_or_else(few)?);
                match seq.next_element::<String>()? {
                    None => Ok(Merge(a, b)),
                    Some(_) => Err(few()),
                }
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// A field of a step is the given boolean, or missing where `or_missing` says that this means the same.
fn is(step: &Json, field: &str, value: bool, or_missing: bool) -> bool {
    match &step[field] {
        Json::Bool(b) => *b == value,
        Json::Null => or_missing,
        _ => false,
    }
}

/// The pattern that cuts a text, where the step is one of those that are known. `ByteLevel` stands last and turns bytes into
/// characters, which [`ByteBpe`] does not need.
fn patterns(steps: &Json) -> Option<Vec<Published>> {
    let list: Vec<&Json> = match steps["type"].as_str()? {
        "Sequence" => steps["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![steps],
    };
    let (last, before) = list.split_last()?;
    if last["type"] != "ByteLevel" || !is(last, "add_prefix_space", false, false) {
        return None;
    }
    let mut out = Vec::new();
    for step in before {
        out.push(match step["type"].as_str()? {
            "Digits" if is(step, "individual_digits", true, false) => p::DIGIT,
            "Split" if step["behavior"] == "Isolated" && is(step, "invert", false, true) => {
                p::find(step["pattern"]["Regex"].as_str()?)?
            }
            _ => return None,
        });
    }
    if is(last, "use_regex", true, true) {
        out.push(p::GPT2);
    }
    (!out.is_empty()).then_some(out)
}

/// The file's vocabulary, if all of the file is of this kind. `special` are the added tokens that carry structure, by rising
/// id, and `bos` and `eos` are what the configuration beside the file names.
pub(super) fn open(bytes: &[u8], bos: Option<&str>, eos: Option<&str>) -> Option<ByteBpe> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    let File { added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model } = file;
    let nfc = match &normalizer {
        Json::Null => false,
        n if n["type"] == "NFC" => true,
        _ => return None,
    };
    let nothing_added = matches!(&post_processor, Json::Null) || post_processor["type"] == "ByteLevel";
    let plain = model.kind == "BPE"
        && model.dropout.is_none_or(|d| d == 0.0)
        && [&model.unk_token, &model.continuing_subword_prefix, &model.end_of_word_suffix].iter().all(|s| s.is_none())
        && !model.fuse_unk
        && !model.byte_fallback;
    if !nothing_added || !plain || decoder["type"] != "ByteLevel" {
        return None;
    }
    let patterns = patterns(&pre_tokenizer)?;
    let count = model.vocab.0.len().max(added_tokens.iter().map(|t| t.id as usize + 1).max().unwrap_or(0));
    if count > MAX_VOCABULARY || model.merges.len() > MAX_MERGES || model.merges.is_empty() {
        return None;
    }
    let mut pieces: Vec<Option<Box<[u8]>>> = vec![None; count];
    // Tokens that stand in the text as they are: of ASCII, which is spelled alike in characters and in bytes.
    let (mut special, mut user_defined) = (Vec::new(), Vec::new());
    for t in added_tokens {
        let text = t.content.is_ascii() && !t.content.is_empty() && t.content.len() <= MAX_PIECE_BYTES;
        let slot = pieces.get_mut(t.id as usize)?;
        // In composed text the last character may have become another one.
        if !text || t.single_word || t.lstrip || t.rstrip || nfc && t.normalized || slot.is_some() {
            return None;
        }
        *slot = Some(t.content.as_bytes().into());
        match t.special {
            true => special.push(SpecialToken { id: t.id, content: t.content }),
            false => user_defined.push(t.id),
        }
    }
    special.sort_unstable_by_key(|t| t.id);
    user_defined.sort_unstable();
    let ids: FileMap<&str, u32> = model.vocab.0.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    for (token, id) in &model.vocab.0 {
        match pieces.get_mut(*id as usize)? {
            Some(spelled) if **spelled == *token.as_bytes() => {}
            Some(_) => return None,
            slot => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_level::byte_of).collect();
                *slot = Some(bytes?.into());
            }
        }
    }
    let pieces: Vec<Box<[u8]>> = pieces.into_iter().collect::<Option<_>>()?;
    let mut pairs = Pairs::default();
    let mut together = String::new();
    for (rank, Merge(left, right)) in (0u32..).zip(&model.merges) {
        together.clear();
        together.push_str(left);
        together.push_str(right);
        let id = |token: &str| ids.get(token).copied();
        pairs.insert((id(left)?, id(right)?), (rank, id(&together)?));
    }
    let named = |name: Option<&str>| match name {
        None => Some(None),
        Some(n) => {
            let added = special.iter().find(|t| t.content == n).map(|t| t.id);
            added.or_else(|| ids.get(n).copied()).map(Some)
        }
    };
    let (bos, eos) = (named(bos)?, named(eos)?);
    ByteBpe::new(Parts {
        kind: TokenizerKind::HuggingFaceJson,
        file: TOKENIZER_JSON,
        pieces,
        special,
        user_defined,
        merges: Merges::Listed { pairs, whole: model.ignore_merges },
        cutter: Cutter::new(&patterns).ok()?,
        nfc,
        bos,
        eos,
        add_bos: false,
        add_eos: false,
        all_bytes: false,
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::super::hf::HfTokenizer;
    use super::super::{Backend as _, EncodeOptions, SpecialText};
    use super::*;

    fn file(pre: &str, merges: &str, more: &str) -> String {
        let mut vocab: Vec<String> =
            (0..=255u8).map(|b| format!("{:?}: {b}", byte_level::char_of(b).to_string())).collect();
        for (i, token) in ["th", "the", "Ġthe", "12", "ĠĠ", "<|end|>"].iter().enumerate() {
            vocab.push(format!("{token:?}: {}", 256 + i));
        }
        let token = |id: u32, content: &str, special: bool| {
            format!(
                r#"{{"id": {id}, "content": "{content}", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": {special}}}"#
            )
        };
        format!(
            r#"{{"version": "1.0", "added_tokens": [{}, {}], "normalizer": null, "pre_tokenizer": {pre},
                "post_processor": null, "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true}}, "model": {{"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false{more},
                "vocab": {{{}}}, "merges": [{merges}]}}}}"#,
            token(261, "<|end|>", true),
            token(262, "<tool>", false),
            vocab.join(", ")
        )
    }

    const BYTE_LEVEL: &str =
        r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
    const LISTS: &str = r#"["t", "h"], ["th", "e"], ["Ġ", "the"], ["1", "2"], ["Ġ", "Ġ"]"#;

    #[test]
    fn ids_and_texts_are_those_of_the_library() {
        let digits = format!(
            r#"{{"type": "Sequence", "pretokenizers": [{{"type": "Digits", "individual_digits": true}}, {BYTE_LEVEL}]}}"#
        );
        let old = LISTS.replace(r#"", ""#, " ").replace(['[', ']'], "");
        for (pre, merges, more) in
            [(BYTE_LEVEL, LISTS, ""), (&digits, &old, ""), (BYTE_LEVEL, LISTS, r#", "ignore_merges": true"#)]
        {
            let json = file(pre, merges, more);
            let own = open(json.as_bytes(), None, Some("<|end|>")).unwrap();
            let library = HfTokenizer::from_bytes(json.as_bytes(), Some(br#"{"eos_token": "<|end|>"}"#)).unwrap();
            assert_eq!((own.bos_id(), own.eos_id()), (library.bos_id(), library.eos_id()));
            assert_eq!(own.special_tokens(), library.special_tokens());
            assert_eq!((own.kind(), own.vocab_size()), (library.kind(), library.vocab_size()));
            for text in [
                "the 12 thes",
                "  the<|end|>the <tool>x",
                "\u{e9}\u{1f600} the\u{301}\r\n\tthe   ",
                "",
                "<|end",
                "\u{b2}12",
            ] {
                for special in [SpecialText::Parse, SpecialText::AsText] {
                    let options = EncodeOptions { add_special: true, special };
                    let ids = own.encode(text, options).unwrap();
                    assert_eq!(ids, library.encode(text, options).unwrap(), "{text:?} {special:?}");
                    for skip in [false, true] {
                        assert_eq!(own.decode(&ids, skip).unwrap(), library.decode(&ids, skip).unwrap(), "{text:?}");
                    }
                }
            }
            for id in 0..264 {
                assert_eq!(own.id_to_piece(id), library.id_to_piece(id), "{id}");
            }
            for token in ["Ġthe", "<|end|>", "<tool>", "nothing"] {
                assert_eq!(own.token_to_id(token), library.token_to_id(token), "{token}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_left_to_the_library() {
        let known = file(BYTE_LEVEL, LISTS, "");
        assert!(open(known.as_bytes(), None, None).is_some());
        for (from, to) in [
            (r#""normalizer": null"#, r#""normalizer": {"type": "Lowercase"}"#),
            (r#""post_processor": null"#, r#""post_processor": {"type": "TemplateProcessing"}"#),
            (r#""decoder": {"type": "ByteLevel""#, r#""decoder": {"type": "Metaspace""#),
            (r#""unk_token": null"#, r#""unk_token": "the""#),
            (r#""add_prefix_space": false"#, r#""add_prefix_space": true"#),
            (r#""lstrip": false"#, r#""lstrip": true"#),
            (r#""content": "<tool>""#, r#""content": "<t\u00f6ol>""#),
            (r#"["1", "2"]"#, r#"["1", "3"]"#),
            (r#""type": "BPE""#, r#""type": "WordPiece""#),
        ] {
            let other = known.replacen(from, to, 1);
            assert_ne!(other, known, "{from}");
            assert!(open(other.as_bytes(), None, None).is_none(), "{to}");
        }
        assert!(open(known.as_bytes(), Some("missing"), None).is_none());
    }
}

//! Byte-level BPE: a text is cut by a pattern, each part is bytes, and bytes are merged. Three kinds of files carry such
//! vocabularies: tiktoken's rank files, Tekken's JSON, and GGUF files of the model `gpt2`.

use super::byte_level;
use super::merge::Merger;
use super::pattern::Cutter;
use super::special::{Fragment, Spelled};
use super::stream::StreamPlan;
use super::validate::{FileMap, MAX_PIECE_BYTES, MAX_VOCABULARY, invalid};
use super::{Backend, EncodeOptions, SpecialToken, TokenizerError, TokenizerKind};
use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer as _};

/// Left and right id → place in the list of merges and resulting id.
pub(super) type Pairs = FileMap<(u32, u32), (u32, u32)>;

/// Which pairs merge.
#[derive(Debug)]
pub(super) enum Merges {
    /// Two tokens merge if their bytes together are a token; the lowest id goes first. A part that is a token as a whole is
    /// that token.
    ById,
    /// Two tokens merge if the list says so; the first of the list goes first.
    Listed {
        /// The list.
        pairs: Pairs,
        /// Whether a part that is a token as a whole is that token.
        whole: bool,
    },
}

/// What a vocabulary is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) kind: TokenizerKind,
    pub(super) file: &'static str,
    /// The bytes of each token by id; special ones have their spelling.
    pub(super) pieces: Vec<Box<[u8]>>,
    /// Special tokens, by rising id.
    pub(super) special: Vec<SpecialToken>,
    /// Tokens that are text but are looked for before the text is cut.
    pub(super) user_defined: Vec<u32>,
    pub(super) merges: Merges,
    pub(super) cutter: Cutter,
    /// Whether text is put into Unicode's composed form first.
    pub(super) nfc: bool,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
    /// Whether each of the 256 bytes must be a token.
    pub(super) all_bytes: bool,
}

/// A byte-level vocabulary.
#[derive(Debug)]
pub(super) struct ByteBpe {
    parts: Parts,
    /// Ids of the tokens that are neither special nor user-defined.
    ids: FileMap<Box<[u8]>, u32>,
    bytes: [Option<u32>; 256],
    longest: usize,
    spelled: Spelled,
}

impl ByteBpe {
    pub(super) fn new(parts: Parts) -> Result<Self, TokenizerError> {
        let file = parts.file;
        check_pieces(file, parts.pieces.iter().map(|p| &**p))?;
        let count = parts.pieces.len();
        let mut apart = vec![false; count];
        let marked = parts.special.iter().map(|t| t.id).chain(parts.user_defined.iter().copied());
        for id in marked {
            let Some(slot) = apart.get_mut(id as usize) else {
                return Err(invalid(file, format_args!("special token {id} lies outside the {count} tokens")));
            };
            *slot = true;
        }
        for (name, id) in [("bos", parts.bos), ("eos", parts.eos)] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(invalid(file, format_args!("the {name} token has id {id}, there are {count} tokens")));
            }
        }
        let mut ids = FileMap::default();
        let (mut bytes, mut longest) = ([None; 256], 0);
        for (id, piece) in (0u32..).zip(&parts.pieces).filter(|(id, _)| !apart[*id as usize]) {
            if ids.insert(piece.clone(), id).is_some() {
                return Err(invalid(file, format_args!("two tokens are {:?}", String::from_utf8_lossy(piece))));
            }
            if let [byte] = **piece {
                bytes[usize::from(byte)] = Some(id);
            }
            longest = longest.max(piece.len());
        }
        if let Some(byte) = bytes.iter().position(Option::is_none).filter(|_| parts.all_bytes) {
            return Err(invalid(
                file,
                format_args!("no token is the single byte 0x{byte:02X}; a byte-level vocabulary has all 256"),
            ));
        }
        let user = parts.user_defined.iter().map(|&id| (parts.pieces[id as usize].clone(), id)).collect();
        let spelled = Spelled::new(&parts.special, user);
        Ok(Self { ids, bytes, longest, spelled, parts })
    }

    fn encode_text(&self, text: &str, merger: &mut Merger<u32>, out: &mut Vec<u32>) {
        let composed = self.parts.nfc.then(|| {
            let mut normalized = NormalizedString::from(text);
            // Composing cannot fail; a failure would leave the text as it is.
            let _ = NFC.normalize(&mut normalized);
            normalized.get().to_owned()
        });
        let text = composed.as_deref().unwrap_or(text);
        self.parts.cutter.cut(text, &mut |part| self.encode_part(part.as_bytes(), merger, out));
    }

    fn encode_part(&self, part: &[u8], merger: &mut Merger<u32>, out: &mut Vec<u32>) {
        let whole = matches!(self.parts.merges, Merges::ById | Merges::Listed { whole: true, .. });
        if whole && let Some(&id) = self.ids.get(part) {
            out.push(id);
            return;
        }
        merger.clear();
        for (at, &byte) in (0u32..).zip(part) {
            // Where a vocabulary lacks a byte, it is left out, as the `tokenizers` library does without an unknown token.
            if let Some(id) = self.bytes[usize::from(byte)] {
                merger.push(id, at, 1, false);
            }
        }
        match &self.parts.merges {
            Merges::ById => merger.run(|left, right| {
                let together = left.range().start..right.range().end;
                if together.len() > self.longest {
                    return None;
                }
                part.get(together).and_then(|bytes| self.ids.get(bytes)).map(|&id| (id, id))
            }),
            Merges::Listed { pairs, .. } => merger.run(|left, right| pairs.get(&(left.id, right.id)).copied()),
        }
        out.extend(merger.symbols().map(|s| s.id));
    }

    fn is_special(&self, id: u32) -> bool {
        self.parts.special.binary_search_by_key(&id, |t| t.id).is_ok()
    }

    fn is_spelled_out(&self, id: u32) -> bool {
        self.is_special(id) || self.parts.user_defined.binary_search(&id).is_ok()
    }
}

/// Number and length of pieces.
pub(super) fn check_pieces<'a>(
    file: &'static str,
    pieces: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<(), TokenizerError> {
    let count = pieces.len();
    if count == 0 || count > MAX_VOCABULARY {
        return Err(invalid(file, format_args!("{count} tokens, expected 1 to {MAX_VOCABULARY}")));
    }
    for (id, piece) in pieces.enumerate() {
        if piece.is_empty() || piece.len() > MAX_PIECE_BYTES {
            return Err(invalid(
                file,
                format_args!("token {id} has {} bytes, expected 1 to {MAX_PIECE_BYTES}", piece.len()),
            ));
        }
    }
    Ok(())
}

impl Backend for ByteBpe {
    fn kind(&self) -> TokenizerKind {
        self.parts.kind
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        super::validate::check_text(text)?;
        let mut ids = Vec::new();
        let mut merger = Merger::new();
        if options.add_special && self.parts.add_bos {
            ids.extend(self.parts.bos);
        }
        self.spelled.cut(text, options.special, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) => self.encode_text(text, &mut merger, &mut ids),
        });
        if options.add_special && self.parts.add_eos {
            ids.extend(self.parts.eos);
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|&&id| !(skip_special && self.is_special(id))) {
            bytes.extend_from_slice(self.parts.pieces.get(id as usize).map_or(&[], |p| &**p));
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn vocab_size(&self) -> usize {
        self.parts.pieces.len()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        let spelled = |id: &&u32| *self.parts.pieces[**id as usize] == *token.as_bytes();
        let special = self.parts.special.iter().find(|t| t.content == token).map(|t| t.id);
        special.or_else(|| self.parts.user_defined.iter().find(spelled).copied()).or_else(|| {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_level::byte_of).collect();
            self.ids.get(&*bytes?).copied()
        })
    }

    fn id_to_piece(&self, id: u32) -> Option<String> {
        let piece = self.parts.pieces.get(id as usize)?;
        if self.is_spelled_out(id) {
            return Some(String::from_utf8_lossy(piece).into_owned());
        }
        Some(piece.iter().map(|&byte| byte_level::char_of(byte)).collect())
    }

    fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.parts.pieces.get(id as usize).map_or(&[], |p| &**p));
    }

    fn bos_id(&self) -> Option<u32> {
        self.parts.bos
    }

    fn eos_id(&self) -> Option<u32> {
        self.parts.eos
    }

    fn special_tokens(&self) -> &[SpecialToken] {
        &self.parts.special
    }

    fn stream_plan(&self) -> StreamPlan {
        StreamPlan::ByteLevel
    }
}

impl ByteBpe {
    /// Ids of a text in which nothing is special.
    #[cfg(test)]
    pub(super) fn plain(&self, text: &str) -> Vec<u32> {
        let options = EncodeOptions { add_special: false, special: super::SpecialText::AsText };
        self.encode(text, options).unwrap()
    }
}

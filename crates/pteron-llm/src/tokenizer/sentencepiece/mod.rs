//! SentencePiece: BPE by score and unigram, as the `sentencepiece` library computes them.
//!
//! Sources: `bpe_model.cc`, `unigram_model.cc`, `normalizer.cc`, `sentencepiece_processor.cc`. Where the library gives
//! tokens for a text, these are the same; special tokens that a text spells out are found before it, and each stretch of
//! text between them is one text of the library's.

mod normalizer;
pub(crate) mod proto;

pub(crate) use normalizer::SPACE;

use self::normalizer::{MAX_USER_MATCHES, Normalizer};
use self::proto::{Model, ModelType, PieceType};
use super::byte_bpe::check_pieces;
use super::merge::{Merger, by_score};
use super::prefix::PrefixTable;
use super::special::{Fragment, Spelled};
use super::stream::StreamPlan;
use super::validate::{self, FileMap, SENTENCEPIECE, invalid};
use super::{Backend, EncodeOptions, SpecialToken, TokenizerError, TokenizerKind};
use std::collections::BTreeMap;
use std::ops::Range;

/// How much worse than the worst piece an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;
/// How much better than the best piece, for each of its bytes, a user-defined piece is.
const USER_DEFINED_BONUS: f32 = 0.1;

/// A SentencePiece model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    kind: TokenizerKind,
    model: Model,
    normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    /// Ids of pieces that are text.
    text: FileMap<Box<str>, u32>,
    /// Ids of the unknown, control and byte pieces, which go before those of the text.
    reserved: FileMap<Box<str>, u32>,
    user: PrefixTable,
    /// All pieces of the text, for unigram.
    trie: PrefixTable,
    scores: (f32, f32),
    bytes: [u32; 256],
    unk: u32,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    special: Vec<SpecialToken>,
    spelled: Spelled,
}

/// What surrounds a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
}

/// The byte that a piece such as `<0xE2>` stands for.
fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if hex.len() == 2 && hex.bytes().all(is_digit) { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Reads a `tokenizer.model`.
pub(super) fn open(bytes: &[u8]) -> Result<SentencePiece, TokenizerError> {
    validate::check_small(SENTENCEPIECE, bytes)?;
    SentencePiece::new(TokenizerKind::SentencePiece, SENTENCEPIECE, proto::parse(bytes)?, None)
}

impl SentencePiece {
    /// Checks and prepares a model. Without `ends` they are found by their pieces, and a text begins with `bos`.
    pub(super) fn new(
        kind: TokenizerKind,
        file: &'static str,
        mut model: Model,
        ends: Option<Ends>,
    ) -> Result<Self, TokenizerError> {
        check_pieces(file, model.pieces.iter().map(|p| p.text.as_bytes()))?;
        let (mut text, mut reserved) = (FileMap::default(), FileMap::default());
        let (mut unk, mut bytes) = (None, [u32::MAX; 256]);
        let (mut user, mut special, mut trie) = (Vec::new(), Vec::new(), Vec::new());
        // The library begins with the smallest positive number for the highest score.
        let mut scores = (f32::MAX, f32::MIN_POSITIVE);
        for (id, piece) in (0u32..).zip(&model.pieces) {
            if !piece.score.is_finite() {
                return Err(invalid(file, format_args!("piece {id} ({:?}) has the score {}", piece.text, piece.score)));
            }
            let is_text = matches!(piece.kind, PieceType::Normal | PieceType::UserDefined | PieceType::Unused);
            if (if is_text { &mut text } else { &mut reserved }).insert(piece.text.clone(), id).is_some() {
                return Err(invalid(file, format_args!("two pieces are {:?}", piece.text)));
            }
            if is_text && model.model_type == ModelType::Unigram {
                trie.push((piece.text.as_bytes().into(), id));
            }
            match piece.kind {
                PieceType::Normal => scores = (scores.0.min(piece.score), scores.1.max(piece.score)),
                PieceType::UserDefined => user.push((piece.text.as_bytes().into(), id)),
                PieceType::Control => special.push(SpecialToken { id, content: piece.text.to_string() }),
                PieceType::Unknown if unk.is_some() && kind == TokenizerKind::SentencePiece => {
                    return Err(invalid(file, format_args!("piece {id} is a second unknown piece")));
                }
                PieceType::Unknown => unk = unk.or(Some(id)),
                PieceType::Byte => {
                    let byte = byte_of(&piece.text).filter(|_| model.byte_fallback);
                    let byte = byte.ok_or_else(|| {
                        invalid(file, format_args!("piece {id} is the byte {:?}, without byte fallback", piece.text))
                    })?;
                    bytes[usize::from(byte)] = id;
                }
                PieceType::Unused => {}
            }
        }
        let unk = unk.ok_or_else(|| invalid(file, "no piece is the unknown one"))?;
        if let Some(byte) = bytes.iter().position(|&id| id == u32::MAX).filter(|_| model.byte_fallback) {
            return Err(invalid(file, format_args!("byte fallback without a piece for the byte 0x{byte:02X}")));
        }
        let control = |piece: &str, default: &str| {
            let piece = if piece.is_empty() { default } else { piece };
            special.iter().find(|t: &&SpecialToken| t.content == piece).map(|t| t.id)
        };
        let ends = ends.unwrap_or_else(|| {
            let (bos, eos) = (control(&model.bos_piece, "<s>"), control(&model.eos_piece, "</s>"));
            Ends { bos, eos, add_bos: bos.is_some(), add_eos: false }
        });
        for (name, id) in [("bos", ends.bos), ("eos", ends.eos)] {
            if let Some(id) = id.filter(|&id| id as usize >= model.pieces.len()) {
                let count = model.pieces.len();
                return Err(invalid(file, format_args!("the {name} token has id {id}, there are {count} tokens")));
            }
        }
        let spelled = Spelled::new(&special, Vec::new());
        let normalizer = Normalizer::new(std::mem::take(&mut model.normalizer), model.treat_whitespace_as_suffix)?;
        let denormalizer = model.denormalizer.take().filter(|spec| !spec.charsmap.is_empty());
        let denormalizer = denormalizer.map(|spec| Normalizer::new(spec, false)).transpose()?;
        let Ends { bos, eos, add_bos, add_eos } = ends;
        let (user, trie) = (PrefixTable::new(user), PrefixTable::new(trie));
        Ok(Self {
            kind,
            model,
            normalizer,
            denormalizer,
            text,
            reserved,
            user,
            trie,
            scores,
            bytes,
            unk,
            bos,
            eos,
            add_bos,
            add_eos,
            special,
            spelled,
        })
    }

    /// Id of a piece of this text; the unknown one's if there is none.
    fn id_of(&self, text: &str) -> u32 {
        self.reserved.get(text).or_else(|| self.text.get(text)).copied().unwrap_or(self.unk)
    }

    fn kind_of(&self, id: u32) -> PieceType {
        self.model.pieces.get(id as usize).map_or(PieceType::Unknown, |p| p.kind)
    }

    fn score(&self, id: u32) -> f32 {
        self.model.pieces.get(id as usize).map_or(0.0, |p| p.score)
    }

    fn encode_text(&self, text: &str, merger: &mut Merger<u32>, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = self.normalizer.normalize(text, &self.user)?;
        validate::check_text(&text)?;
        let mut after_unknown = false;
        let mut piece = |range: Range<usize>, id: u32| {
            let unknown = self.kind_of(id) == PieceType::Unknown;
            if unknown && self.model.byte_fallback {
                out.extend(text.as_bytes()[range].iter().map(|&b| self.bytes[usize::from(b)]));
            } else if !(unknown && after_unknown) {
                out.push(id);
            }
            after_unknown = unknown;
        };
        match self.model.model_type {
            ModelType::Bpe => self.bpe(&text, merger, &mut piece),
            ModelType::Unigram => self.unigram(&text, &mut piece),
        }
        Ok(())
    }

    fn bpe(&self, text: &str, merger: &mut Merger<u32>, piece: &mut impl FnMut(Range<usize>, u32)) {
        merger.clear();
        let mut at = 0;
        while at < text.len() {
            let user = self.user.longest(&text.as_bytes()[at..], MAX_USER_MATCHES);
            let (length, frozen) = match user {
                Some((length, _)) => (length, true),
                None => (text[at..].chars().next().map_or(1, char::len_utf8), false),
            };
            merger.push(0, at as u32, length as u32, frozen);
            at += length;
        }
        // How pieces that are not to be used came about.
        let mut unused: BTreeMap<u32, (Range<usize>, Range<usize>)> = BTreeMap::new();
        merger.run(|left, right| {
            let (left, right) = (left.range(), right.range());
            let id = *self.text.get(text.get(left.start..right.end)?)?;
            if self.kind_of(id) == PieceType::Unused {
                unused.insert(id, (left, right));
            }
            Some((by_score(self.score(id)), id))
        });
        let mut stack = Vec::new();
        for symbol in merger.symbols() {
            stack.push(symbol.range());
            while let Some(range) = stack.pop() {
                let id = self.id_of(&text[range.clone()]);
                match unused.get(&id).filter(|_| self.kind_of(id) == PieceType::Unused) {
                    Some((left, right)) => stack.extend([right.clone(), left.clone()]),
                    None => piece(range, id),
                }
            }
        }
    }

    /// Viterbi's algorithm over bytes. Sums are of 32 bits, added from the start of the text on, as in the library (0.2.3), so
    /// that ties fall as they do there; of equal sums the piece that starts first stays.
    fn unigram(&self, text: &str, piece: &mut impl FnMut(Range<usize>, u32)) {
        #[derive(Clone, Copy)]
        struct Best {
            id: u32,
            score: f32,
            start: u32,
        }
        const UNREACHED: u32 = u32::MAX;
        let mut best = vec![Best { id: 0, score: 0.0, start: UNREACHED }; text.len() + 1];
        let unknown = self.scores.0 - UNKNOWN_PENALTY;
        for (start, c) in text.char_indices() {
            let here = best[start].score;
            let mut single = false;
            let mut offer = |end: usize, id: u32, score: f32| {
                let target = &mut best[end];
                if target.start == UNREACHED || score > target.score {
                    *target = Best { id, score, start: start as u32 };
                }
            };
            self.trie.each(&text.as_bytes()[start..], |length, id| {
                let kind = self.kind_of(id);
                if kind != PieceType::Unused {
                    let score = match kind {
                        PieceType::UserDefined => length as f32 * self.scores.1 + USER_DEFINED_BONUS,
                        _ => self.score(id),
                    };
                    offer(start + length, id, score + here);
                    single |= length == c.len_utf8();
                }
                true
            });
            if !single {
                offer(start + c.len_utf8(), self.unk, unknown + here);
            }
        }
        let mut found = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { id, start, .. } = best[end];
            // Every place between characters is reached, at least by an unknown one.
            found.push((start as usize..end, id));
            end = start as usize;
        }
        for (range, id) in found.into_iter().rev() {
            piece(range, id);
        }
    }
}

/// Appends bytes as text: each that belongs to no character becomes one U+FFFD.
fn push_text(mut bytes: &[u8], out: &mut String) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = rest.get(1..).unwrap_or_default();
            }
        }
    }
}

impl Backend for SentencePiece {
    fn kind(&self) -> TokenizerKind {
        self.kind
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        validate::check_text(text)?;
        let mut ids = Vec::new();
        let mut merger = Merger::new();
        let mut result = Ok(());
        if options.add_special && self.add_bos {
            ids.extend(self.bos);
        }
        self.spelled.cut(text, options.special, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) if result.is_ok() => result = self.encode_text(text, &mut merger, &mut ids),
            Fragment::Text(_) => {}
        });
        result?;
        if options.add_special && self.add_eos {
            ids.extend(self.eos);
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let spec = self.normalizer.spec();
        let drops_space = spec.add_dummy_prefix || spec.remove_extra_whitespaces;
        let mut text = String::new();
        let mut bytes = Vec::new();
        let (mut at_start, mut space_seen) = (true, false);
        for piece in ids.iter().filter_map(|&id| self.model.pieces.get(id as usize)) {
            let kind = piece.kind;
            if kind == PieceType::Byte {
                bytes.extend(byte_of(&piece.text));
                continue;
            }
            push_text(&std::mem::take(&mut bytes), &mut text);
            if space_seen || !text.is_empty() {
                at_start = false;
            }
            space_seen = false;
            match kind {
                PieceType::Control if skip_special => {}
                PieceType::Control => text.push_str(&piece.text),
                PieceType::Unknown => text.push_str(&self.model.unk_surface),
                _ => {
                    let mut surface = &*piece.text;
                    if at_start
                        && drops_space
                        && let Some(rest) = surface.strip_prefix(SPACE)
                    {
                        surface = rest;
                        space_seen = !spec.remove_extra_whitespaces;
                    }
                    text.push_str(&surface.replace(SPACE, " "));
                }
            }
        }
        push_text(&bytes, &mut text);
        match &self.denormalizer {
            Some(denormalizer) => denormalizer.normalize(&text, &PrefixTable::default()),
            None => Ok(text),
        }
    }

    fn vocab_size(&self) -> usize {
        self.model.pieces.len()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.reserved.get(token).or_else(|| self.text.get(token)).copied()
    }

    fn id_to_piece(&self, id: u32) -> Option<String> {
        self.model.pieces.get(id as usize).map(|p| p.text.to_string())
    }

    fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    fn special_tokens(&self) -> &[SpecialToken] {
        &self.special
    }

    fn stream_plan(&self) -> StreamPlan {
        match &self.denormalizer {
            Some(_) => StreamPlan::Whole,
            None => StreamPlan::Window { byte_runs: true },
        }
    }
}

//! llama2.c's `tokenizer.bin`: pieces with scores, made from a SentencePiece model.
//!
//! ExecuTorch's variant starts with vocabulary size, bos, eos and the longest piece's bytes; llama2.c's own has only the
//! longest piece's bytes, its vocabulary ends with the file, and bos and eos are 1 and 2. Then, for each piece: score (f32),
//! length (i32), bytes. Spaces stand for themselves.

use super::byte_bpe::check_pieces;
use super::detect::llama2c_header;
use super::merge::{Merger, by_score};
use super::special::{Fragment, Spelled};
use super::stream::StreamPlan;
use super::validate::{self, FileMap, LLAMA2C, MAX_VOCABULARY, invalid};
use super::{Backend, EncodeOptions, SpecialToken, TokenizerError, TokenizerKind};
use std::ops::Range;

/// Ids of the first byte's token: unknown, bos and eos stand before it.
const FIRST_BYTE: u32 = 3;

/// A llama2.c vocabulary.
#[derive(Debug)]
pub(super) struct Llama2c {
    pieces: Vec<(Box<str>, f32)>,
    ids: FileMap<Box<str>, u32>,
    longest: usize,
    bos: u32,
    eos: u32,
    special: Vec<SpecialToken>,
    spelled: Spelled,
}

/// Reads a `tokenizer.bin`.
pub(super) fn open(bytes: &[u8]) -> Result<Llama2c, TokenizerError> {
    validate::check_small(LLAMA2C, bytes)?;
    let header = llama2c_header(bytes).ok_or_else(|| invalid(LLAMA2C, "the header is not llama2.c's"))?;
    let mut rest = bytes.get(header.bytes..).unwrap_or_default();
    let mut pieces: Vec<(Box<str>, f32)> = Vec::new();
    while header.vocab.map_or(!rest.is_empty(), |n| pieces.len() < n) {
        let id = pieces.len();
        if id == MAX_VOCABULARY {
            return Err(invalid(LLAMA2C, format_args!("more than {MAX_VOCABULARY} pieces")));
        }
        pieces.push(piece(&mut rest, id, header.longest)?);
    }
    // ExecuTorch's exporter can put `<pad>` before the pieces without counting it: the last one is then never read.
    if !rest.is_empty() && pieces.first().is_some_and(|p| &*p.0 == "<pad>") {
        piece(&mut rest, pieces.len(), header.longest)?;
    }
    if !rest.is_empty() {
        return Err(invalid(LLAMA2C, format_args!("{} bytes behind the {} pieces", rest.len(), pieces.len())));
    }
    check_pieces(LLAMA2C, pieces.iter().map(|p| p.0.as_bytes()))?;
    let (bos, eos) = (header.bos, header.eos);
    if let Some(id) = [bos, eos].into_iter().find(|&id| id as usize >= pieces.len()) {
        return Err(invalid(LLAMA2C, format_args!("bos or eos has id {id}, there are {} pieces", pieces.len())));
    }
    let mut ids = FileMap::default();
    for (id, (text, _)) in (0u32..).zip(&pieces) {
        // llama2.c does not say which of equal pieces is found; here it is the first.
        ids.entry(text.clone()).or_insert(id);
    }
    let mut special = vec![bos, eos];
    special.sort_unstable();
    special.dedup();
    let special: Vec<SpecialToken> =
        special.into_iter().map(|id| SpecialToken { id, content: pieces[id as usize].0.to_string() }).collect();
    let longest = pieces.iter().map(|p| p.0.len()).max().unwrap_or(0);
    let spelled = Spelled::new(&special, Vec::new());
    Ok(Llama2c { pieces, ids, longest, bos, eos, special, spelled })
}

fn piece(rest: &mut &[u8], id: usize, longest: usize) -> Result<(Box<str>, f32), TokenizerError> {
    let ended = || invalid(LLAMA2C, format_args!("the file ends inside piece {id}"));
    let (score, after) = rest.split_first_chunk::<4>().ok_or_else(ended)?;
    let (length, after) = after.split_first_chunk::<4>().ok_or_else(ended)?;
    let score = f32::from_le_bytes(*score);
    let length = i32::from_le_bytes(*length);
    let known = usize::try_from(length).ok().filter(|&n| n <= longest);
    let length = known.ok_or_else(|| {
        invalid(LLAMA2C, format_args!("piece {id} has {length} bytes, the header says at most {longest}"))
    })?;
    let (text, after) = after.split_at_checked(length).ok_or_else(ended)?;
    *rest = after;
    let text = std::str::from_utf8(text).map_err(|_| invalid(LLAMA2C, format_args!("piece {id} is not UTF-8")))?;
    if !score.is_finite() {
        return Err(invalid(LLAMA2C, format_args!("piece {id} ({text:?}) has the score {score}")));
    }
    Ok((text.into(), score))
}

impl Llama2c {
    fn encode_text(&self, text: &str, merger: &mut Merger<u32>, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        merger.clear();
        // The place in the text is not looked at here: what merges is the pieces' own spelling.
        if let Some(&space) = self.ids.get(" ") {
            merger.push(space, 0, 1, false);
        }
        for (at, c) in text.char_indices() {
            let at = at as u32 + 1;
            let mut buffer = [0; 4];
            let character = c.encode_utf8(&mut buffer);
            if let Some(&id) = self.ids.get(&*character) {
                merger.push(id, at, c.len_utf8() as u32, false);
                continue;
            }
            for (offset, byte) in (0u32..).zip(character.bytes()) {
                let id = FIRST_BYTE + u32::from(byte);
                if id as usize >= self.pieces.len() {
                    let message = format!("{c:?} has no piece, and there are none for single bytes");
                    return Err(TokenizerError::Failed { action: "encode", message });
                }
                merger.push(id, at + offset, 1, false);
            }
        }
        let mut together = String::new();
        let piece = |id: u32| self.pieces.get(id as usize).map_or("", |p| &*p.0);
        merger.run(|left, right| {
            let (left, right) = (piece(left.id), piece(right.id));
            if left.len() + right.len() > self.longest {
                return None;
            }
            together.clear();
            together.push_str(left);
            together.push_str(right);
            let id = *self.ids.get(together.as_str())?;
            Some((by_score(self.pieces.get(id as usize)?.1), id))
        });
        out.extend(merger.symbols().map(|s| s.id));
        Ok(())
    }

    /// The byte of a piece such as `<0xE2>`.
    fn byte(&self, id: u32) -> Option<u8> {
        let hex = self.pieces.get(id as usize)?.0.strip_prefix("<0x")?.strip_suffix('>')?;
        let two: Range<usize> = 0..2;
        if hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            u8::from_str_radix(hex.get(two)?, 16).ok()
        } else {
            None
        }
    }
}

impl Backend for Llama2c {
    fn kind(&self) -> TokenizerKind {
        TokenizerKind::Llama2c
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        validate::check_text(text)?;
        let mut ids = if options.add_special { vec![self.bos] } else { Vec::new() };
        let mut merger = Merger::new();
        let mut result = Ok(());
        self.spelled.cut(text, options.special, |fragment| match fragment {
            Fragment::Token(id) => ids.push(id),
            Fragment::Text(text) if result.is_ok() => result = self.encode_text(text, &mut merger, &mut ids),
            Fragment::Text(_) => {}
        });
        result?;
        Ok(ids)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        let mut at_start = true;
        for &id in ids {
            let Some((piece, _)) = self.pieces.get(id as usize) else { continue };
            if id == self.bos || id == self.eos {
                if !skip_special {
                    bytes.extend_from_slice(piece.as_bytes());
                }
            } else if let Some(byte) = self.byte(id) {
                bytes.push(byte);
            } else if at_start {
                // The space that encoding put before the text.
                bytes.extend_from_slice(piece.strip_prefix(' ').unwrap_or(piece).as_bytes());
            } else {
                bytes.extend_from_slice(piece.as_bytes());
            }
            at_start &= id == self.bos || id == self.eos;
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn id_to_piece(&self, id: u32) -> Option<String> {
        self.pieces.get(id as usize).map(|p| p.0.to_string())
    }

    fn bos_id(&self) -> Option<u32> {
        Some(self.bos)
    }

    fn eos_id(&self) -> Option<u32> {
        Some(self.eos)
    }

    fn special_tokens(&self) -> &[SpecialToken] {
        &self.special
    }

    fn stream_plan(&self) -> StreamPlan {
        StreamPlan::Window { byte_runs: true }
    }
}

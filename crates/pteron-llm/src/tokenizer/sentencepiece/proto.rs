//! What is needed of a `ModelProto`: a reader of protocol buffers that copies nothing it does not keep.
//!
//! Source: `sentencepiece_model.proto`. Unknown fields are passed over; a field that stands twice counts as the last one, as
//! protocol buffers have it.

use super::super::TokenizerError;
use super::super::validate::{MAX_VOCABULARY, SENTENCEPIECE, invalid};

/// One field of a message.
enum Field<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    /// A fixed 64-bit number, which no field that is read has.
    Other,
}

/// Reads the fields of one message.
struct Reader<'a> {
    bytes: &'a [u8],
}

fn truncated() -> TokenizerError {
    invalid(SENTENCEPIECE, "the file ends inside a field")
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or_else(truncated)?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid(SENTENCEPIECE, "a number has more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], TokenizerError> {
        let length = usize::try_from(length).map_err(|_| truncated())?;
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or_else(truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Number and value of the next field.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, TokenizerError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32(bytes.try_into().map(u32::from_le_bytes).unwrap_or_default())
            }
            wire => return Err(invalid(SENTENCEPIECE, format_args!("field {} has wire type {wire}", key >> 3))),
        };
        Ok(Some((key >> 3, field)))
    }
}

fn wrong(what: &str) -> TokenizerError {
    invalid(SENTENCEPIECE, format_args!("`{what}` has another type than the format gives it"))
}

fn text(field: &Field<'_>, what: &str) -> Result<String, TokenizerError> {
    let Field::Bytes(bytes) = field else { return Err(wrong(what)) };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid(SENTENCEPIECE, format_args!("`{what}` is not UTF-8")))?;
    Ok(text.to_owned())
}

fn flag(field: &Field<'_>, what: &str) -> Result<bool, TokenizerError> {
    let Field::Varint(value) = field else { return Err(wrong(what)) };
    Ok(*value != 0)
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceType {
    /// Text.
    Normal,
    /// What no piece covers.
    Unknown,
    /// Structure.
    Control,
    /// Text that is always one piece.
    UserDefined,
    /// A single byte, spelled `<0xE2>`.
    Byte,
    /// Text that is split again.
    Unused,
}

impl PieceType {
    /// The type with this number, in `sentencepiece_model.proto` and in GGUF files.
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A piece of the vocabulary; its id is its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: Box<str>,
    pub(crate) score: f32,
    pub(crate) kind: PieceType,
}

/// How pieces are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelType {
    /// The likeliest sequence of pieces.
    Unigram,
    /// Merging of pairs by score.
    Bpe,
}

/// How a text is rewritten first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NormalizerSpec {
    pub(crate) charsmap: Vec<u8>,
    pub(crate) add_dummy_prefix: bool,
    pub(crate) remove_extra_whitespaces: bool,
    pub(crate) escape_whitespaces: bool,
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        Self { charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true, escape_whitespaces: true }
    }
}

/// The parts of a model that encoding and decoding depend on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) model_type: ModelType,
    pub(crate) byte_fallback: bool,
    pub(crate) treat_whitespace_as_suffix: bool,
    pub(crate) unk_surface: String,
    pub(crate) bos_piece: String,
    pub(crate) eos_piece: String,
    pub(crate) normalizer: NormalizerSpec,
    pub(crate) denormalizer: Option<NormalizerSpec>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram,
            byte_fallback: false,
            treat_whitespace_as_suffix: false,
            unk_surface: " \u{2047} ".to_owned(),
            bos_piece: "<s>".to_owned(),
            eos_piece: "</s>".to_owned(),
            normalizer: NormalizerSpec::default(),
            denormalizer: None,
        }
    }
}

/// Reads a serialized `ModelProto`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Model, TokenizerError> {
    let mut model = Model::default();
    let mut reader = Reader { bytes };
    while let Some((number, field)) = reader.next()? {
        let message = |what| match field {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(wrong(what)),
        };
        match number {
            1 => {
                if model.pieces.len() == MAX_VOCABULARY {
                    return Err(invalid(SENTENCEPIECE, format_args!("more than {MAX_VOCABULARY} pieces")));
                }
                let piece = piece(message("pieces")?, model.pieces.len())?;
                model.pieces.push(piece);
            }
            2 => trainer(message("trainer_spec")?, &mut model)?,
            3 => normalizer(message("normalizer_spec")?, &mut model.normalizer)?,
            5 => normalizer(message("denormalizer_spec")?, model.denormalizer.get_or_insert_default())?,
            _ => {}
        }
    }
    Ok(model)
}

fn piece(bytes: &[u8], id: usize) -> Result<Piece, TokenizerError> {
    let mut piece = Piece { text: "".into(), score: 0.0, kind: PieceType::Normal };
    let mut reader = Reader { bytes };
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, field) => piece.text = text(&field, &format!("piece {id}"))?.into_boxed_str(),
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Varint(kind)) => {
                let known = i64::try_from(kind).ok().and_then(PieceType::from_number);
                piece.kind = known.ok_or_else(|| {
                    invalid(SENTENCEPIECE, format_args!("piece {id} has type {kind}, expected 1 to 6"))
                })?;
            }
            (2 | 3, _) => return Err(wrong("score or type of a piece")),
            _ => {}
        }
    }
    Ok(piece)
}

fn trainer(bytes: &[u8], model: &mut Model) -> Result<(), TokenizerError> {
    let mut reader = Reader { bytes };
    while let Some((number, field)) = reader.next()? {
        match number {
            3 => {
                let Field::Varint(kind) = field else { return Err(wrong("model_type")) };
                model.model_type = match kind {
                    1 => ModelType::Unigram,
                    2 => ModelType::Bpe,
                    other => {
                        let name = ["WORD", "CHAR"].get((other as usize).wrapping_sub(3)).copied();
                        let found = name.map_or_else(|| other.to_string(), str::to_owned);
                        return Err(invalid(
                            SENTENCEPIECE,
                            format_args!("`model_type` is {found}; supported are UNIGRAM and BPE"),
                        ));
                    }
                };
            }
            24 => model.treat_whitespace_as_suffix = flag(&field, "treat_whitespace_as_suffix")?,
            35 => model.byte_fallback = flag(&field, "byte_fallback")?,
            44 => model.unk_surface = text(&field, "unk_surface")?,
            46 => model.bos_piece = text(&field, "bos_piece")?,
            47 => model.eos_piece = text(&field, "eos_piece")?,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer(bytes: &[u8], spec: &mut NormalizerSpec) -> Result<(), TokenizerError> {
    let mut reader = Reader { bytes };
    while let Some((number, field)) = reader.next()? {
        match number {
            2 => {
                let Field::Bytes(bytes) = field else { return Err(wrong("precompiled_charsmap")) };
                spec.charsmap = bytes.to_vec();
            }
            3 => spec.add_dummy_prefix = flag(&field, "add_dummy_prefix")?,
            4 => spec.remove_extra_whitespaces = flag(&field, "remove_extra_whitespaces")?,
            5 => spec.escape_whitespaces = flag(&field, "escape_whitespaces")?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_unknown_ones_passed_over() {
        let bytes = b"\x0A\x0E\x0A\x05<unk>\x15\0\0\x80\x3F\x18\x02\x12\x06\x18\x02\x98\x02\x01\x51\x1A\x02\x20\x00";
        // The trainer's last field has wire type 1, and its eight bytes are missing.
        assert_eq!(parse(bytes).unwrap_err().to_string(), "the SentencePiece model: the file ends inside a field");
        let bytes =
            b"\x0A\x0E\x0A\x05<unk>\x15\0\0\x80\x3F\x18\x02\x12\x05\x18\x02\x98\x02\x01\x1A\x02\x20\x00\xF8\x01\x07";
        let model = parse(bytes).unwrap();
        assert_eq!(model.pieces, [Piece { text: "<unk>".into(), score: 1.0, kind: PieceType::Unknown }]);
        assert_eq!(model.model_type, ModelType::Bpe);
        assert!(model.byte_fallback && !model.normalizer.remove_extra_whitespaces && model.normalizer.add_dummy_prefix);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, part) in [
            (b"\x0A\x7F".as_slice(), "ends inside a field"),
            (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "ends inside a field"),
            (b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "more than 64 bits"),
            (b"\x0B", "field 1 has wire type 3"),
            (b"\x08\x01", "`pieces` has another type"),
            (b"\x0A\x03\x0A\x01\xFF", "`piece 0` is not UTF-8"),
            (b"\x0A\x02\x18\x09", "piece 0 has type 9"),
            (b"\x0A\x02\x10\x09", "score or type of a piece"),
            (b"\x12\x02\x18\x03", "`model_type` is WORD"),
            (b"\x12\x02\x18\x04", "`model_type` is CHAR"),
            (b"\x12\x02\x18\x09", "`model_type` is 9"),
            (b"\x1A\x02\x10\x01", "`precompiled_charsmap` has another type"),
        ] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}

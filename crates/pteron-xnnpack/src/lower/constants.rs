//! Constants of payloads: in XNNPACK's layout, decoded by rows, under the SHA-256 of their bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use pteron_exec::Context;
use pteron_ir::{ConstData, ConstId, Module};
use pteron_tensor::{CastSource, DType, MemorySource, SharedSource, SourceError, TensorSource, check_rows};
use sha2::{Digest, Sha256};

use crate::error::XnnpackError;

/// In which form a constant stands in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// f32.
    Float,
    /// 8-bit codes.
    Bytes,
    /// 4-bit codes, two to a byte.
    Nibbles,
    /// Scales of channels, f32.
    ScalesF32,
    /// Scales of groups, bf16.
    ScalesBf16,
}

/// Bytes that are read at once while a key is computed.
const PIECE: usize = 1 << 18;

/// 4-bit codes of a matrix as XNNPACK has them: `code + 8`, the even column in the low nibble, rows in whole bytes, an odd last
/// column with the code 0 beside it.
#[derive(Debug)]
struct PackedNibbles {
    codes: SharedSource,
    shape: [usize; 2],
}

impl TensorSource for PackedNibbles {
    fn dtype(&self) -> DType {
        DType::U8
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let width = self.codes.row_bytes();
        let mut codes = vec![0u8; width.saturating_mul(rows.len())];
        self.codes.read_rows(rows.clone(), &mut codes)?;
        for (i, (codes, out)) in
            codes.chunks_exact(width.max(1)).zip(out.chunks_exact_mut(self.shape[1].max(1))).enumerate()
        {
            if self.codes.dtype() == DType::I4 {
                // The same order; adding 8 without carry turns the highest bit of a nibble.
                codes.iter().zip(out).for_each(|(c, o)| *o = c ^ 0x88);
                continue;
            }
            for (pair, o) in codes.chunks(2).zip(out) {
                let (even, odd) = (pair[0].wrapping_add(8), pair.get(1).copied().unwrap_or(0).wrapping_add(8));
                if (even | odd) > 15 {
                    let (row, found) = (rows.start + i, pair.iter().map(|&c| c.cast_signed()).collect::<Vec<_>>());
                    let reason = format!("row {row} has the codes {found:?}, expected -8 to 7");
                    return Err(SourceError::Failed { what: self.label().to_owned(), reason });
                }
                *o = odd << 4 | even;
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        self.codes.label()
    }
}

#[derive(Debug)]
struct Entry {
    source: SharedSource,
    is_scale: bool,
}

/// The constants of all payloads of a module, each once in each form.
#[derive(Debug, Default)]
pub(super) struct Constants {
    entries: Vec<Entry>,
    known: BTreeMap<(ConstId, Form), usize>,
    /// Numbers, by their bits.
    numbers: BTreeMap<u32, usize>,
}

/// The source of a module's constant, if it has one.
pub(super) fn source_of(module: &Module, c: ConstId) -> Result<&SharedSource, XnnpackError> {
    let constant = &module.constants[c];
    match &constant.data {
        ConstData::Source(s) => Ok(s),
        ConstData::External(_) | ConstData::Missing => {
            Err(XnnpackError::malformed(format!("constant `{}`", constant.name), "no bytes", "its bytes"))
        }
    }
}

impl Constants {
    /// The entry of a constant in a form.
    pub(super) fn add(&mut self, module: &Module, c: ConstId, form: Form) -> Result<usize, XnnpackError> {
        if let Some(&i) = self.known.get(&(c, form)) {
            return Ok(i);
        }
        let source = Arc::clone(source_of(module, c)?);
        let source: SharedSource = match form {
            Form::Float | Form::ScalesF32 => CastSource::wrap(source, DType::F32),
            // f64 scales would be rounded twice on the way from f32.
            Form::ScalesBf16 => CastSource::wrap(CastSource::wrap(source, DType::F32), DType::BF16),
            Form::Bytes => source,
            Form::Nibbles => {
                let shape = [source.rows(), source.row_numel().div_ceil(2)];
                Arc::new(PackedNibbles { codes: source, shape })
            }
        };
        let is_scale = matches!(form, Form::ScalesF32 | Form::ScalesBf16);
        self.entries.push(Entry { source, is_scale });
        let i = self.entries.len() - 1;
        self.known.insert((c, form), i);
        Ok(i)
    }

    /// The entry of a number.
    pub(super) fn number(&mut self, x: f32) -> Result<usize, XnnpackError> {
        if let Some(&i) = self.numbers.get(&x.to_bits()) {
            return Ok(i);
        }
        let source = MemorySource::of(&format!("{x}"), &[1], &[x])?;
        self.entries.push(Entry { source: Arc::new(source), is_scale: false });
        let i = self.entries.len() - 1;
        self.numbers.insert(x.to_bits(), i);
        Ok(i)
    }

    pub(super) fn source(&self, entry: usize) -> Option<&SharedSource> {
        self.entries.get(entry).map(|e| &e.source)
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.source.byte_len() as u64).sum()
    }

    /// The key of every entry: hexadecimal digits of the SHA-256 of its bytes, `scale_` before those of scales.
    pub(super) fn keys(&self, ctx: &Context) -> Result<Vec<String>, XnnpackError> {
        let found: Vec<Mutex<Option<Result<String, SourceError>>>> =
            self.entries.iter().map(|_| Mutex::new(None)).collect();
        ctx.pool().run(self.entries.len(), &|i| {
            let key = self.entries.get(i).map(key);
            if let Some(slot) = found.get(i) {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = key;
            }
        });
        let missing =
            || SourceError::Failed { what: "XNNPACK constant".to_owned(), reason: "it was not read".to_owned() };
        found
            .into_iter()
            .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| Err(missing())))
            .collect::<Result<_, _>>()
            .map_err(XnnpackError::from)
    }
}

fn key(entry: &Entry) -> Result<String, SourceError> {
    let s = &entry.source;
    let mut hash = Sha256::new();
    if let Some(all) = s.as_slice() {
        hash.update(all);
    } else {
        let row = s.row_bytes();
        let step = (PIECE / row.max(1)).max(1);
        let mut bytes = Vec::new();
        for start in (0..s.rows()).step_by(step) {
            let rows = start..s.rows().min(start + step);
            bytes.resize(rows.len().saturating_mul(row), 0);
            s.read_rows(rows, &mut bytes)?;
            hash.update(&bytes);
        }
    }
    let digits: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(if entry.is_scale { format!("scale_{digits}") } else { digits })
}

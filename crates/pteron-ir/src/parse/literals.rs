//! Types, sizes, elements and byte strings.

use pteron_tensor::{AlignedBytes, DType, DimOrder, Scalar, write_scalar};

use super::lexer::{Token, invalid};
use super::{MAX_ELIDED_BYTES, MAX_RANK, Parse, Parser, numbered};
use crate::entity::{Id, SymbolId};
use crate::symint::SymInt;
use crate::types::{Dims, TensorType, Type};

impl Parser<'_> {
    /// A type, or `None` for `_`.
    pub(super) fn type_or_hole(&mut self) -> Parse<Option<Type>> {
        if self.eat_word("_")? { Ok(None) } else { self.ty().map(Some) }
    }

    pub(super) fn ty(&mut self) -> Parse<Type> {
        let Token::Word(word) = self.token else { return self.unexpected("a type") };
        match word {
            "int" => {
                self.advance()?;
                if !self.eat("(")? {
                    return Ok(Type::Int(SymInt::ANY));
                }
                let s = self.symint()?;
                self.expect(")")?;
                Ok(Type::Int(s))
            }
            "float" => {
                self.advance()?;
                Ok(Type::Float)
            }
            _ => {
                let dtype = self.dtype()?;
                if dtype == DType::Bool && !matches!(self.token, Token::Punct("[")) {
                    return Ok(Type::Bool);
                }
                self.tensor_dims(dtype).map(Type::Tensor)
            }
        }
    }

    /// A dtype by Pteron's own name.
    pub(super) fn dtype(&mut self) -> Parse<DType> {
        if let Token::Word(word) = self.token
            && let Some(d) = DType::ALL.into_iter().find(|d| d.name() == word)
        {
            self.advance()?;
            return Ok(d);
        }
        self.unexpected("a dtype: u8 i8 i16 i32 i64 f16 f32 f64 bool bf16 u16 i4")
    }

    pub(super) fn tensor_type(&mut self) -> Parse<TensorType> {
        let dtype = self.dtype()?;
        self.tensor_dims(dtype)
    }

    fn tensor_dims(&mut self, dtype: DType) -> Parse<TensorType> {
        let mut dims = Dims::new();
        self.list("[", "]", |p| {
            let d = p.symint()?;
            dims.push(d);
            p.limit("dimensions of a tensor", dims.len(), MAX_RANK)
        })?;
        let mut order = None;
        if matches!(self.token, Token::Punct("{")) {
            let mut list = DimOrder::new();
            self.list("{", "}", |p| {
                let at = p.position;
                let d = p.int("a dimension")?;
                list.push(u8::try_from(d).map_err(|_| invalid(at, format!("dimension {d} in a dim order")))?);
                p.limit("dimensions of a dim order", list.len(), MAX_RANK)
            })?;
            order = Some(list);
        }
        Ok(TensorType { dtype, dims, order })
    }

    fn symbol(&mut self) -> Parse<SymbolId> {
        if let Token::Word(word) = self.token
            && let Some(n) = numbered(word, 's')
        {
            self.advance()?;
            return Ok(SymbolId::from_index(n));
        }
        self.unexpected("a symbol `s0`")
    }

    pub(super) fn symint(&mut self) -> Parse<SymInt> {
        if self.eat("?")? {
            if !matches!(self.token, Token::Int(_)) {
                return Ok(SymInt::ANY);
            }
            let min = self.int("a bound")?;
            self.expect("..=")?;
            let max = self.int("a bound")?;
            return Ok(SymInt::Unknown { min, max });
        }
        let (mut terms, mut constant) = (Vec::new(), 0i64);
        let mut sign = 1i64;
        loop {
            let at = self.position;
            if self.eat("-")? {
                sign = -sign;
            }
            match self.token {
                Token::Int(_) => {
                    let overflow = || invalid(at, "a size that does not fit in 64 bits".to_owned());
                    let c = self.int("an integer")?.checked_mul(sign).ok_or_else(overflow)?;
                    if self.eat("*")? {
                        terms.push((self.symbol()?, c));
                    } else {
                        constant = constant.checked_add(c).ok_or_else(overflow)?;
                    }
                }
                Token::Word(_) => terms.push((self.symbol()?, sign)),
                _ => return self.unexpected("a size: an integer, a symbol `s0` or `?`"),
            }
            sign = 1;
            let goes_on = self.eat("+")? || matches!(self.token, Token::Punct("-"));
            if !goes_on && !matches!(self.token, Token::Int(s) if s.starts_with('-')) {
                return Ok(SymInt::linear(terms, constant));
            }
        }
    }

    pub(super) fn float(&mut self) -> Parse<f64> {
        let parsed = match self.token {
            Token::Float(s) | Token::Int(s) => s.parse().ok(),
            Token::Word("inf") => Some(f64::INFINITY),
            Token::Word("nan") => Some(f64::NAN),
            _ => None,
        };
        let Some(x) = parsed else { return self.unexpected("a float") };
        self.advance()?;
        Ok(x)
    }

    pub(super) fn bool(&mut self) -> Parse<bool> {
        let b = match self.token {
            Token::Word("true") => true,
            Token::Word("false") => false,
            _ => return self.unexpected("`true` or `false`"),
        };
        self.advance()?;
        Ok(b)
    }

    fn element(&mut self, dtype: DType) -> Parse<Scalar> {
        if dtype == DType::Bool {
            return self.bool().map(Scalar::Bool);
        }
        if dtype.is_float() {
            // Read at the precision at which it was written: through f64 an f32 could be rounded twice.
            if dtype != DType::F64
                && let Token::Float(s) | Token::Int(s) = self.token
            {
                let Ok(x) = s.parse::<f32>() else { return self.unexpected("a float") };
                self.advance()?;
                return Ok(Scalar::Float(x.into()));
            }
            return self.float().map(Scalar::Float);
        }
        let at = self.position;
        let i = self.int("an integer")?;
        let (min, max) = match dtype {
            DType::U8 => (0, 255),
            DType::U16 => (0, 65535),
            DType::I64 => (i64::MIN, i64::MAX),
            other => {
                let half = 1i64 << (other.bits() - 1);
                (-half, half - 1)
            }
        };
        if !(min..=max).contains(&i) {
            return Err(invalid(at, format!("found {i}, which does not fit in {dtype}")));
        }
        Ok(Scalar::Int(i))
    }

    /// The bytes of exactly `numel` elements in `[…]`.
    pub(super) fn elements(&mut self, dtype: DType, numel: usize) -> Parse<AlignedBytes> {
        let at = self.position;
        let mut items = Vec::new();
        self.list("[", "]", |p| {
            items.push(p.element(dtype)?);
            Ok(())
        })?;
        if items.len() != numel {
            return Err(invalid(at, format!("found {} elements, the sizes say {numel}", items.len())));
        }
        let bytes = dtype.bytes_for(numel).unwrap_or(0);
        let mut out = AlignedBytes::zeroed(bytes);
        for (i, s) in items.into_iter().enumerate() {
            if write_scalar(dtype, &mut out, i, s).is_none() {
                return Err(invalid(at, format!("element {i} has no place in {bytes} bytes")));
            }
        }
        Ok(out)
    }

    /// `hex "00ff"` or `1234 bytes`.
    pub(super) fn blob(&mut self) -> Parse<Vec<u8>> {
        let at = self.position;
        if self.eat_word("hex")? {
            let digits = self.string("hexadecimal digits")?;
            let nibble = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let pairs = digits.as_bytes().chunks(2);
            let bytes: Option<Vec<u8>> = pairs
                .map(|p| match p {
                    [a, b] => Some(nibble(*a)? << 4 | nibble(*b)?),
                    _ => None,
                })
                .collect();
            return bytes.ok_or_else(|| invalid(at, "hex digits do not come in pairs".to_owned()));
        }
        if !matches!(self.token, Token::Int(_)) {
            return self.unexpected("`hex \"…\"` or a number of bytes");
        }
        let n = self.size("a number of bytes")?;
        let total = self.elided.saturating_add(n);
        self.limit("bytes of payloads given by their length", total, MAX_ELIDED_BYTES)?;
        self.elided = total;
        self.expect_word("bytes")?;
        Ok(vec![0; n])
    }
}

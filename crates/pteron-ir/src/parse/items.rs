//! Declarations of a module.

use std::sync::Arc;

use pteron_tensor::{DType, MemorySource, Tensor, checked_numel, read_scalar, write_scalar};

use super::lexer::{Token, invalid};
use super::{Parse, Parser, numbered};
use crate::entity::{ConstId, Id};
use crate::location::Location;
use crate::module::{Buffer, ConstData, Constant, Delegate, MetaValue, Metadata, Module};

impl Parser<'_> {
    pub(super) fn module(&mut self) -> Parse<()> {
        self.parsed.lines.set(Location::Module, self.position.line);
        self.expect_word("module")?;
        self.parsed.module = Module::new(&self.string("the module's name")?);
        self.expect("{")?;
        loop {
            let line = self.position.line;
            if self.eat("}")? {
                break;
            } else if self.eat_word("const")? {
                self.constant(line)?;
            } else if self.eat_word("buffer")? {
                self.buffer(line)?;
            } else if self.eat_word("delegate")? {
                self.delegate(line)?;
            } else if self.eat_word("metadata")? {
                self.metadata(line)?;
            } else if self.eat_word("graph")? {
                self.graph(line)?;
            } else {
                return self.unexpected("`const`, `buffer`, `delegate`, `metadata`, `graph` or `}`");
            }
        }
        if self.token == Token::End { Ok(()) } else { self.unexpected("the end of the text") }
    }

    /// The declared id, which must be the next one: ids are positions.
    fn declared_id(&mut self, letter: char, next: usize) -> Parse<()> {
        match self.token {
            Token::Word(w) if numbered(w, letter) == Some(next) => self.advance().map(|_| ()),
            _ => self.unexpected(format!("`{letter}{next}`: ids are given in order")),
        }
    }

    fn constant(&mut self, line: usize) -> Parse<()> {
        let next = self.parsed.module.constants.len();
        self.declared_id('c', next)?;
        let name = self.string("the constant's name")?;
        self.expect(":")?;
        let ty = self.tensor_type()?;
        let data = if self.eat_word("external")? {
            ConstData::External(self.string("the external key")?.into())
        } else if matches!(self.token, Token::Punct("=")) {
            let at = self.position;
            self.advance()?;
            let sizes = ty.fixed_sizes().filter(|_| ty.order.is_none());
            let Some((sizes, numel)) = sizes.and_then(|s| checked_numel(&s).ok().map(|n| (s, n))) else {
                return Err(invalid(
                    at,
                    format!("values of a constant of type {ty}, which is not static and row-major"),
                ));
            };
            let bytes = self.elements(ty.dtype, numel)?;
            let source = MemorySource::new(&name, ty.dtype, &sizes, bytes).map_err(|e| invalid(at, e.to_string()))?;
            ConstData::Source(Arc::new(source))
        } else {
            ConstData::Missing
        };
        let id = self.parsed.module.constants.push(Constant { name: name.into(), ty, data });
        self.parsed.lines.set(Location::Constant(id), line);
        Ok(())
    }

    fn buffer(&mut self, line: usize) -> Parse<()> {
        let next = self.parsed.module.buffers.len();
        self.declared_id('b', next)?;
        let name = self.string("the buffer's name")?.into();
        self.expect(":")?;
        let ty = self.tensor_type()?;
        let mut init = None;
        if self.eat("=")? {
            let Token::Word(word) = self.token else { return self.unexpected("a constant `c0`") };
            let Some(c) = numbered(word, 'c') else { return self.unexpected("a constant `c0`") };
            self.advance()?;
            init = Some(ConstId::from_index(c));
        }
        let id = self.parsed.module.buffers.push(Buffer { name, ty, init });
        self.parsed.lines.set(Location::Buffer(id), line);
        Ok(())
    }

    fn delegate(&mut self, line: usize) -> Parse<()> {
        let next = self.parsed.module.delegates.len();
        self.declared_id('d', next)?;
        let backend = self.string("the backend's name")?.into();
        let payload = self.blob()?.into();
        let (mut compile_specs, mut named_data) = (Vec::new(), Vec::new());
        loop {
            if self.eat_word("spec")? {
                let key = self.string("a key")?;
                self.expect("=")?;
                compile_specs.push((key.into(), self.blob()?));
            } else if self.eat_word("data")? {
                let key = self.string("a key")?;
                self.expect("=")?;
                let bytes = self.blob()?;
                let source = MemorySource::of(&key, &[bytes.len()], &bytes)
                    .map_err(|e| invalid(self.position, e.to_string()))?;
                named_data.push((key.into(), Arc::new(source) as pteron_tensor::SharedSource));
            } else {
                break;
            }
        }
        let id = self.parsed.module.delegates.push(Delegate { backend, payload, compile_specs, named_data });
        self.parsed.lines.set(Location::Delegate(id), line);
        Ok(())
    }

    fn metadata(&mut self, line: usize) -> Parse<()> {
        let name = self.name("the method's name")?.into();
        self.expect("=")?;
        let mut values = Vec::new();
        self.list("[", "]", |p| {
            values.push(p.meta_value()?);
            Ok(())
        })?;
        let index = self.parsed.module.metadata.len();
        self.parsed.module.metadata.push(Metadata { name, values });
        self.parsed.lines.set(Location::Metadata(index), line);
        Ok(())
    }

    fn meta_value(&mut self) -> Parse<MetaValue> {
        Ok(match self.token {
            Token::Int(_) => MetaValue::Int(self.int("an integer")?),
            Token::Float(_) | Token::Word("inf" | "nan") => MetaValue::Float(self.float()?),
            Token::Word("true" | "false") => MetaValue::Bool(self.bool()?),
            Token::Str(_) => MetaValue::Str(self.string("a string")?.into()),
            Token::Word(w) if DType::ALL.iter().any(|d| d.name() == w) => MetaValue::Tensor(self.meta_tensor()?),
            _ => return self.unexpected("an integer, a float, true, false, a string or a tensor `f32[2] = […]`"),
        })
    }

    fn meta_tensor(&mut self) -> Parse<Tensor> {
        let at = self.position;
        let ty = self.tensor_type()?;
        self.expect("=")?;
        let bad = |why: &dyn std::fmt::Display| invalid(at, format!("no tensor of type {ty} can be made: {why}"));
        let sizes = ty.fixed_sizes().ok_or_else(|| bad(&"its sizes are not known"))?;
        let numel = checked_numel(&sizes).map_err(|e| bad(&e))?;
        let bytes = self.elements(ty.dtype, numel)?;
        let Some(order) = &ty.order else {
            return Tensor::from_bytes(ty.dtype, &sizes, bytes).map_err(|e| bad(&e));
        };
        // The elements are listed row-major, whatever their places in memory.
        let mut t = Tensor::zeros_in_order(ty.dtype, &sizes, order).map_err(|e| bad(&e))?;
        let view = t.view();
        let positions: Vec<usize> = (0..numel).map(|i| view.position(i)).collect();
        for (i, at) in positions.into_iter().enumerate() {
            if let Some(s) = read_scalar(ty.dtype, &bytes, i) {
                write_scalar(ty.dtype, t.bytes_mut(), at, s);
            }
        }
        Ok(t)
    }
}

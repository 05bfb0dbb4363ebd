//! The text form, read.
//!
//! What [`crate::print`] writes reads back to the same module, and prints as the same text. Beyond the canonical text, a
//! type may be written `_` (or all of a node's left out) and is inferred; a debug handle may be left out and is chosen;
//! arguments may be given by name; `;` begins a comment. Values may be used before they are defined, because such a text is
//! what the verifier is tested with: reading checks the form, [`crate::verify`] the meaning.
//!
//! Text is foreign input: reading it never panics, and sizes and depths are limited by the constants of this module.

mod graphs;
mod infer;
mod items;
mod lexer;
mod literals;

use crate::location::{LineMap, Location};
use crate::module::Module;
use crate::op::UnknownOp;

use lexer::{Lexer, Position, Token, invalid};

/// Longest text in bytes.
pub const MAX_TEXT_BYTES: usize = 256 << 20;
/// Deepest nesting of regions.
pub const MAX_REGION_DEPTH: usize = 32;
/// Most dimensions of a tensor: ExecuTorch's own limit.
pub const MAX_RANK: usize = 16;
/// Longest payload, in bytes, that is given by its length only; all such payloads of a text together.
pub const MAX_ELIDED_BYTES: usize = 16 << 20;

/// Why a text is no module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: ParseErrorKind,
}

/// What is wrong at a place of a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    /// Something else must stand there.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What must.
        expected: String,
    },
    /// No operator of the table.
    #[error(transparent)]
    UnknownOp(#[from] UnknownOp),
    /// More than is read.
    #[error("{what}: {found}, the limit is {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// Anything else.
    #[error("{0}")]
    Invalid(String),
}

/// What was inferred for a node that was written without types.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// The node.
    pub location: Location,
    /// Its output types as text, or why there are none.
    pub result: Result<String, String>,
}

/// A module and how it stands in its text.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The module.
    pub module: Module,
    /// The line of each of its places.
    pub lines: LineMap,
    /// Nodes written without types, in order.
    pub inferred: Vec<Inferred>,
}

/// Reads a module.
///
/// # Errors
/// [`ParseError`] at the first place that is not of the text form, or where a type that was left out cannot be inferred.
pub fn module(text: &str) -> Result<Module, ParseError> {
    let parsed = module_with_lines(text)?;
    for i in &parsed.inferred {
        if let Err(reason) = &i.result {
            let at = Position { line: parsed.lines.line(i.location), column: 1 };
            return Err(invalid(at, format!("no type can be inferred: {reason}")));
        }
    }
    Ok(parsed.module)
}

/// Reads a module, keeping the lines of its places. A type that was left out and cannot be inferred is no error here: the
/// value gets type `bool`, and [`Parsed::inferred`] says why.
///
/// # Errors
/// [`ParseError`] at the first place that is not of the text form.
pub fn module_with_lines(text: &str) -> Result<Parsed, ParseError> {
    if text.len() > MAX_TEXT_BYTES {
        let kind = ParseErrorKind::Limit { what: "bytes of text", found: text.len(), limit: MAX_TEXT_BYTES };
        return Err(ParseError { line: 1, column: 1, kind });
    }
    let mut lexer = Lexer::new(text);
    let (token, position) = lexer.next()?;
    let mut p = Parser {
        lexer,
        token,
        position,
        elided: 0,
        parsed: Parsed { module: Module::default(), lines: LineMap::default(), inferred: Vec::new() },
    };
    p.module()?;
    Ok(p.parsed)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The token that is read next, and where it begins.
    token: Token<'t>,
    position: Position,
    /// Bytes of payloads given by their length so far.
    elided: usize,
    parsed: Parsed,
}

type Parse<T> = Result<T, ParseError>;

impl<'t> Parser<'t> {
    fn advance(&mut self) -> Parse<Token<'t>> {
        let (next, position) = self.lexer.next()?;
        self.position = position;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn unexpected<T>(&self, expected: impl Into<String>) -> Parse<T> {
        let kind = ParseErrorKind::Unexpected { found: self.token.to_string(), expected: expected.into() };
        Err(ParseError { line: self.position.line, column: self.position.column, kind })
    }

    fn limit(&self, what: &'static str, found: usize, limit: usize) -> Parse<()> {
        if found <= limit {
            return Ok(());
        }
        let kind = ParseErrorKind::Limit { what, found, limit };
        Err(ParseError { line: self.position.line, column: self.position.column, kind })
    }

    /// True, and moves on, if the next token is `p`.
    fn eat(&mut self, p: &str) -> Parse<bool> {
        let hit = matches!(self.token, Token::Punct(q) if q == p);
        if hit {
            self.advance()?;
        }
        Ok(hit)
    }

    fn expect(&mut self, p: &str) -> Parse<()> {
        if self.eat(p)? { Ok(()) } else { self.unexpected(format!("`{p}`")) }
    }

    /// True, and moves on, if the next token is the word `w`.
    fn eat_word(&mut self, w: &str) -> Parse<bool> {
        let hit = self.token == Token::Word(w);
        if hit {
            self.advance()?;
        }
        Ok(hit)
    }

    fn expect_word(&mut self, w: &str) -> Parse<()> {
        if self.eat_word(w)? { Ok(()) } else { self.unexpected(format!("`{w}`")) }
    }

    fn string(&mut self, what: &str) -> Parse<String> {
        match &mut self.token {
            Token::Str(s) => {
                let s = std::mem::take(s);
                self.advance()?;
                Ok(s)
            }
            _ => self.unexpected(format!("{what} in quotes")),
        }
    }

    /// A bare or quoted name.
    fn name(&mut self, what: &str) -> Parse<String> {
        match &mut self.token {
            Token::Word(w) if !w.contains(['.', ':']) => {
                let w = (*w).to_owned();
                self.advance()?;
                Ok(w)
            }
            Token::Str(_) => self.string(what),
            _ => self.unexpected(what),
        }
    }

    fn int(&mut self, what: &str) -> Parse<i64> {
        let Token::Int(s) = self.token else { return self.unexpected(what) };
        let Ok(i) = s.parse() else { return self.unexpected("an integer of 64 bits") };
        self.advance()?;
        Ok(i)
    }

    fn size(&mut self, what: &str) -> Parse<usize> {
        let at = self.position;
        let n = self.int(what)?;
        usize::try_from(n).map_err(|_| invalid(at, format!("found {n}, expected {what}")))
    }

    /// `item` between `open` and `close`, commas between.
    fn list(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Parse<()>) -> Parse<()> {
        self.expect(open)?;
        if self.eat(close)? {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.eat(close)? {
                return Ok(());
            }
            if !self.eat(",")? {
                return self.unexpected(format!("`,` or `{close}`"));
            }
        }
    }
}

/// The number of an id such as `c12`, if `word` is one with this letter.
fn numbered(word: &str, letter: char) -> Option<usize> {
    let digits = word.strip_prefix(letter)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = if plain { digits.parse().ok()? } else { return None };
    Some(number as usize)
}

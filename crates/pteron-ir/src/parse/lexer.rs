//! Tokens of the text form.

use std::fmt;

use super::{ParseError, ParseErrorKind};

/// One token. Numbers keep their spelling, so that each place reads them at its own precision.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A word: a keyword, an operator's name with its `::` and `.`, an id such as `c0`.
    Word(&'t str),
    /// `%12`.
    Value(u32),
    /// `#12`.
    Handle(u32),
    /// `12`, `-3`.
    Int(&'t str),
    /// `1.5`, `-2e-3`, `-inf`.
    Float(&'t str),
    /// A string in quotes, unescaped.
    Str(String),
    /// `(`, `]`, `..=` and the like.
    Punct(&'static str),
    /// The end of the text.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |s: &str| match s.char_indices().nth(40) {
            Some((at, _)) => format!("{}…", &s[..at]),
            None => s.to_owned(),
        };
        match self {
            Token::Word(s) | Token::Int(s) | Token::Float(s) => write!(f, "`{}`", short(s)),
            Token::Value(n) => write!(f, "`%{n}`"),
            Token::Handle(n) => write!(f, "`#{n}`"),
            Token::Str(s) => write!(f, "the string {:?}", short(s)),
            Token::Punct(s) => write!(f, "`{s}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A place in the text, both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    position: Position,
}

const PUNCTUATION: &[&str] = &["..=", "(", ")", "[", "]", "{", "}", ",", ":", "=", "@", "?", "*", "+", "-"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Lexer<'t> {
        Lexer { text, at: 0, position: Position { line: 1, column: 1 } }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// True if `=` follows the token that was read last.
    pub(super) fn at_equals(&self) -> bool {
        self.rest().trim_start_matches([' ', '\t', '\r', '\n']).starts_with('=')
    }

    /// Moves over the first `n` bytes of the rest and gives them.
    fn take(&mut self, n: usize) -> &'t str {
        let taken = &self.text[self.at..self.at + n];
        for c in taken.chars() {
            if c == '\n' {
                self.position = Position { line: self.position.line + 1, column: 1 };
            } else {
                self.position.column += 1;
            }
        }
        self.at += n;
        taken
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            if blank > 0 {
                self.take(blank);
            } else if rest.starts_with(';') {
                self.take(rest.find('\n').unwrap_or(rest.len()));
            } else {
                return;
            }
        }
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token<'t>, Position), ParseError> {
        self.skip_blank();
        let start = self.position;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        let second = rest[first.len_utf8()..].chars().next();
        let token = match first {
            '"' => self.string(start)?,
            '%' | '#' if second.is_some_and(|c| c.is_ascii_digit()) => {
                let digits = rest[1..].len() - rest[1..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let spelled = self.take(1 + digits);
                let n = spelled[1..]
                    .parse()
                    .map_err(|_| invalid(start, format!("the number of `{spelled}` does not fit in 32 bits")))?;
                if first == '%' { Token::Value(n) } else { Token::Handle(n) }
            }
            '-' if negative_infinity(rest) => Token::Float(self.take(4)),
            c if c.is_ascii_digit() || (c == '-' && second.is_some_and(|c| c.is_ascii_digit())) => self.number(),
            c if c.is_ascii_alphabetic() || c == '_' => Token::Word(self.word()),
            other => match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                Some(p) => {
                    self.take(p.len());
                    Token::Punct(p)
                }
                None => return Err(invalid(start, format!("found the character {other:?}, which begins nothing"))),
            },
        };
        Ok((token, start))
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let mut end = 0;
        loop {
            let tail = &rest[end..];
            end += tail.find(|c| !is_word(c)).unwrap_or(tail.len());
            let tail = &rest[end..];
            let joint = if tail.starts_with("::") { 2 } else { usize::from(tail.starts_with('.')) };
            if joint == 0 || !tail[joint..].starts_with(is_word) {
                return self.take(end);
            }
            end += joint;
        }
    }

    fn number(&mut self) -> Token<'t> {
        let rest = self.rest();
        let digits = |from: usize| {
            let tail = &rest[from..];
            from + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len())
        };
        let mut end = digits(usize::from(rest.starts_with('-')));
        let mut float = false;
        let tail = &rest[end..];
        if tail.starts_with('.') && tail[1..].starts_with(|c: char| c.is_ascii_digit()) {
            float = true;
            end = digits(end + 1);
        }
        let tail = &rest[end..];
        if tail.starts_with(['e', 'E']) {
            let sign = usize::from(tail[1..].starts_with(['+', '-']));
            if tail[1 + sign..].starts_with(|c: char| c.is_ascii_digit()) {
                float = true;
                end = digits(end + 1 + sign);
            }
        }
        let spelled = self.take(end);
        if float { Token::Float(spelled) } else { Token::Int(spelled) }
    }

    fn string(&mut self, start: Position) -> Result<Token<'t>, ParseError> {
        let unclosed = || invalid(start, "a string is not closed on its line".to_owned());
        self.take(1);
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.find(['"', '\\', '\n']).ok_or_else(unclosed)?;
            out.push_str(self.take(plain));
            let here = self.position;
            let mark = self.take(1);
            match mark {
                "\"" => return Ok(Token::Str(out)),
                "\n" => return Err(unclosed()),
                _ => {}
            }
            let rest = self.rest();
            let c = match rest.chars().next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('"' | '\\')) => c,
                Some('u') => {
                    let code = rest[1..].strip_prefix('{').and_then(|r| r.split_once('}')).map(|(code, _)| code);
                    let code = code.filter(|c| c.len() <= 6 && c.bytes().all(|b| b.is_ascii_hexdigit()));
                    let c = code.and_then(|c| u32::from_str_radix(c, 16).ok()).and_then(char::from_u32);
                    let (Some(code), Some(c)) = (code, c) else {
                        return Err(invalid(here, "`\\u` is not followed by a code point `{1f}`".to_owned()));
                    };
                    out.push(c);
                    self.take(code.len() + 3);
                    continue;
                }
                _ => return Err(invalid(here, "a backslash in a string is followed by n, t, u, \" or \\".to_owned())),
            };
            out.push(c);
            self.take(1);
        }
    }
}

fn negative_infinity(rest: &str) -> bool {
    rest.starts_with("-inf") && !rest[4..].starts_with(is_word)
}

pub(super) fn invalid(at: Position, message: String) -> ParseError {
    ParseError { line: at.line, column: at.column, kind: ParseErrorKind::Invalid(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text);
        let mut out = Vec::new();
        loop {
            match lexer.next() {
                Ok((Token::End, _)) => return out,
                Ok((t, _)) => out.push(format!("{t}")),
                Err(e) => {
                    out.push(e.to_string());
                    return out;
                }
            }
        }
    }

    #[test]
    fn words_numbers_and_punctuation() {
        assert_eq!(
            tokens("%2 = aten::add.Tensor(c0, -1e-05) : f32[2*s0-1] ; note\n#3 1..=31 -inf"),
            [
                "`%2`",
                "`=`",
                "`aten::add.Tensor`",
                "`(`",
                "`c0`",
                "`,`",
                "`-1e-05`",
                "`)`",
                "`:`",
                "`f32`",
                "`[`",
                "`2`",
                "`*`",
                "`s0`",
                "`-1`",
                "`]`",
                "`#3`",
                "`1`",
                "`..=`",
                "`31`",
                "`-inf`"
            ]
        );
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(Lexer::new(r#""a\"\\\n\u{1f}é""#).next().unwrap().0, Token::Str("a\"\\\n\u{1f}é".into()));
        assert_eq!(tokens("\"ab\ncd\""), ["line 1, column 1: a string is not closed on its line"]);
        assert!(tokens(r#""\u{d800}""#)[0].contains("code point"));
        assert!(tokens("\n  ~")[0].starts_with("line 2, column 3: found the character '~'"));
    }
}

//! Lists and dictionaries of a template, counted.
//!
//! The engine charges fuel for what it creates, but comparing, hashing or writing out a value that holds the same list many
//! times over, or is nested very deep, costs far more than creating it did. So every list and dictionary that a template
//! can keep is one of this module: it knows its depth, which has a limit, and it pays for every look into it out of one
//! [`Work`] account. When that is empty the values look empty, whatever walked over them stops, and rendering fails.
//!
//! [`rewrite`] passes literals (`[…]`, `{…}`, `(…, …)`) and what `set` stores through the function [`NAME`]; the filters and
//! functions that nest values pass their results through it as well.

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The function that counted values come from.
const NAME: &str = "__counted";
/// The deepest value of a template.
pub(super) const MAX_VALUE_DEPTH: usize = 64;
/// Looks into values for each unit of fuel.
const LOOKS_PER_FUEL: u64 = 2;
/// Bytes of text that one look pays for.
const BYTES_PER_LOOK: usize = 64;
/// The deepest nesting of brackets in a template.
const MAX_BRACKETS: usize = 100;

/// What a rendering may still look at.
#[derive(Debug)]
pub(super) struct Work(AtomicI64);

impl Work {
    pub(super) fn new(fuel: u64) -> Arc<Self> {
        let looks = i64::try_from(fuel.saturating_mul(LOOKS_PER_FUEL)).unwrap_or(i64::MAX);
        Arc::new(Self(AtomicI64::new(looks)))
    }

    /// Takes from the account; false if there was not enough.
    fn pay(&self, looks: usize) -> bool {
        let looks = i64::try_from(looks).unwrap_or(i64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        let left = before.saturating_sub(looks);
        self.0.store(left, Ordering::Relaxed);
        left >= 0
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) < 0
    }

    /// Pays for an item.
    fn look(&self, item: &Value) -> bool {
        self.pay(1 + item.as_str().map_or(0, |text| text.len() / BYTES_PER_LOOK))
    }
}

#[derive(Debug)]
struct List {
    items: Vec<Value>,
    depth: usize,
    work: Arc<Work>,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let item = self.items.get(key.as_usize()?)?;
        self.work.look(item).then(|| item.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        if self.work.pay(1) { Enumerator::Seq(self.items.len()) } else { Enumerator::Empty }
    }
}

/// Keys keep their order.
#[derive(Debug)]
struct Dictionary {
    items: Vec<(Value, Value)>,
    depth: usize,
    work: Arc<Work>,
}

impl Object for Dictionary {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let (place, (_, item)) = self.items.iter().enumerate().find(|(_, (k, _))| k == key)?;
        (self.work.pay(place / 8) && self.work.look(item)).then(|| item.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        if self.work.pay(1 + self.items.len()) {
            Enumerator::Values(self.items.iter().map(|(key, _)| key.clone()).collect())
        } else {
            Enumerator::Empty
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A list of the items.
pub(super) fn list(items: Vec<Value>, work: &Arc<Work>) -> Value {
    let depth = 1 + items.iter().map(depth).max().unwrap_or(0);
    Value::from_object(List { items, depth, work: work.clone() })
}

/// A dictionary of the items.
pub(super) fn dictionary(items: Vec<(Value, Value)>, work: &Arc<Work>) -> Value {
    let depth = 1 + items.iter().map(|(key, value)| depth(key).max(depth(value))).max().unwrap_or(0);
    Value::from_object(Dictionary { items, depth, work: work.clone() })
}

/// How deep a counted value is; 0 for text and numbers.
fn depth(value: &Value) -> usize {
    match value.as_object() {
        Some(object) => match (object.downcast_ref::<List>(), object.downcast_ref::<Dictionary>()) {
            (Some(list), _) => list.depth,
            (None, Some(dictionary)) => dictionary.depth,
            (None, None) => 0,
        },
        None => 0,
    }
}

/// The value with all its lists and dictionaries counted.
fn counted(value: &Value, work: &Arc<Work>, level: usize) -> Result<Value, Error> {
    let refuse = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    let Some(object) = value.as_object() else { return Ok(value.clone()) };
    let below = depth(value);
    if level + below > MAX_VALUE_DEPTH {
        return Err(refuse("a value is nested too deeply"));
    }
    if below > 0 {
        return Ok(value.clone());
    }
    let pay = |looks| if work.pay(looks) { Ok(()) } else { Err(Error::from(ErrorKind::OutOfFuel)) };
    let made = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                pay(1)?;
                items.push(counted(&item, work, level + 1)?);
            }
            list(items, work)
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                pay(1)?;
                let item = object.get_value(&key).unwrap_or_default();
                items.push((counted(&key, work, level + 1)?, counted(&item, work, level + 1)?));
            }
            dictionary(items, work)
        }
        _ => return Ok(value.clone()),
    };
    if level + depth(&made) > MAX_VALUE_DEPTH {
        return Err(refuse("a value is nested too deeply"));
    }
    Ok(made)
}

/// Adds the function that counts, and puts those in their place that nest values.
pub(super) fn install(env: &mut Environment<'_>, work: &Arc<Work>) {
    use minijinja::{filters, functions};
    let account = work.clone();
    env.add_function(NAME, move |value: Value| counted(&value, &account, 0));
    let nesting = [
        ("zip", Value::from_function(filters::zip)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("chain", Value::from_function(filters::chain)),
        ("items", Value::from_function(filters::items)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("groupby", Value::from_function(filters::groupby)),
    ];
    for (name, original) in nesting {
        let account = work.clone();
        env.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<Value>| {
            counted(&original.call(state, &arguments)?, &account, 0)
        });
    }
    let (account, original) = (work.clone(), Value::from_function(functions::dict));
    env.add_function("dict", move |state: &mut State<'_, '_>, arguments: Rest<Value>| {
        counted(&original.call(state, &arguments)?, &account, 0)
    });
    let (account, original) = (work.clone(), Value::from_function(functions::namespace));
    env.add_function("namespace", move |state: &mut State<'_, '_>, values: Kwargs| {
        let names: Vec<String> = values.args().map(str::to_owned).collect();
        let mut pairs = Vec::with_capacity(names.len());
        for name in names {
            let value: Value = values.get(&name)?;
            pairs.push((name, counted(&value, &account, 0)?));
        }
        original.call(state, &[Value::from(Kwargs::from_iter(pairs))])
    });
}

/// An open bracket.
struct Bracket {
    /// Where what stands in it starts to be wrapped, in the output.
    at: usize,
    close: u8,
    wrap: bool,
    /// Whether a comma stood directly in it, which makes a tuple of parentheses.
    comma: bool,
}

/// What the tokens before say about the next one.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// A value has ended: a bracket here is an index or a call.
    Operand,
    /// `%`, whose tuple is a list of arguments.
    Percent,
    Other,
}

/// The part of a statement.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Names that are given values.
    Target,
    /// Values.
    Value,
}

/// Words behind which a value starts.
const WORDS: [&str; 13] =
    ["in", "not", "and", "or", "if", "else", "elif", "is", "for", "set", "with", "do", "recursive"];

/// Passes literals and stored values through [`NAME`]. Text outside tags stays as it is; `None` if brackets are nested more
/// than [`MAX_BRACKETS`] deep.
pub(super) fn rewrite(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        match tail.as_bytes().get(1) {
            Some(b'#') => {
                let length = tail.find("#}").map_or(tail.len(), |end| end + 2);
                out.push_str(&tail[..length]);
                rest = &tail[length..];
            }
            Some(b'{') => {
                out.push_str("{{");
                rest = tag(&tail[2..], b"}}", &mut out)?;
            }
            Some(b'%') => {
                out.push_str("{%");
                let start = out.len();
                rest = tag(&tail[2..], b"%}", &mut out)?;
                let word = out[start..].trim_end_matches("%}").trim_matches(['-', '+']).trim();
                if word == "raw" {
                    let end = super::generation::raw_length(rest);
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
            _ => {
                out.push('{');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    Some(out)
}

/// Rewrites what stands in one tag, up to and with `close`; returns what is behind it.
fn tag<'s>(text: &'s str, close: &[u8; 2], out: &mut String) -> Option<&'s str> {
    let bytes = text.as_bytes();
    let mut brackets: Vec<Bracket> = Vec::new();
    let (mut before, mut part) = (Before::Other, Part::Value);
    let (mut statement, mut stored, mut commas) = ("", None, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &text[at..];
        if brackets.is_empty() {
            // White-space control belongs to the end of the tag.
            let sign = usize::from(matches!(byte, b'-' | b'+'));
            if bytes.get(at + sign..at + sign + 2) == Some(close) {
                if let Some(start) = stored {
                    wrap(out, start, commas);
                }
                out.push_str(&rest[..sign + 2]);
                return Some(&rest[sign + 2..]);
            }
        }
        let length = token_length(rest);
        let token = &rest[..length];
        match byte {
            b'[' | b'{' | b'(' => {
                if brackets.len() == MAX_BRACKETS {
                    return None;
                }
                let literal = byte == b'{' || before != Before::Operand;
                let wrap = literal && part == Part::Value && before != Before::Percent;
                let close = if byte == b'(' { b')' } else { byte + 2 };
                brackets.push(Bracket { at: out.len(), close, wrap, comma: false });
                out.push_str(token);
                before = Before::Other;
            }
            b']' | b'}' | b')' => {
                out.push_str(token);
                if brackets.last().is_some_and(|b| b.close == byte)
                    && let Some(bracket) = brackets.pop()
                    && bracket.wrap
                    && (byte != b')' || bracket.comma)
                {
                    wrap(out, bracket.at, false);
                }
                before = Before::Operand;
            }
            b',' => {
                match brackets.last_mut() {
                    Some(bracket) => bracket.comma = true,
                    None if statement == "with" => part = Part::Target,
                    None => commas |= stored.is_some(),
                }
                out.push(',');
                before = Before::Other;
            }
            b'=' if length == 1 => {
                out.push('=');
                if brackets.is_empty() && part == Part::Target {
                    part = Part::Value;
                    // What `namespace` makes must stay what it is.
                    let value = text[at + 1..].trim_start();
                    if statement == "set" && !value.starts_with("namespace") {
                        stored = Some(out.len());
                    }
                }
                before = Before::Other;
            }
            _ => {
                out.push_str(token);
                let is_word = byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii();
                if is_word && statement.is_empty() {
                    statement = token;
                    if matches!(token, "set" | "for" | "with") && close == b"%}" {
                        part = Part::Target;
                    }
                }
                if token == "in" && statement == "for" && brackets.is_empty() {
                    part = Part::Value;
                }
                before = match byte {
                    _ if byte.is_ascii_whitespace() => before,
                    b'%' => Before::Percent,
                    b'"' | b'\'' => Before::Operand,
                    _ if byte.is_ascii_digit() => Before::Operand,
                    _ if is_word && !WORDS.contains(&token) => Before::Operand,
                    _ => Before::Other,
                };
            }
        }
        at += length;
    }
    Some("")
}

/// Puts what stands in `out` from `start` on into a call; `tuple` makes its items one value first.
fn wrap(out: &mut String, start: usize, tuple: bool) {
    let open = if tuple { "((" } else { "(" };
    out.insert_str(start, &format!(" {NAME}{open}"));
    out.push_str(if tuple { "))" } else { ")" });
}

/// Length of the token that `text` starts with: a string, a word or number, an operator, white space.
fn token_length(text: &str) -> usize {
    let run = |is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let mut chars = text.chars();
    match chars.next() {
        Some(quote @ ('"' | '\'')) => {
            let mut escaped = false;
            for (at, c) in text.char_indices().skip(1) {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    c if c == quote => return at + 1,
                    _ => {}
                }
            }
            text.len()
        }
        Some(c) if c.is_ascii_whitespace() => run(|c| c.is_ascii_whitespace()),
        Some(c) if c.is_alphanumeric() || c == '_' => run(|c| c.is_alphanumeric() || c == '_'),
        Some('=' | '!' | '<' | '>') if text.as_bytes().get(1) == Some(&b'=') => 2,
        Some(c) => c.len_utf8(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn literals_and_stored_values_are_counted() {
        for (source, expected) in [
            ("{{ [1, x[0]] }}", "{{  __counted([1, x[0]]) }}"),
            ("{{ f(a)[1:] }}", "{{ f(a)[1:] }}"),
            ("{{ {'a': {'b': 1}} }}", "{{  __counted({'a':  __counted({'b': 1})}) }}"),
            ("{{ (a) + (b, c) }}", "{{ (a) +  __counted((b, c)) }}"),
            ("{{ '%s' % (a, b) }}", "{{ '%s' % (a, b) }}"),
            ("{{ x in [1] and not [2] }}", "{{ x in  __counted([1]) and not  __counted([2]) }}"),
            ("{% for (a, b) in [c] %}", "{% for (a, b) in  __counted([c]) %}"),
            ("{%- set x = y -%}", "{%- set x = __counted( y )-%}"),
            ("{% set ns.x = a, b %}", "{% set ns.x = __counted(( a, b ))%}"),
            ("{% set ns = namespace(x=[1]) %}", "{% set ns = namespace(x= __counted([1])) %}"),
            ("{% set (a, b) = c %}", "{% set (a, b) = __counted( c )%}"),
            ("{% set x %}[1]{% endset %}", "{% set x %}[1]{% endset %}"),
            ("{% with a = [1], (b, c) = d %}", "{% with a =  __counted([1]), (b, c) = d %}"),
            ("{% if a == [1] %}", "{% if a ==  __counted([1]) %}"),
            ("{% macro m(a, b=[1]) %}", "{% macro m(a, b= __counted([1])) %}"),
            ("{% raw %}{{ [1] }}{% endraw %}{{ [] }}", "{% raw %}{{ [1] }}{% endraw %}{{  __counted([]) }}"),
            ("{# [1] #}{ [1] {{ '[' ~ \"]}}\" }}", "{# [1] #}{ [1] {{ '[' ~ \"]}}\" }}"),
            ("{{ [1", "{{ [1"),
            ("é{{ é[1] }}", "é{{ é[1] }}"),
        ] {
            assert_eq!(rewrite(source).as_deref(), Some(expected), "{source}");
        }
        assert_eq!(rewrite(&format!("{{{{ {} }}}}", "[".repeat(200))), None);
    }
}

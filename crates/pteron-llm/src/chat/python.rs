//! Values as Python shows them: `str`, `repr`, `json.dumps`.

use super::own::{self, MAX_VALUE_DEPTH, Work};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::sync::Arc;

/// A template value of a JSON value.
pub(super) fn to_value(json: &Json, work: &Arc<Work>) -> Value {
    match json {
        Json::Array(items) => own::list(items.iter().map(|item| to_value(item, work)).collect(), work),
        Json::Object(map) => {
            own::dictionary(map.iter().map(|(k, v)| (Value::from(k.as_str()), to_value(v, work))).collect(), work)
        }
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// About how much data a value is, in bytes.
pub(super) fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len() + 8,
        Json::Array(items) => 8 + items.iter().map(size).sum::<usize>(),
        Json::Object(map) => 8 + map.iter().map(|(key, value)| key.len() + 8 + size(value)).sum::<usize>(),
        _ => 8,
    }
}

/// What `{{ value }}` writes: Python's `str(value)`, nothing for an undefined one.
pub(super) fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Ok(());
    }
    if let Some(text) = value.as_str() {
        return out.write_str(text).map_err(Error::from);
    }
    let text = to_str(state, value)?;
    out.write_str(&text).map_err(Error::from)
}

/// Python's `str(value)`; the empty text for an undefined one.
pub(super) fn to_str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut text = String::new();
    if !value.is_undefined() {
        Writer { state, style: Style::Repr, out: &mut text }.write(value, 0)?;
    }
    Ok(text)
}

/// Jinja's `join(d="", attribute=None)`.
pub(super) fn join(
    state: &State<'_, '_>,
    value: &Value,
    joiner: Option<Value>,
    attribute: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let joiner = match joiner.or(options.get("d")?) {
        Some(joiner) => to_str(state, &joiner)?,
        None => String::new(),
    };
    let attribute = attribute.or(options.get("attribute")?);
    options.assert_all_used()?;
    let mut text = String::new();
    if value.is_undefined() {
        return Ok(text);
    }
    for (index, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        if index > 0 {
            text.push_str(&joiner);
        }
        let item = to_str(state, &item)?;
        state.consume_fuel(1 + (item.len() + joiner.len()) as u64 / 64)?;
        text.push_str(&item);
    }
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(state: &State<'_, '_>, value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(value.clone()).ok().filter(|&n| n <= 64).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "tojson: indent must be a string or a number up to 64")
            })?),
        }),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let style = Style::Json(JsonStyle {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    });
    options.assert_all_used()?;
    let mut text = String::new();
    Writer { state, style, out: &mut text }.write(value, 0)?;
    Ok(Value::from(text))
}

enum Style {
    Repr,
    Json(JsonStyle),
}

struct JsonStyle {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

struct Writer<'a, 'b> {
    state: &'a State<'b, 'b>,
    style: Style,
    out: &'a mut String,
}

impl Writer<'_, '_> {
    /// Charges fuel for each value, so that a small value that contains itself many times over stays bounded.
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_VALUE_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply"));
        }
        self.state.consume_fuel(1 + value.as_str().map_or(0, |text| text.len() as u64 / 64))?;
        let json = matches!(self.style, Style::Json(_));
        match value.kind() {
            ValueKind::None => self.out.push_str(if json { "null" } else { "None" }),
            ValueKind::Bool => self.out.push_str(match (json, value.is_true()) {
                (true, true) => "true",
                (true, false) => "false",
                (false, true) => "True",
                (false, false) => "False",
            }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth)?,
            kind if json => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} cannot be written as JSON"),
                ));
            }
            _ => {
                let _ = write!(self.out, "{value}");
            }
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        if value.is_integer() {
            let _ = write!(self.out, "{value}");
            return;
        }
        match f64::try_from(value.clone()) {
            Ok(number) => self.out.push_str(&float(number, matches!(self.style, Style::Json(_)))),
            Err(_) => {
                let _ = write!(self.out, "{value}");
            }
        }
    }

    fn string(&mut self, text: &str) {
        match &self.style {
            Style::Json(style) => json_string(text, style.ensure_ascii, self.out),
            Style::Repr => repr_string(text, self.out),
        }
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut any = false;
        for item in value.try_iter()? {
            self.separate(any, depth + 1)?;
            any = true;
            self.write(&item, depth + 1)?;
        }
        self.close(any, depth, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if matches!(&self.style, Style::Json(style) if style.sort_keys) {
            keys.sort();
        }
        self.out.push('{');
        let any = !keys.is_empty();
        for (index, key) in keys.iter().enumerate() {
            self.separate(index > 0, depth + 1)?;
            match (&self.style, key.as_str()) {
                (Style::Json(style), None) => {
                    let text = if key.is_none() { "null".to_owned() } else { key.to_string() };
                    json_string(&text, style.ensure_ascii, self.out);
                }
                _ => self.write(key, depth + 1)?,
            }
            match &self.style {
                Style::Json(style) => self.out.push_str(&style.key),
                Style::Repr => self.out.push_str(": "),
            }
            self.write(&value.get_item(key)?, depth + 1)?;
        }
        self.close(any, depth, '}');
        Ok(())
    }

    /// Between and before the items of a list.
    fn separate(&mut self, follows: bool, depth: usize) -> Result<(), Error> {
        if let Style::Json(style) = &self.style {
            let indent = style.indent.as_ref().map_or(0, |indent| indent.len().saturating_mul(depth));
            self.state.consume_fuel((indent + style.item.len() + style.key.len()) as u64 / 64)?;
        }
        match &self.style {
            Style::Repr if follows => self.out.push_str(", "),
            Style::Repr => {}
            Style::Json(style) => {
                if follows {
                    self.out.push_str(&style.item);
                }
                if let Some(indent) = &style.indent {
                    self.out.push('\n');
                    self.out.push_str(&indent.repeat(depth));
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, any: bool, depth: usize, bracket: char) {
        if let (Style::Json(JsonStyle { indent: Some(indent), .. }), true) = (&self.style, any) {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
        self.out.push(bracket);
    }
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64, json: bool) -> String {
    if !number.is_finite() {
        let names = if json { ["NaN", "Infinity", "-Infinity"] } else { ["nan", "inf", "-inf"] };
        return names[if number.is_nan() { 0 } else { 1 + usize::from(number < 0.0) }].to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) || number == 0.0 {
        format!("{number:?}")
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

fn json_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's `str.isprintable` for the separators and format characters that occur in text.
fn is_printable(c: char) -> bool {
    let unprintable = matches!(
        c,
        '\u{a0}' | '\u{ad}' | '\u{1680}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}' | '\u{3000}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}'
    );
    !(c.is_control() || unprintable)
}

fn repr_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if !is_printable(c) => {
                let _ = if u32::from(c) < 0x100 {
                    write!(out, "\\x{:02x}", u32::from(c))
                } else {
                    write!(out, "\\u{:04x}", u32::from(c))
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

//! JSON as Python's `json` writes it, with `NaN`, `Infinity` and `-Infinity`, and the tensors of `run_pte.py` in it.

use std::fmt::Write;

use pteron::exec::Value;
use pteron::tensor::{DType, Scalar, Tensor, write_scalar};
use serde_json::Value as Json;

const SPECIAL: [(&str, f64); 3] = [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// Reads Python's JSON. Numbers that JSON has no word for become strings, which [`float`] understands.
///
/// # Errors
/// What is wrong, with its line and column.
pub(super) fn parse(text: &str) -> Result<Json, String> {
    serde_json::from_str(&quote_special(text)).map_err(|e| e.to_string())
}

/// Puts quotes around `NaN`, `Infinity` and `-Infinity` outside strings.
fn quote_special(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        if in_string {
            let escaped = c == '\\';
            let len = c.len_utf8() + if escaped { rest.chars().nth(1).map_or(0, char::len_utf8) } else { 0 };
            out.push_str(&rest[..len]);
            in_string = c != '"';
            rest = &rest[len..];
            continue;
        }
        if let Some((word, _)) = SPECIAL.iter().find(|(w, _)| rest.starts_with(w)) {
            let _ = write!(out, "\"{word}\"");
            rest = &rest[word.len()..];
            continue;
        }
        in_string = c == '"';
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn float(v: &Json) -> Option<f64> {
    match v {
        Json::Number(n) => n.as_f64(),
        Json::Bool(b) => Some(f64::from(u8::from(*b))),
        Json::String(s) => SPECIAL.iter().find(|(w, _)| w == s).map(|(_, f)| *f),
        _ => None,
    }
}

fn kind(v: &Json) -> String {
    match v {
        Json::Null => "null".to_owned(),
        Json::Array(a) => format!("a list of {}", a.len()),
        Json::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// One input: a tensor, a number, a boolean, or nothing.
///
/// # Errors
/// The field, what was found, what was expected.
pub(super) fn input(v: &Json) -> Result<Option<Value>, String> {
    Ok(Some(match v {
        Json::Null => return Ok(None),
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            None if n.is_u64() => return Err(format!("{n} does not fit 64 bits with a sign")),
            None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Object(o) => {
            let field = |name: &str| o.get(name).ok_or_else(|| format!("a tensor without `{name}`"));
            if let Some(unknown) = o.keys().find(|k| !["dtype", "shape", "data"].contains(&k.as_str())) {
                return Err(format!("unknown field `{unknown}`: a tensor has dtype, shape and data"));
            }
            Value::Tensor(tensor(field("dtype")?, field("shape")?, field("data")?)?)
        }
        other => match float(other) {
            Some(f) => Value::Float(f),
            None => return Err(format!("found {}, expected a number, a boolean or a tensor", kind(other))),
        },
    }))
}

fn tensor(dtype: &Json, shape: &Json, data: &Json) -> Result<Tensor, String> {
    let name = dtype.as_str().ok_or_else(|| format!("`dtype`: found {}, expected a name", kind(dtype)))?;
    let dtype: DType = name.parse().map_err(|e| format!("`dtype`: {e}"))?;
    if dtype == DType::I4 {
        return Err("`dtype`: i4 is no element type of ExecuTorch".to_owned());
    }
    let sizes = shape.as_array().ok_or_else(|| format!("`shape`: found {}, expected a list of sizes", kind(shape)))?;
    let size = |s: &Json| s.as_u64().and_then(|s| usize::try_from(s).ok());
    let sizes: Vec<usize> = sizes
        .iter()
        .map(|s| size(s).ok_or_else(|| format!("`shape`: found {}, expected a size", kind(s))))
        .collect::<Result<_, _>>()?;
    let items = data.as_array().ok_or_else(|| format!("`data`: found {}, expected a flat list", kind(data)))?;
    let numel = pteron::tensor::checked_numel(&sizes).map_err(|e| format!("`shape`: {e}"))?;
    if numel != items.len() {
        return Err(format!("`data`: found {} elements, shape {sizes:?} has {numel}", items.len()));
    }
    let mut t = Tensor::zeros(dtype, &sizes).map_err(|e| format!("`shape`: {e}"))?;
    for (i, item) in items.iter().enumerate() {
        let value = if dtype.is_float() {
            float(item).map(Scalar::Float)
        } else {
            let int = item.as_i64().or_else(|| item.as_bool().map(i64::from));
            // As Python does, integers may be written with a point: `1.0`.
            let whole = || float(item).filter(|f| f.fract() == 0.0 && f.abs() < 9.0e15).map(|f| f as i64);
            int.or_else(whole).filter(|&i| in_range(dtype, i)).map(Scalar::Int)
        };
        value
            .and_then(|v| write_scalar(dtype, t.bytes_mut(), i, v))
            .ok_or_else(|| format!("`data`: element {i} is {}, which is no {dtype}", kind(item)))?;
    }
    Ok(t)
}

fn in_range(dtype: DType, i: i64) -> bool {
    match dtype {
        DType::Bool => i == 0 || i == 1,
        DType::U8 => u8::try_from(i).is_ok(),
        DType::I8 => i8::try_from(i).is_ok(),
        DType::I16 => i16::try_from(i).is_ok(),
        DType::U16 => u16::try_from(i).is_ok(),
        DType::I32 => i32::try_from(i).is_ok(),
        _ => true,
    }
}

/// A number as Python writes it.
fn push_float(out: &mut String, f: f64) {
    if f.is_nan() {
        out.push_str("NaN");
    } else if f.is_infinite() {
        out.push_str(if f > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        let _ = write!(out, "{f:?}");
    }
}

/// Appends one output.
pub(super) fn push_output(out: &mut String, value: Option<&Value>) {
    match value {
        None => out.push_str("null"),
        Some(Value::Int(i)) => {
            let _ = write!(out, "{i}");
        }
        Some(Value::Bool(b)) => out.push_str(if *b { "true" } else { "false" }),
        Some(Value::Float(f)) => push_float(out, *f),
        Some(Value::Tensor(t)) => {
            let _ = write!(out, "{{\"dtype\": \"{}\", \"shape\": {:?}, \"data\": [", t.dtype().torch_name(), t.sizes());
            let view = t.view();
            for i in 0..t.numel() {
                if i > 0 {
                    out.push_str(", ");
                }
                match view.scalar(i) {
                    Some(Scalar::Int(v)) => {
                        let _ = write!(out, "{v}");
                    }
                    Some(Scalar::Bool(b)) => out.push_str(if b { "true" } else { "false" }),
                    Some(Scalar::Float(f)) => push_float(out, f),
                    None => out.push_str("null"),
                }
            }
            out.push_str("]}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        let value = input(&parse(text).unwrap()).unwrap();
        let mut out = String::new();
        push_output(&mut out, value.as_ref());
        out
    }

    #[test]
    fn values_come_back_as_they_went() {
        for text in [
            "null",
            "true",
            "-7",
            "0.5",
            "NaN",
            "-Infinity",
            r#"{"dtype": "float32", "shape": [2, 2], "data": [0.5, NaN, Infinity, -Infinity]}"#,
            r#"{"dtype": "int64", "shape": [1], "data": [9007199254740993]}"#,
            r#"{"dtype": "bool", "shape": [2], "data": [true, false]}"#,
            r#"{"dtype": "bfloat16", "shape": [], "data": [1.5]}"#,
            r#"{"dtype": "float16", "shape": [0, 3], "data": []}"#,
        ] {
            assert_eq!(round(text), text);
        }
    }

    #[test]
    fn words_in_strings_are_left_alone() {
        assert_eq!(quote_special(r#"{"NaN": NaN, "a\"NaN": [Infinity]}"#), r#"{"NaN": "NaN", "a\"NaN": ["Infinity"]}"#);
        assert_eq!(quote_special("\"ends with a backslash \\"), "\"ends with a backslash \\");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, message) in [
            (r#"{"dtype": "float33", "shape": [], "data": [1]}"#, "unknown dtype `float33`"),
            (r#"{"dtype": "int8", "shape": [1], "data": [128]}"#, "element 0 is 128, which is no i8"),
            (r#"{"dtype": "int64", "shape": [1], "data": [0.5]}"#, "element 0 is 0.5, which is no i64"),
            (r#"{"dtype": "int64", "shape": [2], "data": [1]}"#, "found 1 elements, shape [2] has 2"),
            (r#"{"dtype": "int64", "shape": [99999999999, 99999999999], "data": []}"#, "`shape`"),
            (r#"{"dtype": "int64", "shape": [-1], "data": []}"#, "`shape`: found -1"),
            (r#"{"shape": [], "data": [1]}"#, "a tensor without `dtype`"),
            (r#"{"dtype": "int64", "shape": [], "data": [1], "x": 1}"#, "unknown field `x`"),
            (r#"[1]"#, "found a list of 1, expected a number"),
        ] {
            let e = input(&parse(text).unwrap()).unwrap_err();
            assert!(e.contains(message), "{e}");
        }
    }
}

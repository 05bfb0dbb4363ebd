//! `pteron explain-scheme`.

use std::fmt::Write;

use pteron::quant::scheme::{Compat, Explanation, Scheme, TensorExplanation, Value, explain};
use serde_json::{Map, Value as Json, json};

use super::low::ExplainSchemeArgs;
use super::output::{Done, Failure, put, put_json};

pub(super) fn run(a: &ExplainSchemeArgs) -> Done {
    let usage = |e: &dyn std::fmt::Display| Failure::Usage(e.to_string());
    let compat = match &a.quant_compat {
        None => Compat::default(),
        Some(name) => Compat::from_name(name).ok_or_else(|| {
            let known: Vec<_> = Compat::ALL.iter().map(|c| c.name()).collect();
            Failure::Usage(format!("--quant-compat is {name:?}; expected {}", known.join(" or ")))
        })?,
    };
    let Some(names) = &a.scheme else {
        return list(a.json);
    };
    let schemes = Scheme::parse_list(names).map_err(|e| usage(&e))?;
    let explained: Vec<Explanation> =
        schemes.iter().map(|s| explain(s, compat)).collect::<Result<_, _>>().map_err(|e| usage(&e))?;
    if a.json {
        return match explained.as_slice() {
            [one] => put_json(&as_json(one)),
            many => put_json(&many.iter().map(as_json).collect::<Vec<_>>()),
        };
    }
    let text: Vec<String> = explained.iter().map(ToString::to_string).collect();
    put(&text.join("\n"))
}

fn list(json: bool) -> Done {
    if json {
        let row = |s: &Scheme| json!({"name": s.name, "backend": s.backend, "summary": s.summary, "unsupported": s.unsupported()});
        return put_json(&Scheme::all().iter().map(row).collect::<Vec<_>>());
    }
    let mut out = String::new();
    for s in Scheme::all() {
        let not = if s.unsupported().is_some() { " (not implemented)" } else { "" };
        let _ = writeln!(out, "{:<24} {}{not}", s.name, s.summary);
    }
    put(&out)
}

fn value(v: &Value) -> Json {
    match v {
        Value::None => Json::Null,
        Value::Int(i) => json!(i),
        Value::Float(f) => json!(f),
        Value::Bool(b) => json!(b),
        Value::Text(t) => json!(t),
    }
}

fn tensor(t: &TensorExplanation) -> Json {
    if t.fields.is_empty() {
        return Json::Null;
    }
    let mut out = Map::new();
    out.insert("summary".to_owned(), json!(t.summary));
    for f in &t.fields {
        out.insert(f.name.to_owned(), value(&f.value));
        if let (Value::None, Some(default)) = (&f.value, &f.default) {
            out.insert(format!("{}_default", f.name), value(default));
        }
    }
    Json::Object(out)
}

fn as_json(e: &Explanation) -> Json {
    let rules: Vec<Json> = e
        .rules
        .iter()
        .map(|r| {
            let mut out = Map::new();
            out.insert("name".to_owned(), json!(r.name));
            out.insert("applies_to".to_owned(), json!(r.applies_to));
            out.extend(r.tensors.iter().map(|t| (t.tensor.to_owned(), tensor(t))));
            Json::Object(out)
        })
        .collect();
    json!({
        "scheme": e.scheme,
        "backend": e.backend,
        "summary": e.summary,
        "quant_compat": e.compat.name(),
        "needs_calibration": e.needs_calibration,
        "rules": rules,
        "custom_annotations": e.custom_annotations,
        "notes": e.notes,
    })
}

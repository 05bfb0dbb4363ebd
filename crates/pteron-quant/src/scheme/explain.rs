//! A scheme field by field.

use std::fmt::{self, Write};

use super::{Compat, Scheme, SchemeError};
use crate::annotation::{BiasSpec, QuantizationConfig};
use crate::spec::{Eps, QuantizationSpec};

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Not given.
    None,
    /// An integer.
    Int(i64),
    /// A real number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A name.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) => write!(f, "{}", Eps(*v)),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Text(t) => f.write_str(t),
        }
    }
}

/// A field of a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// PT2E's name.
    pub name: &'static str,
    /// What the spec gives.
    pub value: Value,
    /// What holds if that is `None`.
    pub default: Option<Value>,
}

/// How one tensor of an operator is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorExplanation {
    /// `input_activation`, `output_activation`, `weight` or `bias`.
    pub tensor: &'static str,
    /// In a sentence.
    pub summary: String,
    /// The fields; none for a tensor that stays float.
    pub fields: Vec<Field>,
}

/// A rule of a scheme.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleExplanation {
    /// The rule's name.
    pub name: &'static str,
    /// Where it applies.
    pub applies_to: &'static str,
    /// Its tensors.
    pub tensors: Vec<TensorExplanation>,
}

/// A scheme, field by field. [`fmt::Display`] gives the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The scheme's name.
    pub scheme: &'static str,
    /// The backend that it is made for.
    pub backend: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Whose numbers.
    pub compat: Compat,
    /// Static ranges are learnt from calibration data.
    pub needs_calibration: bool,
    /// The rules; the first that applies is taken.
    pub rules: Vec<RuleExplanation>,
    /// Passes over the whole graph, by ExecuTorch's names.
    pub custom_annotations: Vec<&'static str>,
    /// What the numbers do not say.
    pub notes: Vec<&'static str>,
}

/// Explains `scheme` with the numbers of `compat`.
///
/// # Errors
/// As [`Scheme::specs`].
pub fn explain(scheme: &Scheme, compat: Compat) -> Result<Explanation, SchemeError> {
    let specs = scheme.specs(compat)?;
    Ok(Explanation {
        scheme: scheme.name,
        backend: scheme.backend,
        summary: scheme.summary,
        compat,
        needs_calibration: specs.needs_calibration(),
        rules: specs
            .rules
            .iter()
            .map(|r| RuleExplanation { name: r.name, applies_to: r.applies_to.describe(), tensors: tensors(&r.config) })
            .collect(),
        custom_annotations: specs.custom_annotations.iter().map(|c| c.name()).collect(),
        notes: specs.notes,
    })
}

fn tensors(config: &QuantizationConfig) -> Vec<TensorExplanation> {
    let mut out: Vec<TensorExplanation> = [
        ("input_activation", &config.input_activation),
        ("output_activation", &config.output_activation),
        ("weight", &config.weight),
    ]
    .into_iter()
    .map(|(tensor, s)| tensor_of(tensor, s.as_ref()))
    .collect();
    out.push(match &config.bias {
        Some(BiasSpec::Observed(s)) => tensor_of("bias", Some(s)),
        None => tensor_of("bias", None),
        Some(BiasSpec::Derived) => TensorExplanation {
            tensor: "bias",
            summary: "derived: scale[c] = scale of the input · scale[c] of the weight, zero point 0".to_owned(),
            fields: vec![
                Field { name: "dtype", value: Value::Text("int32".to_owned()), default: None },
                Field { name: "qscheme", value: Value::Text("per_channel_symmetric".to_owned()), default: None },
                Field { name: "ch_axis", value: Value::Int(0), default: None },
                Field {
                    name: "derived_from",
                    value: Value::Text("input_activation, weight".to_owned()),
                    default: None,
                },
            ],
        },
    });
    out
}

fn tensor_of(tensor: &'static str, spec: Option<&QuantizationSpec>) -> TensorExplanation {
    match spec {
        None => TensorExplanation { tensor, summary: "not quantized".to_owned(), fields: Vec::new() },
        Some(s) => TensorExplanation { tensor, summary: summary(s), fields: fields(s) },
    }
}

fn summary(s: &QuantizationSpec) -> String {
    let codes = s.format().map_or_else(|_| s.dtype.torch_name().to_owned(), |f| f.to_string());
    let when = match (s.is_dynamic, s.observer.kind.needs_data()) {
        (true, _) => ", range chosen at each call",
        (false, true) => "",
        (false, false) => ", range not observed",
    };
    format!("{codes}, {}{when}", s.effective_qscheme())
}

fn fields(s: &QuantizationSpec) -> Vec<Field> {
    let text = |t: &str| Value::Text(t.to_owned());
    let whole = |v: Option<i64>| v.map_or(Value::None, Value::Int);
    let range = s.quant_range().ok();
    let o = &s.observer;
    let mut out = vec![
        Field { name: "dtype", value: text(s.dtype.torch_name()), default: None },
        Field { name: "observer", value: text(o.kind.name()), default: None },
    ];
    if let Some(fake) = o.fake_quant {
        out.push(Field { name: "fake_quantize", value: text(fake.name()), default: None });
    }
    out.push(Field {
        name: "eps",
        value: o.eps.map_or(Value::None, Value::Float),
        default: Some(Value::Float(f64::from(o.effective_eps()))),
    });
    if matches!(
        o.kind,
        crate::spec::ObserverKind::MovingAverageMinMax | crate::spec::ObserverKind::MovingAveragePerChannelMinMax
    ) {
        out.push(Field {
            name: "averaging_constant",
            value: o.averaging_constant.map_or(Value::None, Value::Float),
            default: Some(Value::Float(o.effective_averaging_constant())),
        });
    }
    if o.reduce_range {
        out.push(Field { name: "reduce_range", value: Value::Bool(true), default: None });
    }
    out.extend([
        Field { name: "quant_min", value: whole(s.quant_min), default: range.map(|r| Value::Int(r.0)) },
        Field { name: "quant_max", value: whole(s.quant_max), default: range.map(|r| Value::Int(r.1)) },
        Field { name: "qscheme", value: text(s.effective_qscheme().name()), default: None },
        Field { name: "ch_axis", value: s.ch_axis.map_or(Value::None, |a| Value::Int(a as i64)), default: None },
        Field { name: "is_dynamic", value: Value::Bool(s.is_dynamic), default: None },
    ]);
    out
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}, numbers of {})", self.scheme, self.backend, self.compat)?;
        writeln!(f, "{}", self.summary)?;
        let calibration = if self.needs_calibration { "needs calibration data" } else { "needs no calibration data" };
        writeln!(f, "{calibration}")?;
        for rule in &self.rules {
            writeln!(f, "\n[{}] {}", rule.name, rule.applies_to)?;
            for t in &rule.tensors {
                writeln!(f, "  {}: {}", t.tensor, t.summary)?;
                for field in &t.fields {
                    let mut value = field.value.to_string();
                    if let (Value::None, Some(default)) = (&field.value, &field.default) {
                        write!(value, " (so {default})")?;
                    }
                    writeln!(f, "    {:<19}{value}", field.name)?;
                }
            }
        }
        for custom in &self.custom_annotations {
            writeln!(f, "\nthen {custom}")?;
        }
        for note in &self.notes {
            writeln!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

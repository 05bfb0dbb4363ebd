//! From a recipe's text.

use toml::{Table, Value};

use super::{Activation, Base, Change, Pattern, Recipe, RecipeError, Rotate, Rule, WeightGranularity};
use crate::near::{did_you_mean, suggestions};
use crate::scheme::Compat;
use crate::spec::ObserverKind;
use crate::transform::{Algorithm, EmbeddingMode, LinearMode};

/// Most rules of a recipe.
pub const MOST_RULES: usize = 10_000;

const BASE_KEYS: [&str; 10] = [
    "quantization-mode",
    "group-size",
    "weight-algorithm",
    "embedding-quantize",
    "pt2e-quantize",
    "quant-compat",
    "rotate",
    "optimized-rotation-path",
    "use-spin-quant",
    "rule",
];

const RULE_KEYS: [&str; 12] = [
    "path",
    "keep-float",
    "quantization-mode",
    "group-size",
    "weight-algorithm",
    "embedding-quantize",
    "pt2e-quantize",
    "bits",
    "activation",
    "granularity",
    "observer",
    "weight-observer",
];

/// A table of the file, with its name for messages.
struct Keys<'t> {
    table: &'t Table,
    name: String,
}

impl<'t> Keys<'t> {
    fn new(table: &'t Table, name: String, known: &[&str]) -> Result<Keys<'t>, RecipeError> {
        let keys = Keys { table, name };
        for key in table.keys() {
            let spelled = key.replace('_', "-");
            if !known.contains(&spelled.as_str()) {
                let near = did_you_mean(&suggestions(key, known.iter().copied()));
                let known = if near.is_empty() { format!("; known are {}", known.join(", ")) } else { near };
                return keys.wrong(format!("unknown key `{key}`{known}"));
            }
            if spelled != *key && table.contains_key(&spelled) {
                return keys.wrong(format!("`{key}` and `{spelled}` are the same key"));
            }
        }
        Ok(keys)
    }

    fn wrong<T>(&self, what: String) -> Result<T, RecipeError> {
        Err(RecipeError(if self.name.is_empty() { what } else { format!("{}: {what}", self.name) }))
    }

    fn get(&self, key: &str) -> Option<&'t Value> {
        self.table.get(key).or_else(|| self.table.get(&key.replace('-', "_")))
    }

    fn expected<T>(&self, key: &str, found: &Value, expected: &str) -> Result<T, RecipeError> {
        self.wrong(format!("`{key}` is {}, expected {expected}", shown(found)))
    }

    fn text(&self, key: &str) -> Result<Option<&'t str>, RecipeError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => self.expected(key, v, "a string"),
        }
    }

    fn number(&self, key: &str) -> Result<Option<usize>, RecipeError> {
        const MOST: i64 = 1 << 31;
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n @ 0..=MOST)) => Ok(usize::try_from(*n).ok()),
            Some(v) => self.expected(key, v, "a whole number"),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, RecipeError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Boolean(b)) => Ok(*b),
            Some(v) => self.expected(key, v, "true or false"),
        }
    }

    /// One of `all` by its name.
    fn one_of<T: Copy>(
        &self,
        key: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<Option<T>, RecipeError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if let Some(&found) = all.iter().find(|&&a| name(a) == text) {
            return Ok(Some(found));
        }
        let names: Vec<&str> = all.iter().map(|&a| name(a)).collect();
        let near = suggestions(text, names.iter().copied());
        if names.len() > 6 && !near.is_empty() {
            return self.wrong(format!("`{key}` is \"{text}\"{}", did_you_mean(&near)));
        }
        self.wrong(format!("`{key}` is \"{text}\", expected one of {}", names.join(", ")))
    }

    fn rotate(&self) -> Result<Option<Rotate>, RecipeError> {
        match (self.text("rotate")?, self.text("optimized-rotation-path")?) {
            (None, None) => Ok(None),
            (None, Some(path)) => Ok(Some(Rotate::File(path.to_owned()))),
            (Some(text), None) => match Rotate::parse(text) {
                Some(rotate) => Ok(Some(rotate)),
                None => self.wrong(format!("`rotate` is {text:?}, expected hadamard or hadamard,SEED")),
            },
            (Some(_), Some(_)) => self.wrong("rotate and optimized-rotation-path exclude each other".to_owned()),
        }
    }

    fn embedding(&self) -> Result<Option<EmbeddingMode>, RecipeError> {
        let key = "embedding-quantize";
        let Some(text) = self.text(key)? else { return Ok(None) };
        match EmbeddingMode::parse(text) {
            Some(mode) => Ok(Some(mode)),
            None => self.wrong(format!("`{key}` is \"{text}\", expected BITS,GROUP such as 4,32 with 2, 4 or 8 bits")),
        }
    }
}

/// A value in messages.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => format!("of type {}", value.type_str()),
    }
}

impl Recipe {
    /// Reads a recipe; [`Recipe::validate`] has been asked.
    ///
    /// # Errors
    /// A sentence with the line of what is no TOML, or the key that is wrong.
    pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or(text).matches('\n').count());
            RecipeError(format!("line {}: {}", line + 1, e.message().replace('\n', ", ")))
        })?;
        let keys = Keys::new(&table, String::new(), &BASE_KEYS)?;
        let base = Base {
            linear: match (keys.text("quantization-mode")?, keys.number("group-size")?) {
                (None, None) => None,
                (None, Some(_)) => {
                    return keys.wrong("group-size is for a quantization-mode, and there is none".to_owned());
                }
                (Some(name), group) => Some(linear_mode(name, group).map_err(RecipeError)?),
            },
            embedding: keys.embedding()?,
            algorithm: keys.one_of("weight-algorithm", &Algorithm::ALL, Algorithm::name)?,
            pt2e: keys.text("pt2e-quantize")?.map(str::to_owned),
            compat: keys.one_of("quant-compat", &Compat::ALL, Compat::name)?.unwrap_or_default(),
            rotate: keys.rotate()?,
            spin_quant: keys.one_of("use-spin-quant", &[()], |()| "native")?.is_some(),
        };
        let rules = match keys.get("rule") {
            None => Vec::new(),
            Some(Value::Array(rules)) if rules.len() <= MOST_RULES => {
                rules.iter().enumerate().map(|(i, rule)| parse_rule(i, rule)).collect::<Result<_, _>>()?
            }
            Some(Value::Array(rules)) => {
                return keys.wrong(format!("{} rules; at most {MOST_RULES} are read", rules.len()));
            }
            Some(_) => return keys.wrong("`rule` is no list of tables; write each rule under [[rule]]".to_owned()),
        };
        let recipe = Recipe { base, rules };
        recipe.validate()?;
        Ok(recipe)
    }
}

/// A source transform by its name, with its group size.
///
/// # Errors
/// A sentence, if there is none of that name.
pub fn linear_mode(name: &str, group: Option<usize>) -> Result<LinearMode, String> {
    LinearMode::from_name(name, group)
        .ok_or_else(|| format!("quantization-mode is {name}, expected one of {}", LinearMode::NAMES.join(", ")))
}

fn parse_rule(index: usize, rule: &Value) -> Result<Rule, RecipeError> {
    let name = format!("rule {}", index + 1);
    let Value::Table(table) = rule else {
        return Err(RecipeError(format!("{name} is {}, expected a table", shown(rule))));
    };
    let keys = Keys::new(table, name, &RULE_KEYS)?;
    let Some(path) = keys.text("path")? else {
        return keys.wrong("`path` is missing: a regular expression for the modules' paths".to_owned());
    };
    let path = match Pattern::new(path) {
        Ok(p) => p,
        Err(why) => return keys.wrong(format!("`path` {why}")),
    };
    let bits = keys.number("bits")?.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let change = Change {
        keep_float: keys.flag("keep-float")?,
        mode: keys.text("quantization-mode")?.map(str::to_owned),
        embedding: keys.embedding()?,
        scheme: keys.text("pt2e-quantize")?.map(str::to_owned),
        bits,
        activation: keys.one_of("activation", &Activation::ALL, Activation::name)?,
        granularity: keys.one_of("granularity", &WeightGranularity::ALL, WeightGranularity::name)?,
        group: keys.number("group-size")?,
        algorithm: keys.one_of("weight-algorithm", &Algorithm::ALL, Algorithm::name)?,
        observer: keys.one_of("observer", &ObserverKind::ALL, ObserverKind::name)?,
        weight_observer: keys.one_of("weight-observer", &ObserverKind::ALL, ObserverKind::name)?,
    };
    Ok(Rule { path, change })
}

//! Operator schemas, in PyTorch's notation.
//!
//! A schema is that of the *out variant*, because that is what ExecuTorch's files call. Two additions to the notation: an
//! argument prefixed with `edge` belongs to the functional form only and is left out of a kernel call (`edge ScalarType?
//! dtype=None` of `_to_copy`: the kernel takes it from `out`); a positional `Tensor(a!)` is mutated in place, and the node
//! gives its new version as an output.

use std::fmt;

use pteron_tensor::DType;

use crate::arg::Arg;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// `Tensor`.
    Tensor,
    /// `Tensor[]`.
    TensorList,
    /// `Tensor?[]`.
    OptionalTensorList,
    /// `Scalar`: an int, a float or a bool, or a symbolic one.
    Scalar,
    /// `int` or `SymInt`.
    Int,
    /// `int[]` or `SymInt[]`.
    IntList,
    /// `float`.
    Float,
    /// `float[]`.
    FloatList,
    /// `bool`.
    Bool,
    /// `bool[]`.
    BoolList,
    /// `str`.
    Str,
    /// `ScalarType`.
    DType,
    /// `MemoryFormat`: an int, 0 contiguous, 1 preserve.
    MemoryFormat,
}

/// One argument of a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaArg {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: ArgKind,
    /// True if `None` is allowed.
    pub optional: bool,
    /// The letter of `(a!)`, if the argument is written.
    pub alias: Option<char>,
    /// True for a keyword-only argument that is written: where an out variant puts a result.
    pub is_out: bool,
    /// True for an argument of the functional form only.
    pub edge_only: bool,
    /// The default, if it has one.
    pub default: Option<Arg>,
}

impl SchemaArg {
    /// True if the argument is mutated in place.
    pub fn is_mutated(&self) -> bool {
        self.alias.is_some() && !self.is_out
    }
}

/// One result of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnKind {
    /// A tensor, with the letter of the argument it is.
    Tensor(Option<char>),
    /// `Scalar`, an int of unknown value in the type system.
    Scalar,
    /// `int` or `SymInt`.
    Int,
    /// `bool`.
    Bool,
    /// `float`.
    Float,
}

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputSpec {
    /// The tensor that the out variant writes to argument `arg` (an index into [`Schema::args`]).
    Out {
        /// Index of the `out` argument.
        arg: usize,
    },
    /// As many tensors as the list that the out variant writes to argument `arg`.
    OutList {
        /// Index of the `out` argument.
        arg: usize,
    },
    /// The new version of the tensor that argument `arg` mutates.
    NewVersion {
        /// Index of the mutated argument.
        arg: usize,
    },
    /// A fresh int, bool or float.
    Scalar(ReturnKind),
}

/// A parsed schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// The kernel's name: `aten::add`.
    pub name: &'static str,
    /// The kernel's overload: `out`; empty for none.
    pub overload: &'static str,
    /// Every argument in order, those written among them.
    pub args: Vec<SchemaArg>,
    /// The declared results.
    pub returns: Vec<ReturnKind>,
    /// The outputs of a node, in order: the declared results, then the new versions of the mutated arguments that are not
    /// among them.
    pub outputs: Vec<OutputSpec>,
}

/// A schema that cannot be read: a defect of the operator table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError {
    /// The schema.
    pub schema: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema `{}`: {}", self.schema, self.reason)
    }
}

impl Schema {
    /// The key by which ExecuTorch's runtime finds the kernel: `aten::add.out`, or the bare name without an overload.
    pub fn kernel_key(&self) -> String {
        if self.overload.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.name, self.overload) }
    }

    /// The arguments of a node, in order: all but those the out variant writes.
    pub fn inputs(&self) -> impl Iterator<Item = &SchemaArg> {
        self.args.iter().filter(|a| !a.is_out)
    }

    /// The position among a node's arguments of the schema argument called `name`.
    pub fn input_position(&self, name: &str) -> Option<usize> {
        self.inputs().position(|a| a.name == name)
    }

    /// The position among a node's arguments of schema argument `arg`.
    pub fn input_of(&self, arg: usize) -> usize {
        self.args[..arg].iter().filter(|a| !a.is_out).count()
    }

    /// Reads a schema.
    ///
    /// # Errors
    /// [`SchemaError`] for what is no schema.
    pub fn parse(text: &'static str) -> Result<Schema, SchemaError> {
        let fail = |reason: String| SchemaError { schema: text.to_owned(), reason };
        let (head, rest) = text.split_once('(').ok_or_else(|| fail("no argument list".into()))?;
        let (body, returns) = rest.rsplit_once(" -> ").ok_or_else(|| fail("no `->`".into()))?;
        let body = body.strip_suffix(')').ok_or_else(|| fail("unclosed argument list".into()))?;
        let (name, overload) = head.split_once('.').unwrap_or((head, ""));
        let mut args = Vec::new();
        let mut keyword_only = false;
        for part in split_top(body) {
            if part == "*" {
                keyword_only = true;
                continue;
            }
            args.push(parse_arg(part, keyword_only).map_err(&fail)?);
        }
        let returns = split_top(returns.strip_prefix('(').and_then(|r| r.strip_suffix(')')).unwrap_or(returns))
            .into_iter()
            .map(parse_return)
            .collect::<Result<Vec<_>, _>>()
            .map_err(&fail)?;
        let by_alias = |c: char| args.iter().position(|a: &SchemaArg| a.alias == Some(c));
        let mut outputs = Vec::new();
        for r in &returns {
            outputs.push(match r {
                ReturnKind::Tensor(Some(c)) => {
                    let arg = by_alias(*c).ok_or_else(|| fail(format!("no argument is `({c}!)`")))?;
                    if args[arg].is_out { OutputSpec::Out { arg } } else { OutputSpec::NewVersion { arg } }
                }
                // A functional operator with no kernel of its own.
                ReturnKind::Tensor(None) => OutputSpec::Out { arg: usize::MAX },
                other => OutputSpec::Scalar(*other),
            });
        }
        for (arg, a) in args.iter().enumerate() {
            if a.is_out && a.kind == ArgKind::TensorList {
                outputs.push(OutputSpec::OutList { arg });
            }
            if a.is_mutated() && !outputs.contains(&OutputSpec::NewVersion { arg }) {
                outputs.push(OutputSpec::NewVersion { arg });
            }
        }
        Ok(Schema { name, overload, args, returns, outputs })
    }
}

/// Splits at commas outside brackets.
fn split_top(s: &'static str) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0usize);
    for (i, c) in s.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(s[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    let last = s[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

fn parse_arg(part: &'static str, keyword_only: bool) -> Result<SchemaArg, String> {
    let (edge_only, part) = match part.strip_prefix("edge ") {
        Some(rest) => (true, rest),
        None => (false, part),
    };
    let (declaration, default) = match part.split_once('=') {
        Some((d, v)) => (d, Some(v)),
        None => (part, None),
    };
    let (ty, name) = declaration.rsplit_once(' ').ok_or_else(|| format!("argument `{part}` has no name"))?;
    let (ty, alias) = match ty.split_once('(') {
        Some((base, rest)) => {
            let (letter, tail) = rest.split_once(')').ok_or_else(|| format!("`{ty}` is not closed"))?;
            let alias = letter.strip_suffix('!').and_then(|l| l.chars().next());
            (format!("{base}{tail}"), alias)
        }
        None => (ty.to_owned(), None),
    };
    // `int[1]` is a list that takes a single int as well.
    let ty = match (ty.find('['), ty.find(']')) {
        (Some(a), Some(b)) if b > a + 1 => format!("{}[]{}", &ty[..a], &ty[b + 1..]),
        _ => ty,
    };
    let (base, optional) = match ty.strip_suffix('?') {
        Some(base) => (base, true),
        None => (ty.as_str(), false),
    };
    let kind = match base {
        "Tensor" => ArgKind::Tensor,
        "Tensor[]" => ArgKind::TensorList,
        "Tensor?[]" => ArgKind::OptionalTensorList,
        "Scalar" => ArgKind::Scalar,
        "int" | "SymInt" => ArgKind::Int,
        "int[]" | "SymInt[]" => ArgKind::IntList,
        "float" => ArgKind::Float,
        "float[]" => ArgKind::FloatList,
        "bool" => ArgKind::Bool,
        "bool[]" => ArgKind::BoolList,
        "str" => ArgKind::Str,
        "ScalarType" => ArgKind::DType,
        "MemoryFormat" => ArgKind::MemoryFormat,
        other => return Err(format!("unknown type `{other}`")),
    };
    let default = match default {
        None => None,
        Some(text) => Some(parse_default(text, kind)?),
    };
    Ok(SchemaArg { name, kind, optional, alias, is_out: keyword_only && alias.is_some(), edge_only, default })
}

fn parse_default(text: &'static str, kind: ArgKind) -> Result<Arg, String> {
    let bad = || format!("default `{text}` is not of its type");
    Ok(match (text, kind) {
        ("None", _) => Arg::None,
        ("True", _) => Arg::Bool(true),
        ("False", _) => Arg::Bool(false),
        (t, ArgKind::Str) => Arg::Str(t.trim_matches('"').into()),
        (t, ArgKind::Float) => Arg::Float(t.parse().map_err(|_| bad())?),
        (t, ArgKind::DType) => Arg::DType(t.parse::<DType>().map_err(|_| bad())?),
        ("[]", ArgKind::IntList) => Arg::ints(&[]),
        (t, _) if t.contains('.') => Arg::Float(t.parse().map_err(|_| bad())?),
        (t, _) => Arg::Int(t.parse().map_err(|_| bad())?),
    })
}

fn parse_return(text: &'static str) -> Result<ReturnKind, String> {
    let ty = text.split(' ').next().unwrap_or_default();
    Ok(match ty {
        "Tensor" => ReturnKind::Tensor(None),
        "Scalar" => ReturnKind::Scalar,
        "int" | "SymInt" => ReturnKind::Int,
        "bool" => ReturnKind::Bool,
        "float" => ReturnKind::Float,
        t => match t.strip_prefix("Tensor(").and_then(|t| t.strip_suffix("!)")).and_then(|t| t.chars().next()) {
            Some(c) => ReturnKind::Tensor(Some(c)),
            None => return Err(format!("unknown result `{text}`")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_variants() {
        let s = Schema::parse(
            "aten::topk.values(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True, *, Tensor(a!) values, \
             Tensor(b!) indices) -> (Tensor(a!) values, Tensor(b!) indices)",
        )
        .unwrap();
        assert_eq!(s.kernel_key(), "aten::topk.values");
        assert_eq!(s.inputs().count(), 5);
        assert_eq!(s.outputs, [OutputSpec::Out { arg: 5 }, OutputSpec::Out { arg: 6 }]);
        assert_eq!(s.args[2].default, Some(Arg::Int(-1)));
    }

    #[test]
    fn mutated_arguments_give_new_versions() {
        let s = Schema::parse(
            "llama::update_cache.out(Tensor value, Tensor(a!) cache, SymInt start_pos, *, Tensor(b!) out) -> Tensor(b!)",
        )
        .unwrap();
        assert_eq!(s.outputs, [OutputSpec::Out { arg: 3 }, OutputSpec::NewVersion { arg: 1 }]);
        let s =
            Schema::parse("aten::copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)").unwrap();
        assert_eq!(s.kernel_key(), "aten::copy_");
        assert_eq!(s.outputs, [OutputSpec::NewVersion { arg: 0 }]);
    }

    #[test]
    fn lists_and_edge_arguments() {
        let s = Schema::parse(
            "aten::split_with_sizes_copy.out(Tensor self, SymInt[] split_sizes, int dim=0, *, Tensor(a!)[] out) -> ()",
        )
        .unwrap();
        assert_eq!(s.outputs, [OutputSpec::OutList { arg: 3 }]);
        let s = Schema::parse(
            "aten::mean.out(Tensor self, int[1]? dim, bool keepdim=False, *, edge ScalarType? dtype=None, Tensor(a!) out) -> \
             Tensor(a!)",
        )
        .unwrap();
        assert!(s.args[1].optional && s.args[1].kind == ArgKind::IntList);
        assert!(s.args[3].edge_only);
        assert!(Schema::parse("f(Wrong x) -> Tensor").is_err());
    }
}

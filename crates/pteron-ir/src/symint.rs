//! Integers that may depend on the input: dimensions and runtime ints.
//!
//! A [`SymInt`] is a constant, a linear expression over bounded symbols, or a bounded unknown. Whatever leaves the linear
//! world (a product of two symbols, a quotient that does not divide) becomes an unknown with the range that is still known.

use std::fmt;

use smallvec::SmallVec;

use crate::entity::{IdMap, SymbolId};

/// A symbol: an integer known only when the program runs, with bounds that hold for every run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Smallest value.
    pub min: i64,
    /// Largest value.
    pub max: i64,
}

/// The symbols of a graph.
pub type Symbols = IdMap<SymbolId, Symbol>;

/// `constant + Σ coefficient·symbol`, terms sorted by symbol, no zero coefficient, at least one term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    terms: SmallVec<[(SymbolId, i64); 2]>,
    constant: i64,
}

impl Linear {
    /// The terms, sorted by symbol.
    pub fn terms(&self) -> &[(SymbolId, i64)] {
        &self.terms
    }

    /// The constant part.
    pub fn constant(&self) -> i64 {
        self.constant
    }
}

/// An integer that may depend on the input. Equality is structural: two unknowns are equal if their bounds are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SymInt {
    /// Known.
    Const(i64),
    /// A linear expression over symbols.
    Linear(Box<Linear>),
    /// Unknown, within bounds (both inclusive).
    Unknown {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
}

impl From<i64> for SymInt {
    fn from(v: i64) -> SymInt {
        SymInt::Const(v)
    }
}

impl From<usize> for SymInt {
    fn from(v: usize) -> SymInt {
        SymInt::Const(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<SymbolId> for SymInt {
    fn from(s: SymbolId) -> SymInt {
        SymInt::Linear(Box::new(Linear { terms: SmallVec::from_slice(&[(s, 1)]), constant: 0 }))
    }
}

impl SymInt {
    /// An unknown with no bounds at all.
    pub const ANY: SymInt = SymInt::Unknown { min: i64::MIN, max: i64::MAX };

    /// An expression from terms in any order; like terms are gathered, and one without terms is a constant. Overflow gives
    /// [`SymInt::ANY`].
    pub fn linear(terms: impl IntoIterator<Item = (SymbolId, i64)>, constant: i64) -> SymInt {
        let mut gathered: SmallVec<[(SymbolId, i64); 2]> = SmallVec::new();
        let mut terms: SmallVec<[(SymbolId, i64); 4]> = terms.into_iter().collect();
        terms.sort_by_key(|t| t.0);
        for (s, c) in terms {
            match gathered.last_mut() {
                Some(last) if last.0 == s => match last.1.checked_add(c) {
                    Some(sum) => last.1 = sum,
                    None => return SymInt::ANY,
                },
                _ => gathered.push((s, c)),
            }
        }
        gathered.retain(|t| t.1 != 0);
        if gathered.is_empty() {
            SymInt::Const(constant)
        } else {
            SymInt::Linear(Box::new(Linear { terms: gathered, constant }))
        }
    }

    /// The value, if it is known.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            SymInt::Const(c) => Some(*c),
            _ => None,
        }
    }

    /// The symbol, if the expression is exactly one.
    pub fn as_symbol(&self) -> Option<SymbolId> {
        match self {
            SymInt::Linear(l) if l.constant == 0 => match l.terms.as_slice() {
                [(s, 1)] => Some(*s),
                _ => None,
            },
            _ => None,
        }
    }

    fn parts(&self) -> Option<(&[(SymbolId, i64)], i64)> {
        match self {
            SymInt::Const(c) => Some((&[], *c)),
            SymInt::Linear(l) => Some((&l.terms, l.constant)),
            SymInt::Unknown { .. } => None,
        }
    }

    /// Smallest and largest value, saturating.
    pub fn range(&self, symbols: &Symbols) -> (i64, i64) {
        match self {
            SymInt::Const(c) => (*c, *c),
            SymInt::Unknown { min, max } => (*min, *max),
            SymInt::Linear(l) => l.terms.iter().fold((l.constant, l.constant), |(lo, hi), &(s, c)| {
                let Some(sym) = symbols.get(s) else { return (i64::MIN, i64::MAX) };
                let (a, b) = (sym.min.saturating_mul(c), sym.max.saturating_mul(c));
                (lo.saturating_add(a.min(b)), hi.saturating_add(a.max(b)))
            }),
        }
    }

    /// Largest value.
    pub fn max(&self, symbols: &Symbols) -> i64 {
        self.range(symbols).1
    }

    /// Smallest value.
    pub fn min(&self, symbols: &Symbols) -> i64 {
        self.range(symbols).0
    }

    /// The sum.
    pub fn add(&self, other: &SymInt, symbols: &Symbols) -> SymInt {
        match (self.parts(), other.parts()) {
            (Some((a, x)), Some((b, y))) => match x.checked_add(y) {
                Some(c) => SymInt::linear(a.iter().chain(b).copied(), c),
                None => SymInt::ANY,
            },
            _ => {
                let ((a, b), (c, d)) = (self.range(symbols), other.range(symbols));
                SymInt::Unknown { min: a.saturating_add(c), max: b.saturating_add(d) }
            }
        }
    }

    /// The difference.
    pub fn sub(&self, other: &SymInt, symbols: &Symbols) -> SymInt {
        self.add(&other.scale(-1, symbols), symbols)
    }

    /// The product with a constant.
    pub fn scale(&self, k: i64, symbols: &Symbols) -> SymInt {
        if let Some((terms, c)) = self.parts()
            && let Some(c) = c.checked_mul(k)
            && let Some(terms) = terms
                .iter()
                .map(|&(s, t)| t.checked_mul(k).map(|t| (s, t)))
                .collect::<Option<SmallVec<[(SymbolId, i64); 4]>>>()
        {
            return SymInt::linear(terms, c);
        }
        let (lo, hi) = self.range(symbols);
        let (a, b) = (lo.saturating_mul(k), hi.saturating_mul(k));
        SymInt::Unknown { min: a.min(b), max: a.max(b) }
    }

    /// The product.
    pub fn mul(&self, other: &SymInt, symbols: &Symbols) -> SymInt {
        match (self.as_const(), other.as_const()) {
            (_, Some(k)) => self.scale(k, symbols),
            (Some(k), _) => other.scale(k, symbols),
            _ => {
                let ((a, b), (c, d)) = (self.range(symbols), other.range(symbols));
                let p = [a.saturating_mul(c), a.saturating_mul(d), b.saturating_mul(c), b.saturating_mul(d)];
                let min = p.iter().copied().fold(i64::MAX, i64::min);
                let max = p.iter().copied().fold(i64::MIN, i64::max);
                SymInt::Unknown { min, max }
            }
        }
    }

    /// The quotient rounded towards negative infinity; `None` if the divisor is or may be zero or negative.
    pub fn floor_div(&self, other: &SymInt, symbols: &Symbols) -> Option<SymInt> {
        if self == other && self.parts().is_some() && self.min(symbols) > 0 {
            return Some(SymInt::Const(1));
        }
        let Some(k) = other.as_const() else {
            // A multiple of the divisor's expression divides exactly.
            if let (Some((a, x)), Some((b, _))) = (self.parts(), other.parts())
                && let (Some(&(s, ca)), Some(&(t, cb))) = (a.first(), b.first())
                && s == t
                && ca.checked_rem(cb) == Some(0)
                && let Some(q) = ca.checked_div(cb)
                && other.min(symbols) > 0
                && other.scale(q, symbols) == SymInt::linear(a.iter().copied(), x)
            {
                return Some(SymInt::Const(q));
            }
            let (lo, hi) = other.range(symbols);
            if lo <= 0 {
                return None;
            }
            let (a, b) = self.range(symbols);
            let q = [a.div_euclid(lo), a.div_euclid(hi), b.div_euclid(lo), b.div_euclid(hi)];
            return Some(SymInt::Unknown {
                min: q.iter().copied().fold(i64::MAX, i64::min),
                max: q.iter().copied().fold(i64::MIN, i64::max),
            });
        };
        if k <= 0 {
            return None;
        }
        if let Some((terms, c)) = self.parts()
            && terms.iter().all(|t| t.1 % k == 0)
        {
            return Some(SymInt::linear(terms.iter().map(|&(s, t)| (s, t / k)), c.div_euclid(k)));
        }
        let (lo, hi) = self.range(symbols);
        Some(SymInt::Unknown { min: lo.div_euclid(k), max: hi.div_euclid(k) })
    }

    /// The larger of the two.
    pub fn maximum(&self, other: &SymInt, symbols: &Symbols) -> SymInt {
        let ((a, b), (c, d)) = (self.range(symbols), other.range(symbols));
        if a >= d {
            self.clone()
        } else if c >= b {
            other.clone()
        } else {
            SymInt::Unknown { min: a.max(c), max: b.max(d) }
        }
    }

    /// The smaller of the two.
    pub fn minimum(&self, other: &SymInt, symbols: &Symbols) -> SymInt {
        let ((a, b), (c, d)) = (self.range(symbols), other.range(symbols));
        if b <= c {
            self.clone()
        } else if d <= a {
            other.clone()
        } else {
            SymInt::Unknown { min: a.min(c), max: b.min(d) }
        }
    }

    /// The value with each symbol replaced by `values(symbol)`; `None` if one is missing, or for an unknown.
    pub fn eval(&self, values: &dyn Fn(SymbolId) -> Option<i64>) -> Option<i64> {
        match self {
            SymInt::Const(c) => Some(*c),
            SymInt::Linear(l) => {
                l.terms.iter().try_fold(l.constant, |sum, &(s, c)| sum.checked_add(values(s)?.checked_mul(c)?))
            }
            SymInt::Unknown { .. } => None,
        }
    }

    /// True unless the two can never be equal: two expressions must have a difference whose range holds zero, an
    /// unknown's bounds must overlap the other's range.
    pub fn may_equal(&self, other: &SymInt, symbols: &Symbols) -> bool {
        let (lo, hi) = match (self, other) {
            (SymInt::Unknown { .. }, _) | (_, SymInt::Unknown { .. }) => {
                let ((a, b), (c, d)) = (self.range(symbols), other.range(symbols));
                return a <= d && c <= b;
            }
            _ => self.sub(other, symbols).range(symbols),
        };
        lo <= 0 && 0 <= hi
    }

    /// True if the two are known to be equal in every run.
    pub fn is_equal(&self, other: &SymInt) -> bool {
        !matches!(self, SymInt::Unknown { .. }) && self == other
    }
}

impl fmt::Display for SymInt {
    /// `4`, `s0`, `2*s0+1`, `?1..=31`, `?` for no bounds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SymInt::Const(c) => write!(f, "{c}"),
            SymInt::Unknown { min: i64::MIN, max: i64::MAX } => f.write_str("?"),
            SymInt::Unknown { min, max } => write!(f, "?{min}..={max}"),
            SymInt::Linear(l) => {
                for (i, (s, c)) in l.terms.iter().enumerate() {
                    match (i, c) {
                        (0, 1) => write!(f, "{s}")?,
                        (0, -1) => write!(f, "-{s}")?,
                        (0, c) => write!(f, "{c}*{s}")?,
                        (_, 1) => write!(f, "+{s}")?,
                        (_, -1) => write!(f, "-{s}")?,
                        (_, c) => write!(f, "{c:+}*{s}")?,
                    }
                }
                if l.constant != 0 {
                    write!(f, "{:+}", l.constant)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::Id;

    fn syms() -> (Symbols, SymInt, SymInt) {
        let mut s = Symbols::new();
        let a = s.push(Symbol { min: 1, max: 31 });
        let b = s.push(Symbol { min: 0, max: 100 });
        (s, a.into(), b.into())
    }

    #[test]
    fn linear_arithmetic_is_exact() {
        let (s, a, b) = syms();
        let end = a.add(&b, &s);
        assert_eq!(end.to_string(), "s0+s1");
        assert_eq!(end.sub(&b, &s), a);
        assert_eq!(a.scale(64, &s).floor_div(&SymInt::Const(16), &s), Some(a.scale(4, &s)));
        assert_eq!(a.scale(64, &s).floor_div(&a, &s), Some(SymInt::Const(64)));
        assert_eq!(a.sub(&a, &s), SymInt::Const(0));
        assert_eq!(a.scale(2, &s).add(&SymInt::Const(-3), &s).range(&s), (-1, 59));
    }

    #[test]
    fn what_is_not_linear_keeps_its_range() {
        let (s, a, b) = syms();
        assert_eq!(a.mul(&b, &s), SymInt::Unknown { min: 0, max: 3100 });
        assert_eq!(a.floor_div(&SymInt::Const(2), &s), Some(SymInt::Unknown { min: 0, max: 15 }));
        assert_eq!(a.floor_div(&b, &s), None);
        assert_eq!(SymInt::Const(i64::MAX).add(&SymInt::Const(1), &s), SymInt::ANY);
    }

    #[test]
    fn equality_is_three_valued() {
        let (s, a, b) = syms();
        assert!(a.may_equal(&b, &s) && !a.is_equal(&b));
        assert!(!a.may_equal(&SymInt::Const(32), &s));
        assert!(!SymInt::Unknown { min: 0, max: 0 }.may_equal(&a, &s));
        assert!(a.is_equal(&SymbolId::from_index(0).into()));
    }
}

//! Mutants by number.

use crate::Numbers;

/// What a field is, which decides what is put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A little-endian integer: a count, an offset, a length, a tag.
    Int,
    /// A big-endian integer.
    BigEndian,
    /// A little-endian IEEE number of 4 or 8 bytes.
    Float,
    /// A token of a text, as JSON's: it may get longer or shorter.
    Text,
    /// Bytes without structure.
    Bytes,
}

/// A range of bytes with a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is called in messages.
    pub name: String,
    /// Where it begins.
    pub at: usize,
    /// Bytes.
    pub width: usize,
    /// What it is.
    pub kind: Kind,
}

impl Field {
    /// A field.
    pub fn new(name: impl Into<String>, at: usize, width: usize, kind: Kind) -> Field {
        Field { name: name.into(), at, width, kind }
    }
}

/// Mends a mutant, given the seed's bytes and its own.
pub type Repair = fn(&[u8], &mut [u8]);

/// A well-formed file.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Its name in messages.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its fields.
    pub fields: Vec<Field>,
    /// Bytes that are structure and no payload: three quarters of all changes fall there.
    pub header: usize,
    /// Puts right what would otherwise hide a change from the parser (a header's length, a checksum), given the seed's bytes
    /// and the changed ones. Every second mutant is repaired.
    pub repair: Option<Repair>,
}

impl Seed {
    /// A seed without repair; fields that do not lie within the bytes are left out.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>, fields: Vec<Field>, header: usize) -> Seed {
        let fits = |f: &Field| f.width > 0 && f.at.checked_add(f.width).is_some_and(|end| end <= bytes.len());
        let fields = fields.into_iter().filter(fits).collect();
        let header = header.min(bytes.len());
        Seed { name: name.into(), bytes, fields, header, repair: None }
    }

    /// The same, with a repair.
    #[must_use]
    pub fn repaired(mut self, repair: Repair) -> Seed {
        self.repair = Some(repair);
        self
    }
}

/// A changed seed.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The seed and what was changed.
    pub what: String,
}

/// Contents that are put in the place of each field.
const VALUES: usize = 20;
/// Changes of each field: its values, then swapped with the next of its width, written twice, left out.
const CHANGES: usize = VALUES + 3;

const TEXTS: [&str; VALUES] = [
    "0",
    "1",
    "-1",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "1e308",
    "-0.0",
    "null",
    "true",
    "\"\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":1}}}}",
    "\"../../etc/passwd\"",
    "\"\\u0000\u{e9}\u{1f600}\"",
];

const FLOATS: [f64; VALUES] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    f64::EPSILON,
    5e-324,
    1e-45,
    3.5e38,
    -3.5e38,
    2147483648.0,
    4294967296.0,
    9.3e18,
    1e-12,
    0.5,
];

/// Puts `with` in the place of `width` bytes at `at`.
fn replace(bytes: &mut Vec<u8>, at: usize, width: usize, with: &[u8]) {
    let at = at.min(bytes.len());
    let end = at.saturating_add(width).min(bytes.len());
    bytes.splice(at..end, with.iter().copied());
}

/// The content number `value` (below [`VALUES`]) for a field.
fn content(field: &Field, value: usize, now: &[u8], file_len: usize) -> (Vec<u8>, String) {
    match field.kind {
        Kind::Text => (TEXTS[value].as_bytes().to_vec(), TEXTS[value].chars().take(24).collect()),
        Kind::Float if field.width == 4 => {
            (((FLOATS[value]) as f32).to_le_bytes().to_vec(), format!("{:?}", FLOATS[value]))
        }
        Kind::Float => (FLOATS[value].to_le_bytes().to_vec(), format!("{:?}", FLOATS[value])),
        Kind::Int | Kind::BigEndian | Kind::Bytes => {
            let big = field.kind == Kind::BigEndian;
            let width = field.width.min(8);
            let mut word = [0u8; 8];
            word[..width].copy_from_slice(&now[..width]);
            if big {
                word[..width].reverse();
            }
            let current = u64::from_le_bytes(word);
            let max = if width >= 8 { u64::MAX } else { (1u64 << (8 * width)) - 1 };
            let len = file_len as u64;
            let number = match value {
                0 => 0,
                1 => 1,
                2 => max,
                3 => max - 1,
                4 => max >> 1,
                5 => (max >> 1) + 1,
                6 => 1 << 31,
                7 => 1 << 32,
                8 => (1 << 32) - 1,
                9 => current.wrapping_add(1),
                10 => current.wrapping_sub(1),
                11 => len,
                12 => len.wrapping_sub(1),
                13 => len + 1,
                14 => current.wrapping_mul(2),
                15 => current ^ 1,
                16 => 255,
                17 => current.wrapping_neg(),
                18 => 1 << 40,
                _ => current.wrapping_add(1 << 30),
            } & max;
            let mut with = number.to_le_bytes()[..width].to_vec();
            if big {
                with.reverse();
            }
            with.extend_from_slice(now.get(width..).unwrap_or(&[]));
            (with, number.to_string())
        }
    }
}

/// Makes mutants of some seeds.
#[derive(Clone, Debug)]
pub struct Mutator {
    seeds: Vec<Seed>,
    cases: usize,
    stride: usize,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Mutator {
    /// A mutator of `seeds`.
    pub fn new(seeds: Vec<Seed>) -> Mutator {
        let cases = seeds.iter().map(|s| s.fields.len() * CHANGES).sum::<usize>();
        // Even numbers walk through all changes of single fields in an order that is spread over the seeds.
        let mut stride = (cases as f64 * 0.618) as usize | 1;
        while cases > 0 && gcd(stride, cases) != 1 {
            stride += 1;
        }
        Mutator { seeds, cases, stride }
    }

    /// The seeds.
    pub fn seeds(&self) -> &[Seed] {
        &self.seeds
    }

    /// Changes of single fields; they are the mutants of the even numbers below twice this.
    pub fn single_changes(&self) -> usize {
        self.cases
    }

    /// Mutant `number`: the same whenever it is asked for.
    pub fn mutant(&self, number: u64) -> Mutant {
        let mut random = Numbers::new(number.wrapping_add(1));
        // The first outputs of neighbouring states resemble each other.
        (0..4).for_each(|_| {
            random.bits();
        });
        let half = usize::try_from(number / 2).unwrap_or(usize::MAX);
        let (seed, mut mutant) = if number.is_multiple_of(2) && half < self.cases {
            self.single((half * self.stride) % self.cases)
        } else {
            self.several(&mut random)
        };
        if let Some(repair) = self.seeds[seed].repair
            && random.below(2) == 0
        {
            repair(&self.seeds[seed].bytes, &mut mutant.bytes);
            mutant.what.push_str(", repaired");
        }
        mutant
    }

    fn single(&self, case: usize) -> (usize, Mutant) {
        let mut rest = case;
        let mut at = 0;
        while rest >= self.seeds[at].fields.len() * CHANGES {
            rest -= self.seeds[at].fields.len() * CHANGES;
            at += 1;
        }
        let seed = &self.seeds[at];
        let mut bytes = seed.bytes.clone();
        let what = change(seed, rest / CHANGES, rest % CHANGES, &mut bytes);
        (at, Mutant { bytes, what: format!("seed `{}`: {what}", seed.name) })
    }

    fn several(&self, random: &mut Numbers) -> (usize, Mutant) {
        let pick = |random: &mut Numbers, n: usize| usize::try_from(random.below(n.max(1) as u64)).unwrap_or(0);
        let at = pick(random, self.seeds.len());
        let seed = &self.seeds[at];
        let mut bytes = seed.bytes.clone();
        let mut what = format!("seed `{}`", seed.name);
        for _ in 0..=pick(random, 3) {
            let within = |random: &mut Numbers, bytes: &[u8]| {
                let whole = random.below(4) == 0;
                pick(random, if whole { bytes.len() } else { seed.header.min(bytes.len()) })
            };
            let place = within(random, &bytes);
            let length = 1 + pick(random, 32);
            let end = (place + length).min(bytes.len());
            if bytes.is_empty() {
                break;
            }
            let said = match random.below(16) {
                0..=4 if !seed.fields.is_empty() => {
                    let field = pick(random, seed.fields.len());
                    change(seed, field, pick(random, CHANGES), &mut bytes)
                }
                0..=6 => {
                    let bit = random.below(8);
                    bytes[place] ^= 1 << bit;
                    format!("bit {bit} of byte {place}")
                }
                7 => {
                    bytes[place] = random.bits() as u8;
                    format!("byte {place} is {}", bytes[place])
                }
                8 | 9 => {
                    let place = place & !3;
                    let word = [0, 1, 4, 8, 0x7fff_ffff, 0x8000_0000, u32::MAX][pick(random, 7)];
                    for (to, from) in bytes.iter_mut().skip(place).zip(word.to_le_bytes()) {
                        *to = from;
                    }
                    format!("word at {place} is {word:#x}")
                }
                10 => {
                    let copy = bytes[place..end].to_vec();
                    replace(&mut bytes, place, 0, &copy);
                    format!("{place}..{end} twice")
                }
                11 => {
                    replace(&mut bytes, place, end - place, &[]);
                    format!("{place}..{end} left out")
                }
                12 => {
                    let to = within(random, &bytes);
                    let copy = bytes[place..end].to_vec();
                    replace(&mut bytes, to, copy.len(), &copy);
                    format!("{place}..{end} over {to}")
                }
                13 => {
                    let other = &self.seeds[pick(random, self.seeds.len())];
                    let from = pick(random, other.bytes.len());
                    bytes.truncate(place);
                    bytes.extend_from_slice(&other.bytes[from..]);
                    format!("cut at {place}, then `{}` from {from}", other.name)
                }
                14 => {
                    let with: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
                    replace(&mut bytes, place, 0, &with);
                    format!("{length} random bytes at {place}")
                }
                _ => {
                    bytes.truncate(place);
                    format!("cut at {place}")
                }
            };
            what.push_str(": ");
            what.push_str(&said);
        }
        (at, Mutant { bytes, what })
    }
}

/// Makes change `k` (below [`CHANGES`]) of field `f` of a seed in `bytes`, whose length may have changed already.
fn change(seed: &Seed, f: usize, k: usize, bytes: &mut Vec<u8>) -> String {
    let field = &seed.fields[f];
    let Some(now) = bytes.get(field.at..field.at + field.width).map(<[u8]>::to_vec) else {
        return format!("`{}` is gone", field.name);
    };
    if k < VALUES {
        let (with, said) = content(field, k, &now, bytes.len());
        replace(bytes, field.at, field.width, &with);
        return format!("`{}` at {} is {said}", field.name, field.at);
    }
    let same = |o: &&Field| o.width == field.width && o.at >= field.at + field.width && o.at + o.width <= bytes.len();
    match (k - VALUES, seed.fields[f + 1..].iter().find(same)) {
        (0, Some(other)) => {
            let theirs = bytes[other.at..other.at + other.width].to_vec();
            replace(bytes, other.at, other.width, &now);
            replace(bytes, field.at, field.width, &theirs);
            format!("`{}` and `{}` swapped", field.name, other.name)
        }
        (0 | 1, _) => {
            replace(bytes, field.at, 0, &now);
            format!("`{}` at {} twice", field.name, field.at)
        }
        _ => {
            replace(bytes, field.at, field.width, &[]);
            format!("`{}` at {} left out", field.name, field.at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        let fields = vec![
            Field::new("a", 0, 4, Kind::Int),
            Field::new("b", 4, 4, Kind::Float),
            Field::new("c", 8, 3, Kind::Text),
            Field::new("out of range", 10, 9, Kind::Int),
        ];
        Seed::new("s", (0..16).collect(), fields, 11)
    }

    #[test]
    fn a_number_is_a_mutant_and_even_ones_are_all_changes() {
        let m = Mutator::new(vec![seed(), seed()]);
        assert_eq!(m.single_changes(), 2 * 3 * CHANGES);
        let mut seen = std::collections::BTreeSet::new();
        for number in (0..m.single_changes() as u64).map(|n| 2 * n) {
            let mutant = m.mutant(number);
            assert_eq!(mutant.bytes, m.mutant(number).bytes);
            seen.insert(mutant.bytes);
        }
        // Two contents may be the same bytes: a number that is the field's own maximum, for example.
        assert!(seen.len() > 2 * CHANGES, "{} kinds of mutants", seen.len());
        let random: std::collections::BTreeSet<_> = (0..500).map(|n| m.mutant(2 * n + 1).bytes).collect();
        assert!(random.len() > 400, "{} different mutants", random.len());
    }

    #[test]
    fn words_keep_their_byte_order() {
        let field = Field::new("n", 0, 2, Kind::BigEndian);
        assert_eq!(content(&field, 1, &[1, 2], 16).0, [0, 1]);
        assert_eq!(content(&field, 9, &[1, 2], 16).0, [1, 3]);
        let field = Field::new("n", 0, 2, Kind::Int);
        assert_eq!(content(&field, 9, &[1, 2], 16).0, [2, 2]);
    }

    #[test]
    fn repairs_are_made_to_some() {
        let m = Mutator::new(vec![seed().repaired(|_, bytes| bytes.iter_mut().for_each(|b| *b = 99))]);
        let repaired = (0..100).filter(|&n| m.mutant(n).bytes.last() == Some(&99)).count();
        assert!((20..80).contains(&repaired), "{repaired}");
    }
}

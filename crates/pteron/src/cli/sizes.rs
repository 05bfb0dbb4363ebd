//! Numbers with a unit behind them.

/// Units of memory: powers of 1024 and of 1000.
const BYTES: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
];

const COUNTS: &[(&str, u64)] =
    &[("", 1), ("k", 1_000), ("m", 1_000_000), ("g", 1_000_000_000), ("t", 1_000_000_000_000)];

/// A number of bytes: `2GiB`, `512MiB`, `1.5G`, `800000000`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    parse(text, BYTES).ok_or_else(|| "expected a number of bytes such as 2GiB, 512MiB or 800000000".to_owned())
}

/// A number of operations: `50G`, `2000000`.
pub(super) fn count(text: &str) -> Result<u64, String> {
    parse(text, COUNTS).ok_or_else(|| "expected a number such as 50G, 3.5T or 2000000".to_owned())
}

/// A set of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpus(pub(super) Vec<usize>);

/// A set of processors: `0xf0`, `4-7,9`.
pub(super) fn cpus(text: &str) -> Result<Cpus, String> {
    pteron::host::parse_cpus(text).map(Cpus)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let fraction = number.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0)? * factor as f64;
    (fraction < 18e18).then_some(fraction as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("800000000", 800_000_000),
            ("2GiB", 2 << 30),
            ("2 gib", 2 << 30),
            ("1.5G", 3 << 29),
            ("3kB", 3_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        assert_eq!(count("50G"), Ok(50_000_000_000));
        assert_eq!(count("2.5k"), Ok(2500));
        for text in ["", "GiB", "-1", "2XiB", "1..5G", "18446744073709551616", "99999999TiB", "1e9", "nan"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(count("2GiB").is_err());
    }
}

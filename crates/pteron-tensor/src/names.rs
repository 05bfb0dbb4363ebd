//! The order of names for people.

use std::cmp::Ordering;

/// Compares names as people count: runs of ASCII digits by their value, all else by code point, so that `layers.2` stands
/// before `layers.10`. Names that differ in leading zeros only are told apart by their text: the order is total, and equal
/// means identical.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (digits_x, digits_y) = (digits(x), digits(y));
        if !digits_x.is_empty() && !digits_y.is_empty() {
            // Without leading zeros the longer number is the larger one.
            let (value_x, value_y) = (digits_x.trim_start_matches('0'), digits_y.trim_start_matches('0'));
            let by_value = value_x.len().cmp(&value_y.len()).then_with(|| value_x.cmp(value_y));
            if by_value != Ordering::Equal {
                return by_value;
            }
            (x, y) = (&x[digits_x.len()..], &y[digits_y.len()..]);
            continue;
        }
        let (mut chars_x, mut chars_y) = (x.chars(), y.chars());
        match (chars_x.next(), chars_y.next()) {
            (None, None) => return a.cmp(b),
            (p, q) if p == q => (x, y) = (chars_x.as_str(), chars_y.as_str()),
            (p, q) => return p.cmp(&q),
        }
    }
}

/// The ASCII digits that `text` begins with.
fn digits(text: &str) -> &str {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted() {
        let mut names: Vec<String> = (0..30).rev().map(|i| format!("model.layers.{i}.mlp.up_proj.weight")).collect();
        names.sort_by(|a, b| natural_order(a, b));
        let counted: Vec<String> = (0..30).map(|i| format!("model.layers.{i}.mlp.up_proj.weight")).collect();
        assert_eq!(names, counted);
    }

    #[test]
    fn the_order_is_total() {
        // From small to large: each name against each.
        let names = [
            "",
            "-",
            "0",
            "00",
            "01",
            "1",
            "2",
            "9",
            "010",
            "10",
            "010x",
            "10x",
            "18446744073709551615",
            "18446744073709551616",
            "a",
            "a.01",
            "a.1",
            "a.1b",
            "a.2",
            "a.10",
            "aä2",
            "aä10",
            "b",
        ];
        for (i, a) in names.iter().enumerate() {
            for (j, b) in names.iter().enumerate() {
                assert_eq!(natural_order(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }
}

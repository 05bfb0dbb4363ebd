//! Names that look like one that is not there.

/// Names of `known` that differ from `name` in a third of their letters at most, or hold it; nearest first, three at most.
pub fn suggestions<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let name = plain(name);
    // Longer ones look like none of the names.
    if name.len() > 64 {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|s| (distance(&name, &plain(s)), s))
        .filter(|(d, s)| *d * 3 <= s.len() || (name.len() > 2 && plain(s).contains(name.as_str())))
        .collect();
    near.sort();
    near.into_iter().map(|(_, s)| s).take(3).collect()
}

/// `; did you mean a or b?`, or nothing.
pub fn did_you_mean<S: AsRef<str>>(suggestions: &[S]) -> String {
    let names: Vec<&str> = suggestions.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

/// Letters to insert, delete or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

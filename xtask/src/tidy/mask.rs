//! Rust source with comments and literals blanked out, so that a word in a message is not taken for code.

/// Replaces every character inside comments, strings and character literals by a space. Line breaks stay, so that line
/// numbers do. This is a scanner, not a parser: it knows nested comments, escapes, raw strings and lifetimes.
pub(crate) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_or_comment_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => find(chars, at, |c| c == '\n'),
        ('/', Some('*')) => block_comment_end(chars, at),
        ('"', _) => quoted_end(chars, at + 1, '"'),
        ('\'', Some('\\')) => quoted_end(chars, at + 1, '\''),
        // 'x' is a character, 'x alone a lifetime.
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
        ('r', Some('"' | '#')) if !follows_name(chars, at) => raw_string_end(chars, at),
        _ => at,
    }
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    let found = chars[from..].iter().position(|&c| stop(c));
    found.map_or(chars.len(), |offset| from + offset)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `at` is the `r` of `r"…"` or `r#"…"#`. For a raw identifier such as `r#type` the result is `at`.
fn raw_string_end(chars: &[char], at: usize) -> usize {
    let open = find(chars, at + 1, |c| c != '#');
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let hashes = open - at - 1;
    let mut end = open + 1;
    while end < chars.len() {
        let closes =
            chars[end] == '"' && chars.len() - end > hashes && chars[end + 1..=end + hashes].iter().all(|&c| c == '#');
        if closes {
            return end + 1 + hashes;
        }
        end += 1;
    }
    chars.len()
}

/// Whether the character before `at` belongs to a name, other than the `b` or `c` of a prefixed literal.
fn follows_name(chars: &[char], at: usize) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let before = |n: usize| at.checked_sub(n).map(|i| chars[i]);
    match before(1) {
        Some('b' | 'c') => before(2).is_some_and(is_name),
        Some(c) => is_name(c),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let masked = code_only(source);
        assert_eq!(masked.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{source}");
        assert_eq!(masked.lines().count(), source.lines().count(), "{source}");
    }

    #[test]
    fn comments_go() {
        check("a // x\nb", "a b");
        check("a /* x /* y */ z */ b", "a b");
        check("//! doc\n/// doc\nfn f() {}", "fn f() {}");
        check("a /* never closed\n", "a");
    }

    #[test]
    fn strings_go() {
        check(r#"f("x // y", 1)"#, "f( , 1)");
        check(r#"f("a \" b") + g"#, "f( ) + g");
        check("f(\"two\nlines\") + g", "f( ) + g");
        check(r###"f(r#"a " b"#) + g"###, "f( ) + g");
        check(r#"f(br"\") + g"#, "f(b ) + g");
        check("f(\"never closed", "f(");
    }

    #[test]
    fn characters_go_and_lifetimes_stay() {
        check("f('\"', x)", "f( , x)");
        check(r"f('\'', x)", "f( , x)");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check("let r#type = bar\"x\";", "let r#type = bar ;");
    }
}

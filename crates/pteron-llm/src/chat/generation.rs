//! `{% generation %}` … `{% endgeneration %}`: marks the model's own words for training. It renders as its content, in a
//! scope of its own, which is what `{% with %}` does.

/// Replaces the two tags, keeping their whitespace control. Comments, expressions and raw blocks stay as they are.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let length = match tail.as_bytes().get(1) {
            Some(b'#') => tail.find("#}").map_or(tail.len(), |end| end + 2),
            Some(b'{') => expression_end(tail, "}}"),
            Some(b'%') => {
                let end = expression_end(tail, "%}");
                let (tag, after) = tail.split_at(end);
                match name(tag) {
                    "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
                    "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
                    "raw" => {
                        let raw = raw_length(after);
                        out.push_str(&tail[..end + raw]);
                        rest = &after[raw..];
                        continue;
                    }
                    _ => out.push_str(tag),
                }
                rest = after;
                continue;
            }
            _ => 1,
        };
        out.push_str(&tail[..length]);
        rest = &tail[length..];
    }
    out.push_str(rest);
    out
}

/// The words of a tag that has one word only; else its first word.
fn name(tag: &str) -> &str {
    let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
    inner.trim_matches(['-', '+']).trim()
}

/// Length up to and with `close`, which does not count inside a string.
fn expression_end(tail: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in tail.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tail[at..].starts_with(close) => return at + close.len(),
            None => {}
        }
    }
    tail.len()
}

/// Length of a raw block's content: up to its end tag.
pub(super) fn raw_length(after: &str) -> usize {
    let mut from = 0;
    while let Some(at) = after[from..].find("{%") {
        let start = from + at;
        let end = after[start..].find("%}").map_or(after.len(), |end| start + end + 2);
        if name(&after[start..end]) == "endraw" {
            return start;
        }
        from = start + 2;
    }
    after.len()
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn only_the_tags_change() {
        for (source, expected) in [
            ("a{% generation %}b{% endgeneration %}c", "a{% with %}b{% endwith %}c"),
            ("{%- generation -%} x {%-endgeneration-%}", "{%- with -%} x {%-endwith-%}"),
            ("{# {% generation %} #}{{ '{% generation %}' }}", "{# {% generation %} #}{{ '{% generation %}' }}"),
            ("{% if 'generation' %}{% set generation = 1 %}", "{% if 'generation' %}{% set generation = 1 %}"),
            ("{% set x = '%}' %}{% generation %}", "{% set x = '%}' %}{% with %}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            ("{", "{"),
            ("é{% generation", "é{% with"),
        ] {
            assert_eq!(rewrite(source), expected);
        }
    }
}

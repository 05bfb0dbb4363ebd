//! Finds the fields of well-formed files.

use super::mutate::{Field, Kind};

fn u16_at(b: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(b.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn u32_at(b: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?)).ok()
}

/// Fields of the FlatBuffers buffer that begins at `base` and ends with `bytes`, without a schema: virtual tables and tables
/// are told by their shape, and what lies behind an offset by what fits there.
pub fn flatbuffer(bytes: &[u8], base: usize) -> Vec<Field> {
    let mut walk = Flat { bytes, fields: Vec::new(), seen: std::collections::BTreeSet::new() };
    walk.int("root", base, 4);
    if let Some(root) = u32_at(bytes, base).and_then(|o| base.checked_add(o)) {
        walk.table(root, "root".to_owned(), 0);
    }
    walk.fields
}

struct Flat<'a> {
    bytes: &'a [u8],
    fields: Vec<Field>,
    seen: std::collections::BTreeSet<usize>,
}

impl Flat<'_> {
    fn int(&mut self, name: &str, at: usize, width: usize) {
        self.fields.push(Field::new(name, at, width, Kind::Int));
    }

    /// Start, length and table length of the virtual table of a table at `at`, if there is one.
    fn vtable(&self, at: usize) -> Option<(usize, usize, usize)> {
        let back = i32::from_le_bytes(self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?);
        let vtable = usize::try_from(i64::try_from(at).ok()? - i64::from(back)).ok()?;
        let (len, table) = (u16_at(self.bytes, vtable)?, u16_at(self.bytes, vtable + 2)?);
        let fits = len >= 4 && len % 2 == 0 && len <= 128 && table >= 4 && at + table <= self.bytes.len();
        (fits && vtable + len <= self.bytes.len()).then_some((vtable, len, table))
    }

    fn table(&mut self, at: usize, path: String, depth: usize) {
        let Some((vtable, len, table)) = self.vtable(at) else { return };
        if depth > 12 || !self.seen.insert(at) {
            return;
        }
        self.int(&format!("{path}.vtable_offset"), at, 4);
        if self.seen.insert(vtable | 1 << 40) {
            self.int(&format!("{path}.vtable_len"), vtable, 2);
            self.int(&format!("{path}.table_len"), vtable + 2, 2);
            for slot in (4..len).step_by(2) {
                self.int(&format!("{path}.vtable[{}]", (slot - 4) / 2), vtable + slot, 2);
            }
        }
        let mut offsets: Vec<(usize, usize)> =
            (4..len).step_by(2).filter_map(|s| Some((u16_at(self.bytes, vtable + s)?, (s - 4) / 2))).collect();
        offsets.retain(|&(o, _)| o >= 4 && o < table);
        let mut ends: Vec<usize> = offsets.iter().map(|o| o.0).collect();
        ends.push(table);
        ends.sort_unstable();
        for (offset, slot) in offsets {
            let end = ends.iter().copied().find(|&e| e > offset).unwrap_or(table);
            // Padding before the next field counts as part of this one's room.
            let width = match end - offset {
                1 => 1,
                2 | 3 => 2,
                4..=7 => 4,
                _ => 8,
            };
            let name = format!("{path}.{slot}");
            self.int(&name, at + offset, width);
            if width == 4 {
                self.follow(at + offset, name, depth + 1);
            }
        }
    }

    /// What the offset at `at` may lead to: a table, or a vector.
    fn follow(&mut self, at: usize, path: String, depth: usize) {
        let Some(to) = u32_at(self.bytes, at).filter(|&o| o >= 4).and_then(|o| at.checked_add(o)) else { return };
        if to + 4 > self.bytes.len() || to % 4 != 0 {
            return;
        }
        if self.vtable(to).is_some() && u32_at(self.bytes, to) != Some(0) {
            return self.table(to, path, depth);
        }
        let Some(count) = u32_at(self.bytes, to) else { return };
        if to + 4 + count > self.bytes.len() || !self.seen.insert(to | 1 << 41) {
            return;
        }
        self.int(&format!("{path}.len"), to, 4);
        // A vector of tables, as far as its elements lead to tables; else a few of its bytes.
        for i in 0..count.min(64) {
            let element = to + 4 + 4 * i;
            let target = u32_at(self.bytes, element).filter(|&o| o >= 4).and_then(|o| element.checked_add(o));
            if let Some(target) = target.filter(|&t| t % 4 == 0 && self.vtable(t).is_some()) {
                self.int(&format!("{path}[{i}]"), element, 4);
                self.table(target, format!("{path}[{i}]"), depth + 1);
            } else if i < 4 && 4 * (i + 1) <= count.saturating_mul(4) && element + 4 <= self.bytes.len() {
                self.int(&format!("{path}[{i}]"), element, 4);
            }
        }
    }
}

/// Tokens of the JSON text at `range`: numbers, strings, literals, and whole arrays and objects of less than 200 bytes.
pub fn json(bytes: &[u8], range: std::ops::Range<usize>) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut at = range.start;
    let end = range.end.min(bytes.len());
    let mut name = String::new();
    while at < end {
        match bytes[at] {
            b'"' => {
                let mut to = at + 1;
                while to < end && bytes[to] != b'"' {
                    to += if bytes[to] == b'\\' { 2 } else { 1 };
                }
                let to = (to + 1).min(end);
                let text: String = String::from_utf8_lossy(&bytes[at..to]).chars().take(40).collect();
                let is_key = bytes[to..end].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                let label = if is_key { format!("key {text}") } else { format!("{name} {text}") };
                fields.push(Field::new(label, at, to - at, Kind::Text));
                if is_key {
                    name = text;
                }
                at = to;
            }
            b'{' | b'[' => {
                open.push(at);
                at += 1;
            }
            b'}' | b']' => {
                at += 1;
                if let Some(from) = open.pop().filter(|from| at - from < 200) {
                    fields.push(Field::new(format!("{name} group"), from, at - from, Kind::Text));
                }
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                let to =
                    (at..end).find(|&i| !matches!(bytes[i], b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E'));
                let to = to.unwrap_or(end);
                fields.push(Field::new(name.clone(), at, to - at, Kind::Text));
                at = to.max(at + 1);
            }
            _ => at += 1,
        }
    }
    fields
}

/// Little-endian words of `width` bytes at `range`.
pub fn words(name: &str, range: std::ops::Range<usize>, width: usize) -> Vec<Field> {
    range.step_by(width).enumerate().map(|(i, at)| Field::new(format!("{name}[{i}]"), at, width, Kind::Int)).collect()
}

/// Parts of lines of a text: each line, and each of its pieces between spaces.
pub fn lines(bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut at = 0;
    for (number, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        fields.push(Field::new(format!("line {number}"), at, line.len(), Kind::Text));
        let mut from = at;
        for piece in line.split_inclusive(|&b| b == b' ' || b == b'\n') {
            let len = piece.iter().take_while(|b| !b.is_ascii_whitespace()).count();
            if len > 0 {
                fields.push(Field::new(format!("line {number} piece"), from, len, Kind::Text));
            }
            from += piece.len();
        }
        at += line.len();
    }
    fields
}

/// Words, numbers, quoted strings and single signs of a text in some language.
pub fn words_of_text(bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut at = 0;
    while at < bytes.len() {
        let b = bytes[at];
        let len = if word(b) {
            bytes[at..].iter().take_while(|&&b| word(b)).count()
        } else if b == b'\'' || b == b'"' {
            bytes[at + 1..].iter().position(|&c| c == b).map_or(1, |n| n + 2)
        } else {
            1
        };
        if !b.is_ascii_whitespace() {
            fields.push(Field::new("token", at, len, Kind::Text));
        }
        at += len;
    }
    fields
}

/// Tags, numbers and lengths of the Protocol Buffers message at `range`; what parses as a message inside is walked as well,
/// to `depth` levels.
pub fn protobuf(bytes: &[u8], range: std::ops::Range<usize>, depth: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    message(bytes, range, depth, &mut fields);
    fields
}

fn varint(bytes: &[u8], at: usize, end: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for i in 0..10 {
        let b = *bytes.get(at + i).filter(|_| at + i < end)?;
        value |= u64::from(b & 0x7f) << (7 * i).min(63);
        if b < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

fn message(bytes: &[u8], range: std::ops::Range<usize>, depth: usize, out: &mut Vec<Field>) -> bool {
    let (start, end) = (range.start, range.end.min(bytes.len()));
    let before = out.len();
    let mut at = start;
    while at < end {
        let parsed = (|| {
            let (tag, n) = varint(bytes, at, end)?;
            out.push(Field::new(format!("tag {tag}"), at, n, Kind::Bytes));
            let value = at + n;
            let name = format!("field {}", tag >> 3);
            Some(match tag & 7 {
                _ if tag >> 3 == 0 => return None,
                0 => {
                    let (_, n) = varint(bytes, value, end)?;
                    out.push(Field::new(name, value, n, Kind::Bytes));
                    value + n
                }
                1 if value + 8 <= end => {
                    out.push(Field::new(name, value, 8, Kind::Int));
                    value + 8
                }
                5 if value + 4 <= end => {
                    out.push(Field::new(name, value, 4, Kind::Float));
                    value + 4
                }
                2 => {
                    let (len, n) = varint(bytes, value, end)?;
                    let stop = usize::try_from(len).ok()?.checked_add(value + n).filter(|&s| s <= end)?;
                    out.push(Field::new(format!("{name} length"), value, n, Kind::Bytes));
                    if depth == 0 || !message(bytes, value + n..stop, depth - 1, out) {
                        out.push(Field::new(name, value + n, stop - value - n, Kind::Bytes));
                    }
                    stop
                }
                _ => return None,
            })
        })();
        match parsed {
            Some(next) => at = next,
            None => {
                out.truncate(before);
                return false;
            }
        }
    }
    at > start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_tokens_are_found() {
        let text = br#"{"a": [1, -2.5e3], "b": {"c": null, "d": "x\"y"}}"#;
        let found: Vec<&str> = json(text, 0..text.len())
            .iter()
            .map(|f| std::str::from_utf8(&text[f.at..f.at + f.width]).unwrap())
            .collect();
        for expected in ["\"a\"", "1", "-2.5e3", "[1, -2.5e3]", "null", r#""x\"y""#] {
            assert!(found.contains(&expected), "{expected} in {found:?}");
        }
    }

    #[test]
    fn messages_inside_messages_are_found() {
        // 1: { 1: "ab", 2: 1.0 }, 3: 150
        let bytes = [0x0A, 9, 0x0A, 2, b'a', b'b', 0x15, 0, 0, 128, 63, 0x18, 0x96, 0x01];
        let fields = protobuf(&bytes, 0..bytes.len(), 3);
        assert!(fields.iter().any(|f| f.kind == Kind::Float && f.at == 7), "{fields:?}");
        assert!(fields.iter().any(|f| f.at == 12 && f.width == 2));
        assert!(protobuf(&[0x0A, 200], 0..2, 3).is_empty());
    }

    #[test]
    fn lines_and_their_pieces_are_found() {
        let fields = lines(b"IQ== 0\nIg== 1\n");
        let found: Vec<(usize, usize)> = fields.iter().map(|f| (f.at, f.width)).collect();
        assert_eq!(found, [(0, 7), (0, 4), (5, 1), (7, 7), (7, 4), (12, 1)]);
    }
}

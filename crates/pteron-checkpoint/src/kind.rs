//! What a file is, told by its first bytes.

/// What a file is, told by its first bytes and never by its name.
///
/// This is the list from which a reader is chosen: a kind becomes readable by an arm of [`FileKind::is_read`] and of
/// the match in `Checkpoint::open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A safetensors file: the header's length, then a JSON object.
    Safetensors,
    /// A JSON object: a configuration or an index.
    Json,
    /// llama.cpp's format.
    Gguf,
    /// The formats that llama.cpp had before GGUF.
    OldGgml,
    /// A zip archive: what `torch.save` writes.
    PyTorchZip,
    /// A bare pickle: what `torch.save` wrote before version 1.6, or any other pickled object.
    Pickle,
    /// The `.bin` of llama2.c.
    Llama2c,
    /// An ExecuTorch program.
    ExecutorchProgram,
    /// A tensor data file of ExecuTorch.
    ExecutorchData,
    /// What git leaves in the place of a large file that was not downloaded.
    GitLfsPointer,
    /// A web page, as a failed download leaves it.
    Html,
    /// No bytes at all.
    Empty,
    /// None of these.
    Unknown,
}

impl FileKind {
    /// How many bytes of a file [`FileKind::detect`] wants to see.
    pub const PREFIX: usize = 64;

    /// What a file is whose first bytes are `prefix` (all of them, or at least [`FileKind::PREFIX`]) and which has
    /// `len` bytes altogether.
    pub fn detect(prefix: &[u8], len: u64) -> FileKind {
        let starts = |magic: &[u8]| prefix.starts_with(magic);
        if prefix.is_empty() {
            return FileKind::Empty;
        }
        if starts(b"GGUF") {
            return FileKind::Gguf;
        }
        // Magic numbers `ggml`, `ggmf`, `ggjt` and `ggla`, stored as little-endian words.
        if [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|m| starts(*m)) {
            return FileKind::OldGgml;
        }
        if starts(b"PK\x03\x04") {
            return FileKind::PyTorchZip;
        }
        if starts(b"version https://git-lfs") {
            return FileKind::GitLfsPointer;
        }
        match prefix.get(4..8) {
            Some([b'E', b'T', a, b]) if a.is_ascii_digit() && b.is_ascii_digit() => return FileKind::ExecutorchProgram,
            Some([b'F', b'T', a, b]) if a.is_ascii_digit() && b.is_ascii_digit() => return FileKind::ExecutorchData,
            _ => {}
        }
        if is_safetensors(prefix) {
            return FileKind::Safetensors;
        }
        if is_llama2c(prefix, len) {
            return FileKind::Llama2c;
        }
        // Pickle protocols 2 to 5 begin with PROTO and the version.
        if matches!(prefix, [0x80, 2..=5, ..]) {
            return FileKind::Pickle;
        }
        let text = prefix.trim_ascii_start();
        if text.first() == Some(&b'{') {
            return FileKind::Json;
        }
        let head = text.get(..text.len().min(14)).unwrap_or(text).to_ascii_lowercase();
        if head.starts_with(b"<!doctype html") || head.starts_with(b"<html") {
            return FileKind::Html;
        }
        FileKind::Unknown
    }

    /// True if tensors of this kind of file are read.
    pub const fn is_read(self) -> bool {
        matches!(self, FileKind::Safetensors | FileKind::Gguf | FileKind::PyTorchZip | FileKind::Llama2c)
    }

    /// What is said of such a file where readable weights were expected.
    pub const fn sentence(self) -> &'static str {
        match self {
            FileKind::Safetensors => "is a safetensors file",
            FileKind::Json => "is a JSON file, not weights",
            FileKind::Gguf => "is a GGUF file",
            FileKind::OldGgml => "looks like a GGML file from before GGUF: not supported",
            FileKind::PyTorchZip => "is a PyTorch checkpoint",
            FileKind::Pickle => {
                "is a bare pickle (what torch.save wrote before PyTorch 1.6), which is not read: convert it with \
                 torch.save(torch.load(old, weights_only=True), new)"
            }
            FileKind::Llama2c => "is a llama2.c model",
            FileKind::ExecutorchProgram => "is an ExecuTorch program (.pte), not a checkpoint",
            FileKind::ExecutorchData => "is an ExecuTorch data file (.ptd), not a checkpoint",
            FileKind::GitLfsPointer => {
                "is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder it came from"
            }
            FileKind::Html => "is a web page, not weights: the download went wrong",
            FileKind::Empty => "is empty",
            FileKind::Unknown => "is no safetensors file and no other kind of checkpoint that is known",
        }
    }
}

fn is_safetensors(prefix: &[u8]) -> bool {
    let Some((header_len, rest)) = prefix.split_first_chunk::<8>() else { return false };
    // A length past the end still means this kind: the file was cut short, and the reader says so.
    let plausible = u64::from_le_bytes(*header_len) < 1 << 40;
    plausible && matches!(rest, [b'{'] | [b'{', b'"' | b'}' | b' ' | b'\n' | b'\t' | b'\r', ..])
}

fn is_llama2c(prefix: &[u8], len: u64) -> bool {
    // Versions 1 and 2 begin with the word 0x616b3432.
    if prefix.starts_with(&0x616b_3432_u32.to_le_bytes()) {
        return true;
    }
    // Version 0 begins with dim, hidden_dim, n_layers, n_heads, n_kv_heads, ±vocab_size, seq_len.
    let Some(words) = prefix.get(..28) else { return false };
    let mut fields = [0i64; 7];
    for (field, word) in fields.iter_mut().zip(words.as_chunks::<4>().0) {
        *field = i64::from(i32::from_le_bytes(*word));
    }
    let [dim, hidden, layers, heads, kv_heads, vocab, seq] = fields;
    let sane = |v: i64, most: i64| (1..=most).contains(&v);
    sane(dim, 1 << 16)
        && sane(hidden, 1 << 18)
        && sane(layers, 1024)
        && sane(heads, 1024)
        && sane(kv_heads, heads)
        && sane(vocab.abs(), 1 << 21)
        && sane(seq, 1 << 24)
        && dim % heads == 0
        && heads % kv_heads == 0
        && i64::try_from(len).is_ok_and(|len| len > vocab.abs().saturating_mul(dim).saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        let cases: &[(&[u8], FileKind)] = &[
            (b"", FileKind::Empty),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (b"tjgg\x03\0\0\0", FileKind::OldGgml),
            (b"PK\x03\x04rest", FileKind::PyTorchZip),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", FileKind::Pickle),
            (b"24ka\x01\0\0\0", FileKind::Llama2c),
            (b"\x30\0\0\0ET12", FileKind::ExecutorchProgram),
            (b"\x30\0\0\0FT01", FileKind::ExecutorchData),
            (b"version https://git-lfs.github.com/spec/v1\noid", FileKind::GitLfsPointer),
            (b"\n<!DOCTYPE HTML><p>", FileKind::Html),
            (b"  {\"a\": 1}", FileKind::Json),
            (b"{\"a\": 1}", FileKind::Json),
            (b"\x02\0\0\0\0\0\0\0{}", FileKind::Safetensors),
            (b"\x20\0\0\0\0\0\0\0{\"a\"", FileKind::Safetensors),
            (b"hello", FileKind::Unknown),
        ];
        for (prefix, kind) in cases {
            assert_eq!(FileKind::detect(prefix, prefix.len() as u64), *kind, "{prefix:?}");
        }
    }

    #[test]
    fn version_0_of_llama2c_is_told_by_its_numbers() {
        let words: Vec<u8> = [64i32, 172, 5, 8, 4, -512, 512].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(FileKind::detect(&words, 1 << 20), FileKind::Llama2c);
        assert_eq!(FileKind::detect(&words, 1 << 10), FileKind::Unknown);
    }
}

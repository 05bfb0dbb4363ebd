//! Mutants of GGUF files, PyTorch's archives and llama2.c's models: an error, or a checkpoint whose every tensor can be read.

mod drive;

use pteron_testkit::hostile::{self, Counting, Field, Kind, Seed, Tally, walk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn enough(tally: Tally, accepted: usize) {
    assert!(tally.accepted > accepted && tally.refused > 300, "{tally:?}");
}

/// Writes a GGUF file and marks its fields.
struct Gguf {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Gguf {
    fn new(version: u32, tensors: u64, pairs: u64) -> Gguf {
        let mut g = Gguf { bytes: b"GGUF".to_vec(), fields: vec![Field::new("magic", 0, 4, Kind::Int)] };
        g.int("version", &version.to_le_bytes());
        g.int("tensor_count", &tensors.to_le_bytes());
        g.int("kv_count", &pairs.to_le_bytes());
        g
    }

    fn int(&mut self, name: &str, bytes: &[u8]) {
        self.fields.push(Field::new(name, self.bytes.len(), bytes.len(), Kind::Int));
        self.bytes.extend_from_slice(bytes);
    }

    fn float(&mut self, name: &str, value: f32) {
        self.fields.push(Field::new(name, self.bytes.len(), 4, Kind::Float));
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.int(&format!("{name} length"), &(text.len() as u64).to_le_bytes());
        self.fields.push(Field::new(name, self.bytes.len(), text.len(), Kind::Bytes));
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A key and its type: 4 u32, 5 i32, 6 f32, 7 bool, 8 text, 9 list.
    fn key(&mut self, key: &str, kind: u32) {
        self.text(key, key);
        self.int(&format!("{key} type"), &kind.to_le_bytes());
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.int(key, &value.to_le_bytes());
    }

    fn list(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.int(&format!("{key} item type"), &kind.to_le_bytes());
        self.int(&format!("{key} items"), &(len as u64).to_le_bytes());
    }

    fn seed(mut self, name: &str, data: usize) -> Seed {
        let header = self.bytes.len();
        self.bytes.resize(header.next_multiple_of(32), 0);
        self.bytes.extend((0..data).map(|i| i as u8));
        Seed::new(name, self.bytes, self.fields, header)
    }
}

/// A model's configuration, a vocabulary and two tensors.
fn with_vocabulary() -> Seed {
    let mut g = Gguf::new(3, 2, 15);
    g.key("general.architecture", 8);
    g.text("llama", "llama");
    for (key, n) in [
        ("llama.block_count", 1),
        ("llama.embedding_length", 8),
        ("llama.feed_forward_length", 16),
        ("llama.attention.head_count", 2),
        ("llama.attention.head_count_kv", 1),
        ("llama.context_length", 32),
        ("llama.rope.dimension_count", 4),
    ] {
        g.number(key, n);
    }
    g.key("llama.attention.layer_norm_rms_epsilon", 6);
    g.float("epsilon", 1e-5);
    g.key("tokenizer.ggml.model", 8);
    g.text("model", "llama");
    let pieces = ["<unk>", "<s>", "</s>", "▁a", "b"];
    g.list("tokenizer.ggml.tokens", 8, pieces.len());
    pieces.iter().for_each(|p| g.text("piece", p));
    g.list("tokenizer.ggml.scores", 6, pieces.len());
    (0..pieces.len()).for_each(|i| g.float("score", -(i as f32)));
    g.list("tokenizer.ggml.token_type", 5, pieces.len());
    [2u32, 3, 3, 1, 1].iter().for_each(|t| g.int("token type", &t.to_le_bytes()));
    g.number("tokenizer.ggml.bos_token_id", 1);
    g.key("tokenizer.chat_template", 8);
    g.text("template", "{{ messages[0].content }}");
    // 0 is F32, 8 is Q8_0: 34 bytes for 32 elements.
    for (name, kind, dims, offset) in
        [("token_embd.weight", 0u32, &[8u64, 5][..], 0u64), ("output.weight", 8, &[32, 2], 160)]
    {
        g.text(name, name);
        g.int("n_dims", &u32::try_from(dims.len()).unwrap().to_le_bytes());
        dims.iter().for_each(|d| g.int("dim", &d.to_le_bytes()));
        g.int("ggml type", &kind.to_le_bytes());
        g.int("offset", &offset.to_le_bytes());
    }
    g.seed("vocabulary", 160 + 68)
}

/// Every block type, with few fields marked: the words of the list of tensors.
fn blocks() -> Seed {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gguf/blocks.gguf")).unwrap();
    let fields = walk::words("word", 0..2048, 4);
    Seed::new("blocks", bytes, fields, 2048)
}

#[test]
fn gguf() {
    enough(hostile::mutants("gguf", vec![with_vocabulary(), blocks()], drive::checkpoint), 100);
}

#[test]
fn a_truncated_gguf_file() {
    hostile::truncations("gguf", &with_vocabulary(), |_| false, drive::checkpoint);
}

/// Fields of a zip archive's records, found by their signatures.
fn zip_fields(bytes: &[u8]) -> Vec<Field> {
    const LOCAL: [(&str, usize); 10] = [
        ("version", 2),
        ("flags", 2),
        ("method", 2),
        ("time", 4),
        ("crc", 4),
        ("stored", 4),
        ("size", 4),
        ("name length", 2),
        ("extra length", 2),
        ("name", 8),
    ];
    const CENTRAL: [(&str, usize); 16] = [
        ("made by", 2),
        ("version", 2),
        ("flags", 2),
        ("method", 2),
        ("time", 4),
        ("crc", 4),
        ("stored", 4),
        ("size", 4),
        ("name length", 2),
        ("extra length", 2),
        ("comment length", 2),
        ("disk", 2),
        ("internal", 2),
        ("external", 4),
        ("header", 4),
        ("name", 8),
    ];
    const END: [(&str, usize); 7] = [
        ("disk", 2),
        ("first disk", 2),
        ("entries here", 2),
        ("entries", 2),
        ("size", 4),
        ("start", 4),
        ("comment", 2),
    ];
    const END_64: [(&str, usize); 9] = [
        ("record size", 8),
        ("made by", 2),
        ("version", 2),
        ("disk", 4),
        ("first disk", 4),
        ("entries here", 8),
        ("entries", 8),
        ("size", 8),
        ("start", 8),
    ];
    const LOCATOR: [(&str, usize); 3] = [("disk", 4), ("end", 8), ("disks", 4)];
    let mut fields = Vec::new();
    for at in 0..bytes.len().saturating_sub(4) {
        let (record, layout): (&str, &[(&str, usize)]) = match &bytes[at..at + 4] {
            b"PK\x03\x04" => ("local", &LOCAL),
            b"PK\x01\x02" => ("central", &CENTRAL),
            b"PK\x05\x06" => ("end", &END),
            b"PK\x06\x06" => ("end64", &END_64),
            b"PK\x06\x07" => ("locator", &LOCATOR),
            _ => continue,
        };
        fields.push(Field::new(format!("{record}.signature"), at, 4, Kind::Int));
        let mut from = at + 4;
        for (name, width) in layout {
            fields.push(Field::new(format!("{record}.{name}"), from, *width, Kind::Int));
            from += width;
        }
    }
    fields
}

/// Opcodes of the pickle at `from`, with their arguments.
fn pickle_fields(bytes: &[u8], from: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut at = from;
    while let Some(&op) = bytes.get(at) {
        fields.push(Field::new(format!("opcode {op:#x}"), at, 1, Kind::Int));
        let u32_at =
            |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()) as usize);
        let (width, text) = match op {
            b'.' => break,
            0x80 | b'q' | b'h' | b'K' => (1, 0),
            b'M' => (2, 0),
            b'J' | b'r' | b'j' => (4, 0),
            b'G' => (8, 0),
            b'X' | b'T' | b'B' => (4, u32_at(at + 1)),
            b'U' | 0x8a | 0x8c | b'C' => (1, bytes.get(at + 1).map_or(0, |&n| usize::from(n))),
            b'c' => {
                let line = |from: usize| bytes[from..].iter().position(|&b| b == b'\n').map_or(0, |n| n + 1);
                let first = line(at + 1);
                (0, first + line(at + 1 + first))
            }
            _ => (0, 0),
        };
        fields.push(Field::new("argument", at + 1, width, Kind::Int));
        fields.push(Field::new("text", at + 1 + width, text, Kind::Bytes));
        at += 1 + width + text;
    }
    fields
}

fn pth(name: &str) -> Seed {
    let bytes = std::fs::read(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pytorch/{}.pth"), name)).unwrap();
    let mut fields = zip_fields(&bytes);
    // `data.pkl` comes first; torch begins it with protocol 2.
    if let Some(at) = bytes.windows(3).position(|w| w == [0x80, 2, b'}'] || w == [0x80, 2, b'c']) {
        fields.extend(pickle_fields(&bytes, at));
    }
    let len = bytes.len();
    Seed::new(name, bytes, fields, len)
}

#[test]
fn pytorch() {
    let seeds = ["training", "views", "dtypes", "prefixed", "module-2", "module-4"].map(pth).to_vec();
    assert!(seeds.iter().all(|s| s.fields.len() > 100), "fields were found");
    enough(hostile::mutants("pth", seeds, drive::checkpoint), 100);
}

#[test]
fn a_truncated_archive() {
    hostile::truncations("pth", &pth("module-2"), |_| false, drive::checkpoint);
}

/// A model of llama2.c with the sizes 4, 6, 2, 2, 1, 5, 3 and nothing but ones.
fn llama2c(version: i32) -> Seed {
    const SIZES: [i32; 7] = [4, 6, 2, 2, 1, 5, 3];
    const LAYER: usize = 16 + 8 + 8 + 16 + 3 * 24;
    let words = |w: &[i32]| w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let ones = |n: usize| std::iter::repeat_n(1f32.to_le_bytes(), n).flatten();
    let mut bytes = match version {
        0 => words(&SIZES),
        v => [words(&[0x616b_3432, v]), words(&SIZES)].concat(),
    };
    let fields = walk::words("header", 0..if version == 0 { 28 } else { 44 }, 4);
    let norms = 2 * 4 + 2 * 4 + 4;
    if version > 0 {
        bytes.push(1);
        bytes.extend(words(&[if version == 2 { 4 } else { 0 }]));
        bytes.resize(256, 0);
    }
    match version {
        0 => bytes.extend(ones(20 + norms + 2 * LAYER + 6)),
        1 => bytes.extend(ones(20 + norms + 2 * LAYER)),
        _ => {
            bytes.extend(ones(norms));
            let quantized = 20 + 2 * LAYER;
            bytes.extend(std::iter::repeat_n(1u8, quantized + quantized / 4 * 4));
        }
    }
    Seed::new(format!("version {version}"), bytes, fields, 64)
}

#[test]
fn llama2c_models() {
    let seeds = (0..3).map(llama2c).collect();
    enough(hostile::mutants("llama2c", seeds, drive::checkpoint), 100);
}

#[test]
fn a_truncated_llama2c_model() {
    for version in 0..3 {
        let seed = llama2c(version);
        hostile::truncations("llama2c", &Seed { header: seed.bytes.len(), ..seed }, |_| false, drive::checkpoint);
    }
}

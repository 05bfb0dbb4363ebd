//! Writes GGUF files for tests: version 3, little-endian, aligned to 32 bytes unless a field says otherwise.

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Field {
    /// Type 0.
    U8(u8),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9, of texts.
    Texts(Vec<String>),
    /// Type 9, of f32.
    F32s(Vec<f32>),
    /// Type 9, of i32.
    I32s(Vec<i32>),
    /// Type 9, of bytes.
    Bytes(Vec<u8>),
    /// A type and the bytes that follow it.
    Raw(u32, Vec<u8>),
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// ggml's number of its type.
    pub ty: u32,
    /// Its sizes, slowest first.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A GGUF file under construction.
#[derive(Clone, Debug, Default)]
pub struct GgufFile {
    /// Metadata, in order.
    pub fields: Vec<(String, Field)>,
    /// Tensors, in order.
    pub tensors: Vec<GgufTensor>,
}

fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, ty: u32, items: &[T], mut one: impl FnMut(&mut Vec<u8>, &T)) {
    out.extend(9u32.to_le_bytes());
    out.extend(ty.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| one(out, item));
}

impl Field {
    fn write(&self, out: &mut Vec<u8>) {
        let mut scalar = |ty: u32, bytes: &[u8]| {
            out.extend(ty.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Field::U8(v) => scalar(0, &[*v]),
            Field::U32(v) => scalar(4, &v.to_le_bytes()),
            Field::I32(v) => scalar(5, &v.to_le_bytes()),
            Field::F32(v) => scalar(6, &v.to_le_bytes()),
            Field::Bool(v) => scalar(7, &[u8::from(*v)]),
            Field::Raw(ty, bytes) => scalar(*ty, bytes),
            Field::Text(v) => {
                scalar(8, &[]);
                text(out, v);
            }
            Field::Texts(v) => list(out, 8, v, |out, s| text(out, s)),
            Field::F32s(v) => list(out, 6, v, |out, x| out.extend(x.to_le_bytes())),
            Field::I32s(v) => list(out, 5, v, |out, x| out.extend(x.to_le_bytes())),
            Field::Bytes(v) => list(out, 0, v, |out, x| out.push(*x)),
        }
    }
}

impl GgufFile {
    /// Sets a field, in the place of one of the same key if there is one.
    pub fn set(&mut self, key: &str, value: Field) -> &mut GgufFile {
        match self.fields.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.fields.push((key.to_owned(), value)),
        }
        self
    }

    /// Adds a tensor of f32 numbers.
    pub fn f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut GgufFile {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, 0, shape, bytes)
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, ty: u32, shape: &[usize], bytes: Vec<u8>) -> &mut GgufFile {
        self.tensors.push(GgufTensor { name: name.to_owned(), ty, shape: shape.to_vec(), bytes });
        self
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let alignment = match self.fields.iter().find(|(k, _)| k == "general.alignment") {
            Some((_, Field::U32(n))) => (*n as usize).max(1),
            _ => 32,
        };
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.fields.len() as u64).to_le_bytes());
        for (key, value) in &self.fields {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0usize;
        for t in &self.tensors {
            text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes()));
            out.extend(t.ty.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + t.bytes.len()).next_multiple_of(alignment);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend(&t.bytes);
        }
        out
    }
}

//! Writes checkpoints as `torch.save` does: a zip archive of stored entries around a pickle of protocol 2. For tests that
//! need a PyTorch checkpoint without PyTorch; `torch.load(…, weights_only=True)` reads them.

use std::io::{self, Write};

/// A tensor to write: row-major, in a storage of its own.
#[derive(Debug, Clone)]
pub struct TorchTensor {
    /// Its name in the state dictionary.
    pub name: String,
    /// The class of its storage in module `torch`: `FloatStorage`, `BFloat16Storage`.
    pub class: &'static str,
    /// Its sizes.
    pub shape: Vec<usize>,
}

/// Writes the state dictionary of `tensors`, whose bytes `bytes` gives, one tensor after the other.
///
/// # Errors
/// What `out` gives.
pub fn save(
    out: &mut dyn Write,
    tensors: &[TorchTensor],
    bytes: &mut dyn FnMut(&TorchTensor) -> Vec<u8>,
) -> io::Result<()> {
    let mut zip = ZipWriter::new(out);
    zip.add("archive/data.pkl", &state_dict(tensors))?;
    zip.add("archive/byteorder", b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        zip.add(&format!("archive/data/{key}"), &bytes(tensor))?;
    }
    zip.add("archive/version", b"3\n")?;
    zip.finish()
}

/// The pickle of a dictionary of these tensors; the storage of tensor `i` has the key `i`.
pub fn state_dict(tensors: &[TorchTensor]) -> Vec<u8> {
    let mut p = Pickle::new();
    p.op(b"}(");
    for (key, tensor) in tensors.iter().enumerate() {
        p.text(&tensor.name);
        p.tensor(tensor.class, &key.to_string(), &tensor.shape);
    }
    p.op(b"u");
    p.finish()
}

/// Writes the opcodes of a pickle of protocol 2.
#[derive(Debug, Clone)]
pub struct Pickle(Vec<u8>);

impl Default for Pickle {
    fn default() -> Pickle {
        Pickle::new()
    }
}

impl Pickle {
    /// An empty pickle.
    pub fn new() -> Pickle {
        Pickle(b"\x80\x02".to_vec())
    }

    /// Opcodes as they are.
    pub fn op(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.op(b"X");
        self.op(&(text.len() as u32).to_le_bytes());
        self.op(text.as_bytes());
    }

    /// An integer.
    pub fn int(&mut self, n: usize) {
        self.op(b"\x8a\x08");
        self.op(&(n as i64).to_le_bytes());
    }

    /// A tuple of integers.
    pub fn ints(&mut self, values: &[usize]) {
        self.op(b"(");
        values.iter().for_each(|n| self.int(*n));
        self.op(b"t");
    }

    /// `module.name`.
    pub fn global(&mut self, module: &str, name: &str) {
        self.op(format!("c{module}\n{name}\n").as_bytes());
    }

    /// The storage `key` of `numel` elements.
    pub fn storage(&mut self, class: &str, key: &str, numel: usize) {
        self.op(b"(");
        self.text("storage");
        self.global("torch", class);
        self.text(key);
        self.text("cpu");
        self.int(numel);
        self.op(b"tQ");
    }

    /// A view of the storage `key` of `numel` elements.
    pub fn view(&mut self, class: &str, key: &str, numel: usize, offset: usize, shape: &[usize], strides: &[usize]) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.op(b"(");
        self.storage(class, key, numel);
        self.int(offset);
        self.ints(shape);
        self.ints(strides);
        self.op(b"\x89");
        self.global("collections", "OrderedDict");
        self.op(b")RtR");
    }

    /// A row-major tensor that has the storage `key` for itself.
    pub fn tensor(&mut self, class: &str, key: &str, shape: &[usize]) {
        let mut strides = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d];
        }
        self.view(class, key, shape.iter().product(), 0, shape, &strides);
    }

    /// The pickle, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.op(b".");
        self.0
    }
}

/// Writes a zip archive of stored entries, each of less than 4 GiB and all together as well.
pub struct ZipWriter<'a> {
    out: &'a mut dyn Write,
    at: u32,
    directory: Vec<u8>,
    entries: u16,
}

impl std::fmt::Debug for ZipWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZipWriter").field("at", &self.at).field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl<'a> ZipWriter<'a> {
    /// An archive without entries.
    pub fn new(out: &'a mut dyn Write) -> ZipWriter<'a> {
        ZipWriter { out, at: 0, directory: Vec::new(), entries: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).ok();
        let at = len.and_then(|n| self.at.checked_add(n)).ok_or_else(|| io::Error::other("more than 4 GiB"))?;
        self.out.write_all(bytes)?;
        self.at = at;
        Ok(())
    }

    /// Adds an entry; its bytes begin at a multiple of 64, as `torch.save` has it.
    ///
    /// # Errors
    /// What the writer below gives.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let header = self.at;
        let unpadded = header as usize + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(64) - unpadded;
        // From the version needed to the length of the name: the same in both records.
        let mut common = [0u8; 24];
        common[10..14].copy_from_slice(&crc32(bytes).to_le_bytes());
        common[14..18].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        common[18..22].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        common[22..24].copy_from_slice(&(name.len() as u16).to_le_bytes());
        let extra = [b"FB", &(padding as u16).to_le_bytes()[..], &vec![b'Z'; padding]].concat();
        let extra_len = (extra.len() as u16).to_le_bytes();
        self.put(&[b"PK\x03\x04", &common[..], &extra_len, name.as_bytes(), &extra].concat())?;
        self.put(bytes)?;
        let offset = header.to_le_bytes();
        let entry = [b"PK\x01\x02", &[0; 2][..], &common, &[0; 2], &[0; 2 + 2 + 2 + 4], &offset, name.as_bytes()];
        self.directory.extend(entry.concat());
        self.entries += 1;
        Ok(())
    }

    /// Writes the directory.
    ///
    /// # Errors
    /// What the writer below gives.
    pub fn finish(mut self) -> io::Result<()> {
        let directory = std::mem::take(&mut self.directory);
        let (offset, len) = (self.at.to_le_bytes(), (directory.len() as u32).to_le_bytes());
        let entries = self.entries.to_le_bytes();
        self.put(&directory)?;
        self.put(&[b"PK\x05\x06", &[0; 4][..], &entries, &entries, &len, &offset, &[0; 2]].concat())
    }
}

/// The checksum of zip archives (CRC-32 of ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, slot) in table.iter_mut().enumerate() {
        *slot = (0..8).fold(i as u32, |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 });
    }
    !bytes.iter().fold(!0, |c, b| (c >> 8) ^ table[usize::from(c as u8 ^ b)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}

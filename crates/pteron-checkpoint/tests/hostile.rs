//! Headers and indices changed by a deterministic mutator: an error, or a checkpoint that the `safetensors` crate
//! accepts as well and whose every tensor can be read. Never a panic.

mod common;

use std::fs;
use std::sync::Arc;

use common::*;
use pteron_checkpoint::{Checkpoint, MemoryBytes};
use pteron_tensor::read_all;
use tempfile::tempdir;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e3",
    "1.5",
    "null",
];
const PIECES: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\ud800",
    "null",
    "{\"a\":1}",
    "[[[[",
    "\"F8_E5M2\"",
    "\"BOOL\"",
    "\0",
    "\u{ff}",
];

/// Changes the text of a header or an index in one to three places.
fn mutate(text: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + random.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                bytes.splice(at..at, random.pick(&PIECES).bytes());
            }
            _ => {
                // Another number in the place of one.
                let Some(start) = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) else { continue };
                let end = (start..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
                bytes.splice(start..end, random.pick(&NUMBERS).bytes());
            }
        }
    }
    bytes
}

#[test]
fn headers() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("seed.safetensors");
    write(&path, &llama());
    let seed = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
    let (text, data) = (std::str::from_utf8(&seed[8..8 + header_len]).unwrap(), &seed[8 + header_len..]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..2_000 {
        let header = mutate(text, &mut random);
        let declared = match random.below(10) {
            0 => random.next() >> random.below(64),
            _ => header.len() as u64,
        };
        let mut file = declared.to_le_bytes().to_vec();
        file.extend(&header);
        file.extend(data);
        match Checkpoint::from_bytes("mutant", Arc::new(MemoryBytes::new(file.clone())), None) {
            Ok(c) => {
                accepted += 1;
                let theirs = safetensors::SafeTensors::deserialize(&file)
                    .unwrap_or_else(|e| panic!("case {case}: accepted here, and refused there: {e}"));
                assert_eq!(c.tensors().len(), theirs.len(), "case {case}");
                for t in c.tensors() {
                    let all = read_all(c.get(t.name).unwrap().as_ref()).unwrap();
                    assert_eq!(&*all, theirs.tensor(t.name).unwrap().data(), "case {case}");
                }
            }
            Err(e) => {
                refused += 1;
                let e = e.to_string();
                assert!(e.starts_with("mutant: ") && e.len() < 1000 && !e.contains('\0'), "case {case}: {e}");
            }
        }
    }
    // Changes inside names leave valid files; most others do not.
    assert!(accepted > 50 && refused > 1000, "{accepted} accepted, {refused} refused");
}

#[test]
fn indices_and_configs() {
    let dir = tempdir().unwrap();
    let specs = llama();
    let folder = sharded(dir.path(), &specs);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for name in [INDEX, "config.json"] {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        let mut refused = 0;
        for case in 0..500 {
            fs::write(&path, mutate(&text, &mut random)).unwrap();
            let opened = if case % 2 == 0 { Checkpoint::open(&folder) } else { open_file_mode(&folder) };
            match opened {
                Ok(c) => {
                    for t in c.tensors() {
                        read_all(c.get(t.name).unwrap().as_ref()).unwrap();
                    }
                }
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().starts_with(&folder.display().to_string()), "case {case}: {e}");
                }
            }
        }
        assert!(refused > 100, "{name}: {refused} refused");
        fs::write(&path, &text).unwrap();
    }
}

#[test]
fn every_truncation_of_a_file() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("seed.safetensors");
    write(&path, &llama()[..3]);
    let seed = fs::read(&path).unwrap();
    for cut in 0..seed.len() {
        let bytes = Arc::new(MemoryBytes::new(seed[..cut].to_vec()));
        Checkpoint::from_bytes("cut", bytes, None).unwrap_err();
    }
}

#[test]
fn every_bit_of_a_header() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("seed.safetensors");
    write(&path, &llama()[..2]);
    let seed = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
    for bit in 0..(8 + header_len) * 8 {
        let mut file = seed.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        if Checkpoint::from_bytes("flipped", Arc::new(MemoryBytes::new(file.clone())), None).is_ok() {
            safetensors::SafeTensors::deserialize(&file).unwrap();
        }
    }
}

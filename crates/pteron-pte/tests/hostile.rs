//! Truncated and mutated files: an error or a value, never a panic, a hang, or an allocation past the file's size and a
//! margin.

mod common;
mod drive;

use common::{fixture, slices, small_program};
use pteron_pte::*;
use pteron_testkit::hostile::{self, Counting, Field, Kind, Seed, walk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The extended header of a program, where there is one, and the FlatBuffers tables; `end` is where the tables end.
fn program_seed(name: &str, bytes: Vec<u8>) -> Seed {
    let mut fields = Vec::new();
    if bytes.get(8..12) == Some(b"eh00") {
        fields.push(Field::new("header length", 12, 4, Kind::Int));
        fields.extend(walk::words("header", 16..40, 8));
    }
    fields.push(Field::new("identifier", 4, 4, Kind::Int));
    fields.extend(walk::flatbuffer(&bytes, 0));
    let end = match bytes_needed(&bytes, bytes.len() as u64) {
        Ok(end) => usize::try_from(end).unwrap(),
        Err(e) => panic!("{name}: {e}"),
    };
    Seed::new(name, bytes, fields, end)
}

fn flat_seed(name: &str) -> Seed {
    let bytes = fixture(name);
    let mut fields = walk::flatbuffer(&bytes, 0);
    fields.push(Field::new("identifier", 4, 4, Kind::Int));
    if bytes.get(8..12) == Some(b"FH01") {
        fields.extend(walk::words("header", 12..40, 4));
    }
    let len = bytes.len();
    Seed::new(name, bytes, fields, len)
}

fn programs() -> Vec<Seed> {
    let names = ["m_mlp", "m_add", "m_cond", "m_mutbuf_init", "m_mlp_xnn_inline", "m_args", "m_mlp_dyn", "m_scan"];
    let mut seeds: Vec<Seed> = names.iter().map(|n| program_seed(n, fixture(&format!("micro/{n}.pte")))).collect();
    let (program, segments) = small_program();
    seeds.push(program_seed("small", write_all(&program, &slices(&segments)).unwrap()));
    seeds
}

#[test]
fn a_truncated_program_is_refused_at_every_byte() {
    for name in ["m_mlp", "m_mutbuf_init", "m_mlp_xnn_inline"] {
        let seed = program_seed(name, fixture(&format!("micro/{name}.pte")));
        hostile::truncations("pte", &Seed { header: seed.bytes.len(), ..seed }, |_| false, drive::pte);
    }
}

#[test]
fn a_truncated_program_part_is_refused_at_every_byte() {
    let bytes = fixture("micro/m_mlp.pte");
    for n in 0..3152 {
        assert!(ParsedHead::parse(&bytes[..n], bytes.len() as u64).is_err(), "head of {n} bytes");
    }
}

#[test]
fn a_truncated_plain_program_never_panics() {
    // Without a header nothing says how long the file must be: only the padding and NUL at its end may be missing.
    let seed = program_seed("m_add", fixture("micro/m_add.pte"));
    let len = seed.bytes.len();
    hostile::truncations("pte", &Seed { header: len, ..seed }, |n| n + 4 >= len, drive::pte);
}

#[test]
fn truncated_companions_are_refused_or_equal() {
    for (kind, name, drive) in
        [("ptd", "_default_external_constant.ptd", drive::ptd as hostile::Drive), ("etdp", "m_mlp.etdp", drive::etdp)]
    {
        let seed = flat_seed(&format!("micro/{name}"));
        hostile::truncations(kind, &seed, |_| false, drive);
    }
    let bpte = fixture("micro/m_mlp.bpte");
    let whole = BundledProgram::parse(&bpte).unwrap();
    for n in 0..bpte.len() {
        if let Ok(b) = BundledProgram::parse(&bpte[..n]) {
            assert!(n + 4 >= bpte.len() && b == whole, ".bpte cut to {n} bytes");
        }
    }
}

#[test]
fn mutated_programs() {
    let tally = hostile::mutants("pte", programs(), drive::pte);
    // A mutator that always or never breaks the file tests nothing.
    assert!(tally.accepted > 200 && tally.refused > 200, "{tally:?}");
}

#[test]
fn every_bit_of_a_small_program() {
    let (program, segments) = small_program();
    hostile::bit_flips("pte", &program_seed("small", write_all(&program, &slices(&segments)).unwrap()), drive::pte);
}

#[test]
fn mutated_companions() {
    let seeds = |name: &str| vec![flat_seed(&format!("micro/{name}"))];
    for (kind, name, drive) in [
        ("ptd", "_default_external_constant.ptd", drive::ptd as hostile::Drive),
        ("bpte", "m_mlp.bpte", drive::bpte),
        ("etdp", "m_mlp.etdp", drive::etdp),
    ] {
        let tally = hostile::mutants(kind, seeds(name), drive);
        assert!(tally.accepted > 50 && tally.refused > 200, "{name}: {tally:?}");
    }
}

//! Truncated and mutated files: an error or a value, never a panic.

mod common;

use common::{Rng, fixture, slices, small_program};
use pteron_pte::*;

/// Visits everything that a parsed program offers.
fn exercise(file: &PteFile<'_>) {
    for plan in &file.program().execution_plans {
        for t in plan.values.iter().filter_map(EValue::as_tensor) {
            let _ = (t.storage(), t.numel(), t.nbytes());
            let constant = file.constant_bytes(t).unwrap();
            assert_eq!(constant.is_some(), matches!(t.storage(), Storage::Constant { .. }));
            let init = file.mutable_init_bytes(t).unwrap();
            assert_eq!(init.is_some(), matches!(t.storage(), Storage::InitialisedPlanned { .. }));
        }
        for d in &plan.delegates {
            file.delegate_bytes(d).unwrap();
        }
    }
    for n in &file.program().named_data {
        file.named_data(&n.key).unwrap();
    }
    let _ = dump::program(file.program());
}

#[test]
fn a_truncated_program_is_refused_at_every_byte() {
    for name in ["micro/m_mlp.pte", "micro/m_mutbuf_init.pte", "micro/m_mlp_xnn_inline.pte"] {
        let bytes = fixture(name);
        for n in 0..bytes.len() {
            assert!(PteFile::parse(&bytes[..n]).is_err(), "{name} cut to {n} bytes");
        }
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
    let bytes = fixture("micro/m_add.pte");
    for n in 0..bytes.len() {
        if let Ok(file) = PteFile::parse(&bytes[..n]) {
            assert!(n + 4 >= bytes.len(), "cut to {n} bytes");
            exercise(&file);
        }
    }
}

#[test]
fn truncated_companions_are_refused_or_equal() {
    let ptd = fixture("micro/_default_external_constant.ptd");
    for n in 0..ptd.len() {
        assert!(PtdFile::parse(&ptd[..n]).is_err(), ".ptd cut to {n} bytes");
    }
    let etdp = fixture("micro/m_mlp.etdp");
    for n in 0..etdp.len() {
        assert!(EtDump::parse(&etdp[..n]).is_err(), ".etdp cut to {n} bytes");
    }
    let bpte = fixture("micro/m_mlp.bpte");
    let whole = BundledProgram::parse(&bpte).unwrap();
    for n in 0..bpte.len() {
        if let Ok(b) = BundledProgram::parse(&bpte[..n]) {
            assert!(n + 4 >= bpte.len() && b == whole, ".bpte cut to {n} bytes");
        }
    }
}

/// Overwrites a byte, a word or a double word with a random or a telling number, one to three times.
fn mutate(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    const TELLING: [u64; 10] =
        [0, 1, 4, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(3) {
        let size = [1, 2, 4, 8][rng.below(4)];
        let at = rng.below(bytes.len());
        let value = if rng.below(2) == 0 { rng.next() } else { TELLING[rng.below(TELLING.len())] };
        for (b, v) in bytes[at..].iter_mut().zip(value.to_le_bytes().iter().take(size)) {
            *b = *v;
        }
    }
    if rng.below(8) == 0 {
        bytes.truncate(rng.below(bytes.len()));
    }
    bytes
}

fn mutants(seed: &[u8], count: usize, mut parse: impl FnMut(&[u8]) -> bool) -> (usize, usize) {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..count {
        if parse(&mutate(&mut rng, seed)) { good += 1 } else { bad += 1 }
    }
    (good, bad)
}

#[test]
fn mutated_programs_never_panic() {
    let (program, segments) = small_program();
    let mut seeds: Vec<(&str, Vec<u8>)> = ["m_mlp", "m_add", "m_cond", "m_mutbuf_init", "m_mlp_xnn_inline", "m_args"]
        .into_iter()
        .map(|n| (n, fixture(&format!("micro/{n}.pte"))))
        .collect();
    seeds.push(("small", write_all(&program, &slices(&segments)).unwrap()));
    for (name, seed) in seeds {
        let (good, bad) = mutants(&seed, 2000, |bytes| match PteFile::parse(bytes) {
            Ok(file) => {
                exercise(&file);
                true
            }
            Err(e) => {
                assert!(!e.to_string().is_empty());
                false
            }
        });
        // A mutator that always or never breaks the file tests nothing.
        assert!(good > 100 && bad > 100, "{name}: {good} read, {bad} refused");
    }
}

#[test]
fn mutated_companions_never_panic() {
    let (good, bad) = mutants(&fixture("micro/_default_external_constant.ptd"), 2000, |bytes| {
        let Ok(file) = PtdFile::parse(bytes) else { return false };
        assert!(file.entries().iter().all(|e| file.data(&e.key).is_some()));
        true
    });
    assert!(good > 100 && bad > 100, ".ptd: {good} read, {bad} refused");
    let (good, bad) = mutants(&fixture("micro/m_mlp.bpte"), 2000, |bytes| BundledProgram::parse(bytes).is_ok());
    assert!(good > 100 && bad > 100, ".bpte: {good} read, {bad} refused");
    let (good, bad) = mutants(&fixture("micro/m_mlp.etdp"), 2000, |bytes| EtDump::parse(bytes).is_ok());
    assert!(good > 100 && bad > 100, ".etdp: {good} read, {bad} refused");
}

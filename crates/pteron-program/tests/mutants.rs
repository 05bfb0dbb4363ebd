//! Mutants of programs, lifted, verified, planned and called: whatever is accepted runs to an end under its limits.

mod drive;

use pteron_testkit::hostile::{self, Counting, Field, Kind, Limits, Seed, walk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn seed(name: &str) -> Seed {
    let bytes = std::fs::read(pteron_testkit::fixture(&format!("executorch/{name}.pte"))).unwrap();
    let mut fields = walk::flatbuffer(&bytes, 0);
    let end = usize::try_from(pteron_pte::bytes_needed(&bytes, bytes.len() as u64).unwrap()).unwrap();
    if bytes.get(8..12) == Some(b"eh00") {
        fields.push(Field::new("header length", 12, 4, Kind::Int));
        fields.extend(walk::words("header", 16..40, 8));
    }
    Seed::new(name, bytes, fields, end)
}

const SMALL: [&str; 14] = [
    "micro/m_mlp",
    "micro/m_add",
    "micro/m_args",
    "micro/m_cast",
    "micro/m_chlast",
    "micro/m_cond",
    "micro/m_map",
    "micro/m_scan",
    "micro/m_mlp_dyn",
    "micro/m_multiout",
    "micro/m_mutbuf_init",
    "micro/m_shared_rw",
    "micro/m_mlp_xnn",
    "micro/m_mlp_xnn_inline",
];

/// A kernel may keep tiles on the stack, and the main thread of a process has eight megabytes.
fn limits() -> Limits {
    Limits { stack: 1 << 20, ..Limits::default() }
}

#[test]
fn small_programs() {
    let seeds = SMALL.iter().map(|n| seed(n)).collect();
    let tally = hostile::mutants_within("program", seeds, limits(), drive::program);
    assert!(tally.accepted > 50 && tally.refused > 200, "{tally:?}");
}

#[test]
fn language_models() {
    if hostile::mutant_count() <= 2_000 {
        pteron_testkit::skip(
            "mutants::language_models",
            "takes a minute: runs under `cargo xtask test`, or with PTERON_LARGE_TESTS=1",
        );
        return;
    }
    let seeds = ["v2_kv", "v3_kv_sdpa", "v6_kv_sdpa_xnn_fp32"].map(seed).to_vec();
    // Each runs a model for two steps: a tenth of what the small programs get.
    let limits = Limits { one_in: 10, ..limits() };
    let tally = hostile::mutants_within("model", seeds, limits, drive::program);
    assert!(tally.accepted > 20 && tally.refused > 200, "{tally:?}");
}

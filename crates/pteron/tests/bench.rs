//! The benchmarks run and say what they should; how fast anything is, no test asks.

mod support;

use support::{pteron, with_glass};

/// A folder with the bundled model and a program with a KV cache.
fn with_program(flags: &[&str]) -> tempfile::TempDir {
    let dir = with_glass();
    pteron(dir.path(), &[&["export", "glass-en", "-kv", "-o", "m.pte"], flags].concat()).ok();
    dir
}

/// Every row of a Markdown table has as many cells as the first, and there are `rows` under the rule.
#[track_caller]
fn is_table(text: &str, rows: usize) {
    let lines: Vec<&str> = text.lines().collect();
    let cells = |l: &str| l.matches('|').count();
    assert!(lines.iter().all(|l| l.starts_with("| ") || l.starts_with("|---")), "{text}");
    assert!(lines.iter().all(|l| cells(l) == cells(lines[0])), "{text}");
    assert!(lines[1].starts_with("|---"), "{text}");
    assert_eq!(lines.len(), rows + 2, "{text}");
}

fn positive(v: &serde_json::Value) -> bool {
    v.as_f64().is_some_and(|x| x > 0.0 && x.is_finite())
}

#[test]
fn bandwidth_is_a_table_or_json() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["bench", "bandwidth", "--mib", "8", "--threads", "1,2"];
    let table = pteron(dir.path(), &args).ok();
    is_table(&table, 2);
    let json = pteron(dir.path(), &[&args[..], &["--json"]].concat()).json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    for (row, threads) in json.as_array().unwrap().iter().zip([1, 2]) {
        assert_eq!(row["threads"], threads);
        assert_eq!(row["memory_mib"], 8);
        for field in ["memory_gb_per_s", "cache_gb_per_s", "fma_gflop_per_s"] {
            assert!(positive(&row[field]), "{field}: {row}");
        }
    }
}

#[test]
fn a_model_is_tables_or_json() {
    let dir = with_program(&["--use-sdpa-with-kv-cache"]);
    let args = ["bench", "model", "m.pte", "--prompt-tokens", "8,32", "--generate", "3", "--context", "0,16"];
    let args = [&args[..], &["--threads", "1,2", "--repeat", "2", "--mib", "8", "--profile"]].concat();
    let out = pteron(dir.path(), &args).ok();
    let mut parts = out.split("\n\n").filter(|p| p.starts_with("| "));
    is_table(parts.next().unwrap().trim_end(), 8);
    is_table(parts.next().unwrap().trim_end(), 2);
    assert!(out.contains("| 1 | pp32 | ") && out.contains("| 2 | tg3 at 16 | "), "{out}");
    assert!(out.contains("m.pte: ") && out.contains("856,705 elements of constants"), "{out}");
    assert_eq!(out.matches("| aten::linear | ").count(), 4, "{out}");

    let json = pteron(dir.path(), &[&args[..], &["--json"]].concat()).json();
    for t in json["threads"].as_array().unwrap() {
        assert!(positive(&t["load_seconds"]) && positive(&t["limits"]["memory_gb_per_s"]));
        for p in t["prefill"].as_array().unwrap() {
            assert!(positive(&p["tokens_per_s"]) && positive(&p["of_peak"]), "{p}");
            assert_eq!(p["seconds"].as_array().unwrap().len(), 2);
        }
        for d in t["decode"].as_array().unwrap() {
            assert!(positive(&d["tokens_per_s"]) && positive(&d["of_memory_bandwidth"]), "{d}");
        }
        assert_eq!(t["profiles"].as_array().unwrap().len(), 2);
        if cfg!(target_os = "linux") {
            assert!(positive(&t["peak_memory"]["anonymous"]) && positive(&t["peak_memory"]["resident"]));
        }
    }
}

/// glass-en has 4 layers of width 128 with 4 heads of 32 on 2, 341 wide inside, and 1024 tokens, all f32. Its embedding
/// is its output matrix.
#[test]
fn work_is_counted_as_by_hand() {
    const MATRICES: u64 = 128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 341 * 128;
    const NORMS: u64 = 9 * 128 + 1;
    const HEAD: u64 = 1024 * 128;
    let measured = |dir: &std::path::Path| {
        let args = ["bench", "model", "m.pte", "--prompt-tokens", "8", "--generate", "3", "--context", "16"];
        let json =
            pteron(dir, &[&args[..], &["--threads", "1", "--repeat", "1", "--mib", "1", "--json"]].concat()).json();
        let t = json["threads"][0].clone();
        (t["prefill"][0].clone(), t["decode"][0].clone())
    };

    let (prefill, decode) = measured(with_program(&["--use-sdpa-with-kv-cache"]).path());
    // The output matrix is multiplied with the last token alone.
    assert_eq!(prefill["work"]["matrix_flops"], 2 * (8 * 4 * MATRICES + HEAD));
    let pairs = 8 * 9 / 2;
    assert_eq!(prefill["work"]["attention_flops"], 4 * 4 * 4 * 32 * pairs);
    assert_eq!(decode["work"]["matrix_flops"], 2 * (4 * MATRICES + HEAD));
    assert_eq!(decode["work"]["attention_flops"], 4 * 4 * 4 * 32 * 17);
    // One row of the embedding, one of each rotation table, and all else.
    let rows = 128 + 2 * 16;
    assert_eq!(decode["work"]["constant_bytes"], 4 * (4 * MATRICES + HEAD + NORMS + rows));
    assert_eq!(decode["work"]["cache_bytes"], 4 * 4 * 2 * 2 * 32 * 17);
    let constants = decode["work"]["constant_bytes"].as_f64().unwrap();
    assert_eq!(decode["bytes_per_token"], constants + (4 * 4 * 2 * 2 * 32 * 18) as f64);

    // Without the custom operators the whole cache is multiplied.
    let (_, decode) = measured(with_program(&[]).path());
    assert_eq!(decode["work"]["cache_bytes"], 4 * 4 * 2 * 2 * 32 * 128);
    assert_eq!(decode["work"]["matrix_flops"], 2 * (4 * MATRICES + HEAD) + 4 * 4 * 4 * 32 * 128);
}

#[test]
fn an_export_is_a_table_or_json_and_leaves_nothing() {
    let dir = with_glass();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let args = ["bench", "export", "glass-en", "-kv", "--use_sdpa_with_kv_cache", "-d", "bf16", "-o", "out"];
    let out = pteron(dir.path(), &args).ok();
    is_table(out.split("\n\n").nth(1).unwrap().trim_end(), 1);
    assert!(out.starts_with("852,608 parameters as bf16, "), "{out}");
    let json = pteron(dir.path(), &[&args[..], &["--repeat", "2", "--json"]].concat()).json();
    assert_eq!(json["export_seconds"].as_array().unwrap().len(), 2);
    assert_eq!(json["copy_seconds"].as_array().unwrap().len(), 2);
    assert!(positive(&json["ratio"]));
    assert!(json["file_bytes"].as_u64().unwrap() > 2 * 852_608);
    assert_eq!(std::fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_measured_is_told() {
    let dir = with_glass();
    pteron(dir.path(), &["export", "glass-en", "-o", "uncached.pte"]).ok();
    pteron(dir.path(), &["export", "glass-en", "-kv", "-o", "m.pte"]).ok();
    for (code, args, said) in [
        (2, &["bandwidth", "--threads", "0"][..], "--threads has 0"),
        (2, &["bandwidth", "--mib", "0"], "--mib is 0"),
        (2, &["model", "m.pte", "--repeat", "0"], "--repeat is 0"),
        (2, &["model", "m.pte", "--prompt-tokens", "0"], "--prompt-tokens has 0"),
        (2, &["export", "glass-en", "--export-only"], "--export-only writes nothing"),
        (2, &["export", "glass-en", "-o", "kept.pte"], "-o is the folder"),
        (1, &["export", "glass-en", "-o", "absent"], "absent"),
        (1, &["export", "absent"], "absent"),
        (1, &["model", "absent.pte"], "absent.pte"),
        (1, &["model", "uncached.pte"], "no KV cache"),
        (1, &["model", "m.pte"], "need 512 positions, the program has 128"),
        (1, &["model", "m.pte", "--prompt-tokens", "8"], "need 576 positions, the program has 128"),
    ] {
        let e = pteron(dir.path(), &[&["bench"], args].concat()).fails(code);
        assert!(e.contains(said), "{args:?}: {e}");
    }
}

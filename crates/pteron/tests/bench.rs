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
    assert!(lines[1].replace(' ', "").starts_with("|---"), "{text}");
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
        for field in ["memory_gb_per_s", "cache_gb_per_s", "fma_gflop_per_s", "int8_gop_per_s"] {
            assert!(positive(&row[field]), "{field}: {row}");
        }
    }
}

#[test]
fn a_model_is_tables_or_rows() {
    let dir = with_program(&["--use-sdpa-with-kv-cache"]);
    let args = ["bench", "m.pte", "-p", "8,32", "-n", "3", "-d", "0,16", "-t", "1,2", "-r", "2", "--mib", "8"];
    let with = |more: &[&str]| pteron(dir.path(), &[&args[..], more].concat());
    let out = with(&["--profile", "--profile-trace", "trace.json"]).ok();
    let mut parts = out.split("\n\n").filter(|p| p.starts_with("| "));
    is_table(parts.next().unwrap().trim_end(), 12);
    is_table(parts.next().unwrap().trim_end(), 2);
    for test in ["pp8", "pp32", "tg3", "pp8 @ d16", "pp32 @ d16", "tg3 @ d16"] {
        assert_eq!(out.matches(&format!(" | {test} | ")).count(), 2, "{test}: {out}");
    }
    assert!(out.contains("| m.pte f32 | ") && out.contains(" | 856,705 | CPU | "), "{out}");
    // A profile for each test: layers of one input are one call.
    assert_eq!(out.matches("| aten::linear | ").count(), 12, "{out}");
    assert!(out.contains("| aten::linear | 17 | 29 | "), "{out}");
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let linear = |e: &&serde_json::Value| e["name"] == "aten::linear";
    assert_eq!(events.iter().filter(linear).count(), 2 * 2 * (17 + 17 + 3 * 17));
    assert!(events.iter().filter(|e| e["ph"] == "X").all(|e| e["ts"].is_number() && e["dur"].is_number()));

    let rows = with(&["-o", "json"]).json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 12);
    for r in rows {
        for field in ["avg_ns", "avg_ts", "machine", "achieved", "share", "load_ms", "first_token_ms"] {
            assert!(positive(&r[field]), "{field}: {r}");
        }
        assert!(r["stddev_ts"].is_number() && r["stddev_ns"].is_number());
        assert_eq!(r["samples_ts"].as_array().unwrap().len(), 2);
        assert_eq!((&r["type_k"], &r["model_type"]), (&"f32".into(), &"f32".into()));
        if cfg!(target_os = "linux") {
            assert!(positive(&r["peak_rss_bytes"]) && positive(&r["peak_rss_anon_bytes"]));
        }
    }
    let key = |r: &serde_json::Value| ["n_threads", "n_prompt", "n_gen", "n_depth"].map(|f| r[f].as_u64().unwrap());
    let keys: Vec<[u64; 4]> = rows[..6].iter().map(key).collect();
    assert_eq!(keys, [[1, 8, 0, 0], [1, 32, 0, 0], [1, 0, 3, 0], [1, 8, 0, 16], [1, 32, 0, 16], [1, 0, 3, 16]]);

    let lines =
        pteron(dir.path(), &["bench", "-m", "m.pte", "-p", "8", "-n", "0", "-r", "1", "--mib", "1", "-o", "jsonl"])
            .ok();
    assert_eq!(lines.lines().count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&lines).unwrap()["n_prompt"], 8);
    let csv = pteron(dir.path(), &["bench", "m.pte", "-p", "0", "-n", "2", "-r", "1", "--mib", "1", "-o", "csv"]).ok();
    let cells: Vec<usize> = csv.lines().map(|l| l.split(',').count()).collect();
    assert!(csv.starts_with("build_commit,") && csv.contains(",n_prompt,n_gen,n_depth,"), "{csv}");
    assert!(cells.len() == 2 && cells[0] == cells[1], "{csv}");
}

#[cfg(target_os = "linux")]
#[test]
fn threads_run_where_they_are_told() {
    let dir = with_program(&["--use-sdpa-with-kv-cache"]);
    let args = ["bench", "m.pte", "-p", "8", "-n", "0", "-r", "1", "--mib", "1", "-o", "json", "--cpu-mask"];
    let rows = pteron(dir.path(), &[&args[..], &["0x1"]].concat()).json();
    assert_eq!((&rows[0]["cpu_mask"], &rows[0]["n_threads"]), (&"0x1".into(), &1.into()));
    let e = pteron(dir.path(), &[&args[..], &["1023-1023"]].concat()).fails(2);
    assert!(e.contains("does not let this process run there"), "{e}");
    let e = pteron(dir.path(), &[&args[..], &["xyz"]].concat()).fails(2);
    assert!(e.contains("no mask in hexadecimal digits"), "{e}");
}

/// glass-en has 4 layers of width 128 with 4 heads of 32 on 2, 341 wide inside, and 1024 tokens, all f32. Its embedding
/// is its output matrix.
#[test]
fn work_is_counted_as_by_hand() {
    const MATRICES: u64 = 128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 341 * 128;
    const NORMS: u64 = 9 * 128 + 1;
    const HEAD: u64 = 1024 * 128;
    let measured = |dir: &std::path::Path| {
        let args =
            ["bench", "m.pte", "-p", "8", "-n", "3", "-d", "0,16", "-t", "1", "-r", "1", "--mib", "1", "-o", "json"];
        let rows = pteron(dir, &args).json();
        (rows[0].clone(), rows[3].clone())
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
        (2, &["m.pte", "-r", "0"], "repetitions is 0"),
        (2, &["m.pte", "-p", "0", "-n", "0"], "nothing to measure"),
        (2, &["m.pte", "-t", "0"], "--threads has 0"),
        (2, &["export", "glass-en", "--export-only"], "--export-only writes nothing"),
        (2, &["export", "glass-en", "-o", "kept.pte"], "-o is the folder"),
        (1, &["export", "glass-en", "-o", "absent"], "absent"),
        (1, &["export", "absent"], "absent"),
        (1, &["absent.pte"], "absent.pte"),
        (1, &["uncached.pte"], "no KV cache"),
        (1, &["m.pte"], "pp512 needs 512 positions, the program has 128"),
        (1, &["m.pte", "-p", "8", "-n", "4", "-d", "125"], "pp8 after 125 needs 133 positions, the program has 128"),
    ] {
        let e = pteron(dir.path(), &[&["bench"], args].concat()).fails(code);
        assert!(e.contains(said), "{args:?}: {e}");
    }
}

//! From the bundled checkpoint to its recorded text, in every form of program.

mod support;

use support::{golden, pteron, pteron_with_input, with_glass};

/// Exports with `flags` and compares the greedy text of every recorded prompt.
#[track_caller]
fn check_text(flags: &[&str], run_flags: &[&str]) {
    let dir = with_glass();
    let mut args = vec!["export", "glass-en", "-o", "glass-en/m.pte", "--json"];
    args.extend(flags);
    let report = pteron(dir.path(), &args).json();
    assert_eq!(report["parameters"], 852_608);
    assert!(report["arena_bytes"].as_u64().unwrap() <= report["executorch_arena_bytes"].as_u64().unwrap());
    let len = std::fs::metadata(dir.path().join("glass-en/m.pte")).unwrap().len();
    assert_eq!(report["file_bytes"].as_u64(), Some(len));
    let seen = pteron(dir.path(), &["inspect", "glass-en/m.pte", "--json", "--runtime", "executorch-1.5"]).json();
    assert_eq!(seen["missing"]["operators"].as_array().unwrap().len(), 0);
    assert_eq!(seen["methods"][0]["name"], "forward");
    assert_eq!(seen["metadata"]["get_eos_ids"], serde_json::json!([3]));
    for (prompt, ids, text) in golden() {
        let count = ids.len().to_string();
        let mut args =
            vec!["run", "glass-en/m.pte", "--prompt", &prompt, "--temperature", "0", "--json", "--ignore-eos"];
        args.extend(["--num-bos", "0", "--max-new-tokens", &count]);
        args.extend(run_flags);
        let result = pteron(dir.path(), &args).json();
        assert_eq!(result["text"].as_str(), Some(text.as_str()), "{flags:?}");
        assert_eq!(result["token_ids"], serde_json::json!(ids), "{flags:?}");
        assert_eq!(result["finish_reason"], "length");
    }
}

#[test]
fn cache_by_custom_operators() {
    check_text(&["-kv", "--use_sdpa_with_kv_cache"], &[]);
}

#[test]
fn cache_by_custom_operators_static() {
    check_text(&["-kv", "--use_sdpa_with_kv_cache", "--disable_dynamic_shape"], &["--cpu-threads", "1"]);
}

#[test]
fn plain_cache() {
    check_text(&["-kv"], &["--load-mode", "file"]);
}

#[test]
fn plain_cache_static() {
    check_text(&["--use-kv-cache", "--disable-dynamic-shape"], &["--warmup"]);
}

#[test]
fn no_cache() {
    check_text(&[], &["--cpu-threads", "2"]);
}

#[test]
fn no_cache_static() {
    check_text(&["--disable_dynamic_shape", "--generate_full_logits"], &[]);
}

#[test]
fn no_cache_full_logits() {
    check_text(&["--generate-full-logits"], &[]);
}

#[test]
fn half_precision_runs() {
    for dtype in ["fp16", "bf16"] {
        let dir = with_glass();
        for form in [&["-kv", "--use_sdpa_with_kv_cache"][..], &["-kv"], &[]] {
            let mut args = vec!["export", "glass-en", "-o", "m.pte", "-d", dtype];
            args.extend(form);
            pteron(dir.path(), &args).ok();
            let args = [
                "run",
                "m.pte",
                "-t",
                "glass-en",
                "-p",
                "Alice was",
                "--temperature",
                "0",
                "--max-new-tokens",
                "8",
                "--json",
            ];
            let r = pteron(dir.path(), &args).json();
            assert_eq!(r["token_ids"].as_array().unwrap().len(), 8, "{dtype} {form:?}: {r}");
            assert!(r["text"].as_str().is_some_and(|t| t.len() > 8), "{dtype} {form:?}: {r}");
        }
    }
}

#[test]
fn text_is_streamed_with_its_prompt_and_statistics() {
    let dir = with_glass();
    pteron(dir.path(), &["export", "glass-en", "-kv", "--use-sdpa-with-kv-cache", "-o", "glass-en"]).ok();
    let (prompt, _, text) = golden().remove(0);
    let model = "glass-en/glass-en.pte";
    let base = ["run", model, "--temperature", "0", "--max_new_tokens", "60", "--ignore_eos", "--num_bos", "0"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let r = pteron_with_input(dir.path(), &with(&[]), &prompt);
    assert!(r.err.contains("tok/s") || r.err.contains("tokens"), "{}", r.err);
    assert_eq!(r.ok(), format!("{prompt}{text}\n"));
    std::fs::write(dir.path().join("prompt.txt"), &prompt).unwrap();
    let r = pteron(dir.path(), &with(&["--prompt_file", "prompt.txt", "--no-echo", "--stats", "json"])).ok();
    let (said, line) = r.split_once("PyTorchObserver ").unwrap();
    assert_eq!(said, format!("{text}\n"));
    let stats: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&stats["prompt_tokens"], &stats["generated_tokens"]), (&serde_json::json!(5), &serde_json::json!(59)));
    let sampled = |seed: &str| {
        let args =
            ["run", model, "-p", "Alice", "--seed", seed, "--max-new-tokens", "20", "--json", "--temperature", "1"];
        pteron(dir.path(), &args).json()["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
}

#[test]
fn a_context_longer_than_a_call_is_used_to_its_end() {
    let dir = with_glass();
    let export = ["export", "glass-en", "-kv", "-o", "glass-en/m.pte", "--max-seq-length", "8"];
    for form in [&[][..], &["--use-sdpa-with-kv-cache"], &["--disable-dynamic-shape"]] {
        pteron(dir.path(), &[&export[..], &["--max-context-length", "32"], form].concat()).ok();
        let run = |more: &[&str]| {
            let base = ["run", "glass-en/m.pte", "-p", "Alice was", "--temperature", "0", "--ignore-eos", "--json"];
            pteron(dir.path(), &[&base[..], more].concat()).json()
        };
        let count = |r: &serde_json::Value, key: &str| r[key].as_array().unwrap().len();
        let r = run(&[]);
        assert_eq!(r["finish_reason"], "context_full", "{form:?}");
        assert_eq!(count(&r, "prompt_ids") + count(&r, "token_ids"), 32, "{form:?}");
        let r = run(&["--seq-len", "12"]);
        assert_eq!(r["finish_reason"], "length", "{form:?}");
        assert_eq!(count(&r, "prompt_ids") + count(&r, "token_ids"), 12, "{form:?}");
    }
    let long = "Alice was ".repeat(32);
    let r = pteron(dir.path(), &["run", "glass-en/m.pte", "-p", &long]);
    assert!(r.err.contains("the model's context holds 32"), "{}", r.err);
}

#[test]
fn the_demo_prints_the_pinned_text() {
    let dir = tempfile::tempdir().unwrap();
    let (prompt, _, text) = golden().remove(0);
    let out = pteron(dir.path(), &["demo", "--keep", "kept"]).ok();
    assert!(out.contains(&format!("{prompt}{text}\n")), "{out}");
    assert!(out.contains("# the pinned text: 852,608 parameters"), "{out}");
    assert!(dir.path().join("kept/glass-en.pte").is_file() && dir.path().join("kept/LICENSE").is_file());
}

#[test]
fn exports_are_deterministic() {
    let dir = with_glass();
    for form in [&["-kv", "--use-sdpa-with-kv-cache"][..], &["-kv"], &["-d", "bf16"]] {
        let bytes = |name: &str| {
            let args = [&["export", "glass-en", "-o", name][..], form].concat();
            pteron(dir.path(), &args).ok();
            std::fs::read(dir.path().join(name)).unwrap()
        };
        assert!(bytes("a.pte") == bytes("b.pte"), "{form:?}");
    }
}

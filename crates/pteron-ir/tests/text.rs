//! The text form, the verifier and the passes over random modules and damaged text.

mod support;

use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::{Op, parse, passes, print, verify};
use support::{Random, random_module};

#[test]
fn random_modules_verify_and_round_trip() {
    let mut nodes = 0;
    for seed in 0..600 {
        let m = random_module(seed, 40);
        verify::module(&m).unwrap_or_else(|e| panic!("seed {seed}: {}", verify::annotate(&m, &e)));
        let text = print::module(&m);
        let again = parse::module(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(print::module(&again), text, "seed {seed}");
        verify::module(&again).unwrap_or_else(|e| panic!("seed {seed}: {}", verify::annotate(&again, &e)));
        for (a, b) in m.graphs.iter().zip(&again.graphs) {
            let (x, y) = (a.all_nodes(), b.all_nodes());
            assert_eq!(x.len(), y.len());
            nodes += x.len();
            for (&p, &q) in x.iter().zip(&y) {
                assert_eq!(a.nodes[p].op, b.nodes[q].op);
                assert_eq!(a.nodes[p].handle, b.nodes[q].handle);
                assert_eq!(a.paths[a.nodes[p].path], b.paths[b.nodes[q].path]);
                assert_eq!(a.nodes[p].args.len(), b.nodes[q].args.len());
            }
        }
    }
    assert!(nodes > 3000, "only {nodes} nodes in all modules");
}

#[test]
fn passes_keep_modules_whole_at_every_step() {
    let portable = passes::executorch_portable;
    let runner = Runner::new(["dce", "decompose", "canonicalize"].map(|n| passes::by_name(n).unwrap()));
    for seed in 0..40 {
        for limit in 0.. {
            let mut m = random_module(seed, 30);
            let context = PassContext::new(&portable).with_step_limit(Some(limit));
            runner.run(&mut m, &context).unwrap_or_else(|e| panic!("seed {seed}, {limit} steps: {e}"));
            assert!(context.steps() <= limit);
            if context.steps() < limit {
                break;
            }
        }
    }
}

#[test]
fn passes_keep_random_modules_whole() {
    let portable = passes::executorch_portable;
    let mut changed = [0; 3];
    for seed in 0..600 {
        let mut m = random_module(seed, 40);
        let runner = Runner::new(["decompose", "canonicalize", "dce"].map(|n| passes::by_name(n).unwrap()));
        let reports = runner.run(&mut m, &PassContext::new(&portable)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for (count, (_, report)) in changed.iter_mut().zip(&reports) {
            *count += report.changed;
        }
        assert!(m.graphs.iter().all(|g| g.all_nodes().iter().all(|&n| g.nodes[n].op != Op::Silu)));
        let text = print::module(&m);
        let again = parse::module(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(print::module(&again), text, "seed {seed}");
        // Nothing is left to do.
        let rest = runner.run(&mut m, &PassContext::new(&portable)).unwrap();
        assert_eq!(rest[0].1.changed + rest[2].1.changed, 0, "seed {seed}: {rest:?}\n{text}");
    }
    assert!(changed.iter().all(|&c| c > 100), "{changed:?}");
}

/// One to three random edits: characters, tokens, lines, numbers.
fn damage(text: &str, r: &mut Random) -> String {
    const PIECES: &[&str] = &[
        "%",
        "#",
        "c0",
        "b0",
        "s0",
        "s9",
        "?",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "1e999",
        "nan",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "\"",
        ",",
        ":",
        "=",
        "..=",
        "None",
        "true",
        "f32",
        "f32[2]",
        "int",
        "cond",
        "loop",
        "yield",
        "return",
        "mutate",
        "\u{0}",
        "é",
        "\\u{110000}",
        ";",
        "_",
        "0",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + r.below(3) {
        if chars.is_empty() {
            break;
        }
        let at = r.below(chars.len());
        match r.below(12) {
            0 => drop(chars.remove(at)),
            1 => chars[at] = r.pick(PIECES).chars().next().unwrap_or(' '),
            2 => drop(chars.splice(at..at, r.pick(PIECES).chars())),
            3 => {
                // A number becomes another.
                if let Some(start) = (at..chars.len()).find(|&i| chars[i].is_ascii_digit()) {
                    let end = (start..chars.len()).find(|&i| !chars[i].is_ascii_digit()).unwrap_or(chars.len());
                    let number = r.pick(&["0", "1", "-7", "4294967296", "9223372036854775807", "-9223372036854775808"]);
                    drop(chars.splice(start..end, number.chars()));
                }
            }
            4 => {
                let end = (at + r.below(60)).min(chars.len());
                drop(chars.drain(at..end));
            }
            5 => {
                let end = (at + r.below(60)).min(chars.len());
                let piece: Vec<char> = chars[at..end].to_vec();
                let to = r.below(chars.len());
                drop(chars.splice(to..to, piece));
            }
            _ => {
                // A digit of an id, size or number becomes another.
                if let Some(i) = (at..chars.len()).find(|&i| chars[i].is_ascii_digit()) {
                    chars[i] = r.pick(&['0', '1', '2', '3', '9']);
                }
            }
        }
    }
    chars.into_iter().collect()
}

/// Reads damaged text, and does with it whatever can be done with what was read.
fn survives(text: &str) -> &'static str {
    let Ok(parsed) = parse::module_with_lines(text) else { return "refused" };
    let m = parsed.module;
    let printed = print::module(&m);
    let again = parse::module(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}\nfrom\n{text}"));
    assert_eq!(print::module(&again), printed);
    match verify::module(&m) {
        Ok(()) => "whole",
        Err(errors) => {
            assert!(verify::annotate(&m, &errors).contains("; error: "));
            "broken"
        }
    }
}

#[test]
fn damaged_text_is_refused_or_read_and_never_panics() {
    let mut r = Random::new(7);
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..3000 {
        let text = damage(&print::module(&random_module(seed % 300, 20)), &mut r);
        *outcomes.entry(survives(&text)).or_insert(0) += 1;
    }
    // Each outcome is met often, or the damage is of the wrong kind.
    assert!(outcomes.len() == 3 && outcomes.values().all(|&n| n > 100), "{outcomes:?}");
}

#[test]
fn damaged_file_tests_never_panic() {
    let mut r = Random::new(11);
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/filetests"))];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    for file in &files {
        // Many operators, each with its own inference over numbers that nobody expects.
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.split("\n; ---").next().unwrap();
        for _ in 0..ROUNDS {
            survives(&damage(text, &mut r));
        }
    }
    assert!(files.len() * ROUNDS > 2000);
}

/// How often each file test is damaged.
const ROUNDS: usize = 50;

#[test]
fn cut_text_is_refused() {
    let text = print::module(&random_module(3, 20));
    let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
    for &end in boundaries.iter().filter(|&&end| end + 1 < text.len()) {
        assert!(parse::module(&text[..end]).is_err(), "cut at {end}");
    }
}

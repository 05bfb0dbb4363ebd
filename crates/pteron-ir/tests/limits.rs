//! The limits on foreign text, one test each.

use pteron_ir::parse::{self, MAX_ELIDED_BYTES, MAX_RANK, MAX_REGION_DEPTH, ParseErrorKind};

fn refused(text: &str) -> (&'static str, usize) {
    match parse::module(text).unwrap_err().kind {
        ParseErrorKind::Limit { what, limit, .. } => (what, limit),
        other => panic!("{other}"),
    }
}

#[test]
fn depth_of_regions() {
    let text = |depth: usize| {
        let (open, close) = ("cond(%0) then { yield } else { ".repeat(depth), "yield } ".repeat(depth));
        format!("module \"t\" {{ graph f(%0: bool) {{ {open}{close} return }} }}")
    };
    parse::module(&text(MAX_REGION_DEPTH)).unwrap();
    assert_eq!(refused(&text(MAX_REGION_DEPTH + 1)), ("nested regions", MAX_REGION_DEPTH));
    refused(&text(100_000));
}

#[test]
fn rank_of_tensors() {
    let text = |rank: usize| format!("module \"t\" {{ const c0 \"w\" : f32[{}] }}", vec!["1"; rank].join(", "));
    parse::module(&text(MAX_RANK)).unwrap();
    assert_eq!(refused(&text(MAX_RANK + 1)).1, MAX_RANK);
    let order = format!("module \"t\" {{ const c0 \"w\" : f32[1]{{{}}} }}", vec!["0"; MAX_RANK + 1].join(","));
    assert_eq!(refused(&order), ("dimensions of a dim order", MAX_RANK));
}

#[test]
fn payloads_that_are_not_there() {
    let half = MAX_ELIDED_BYTES / 2;
    let text = |n: usize| format!("module \"t\" {{ delegate d0 \"B\" {half} bytes data \"k\" = {n} bytes }}");
    let m = parse::module(&text(half)).unwrap();
    assert_eq!(m.delegates.values().next().unwrap().payload.len(), half);
    assert_eq!(refused(&text(half + 1)).1, MAX_ELIDED_BYTES);
    assert_eq!(refused(&text(usize::MAX >> 1)).1, MAX_ELIDED_BYTES);
}

#[test]
fn numbers_that_do_not_fit() {
    for (text, part) in [
        ("graph f(%99999999999: bool) { return }", "does not fit in 32 bits"),
        ("graph f() { custom \"x\"(99999999999999999999) return }", "an integer of 64 bits"),
        ("graph f(%0: f32[9223372036854775807*s0+9223372036854775807*s0]) where s0 in 0..=1 { return }", ""),
        ("graph f(%0: f32[9223372036854775807+1]) { return }", "does not fit in 64 bits"),
        ("const c0 \"w\" : f32[9223372036854775807, 9223372036854775807] = []", "not static"),
        ("const c0 \"w\" : f32[9223372036854775807] = []", "found 0 elements"),
        ("metadata x = [f32[9223372036854775807] = []]", "found 0 elements"),
    ] {
        let result = parse::module(&format!("module \"t\" {{ {text} }}"));
        match part {
            "" => drop(result.unwrap()),
            part => assert!(result.as_ref().unwrap_err().to_string().contains(part), "{text}: {result:?}"),
        }
    }
}

//! Damaged payloads and compile specs are refused with a sentence, or read.

use pteron_pte::flatbuf::{Builder, Field as Slot, TableFields};
use pteron_qnn::payload::{Payload, write_payload};
use pteron_qnn::soc::Soc;
use pteron_qnn::spec::{CompileSpec, HtpOptions};
use pteron_testkit::hostile::{self, Counting, Field, Kind, Seed, Verdict, walk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn payload(bytes: &[u8]) -> Verdict {
    let payload = Payload::parse(bytes).map_err(|e| e.to_string())?;
    assert_eq!(payload.context(bytes).len(), payload.context.len(), "the context lies in the payload");
    Ok(())
}

fn spec(bytes: &[u8]) -> Verdict {
    CompileSpec::parse(bytes).map(drop).map_err(|e| e.to_string())
}

const CONTEXT: &[u8] = b"what the library would load, were it real";

/// Both headers and the FlatBuffer.
fn payloads() -> Vec<Seed> {
    let fields = || {
        vec![
            Field::new("magic", 0, 4, Kind::Int),
            Field::new("signature", 4, 8, Kind::Int),
            Field::new("size", 12, 8, Kind::Int),
        ]
    };
    let long = write_payload(CONTEXT);
    let short = [&long[..20], CONTEXT].concat();
    let mut b = Builder::new();
    let (signature, data) = (b.string("17"), b.bytes(CONTEXT, 1));
    let table = TableFields::new().offset(Slot::new(0, "signature"), signature).offset(Slot::new(1, "data"), data);
    let root = b.table(table);
    let flat = b.finish_plain(root).expect("short");
    let walked = walk::flatbuffer(&flat, 0);
    let header = flat.len() - CONTEXT.len();
    vec![
        Seed::new("long", long, fields(), 256),
        Seed::new("short", short, fields(), 20),
        Seed::new("flat", flat, walked, header),
    ]
}

fn specs() -> Vec<Seed> {
    let soc = Soc::by_name("SM8850").expect("it is in the table");
    let mut full = CompileSpec::for_soc(soc, HtpOptions::default());
    full.library_path = "libQnnHtp.so".to_owned();
    full.shared_buffer = true;
    let seed = |name: &str, spec: &CompileSpec| {
        let bytes = spec.write().expect("short");
        let (fields, len) = (walk::flatbuffer(&bytes, 0), bytes.len());
        Seed::new(name, bytes, fields, len)
    };
    vec![seed("full", &full), seed("empty", &CompileSpec::default())]
}

#[test]
fn damaged_payloads() {
    let tally = hostile::mutants("qnn_payload", payloads(), payload);
    assert!(tally.accepted > 100 && tally.refused > 300, "{tally:?}");
}

#[test]
fn cut_payloads() {
    for seed in payloads() {
        // A long header that ends within its zeros is a short one whose context is cut.
        let tally = hostile::truncations("qnn_payload", &seed, |_| false, payload);
        assert!(tally.refused > 10, "{tally:?}");
    }
}

#[test]
fn damaged_compile_specs() {
    let tally = hostile::mutants("qnn_compile_spec", specs(), spec);
    assert!(tally.accepted > 100 && tally.refused > 300, "{tally:?}");
    let full = &specs()[0];
    let flipped = hostile::bit_flips("qnn_compile_spec", full, spec);
    assert!(flipped.refused > 100, "{flipped:?}");
}

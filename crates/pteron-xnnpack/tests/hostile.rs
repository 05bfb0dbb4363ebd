//! Damaged payloads are refused or executed, and never bring the process down: on the harness of `pteron_testkit`.

mod common;

use std::sync::{Arc, OnceLock};

use common::{Graph, NodeSpec, Slot, delegates, ids};
use pteron_exec::{Context, DelegateFactory, Fuel};
use pteron_ir::Delegate;
use pteron_tensor::{DType, Shape, SharedSource, Tensor, ViewMut};
use pteron_testkit::hostile::{self, Counting, Field, Kind, Limits, Seed, walk};
use pteron_xnnpack::{Datatype, Payload, XnnpackBackend};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Programs whose payloads are damaged: f32, 4-bit groups, 8 bits and 4 bits a channel, float operators.
const PROGRAMS: [&str; 6] = [
    "micro/m_mlp_xnn.pte",
    "v6_kv_sdpa_xnn_fp32.pte",
    "v4_8da4w_xnn.pte",
    "v4b_8da4w_xnn_ext.pte",
    "v5_pt2e_xnn_dyn.pte",
    "v5b_pt2e_xnn_dyn_qc4.pte",
];

type NamedData = Vec<(Box<str>, SharedSource)>;

/// Named data of all these programs.
fn named_data() -> &'static NamedData {
    static ALL: OnceLock<NamedData> = OnceLock::new();
    ALL.get_or_init(|| PROGRAMS.iter().flat_map(|p| delegates(p).swap_remove(0).named_data).collect())
}

/// A graph with lists, constants and ten kinds of nodes.
fn varied() -> Delegate {
    let x = |n: u8| Some((0..n).map(f32::from).collect::<Vec<f32>>());
    let list = |code: u8, l: &[u32], a: u32, b: u32| {
        let rank = u32::try_from(l.len()).unwrap();
        let slots = vec![(0, Slot::Id(rank)), (1, Slot::List(l.to_vec())), (2, Slot::Id(a)), (3, Slot::Id(b))];
        NodeSpec { code, slots, range: None }
    };
    let slice = vec![
        (0, Slot::Id(2)),
        (1, Slot::List(vec![1, 0])),
        (2, Slot::List(vec![2, 4])),
        (3, Slot::Id(7)),
        (4, Slot::Id(8)),
    ];
    let cat = vec![(0, Slot::Id(0)), (1, Slot::Id(8)), (2, Slot::Id(8)), (5, Slot::Id(9))];
    let shape = |d: &[u32]| (1u16, d.to_vec(), None);
    let mut relu = ids(6, &[5, 6]);
    relu.range = Some((0.0, f32::INFINITY));
    Graph {
        values: vec![
            shape(&[1, 3, 8]),
            (1, vec![4, 8], x(32)),
            (1, vec![4], x(4)),
            shape(&[1, 3, 4]),
            shape(&[1, 3, 4]),
            shape(&[1, 3, 4]),
            shape(&[1, 3, 4]),
            shape(&[3, 4]),
            shape(&[2, 4]),
            shape(&[4, 4]),
            shape(&[4, 4]),
        ],
        inputs: 1,
        outputs: vec![6, 10],
        nodes: vec![
            ids(2, &[0, 1, 2, 3]),
            ids(4, &[3, 4]),
            ids(15, &[3, 4, 5]),
            relu,
            list(20, &[0, 4], 6, 7),
            NodeSpec { code: 35, slots: slice, range: None },
            NodeSpec { code: 32, slots: cat, range: None },
            list(5, &[1, 0], 9, 10),
        ],
        legacy: false,
    }
    .delegate()
}

/// Parses, lifts, plans and executes a payload under limits. `Ok` means that it was planned.
fn payload(bytes: &[u8]) -> Result<(), String> {
    let parsed = Payload::parse(bytes).map_err(|e| e.to_string())?;
    let d = Delegate {
        backend: "XnnpackBackend".into(),
        payload: bytes.into(),
        compile_specs: Vec::new(),
        named_data: named_data().clone(),
    };
    let backend = XnnpackBackend::new().with_max_memory(8 << 20);
    let mut instance = backend.prepare(&d, &Arc::new(Context::new(1)), u64::MAX)?;
    let mut inputs = Vec::new();
    for v in parsed.inputs.iter().filter_map(|&i| parsed.values.get(i)) {
        let sizes: Vec<usize> = v.dims.iter().map(|&d| (d as usize).min(5)).collect();
        let dtype = match v.datatype {
            Datatype::QInt8 => DType::I8,
            Datatype::QUint8 => DType::U8,
            _ => DType::F32,
        };
        inputs.push(Tensor::zeros(dtype, &sizes).map_err(|e| e.to_string())?);
    }
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    let declared: Vec<Shape> =
        parsed.outputs.iter().map(|&i| parsed.values[i].dims.iter().map(|&d| d as usize).collect()).collect();
    let run = || -> Result<(), String> {
        let sizes = instance.output_sizes(&views, &declared)?;
        let outputs: Result<Vec<Tensor>, _> = sizes.iter().map(|s| Tensor::zeros(DType::F32, s)).collect();
        let mut outputs = outputs.map_err(|e| e.to_string())?;
        let mut out: Vec<ViewMut<'_>> = outputs.iter_mut().map(Tensor::view_mut).collect();
        instance.execute(&views, &mut out, &mut Fuel::new(Some(2_000_000)))
    };
    // What a call says is a result like another, as long as it says something.
    let mut run = run;
    if let Err(e) = run() {
        assert!(!e.is_empty());
    }
    Ok(())
}

fn seed(name: &str, bytes: &[u8]) -> Seed {
    let at = u32::from_le_bytes(bytes[10..14].try_into().unwrap()) as usize;
    let mut fields = walk::flatbuffer(bytes, at);
    fields.push(Field::new("header length", 8, 2, Kind::Int));
    for (what, at, width) in [("graph", 10, 4), ("graph", 14, 4), ("constants", 18, 4), ("constants", 22, 8)] {
        fields.push(Field::new(what, at, width, Kind::Int));
    }
    Seed::new(name, bytes.to_vec(), fields, bytes.len())
}

fn seeds() -> Vec<Seed> {
    let mut all = vec![seed("varied", &varied().payload)];
    for p in PROGRAMS {
        // The first two payloads of a language model are of different kinds; the others repeat them.
        all.extend(delegates(p).iter().take(2).map(|d| seed(p, &d.payload)));
    }
    all
}

#[test]
fn mutants() {
    // A kernel may keep tiles on the stack.
    let limits = Limits { stack: 1 << 20, ..Limits::default() };
    let tally = hostile::mutants_within("payload", seeds(), limits, payload);
    assert!(tally.accepted > 100 && tally.refused > 500, "{tally:?}");
}

#[test]
fn every_prefix_is_refused() {
    let d = delegates("v4_8da4w_xnn.pte").remove(0);
    let seed = seed("v4", &d.payload);
    // Behind the graph there is padding.
    let size = u32::from_le_bytes(d.payload[14..18].try_into().unwrap()) as usize;
    let tally = hostile::truncations("payload_prefix", &seed, |n| n >= 32 + size, payload);
    assert!(tally.refused > 1000, "{tally:?}");
}

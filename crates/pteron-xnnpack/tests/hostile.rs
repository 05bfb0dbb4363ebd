//! Damaged payloads are refused or executed, and never bring the process down.

mod common;

use common::{Graph, NodeSpec, Slot, delegates, ids};
use std::sync::Arc;

use pteron_exec::DelegateFactory;
use pteron_exec::{Context, Fuel};
use pteron_ir::Delegate;
use pteron_tensor::{DType, Shape, Tensor, ViewMut};
use pteron_xnnpack::{Payload, XnnpackBackend};

/// Xorshift: the same damage in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).unwrap()
    }
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

/// Prepares and, if that works, executes; gives how far it came: 0 refused, 1 prepared, 2 executed.
fn attempt(d: &Delegate) -> usize {
    let Ok(payload) = Payload::parse(&d.payload) else { return 0 };
    let Ok(mut instance) =
        XnnpackBackend::new().with_max_memory(1 << 20).prepare(d, &Arc::new(Context::new(1)), u64::MAX)
    else {
        return 0;
    };
    let mut inputs = Vec::new();
    for &i in &payload.inputs {
        let sizes: Vec<usize> = payload.values[i].dims.iter().map(|&d| d as usize).collect();
        if sizes.iter().product::<usize>() > 1 << 16 {
            return 1;
        }
        inputs.push(Tensor::zeros(DType::F32, &sizes).unwrap());
    }
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    let declared: Vec<Shape> =
        payload.outputs.iter().map(|&i| payload.values[i].dims.iter().map(|&d| d as usize).collect()).collect();
    let Ok(sizes) = instance.output_sizes(&views, &declared) else { return 1 };
    let mut outputs: Vec<Tensor> = sizes.iter().map(|s| Tensor::zeros(DType::F32, s).unwrap()).collect();
    let mut out: Vec<ViewMut<'_>> = outputs.iter_mut().map(Tensor::view_mut).collect();
    if instance.execute(&views, &mut out, &mut Fuel::new(Some(50_000_000))).is_ok() { 2 } else { 1 }
}

#[test]
fn damaged_payloads_never_panic() {
    let sources =
        [delegates("micro/m_mlp_xnn.pte").remove(0), varied(), delegates("v6_kv_sdpa_xnn_fp32.pte").remove(0)];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut counts = [0usize; 3];
    for d in &sources {
        assert_eq!(attempt(d), 2);
    }
    for round in 0..3000 {
        let mut d = sources[round % sources.len()].clone();
        let mut bytes = d.payload.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = [0, 1, 127, 128, 255][random.below(5)],
                3 => {
                    let word = [0u32, 1, 7, 0x7fff_ffff, 0x8000_0000, u32::MAX][random.below(6)];
                    let at = at / 4 * 4;
                    if let Some(to) = bytes.get_mut(at..at + 4) {
                        to.copy_from_slice(&word.to_le_bytes());
                    }
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        d.payload = bytes.into();
        counts[attempt(&d)] += 1;
    }
    // Damage is found, and part of it changes nothing that matters: both paths are taken.
    assert!(counts[0] > 1000 && counts[2] > 100, "{counts:?}");
}

#[test]
fn every_prefix_is_refused() {
    let d = delegates("micro/m_mlp_xnn.pte").remove(0);
    let size = u32::from_le_bytes(d.payload[14..18].try_into().unwrap()) as usize;
    for n in 0..32 + size {
        assert!(Payload::parse(&d.payload[..n]).is_err(), "{n} bytes");
    }
}

//! Round trips of generated programs and buffers.

mod common;

use common::without_layout;
use proptest::prelude::*;
use pteron_pte::flatbuf::{Builder, Field, FlatBuffer, TableFields};
use pteron_pte::*;

const VALUES: u32 = 12;
/// Values 0 and 1 are tensors, 2 and 3 ints, 4 is a Bool.
const ARENA: i64 = 1 << 40;

fn scalar_type() -> impl Strategy<Value = ScalarType> {
    proptest::sample::select(ScalarType::ALL)
}

fn extra() -> impl Strategy<Value = Option<Box<ExtraTensorInfo>>> {
    let info = (any::<u64>(), "[a-z.]{1,12}", any::<bool>(), any::<bool>(), any::<i8>()).prop_map(
        |(idx, name, external, cuda, device_index)| {
            Box::new(ExtraTensorInfo {
                mutable_data_segments_idx: idx,
                fully_qualified_name: name,
                external,
                device_type: if cuda { DeviceType::Cuda } else { DeviceType::Cpu },
                device_index,
            })
        },
    );
    proptest::option::of(info)
}

/// A tensor of at most 5^4 elements, with any storage class; constants lie in a segment of 16 KiB.
fn tensor() -> impl Strategy<Value = Tensor> {
    let dims = proptest::collection::vec(0i32..=5, 0..=4);
    let shape = dims.prop_flat_map(|sizes| {
        let order: Vec<u8> = (0..sizes.len() as u8).collect();
        (Just(sizes), Just(order).prop_shuffle())
    });
    let allocation =
        proptest::option::of((1u32..3, 0u64..(1 << 39)).prop_map(|(m, offset)| Allocation { memory_id: m, offset }));
    let dynamism = proptest::sample::select(vec![
        ShapeDynamism::Static,
        ShapeDynamism::DynamicBound,
        ShapeDynamism::DynamicUnbound,
    ]);
    (scalar_type(), shape, any::<bool>(), 0u32..3, allocation, dynamism, extra()).prop_map(
        |(scalar_type, (sizes, dim_order), requires_grad, data_buffer_idx, allocation, dynamism, extra)| Tensor {
            dim_order,
            requires_grad,
            data_buffer_idx,
            allocation,
            dynamism,
            extra,
            ..Tensor::contiguous(scalar_type, sizes)
        },
    )
}

fn value() -> impl Strategy<Value = EValue> {
    let number = any::<f64>().prop_filter("NaN is not equal to itself", |d| !d.is_nan());
    prop_oneof![
        Just(EValue::Null),
        any::<i64>().prop_map(EValue::Int),
        any::<bool>().prop_map(EValue::Bool),
        number.clone().prop_map(EValue::Double),
        tensor().prop_map(EValue::Tensor),
        ".{0,20}".prop_map(EValue::String),
        proptest::collection::vec(2u32..4, 0..6).prop_map(EValue::IntList),
        proptest::collection::vec(number, 0..6).prop_map(EValue::DoubleList),
        proptest::collection::vec(any::<bool>(), 0..9).prop_map(EValue::BoolList),
        proptest::collection::vec(0u32..2, 0..6).prop_map(EValue::TensorList),
        proptest::collection::vec(proptest::option::of(0u32..2), 0..6).prop_map(EValue::OptionalTensorList),
    ]
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let args = || proptest::collection::vec(0..VALUES, 0..8);
    prop_oneof![
        (0u32..2, args()).prop_map(|(op_index, args)| Instruction::KernelCall { op_index, args }),
        args().prop_map(|args| Instruction::DelegateCall { delegate_index: 0, args }),
        (0..VALUES, 5..VALUES).prop_map(|(move_from, move_to)| Instruction::MoveCall { move_from, move_to }),
        Just(Instruction::JumpFalseCall { cond_value_index: 4, destination_instruction: 0 }),
        (0u32..2).prop_map(|value_index| Instruction::FreeCall { value_index }),
    ]
}

fn chain() -> impl Strategy<Value = Chain> {
    let frame = (".{0,8}", any::<i32>(), ".{0,8}", ".{0,8}").prop_map(|(filename, lineno, name, context)| Frame {
        filename,
        lineno,
        name,
        context,
    });
    let frames = proptest::collection::vec(proptest::collection::vec(frame, 0..3), 0..3);
    let ids = || proptest::collection::vec(0..VALUES, 0..3);
    (ids(), ids(), proptest::collection::vec(instruction(), 0..10), frames)
        .prop_map(|(inputs, outputs, instructions, stacktrace)| Chain { inputs, outputs, instructions, stacktrace })
}

fn plan(name: &'static str) -> impl Strategy<Value = ExecutionPlan> {
    let fixed = (tensor(), tensor(), any::<i64>(), any::<i64>(), any::<bool>()).prop_map(|(a, b, c, d, e)| {
        [EValue::Tensor(a), EValue::Tensor(b), EValue::Int(c), EValue::Int(d), EValue::Bool(e)]
    });
    let rest = proptest::collection::vec(value(), VALUES as usize - 5);
    let ids = || proptest::collection::vec(0..VALUES, 0..4);
    let spec =
        (".{0,6}", proptest::collection::vec(any::<u8>(), 0..5)).prop_map(|(key, value)| CompileSpec { key, value });
    let specs = proptest::collection::vec(spec, 0..3);
    let chains = proptest::collection::vec(chain(), 1..3);
    (fixed, rest, ids(), ids(), chains, specs, ".{0,16}", ".{0,16}").prop_map(
        move |(fixed, rest, inputs, outputs, chains, compile_specs, container_in, container_out)| ExecutionPlan {
            name: name.to_owned(),
            container_in,
            container_out,
            values: fixed.into_iter().chain(rest).collect(),
            inputs,
            outputs,
            chains,
            operators: vec![
                Operator { name: "aten::add".to_owned(), overload: "out".to_owned() },
                Operator { name: "aten::copy_".to_owned(), overload: String::new() },
            ],
            delegates: vec![BackendDelegate { id: "B".to_owned(), data: DelegateData::Segment(1), compile_specs }],
            non_const_buffer_sizes: vec![0, ARENA, ARENA],
            non_const_buffer_device: vec![NonConstBufferDevice {
                buffer_idx: 2,
                device_type: DeviceType::Cuda,
                device_index: 1,
            }],
        },
    )
}

fn generated() -> impl Strategy<Value = Program> {
    (plan("forward"), plan("prefill")).prop_map(|(a, b)| Program {
        execution_plans: vec![a, b],
        constant_segment: Some(SubsegmentOffsets { segment_index: 0, offsets: vec![0, 0, 16] }),
        mutable_data_segments: vec![SubsegmentOffsets { segment_index: 0, offsets: vec![0, 3, 1000] }],
        named_data: vec![NamedData { key: "k".to_owned(), segment_index: 1 }],
        ..Program::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn programs_round_trip(program in generated()) {
        let (a, b) = (vec![1u8; 16 << 10], vec![2u8; 77]);
        let bytes = write_all(&program, &[&a, &b]).unwrap();
        prop_assert_eq!(&bytes, &write_all(&program, &[&a, &b]).unwrap());
        let file = PteFile::parse(&bytes).unwrap();
        prop_assert_eq!(without_layout(file.program()), without_layout(&program));
        prop_assert_eq!(file.segment_bytes(0).unwrap(), &a[..]);
        prop_assert_eq!(file.named_data("k").unwrap(), &b[..]);
        for t in program.execution_plans[1].values.iter().filter_map(EValue::as_tensor) {
            if let Some(c) = file.constant_bytes(t).unwrap() {
                prop_assert_eq!(c.len() as u64, t.nbytes().unwrap());
            }
        }
        prop_assert!(!dump::program(file.program()).is_empty());
    }

    #[test]
    fn tables_round_trip(a in any::<u8>(), b in any::<i64>(), c in any::<u16>(), d in any::<f32>(), s in ".{0,40}",
                         v in proptest::collection::vec(any::<u64>(), 0..9),
                         bytes in proptest::collection::vec(any::<u8>(), 0..40), prefixed in any::<bool>()) {
        let f = |n| Field::new(n, "test");
        let mut w = Builder::new();
        let (text, numbers, blob) = (w.string(&s), w.vector(v.iter().copied()), w.bytes(&bytes, 32));
        let fields = TableFields::new().scalar(f(6), a, 9).scalar(f(0), b, 0).scalar(f(3), c, 1).forced(f(4), d);
        let fields = fields.offset(f(1), text).offset(f(2), numbers).offset(f(8), blob);
        let root = w.table(fields);
        let out = w.finish(root, b"TEST", prefixed).unwrap();
        let at = if prefixed { 4 } else { 0 };
        prop_assert_eq!(&out[at + 4..at + 8], b"TEST");
        let buffer = FlatBuffer::new(&out).unwrap();
        let t = buffer.root(at).unwrap();
        prop_assert_eq!(t.scalar(f(6), 9u8).unwrap(), a);
        prop_assert_eq!(t.scalar(f(0), 0i64).unwrap(), b);
        prop_assert_eq!(t.scalar(f(3), 1u16).unwrap(), c);
        prop_assert_eq!(t.scalar(f(4), 0f32).unwrap().to_bits(), d.to_bits());
        prop_assert_eq!(t.string(f(1)).unwrap().unwrap(), s);
        prop_assert_eq!(t.vector::<u64>(f(2)).unwrap().unwrap().to_vec(), v);
        let range = t.byte_range(f(8)).unwrap().unwrap();
        prop_assert_eq!(range.start % 32, 0);
        prop_assert_eq!(&out[range], &bytes[..]);
        prop_assert_eq!(t.scalar(f(5), 5u8).unwrap(), 5, "an absent field");
        prop_assert!(t.string(f(20)).unwrap().is_none());
    }
}

#[test]
fn not_a_number_and_negative_zero_keep_their_bits() {
    let (mut program, segments) = common::small_program();
    let nan = f64::from_bits(0x7ff8_0000_dead_beef);
    program.execution_plans[0].values[6] = EValue::Double(nan);
    program.execution_plans[0].values[9] = EValue::DoubleList(vec![-0.0, nan]);
    program.execution_plans[0].values.push(EValue::Double(-0.0));
    let bytes = write_all(&program, &common::slices(&segments)).unwrap();
    let file = PteFile::parse(&bytes).unwrap();
    let bits = |v: &EValue| match v {
        EValue::Double(d) => vec![d.to_bits()],
        EValue::DoubleList(v) => v.iter().map(|d| d.to_bits()).collect(),
        _ => Vec::new(),
    };
    for (a, b) in file.program().execution_plans[0].values.iter().zip(&program.execution_plans[0].values) {
        assert_eq!(bits(a), bits(b));
    }
}

#[test]
fn equal_vtables_are_merged() {
    let f = |n| Field::new(n, "test");
    let size = |second: u32| {
        let mut b = Builder::new();
        let a = b.table(TableFields::new().scalar(f(0), 1u32, 0).scalar(f(1), 1u32, 0));
        let other = b.table(TableFields::new().scalar(f(0), 2u32, 0).scalar(f(1), second, 0));
        let both = b.offsets(&[a, other]);
        let root = b.table(TableFields::new().offset(f(0), both));
        b.finish(root, b"TEST", false).unwrap().len()
    };
    // With a default in the second table its vtable differs and must be written.
    assert!(size(2) + 6 > size(0) && size(2) < size(0) + 6, "{} {}", size(2), size(0));
}

#[test]
fn scalar_types_have_their_codes() {
    for t in ScalarType::ALL {
        assert_eq!(ScalarType::from_code(i64::from(t.code())), Some(*t));
    }
    assert_eq!(ScalarType::ALL.len(), 30);
    assert_eq!((ScalarType::from_code(30), ScalarType::from_code(-1)), (None, None));
    let facts =
        [(ScalarType::Float, 6, 4, "f32"), (ScalarType::BFloat16, 15, 2, "bf16"), (ScalarType::Bool, 11, 1, "bool")];
    for (t, code, size, name) in facts {
        assert_eq!((t.code(), t.size_of(), t.name()), (code, size, name));
    }
}

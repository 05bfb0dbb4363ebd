//! Each rule of the verification, with the message that its violation gives.

mod common;

use common::{slices, small_program};
use pteron_pte::*;

/// The error of a program after a change, from the writer, which verifies as the reader does.
fn refused(change: impl FnOnce(&mut Program)) -> String {
    let (mut program, segments) = small_program();
    change(&mut program);
    write_all(&program, &slices(&segments)).expect_err("the program must be refused").to_string()
}

#[track_caller]
fn check(change: impl FnOnce(&mut ExecutionPlan), expected: &str) {
    let message = refused(|p| change(&mut p.execution_plans[0]));
    assert!(message.contains(expected), "{message}");
    assert!(message.contains("method 'forward'"), "{message}");
}

fn tensor(plan: &mut ExecutionPlan, value: usize) -> &mut Tensor {
    match &mut plan.values[value] {
        EValue::Tensor(t) => t,
        v => panic!("value {value} is {}", v.kind()),
    }
}

#[test]
fn the_unchanged_program_is_accepted() {
    let (program, segments) = small_program();
    let bytes = write_all(&program, &slices(&segments)).unwrap();
    let file = PteFile::parse(&bytes).unwrap();
    assert_eq!(common::without_layout(file.program()), common::without_layout(&program));
    assert!(file.notes().is_empty());
    let constant = file.program().execution_plans[0].values[1].as_tensor().unwrap();
    assert_eq!(file.constant_bytes(constant).unwrap().unwrap(), segments[0]);
    assert_eq!(file.named_data("b").unwrap(), segments[1]);
}

#[test]
fn indices() {
    check(|p| p.inputs[0] = 14, "field 'inputs': found index 14, expected 0 to 14 exclusive (values)");
    check(|p| p.outputs[0] = 99, "field 'outputs': found index 99");
    check(|p| p.operators.clear(), "chain 0 instruction 0, field 'op_index': found index 0, expected 0 to 0");
    let code = |p: &mut ExecutionPlan, i: usize, ins| p.chains[0].instructions[i] = ins;
    check(
        |p| code(p, 0, Instruction::KernelCall { op_index: 0, args: vec![0, 14] }),
        "chain 0 instruction 0, field 'args': found index 14",
    );
    check(
        |p| code(p, 0, Instruction::DelegateCall { delegate_index: 0, args: vec![] }),
        "field 'delegate_index': found index 0",
    );
    check(
        |p| code(p, 2, Instruction::MoveCall { move_from: 20, move_to: 0 }),
        "chain 0 instruction 2, field 'move_from': found index 20",
    );
    check(
        |p| code(p, 1, Instruction::JumpFalseCall { cond_value_index: 5, destination_instruction: 5 }),
        "field 'destination_instruction': found index 5, expected 0 to 5 exclusive",
    );
    check(|p| p.values[8] = EValue::IntList(vec![77]), "value 8, field 'items': found index 77");
    check(|p| p.values[11] = EValue::TensorList(vec![77]), "value 11, field 'items': found index 77");
    check(|p| p.chains[0].inputs.push(14), "chain 0, field 'inputs': found index 14");
}

#[test]
fn kinds() {
    check(
        |p| p.values[8] = EValue::IntList(vec![5]),
        "value 8, field 'items': found value 5 of kind Bool, expected Int",
    );
    check(|p| p.values[11] = EValue::TensorList(vec![2]), "found value 2 of kind Int, expected Tensor");
    check(
        |p| p.values[12] = EValue::OptionalTensorList(vec![Some(2)]),
        "found value 2 of kind Int, expected Tensor or Null",
    );
    let jump = |v| Instruction::JumpFalseCall { cond_value_index: v, destination_instruction: 0 };
    check(|p| p.chains[0].instructions[1] = jump(0), "found value 0 of kind Tensor, expected Bool or a boolean Tensor");
    check(
        |p| p.chains[0].instructions[3] = Instruction::FreeCall { value_index: 2 },
        "field 'value_index': found value 2 of kind Int, expected Tensor",
    );
    // A boolean tensor, and a value whose kind a move changes, are conditions.
    for (cond, with_move) in [(13, false), (4, true)] {
        let (mut program, segments) = small_program();
        let code = &mut program.execution_plans[0].chains[0].instructions;
        code[1] = jump(cond);
        if with_move {
            code[2] = Instruction::MoveCall { move_from: 5, move_to: cond };
        }
        write_all(&program, &slices(&segments)).unwrap();
    }
}

#[test]
fn tensors() {
    check(|p| tensor(p, 0).storage_offset = 1, "value 0, field 'storage_offset': found 1, expected 0");
    check(|p| tensor(p, 0).layout = 1, "field 'layout': found 1, expected 0");
    check(|p| tensor(p, 0).sizes[1] = -3, "field 'sizes': found -3, expected sizes of at least 0");
    for order in [vec![0], vec![0, 0], vec![0, 2], vec![0, 1, 2], vec![]] {
        check(|p| tensor(p, 0).dim_order = order, "field 'dim_order': found [");
    }
    check(
        |p| {
            tensor(p, 13).sizes = vec![i32::MAX; 3];
            tensor(p, 13).dim_order = vec![0, 1, 2];
        },
        "size in bytes does not fit 63 bits",
    );
    check(
        |p| {
            tensor(p, 13).scalar_type = ScalarType::Long;
            tensor(p, 13).sizes = vec![i32::MAX; 2];
            tensor(p, 13).dim_order = vec![0, 1];
        },
        "size in bytes does not fit 63 bits",
    );
}

#[test]
fn memory() {
    check(
        |p| tensor(p, 0).allocation = Some(Allocation { memory_id: 1, offset: 41 }),
        "field 'memory_offset': found 24 bytes at offset 41, expected them within 64 bytes (the arena)",
    );
    check(|p| tensor(p, 0).allocation = Some(Allocation { memory_id: 1, offset: u64::MAX }), "field 'memory_offset'");
    for memory_id in [0, 2] {
        let expected = format!("field 'memory_id': found {memory_id}, expected 1 to 1");
        check(|p| tensor(p, 0).allocation = Some(Allocation { memory_id, offset: 0 }), &expected);
    }
    check(|p| p.non_const_buffer_sizes[1] = -1, "size -1 of arena 1, expected sizes of at least 0");
    let device = NonConstBufferDevice { buffer_idx: 2, device_type: DeviceType::Cuda, device_index: 0 };
    check(|p| p.non_const_buffer_device.push(device), "field 'buffer_idx': found index 2");
}

#[test]
fn constants() {
    check(|p| tensor(p, 1).data_buffer_idx = 2, "value 1, field 'data_buffer_idx': found index 2, expected 0 to 2");
    let message = refused(|p| p.constant_segment.as_mut().unwrap().offsets[1] = 4);
    assert!(message.contains("24 bytes at offset 4, expected them within 24 bytes (the segment)"), "{message}");
    let message = refused(|p| p.constant_segment.as_mut().unwrap().segment_index = 2);
    assert!(message.contains("field 'constant_segment': found index 2, expected 0 to 2"), "{message}");
    let message = refused(|p| p.constant_segment.as_mut().unwrap().offsets.push(25));
    assert!(message.contains("field 'offsets': found 0 bytes at offset 25"), "{message}");
    let message = refused(|p| p.constant_segment = None);
    assert!(message.contains("found index 1, expected 0 to 0 exclusive (inline constants)"), "{message}");
    check(
        |p| tensor(p, 0).data_buffer_idx = 1,
        "value 0, field 'data_buffer_idx': found index 1, expected 0 to 0 exclusive (mutable data segments)",
    );
    check(
        |p| tensor(p, 0).extra = Some(Box::new(ExtraTensorInfo { external: true, ..ExtraTensorInfo::default() })),
        "field 'fully_qualified_name': found an empty string",
    );
    let message = refused(|p| p.mutable_data_segments.push(SubsegmentOffsets { segment_index: 9, offsets: vec![0] }));
    assert!(message.contains("mutable data segment 0, field 'segment_index': found index 9"), "{message}");
}

#[test]
fn methods_names_and_delegates() {
    let message = refused(|p| p.execution_plans.push(p.execution_plans[0].clone()));
    assert_eq!(message, "method 1, field 'name': found 'forward' a second time, expected unique names");
    check(|p| p.chains.clear(), "field 'chains': found no chain, expected at least one");
    check(|p| p.operators[0].name.clear(), "operator 0, field 'name': found an empty string");
    let delegate = |id: &str, data| BackendDelegate { id: id.to_owned(), data, compile_specs: vec![] };
    let add = |d| move |p: &mut ExecutionPlan| p.delegates.push(d);
    check(add(delegate("", DelegateData::Segment(0))), "delegate 0, field 'id': found an empty string");
    check(add(delegate("x", DelegateData::Segment(2))), "field 'processed.index': found index 2, expected 0 to 2");
    check(add(delegate("x", DelegateData::Inline(0))), "found index 0, expected 0 to 0 exclusive (inline delegate");
    let message = refused(|p| p.named_data[1].key = "a".to_owned());
    assert_eq!(message, "named data 1, field 'key': found 'a' a second time, expected unique names");
    let message = refused(|p| p.named_data[1].segment_index = 2);
    assert!(message.contains("named data 1, field 'segment_index': found index 2"), "{message}");
    assert_eq!(
        refused(|p| p.version = 1),
        "schema version: found 1, expected version 0; the file needs a newer reader"
    );
    let message = refused(|p| p.constant_buffers.push(0..0));
    assert!(message.contains("cannot write constant_buffer"), "{message}");
}

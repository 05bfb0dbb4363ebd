//! Fixtures and small programs for the tests.
#![allow(dead_code, reason = "each test binary uses a part of this module")]

use std::path::PathBuf;

use pteron_pte::*;

pub(crate) fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/executorch")).join(name)
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = fixture_path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of all fixtures with an extension, relative to the fixture folder, sorted.
pub(crate) fn fixtures(extension: &str) -> Vec<String> {
    let mut out = Vec::new();
    for folder in ["", "micro"] {
        for entry in std::fs::read_dir(fixture_path(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == extension) {
                out.push(PathBuf::from(folder).join(path.file_name().unwrap()).to_str().unwrap().to_owned());
            }
        }
    }
    out.sort();
    out
}

/// A method that adds a planned input to a constant, with every kind of value beside.
pub(crate) fn small_plan(name: &str) -> ExecutionPlan {
    let planned = |offset| Tensor {
        allocation: Some(Allocation { memory_id: 1, offset }),
        ..Tensor::contiguous(ScalarType::Float, vec![2, 3])
    };
    let constant = Tensor { data_buffer_idx: 1, ..Tensor::contiguous(ScalarType::Float, vec![2, 3]) };
    let flag = Tensor::contiguous(ScalarType::Bool, vec![]);
    ExecutionPlan {
        name: name.to_owned(),
        container_in: "[1]".to_owned(),
        container_out: "[2]".to_owned(),
        values: vec![
            EValue::Tensor(planned(0)),
            EValue::Tensor(constant),
            EValue::Int(1),
            EValue::Tensor(planned(32)),
            EValue::Null,
            EValue::Bool(true),
            EValue::Double(-2.5),
            EValue::String("none".to_owned()),
            EValue::IntList(vec![2, 2]),
            EValue::DoubleList(vec![0.5, f64::INFINITY]),
            EValue::BoolList(vec![true, false]),
            EValue::TensorList(vec![0, 1]),
            EValue::OptionalTensorList(vec![Some(3), None]),
            EValue::Tensor(flag),
        ],
        inputs: vec![0],
        outputs: vec![3],
        chains: vec![Chain {
            instructions: vec![
                Instruction::KernelCall { op_index: 0, args: vec![0, 1, 2, 3, 3] },
                Instruction::JumpFalseCall { cond_value_index: 5, destination_instruction: 4 },
                Instruction::MoveCall { move_from: 0, move_to: 3 },
                Instruction::FreeCall { value_index: 0 },
            ],
            ..Chain::default()
        }],
        operators: vec![Operator { name: "aten::add".to_owned(), overload: "out".to_owned() }],
        delegates: Vec::new(),
        non_const_buffer_sizes: vec![0, 64],
        non_const_buffer_device: Vec::new(),
    }
}

/// A program with one method, one constant of 24 bytes in segment 0 and two named blobs.
pub(crate) fn small_program() -> (Program, Vec<Vec<u8>>) {
    let program = Program {
        execution_plans: vec![small_plan("forward")],
        constant_segment: Some(SubsegmentOffsets { segment_index: 0, offsets: vec![0, 0] }),
        named_data: vec![
            NamedData { key: "a".to_owned(), segment_index: 1 },
            NamedData { key: "b".to_owned(), segment_index: 1 },
        ],
        ..Program::default()
    };
    (program, vec![(0..24).collect(), vec![7; 5]])
}

pub(crate) fn slices(segments: &[Vec<u8>]) -> Vec<&[u8]> {
    segments.iter().map(Vec::as_slice).collect()
}

/// The parts of a program that do not say where in a file bytes lie.
pub(crate) fn without_layout(program: &Program) -> Program {
    let mut p = program.clone();
    p.inline_delegate_data.clear();
    p.segments.clear();
    p
}

/// xorshift64*.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

//! What only a file can say wrongly: negative indices, unknown codes, absent tables. And the text listing.

mod common;

use common::small_program;
use pteron_pte::flatbuf::{Builder, Field, Offset, TableFields};
use pteron_pte::*;

const fn slot(n: u16) -> Field {
    Field::new(n, "test")
}

/// Parts of a raw one-method program that a test may replace.
struct Raw {
    values: fn(&mut Builder) -> Vec<Offset>,
    instruction: fn(&mut Builder) -> Offset,
    inputs: Option<Vec<i32>>,
    sizes: bool,
    chains: bool,
    name: bool,
}

impl Default for Raw {
    fn default() -> Self {
        let value = |b: &mut Builder| {
            let int = b.table(TableFields::new());
            vec![b.table(TableFields::new().union(slot(1), 2, int))]
        };
        let instruction = |b: &mut Builder| {
            let t = b.table(TableFields::new());
            b.table(TableFields::new().union(slot(1), 3, t))
        };
        Raw { values: value, instruction, inputs: Some(vec![0]), sizes: true, chains: true, name: true }
    }
}

impl Raw {
    fn parse(&self) -> Result<Program, String> {
        let mut b = Builder::new();
        let b = &mut b;
        let values = (self.values)(b);
        let values = b.offsets(&values);
        let name = b.string("m");
        let inputs = self.inputs.as_ref().map(|i| b.vector(i.iter().copied()));
        let outputs = b.vector([0i32].into_iter());
        let instruction = (self.instruction)(b);
        let code = b.offsets(&[instruction]);
        let chain = b.table(TableFields::new().offset(slot(2), code));
        let chains = b.offsets(&[chain]);
        let sizes = b.vector([0i64].into_iter());
        let plan = TableFields::new()
            .maybe(slot(0), self.name.then_some(name))
            .offset(slot(2), values)
            .maybe(slot(3), inputs)
            .offset(slot(4), outputs)
            .maybe(slot(5), self.chains.then_some(chains))
            .maybe(slot(8), self.sizes.then_some(sizes));
        let plan = b.table(plan);
        let plans = b.offsets(&[plan]);
        let root = b.table(TableFields::new().offset(slot(1), plans));
        let mut bytes = std::mem::take(b).finish(root, b"ET12", false).unwrap();
        bytes.resize(bytes.len().max(64), 0);
        PteFile::parse(&bytes).map(|f| f.program().clone()).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn refused(&self, expected: &str) {
        let message = self.parse().expect_err("the program must be refused");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_raw_program_is_accepted() {
    let p = Raw::default().parse().unwrap();
    assert_eq!(p.execution_plans[0].values, [EValue::Int(0)]);
    assert_eq!(p.execution_plans[0].chains[0].instructions, [Instruction::MoveCall { move_from: 0, move_to: 0 }]);
}

#[test]
fn absent_tables() {
    Raw { inputs: None, ..Raw::default() }.refused("method 'm', field 'inputs': found nothing");
    Raw { sizes: false, ..Raw::default() }.refused("field 'non_const_buffer_sizes': found nothing");
    Raw { chains: false, ..Raw::default() }.refused("field 'chains': found nothing");
    Raw { name: false, ..Raw::default() }.refused("method 0, field 'name': found nothing");
    let mut b = Builder::new();
    let root = b.table(TableFields::new());
    let mut bytes = b.finish(root, b"ET12", false).unwrap();
    bytes.resize(64, 0);
    let message = PteFile::parse(&bytes).unwrap_err().to_string();
    assert_eq!(message, "file, field 'execution_plan': found nothing, expected it to be present");
}

#[test]
fn negative_indices() {
    Raw { inputs: Some(vec![-1]), ..Raw::default() }
        .refused("field 'inputs': found index -1, expected 0 to 1 exclusive");
    let instruction = |b: &mut Builder| {
        let t = b.table(TableFields::new().forced(slot(1), -7i32));
        b.table(TableFields::new().union(slot(1), 4, t))
    };
    let values = |b: &mut Builder| {
        let t = b.table(TableFields::new());
        vec![b.table(TableFields::new().union(slot(1), 3, t))]
    };
    Raw { instruction, values, ..Raw::default() }
        .refused("chain 0 instruction 0, field 'destination_instruction': found index -7");
    let values = |b: &mut Builder| {
        let items = b.vector([i64::MIN].into_iter());
        let t = b.table(TableFields::new().offset(slot(0), items));
        vec![b.table(TableFields::new().union(slot(1), 7, t))]
    };
    Raw { values, ..Raw::default() }.refused("value 0, field 'items': found index -9223372036854775808");
    let values = |b: &mut Builder| {
        let items = b.vector([-1i32, -2].into_iter());
        let t = b.table(TableFields::new().offset(slot(0), items));
        vec![b.table(TableFields::new().union(slot(1), 11, t))]
    };
    Raw { values, ..Raw::default() }.refused("value 0, field 'items': found index -2");
}

/// A rank-0 tensor value with raw codes.
fn raw(b: &mut Builder, scalar_type: i8, dynamism: i8) -> Vec<Offset> {
    let (sizes, order) = (b.vector(std::iter::empty::<i32>()), b.bytes(&[], 1));
    let t = TableFields::new().forced(slot(0), scalar_type).forced(slot(8), dynamism);
    let t = b.table(t.offset(slot(2), sizes).offset(slot(3), order));
    vec![b.table(TableFields::new().union(slot(1), 5, t))]
}

#[test]
fn unknown_codes() {
    for (code, values) in [
        (0u8, (|b: &mut Builder| vec![b.table(TableFields::new())]) as fn(&mut Builder) -> Vec<Offset>),
        (12, |b| {
            let t = b.table(TableFields::new());
            vec![b.table(TableFields::new().union(slot(1), 12, t))]
        }),
    ] {
        let expected = format!("value 0, field 'val_type': found type {code}, expected a value type from 1 to 11");
        Raw { values, ..Raw::default() }.refused(&expected);
    }
    let instruction = |b: &mut Builder| {
        let t = b.table(TableFields::new());
        b.table(TableFields::new().union(slot(1), 6, t))
    };
    Raw { instruction, ..Raw::default() }.refused("field 'instr_args_type': found type 6");
    assert!(Raw { values: |b| raw(b, 6, 0), ..Raw::default() }.parse().is_ok());
    Raw { values: |b| raw(b, 30, 0), ..Raw::default() }.refused("field 'scalar_type': found code 30");
    Raw { values: |b| raw(b, -1, 0), ..Raw::default() }.refused("field 'scalar_type': found code -1");
    Raw { values: |b| raw(b, 6, 3), ..Raw::default() }.refused("field 'shape_dynamism': found code 3");
}

#[test]
fn a_null_value_needs_no_table() {
    let values = |b: &mut Builder| vec![b.table(TableFields::new().forced(slot(0), 1u8))];
    assert_eq!(Raw { values, ..Raw::default() }.parse().unwrap().execution_plans[0].values, [EValue::Null]);
    let values = |b: &mut Builder| vec![b.table(TableFields::new().forced(slot(0), 2u8))];
    Raw { values, ..Raw::default() }.refused("value 0, field 'val': found nothing");
}

#[test]
fn listing() {
    let (program, _) = small_program();
    let expected = "\
program version 0
constants: segment 0 offsets [0 0]
named \"a\": segment 1
named \"b\": segment 1

method \"forward\"
  inputs [%0] outputs [%3]
  arenas [0 64]
  container in [1]
  container out [2]
  %0 = f32[2 3] arena 1@0
  %1 = f32[2 3] const 1
  %2 = int 1
  %3 = f32[2 3] arena 1@32
  %4 = none
  %5 = bool true
  %6 = double -2.5
  %7 = string \"none\"
  %8 = ints [%2 %2]
  %9 = doubles [0.5 inf]
  %10 = bools [true false]
  %11 = tensors [%0 %1]
  %12 = optional tensors [%3 none]
  %13 = bool[] supplied
  chain 0
    0: aten::add.out [%0 %1 %2 %3 %3]
    1: jump to 4 if not %5
    2: move %0 to %3
    3: free %0
";
    assert_eq!(dump::program(&program), expected);
}

//! `.bpte` files: a program together with inputs and the outputs expected for them.

use crate::ScalarType;
use crate::container::check_identifier;
use crate::decode::{each, required_bytes, required_i32s, required_string, scalar_type};
use crate::error::PteError;
use crate::flatbuf::{Builder, Field, FlatBuffer, Offset, Table, TableFields};
use crate::head::PteFile;
use crate::limits::MAX_FLATBUFFER_LEN;
use crate::place::{At, Item, Problem};
use crate::schema;
use crate::tensor::check_shape;

/// Version of the bundled program schema.
pub const BUNDLED_VERSION: u32 = 2;

const IDENTIFIER: &str = "BP08";
/// The schema's `force_align` of the embedded program.
const PROGRAM_ALIGNMENT: usize = 32;
/// The schema's `force_align` of tensor data.
const DATA_ALIGNMENT: usize = 16;

/// A program with test cases. Bytes are borrowed from the file, or from what is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct BundledProgram<'a> {
    /// Test suites, one a method.
    pub suites: Vec<TestSuite<'a>>,
    /// A complete `.pte` file; offsets inside it count from its own start.
    pub program: &'a [u8],
}

/// The test cases of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct TestSuite<'a> {
    /// Name of the method.
    pub method_name: String,
    /// The cases.
    pub cases: Vec<TestCase<'a>>,
}

/// Inputs and the outputs expected for them.
#[derive(Debug, Clone, PartialEq)]
pub struct TestCase<'a> {
    /// One value for each input of the method.
    pub inputs: Vec<BundledValue<'a>>,
    /// One value for each output of the method, or none at all.
    pub expected_outputs: Vec<BundledValue<'a>>,
}

/// A value of a test case.
#[derive(Debug, Clone, PartialEq)]
pub enum BundledValue<'a> {
    /// Tensor.
    Tensor(BundledTensor<'a>),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Floating-point number.
    Double(f64),
}

/// A tensor of a test case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledTensor<'a> {
    /// Element type.
    pub scalar_type: ScalarType,
    /// Sizes in logical order.
    pub sizes: Vec<i32>,
    /// Dimensions from outermost to innermost in memory.
    pub dim_order: Vec<u8>,
    /// The elements, little-endian, densely packed in dim order.
    pub data: &'a [u8],
}

impl<'a> BundledProgram<'a> {
    /// Reads and verifies a file, including the embedded program and that each case fits its method's inputs and outputs.
    ///
    /// # Errors
    /// Identifier, version, FlatBuffers structure, shapes, data lengths, unknown methods, counts of values, and everything
    /// that [`PteFile::parse`] refuses.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PteError> {
        use schema::bundled as f;
        check_identifier(bytes, 4, IDENTIFIER)?;
        let at = At::FILE;
        let buffer = FlatBuffer::new(bytes).map_err(at.flat())?;
        let root = buffer.root(0).map_err(at.flat())?;
        let version = root.scalar(f::VERSION, 0u32).map_err(at.flat())?;
        if version != BUNDLED_VERSION {
            return Err(PteError::Version { found: version, expected: "bundled program version 2" });
        }
        let program = required_bytes(at, root, f::PROGRAM)?;
        let suites = each(at, root, f::SUITES, |suite, t| {
            let at = At::new(Item::Suite(suite));
            let method_name = required_string(at, t, schema::suite::METHOD_NAME)?;
            let cases = each(at, t, schema::suite::TEST_CASES, |index, t| {
                let at = at.item(Item::Case { suite, index });
                Ok(TestCase {
                    inputs: values(at, t, schema::case::INPUTS)?,
                    expected_outputs: values(at, t, schema::case::EXPECTED)?,
                })
            })?;
            Ok(TestSuite { method_name, cases })
        })?;
        let bundled = BundledProgram { suites, program };
        bundled.verify()?;
        Ok(bundled)
    }

    /// The embedded program.
    ///
    /// # Errors
    /// As [`PteFile::parse`].
    pub fn pte(&self) -> Result<PteFile<'a>, PteError> {
        PteFile::parse(self.program)
    }

    fn verify(&self) -> Result<(), PteError> {
        let pte = self.pte()?;
        for (i, suite) in self.suites.iter().enumerate() {
            let at = At::new(Item::Suite(i));
            let plans = &pte.program().execution_plans;
            let Some(plan) = plans.iter().find(|p| p.name == suite.method_name) else {
                let known: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
                let problem = Problem::value(format!("'{}'", suite.method_name), format!("a method of {known:?}"));
                return Err(at.err("method_name", problem));
            };
            for (index, case) in suite.cases.iter().enumerate() {
                let at = at.item(Item::Case { suite: i, index });
                let (found, expected) = (case.inputs.len(), plan.inputs.len());
                if found != expected {
                    let found = format!("{found} values");
                    return Err(at.err("inputs", Problem::value(found, format!("{expected}, the method's inputs"))));
                }
                let (found, expected) = (case.expected_outputs.len(), plan.outputs.len());
                if found != 0 && found != expected {
                    let expected = format!("none or {expected}, the method's outputs");
                    return Err(at.err("expected_outputs", Problem::value(format!("{found} values"), expected)));
                }
                for (field, list) in [("inputs", &case.inputs), ("expected_outputs", &case.expected_outputs)] {
                    list.iter().try_for_each(|v| check(at, field, v))?;
                }
            }
        }
        Ok(())
    }

    /// Verifies and encodes the file. The same value gives the same bytes.
    ///
    /// # Errors
    /// What [`BundledProgram::parse`] would refuse, and a file beyond 2 GiB.
    pub fn encode(&self) -> Result<Vec<u8>, PteError> {
        use schema::bundled as f;
        self.verify()?;
        let mut b = Builder::new();
        let program = b.bytes(self.program, PROGRAM_ALIGNMENT);
        let mut suites = Vec::new();
        for suite in &self.suites {
            let mut cases = Vec::new();
            for case in &suite.cases {
                let inputs = write_values(&mut b, &case.inputs);
                let expected = write_values(&mut b, &case.expected_outputs);
                let fields =
                    TableFields::new().offset(schema::case::INPUTS, inputs).offset(schema::case::EXPECTED, expected);
                cases.push(b.table(fields));
            }
            let name = b.string(&suite.method_name);
            let cases = b.offsets(&cases);
            let fields =
                TableFields::new().offset(schema::suite::METHOD_NAME, name).offset(schema::suite::TEST_CASES, cases);
            suites.push(b.table(fields));
        }
        let suites = b.offsets(&suites);
        let fields = TableFields::new()
            .scalar(f::VERSION, BUNDLED_VERSION, 0)
            .offset(f::SUITES, suites)
            .offset(f::PROGRAM, program);
        let root = b.table(fields);
        let identifier = IDENTIFIER.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
        b.finish(root, &identifier, false).ok_or_else(|| PteError::Unwritable {
            what: "bundled program",
            found: "more than 2 GiB".to_owned(),
            expected: format!("at most {MAX_FLATBUFFER_LEN} bytes"),
        })
    }
}

fn values<'a>(at: At<'_>, t: Table<'_, 'a>, field: Field) -> Result<Vec<BundledValue<'a>>, PteError> {
    each(at, t, field, |_, t| {
        let val = schema::evalue::VAL;
        let (code, table) = t.union(val).map_err(at.flat())?;
        if !(1..=4).contains(&code) {
            return Err(at.err("val_type", Problem::value(format!("type {code}"), "a value type from 1 to 4")));
        }
        let t = at.need(val.name, table)?;
        let boxed = schema::boxed::VALUE;
        Ok(match code {
            1 => {
                use schema::bundled_tensor as f;
                BundledValue::Tensor(BundledTensor {
                    scalar_type: scalar_type(at, t, f::SCALAR_TYPE)?,
                    sizes: required_i32s(at, t, f::SIZES)?,
                    dim_order: required_bytes(at, t, f::DIM_ORDER)?.to_vec(),
                    data: required_bytes(at, t, f::DATA)?,
                })
            }
            2 => BundledValue::Int(t.scalar(boxed, 0i64).map_err(at.flat())?),
            3 => BundledValue::Bool(t.scalar(boxed, false).map_err(at.flat())?),
            _ => BundledValue::Double(t.scalar(boxed, 0f64).map_err(at.flat())?),
        })
    })
}

fn check(at: At<'_>, field: &'static str, value: &BundledValue<'_>) -> Result<(), PteError> {
    let BundledValue::Tensor(t) = value else { return Ok(()) };
    let nbytes = check_shape(at, t.scalar_type, &t.sizes, &t.dim_order)?;
    if nbytes != t.data.len() as u64 {
        let expected = format!("{nbytes} bytes for {}{:?}", t.scalar_type, t.sizes);
        return Err(at.err(field, Problem::value(format!("{} bytes of data", t.data.len()), expected)));
    }
    Ok(())
}

fn write_values(b: &mut Builder, values: &[BundledValue<'_>]) -> Offset {
    let mut tables = Vec::with_capacity(values.len());
    for v in values {
        let t = TableFields::new();
        let boxed = schema::boxed::VALUE;
        let (code, fields) = match v {
            BundledValue::Tensor(tensor) => {
                use schema::bundled_tensor as f;
                let sizes = b.vector(tensor.sizes.iter().copied());
                let data = b.bytes(tensor.data, DATA_ALIGNMENT);
                let dim_order = b.bytes(&tensor.dim_order, 1);
                let t = t.scalar(f::SCALAR_TYPE, tensor.scalar_type.code() as i8, 0);
                (1, t.offset(f::SIZES, sizes).offset(f::DATA, data).offset(f::DIM_ORDER, dim_order))
            }
            BundledValue::Int(i) => (2, t.scalar(boxed, *i, 0)),
            BundledValue::Bool(x) => (3, t.scalar(boxed, *x, false)),
            BundledValue::Double(d) => (4, t.scalar(boxed, *d, 0.0)),
        };
        let val = b.table(fields);
        tables.push(b.table(TableFields::new().union(schema::evalue::VAL, code, val)));
    }
    b.offsets(&tables)
}

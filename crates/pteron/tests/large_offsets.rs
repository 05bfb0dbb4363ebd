//! Offsets are 64 bits wide: constants behind 4 GiB of others are written and read where they belong. The file is sparse.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use pteron::exec::Value;
use pteron::ir::{Arg, GraphBuilder, Module, Op, TensorType};
use pteron::program_format::{EmitOptions, emit};
use pteron::tensor::{DType, MemorySource, SourceError, Tensor, TensorSource};
use pteron::{LoadMode, LoadOptions, Program};
use pteron_testkit::large_tests_allowed;

/// Rows of 1 MiB: together 4.25 GiB.
const ROWS: usize = 4352;
const ROW: usize = 1 << 20;

/// Zeros, but for the last row, which counts up.
#[derive(Debug)]
struct Huge;

impl TensorSource for Huge {
    fn dtype(&self) -> DType {
        DType::U8
    }
    fn shape(&self) -> &[usize] {
        &[ROWS, ROW]
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        for (row, out) in rows.zip(out.chunks_exact_mut(ROW)) {
            out.fill(0);
            if row == ROWS - 1 {
                out.iter_mut().zip(0u8..=255).for_each(|(o, i)| *o = i);
            }
        }
        Ok(())
    }
    fn label(&self) -> &str {
        "huge"
    }
}

/// A file that leaves holes for zeros.
struct Sparse {
    file: File,
    len: u64,
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.iter().any(|b| *b != 0) {
            self.file.seek(SeekFrom::Start(self.len))?;
            self.file.write_all(bytes)?;
        }
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.len)
    }
}

#[test]
fn constants_behind_four_gibibytes() {
    if !large_tests_allowed("large_offsets::constants_behind_four_gibibytes") {
        return;
    }
    let mut m = Module::new("large");
    let huge = m.add_constant("huge", Arc::new(Huge));
    let small = m.add_tensor_constant("small", MemorySource::of("small", &[3], &[0.5f32, 1.5, 2.5]).unwrap());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[3]));
    let (huge, small) = (b.constant(huge), b.constant(small));
    let last = b.call(Op::SelectCopy, [huge.into(), 0i64.into(), (-1i64).into()]).unwrap();
    let head = b.call(Op::SliceCopy, [last.into(), 0i64.into(), 0i64.into(), 4i64.into()]).unwrap();
    let sum = b.call(Op::Add, [x.into(), small.into(), Arg::Int(1)]).unwrap();
    b.finish(&[head, sum]);

    let emitted = emit(&m, &EmitOptions::default()).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("large.pte");
    let mut out = Sparse { file: File::create(&path).unwrap(), len: 0 };
    emitted.write_to(&mut out, &mut |_| {}).unwrap();
    out.flush().unwrap();
    assert!(out.len > (ROWS * ROW) as u64);

    let options = LoadOptions { mode: LoadMode::Mmap, ..LoadOptions::default() };
    let mut program = Program::open(&path, &options).unwrap();
    let x = Value::Tensor(Tensor::of(&[3], &[1f32, 1.0, 1.0]).unwrap());
    let found = program.call("forward", &[Some(x)]).unwrap();
    let [Some(Value::Tensor(head)), Some(Value::Tensor(sum))] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(head.view().as_slice::<u8>().unwrap(), [0, 1, 2, 3]);
    assert_eq!(sum.view().as_slice::<f32>().unwrap(), [1.5, 2.5, 3.5]);
}

#[test]
fn declared_terabytes_are_refused_before_they_are_allocated() {
    let mut m = Module::new("bomb");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[1]));
    let size = 1 << 21;
    let full = b.call(Op::Full, [Arg::ints(&[size, size]), 1.0.into(), DType::F32.into()]).unwrap();
    let sum = b.call(Op::Add, [full.into(), x.into()]).unwrap();
    let total = b.call(Op::Sum, [sum.into(), Arg::ints(&[])]).unwrap();
    b.finish(&[total]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.pte");
    emit(&m, &EmitOptions::default()).unwrap().write_to(&mut File::create(&path).unwrap(), &mut |_| {}).unwrap();
    let message = Program::open(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("bytes of working memory"), "{message}");
}

//! Data model → program file.

use crate::container::{HEADER_LEN, HEADER_MAGIC, PTE_IDENTIFIER, splice};
use crate::error::PteError;
use crate::flatbuf::{Builder, Field, Offset, TableFields};
use crate::limits::MAX_FLATBUFFER_LEN;
use crate::program::*;
use crate::schema;
use crate::segments::{DEFAULT_SEGMENT_ALIGNMENT, Encoded, SegmentSpec, align_up, join, lay_out};
use crate::tensor::Tensor;
use crate::verify::{Surroundings, verify};

/// The schema's `force_align` of inline blobs; the spliced header keeps it.
const BLOB_ALIGNMENT: usize = 16;

/// How a program is written.
#[derive(Debug, Clone, Copy)]
pub struct EncodeOptions<'o> {
    /// Alignment of every segment and of the segment base, bytes.
    pub segment_alignment: u64,
    /// Delegate blobs that go into the program part, in the order of [`DelegateData::Inline`].
    pub inline_delegate_data: &'o [&'o [u8]],
}

impl Default for EncodeOptions<'_> {
    fn default() -> Self {
        EncodeOptions { segment_alignment: DEFAULT_SEGMENT_ALIGNMENT, inline_delegate_data: &[] }
    }
}

/// Verifies a program and encodes its head, with segments laid out in the order of `segments`.
///
/// `program.segments` and `program.inline_delegate_data` are not read: the layout comes from `segments`, the inline blobs
/// from `options`. Every other field is written as it is; an absent constant segment becomes the empty one that
/// ExecuTorch's runtime requires. If the segments hold no byte, there is no extended header and one empty segment entry.
/// Segment offsets relative to the base are those of ExecuTorch's exporter; the base itself is aligned to the least common
/// multiple of all alignments, so that absolute offsets are aligned too. The same arguments give the same bytes.
///
/// # Errors
/// What [`crate::ParsedHead::parse`] would refuse, [`Program::constant_buffers`] that are not empty (the deprecated form is
/// not written), a layout beyond 63 bits, a program part beyond 2 GiB.
pub fn encode_program(
    program: &Program,
    segments: &[SegmentSpec],
    options: &EncodeOptions<'_>,
) -> Result<Encoded, PteError> {
    if !program.constant_buffers.is_empty() {
        return Err(PteError::Unwritable {
            what: "constant_buffer",
            found: format!("{} inline constants", program.constant_buffers.len()),
            expected: "constants in the constant segment".to_owned(),
        });
    }
    let sizes: Vec<u64> = segments.iter().map(|s| s.size).collect();
    verify(program, &Surroundings { segments: &sizes, inline_delegates: options.inline_delegate_data.len() })?;
    let layout = lay_out(segments, options.segment_alignment)?;
    let mut entries: Vec<DataSegment> =
        layout.offsets.iter().zip(&sizes).map(|(offset, size)| DataSegment { offset: *offset, size: *size }).collect();
    if entries.is_empty() {
        entries.push(DataSegment::default());
    }

    let mut w = Writer { b: Builder::new() };
    let root = w.program(program, &entries, options);
    let identifier = PTE_IDENTIFIER.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
    let too_long = || PteError::Unwritable {
        what: "program part",
        found: "more than 2 GiB".to_owned(),
        expected: format!("at most {MAX_FLATBUFFER_LEN} bytes"),
    };
    let plain = w.b.finish(root, &identifier, false).ok_or_else(too_long)?;
    if layout.len == 0 {
        let len = plain.len() as u64;
        let segment_offsets = vec![len; segments.len()];
        return Ok(Encoded { head: plain, program_size: len, segment_offsets, total_len: len });
    }

    let program_size = plain.len() as u64 + u64::from(HEADER_LEN);
    let base = align_up(program_size, layout.base_alignment);
    let total_len = base.and_then(|b| b.checked_add(layout.len)).filter(|n| *n <= i64::MAX as u64);
    let (Some(base), Some(total_len)) = (base, total_len) else {
        return Err(PteError::Unwritable {
            what: "segment layout",
            found: format!("{} bytes of segments at alignment {}", layout.len, layout.base_alignment),
            expected: "a file length that fits 63 bits".to_owned(),
        });
    };
    let mut header = Vec::with_capacity(HEADER_LEN as usize);
    header.extend_from_slice(HEADER_MAGIC);
    header.extend_from_slice(&HEADER_LEN.to_le_bytes());
    for field in [program_size, base, layout.len] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    let mut head = splice(&plain, &header, BLOB_ALIGNMENT).ok_or_else(too_long)?;
    // The base is a small distance behind the head unless an alignment is huge.
    let padded = usize::try_from(base).ok().filter(|b| b - head.len() <= MAX_FLATBUFFER_LEN as usize);
    head.resize(padded.ok_or_else(too_long)?, 0);
    let segment_offsets = layout.offsets.iter().map(|o| base.saturating_add(*o)).collect();
    Ok(Encoded { head, program_size, segment_offsets, total_len })
}

/// Encodes a program with its segments in memory, for small programs. Segments and inline blobs as in [`encode_program`],
/// default options, no inline delegate blobs.
///
/// # Errors
/// As [`encode_program`].
pub fn write_all(program: &Program, segments: &[&[u8]]) -> Result<Vec<u8>, PteError> {
    let specs: Vec<SegmentSpec> = segments.iter().map(|s| SegmentSpec::new(s.len() as u64)).collect();
    join(encode_program(program, &specs, &EncodeOptions::default())?, segments)
}

struct Writer {
    b: Builder,
}

fn ints(items: &[u32]) -> impl DoubleEndedIterator<Item = i32> + ExactSizeIterator {
    // Indices were verified against tables whose entries take at least four bytes of a buffer below 2 GiB.
    items.iter().map(|i| *i as i32)
}

impl Writer {
    fn each<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T) -> Offset) -> Offset {
        let offsets: Vec<Offset> = items.iter().map(|i| one(self, i)).collect();
        self.b.offsets(&offsets)
    }

    /// A vector of tables, left out if empty.
    fn some<T>(&mut self, items: &[T], one: impl FnMut(&mut Self, &T) -> Offset) -> Option<Offset> {
        (!items.is_empty()).then(|| self.each(items, one))
    }

    fn program(&mut self, p: &Program, segments: &[DataSegment], options: &EncodeOptions<'_>) -> Offset {
        use schema::program as f;
        let plans = self.each(&p.execution_plans, Self::plan);
        let constants = self.each::<()>(&[], |w, ()| w.b.table(TableFields::new()));
        let inline = self.each(options.inline_delegate_data, |w, blob| {
            let data = w.b.bytes(blob, BLOB_ALIGNMENT);
            w.b.table(TableFields::new().offset(schema::blob::DATA, data))
        });
        let segments = self.each(segments, |w, s| {
            use schema::segment as f;
            w.b.table(TableFields::new().scalar(f::OFFSET, s.offset, 0).scalar(f::SIZE, s.size, 0))
        });
        let none = SubsegmentOffsets { segment_index: 0, offsets: vec![0] };
        let constant_segment = self.subsegment(match &p.constant_segment {
            Some(s) if !s.offsets.is_empty() => s,
            _ => &none,
        });
        let mutable = self.some(&p.mutable_data_segments, Self::subsegment);
        let named = self.some(&p.named_data, |w, n| {
            use schema::named as f;
            let key = w.b.string(&n.key);
            w.b.table(TableFields::new().offset(f::KEY, key).scalar(f::SEGMENT_INDEX, n.segment_index, 0))
        });
        let fields = TableFields::new()
            .scalar(f::VERSION, p.version, 0)
            .offset(f::EXECUTION_PLAN, plans)
            .offset(f::CONSTANT_BUFFER, constants)
            .offset(f::BACKEND_DELEGATE_DATA, inline)
            .offset(f::SEGMENTS, segments)
            .offset(f::CONSTANT_SEGMENT, constant_segment)
            .maybe(f::MUTABLE_DATA_SEGMENTS, mutable)
            .maybe(f::NAMED_DATA, named);
        self.b.table(fields)
    }

    fn subsegment(&mut self, s: &SubsegmentOffsets) -> Offset {
        use schema::subsegment as f;
        let offsets = self.b.vector(s.offsets.iter().copied());
        let fields = TableFields::new().scalar(f::SEGMENT_INDEX, s.segment_index, 0).offset(f::OFFSETS, offsets);
        self.b.table(fields)
    }

    fn plan(&mut self, p: &ExecutionPlan) -> Offset {
        use schema::plan as f;
        let name = self.b.string(&p.name);
        let (i, o) = (self.b.string(&p.container_in), self.b.string(&p.container_out));
        let container = TableFields::new().offset(schema::container::INPUT, i).offset(schema::container::OUTPUT, o);
        let container = self.b.table(container);
        let values = self.each(&p.values, Self::evalue);
        let inputs = self.b.vector(ints(&p.inputs));
        let outputs = self.b.vector(ints(&p.outputs));
        let chains = self.each(&p.chains, Self::chain);
        let operators = self.each(&p.operators, |w, op| {
            let (name, overload) = (w.b.string(&op.name), w.b.string(&op.overload));
            let fields =
                TableFields::new().offset(schema::operator::NAME, name).offset(schema::operator::OVERLOAD, overload);
            w.b.table(fields)
        });
        let delegates = self.each(&p.delegates, Self::delegate);
        let sizes = self.b.vector(p.non_const_buffer_sizes.iter().copied());
        let devices = self.some(&p.non_const_buffer_device, |w, d| {
            use schema::buffer_device as f;
            let fields = TableFields::new()
                .scalar(f::BUFFER_IDX, d.buffer_idx as i32, 0)
                .scalar(f::TYPE, d.device_type.code(), 0)
                .scalar(f::INDEX, d.device_index, 0);
            w.b.table(fields)
        });
        let fields = TableFields::new()
            .offset(f::NAME, name)
            .offset(f::CONTAINER, container)
            .offset(f::VALUES, values)
            .offset(f::INPUTS, inputs)
            .offset(f::OUTPUTS, outputs)
            .offset(f::CHAINS, chains)
            .offset(f::OPERATORS, operators)
            .offset(f::DELEGATES, delegates)
            .offset(f::BUFFER_SIZES, sizes)
            .maybe(f::BUFFER_DEVICE, devices);
        self.b.table(fields)
    }

    fn delegate(&mut self, d: &BackendDelegate) -> Offset {
        use schema::delegate as f;
        let id = self.b.string(&d.id);
        let (location, index) = match d.data {
            DelegateData::Inline(i) => (0i8, i),
            DelegateData::Segment(i) => (1i8, i),
        };
        let reference = TableFields::new().scalar(schema::reference::LOCATION, location, 0).scalar(
            schema::reference::INDEX,
            index,
            0,
        );
        let reference = self.b.table(reference);
        let specs = self.each(&d.compile_specs, |w, s| {
            let (key, value) = (w.b.string(&s.key), w.b.bytes(&s.value, 1));
            w.b.table(TableFields::new().offset(schema::spec::KEY, key).offset(schema::spec::VALUE, value))
        });
        let fields =
            TableFields::new().offset(f::ID, id).offset(f::PROCESSED, reference).offset(f::COMPILE_SPECS, specs);
        self.b.table(fields)
    }

    fn chain(&mut self, c: &Chain) -> Offset {
        use schema::chain as f;
        let inputs = self.b.vector(ints(&c.inputs));
        let outputs = self.b.vector(ints(&c.outputs));
        let instructions = self.each(&c.instructions, Self::instruction);
        let stacktrace = self.some(&c.stacktrace, |w, frames| {
            let items = w.each(frames, |w, frame| {
                use schema::frame as f;
                let filename = w.b.string(&frame.filename);
                let name = w.b.string(&frame.name);
                let context = w.b.string(&frame.context);
                let fields = TableFields::new()
                    .offset(f::FILENAME, filename)
                    .scalar(f::LINENO, frame.lineno, 0)
                    .offset(f::NAME, name)
                    .offset(f::CONTEXT, context);
                w.b.table(fields)
            });
            w.b.table(TableFields::new().offset(schema::list::ITEMS, items))
        });
        let fields = TableFields::new()
            .offset(f::INPUTS, inputs)
            .offset(f::OUTPUTS, outputs)
            .offset(f::INSTRUCTIONS, instructions)
            .maybe(f::STACKTRACE, stacktrace);
        self.b.table(fields)
    }

    fn instruction(&mut self, i: &Instruction) -> Offset {
        use schema::call as f;
        let pair =
            |a: (Field, u32), b: (Field, u32)| TableFields::new().scalar(a.0, a.1 as i32, 0).scalar(b.0, b.1 as i32, 0);
        let (code, fields) = match i {
            Instruction::KernelCall { op_index, args } => {
                let args = self.b.vector(ints(args));
                (1, TableFields::new().scalar(f::OP_INDEX, *op_index as i32, 0).offset(f::ARGS, args))
            }
            Instruction::DelegateCall { delegate_index, args } => {
                let args = self.b.vector(ints(args));
                (2, TableFields::new().scalar(f::DELEGATE_INDEX, *delegate_index as i32, 0).offset(f::ARGS, args))
            }
            Instruction::MoveCall { move_from, move_to } => {
                (3, pair((f::MOVE_FROM, *move_from), (f::MOVE_TO, *move_to)))
            }
            Instruction::JumpFalseCall { cond_value_index, destination_instruction } => {
                (4, pair((f::COND, *cond_value_index), (f::DESTINATION, *destination_instruction)))
            }
            Instruction::FreeCall { value_index } => (5, TableFields::new().scalar(f::VALUE, *value_index as i32, 0)),
        };
        let args = self.b.table(fields);
        self.b.table(TableFields::new().union(schema::instruction::ARGS, code, args))
    }

    fn evalue(&mut self, v: &EValue) -> Offset {
        let value = schema::boxed::VALUE;
        let items = schema::list::ITEMS;
        let t = TableFields::new();
        let (code, fields) = match v {
            EValue::Null => (1, t),
            EValue::Int(i) => (2, t.scalar(value, *i, 0)),
            EValue::Bool(b) => (3, t.scalar(value, *b, false)),
            EValue::Double(d) => (4, t.scalar(value, *d, 0.0)),
            EValue::Tensor(tensor) => (5, self.tensor(tensor)),
            EValue::String(s) => (6, t.offset(value, self.b.string(s))),
            EValue::IntList(v) => (7, t.offset(items, self.b.vector(v.iter().map(|i| i64::from(*i))))),
            EValue::DoubleList(v) => (8, t.offset(items, self.b.vector(v.iter().copied()))),
            EValue::BoolList(v) => (9, t.offset(items, self.b.vector(v.iter().copied()))),
            EValue::TensorList(v) => (10, t.offset(items, self.b.vector(ints(v)))),
            EValue::OptionalTensorList(v) => {
                let v = v.iter().map(|i| i.map_or(-1, |i| i as i32));
                (11, t.offset(items, self.b.vector(v)))
            }
        };
        let val = self.b.table(fields);
        self.b.table(TableFields::new().union(schema::evalue::VAL, code, val))
    }

    fn tensor(&mut self, t: &Tensor) -> TableFields {
        use schema::tensor as f;
        let sizes = self.b.vector(t.sizes.iter().copied());
        let dim_order = self.b.bytes(&t.dim_order, 1);
        let allocation = t.allocation.map(|a| {
            use schema::allocation as f;
            let fields = TableFields::new()
                .scalar(f::MEMORY_ID, a.memory_id, 0)
                .scalar(f::LOW, a.offset as u32, 0)
                .scalar(f::HIGH, (a.offset >> 32) as u32, 0);
            self.b.table(fields)
        });
        let extra = t.extra.as_deref().map(|e| {
            use schema::extra as f;
            let name = (!e.fully_qualified_name.is_empty()).then(|| self.b.string(&e.fully_qualified_name));
            let fields = TableFields::new()
                .scalar(f::SEGMENTS_IDX, e.mutable_data_segments_idx, 0)
                .maybe(f::NAME, name)
                .scalar(f::LOCATION, i8::from(e.external), 0)
                .scalar(f::DEVICE_TYPE, e.device_type.code(), 0)
                .scalar(f::DEVICE_INDEX, e.device_index, 0);
            self.b.table(fields)
        });
        TableFields::new()
            .scalar(f::SCALAR_TYPE, t.scalar_type.code() as i8, 0)
            .scalar(f::STORAGE_OFFSET, t.storage_offset, 0)
            .offset(f::SIZES, sizes)
            .offset(f::DIM_ORDER, dim_order)
            .scalar(f::REQUIRES_GRAD, t.requires_grad, false)
            .scalar(f::DATA_BUFFER_IDX, t.data_buffer_idx, 0)
            .maybe(f::ALLOCATION_INFO, allocation)
            .scalar(f::LAYOUT, t.layout, 0)
            .scalar(f::SHAPE_DYNAMISM, t.dynamism.code(), 0)
            .maybe(f::EXTRA, extra)
    }
}

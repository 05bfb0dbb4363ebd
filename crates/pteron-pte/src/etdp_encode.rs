//! Writing `.etdp` files.

use crate::error::PteError;
use crate::etdp::{DebugEvent, DebugTensor, DebugValue, ETDP_IDENTIFIER, EtDump, Event, ProfileEvent, RunData};
use crate::flatbuf::{Builder, Offset, TableFields};
use crate::limits::MAX_FLATBUFFER_LEN;
use crate::schema;

impl EtDump {
    /// Encodes the dump as a size-prefixed buffer. The same value gives the same bytes.
    ///
    /// # Errors
    /// A dump beyond 2 GiB.
    pub fn encode(&self) -> Result<Vec<u8>, PteError> {
        use schema::etdump as f;
        let mut b = Builder::new();
        let runs: Vec<Offset> = self.run_data.iter().map(|r| run(&mut b, r)).collect();
        let runs = b.offsets(&runs);
        let root = b.table(TableFields::new().scalar(f::VERSION, self.version, 0).offset(f::RUN_DATA, runs));
        let identifier = ETDP_IDENTIFIER.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
        b.finish(root, &identifier, true).ok_or_else(|| PteError::Unwritable {
            what: "ETDump",
            found: "more than 2 GiB".to_owned(),
            expected: format!("at most {MAX_FLATBUFFER_LEN} bytes"),
        })
    }
}

fn text(b: &mut Builder, s: &Option<String>) -> Option<Offset> {
    s.as_deref().map(|s| b.string(s))
}

fn run(b: &mut Builder, r: &RunData) -> Offset {
    use schema::run as f;
    let name = text(b, &r.name);
    let allocators: Vec<Offset> = r
        .allocators
        .iter()
        .map(|a| {
            let name = b.string(a);
            b.table(TableFields::new().offset(schema::allocator::NAME, name))
        })
        .collect();
    let allocators = b.offsets(&allocators);
    let events: Vec<Offset> = r.events.iter().map(|e| event(b, e)).collect();
    let events = b.offsets(&events);
    let fields = TableFields::new()
        .maybe(f::NAME, name)
        .scalar(f::INPUT_INDEX, r.bundled_input_index, -1)
        .offset(f::ALLOCATORS, allocators)
        .offset(f::EVENTS, events);
    b.table(fields)
}

fn event(b: &mut Builder, e: &Event) -> Offset {
    use schema::event as f;
    let profile = e.profile.as_ref().map(|p| profile(b, p));
    let allocation = e.allocation.map(|a| {
        use schema::alloc_event as f;
        let fields = TableFields::new().scalar(f::ALLOCATOR, a.allocator_id, 0).scalar(f::SIZE, a.allocation_size, 0);
        b.table(fields)
    });
    let debug = e.debug.as_ref().map(|d| debug(b, d));
    let fields = TableFields::new().maybe(f::PROFILE, profile).maybe(f::ALLOCATION, allocation).maybe(f::DEBUG, debug);
    b.table(fields)
}

fn profile(b: &mut Builder, p: &ProfileEvent) -> Offset {
    use schema::profile as f;
    let name = text(b, &p.name);
    let id = text(b, &p.delegate_debug_id_str);
    let metadata = p.delegate_debug_metadata.as_deref().map(|m| b.bytes(m, 1));
    let fields = TableFields::new()
        .maybe(f::NAME, name)
        .scalar(f::CHAIN, p.chain_index, 0)
        .scalar(f::INSTRUCTION, p.instruction_id, -1)
        .scalar(f::DELEGATE_INT, p.delegate_debug_id_int, -1)
        .maybe(f::DELEGATE_STR, id)
        .maybe(f::METADATA, metadata)
        .scalar(f::START, p.start_time, 0)
        .scalar(f::END, p.end_time, 0);
    b.table(fields)
}

fn debug(b: &mut Builder, d: &DebugEvent) -> Offset {
    use schema::debug as f;
    let name = text(b, &d.name);
    let id = text(b, &d.delegate_debug_id_str);
    let boxed = schema::boxed::VALUE;
    let output = d.output.map(|o| b.table(TableFields::new().scalar(boxed, o, false)));
    let entry = match (&d.value, output) {
        (None, None) => None,
        (value, output) => {
            use schema::debug_value as f;
            let t = TableFields::new();
            let (code, field, table) = match value {
                None | Some(DebugValue::Null) => (0i8, f::INT, None),
                Some(DebugValue::Int(v)) => (1, f::INT, Some(b.table(t.scalar(boxed, *v, 0)))),
                Some(DebugValue::Bool(v)) => (2, f::BOOL, Some(b.table(t.scalar(boxed, *v, false)))),
                Some(DebugValue::Float(v)) => (3, f::FLOAT, Some(b.table(t.scalar(boxed, *v, 0.0)))),
                Some(DebugValue::Double(v)) => (4, f::DOUBLE, Some(b.table(t.scalar(boxed, *v, 0.0)))),
                Some(DebugValue::Tensor(v)) => (5, f::TENSOR, Some(tensor(b, v))),
                Some(DebugValue::TensorList(v)) => {
                    let items: Vec<Offset> = v.iter().map(|t| tensor(b, t)).collect();
                    let items = b.offsets(&items);
                    (6, f::TENSOR_LIST, Some(b.table(t.offset(schema::list::ITEMS, items))))
                }
                Some(DebugValue::String) => (7, f::INT, None),
            };
            let fields = TableFields::new().scalar(f::KIND, code, 0).maybe(field, table).maybe(f::OUTPUT, output);
            Some(b.table(fields))
        }
    };
    let fields = TableFields::new()
        .scalar(f::CHAIN, d.chain_index, 0)
        .scalar(f::INSTRUCTION, d.instruction_id, -1)
        .maybe(f::ENTRY, entry)
        .scalar(f::DELEGATE_INT, d.delegate_debug_id_int, -1)
        .maybe(f::DELEGATE_STR, id)
        .maybe(f::NAME, name);
    b.table(fields)
}

fn tensor(b: &mut Builder, t: &DebugTensor) -> Offset {
    use schema::debug_tensor as f;
    let sizes = b.vector(t.sizes.iter().copied());
    let strides = b.vector(t.strides.iter().copied());
    let fields = TableFields::new()
        .scalar(f::SCALAR_TYPE, t.scalar_type.code() as i8, 0)
        .offset(f::SIZES, sizes)
        .offset(f::STRIDES, strides)
        .scalar(f::OFFSET, t.offset, 0);
    b.table(fields)
}

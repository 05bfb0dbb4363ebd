//! Slots and names of the schemas' fields.

macro_rules! schema {
    ($($(#[$doc:meta])* $module:ident { $($field:ident = $slot:literal $name:literal,)* })*) => {$(
        $(#[$doc])*
        pub(crate) mod $module {
            use crate::flatbuf::Field;
            $(pub(crate) const $field: Field = Field::new($slot, $name);)*
        }
    )*};
}

schema! {
    /// `Program`.
    program {
        VERSION = 0 "version",
        EXECUTION_PLAN = 1 "execution_plan",
        CONSTANT_BUFFER = 2 "constant_buffer",
        BACKEND_DELEGATE_DATA = 3 "backend_delegate_data",
        SEGMENTS = 4 "segments",
        CONSTANT_SEGMENT = 5 "constant_segment",
        MUTABLE_DATA_SEGMENTS = 6 "mutable_data_segments",
        NAMED_DATA = 7 "named_data",
    }
    /// `DataSegment`.
    segment { OFFSET = 0 "offset", SIZE = 1 "size", }
    /// `SubsegmentOffsets`.
    subsegment { SEGMENT_INDEX = 0 "segment_index", OFFSETS = 1 "offsets", }
    /// `NamedData`, of programs and of flat tensors.
    named { KEY = 0 "key", SEGMENT_INDEX = 1 "segment_index", TENSOR_LAYOUT = 2 "tensor_layout", }
    /// `Buffer` and `BackendDelegateInlineData`.
    blob { DATA = 0 "data", }
    /// `ExecutionPlan`.
    plan {
        NAME = 0 "name",
        CONTAINER = 1 "container_meta_type",
        VALUES = 2 "values",
        INPUTS = 3 "inputs",
        OUTPUTS = 4 "outputs",
        CHAINS = 5 "chains",
        OPERATORS = 6 "operators",
        DELEGATES = 7 "delegates",
        BUFFER_SIZES = 8 "non_const_buffer_sizes",
        BUFFER_DEVICE = 9 "non_const_buffer_device",
    }
    /// `ContainerMetadata`.
    container { INPUT = 0 "encoded_inp_str", OUTPUT = 1 "encoded_out_str", }
    /// `NonConstBufferDevice`.
    buffer_device { BUFFER_IDX = 0 "buffer_idx", TYPE = 1 "device_type", INDEX = 2 "device_index", }
    /// `Chain`.
    chain { INPUTS = 0 "inputs", OUTPUTS = 1 "outputs", INSTRUCTIONS = 2 "instructions", STACKTRACE = 3 "stacktrace", }
    /// `Frame`.
    frame { FILENAME = 0 "filename", LINENO = 1 "lineno", NAME = 2 "name", CONTEXT = 3 "context", }
    /// Tables with one list: `FrameList`, `IntList`, ….
    list { ITEMS = 0 "items", }
    /// `Operator`.
    operator { NAME = 0 "name", OVERLOAD = 1 "overload", }
    /// `BackendDelegate`.
    delegate { ID = 0 "id", PROCESSED = 1 "processed", COMPILE_SPECS = 2 "compile_specs", }
    /// `BackendDelegateDataReference`.
    reference { LOCATION = 0 "location", INDEX = 1 "index", }
    /// `CompileSpec`.
    spec { KEY = 0 "key", VALUE = 1 "value", }
    /// `Instruction`; the type code is in slot 0.
    instruction { ARGS = 1 "instr_args", }
    /// Tables of instruction arguments.
    call {
        OP_INDEX = 0 "op_index",
        DELEGATE_INDEX = 0 "delegate_index",
        ARGS = 1 "args",
        MOVE_FROM = 0 "move_from",
        MOVE_TO = 1 "move_to",
        COND = 0 "cond_value_index",
        DESTINATION = 1 "destination_instruction",
        VALUE = 0 "value_index",
    }
    /// `EValue` and other tables that hold one union; the type code is in slot 0.
    evalue { VAL = 1 "val", }
    /// Tables with one scalar or string: `Int`, `Bool`, `Double`, `String`.
    boxed { VALUE = 0 "val", }
    /// `Tensor` of a program.
    tensor {
        SCALAR_TYPE = 0 "scalar_type",
        STORAGE_OFFSET = 1 "storage_offset",
        SIZES = 2 "sizes",
        DIM_ORDER = 3 "dim_order",
        REQUIRES_GRAD = 4 "requires_grad",
        DATA_BUFFER_IDX = 5 "data_buffer_idx",
        ALLOCATION_INFO = 6 "allocation_info",
        LAYOUT = 7 "layout",
        SHAPE_DYNAMISM = 8 "shape_dynamism",
        EXTRA = 9 "extra_tensor_info",
    }
    /// `AllocationDetails`.
    allocation { MEMORY_ID = 0 "memory_id", LOW = 1 "memory_offset_low", HIGH = 2 "memory_offset_high", }
    /// `ExtraTensorInfo`.
    extra {
        SEGMENTS_IDX = 0 "mutable_data_segments_idx",
        NAME = 1 "fully_qualified_name",
        LOCATION = 2 "location",
        DEVICE_TYPE = 3 "device_type",
        DEVICE_INDEX = 4 "device_index",
    }
    /// `FlatTensor`.
    flat_tensor { VERSION = 0 "version", SEGMENTS = 1 "segments", NAMED_DATA = 2 "named_data", }
    /// `TensorLayout`.
    layout { SCALAR_TYPE = 0 "scalar_type", SIZES = 1 "sizes", DIM_ORDER = 2 "dim_order", }
    /// `BundledProgram`.
    bundled { VERSION = 0 "version", SUITES = 1 "method_test_suites", PROGRAM = 2 "program", }
    /// `BundledMethodTestSuite`.
    suite { METHOD_NAME = 0 "method_name", TEST_CASES = 1 "test_cases", }
    /// `BundledMethodTestCase`.
    case { INPUTS = 0 "inputs", EXPECTED = 1 "expected_outputs", }
    /// `Tensor` of a bundled program.
    bundled_tensor { SCALAR_TYPE = 0 "scalar_type", SIZES = 1 "sizes", DATA = 2 "data", DIM_ORDER = 3 "dim_order", }
    /// `ETDump`.
    etdump { VERSION = 0 "version", RUN_DATA = 1 "run_data", }
    /// `RunData`.
    run { NAME = 0 "name", INPUT_INDEX = 1 "bundled_input_index", ALLOCATORS = 2 "allocators", EVENTS = 3 "events", }
    /// `Allocator`.
    allocator { NAME = 0 "name", }
    /// `Event`.
    event { PROFILE = 0 "profile_event", ALLOCATION = 1 "allocation_event", DEBUG = 2 "debug_event", }
    /// `ProfileEvent`.
    profile {
        NAME = 0 "name",
        CHAIN = 1 "chain_index",
        INSTRUCTION = 2 "instruction_id",
        DELEGATE_INT = 3 "delegate_debug_id_int",
        DELEGATE_STR = 4 "delegate_debug_id_str",
        METADATA = 5 "delegate_debug_metadata",
        START = 6 "start_time",
        END = 7 "end_time",
    }
    /// `AllocationEvent`.
    alloc_event { ALLOCATOR = 0 "allocator_id", SIZE = 1 "allocation_size", }
    /// `DebugEvent`.
    debug {
        CHAIN = 0 "chain_index",
        INSTRUCTION = 1 "instruction_id",
        ENTRY = 2 "debug_entry",
        DELEGATE_INT = 3 "delegate_debug_id_int",
        DELEGATE_STR = 4 "delegate_debug_id_str",
        NAME = 5 "name",
    }
    /// `Value` of a debug event.
    debug_value {
        KIND = 0 "val",
        TENSOR = 1 "tensor",
        TENSOR_LIST = 2 "tensor_list",
        INT = 3 "int_value",
        FLOAT = 4 "float_value",
        DOUBLE = 5 "double_value",
        BOOL = 6 "bool_value",
        OUTPUT = 7 "output",
    }
    /// `Tensor` of a debug event.
    debug_tensor { SCALAR_TYPE = 0 "scalar_type", SIZES = 1 "sizes", STRIDES = 2 "strides", OFFSET = 3 "offset", }
}

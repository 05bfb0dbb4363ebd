//! From bytes to a checked [`Payload`]. Slots are declaration numbers of ExecuTorch's `backends/xnnpack/serialization/schema.fbs`.

use std::collections::BTreeMap;

use pteron_pte::flatbuf::{Field, FlatBuffer, Scalar, Table};

use super::node::{BinaryKind, Conv, ConvKind, Node, NodeKind, OutputRange, Pooling, PoolingKind, UnaryKind};
use super::value::{Datatype, QuantParams, Scales, Value};
use super::{Constant, ConstantBytes, MAX_EXTERNS, MAX_RANK, NO_VALUE, Payload, ValueIndex, flags, header};
use crate::error::XnnpackError;

type Result<T> = std::result::Result<T, XnnpackError>;

const fn field(slot: u16, name: &'static str) -> Field {
    Field::new(slot, name)
}

/// A table, and what it is called in messages.
struct Reader<'t> {
    table: Table<'t, 't>,
    place: String,
}

impl Reader<'_> {
    fn get<T: Scalar>(&self, slot: u16, name: &'static str, default: T) -> Result<T> {
        Ok(self.table.scalar(field(slot, name), default)?)
    }

    fn u32(&self, slot: u16, name: &'static str) -> Result<u32> {
        self.get(slot, name, 0u32)
    }

    fn list(&self, slot: u16, name: &'static str) -> Result<Vec<u32>> {
        Ok(self.table.vector::<u32>(field(slot, name))?.map(|v| v.to_vec()).unwrap_or_default())
    }

    /// A list with as many elements as the field `num_dims` in slot 0 says, at most XNNPACK's rank.
    fn dims(&self, counter: u16, slot: u16, name: &'static str) -> Result<Vec<u32>> {
        let (count, list) = (self.u32(counter, "num_dims")?, self.list(slot, name)?);
        if count as usize != list.len() {
            return self.wrong(name, format!("{} elements", list.len()), format!("{count}, as num_dims says"));
        }
        self.rank(name, list)
    }

    fn rank(&self, name: &str, list: Vec<u32>) -> Result<Vec<u32>> {
        if list.len() > MAX_RANK {
            return self.wrong(name, format!("{} elements", list.len()), format!("at most {MAX_RANK}"));
        }
        Ok(list)
    }

    fn wrong<T>(&self, name: &str, found: impl std::fmt::Display, expected: impl Into<String>) -> Result<T> {
        Err(XnnpackError::malformed(format!("{}, field {name}", self.place), found, expected))
    }

    fn within<T>(&self, name: &str, found: u32, list: &[T], what: &str) -> Result<usize> {
        match list.get(found as usize) {
            Some(_) => Ok(found as usize),
            None => self.wrong(name, found, format!("less than {}, the number of {what}", list.len())),
        }
    }
}

impl Payload {
    /// Reads and checks a delegate's blob: with the header `XH00`, or an `XNNGraph` alone.
    ///
    /// # Errors
    /// [`XnnpackError`] if header, FlatBuffers structure, or anything that the graph says does not hold.
    pub fn parse(blob: &[u8]) -> Result<Payload> {
        let parts = header::read(blob)?;
        let bytes = blob.get(parts.flatbuffer.clone()).unwrap_or_default();
        let buffer = FlatBuffer::new(bytes)?;
        let graph = Reader { table: buffer.root(0)?, place: "graph".to_owned() };
        let version = graph.table.string(field(0, "version"))?.unwrap_or_default().to_owned();
        let constants = constants(&graph, &parts)?;
        let values = values(&graph, &constants)?;
        let mut ids = BTreeMap::new();
        for (i, v) in values.iter().enumerate() {
            if ids.insert(v.id, i).is_some() {
                return Err(XnnpackError::malformed(
                    format!("value {}", v.id),
                    "a second value of that id",
                    "one value for each id",
                ));
            }
        }
        let nodes = nodes(&graph, &ids)?;
        let (inputs, outputs) = externals(&graph, &values, &ids)?;
        Ok(Payload { version, identifier: parts.identifier, values, nodes, inputs, outputs, constants })
    }
}

fn constants(graph: &Reader<'_>, parts: &header::Parts) -> Result<Vec<Constant>> {
    let inline = graph.table.tables(field(6, "constant_buffer"))?.filter(|t| !t.is_empty());
    let data = graph.table.tables(field(8, "constant_data"))?.filter(|t| !t.is_empty());
    let mut out = Vec::new();
    match (inline, data) {
        (Some(_), Some(_)) => {
            return graph.wrong("constant_buffer", "both constant_buffer and constant_data", "one of them");
        }
        (None, None) => {}
        (Some(list), None) => {
            for t in list.iter() {
                let range = t?.byte_range(field(0, "storage"))?.unwrap_or(0..0);
                let size = range.len() as u64;
                let at = parts.flatbuffer.start;
                let bytes = ConstantBytes::Blob(at.saturating_add(range.start)..at.saturating_add(range.end));
                out.push(Constant { bytes, size });
            }
        }
        (None, Some(list)) => {
            for (i, t) in list.iter().enumerate() {
                let r = Reader { table: t?, place: format!("constant {i}") };
                out.push(constant(&r, i, parts)?);
            }
        }
    }
    Ok(out)
}

fn constant(r: &Reader<'_>, i: usize, parts: &header::Parts) -> Result<Constant> {
    let (offset, size) = (r.get(0, "offset", 0u64)?, r.get(1, "size", 0u64)?);
    let key = r.table.string(field(2, "named_key"))?.unwrap_or_default();
    if i == 0 {
        return Ok(Constant { bytes: ConstantBytes::Blob(0..0), size: 0 });
    }
    if !key.is_empty() {
        if offset != u64::MAX {
            return r.wrong("offset", offset, format!("{}, because named_key is `{}`", u64::MAX, key.escape_debug()));
        }
        return Ok(Constant { bytes: ConstantBytes::Named(key.to_owned()), size });
    }
    let room = parts.constants.len() as u64;
    let range = || {
        offset.checked_add(size).filter(|&end| end <= room)?;
        let start = parts.constants.start.checked_add(usize::try_from(offset).ok()?)?;
        Some(start..start.checked_add(usize::try_from(size).ok()?)?)
    };
    match range() {
        Some(range) => Ok(Constant { bytes: ConstantBytes::Blob(range), size }),
        None => r.wrong(
            "offset",
            format!("{size} bytes from byte {offset}"),
            format!("a part of the {room} bytes of constant data"),
        ),
    }
}

fn values(graph: &Reader<'_>, constants: &[Constant]) -> Result<Vec<Value>> {
    let Some(list) = graph.table.tables(field(2, "xvalues"))? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for (i, t) in list.iter().enumerate() {
        let place = format!("value entry {i}");
        let (code, table) = t?.union(field(1, "xvalue_union"))?;
        let Some(table) = table else {
            return Err(XnnpackError::malformed(place, "no value", "XNNTensorValue or XNNQuantizedTensorValue"));
        };
        let r = Reader { table, place };
        out.push(match code {
            1 => value(&r, None, constants)?,
            2 => {
                let quant = quant_params(&r, constants)?;
                let Some(table) = r.table.table(field(0, "tensor_value"))? else {
                    return r.wrong("tensor_value", "nothing", "a table");
                };
                value(&Reader { table, place: r.place }, quant, constants)?
            }
            other => {
                return r.wrong("xvalue_union_type", other, "1 (XNNTensorValue) or 2 (XNNQuantizedTensorValue)");
            }
        });
    }
    Ok(out)
}

fn value(r: &Reader<'_>, quant: Option<QuantParams>, constants: &[Constant]) -> Result<Value> {
    let id = r.u32(6, "id_out")?;
    let r = &Reader { table: r.table, place: format!("value {id}") };
    if id == NO_VALUE {
        return r.wrong("id_out", id, "another number: this one stands for no value");
    }
    // Stored as 16-bit signed integers, of which the reader knows the unsigned ones.
    let datatype = |slot, name| r.get(slot, name, 0u16).map(i64::from);
    let code = datatype(0, "datatype")?;
    let Some(kind) = Datatype::from_code(code) else { return r.wrong("datatype", code, "1 to 14") };
    let dq = datatype(7, "dq_datatype")?;
    let dq_datatype = match (dq, Datatype::from_code(dq)) {
        (0, _) => None,
        (_, Some(d)) => Some(d),
        (_, None) => return r.wrong("dq_datatype", dq, "0 to 14"),
    };
    let dims = r.dims(1, 2, "dims")?;
    if let Some(axis) = dims.iter().position(|&d| d == 0) {
        return r.wrong("dims", format!("size 0 of dimension {axis}"), "at least 1");
    }
    let constant = match r.u32(3, "constant_buffer_idx")? {
        0 => None,
        i => Some(r.within("constant_buffer_idx", i, constants, "constants")?),
    };
    let bits = r.u32(5, "flags")?;
    if bits & !(flags::EXTERNAL_INPUT | flags::EXTERNAL_OUTPUT) != 0 {
        return r.wrong("flags", bits, "0 to 3");
    }
    let (is_input, is_output) = (bits & flags::EXTERNAL_INPUT != 0, bits & flags::EXTERNAL_OUTPUT != 0);
    // The schema gives no default, so that an absent id is 0: the first argument.
    let external_id = match r.u32(4, "external_id")? {
        NO_VALUE => None,
        _ if bits == 0 => return r.wrong("external_id", "an id", "none, because no flag says input or output"),
        id if id >= MAX_EXTERNS => return r.wrong("external_id", id, format!("less than {MAX_EXTERNS}")),
        id => Some(id),
    };
    if bits != 0 && external_id.is_none() {
        return r.wrong("external_id", "none", "an id, because flags say input or output");
    }
    if constant.is_some() && bits != 0 {
        return r.wrong("flags", bits, "0, because the value is a constant");
    }
    let value = Value { id, datatype: kind, dims, constant, external_id, is_input, is_output, dq_datatype, quant };
    let Some(bytes) = value.byte_len().filter(|&n| n < 1 << 47) else {
        return r.wrong("dims", format!("{:?}", value.dims), "a tensor that fits in memory");
    };
    if let Some(c) = constant.and_then(|i| constants.get(i))
        && c.size < bytes
    {
        return r.wrong(
            "constant_buffer_idx",
            format!("a constant of {} bytes", c.size),
            format!("{bytes} bytes for {kind} {:?}", value.dims),
        );
    }
    Ok(value)
}

fn quant_params(r: &Reader<'_>, constants: &[Constant]) -> Result<Option<QuantParams>> {
    let (code, table) = r.table.union(field(2, "quant_params"))?;
    let Some(table) = table else {
        return if code == 0 { Ok(None) } else { r.wrong("quant_params", "nothing", "a table") };
    };
    let q = Reader { table, place: r.place.clone() };
    let scales = |index_slot: u16, count_slot: u16| -> Result<Scales> {
        match q.u32(index_slot, "scale_buffer_idx")? {
            0 => {
                let list = q.table.vector::<f32>(field(0, "scale"))?;
                Ok(Scales::List(list.map(|v| v.to_vec()).unwrap_or_default()))
            }
            i => Ok(Scales::Constant {
                index: q.within("scale_buffer_idx", i, constants, "constants")?,
                count: q.u32(count_slot, "num_scales")?,
            }),
        }
    };
    Ok(Some(match code {
        1 => QuantParams::PerChannel { scales: scales(2, 3)?, channel_dim: q.get(1, "channel_dim", 0)? },
        2 => QuantParams::PerTensor { scale: q.get(0, "scale", 0.0)?, zero_point: q.get(1, "zero_point", 0)? },
        3 => QuantParams::PerTokenDynamic { num_nonbatch_dims: q.get(0, "num_nonbatch_dims", 0)? },
        4 => QuantParams::PerChannelGroup {
            scales: scales(4, 5)?,
            channel_dim: q.get(1, "channel_dim", 0)?,
            group_size: q.get(2, "group_size", 0)?,
        },
        other => return r.wrong("quant_params_type", other, "1 to 4"),
    }))
}

/// The inputs and outputs in order of their external ids, which are positions among the arguments of the call.
fn externals(
    graph: &Reader<'_>,
    values: &[Value],
    ids: &BTreeMap<u32, ValueIndex>,
) -> Result<(Vec<ValueIndex>, Vec<ValueIndex>)> {
    let listed = |slot, name: &'static str, flag: fn(&Value) -> bool| -> Result<Vec<ValueIndex>> {
        let mut found = Vec::new();
        for id in graph.list(slot, name)? {
            match ids.get(&id).filter(|&&i| values.get(i).is_some_and(flag)) {
                Some(&i) => found.push(i),
                None => return graph.wrong(name, id, "the id of a value with that flag"),
            }
        }
        let flagged = values.iter().filter(|v| flag(v)).count();
        if flagged != found.len() {
            return graph.wrong(name, format!("{} ids", found.len()), format!("the {flagged} values with that flag"));
        }
        found.sort_by_key(|&i| values.get(i).and_then(|v| v.external_id));
        Ok(found)
    };
    let inputs = listed(4, "input_ids", |v| v.is_input)?;
    let outputs = listed(5, "output_ids", |v| v.is_output)?;
    for (position, &i) in inputs.iter().chain(&outputs).enumerate() {
        let Some(v) = values.get(i) else { continue };
        if v.is_input && v.is_output {
            return Err(XnnpackError::malformed(
                format!("value {}, field flags", v.id),
                "input and output at once",
                "one of them",
            ));
        }
        if v.external_id != Some(u32::try_from(position).unwrap_or(u32::MAX)) {
            return Err(XnnpackError::malformed(
                format!("value {}, field external_id", v.id),
                v.external_id.map_or("none".to_owned(), |e| e.to_string()),
                format!("{position}: inputs are numbered from 0, outputs after them"),
            ));
        }
    }
    let count = inputs.len() + outputs.len();
    let declared = graph.u32(3, "num_externs")?;
    if declared as usize != count {
        return graph.wrong("num_externs", declared, format!("{count}, the number of inputs and outputs"));
    }
    Ok((inputs, outputs))
}

fn nodes(graph: &Reader<'_>, ids: &BTreeMap<u32, ValueIndex>) -> Result<Vec<Node>> {
    let Some(list) = graph.table.tables(field(1, "xnodes"))? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for (i, t) in list.iter().enumerate() {
        let t = t?;
        let (code, table) = t.union(field(1, "xnode_union"))?;
        let Some(table) = table else {
            return Err(XnnpackError::malformed(format!("node {i}"), "no node", "a table"));
        };
        let reader = NodeReader { r: Reader { table, place: format!("node {i}") }, ids };
        let (kind, flags) = reader.kind(code)?;
        let range = match t.table(field(3, "output_min_max"))? {
            None => None,
            Some(table) => {
                let (min, max) =
                    (table.scalar(field(0, "output_min"), 0f32)?, table.scalar(field(1, "output_max"), 0f32)?);
                if min.is_nan() || max.is_nan() || min > max {
                    return reader.r.wrong("output_min_max", format!("{min} to {max}"), "a range");
                }
                Some(OutputRange { min, max })
            }
        };
        out.push(Node { kind, flags, debug_handle: t.scalar(field(2, "debug_handle"), 0u32)?, range });
    }
    Ok(out)
}

struct NodeReader<'t> {
    r: Reader<'t>,
    ids: &'t BTreeMap<u32, ValueIndex>,
}

impl NodeReader<'_> {
    fn value(&self, slot: u16, name: &'static str) -> Result<ValueIndex> {
        let id = self.r.u32(slot, name)?;
        match self.ids.get(&id) {
            Some(&i) => Ok(i),
            None => self.r.wrong(name, id, "the id of a value"),
        }
    }

    fn optional(&self, slot: u16, name: &'static str) -> Result<Option<ValueIndex>> {
        if self.r.u32(slot, name)? == NO_VALUE { Ok(None) } else { self.value(slot, name).map(Some) }
    }

    fn flags(&self, slot: u16) -> Result<u32> {
        self.r.u32(slot, "flags")
    }

    fn four(&self, slot: u16, names: [&'static str; 4]) -> Result<[u32; 4]> {
        let [a, b, c, d] = names;
        Ok([self.r.u32(slot, a)?, self.r.u32(slot + 1, b)?, self.r.u32(slot + 2, c)?, self.r.u32(slot + 3, d)?])
    }

    fn padding(&self) -> Result<[u32; 4]> {
        self.four(0, ["padding_top", "padding_right", "padding_bottom", "padding_left"])
    }

    fn two(&self, slot: u16, names: [&'static str; 2]) -> Result<[u32; 2]> {
        let [a, b] = names;
        Ok([self.r.u32(slot, a)?, self.r.u32(slot + 1, b)?])
    }

    fn unary(&self, kind: UnaryKind) -> Result<(NodeKind, u32)> {
        let kind = NodeKind::Unary { kind, input: self.value(0, "input_id")?, output: self.value(1, "output_id")? };
        Ok((kind, self.flags(2)?))
    }

    fn binary(&self, kind: BinaryKind) -> Result<(NodeKind, u32)> {
        let kind = NodeKind::Binary {
            kind,
            a: self.value(0, "input1_id")?,
            b: self.value(1, "input2_id")?,
            output: self.value(2, "output_id")?,
        };
        Ok((kind, self.flags(3)?))
    }

    fn concatenate(&self, count: usize) -> Result<(NodeKind, u32)> {
        // The fifth input was added to the schema after the flags.
        let slots: [(u16, &'static str); 5] =
            [(1, "input1_id"), (2, "input2_id"), (3, "input3_id"), (4, "input4_id"), (7, "input5_id")];
        let inputs = slots.iter().take(count).map(|&(s, n)| self.value(s, n)).collect::<Result<_>>()?;
        let kind = NodeKind::Concatenate { axis: self.r.u32(0, "axis")?, inputs, output: self.value(5, "output_id")? };
        Ok((kind, self.flags(6)?))
    }

    fn conv(&self, kind: ConvKind) -> Result<(NodeKind, u32)> {
        let conv = Conv {
            kind,
            padding: self.padding()?,
            kernel: self.two(4, ["kernel_height", "kernel_width"])?,
            subsampling: self.two(6, ["subsampling_height", "subsampling_width"])?,
            dilation: self.two(8, ["dilation_height", "dilation_width"])?,
            group_input_channels: self.r.u32(10, "group_input_channels")?,
            group_output_channels: self.r.u32(11, "group_output_channels")?,
            groups: self.r.u32(12, "groups")?,
            adjustment: self.two(13, ["adjustment_height", "adjustment_width"])?,
            input: self.value(15, "input1_id")?,
            filter: self.value(16, "filter_id")?,
            bias: self.optional(17, "bias_id")?,
            output: self.value(18, "output_id")?,
        };
        Ok((NodeKind::Conv(conv), self.flags(19)?))
    }

    fn pooling(&self, kind: PoolingKind) -> Result<(NodeKind, u32)> {
        let pooling = Pooling {
            kind,
            padding: self.padding()?,
            window: self.two(4, ["pooling_height", "pooling_width"])?,
            stride: self.two(6, ["stride_height", "stride_width"])?,
            dilation: self.two(8, ["dilation_height", "dilation_width"])?,
            input: self.value(10, "input_id")?,
            output: self.value(11, "output_id")?,
        };
        Ok((NodeKind::Pooling(pooling), self.flags(12)?))
    }

    fn attention(&self) -> Result<(NodeKind, u32)> {
        let kind = NodeKind::ScaledDotProductAttention {
            query: self.value(0, "query_id")?,
            key: self.value(1, "key_id")?,
            value: self.value(2, "value_id")?,
            scale: self.value(3, "scale_id")?,
            mask: self.value(4, "mask_id")?,
            output: self.value(5, "output_id")?,
        };
        Ok((kind, self.flags(6)?))
    }

    /// Two lists of the same length.
    fn pair(&self, slots: (u16, u16), names: (&'static str, &'static str)) -> Result<(Vec<u32>, Vec<u32>)> {
        let a = self.r.rank(names.0, self.r.list(slots.0, names.0)?)?;
        let b = self.r.list(slots.1, names.1)?;
        if a.len() != b.len() {
            let expected = format!("{}, as many as {}", a.len(), names.0);
            return self.r.wrong(names.1, format!("{} elements", b.len()), expected);
        }
        Ok((a, b))
    }

    /// Codes are positions in the union `XNodeUnion`, `NONE` being 0.
    fn kind(&self, code: u8) -> Result<(NodeKind, u32)> {
        use {BinaryKind as B, UnaryKind as U};
        let io = |a: u16| -> Result<(ValueIndex, ValueIndex)> {
            Ok((self.value(a, "input_id")?, self.value(a + 1, "output_id")?))
        };
        match code {
            1 => self.binary(B::Add),
            2 => {
                let kind = NodeKind::FullyConnected {
                    input: self.value(0, "input1_id")?,
                    filter: self.value(1, "filter_id")?,
                    bias: self.optional(2, "bias_id")?,
                    output: self.value(3, "output_id")?,
                };
                Ok((kind, self.flags(4)?))
            }
            3 => self.unary(U::Softmax),
            4 => self.unary(U::Sigmoid),
            5 => {
                let (input, output) = io(2)?;
                let perm = self.r.dims(0, 1, "perm")?;
                Ok((NodeKind::StaticTranspose { perm, input, output }, self.flags(4)?))
            }
            6 => self.unary(U::Clamp),
            7 => self.conv(ConvKind::Conv2d),
            8 => self.binary(B::Div),
            9 => {
                let (input, output) = io(2)?;
                let size = self.two(0, ["new_height", "new_width"])?;
                Ok((NodeKind::StaticResizeBilinear2d { size, input, output }, self.flags(4)?))
            }
            10 => {
                let (input, output) = io(3)?;
                let (pre, post) = self.pair((0, 1), ("pre_paddings", "post_paddings"))?;
                let value = self.r.get(2, "padding_value", 0f32)?;
                Ok((NodeKind::StaticConstantPad { pre, post, value, input, output }, self.flags(5)?))
            }
            11 => self.pooling(PoolingKind::Average),
            12 => self.binary(B::Minimum),
            13 => self.conv(ConvKind::Depthwise),
            14 => self.pooling(PoolingKind::Max),
            15 => self.binary(B::Multiply),
            16 => self.binary(B::Subtract),
            17 => self.unary(U::Floor),
            18 => self.unary(U::Convert),
            19 => self.unary(U::GlobalAvgPooling2d),
            20 => {
                let (input, output) = io(2)?;
                let new_shape = self.r.dims(0, 1, "new_shape")?;
                Ok((NodeKind::StaticReshape { new_shape, input, output }, self.flags(4)?))
            }
            21 => {
                let kind = NodeKind::ArgMaxPooling2d {
                    padding: self.padding()?,
                    window: self.two(4, ["pooling_height", "pooling_width"])?,
                    input: self.value(6, "input_id")?,
                    values: self.value(7, "output_value_id")?,
                    indices: self.value(8, "output_index_id")?,
                };
                Ok((kind, self.flags(9)?))
            }
            22 => self.unary(U::SquareRoot),
            23 => self.unary(U::Ceiling),
            24 => self.unary(U::Hardswish),
            25 => {
                let (input, output) = io(1)?;
                let negative_slope = self.r.get(0, "negative_slope", 0f32)?;
                Ok((NodeKind::LeakyRelu { negative_slope, input, output }, self.flags(3)?))
            }
            26 => self.binary(B::Maximum),
            27 => self.unary(U::Negate),
            28 => self.unary(U::Square),
            29 => {
                let (input, output) = io(1)?;
                Ok((NodeKind::Elu { alpha: self.r.get(0, "alpha", 0f32)?, input, output }, self.flags(3)?))
            }
            30 => self.unary(U::Abs),
            31 => self.binary(B::PRelu),
            32 => self.concatenate(2),
            33 => self.concatenate(3),
            34 => self.concatenate(4),
            35 => {
                let (input, output) = io(3)?;
                let offsets = self.r.dims(0, 1, "offsets")?;
                let sizes = self.r.dims(0, 2, "sizes")?;
                Ok((NodeKind::StaticSlice { offsets, sizes, input, output }, self.flags(5)?))
            }
            36 => self.attention(),
            37 => self.binary(B::BatchMatrixMultiply),
            38 => self.concatenate(5),
            39 => self.conv(ConvKind::Transpose),
            40 => self.unary(U::ReciprocalSquareRoot),
            41 => self.unary(U::Log),
            42 => self.unary(U::Gelu),
            43 => self.unary(U::Tanh),
            44 => self.unary(U::Exp),
            45 => self.unary(U::Sin),
            46 => self.unary(U::Copy),
            47 => self.unary(U::Cos),
            other => self.r.wrong("xnode_union_type", format!("unknown node kind {other}"), "1 to 47"),
        }
    }
}

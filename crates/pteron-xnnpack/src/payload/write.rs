//! From a [`Payload`] to bytes. Slots are those of the reader.

use pteron_pte::flatbuf::{Builder, Field, Offset, TableFields};

use super::node::{BinaryKind, Conv, ConvKind, Node, NodeKind, Pooling, PoolingKind, UnaryKind};
use super::value::{QuantParams, Scales, Value};
use super::{Constant, ConstantBytes, NO_VALUE, Payload, ValueIndex, flags};
use crate::error::XnnpackError;

type Result<T> = std::result::Result<T, XnnpackError>;

/// Bytes of the header with its padding.
const HEADER: u32 = 32;
/// To what the parts of a blob are padded, bytes.
const ALIGN: usize = 16;
/// Identifier of a graph whose constants may be named data.
const IDENTIFIER: &[u8; 4] = b"XN01";

const fn field(slot: u16, name: &'static str) -> Field {
    Field::new(slot, name)
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

impl Payload {
    /// The blob of a delegate: header, then the graph with the identifier `XN01`. Constants are named data or are said to lie
    /// nowhere.
    ///
    /// # Errors
    /// [`XnnpackError::Unsupported`] for constants inside the payload, which files of this form do not have;
    /// [`XnnpackError::Malformed`] for an index that is out of its table.
    pub fn to_blob(&self) -> Result<Vec<u8>> {
        let mut b = Builder::new();
        let nodes = self.nodes.iter().map(|n| self.node(&mut b, n)).collect::<Result<Vec<_>>>()?;
        let values = self.values.iter().map(|v| value(&mut b, v)).collect::<Vec<_>>();
        let constants =
            self.constants.iter().enumerate().map(|(i, c)| constant(&mut b, i, c)).collect::<Result<Vec<_>>>()?;
        let ids = |list: &[ValueIndex]| list.iter().map(|&i| self.id(i)).collect::<Result<Vec<u32>>>();
        let (inputs, outputs) = (ids(&self.inputs)?, ids(&self.outputs)?);
        let version = b.string(&self.version);
        let (nodes, values, constants) = (b.offsets(&nodes), b.offsets(&values), b.offsets(&constants));
        let (inputs, outputs) = (b.vector(inputs.into_iter()), b.vector(outputs.into_iter()));
        let fields = TableFields::new()
            .offset(field(0, "version"), version)
            .offset(field(1, "xnodes"), nodes)
            .offset(field(2, "xvalues"), values)
            .scalar(field(3, "num_externs"), count(&self.inputs).saturating_add(count(&self.outputs)), 0u32)
            .offset(field(4, "input_ids"), inputs)
            .offset(field(5, "output_ids"), outputs)
            .offset(field(8, "constant_data"), constants);
        let root = b.table(fields);
        let too_long = || XnnpackError::unsupported("an XNNPACK graph of more than 2 GiB cannot be written");
        let graph = b.finish(root, IDENTIFIER, false).ok_or_else(too_long)?;
        let size = u32::try_from(graph.len()).map_err(|_| too_long())?;
        let end = (HEADER as usize + graph.len()).next_multiple_of(ALIGN);
        let mut blob = Vec::with_capacity(end);
        blob.extend_from_slice(&[0; 4]);
        blob.extend_from_slice(super::header::MAGIC);
        blob.extend_from_slice(&super::header::LEN_FIELD.to_le_bytes());
        blob.extend_from_slice(&HEADER.to_le_bytes());
        blob.extend_from_slice(&size.to_le_bytes());
        blob.extend_from_slice(&u32::try_from(end).map_err(|_| too_long())?.to_le_bytes());
        // No constants behind the graph.
        blob.extend_from_slice(&0u64.to_le_bytes());
        blob.resize(HEADER as usize, 0);
        blob.extend_from_slice(&graph);
        blob.resize(end, 0);
        Ok(blob)
    }

    fn id(&self, i: ValueIndex) -> Result<u32> {
        match self.values.get(i) {
            Some(v) => Ok(v.id),
            None => Err(XnnpackError::malformed("payload", format!("value {i}"), "one of its values")),
        }
    }

    fn node(&self, b: &mut Builder, n: &Node) -> Result<Offset> {
        let (code, fields) = self.kind(b, &n.kind, n.flags)?;
        let kind = b.table(fields);
        let mut fields = TableFields::new().union(field(1, "xnode_union"), code, kind).scalar(
            field(2, "debug_handle"),
            n.debug_handle,
            0u32,
        );
        if let Some(range) = n.range {
            let range = TableFields::new().scalar(field(0, "output_min"), range.min, 0.0f32).scalar(
                field(1, "output_max"),
                range.max,
                0.0f32,
            );
            fields = fields.offset(field(3, "output_min_max"), b.table(range));
        }
        Ok(b.table(fields))
    }

    fn ids(&self, list: &[(u16, &'static str, ValueIndex)], mut fields: TableFields) -> Result<TableFields> {
        for &(slot, name, i) in list {
            fields = fields.scalar(field(slot, name), self.id(i)?, 0u32);
        }
        Ok(fields)
    }

    fn optional(&self, slot: u16, name: &'static str, i: Option<ValueIndex>, f: TableFields) -> Result<TableFields> {
        let id = i.map_or(Ok(NO_VALUE), |i| self.id(i))?;
        Ok(f.scalar(field(slot, name), id, 0u32))
    }

    /// Code in the union `XNodeUnion` and the fields of a node.
    fn kind(&self, b: &mut Builder, kind: &NodeKind, bits: u32) -> Result<(u8, TableFields)> {
        let fields = TableFields::new();
        let flags = |slot: u16, f: TableFields| f.scalar(field(slot, "flags"), bits, 0u32);
        let io = |first: u16, input: ValueIndex, output: ValueIndex, f: TableFields| -> Result<TableFields> {
            let f = self.ids(&[(first, "input_id", input), (first + 1, "output_id", output)], f)?;
            Ok(flags(first + 2, f))
        };
        Ok(match kind {
            NodeKind::Unary { kind, input, output } => (unary_code(*kind), io(0, *input, *output, fields)?),
            NodeKind::Binary { kind, a, b: second, output } => {
                let list = [(0, "input1_id", *a), (1, "input2_id", *second), (2, "output_id", *output)];
                (binary_code(*kind), flags(3, self.ids(&list, fields)?))
            }
            NodeKind::FullyConnected { input, filter, bias, output } => {
                let list = [(0, "input1_id", *input), (1, "filter_id", *filter), (3, "output_id", *output)];
                (2, flags(4, self.optional(2, "bias_id", *bias, self.ids(&list, fields)?)?))
            }
            NodeKind::StaticTranspose { perm, input, output } => {
                let list = b.vector(perm.iter().copied());
                let f = fields.scalar(field(0, "num_dims"), count(perm), 0u32).offset(field(1, "perm"), list);
                (5, io(2, *input, *output, f)?)
            }
            NodeKind::StaticReshape { new_shape, input, output } => {
                let list = b.vector(new_shape.iter().copied());
                let f = fields.scalar(field(0, "num_dims"), count(new_shape), 0u32).offset(field(1, "new_shape"), list);
                (20, io(2, *input, *output, f)?)
            }
            NodeKind::StaticSlice { offsets, sizes, input, output } => {
                let (o, s) = (b.vector(offsets.iter().copied()), b.vector(sizes.iter().copied()));
                let f = fields
                    .scalar(field(0, "num_dims"), count(offsets), 0u32)
                    .offset(field(1, "offsets"), o)
                    .offset(field(2, "sizes"), s);
                (35, io(3, *input, *output, f)?)
            }
            NodeKind::StaticConstantPad { pre, post, value, input, output } => {
                let (before, after) = (b.vector(pre.iter().copied()), b.vector(post.iter().copied()));
                let f = fields
                    .offset(field(0, "pre_paddings"), before)
                    .offset(field(1, "post_paddings"), after)
                    .scalar(field(2, "padding_value"), *value, 0.0f32);
                (10, io(3, *input, *output, f)?)
            }
            NodeKind::Concatenate { axis, inputs, output } => {
                let code = match inputs.len() {
                    2 => 32,
                    3 => 33,
                    4 => 34,
                    5 => 38,
                    n => return Err(XnnpackError::malformed("Concatenate", format!("{n} inputs"), "2 to 5")),
                };
                let slots: [(u16, &'static str); 5] =
                    [(1, "input1_id"), (2, "input2_id"), (3, "input3_id"), (4, "input4_id"), (7, "input5_id")];
                let list: Vec<_> = slots.iter().zip(inputs).map(|(&(s, n), &i)| (s, n, i)).collect();
                let f = self.ids(&list, fields.scalar(field(0, "axis"), *axis, 0u32))?;
                (code, flags(6, self.ids(&[(5, "output_id", *output)], f)?))
            }
            NodeKind::ScaledDotProductAttention { query, key, value, scale, mask, output } => {
                let list = [
                    (0, "query_id", *query),
                    (1, "key_id", *key),
                    (2, "value_id", *value),
                    (3, "scale_id", *scale),
                    (4, "mask_id", *mask),
                    (5, "output_id", *output),
                ];
                (36, flags(6, self.ids(&list, fields)?))
            }
            NodeKind::LeakyRelu { negative_slope, input, output } => {
                (25, io(1, *input, *output, fields.scalar(field(0, "negative_slope"), *negative_slope, 0.0f32))?)
            }
            NodeKind::Elu { alpha, input, output } => {
                (29, io(1, *input, *output, fields.scalar(field(0, "alpha"), *alpha, 0.0f32))?)
            }
            NodeKind::Conv(c) => {
                let code = match c.kind {
                    ConvKind::Conv2d => 7,
                    ConvKind::Depthwise => 13,
                    ConvKind::Transpose => 39,
                };
                (code, flags(19, self.conv(c, fields)?))
            }
            NodeKind::Pooling(p) => {
                let code = match p.kind {
                    PoolingKind::Average => 11,
                    PoolingKind::Max => 14,
                };
                (code, flags(12, self.pooling(p, fields)?))
            }
            NodeKind::ArgMaxPooling2d { padding, window, input, values, indices } => {
                let f = numbers(&[padding.as_slice(), window].concat(), fields);
                let list = [(6, "input_id", *input), (7, "output_value_id", *values), (8, "output_index_id", *indices)];
                (21, flags(9, self.ids(&list, f)?))
            }
            NodeKind::StaticResizeBilinear2d { size, input, output } => {
                (9, io(2, *input, *output, numbers(size, fields))?)
            }
        })
    }

    fn conv(&self, c: &Conv, fields: TableFields) -> Result<TableFields> {
        let list = [
            c.padding.as_slice(),
            &c.kernel,
            &c.subsampling,
            &c.dilation,
            &[c.group_input_channels, c.group_output_channels, c.groups],
            &c.adjustment,
        ];
        let ids = [(15, "input1_id", c.input), (16, "filter_id", c.filter), (18, "output_id", c.output)];
        self.optional(17, "bias_id", c.bias, self.ids(&ids, numbers(&list.concat(), fields))?)
    }

    fn pooling(&self, p: &Pooling, fields: TableFields) -> Result<TableFields> {
        let list = [p.padding.as_slice(), &p.window, &p.stride, &p.dilation].concat();
        self.ids(&[(10, "input_id", p.input), (11, "output_id", p.output)], numbers(&list, fields))
    }
}

/// Numbers in slots 0, 1, 2, …
fn numbers(list: &[u32], mut fields: TableFields) -> TableFields {
    for (slot, &n) in (0u16..).zip(list) {
        fields = fields.scalar(field(slot, "number"), n, 0u32);
    }
    fields
}

fn unary_code(kind: UnaryKind) -> u8 {
    match kind {
        UnaryKind::Softmax => 3,
        UnaryKind::Sigmoid => 4,
        UnaryKind::Clamp => 6,
        UnaryKind::Floor => 17,
        UnaryKind::Convert => 18,
        UnaryKind::GlobalAvgPooling2d => 19,
        UnaryKind::SquareRoot => 22,
        UnaryKind::Ceiling => 23,
        UnaryKind::Hardswish => 24,
        UnaryKind::Negate => 27,
        UnaryKind::Square => 28,
        UnaryKind::Abs => 30,
        UnaryKind::ReciprocalSquareRoot => 40,
        UnaryKind::Log => 41,
        UnaryKind::Gelu => 42,
        UnaryKind::Tanh => 43,
        UnaryKind::Exp => 44,
        UnaryKind::Sin => 45,
        UnaryKind::Copy => 46,
        UnaryKind::Cos => 47,
    }
}

fn binary_code(kind: BinaryKind) -> u8 {
    match kind {
        BinaryKind::Add => 1,
        BinaryKind::Div => 8,
        BinaryKind::Minimum => 12,
        BinaryKind::Multiply => 15,
        BinaryKind::Subtract => 16,
        BinaryKind::Maximum => 26,
        BinaryKind::PRelu => 31,
        BinaryKind::BatchMatrixMultiply => 37,
    }
}

fn constant(b: &mut Builder, i: usize, c: &Constant) -> Result<Offset> {
    let (offset, key) = match &c.bytes {
        ConstantBytes::Named(key) => (u64::MAX, key.as_str()),
        ConstantBytes::Blob(range) if range.is_empty() => (0, ""),
        ConstantBytes::Blob(_) => {
            return Err(XnnpackError::unsupported(format!(
                "constant {i} lies in the payload: payloads are written with their constants in the named data"
            )));
        }
    };
    let key = b.string(key);
    let fields = TableFields::new()
        .scalar(field(0, "offset"), offset, 0u64)
        .scalar(field(1, "size"), c.size, 0u64)
        .offset(field(2, "named_key"), key);
    Ok(b.table(fields))
}

fn value(b: &mut Builder, v: &Value) -> Offset {
    let dims = b.vector(v.dims.iter().copied());
    let mut bits = 0;
    if v.is_input {
        bits |= flags::EXTERNAL_INPUT;
    }
    if v.is_output {
        bits |= flags::EXTERNAL_OUTPUT;
    }
    let constant = v.constant.and_then(|i| u32::try_from(i).ok()).unwrap_or(0);
    let fields = TableFields::new()
        .scalar(field(0, "datatype"), v.datatype.code(), 0u16)
        .scalar(field(1, "num_dims"), count(&v.dims), 0u32)
        .offset(field(2, "dims"), dims)
        .scalar(field(3, "constant_buffer_idx"), constant, 0u32)
        .scalar(field(4, "external_id"), v.external_id.unwrap_or(NO_VALUE), 0u32)
        .scalar(field(5, "flags"), bits, 0u32)
        .scalar(field(6, "id_out"), v.id, 0u32);
    let tensor = b.table(fields);
    let (code, table) = match &v.quant {
        None => (1, tensor),
        Some(q) => {
            let (code, params) = quant_params(b, q);
            let fields = TableFields::new().offset(field(0, "tensor_value"), tensor).union(
                field(2, "quant_params"),
                code,
                params,
            );
            (2, b.table(fields))
        }
    };
    b.table(TableFields::new().union(field(1, "xvalue_union"), code, table))
}

fn quant_params(b: &mut Builder, q: &QuantParams) -> (u8, Offset) {
    let scales = |b: &mut Builder, scales: &Scales, slots: (u16, u16), fields: TableFields| match scales {
        Scales::List(list) => fields.offset(field(0, "scale"), b.vector(list.iter().copied())),
        Scales::Constant { index, count } => {
            let none = b.vector(std::iter::empty::<f32>());
            fields
                .offset(field(0, "scale"), none)
                .scalar(field(slots.0, "scale_buffer_idx"), u32::try_from(*index).unwrap_or(0), 0u32)
                .scalar(field(slots.1, "num_scales"), *count, 0u32)
        }
    };
    let f = TableFields::new();
    let (code, fields) = match q {
        QuantParams::PerChannel { scales: s, channel_dim } => {
            (1, scales(b, s, (2, 3), f.scalar(field(1, "channel_dim"), *channel_dim, 0i32)))
        }
        QuantParams::PerTensor { scale, zero_point } => {
            (2, f.scalar(field(0, "scale"), *scale, 0.0f32).scalar(field(1, "zero_point"), *zero_point, 0i32))
        }
        QuantParams::PerTokenDynamic { num_nonbatch_dims } => {
            (3, f.scalar(field(0, "num_nonbatch_dims"), *num_nonbatch_dims, 0i32))
        }
        QuantParams::PerChannelGroup { scales: s, channel_dim, group_size } => {
            let f =
                f.scalar(field(1, "channel_dim"), *channel_dim, 0i32).scalar(field(2, "group_size"), *group_size, 0i32);
            (4, scales(b, s, (4, 5), f))
        }
    };
    (code, b.table(fields))
}

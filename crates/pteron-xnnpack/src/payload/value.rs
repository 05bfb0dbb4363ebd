//! Values and how they are quantized.

use std::fmt;

macro_rules! datatypes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal $bits:literal,)*) => {
        /// Element type of a value: `XNNDatatype`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Datatype {
            $($(#[$doc])* $name,)*
        }

        impl Datatype {
            /// The type of a code of the schema; `None` for 0 (invalid) and codes that the schema does not have.
            pub fn from_code(code: i64) -> Option<Datatype> {
                match code {
                    $($code => Some(Datatype::$name),)*
                    _ => None,
                }
            }

            /// Its code in the schema.
            pub fn code(self) -> u16 {
                match self {
                    $(Datatype::$name => $code,)*
                }
            }

            /// Its name in the schema, without `xnn_datatype_`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Datatype::$name => $text,)*
                }
            }

            /// Bits of one element.
            pub fn bits(self) -> u64 {
                match self {
                    $(Datatype::$name => $bits,)*
                }
            }
        }
    };
}

datatypes! {
    /// IEEE 754 single precision.
    Fp32 = 1 "fp32" 32,
    /// IEEE 754 half precision.
    Fp16 = 2 "fp16" 16,
    /// Signed 8 bits, one scale and zero point for the value.
    QInt8 = 3 "qint8" 8,
    /// Unsigned 8 bits, one scale and zero point for the value.
    QUint8 = 4 "quint8" 8,
    /// Signed 32 bits, one scale for the value.
    QInt32 = 5 "qint32" 32,
    /// Signed 8 bits, a scale for each channel.
    QcInt8 = 6 "qcint8" 8,
    /// Signed 32 bits, a scale for each channel.
    QcInt32 = 7 "qcint32" 32,
    /// 4 bits, a scale for each channel.
    QcInt4 = 8 "qcint4" 4,
    /// Signed 8 bits, quantized at run time with a scale and zero point for each row.
    QdInt8 = 9 "qdint8" 8,
    /// 4 bits, a scale for each block of a channel.
    QbInt4 = 10 "qbint4" 4,
    /// As `qdint8`, packed with its parameters.
    QpInt8 = 11 "qpint8" 8,
    /// Signed 32 bits.
    Int32 = 12 "int32" 32,
    /// Packed single precision.
    Pfp32 = 13 "pfp32" 32,
    /// The upper half of single precision.
    Bf16 = 14 "bf16" 16,
}

impl Datatype {
    /// True for types whose elements stand for other numbers by scale and zero point.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Datatype::Fp32 | Datatype::Fp16 | Datatype::Bf16 | Datatype::Pfp32 | Datatype::Int32)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The scales of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// In the graph, f32.
    List(Vec<f32>),
    /// In the table of constants: f32 for [`QuantParams::PerChannel`], bf16 for [`QuantParams::PerChannelGroup`].
    Constant {
        /// Position in [`crate::Payload::constants`].
        index: usize,
        /// Number of scales.
        count: u32,
    },
}

/// How a value is quantized.
#[derive(Debug, Clone, PartialEq)]
pub enum QuantParams {
    /// A scale for each index of one dimension.
    PerChannel {
        /// The scales.
        scales: Scales,
        /// The dimension.
        channel_dim: i32,
    },
    /// One scale.
    PerTensor {
        /// The scale.
        scale: f32,
        /// The element that stands for zero.
        zero_point: i32,
    },
    /// Computed at run time, for each index of the dimensions before the last `num_nonbatch_dims`.
    PerTokenDynamic {
        /// Number of trailing dimensions that share a scale.
        num_nonbatch_dims: i32,
    },
    /// A scale for each group of elements of a channel.
    PerChannelGroup {
        /// The scales, channel by channel.
        scales: Scales,
        /// The dimension of the channels.
        channel_dim: i32,
        /// Elements in a group.
        group_size: i32,
    },
}

/// A value of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its id in the payload, as nodes and messages name it.
    pub id: u32,
    /// Element type.
    pub datatype: Datatype,
    /// Sizes; of inputs, the largest ones. None is 0.
    pub dims: Vec<u32>,
    /// Its entry in [`crate::Payload::constants`], never 0.
    pub constant: Option<usize>,
    /// Its position among the arguments of the delegate call.
    pub external_id: Option<u32>,
    /// Given by the caller.
    pub is_input: bool,
    /// Given to the caller.
    pub is_output: bool,
    /// The type it is quantized to at run time, where older files say so.
    pub dq_datatype: Option<Datatype>,
    /// How it is quantized.
    pub quant: Option<QuantParams>,
}

impl Value {
    /// Bytes of the value at its declared sizes, rows of 4-bit elements in whole bytes.
    pub fn byte_len(&self) -> Option<u64> {
        let (&last, outer) = self.dims.split_last().unwrap_or((&1, &[]));
        let row = u64::from(last).checked_mul(self.datatype.bits())?.div_ceil(8);
        outer.iter().try_fold(row, |n, &d| n.checked_mul(u64::from(d)))
    }
}

//! How integers stand for reals.

/// A scale and an offset: real = (q + offset) · scale, so that `offset` is the negated zero point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleOffset {
    /// The scale.
    pub scale: f32,
    /// The negated zero point.
    pub offset: i32,
}

impl ScaleOffset {
    /// From PT2E's parameters.
    pub fn of_zero_point(scale: f32, zero_point: i32) -> ScaleOffset {
        ScaleOffset { scale, offset: zero_point.wrapping_neg() }
    }
}

/// Scales of blocks, relative to their channel's: channel after channel, the blocks of each in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockScales {
    /// A byte each.
    U8(Vec<u8>),
    /// Two bytes each.
    U16(Vec<u16>),
}

impl BlockScales {
    /// Number of scales.
    pub fn len(&self) -> usize {
        match self {
            BlockScales::U8(v) => v.len(),
            BlockScales::U16(v) => v.len(),
        }
    }

    /// Whether there is no scale.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// QNN's encoding of a tensor. An axis is an index into the tensor's sizes.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Encoding {
    /// Undefined: the elements are what they are.
    #[default]
    None,
    /// One scale and offset.
    ScaleOffset(ScaleOffset),
    /// One scale and offset for each index along `axis`.
    AxisScaleOffset {
        /// The axis.
        axis: i32,
        /// As many as the tensor is long along the axis.
        scales: Vec<ScaleOffset>,
    },
    /// As [`Encoding::ScaleOffset`] for elements of fewer bits than their container.
    BwScaleOffset {
        /// Bits of an element: 4.
        bitwidth: u32,
        /// The scale and offset.
        scale: ScaleOffset,
    },
    /// As [`Encoding::AxisScaleOffset`] for elements of fewer bits than their container.
    BwAxisScaleOffset {
        /// Bits of an element: 4 or 2.
        bitwidth: u32,
        /// The axis.
        axis: i32,
        /// As many as the tensor is long along the axis.
        scales: Vec<f32>,
        /// Negated zero points, as many; empty where all are 0.
        offsets: Vec<i32>,
    },
    /// Low-power block quantization: the scale of block `b` of channel `c` is `scales[c].scale · block_scales[c · blocks + b]`.
    BlockwiseExpansion {
        /// The axis of the channels.
        axis: i32,
        /// As many as the tensor is long along the axis; offsets are 0.
        scales: Vec<ScaleOffset>,
        /// Blocks in each channel.
        blocks_per_axis: u32,
        /// Bits of a block's scale: 4.
        block_scale_bitwidth: u32,
        /// `scales.len() · blocks_per_axis` scales.
        block_scales: BlockScales,
    },
    /// An encoding that is only known by its number: read from context binaries, never written.
    Other(u32),
}

impl Encoding {
    /// One scale and zero point for the whole tensor.
    pub fn per_tensor(scale: f32, zero_point: i32) -> Encoding {
        Encoding::ScaleOffset(ScaleOffset::of_zero_point(scale, zero_point))
    }

    /// QNN's number; that of an undefined encoding for [`Encoding::None`].
    pub fn code(&self) -> u32 {
        match self {
            Encoding::None => 0x7fff_ffff,
            Encoding::ScaleOffset(_) => 0,
            Encoding::AxisScaleOffset { .. } => 1,
            Encoding::BwScaleOffset { .. } => 2,
            Encoding::BwAxisScaleOffset { .. } => 3,
            Encoding::BlockwiseExpansion { .. } => 5,
            Encoding::Other(code) => *code,
        }
    }
}

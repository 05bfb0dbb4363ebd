//! Nodes: every kind of the schema.

use super::ValueIndex;

/// Kinds with one input and one output (`_XNNNode1x1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryKind {
    /// Softmax over the last dimension.
    Softmax,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x` limited to the node's [`OutputRange`].
    Clamp,
    /// Rounded towards negative infinity.
    Floor,
    /// The same numbers in the output's type.
    Convert,
    /// Mean over dimensions 1 and 2 of an NHWC tensor.
    GlobalAvgPooling2d,
    /// `√x`.
    SquareRoot,
    /// Rounded towards positive infinity.
    Ceiling,
    /// `x · clamp(x + 3, 0, 6) / 6`.
    Hardswish,
    /// `-x`.
    Negate,
    /// `x²`.
    Square,
    /// `|x|`.
    Abs,
    /// `1 / √x`.
    ReciprocalSquareRoot,
    /// Natural logarithm.
    Log,
    /// `x · Φ(x)`.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// `e^x`.
    Exp,
    /// Sine.
    Sin,
    /// `x`.
    Copy,
    /// Cosine.
    Cos,
}

/// Kinds with two inputs and one output (`_XNNNode2x1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryKind {
    /// The sum.
    Add,
    /// The quotient.
    Div,
    /// The smaller one.
    Minimum,
    /// The product.
    Multiply,
    /// The difference.
    Subtract,
    /// The larger one.
    Maximum,
    /// `a` where it is not negative, else `a · b`; `b` has one element for each of the last dimension.
    PRelu,
    /// The matrix product of the last two dimensions.
    BatchMatrixMultiply,
}

/// Kinds of convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// `XNNConv2d`.
    Conv2d,
    /// `XNNDepthwiseConv2d`.
    Depthwise,
    /// `XNNConvTranspose2d`.
    Transpose,
}

/// A convolution over NHWC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conv {
    /// Which one.
    pub kind: ConvKind,
    /// Padding: top, right, bottom, left.
    pub padding: [u32; 4],
    /// Height and width of the filter.
    pub kernel: [u32; 2],
    /// Stride down and right.
    pub subsampling: [u32; 2],
    /// Dilation down and right.
    pub dilation: [u32; 2],
    /// Number of groups.
    pub groups: u32,
    /// Input channels of a group.
    pub group_input_channels: u32,
    /// Output channels of a group.
    pub group_output_channels: u32,
    /// Extra rows and columns of a transposed convolution's output.
    pub adjustment: [u32; 2],
    /// The input.
    pub input: ValueIndex,
    /// The filter.
    pub filter: ValueIndex,
    /// The bias.
    pub bias: Option<ValueIndex>,
    /// The output.
    pub output: ValueIndex,
}

/// Kinds of pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolingKind {
    /// The mean.
    Average,
    /// The largest.
    Max,
}

/// A pooling over NHWC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// Which one.
    pub kind: PoolingKind,
    /// Padding: top, right, bottom, left.
    pub padding: [u32; 4],
    /// Height and width of the window.
    pub window: [u32; 2],
    /// Stride down and right.
    pub stride: [u32; 2],
    /// Dilation down and right.
    pub dilation: [u32; 2],
    /// The input.
    pub input: ValueIndex,
    /// The output.
    pub output: ValueIndex,
}

/// What a node computes, and of which values.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// One input, one output.
    Unary {
        /// Which one.
        kind: UnaryKind,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// Two inputs, one output.
    Binary {
        /// Which one.
        kind: BinaryKind,
        /// The first input.
        a: ValueIndex,
        /// The second input.
        b: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// `input · filterᵀ + bias`; filter `[out, in]`, or `[in, out]` with the flag for it.
    FullyConnected {
        /// The input `[…, in]`.
        input: ValueIndex,
        /// The filter.
        filter: ValueIndex,
        /// The bias `[out]`.
        bias: Option<ValueIndex>,
        /// The output `[…, out]`.
        output: ValueIndex,
    },
    /// Dimension `i` of the output is dimension `perm[i]` of the input.
    StaticTranspose {
        /// The permutation.
        perm: Vec<u32>,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// The same elements under other sizes; one size may be 0, which takes what is left.
    StaticReshape {
        /// The sizes.
        new_shape: Vec<u32>,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// A box of the input; a size of 0 is the whole dimension.
    StaticSlice {
        /// First index of each dimension.
        offsets: Vec<u32>,
        /// Size of each dimension.
        sizes: Vec<u32>,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// The input with a constant around it.
    StaticConstantPad {
        /// Elements before each dimension.
        pre: Vec<u32>,
        /// Elements after each dimension.
        post: Vec<u32>,
        /// The constant.
        value: f32,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// The inputs side by side along `axis`.
    Concatenate {
        /// The dimension.
        axis: u32,
        /// Two to five inputs.
        inputs: Vec<ValueIndex>,
        /// The output.
        output: ValueIndex,
    },
    /// `softmax((query · scale) keyᵀ + mask) value`.
    ScaledDotProductAttention {
        /// `[batch, heads, queries, channels]`.
        query: ValueIndex,
        /// `[batch, heads, keys, channels]`.
        key: ValueIndex,
        /// `[batch, heads, keys, value channels]`.
        value: ValueIndex,
        /// `[channels]`.
        scale: ValueIndex,
        /// `[queries, keys]`.
        mask: ValueIndex,
        /// `[batch, heads, queries, value channels]`.
        output: ValueIndex,
    },
    /// `x` where it is not negative, else `x · negative_slope`.
    LeakyRelu {
        /// The slope.
        negative_slope: f32,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// `x` where it is positive, else `alpha · (e^x - 1)`.
    Elu {
        /// The factor.
        alpha: f32,
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
    /// A convolution.
    Conv(Conv),
    /// A pooling.
    Pooling(Pooling),
    /// The largest element of each window and where it is.
    ArgMaxPooling2d {
        /// Padding: top, right, bottom, left.
        padding: [u32; 4],
        /// Height and width of the window.
        window: [u32; 2],
        /// The input.
        input: ValueIndex,
        /// The largest elements.
        values: ValueIndex,
        /// Their positions in the window.
        indices: ValueIndex,
    },
    /// Bilinear interpolation to another height and width of an NHWC tensor.
    StaticResizeBilinear2d {
        /// Height and width.
        size: [u32; 2],
        /// The input.
        input: ValueIndex,
        /// The output.
        output: ValueIndex,
    },
}

/// Bounds that the outputs of a node are limited to; either may be infinite, none is NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputRange {
    /// Smallest.
    pub min: f32,
    /// Largest.
    pub max: f32,
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub kind: NodeKind,
    /// Bits of [`super::flags`].
    pub flags: u32,
    /// The number of the node that it came from in the exported graph.
    pub debug_handle: u32,
    /// Limits of the outputs.
    pub range: Option<OutputRange>,
}

impl NodeKind {
    /// Name of the kind: the schema's without `XNN`.
    pub fn name(&self) -> &'static str {
        match self {
            NodeKind::Unary { kind, .. } => match kind {
                UnaryKind::Softmax => "Softmax",
                UnaryKind::Sigmoid => "Sigmoid",
                UnaryKind::Clamp => "Clamp",
                UnaryKind::Floor => "Floor",
                UnaryKind::Convert => "Convert",
                UnaryKind::GlobalAvgPooling2d => "GlobalAvgPooling2d",
                UnaryKind::SquareRoot => "SquareRoot",
                UnaryKind::Ceiling => "Ceiling",
                UnaryKind::Hardswish => "Hardswish",
                UnaryKind::Negate => "Negate",
                UnaryKind::Square => "Square",
                UnaryKind::Abs => "Abs",
                UnaryKind::ReciprocalSquareRoot => "ReciprocalSquareRoot",
                UnaryKind::Log => "Log",
                UnaryKind::Gelu => "Gelu",
                UnaryKind::Tanh => "Tanh",
                UnaryKind::Exp => "Exp",
                UnaryKind::Sin => "Sin",
                UnaryKind::Copy => "Copy",
                UnaryKind::Cos => "Cos",
            },
            NodeKind::Binary { kind, .. } => match kind {
                BinaryKind::Add => "Add",
                BinaryKind::Div => "Div",
                BinaryKind::Minimum => "Minimum",
                BinaryKind::Multiply => "Multiply",
                BinaryKind::Subtract => "Subtract",
                BinaryKind::Maximum => "Maximum",
                BinaryKind::PRelu => "PReLU",
                BinaryKind::BatchMatrixMultiply => "BatchMatrixMultiply",
            },
            NodeKind::FullyConnected { .. } => "FullyConnected",
            NodeKind::StaticTranspose { .. } => "StaticTranspose",
            NodeKind::StaticReshape { .. } => "StaticReshape",
            NodeKind::StaticSlice { .. } => "StaticSlice",
            NodeKind::StaticConstantPad { .. } => "StaticConstantPad",
            NodeKind::Concatenate { inputs, .. } => match inputs.len() {
                2 => "Concatenate2",
                3 => "Concatenate3",
                4 => "Concatenate4",
                _ => "Concatenate5",
            },
            NodeKind::ScaledDotProductAttention { .. } => "ScaledDotProductAttention",
            NodeKind::LeakyRelu { .. } => "LeakyReLU",
            NodeKind::Elu { .. } => "ELU",
            NodeKind::Conv(c) => match c.kind {
                ConvKind::Conv2d => "Conv2d",
                ConvKind::Depthwise => "DepthwiseConv2d",
                ConvKind::Transpose => "ConvTranspose2d",
            },
            NodeKind::Pooling(p) => match p.kind {
                PoolingKind::Average => "AvgPooling2d",
                PoolingKind::Max => "MaxPooling2d",
            },
            NodeKind::ArgMaxPooling2d { .. } => "ArgMaxPooling2d",
            NodeKind::StaticResizeBilinear2d { .. } => "StaticResizeBilinear2D",
        }
    }
}

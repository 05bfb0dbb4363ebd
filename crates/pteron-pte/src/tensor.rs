//! Tensors of a program, and the rule that says where their bytes are.

use crate::ScalarType;
use crate::error::PteError;
use crate::limits::MAX_RANK;
use crate::place::{At, Problem};
use crate::program::DeviceType;

/// Whether a tensor's sizes may change while a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShapeDynamism {
    /// The sizes are fixed.
    #[default]
    Static,
    /// `sizes` is the upper bound; the rank is fixed.
    DynamicBound,
    /// Nothing but the rank is known. ExecuTorch's runtime refuses to load such a tensor.
    DynamicUnbound,
}

impl ShapeDynamism {
    /// The code that the format stores.
    pub fn code(self) -> i8 {
        match self {
            ShapeDynamism::Static => 0,
            ShapeDynamism::DynamicBound => 1,
            ShapeDynamism::DynamicUnbound => 2,
        }
    }

    /// The dynamism of a code.
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(ShapeDynamism::Static),
            1 => Some(ShapeDynamism::DynamicBound),
            2 => Some(ShapeDynamism::DynamicUnbound),
            _ => None,
        }
    }
}

/// Place of a tensor in planned memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Arena number, from 1; its size is `non_const_buffer_sizes[memory_id]`.
    pub memory_id: u32,
    /// Byte offset in the arena.
    pub offset: u64,
}

/// Rarely used facts about a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtraTensorInfo {
    /// Index into `mutable_data_segments`. ExecuTorch's runtime ignores it and uses entry 0.
    pub mutable_data_segments_idx: u64,
    /// Name of the parameter or buffer; the key of an external tensor.
    pub fully_qualified_name: String,
    /// Whether the bytes are outside of the program file (`.ptd`).
    pub external: bool,
    /// Device on which the tensor lives.
    pub device_type: DeviceType,
    /// Number of the device.
    pub device_index: i8,
}

/// A tensor value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub scalar_type: ScalarType,
    /// Sizes in logical order, each at least 0; the upper bound if the shape is dynamic.
    pub sizes: Vec<i32>,
    /// Dimensions from outermost to innermost in memory: a permutation of `0..rank`.
    pub dim_order: Vec<u8>,
    /// First element in the storage; always 0.
    pub storage_offset: i32,
    /// Training flag; has no effect at run time.
    pub requires_grad: bool,
    /// Index of the initial or constant bytes; 0 is none (see [`Tensor::storage`]).
    pub data_buffer_idx: u32,
    /// Place in planned memory, if planned.
    pub allocation: Option<Allocation>,
    /// Memory layout; always 0 (strided).
    pub layout: i8,
    /// Whether the sizes may change.
    pub dynamism: ShapeDynamism,
    /// Rarely used facts.
    pub extra: Option<Box<ExtraTensorInfo>>,
}

/// Where the bytes of a tensor come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage<'t> {
    /// Constant of a `.ptd` file or of the named data, under this key. Element type, sizes and dim order must equal the
    /// entry's layout.
    ExternalConstant {
        /// Key of the entry.
        key: &'t str,
    },
    /// Planned memory, initialised at load from external data under this key.
    ExternalInitialisedPlanned {
        /// Key of the entry.
        key: &'t str,
        /// Place in planned memory.
        allocation: Allocation,
    },
    /// Constant of the program's constant segment (or of its inline constants).
    Constant {
        /// Index into the offsets of the constant segment, at least 1.
        buffer: u32,
    },
    /// Planned memory, initialised at load from mutable data segment 0.
    InitialisedPlanned {
        /// Index into the offsets of the mutable data segment, at least 1.
        buffer: u32,
        /// Place in planned memory.
        allocation: Allocation,
    },
    /// Planned memory without initial contents.
    Planned(Allocation),
    /// The pointer is supplied at run time.
    RuntimeSupplied,
}

impl Tensor {
    /// A static, contiguous, runtime-supplied tensor; set the public fields for anything else.
    pub fn contiguous(scalar_type: ScalarType, sizes: Vec<i32>) -> Self {
        let dim_order = (0..sizes.len()).map(|d| d as u8).collect();
        Tensor {
            scalar_type,
            sizes,
            dim_order,
            storage_offset: 0,
            requires_grad: false,
            data_buffer_idx: 0,
            allocation: None,
            layout: 0,
            dynamism: ShapeDynamism::Static,
            extra: None,
        }
    }

    /// Where the bytes come from.
    ///
    /// | location | buffer index | allocation | storage |
    /// |---|---|---|---|
    /// | external | (ignored) | no | external constant |
    /// | external | (ignored) | yes | external-initialised planned |
    /// | segment | > 0 | no | constant |
    /// | segment | > 0 | yes | initialised planned |
    /// | segment | 0 | yes | planned |
    /// | segment | 0 | no | supplied at run time |
    pub fn storage(&self) -> Storage<'_> {
        let external = self.extra.as_deref().filter(|e| e.external).map(|e| e.fully_qualified_name.as_str());
        match (external, self.data_buffer_idx, self.allocation) {
            (Some(key), _, None) => Storage::ExternalConstant { key },
            (Some(key), _, Some(allocation)) => Storage::ExternalInitialisedPlanned { key, allocation },
            (None, 0, None) => Storage::RuntimeSupplied,
            (None, 0, Some(allocation)) => Storage::Planned(allocation),
            (None, buffer, None) => Storage::Constant { buffer },
            (None, buffer, Some(allocation)) => Storage::InitialisedPlanned { buffer, allocation },
        }
    }

    /// Number of elements at the upper bound, or `None` if it does not fit 63 bits or a size is negative.
    pub fn numel(&self) -> Option<u64> {
        numel(&self.sizes)
    }

    /// Bytes at the upper bound, or `None` if they do not fit 63 bits or a size is negative.
    pub fn nbytes(&self) -> Option<u64> {
        nbytes(self.scalar_type, &self.sizes)
    }
}

/// Element type, sizes and dim order of an external tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLayout {
    /// Element type.
    pub scalar_type: ScalarType,
    /// Sizes in logical order.
    pub sizes: Vec<i32>,
    /// Dimensions from outermost to innermost in memory.
    pub dim_order: Vec<u8>,
}

impl TensorLayout {
    /// Bytes, or `None` if they do not fit 63 bits or a size is negative.
    pub fn nbytes(&self) -> Option<u64> {
        nbytes(self.scalar_type, &self.sizes)
    }
}

/// Product of the sizes. Every partial product must fit too, as ExecuTorch's runtime demands; a zero size anywhere gives 0.
fn numel(sizes: &[i32]) -> Option<u64> {
    let mut n: i64 = 1;
    for s in sizes {
        let s = i64::from(*s);
        if s < 0 {
            return None;
        }
        n = n.checked_mul(s)?;
    }
    u64::try_from(n).ok()
}

fn nbytes(scalar_type: ScalarType, sizes: &[i32]) -> Option<u64> {
    let n = numel(sizes)?.checked_mul(scalar_type.size_of() as u64)?;
    (n <= i64::MAX as u64).then_some(n)
}

/// Checks sizes and dim order and gives the number of bytes.
pub(crate) fn check_shape(
    at: At<'_>,
    scalar_type: ScalarType,
    sizes: &[i32],
    dim_order: &[u8],
) -> Result<u64, PteError> {
    let rank = sizes.len();
    if rank > MAX_RANK {
        return Err(at.err("sizes", Problem::value(format!("rank {rank}"), format!("a rank of at most {MAX_RANK}"))));
    }
    if let Some(s) = sizes.iter().find(|s| **s < 0) {
        return Err(at.err("sizes", Problem::value(s, "sizes of at least 0")));
    }
    let mut seen = [false; MAX_RANK];
    let mut permutation = dim_order.len() == rank;
    for d in dim_order {
        let d = usize::from(*d);
        match seen.get_mut(d) {
            Some(s) if d < rank && !*s => *s = true,
            _ => permutation = false,
        }
    }
    if !permutation {
        let expected = format!("a permutation of the {rank} dimensions");
        let head: Vec<u8> = dim_order.iter().copied().take(MAX_RANK + 1).collect();
        return Err(at.err("dim_order", Problem::value(format!("{head:?}"), expected)));
    }
    nbytes(scalar_type, sizes)
        .ok_or_else(|| at.err("sizes", Problem::Overflow { found: format!("{scalar_type}{sizes:?}") }))
}

//! The names that a pickle may ask for, and what each stands for here. Nothing is ever imported or called: each name
//! is a constructor of data, and any other is refused.

use pteron_tensor::DType;

/// An element type of PyTorch: a row of [`SCALARS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scalar(u8);

impl Scalar {
    fn row(self) -> &'static (&'static str, &'static str, u64, Option<DType>) {
        const NONE: (&str, &str, u64, Option<DType>) = ("", "", 0, None);
        SCALARS.get(usize::from(self.0)).unwrap_or(&NONE)
    }
    /// The name of its `torch.dtype`.
    pub(super) fn name(self) -> &'static str {
        self.row().1
    }
    /// Bytes of an element.
    pub(super) fn bytes(self) -> u64 {
        self.row().2
    }
    /// The type here; `None` if tensors of it are not read.
    pub(super) fn dtype(self) -> Option<DType> {
        self.row().3
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// A dictionary.
    OrderedDict,
    /// A set; kept as a list.
    Set,
    /// A tuple of sizes.
    Size,
    /// A device; its arguments are forgotten.
    Device,
    /// (storage, offset, sizes, strides), in version 2 followed by (requires_grad, hooks) and perhaps metadata.
    RebuildTensor,
    /// As version 2, with the element type after the hooks and a storage that has none.
    RebuildTensorV3,
    /// (tensor, requires_grad, hooks), and perhaps a state that is forgotten.
    RebuildParameter,
    /// (function, class, arguments, state): a tensor with attributes, which are forgotten.
    RebuildFromType,
    /// A class that [`Global::RebuildFromType`] may name.
    TensorClass,
    /// An element type.
    Dtype(Scalar),
    /// The class of a storage of elements of this type.
    Storage(Scalar),
    /// The class of a storage of bytes.
    UntypedStorage,
}

/// Storage class in `torch`, dtype in `torch`, bytes, type here.
static SCALARS: [(&str, &str, u64, Option<DType>); 20] = [
    ("FloatStorage", "float32", 4, Some(DType::F32)),
    ("HalfStorage", "float16", 2, Some(DType::F16)),
    ("BFloat16Storage", "bfloat16", 2, Some(DType::BF16)),
    ("DoubleStorage", "float64", 8, Some(DType::F64)),
    ("LongStorage", "int64", 8, Some(DType::I64)),
    ("IntStorage", "int32", 4, Some(DType::I32)),
    ("ShortStorage", "int16", 2, Some(DType::I16)),
    ("CharStorage", "int8", 1, Some(DType::I8)),
    ("ByteStorage", "uint8", 1, Some(DType::U8)),
    ("BoolStorage", "bool", 1, Some(DType::Bool)),
    ("", "uint16", 2, Some(DType::U16)),
    ("", "uint32", 4, None),
    ("", "uint64", 8, None),
    ("ComplexFloatStorage", "complex64", 8, None),
    ("ComplexDoubleStorage", "complex128", 16, None),
    ("", "float8_e4m3fn", 1, None),
    ("", "float8_e5m2", 1, None),
    ("QInt8Storage", "qint8", 1, None),
    ("QUInt8Storage", "quint8", 1, None),
    ("QInt32Storage", "qint32", 4, None),
];

/// All other names: module, name, meaning.
const NAMES: [(&str, &str, Global); 17] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("builtins", "set", Global::Set),
    ("__builtin__", "set", Global::Set),
    ("torch", "Size", Global::Size),
    ("torch", "device", Global::Device),
    ("torch", "Tensor", Global::TensorClass),
    ("torch.nn.parameter", "Parameter", Global::TensorClass),
    ("torch.nn.parameter", "Buffer", Global::TensorClass),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v3", Global::RebuildTensorV3),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._utils", "_rebuild_parameter_with_state", Global::RebuildParameter),
    ("torch._tensor", "_rebuild_from_type_v2", Global::RebuildFromType),
    ("torch.storage", "UntypedStorage", Global::UntypedStorage),
    ("torch.storage", "TypedStorage", Global::UntypedStorage),
    ("torch", "UntypedStorage", Global::UntypedStorage),
];

impl Global {
    /// What `module.name` stands for, if it is one of the names.
    pub(super) fn find(module: &str, name: &str) -> Option<Global> {
        if let Some((_, _, global)) = NAMES.iter().find(|(m, n, _)| (*m, *n) == (module, name)) {
            return Some(*global);
        }
        if module != "torch" || name.is_empty() {
            return None;
        }
        SCALARS.iter().zip(0u8..).find_map(|(&(storage, dtype, ..), row)| {
            if name == storage {
                return Some(Global::Storage(Scalar(row)));
            }
            (name == dtype).then_some(Global::Dtype(Scalar(row)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_others_are_not() {
        let f32 = Scalar(0);
        assert_eq!((f32.name(), f32.bytes(), f32.dtype()), ("float32", 4, Some(DType::F32)));
        assert_eq!(Global::find("torch", "FloatStorage"), Some(Global::Storage(f32)));
        assert_eq!(Global::find("torch", "float32"), Some(Global::Dtype(f32)));
        assert_eq!(Global::find("collections", "OrderedDict"), Some(Global::OrderedDict));
        for (module, name) in [
            ("os", "system"),
            ("torch", ""),
            ("torch", "load"),
            ("torch", "float32 "),
            ("collections", "defaultdict"),
            ("builtins", "eval"),
            ("torch._utils", "FloatStorage"),
        ] {
            assert_eq!(Global::find(module, name), None, "{module}.{name}");
        }
        for (_, _, bytes, dtype) in SCALARS {
            assert!(dtype.is_none_or(|d| d.bits() as u64 == bytes * 8));
        }
    }
}

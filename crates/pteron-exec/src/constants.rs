//! Constants in memory: borrowed where they lie as they are, decoded where not.

use std::sync::Arc;

use pteron_ir::{ConstData, ConstId, IdMap, Module, TensorType};
use pteron_kernels::Context;
use pteron_kernels::matmul::Panels;
use pteron_kernels::packed::Packed;
use pteron_kernels::quant::QuantSemantics;
use pteron_tensor::{AlignedBytes, SharedSource, Tensor, View, read_all, read_scalar};

use crate::error::ExecError;
use crate::fold::Folder;

/// The bytes of one constant.
#[derive(Debug)]
enum Resolved {
    /// As the source holds them: a mapped file, for example.
    Borrowed(SharedSource),
    /// Decoded.
    Owned(AlignedBytes),
    /// Decoded while something is made of it, and not kept.
    Passing(TensorType, SharedSource),
    /// Not used by any method.
    Unused,
}

/// A source's row-major elements, laid out by the type's dim order.
pub(crate) fn in_memory_order(ty: &TensorType, source: &SharedSource) -> Result<AlignedBytes, ExecError> {
    if ty.order.is_none() {
        return Ok(read_all(source.as_ref())?);
    }
    let failed = |reason: String| ExecError::Constant { name: source.label().to_owned(), reason };
    let bytes = read_all(source.as_ref())?;
    let mut out =
        Tensor::zeros_in_order(ty.dtype, source.shape(), &ty.dim_order()).map_err(|e| failed(e.to_string()))?;
    let numel = out.numel();
    let mut to = out.view_mut();
    for i in 0..numel {
        let moved = read_scalar(ty.dtype, &bytes, i).and_then(|x| to.set_scalar(i, x));
        moved.ok_or_else(|| failed(format!("element {i} is missing")))?;
    }
    Ok(AlignedBytes::copied(out.bytes()))
}

/// True if a constant lies in memory in a form that kernels read: row-major, and aligned for its elements, which a file need
/// not give.
fn is_readable_in_place(ty: &TensorType, source: &SharedSource) -> bool {
    let align = ty.dtype.size().unwrap_or(1);
    ty.order.is_none() && source.as_slice().is_some_and(|b| (b.as_ptr() as usize).is_multiple_of(align))
}

/// What is done with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// No method uses it.
    Unused,
    /// Other tensors are made of it when the session is.
    Making,
    /// It is read when methods run.
    Running,
}

/// Bytes that [`Constants::resolve`] will copy, and the most that are copied for a while when other tensors are made.
pub(crate) fn bytes_to_decode(module: &Module, need: &dyn Fn(ConstId) -> Need) -> u64 {
    let (mut kept, mut passing) = (0u64, 0u64);
    for (id, c) in module.constants.iter() {
        let ConstData::Source(s) = &c.data else { continue };
        if is_readable_in_place(&c.ty, s) {
            continue;
        }
        match need(id) {
            Need::Running => kept = kept.saturating_add(s.byte_len() as u64),
            // Codes, scales and zero points of one weight at a time.
            Need::Making => passing = passing.max((s.byte_len() as u64).saturating_mul(3)),
            Need::Unused => {}
        }
    }
    kept.saturating_add(passing)
}

/// A tensor that was computed from constants.
#[derive(Debug)]
pub(crate) enum Folded {
    /// Its elements.
    Bytes(AlignedBytes),
    /// A weight of linear layers, packed.
    Packed(Box<Packed>),
    /// Others were made from it, and nothing else reads it.
    Gone,
}

/// The bytes of all constants that the methods use.
#[derive(Debug)]
pub(crate) struct Constants {
    items: IdMap<ConstId, Resolved>,
    /// Weights laid out for the layers that read them.
    panels: IdMap<ConstId, Option<Panels>>,
    folded: Vec<Folded>,
    /// How these were computed.
    folder: Folder,
}

impl Constants {
    /// Resolves the constants that are needed.
    pub(crate) fn resolve(module: &Module, need: &dyn Fn(ConstId) -> Need) -> Result<Constants, ExecError> {
        let mut items = IdMap::new();
        for (id, c) in module.constants.iter() {
            if need(id) == Need::Unused {
                items.push(Resolved::Unused);
                continue;
            }
            let missing = |reason: String| ExecError::Constant { name: c.name.to_string(), reason };
            items.push(match &c.data {
                ConstData::Source(s) => {
                    let sizes = c.ty.fixed_sizes().unwrap_or_default();
                    if s.dtype() != c.ty.dtype || s.shape() != sizes.as_slice() {
                        return Err(missing(format!(
                            "its source has {}{:?}, the module declares {}",
                            s.dtype(),
                            s.shape(),
                            c.ty
                        )));
                    }
                    if is_readable_in_place(&c.ty, s) {
                        Resolved::Borrowed(Arc::clone(s))
                    } else if need(id) == Need::Making {
                        Resolved::Passing(c.ty.clone(), Arc::clone(s))
                    } else {
                        Resolved::Owned(in_memory_order(&c.ty, s)?)
                    }
                }
                ConstData::External(key) => {
                    return Err(missing(format!(
                        "it is stored outside the program under the key `{key}`; give the .ptd file"
                    )));
                }
                ConstData::Missing => return Err(missing("the module was built without weights".to_owned())),
            });
        }
        let mut panels = IdMap::new();
        items.values().for_each(|_| {
            panels.push(None);
        });
        Ok(Constants { items, panels, folded: Vec::new(), folder: Folder::default() })
    }

    pub(crate) fn bytes(&self, id: ConstId) -> &[u8] {
        match self.items.get(id) {
            Some(Resolved::Borrowed(s)) => s.as_slice().unwrap_or(&[]),
            Some(Resolved::Owned(b)) => b,
            Some(Resolved::Passing(..) | Resolved::Unused) | None => &[],
        }
    }

    /// The elements of a constant that [`Constants::bytes`] does not have because they are needed for a while only.
    pub(crate) fn passing(&self, id: ConstId) -> Result<Option<AlignedBytes>, String> {
        match self.items.get(id) {
            Some(Resolved::Passing(ty, s)) => in_memory_order(ty, s).map(Some).map_err(|e| e.to_string()),
            _ => Ok(None),
        }
    }

    /// Says that the bytes of a constant are not needed for now: a packed weight stands for them.
    pub(crate) fn release(&self, id: ConstId) {
        if let Some(Resolved::Borrowed(s) | Resolved::Passing(_, s)) = self.items.get(id) {
            s.release();
        }
    }

    /// Lays weights out that lie in a file, whose pages are not needed any more then. They count as decoded.
    pub(crate) fn lay_out(&mut self, ctx: &Context, module: &Module, weights: &[ConstId]) {
        for &c in weights {
            let ty = &module.constants[c].ty;
            if !matches!(self.items.get(c), Some(Resolved::Borrowed(_))) || self.panels[c].is_some() {
                continue;
            }
            let Some(&[n, k]) = ty.fixed_sizes().as_deref() else { continue };
            let (sizes, strides) = ([n, k], [k, 1]);
            let Ok(view) = View::new(ty.dtype, &sizes, &strides, self.bytes(c)) else { continue };
            if let Some(panels) = Panels::new(ctx, &view) {
                self.panels[c] = Some(panels);
                self.release(c);
            }
        }
    }

    /// A weight as it was laid out.
    pub(crate) fn panels(&self, c: ConstId) -> Option<&Panels> {
        self.panels.get(c).and_then(Option::as_ref)
    }

    /// Computes what `folder` found.
    pub(crate) fn fold(&mut self, ctx: &Context, semantics: QuantSemantics, folder: Folder) -> Result<(), String> {
        self.folded = folder.compute(ctx, semantics, self)?;
        self.folder = folder;
        Ok(())
    }

    /// The elements of tensor `i` of those computed, if only its packed form is there.
    pub(crate) fn made_again(
        &self,
        ctx: &Context,
        semantics: QuantSemantics,
        i: usize,
    ) -> Result<Option<AlignedBytes>, String> {
        match self.folded.get(i) {
            Some(Folded::Packed(_) | Folded::Gone) => self.folder.elements(ctx, semantics, self, i).map(Some),
            Some(Folded::Bytes(_)) | None => Ok(None),
        }
    }

    /// Tensor `i` of those computed.
    pub(crate) fn folded(&self, i: usize) -> &[u8] {
        match self.folded.get(i) {
            Some(Folded::Bytes(b)) => b,
            _ => &[],
        }
    }

    /// Weight `i` of those computed, if it is packed.
    pub(crate) fn packed(&self, i: usize) -> Option<&Packed> {
        match self.folded.get(i) {
            Some(Folded::Packed(p)) => Some(p),
            _ => None,
        }
    }

    /// Bytes decoded, computed or packed into memory of the process.
    pub(crate) fn owned_bytes(&self) -> u64 {
        let decoded: u64 =
            self.items.values().map(|r| if let Resolved::Owned(b) = r { b.len() as u64 } else { 0 }).sum();
        let folded = self.folded.iter().map(|f| match f {
            Folded::Bytes(b) => b.len() as u64,
            Folded::Packed(p) => p.bytes() as u64,
            Folded::Gone => 0,
        });
        let panels: u64 = self.panels.values().flatten().map(|p| p.memory().len() as u64).sum();
        decoded + folded.sum::<u64>() + panels
    }
}

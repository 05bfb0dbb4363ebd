//! Walking the elements that become one result.

use pteron_tensor::{Shape, View, ViewMut};

use crate::KernelError;
use crate::elementwise::compute::Compute;
use crate::elementwise::drive::{check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::dims_of;

/// Elements combined at a time.
const BLOCK: usize = 1024;

/// The kept dimensions, with the outs' strides, and the reduced ones.
pub(crate) struct Lines {
    /// Operands: input, then the outs.
    pub(crate) kept: Nest,
    reduced: Nest,
    /// Elements that become one result.
    pub(crate) count: usize,
}

impl Lines {
    /// Checks the outs against `a` without `dims`; no dims mean all.
    pub(crate) fn new(
        op: &'static str,
        a: &View<'_>,
        dims: &[i64],
        keepdim: bool,
        outs: &[&ViewMut<'_>],
    ) -> Result<Lines, KernelError> {
        whole_bytes(op, a.dtype())?;
        let mut set = dims_of(op, dims, a.rank())?;
        if dims.is_empty() {
            set.fill(true);
        }
        let mut sizes = Shape::new();
        for (d, &s) in a.sizes().iter().enumerate() {
            match (set[d], keepdim) {
                (false, _) => sizes.push(s),
                (true, true) => sizes.push(1),
                (true, false) => {}
            }
        }
        for out in outs {
            check_out(op, out, &sizes)?;
        }
        let pick = |from: &[usize], reduced: bool| -> Shape {
            from.iter().zip(&set).filter(|&(_, &r)| r == reduced).map(|(&s, _)| s).collect()
        };
        let mut strides = vec![pick(a.strides(), false)];
        for out in outs {
            strides.push(if keepdim { pick(out.strides(), false) } else { Shape::from_slice(out.strides()) });
        }
        let strides: Vec<&[usize]> = strides.iter().map(|s| &s[..]).collect();
        let kept = Nest::new(&pick(a.sizes(), false), &strides, false);
        let reduced = Nest::new(&pick(a.sizes(), true), &[&pick(a.strides(), true)], false);
        let count = reduced.total();
        Ok(Lines { kept, reduced, count })
    }

    /// Calls `f` with the elements from position `at` on in row-major order, in blocks whose lengths depend on their
    /// number only.
    pub(crate) fn blocks<C: Compute>(&self, a: &View<'_>, at: usize, mut f: impl FnMut(&[C])) {
        let step = self.reduced.inner()[0];
        let mut buf = [C::default(); BLOCK];
        let (mut filled, mut left) = (0, self.count);
        self.reduced.rows(0..self.count, |from, len| {
            let mut from = at.wrapping_add(from[0]);
            let mut len = len;
            while len > 0 {
                let whole = BLOCK.min(left);
                let direct = if filled == 0 && len >= whole && step == 1 {
                    C::direct(a.dtype(), a.bytes(), from, whole)
                } else {
                    None
                };
                let n = if let Some(block) = direct {
                    f(block);
                    left -= whole;
                    whole
                } else {
                    let n = len.min(whole - filled);
                    C::load(a.dtype(), a.bytes(), from, step, &mut buf[filled..filled + n]);
                    filled += n;
                    if filled == whole {
                        f(&buf[..filled]);
                        left -= whole;
                        filled = 0;
                    }
                    n
                };
                len -= n;
                from = from.wrapping_add(n.wrapping_mul(step));
            }
        });
    }
}

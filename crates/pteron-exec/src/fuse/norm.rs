//! RMSNorm, whole or in its parts, and the sum of a residual stream before it.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use pteron_tensor::DType;
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Eps, Found, Fused};

/// A norm: its nodes, what it reads, its result.
struct Norm {
    members: SmallVec<[NodeId; 16]>,
    x: ValueId,
    weight: ValueId,
    eps: Eps,
    out: ValueId,
}

impl Finder<'_> {
    /// The norm of which `n` is the mean, or which it is: with the sum before it, and alone.
    pub(super) fn norms(&self, n: NodeId) -> SmallVec<[Found; 2]> {
        let found = if self.op(n) == Op::RmsNorm { self.whole_norm(n) } else { self.norm_of_mean(n) };
        let Some(Norm { members, x, weight, eps, out }) = found else { return SmallVec::new() };
        let mut list: SmallVec<[Found; 2]> = SmallVec::new();
        if let Some((add, a, b)) = self.residual_sum(x) {
            let mut all = members.clone();
            all.push(add);
            list.push((all, Fused::AddRmsNorm { a, b, weight, eps }, smallvec![x, out]));
        }
        list.push((members, Fused::RmsNorm { x, weight, eps }, smallvec![out]));
        list
    }

    /// `x` as the sum of two tensors of its type and of the same sizes.
    fn residual_sum(&self, x: ValueId) -> Option<(NodeId, ValueId, ValueId)> {
        let add = self.made_by(x, Op::Add)?;
        let (a, b) = self.two(add)?;
        let ty = self.ty(x)?;
        let same = |v: ValueId| self.ty(v).is_some_and(|t| t.dtype == ty.dtype && t.dims == ty.dims);
        let float = matches!(ty.dtype, DType::F32 | DType::F16 | DType::BF16);
        (float && self.alpha_is_one(add) && same(a) && same(b)).then_some((add, a, b))
    }

    fn whole_norm(&self, n: NodeId) -> Option<Norm> {
        let (x, weight, out) = (self.value(n, 0)?, self.value(n, 2)?, self.out(n)?);
        let Some(Arg::Float(eps)) = self.arg(n, 3) else { return None };
        let width = self.last_dim(x)?;
        let fits = self.ints(n, 1)?[..] == [width]
            && width > 0
            && self.ty(weight)?.dims.len() == 1
            && [weight, out].iter().all(|&v| self.dtype(v) == self.dtype(x));
        fits.then_some(Norm { members: smallvec![n], x, weight, eps: Eps::Number(*eps), out })
    }

    /// `mean` is that of `rms_norm`'s decomposition.
    fn norm_of_mean(&self, mean: NodeId) -> Option<Norm> {
        let squares = self.value(mean, 0)?;
        let square = self.producer(squares)?;
        let wide = match self.op(square) {
            Op::Mul => self.two(square).filter(|(a, b)| a == b)?.0,
            Op::PowScalar if self.number(square, 1) == Some(2.0) => self.value(square, 0)?,
            _ => return None,
        };
        let rank = self.rank(wide)?;
        let keeps = matches!(self.arg(mean, 2), Some(Arg::Bool(true)));
        if !keeps || !self.is_last_dim(mean, 1, rank) || self.dtype(self.out(mean)?)? != DType::F32 {
            return None;
        }
        let (x, widening) = self.before_widening(wide)?;
        let mut members: SmallVec<[NodeId; 16]> = smallvec![square, mean];
        members.extend(widening);
        let mean_out = self.out(mean)?;
        let (add, eps) = match self.only_user(mean_out, Op::Add) {
            Some(n) => {
                let eps = self.beside(n, mean_out)?;
                let one = self.ty(eps)?.dims.is_empty() && self.dtype(eps)?.is_float();
                (n, (self.is_const(eps) && one).then_some(Eps::Constant(eps))?)
            }
            None => {
                let n = self.only_user(mean_out, Op::AddScalar)?;
                match self.arg(n, 1) {
                    Some(Arg::Float(f)) => (n, Eps::Number(*f)),
                    _ => return None,
                }
            }
        };
        let root = self.only_user(self.out(add)?, Op::Rsqrt)?;
        let scale = self.only_user(self.out(root)?, Op::Mul)?;
        if !self.alpha_is_one(add) || self.beside(scale, self.out(root)?)? != wide {
            return None;
        }
        members.extend([add, root, scale]);
        let mut normal = self.out(scale)?;
        if widening.is_some() {
            let narrowing = self.only_user(normal, Op::ToCopy)?;
            members.push(narrowing);
            normal = self.out(narrowing)?;
        }
        let product = self.only_user(normal, Op::Mul)?;
        let weight = self.beside(product, normal)?;
        members.push(product);
        let out = self.out(product)?;
        let n = self.last_dim(x)?;
        let dtype = self.dtype(x)?;
        let fits = self.ty(weight)?.dims.len() == 1
            && self.last_dim(weight) == Some(n)
            && [normal, weight, out].iter().all(|&v| self.dtype(v) == Some(dtype))
            && self.rank(out)? == rank
            && n > 0;
        fits.then_some(Norm { members, x, weight, eps, out })
    }
}

//! Executing the nodes of a group at once.

use pteron_ir::{Arg, ConstId, Op, ValueId};
use pteron_kernels::attention::{Heads, SdpaOptions};
use pteron_kernels::matmul::Layer;
use pteron_kernels::nn::Lines;
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::{Context, attention, index, matmul, nn};
use pteron_tensor::{DType, View, ViewMut, read_scalar};
use smallvec::{SmallVec, smallvec};

use crate::coded;
use crate::constants::Constants;
use crate::error::ExecError;
use crate::frame::Frame;
use crate::fuel::Fuel;
use crate::fuse::{AttentionShape, CodedLayer, Eps, Fused, Group, Rule, Sizes, Source};
use crate::operands::{split, take_out};
use crate::run::Run;

/// What was found of the sizes of a group's values.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// They are not those that the group's kernel takes: the nodes are executed one by one.
    OneByOne,
    /// They are.
    Together,
    /// They are those of this attention.
    Attention(Box<AttentionShape>),
}

impl Run<'_, '_> {
    /// The nodes of a group at its turn; gives the operator that they make together.
    pub(crate) fn group(&mut self, number: usize) -> Result<Op, ExecError> {
        let plan = self.plan;
        let group = &plan.groups.list[number];
        self.know(number, group)?;
        let Some(&last) = group.members.last() else { return Ok(group.what.op()) };
        if matches!(self.frame.groups[number], Some((_, Known::OneByOne)) | None) {
            for &n in &group.members {
                self.simple(n).map_err(|e| self.failed(n, e))?;
            }
            return Ok(group.what.op());
        }
        if self.fuel.limit().is_some() {
            for &n in &group.members {
                let paid = if plan.alias[n] { self.fuel.charge(|| Fuel::NODE) } else { self.charge(n) };
                paid.map_err(|e| self.failed(n, e))?;
            }
        }
        self.fused(number, group).map_err(|e| self.failed(last, e))?;
        self.look_ahead(number, group);
        Ok(group.what.op())
    }

    /// Says which weights come next, where few rows use them.
    pub(crate) fn look_ahead(&self, number: usize, group: &Group) {
        if !group.what.reads_weights() {
            return;
        }
        let few = |v: &ValueId| {
            let sizes = &self.frame.slots[*v].sizes;
            sizes.iter().rev().skip(1).product::<usize>() <= pteron_kernels::packed::FEW_ROWS
        };
        let next = self.plan.weights_after.get(number).copied().flatten();
        let Some(next) = next.and_then(|g| self.plan.groups.list.get(g)) else { return };
        if !group.outs.first().is_some_and(few) {
            return;
        }
        let weights: SmallVec<[&[u8]; 3]> = match &next.what {
            Fused::Coded { layers, .. } => {
                layers.iter().filter_map(|l| self.constants.packed(l.item)).map(|p| p.memory()).collect()
            }
            Fused::Linears { layers, .. } => {
                let constants = layers.iter().filter_map(|l| self.plan.constant(l.weight));
                constants.filter_map(|c| self.constants.panels(c)).map(|p| p.memory()).collect()
            }
            _ => return,
        };
        if !weights.is_empty() {
            self.ctx.pool().look_ahead(&weights);
        }
    }

    /// Finds the sizes of all that the members give, and what they come to, unless nothing changed since the last call.
    fn know(&mut self, number: usize, group: &Group) -> Result<(), ExecError> {
        if self.frame.groups.len() <= number {
            self.frame.groups.resize(number + 1, None);
        }
        if let Some((time, _)) = self.frame.groups[number]
            && group.reads.iter().all(|&v| self.frame.is_unchanged(v, time))
        {
            return Ok(());
        }
        self.frame.groups[number] = None;
        for &n in &group.members {
            self.infer_outputs(n).map_err(|e| self.failed(n, e))?;
        }
        let known = self.looks(group);
        self.frame.groups[number] = Some((self.frame.now(), known));
        Ok(())
    }

    /// Compares the sizes of this call with those that the group's kernel takes.
    fn looks(&self, group: &Group) -> Known {
        let sizes = |v: ValueId| &self.frame.slots[v].sizes[..];
        let out = group.outs.first().map(|&v| sizes(v)).unwrap_or_default();
        let fits = match &group.what {
            Fused::Sdpa(a) => {
                let of = |v: ValueId| self.frame.slots[v].sizes.clone();
                let shape = a.shape(&Sizes { of: &of, graph: self.graph });
                return shape.map_or(Known::OneByOne, |s| Known::Attention(Box::new(s)));
            }
            norm_or_gate @ (Fused::RmsNorm { .. } | Fused::AddRmsNorm { .. } | Fused::SiluGate { .. }) => {
                self.is_one_width(norm_or_gate)
                    && norm_or_gate.rows().iter().chain(&group.outs).all(|&v| sizes(v) == out)
            }
            rope @ Fused::Rope { .. } => self.turns(rope, out),
            Fused::Cached(c) => {
                let [keys, values] = [1, 2].map(|i| group.outs.get(i).copied());
                let turns = |turn: &Option<Fused>, x: ValueId| turn.as_ref().is_none_or(|t| self.turns(t, sizes(x)));
                // Rows of the cache's type, as many as there are queries.
                let rows = |x: ValueId, cache: Option<ValueId>| {
                    let (x, cache) = (&self.frame.slots[x], cache.map(|c| &self.frame.slots[c]));
                    let of_heads = matches!(*out, [b, s, _, _] if x.sizes.len() == 4 && x.sizes[..2] == [b, s]);
                    of_heads && cache.is_some_and(|c| c.dtype() == x.dtype() && c.sizes.get(2..) == x.sizes.get(2..))
                };
                turns(&c.turn_q, c.q) && turns(&c.turn_k, c.k) && rows(c.k, keys) && rows(c.v, values)
            }
            Fused::Linears { x, .. } => {
                let lead = sizes(*x).split_last().map(|l| l.1).unwrap_or_default();
                group.outs.iter().all(|&v| sizes(v).split_last().is_some_and(|l| l.1 == lead))
            }
            Fused::Coded { x, layers, before } => {
                let rows = |v: ValueId| sizes(v).split_last().map(|(_, lead)| lead.iter().product::<usize>());
                let width = sizes(x.rows()).last().copied();
                let packed = |l: &CodedLayer| self.constants.packed(l.item).is_some_and(|p| Some(p.columns()) == width);
                let (outs, rest) = group.outs.split_at(layers.len().min(group.outs.len()));
                let fits = |b: &Fused| {
                    let lines = b.rows();
                    let first = lines.first().map(|&v| sizes(v)).unwrap_or_default();
                    first.last().copied() == width
                        && lines.first().is_some_and(|&v| rows(v) == rows(x.rows()))
                        && lines.iter().chain(rest).all(|&v| sizes(v) == first)
                        && self.is_one_width(b)
                };
                layers.iter().all(packed)
                    && self.has_numbers(x)
                    && outs.iter().all(|&v| rows(v) == rows(x.rows()))
                    && before.as_deref().is_none_or(fits)
            }
        };
        if fits { Known::Together } else { Known::OneByOne }
    }

    /// A rotation whose result has sizes `out` has the operands that the kernel takes.
    fn turns(&self, what: &Fused, out: &[usize]) -> bool {
        let (&Fused::Rope { x, pairs, cos, sin, style }, &[b, s, h, d]) = (what, out) else { return false };
        let sizes = |v: ValueId| &self.frame.slots[v].sizes[..];
        let angles = if style == nn::RopeStyle::RotateHalf { d } else { d / 2 };
        let table = |v: ValueId| matches!(sizes(v), &[.., p, 1, n] if p == s && n == angles);
        [cos, sin].into_iter().all(table) && pairs.map_or(sizes(x) == out, |p| sizes(p) == [b, s, h, d / 2, 2])
    }

    /// The numbers between the parts of a rule are those of the rule.
    fn has_numbers(&self, x: &Source) -> bool {
        let Source::Dynamic { rule: Rule::Parts { numbers, range: (low, high), .. }, .. } = *x else { return true };
        let is = |v: ValueId, expected: f64| {
            let bytes = self.plan.constant(v).map(|c| self.constants.bytes(c));
            bytes.and_then(|b| read_scalar(DType::F32, b, 0)).is_some_and(|s| s.as_f64() == expected)
        };
        numbers.iter().zip([0, high - low, low]).all(|(&v, n)| is(v, n as f64))
    }

    /// The weight of a norm is as long as its rows.
    fn is_one_width(&self, what: &Fused) -> bool {
        let width = |x: ValueId| self.frame.slots[x].sizes.last().copied().unwrap_or(1);
        match *what {
            Fused::RmsNorm { x, weight, .. } | Fused::AddRmsNorm { a: x, weight, .. } => {
                self.frame.slots[weight].sizes[..] == [width(x)]
            }
            _ => true,
        }
    }

    fn fused(&mut self, number: usize, group: &Group) -> Result<(), String> {
        let plan = self.plan;
        let frame: &Frame = &*self.frame;
        let (mut memory, written) =
            split(self.arena, self.state, self.constants, self.inputs, frame, plan, &group.outs)?;
        let mut outs: SmallVec<[ViewMut<'_>; 3]> = SmallVec::new();
        for (&v, at) in group.outs.iter().zip(written) {
            outs.push(take_out(&mut memory, &frame.slots[v], at)?);
        }
        let view = |v: ValueId| memory.view(&frame.slots[v], plan.places[v]);
        let int = |a: &Arg| frame.number(a);
        let operands =
            Operands { view: &view, constant: &|v| plan.constant(v), number: &int, constants: self.constants };
        compute(self.ctx, self.quant, &group.what, frame.groups[number].as_ref().map(|k| &k.1), &operands, outs)
    }
}

/// What a group reads, by value.
pub(crate) struct Operands<'r, 'a> {
    /// Its elements.
    pub(crate) view: &'r dyn Fn(ValueId) -> Result<View<'a>, String>,
    /// The constant that it is.
    pub(crate) constant: &'r dyn Fn(ValueId) -> Option<ConstId>,
    /// A number of the graph, or of the call.
    pub(crate) number: &'r dyn Fn(&Arg) -> Result<i64, String>,
    pub(crate) constants: &'a Constants,
}

/// The kernel of a group: `outs` are its results.
pub(crate) fn compute(
    ctx: &Context,
    semantics: QuantSemantics,
    what: &Fused,
    known: Option<&Known>,
    operands: &Operands<'_, '_>,
    outs: SmallVec<[ViewMut<'_>; 3]>,
) -> Result<(), String> {
    let view = operands.view;
    let eps = match what.eps() {
        Some(Eps::Number(n)) => n,
        Some(Eps::Constant(v)) => {
            let view = view(v)?;
            read_scalar(view.dtype(), view.bytes(), 0).ok_or("a constant is empty")?.as_f64()
        }
        None => 0.0,
    };
    let mut outs = outs.into_iter();
    let mut next = || outs.next().ok_or("the group has no result");
    let result = match what {
        Fused::RmsNorm { x, weight, .. } => nn::rms_norm(ctx, view(*x)?, Some(view(*weight)?), eps, next()?),
        Fused::AddRmsNorm { a, b, weight, .. } => {
            let (sum, out) = (next()?, next()?);
            nn::add_rms_norm(ctx, view(*a)?, view(*b)?, view(*weight)?, eps, sum, out)
        }
        Fused::Rope { x, cos, sin, style, .. } => {
            let out = next()?;
            let x = view(*x)?;
            let (cos, sin) = (view(*cos)?, view(*sin)?);
            let &[_, positions, heads, d] = out.sizes() else { return Err("is no tensor of heads".to_owned()) };
            // The same elements, as heads.
            let strides = [positions * heads * d, heads * d, d, 1];
            let x = View::new(x.dtype(), out.sizes(), &strides, x.bytes()).map_err(|e| e.to_string())?;
            let angles = cos.sizes().last().copied().unwrap_or(1);
            let (sizes, strides) = ([positions, angles], [angles, 1]);
            let cos = View::new(cos.dtype(), &sizes, &strides, cos.bytes()).map_err(|e| e.to_string())?;
            let sin = View::new(sin.dtype(), &sizes, &strides, sin.bytes()).map_err(|e| e.to_string())?;
            nn::rope(ctx, x, cos, sin, *style, out)
        }
        Fused::SiluGate { x, gate } => nn::silu_gate(ctx, view(*x)?, view(*gate)?, next()?),
        Fused::Linears { x, layers, .. } => {
            let mut list: SmallVec<[Layer<'_>; 3]> = SmallVec::new();
            for l in layers {
                let bias = l.bias.map(view).transpose()?;
                let panels = (operands.constant)(l.weight).and_then(|c| operands.constants.panels(c));
                list.push(Layer { weight: view(l.weight)?, panels, bias, out: next()? });
            }
            matmul::linears(ctx, &view(*x)?, &mut list)
        }
        Fused::Coded { x, layers, before } => {
            let mut list: SmallVec<[coded::Layer<'_>; 3]> = SmallVec::new();
            for l in layers {
                let weight = operands.constants.packed(l.item).ok_or("a weight is not packed")?;
                list.push((weight, l.bias.map(view).transpose()?, next()?));
            }
            let Some(before) = before else { return coded::execute(ctx, semantics, x, view, &mut list) };
            let mut sum = outs.next();
            let inputs = before.inputs();
            let all = inputs.iter().map(|&v| coded::floats(&view(v)?)).collect::<Result<SmallVec<[_; 3]>, _>>()?;
            let k = view(inputs[0])?.sizes().last().copied().unwrap_or(1).max(1);
            let sizes = [all[0].len() / k, k];
            let lines = match (&**before, &all[..], sum.as_mut().map(ViewMut::as_slice_mut::<f32>)) {
                (Fused::RmsNorm { .. }, [x, weight], None) => Lines::norm(x, weight, eps, sizes),
                (Fused::AddRmsNorm { .. }, [a, b, weight], Some(Some(sum))) => {
                    Lines::add_norm([a, b], weight, eps, sum, sizes)
                }
                (Fused::SiluGate { .. }, [x, gate], None) => Lines::gate(x, gate, sizes),
                _ => return Err("a norm or gate of other operands".to_owned()),
            };
            return coded::of_lines(ctx, semantics, x, &lines.map_err(|e| e.reason)?, &mut list);
        }
        Fused::Cached(c) => {
            let (mut out, mut keys, mut values) = (next()?, next()?, next()?);
            let start = (operands.number)(&c.start)?;
            let turn = |what: &Fused, out: ViewMut<'_>| compute(ctx, semantics, what, None, operands, smallvec![out]);
            let q = match &c.turn_q {
                Some(what) => {
                    let mut q = outs.next().ok_or("the group has no queries")?;
                    turn(what, q.reborrow())?;
                    Some(q)
                }
                None => None,
            };
            if let (Some(what), &[b, s, ..], &[_, _, heads, width]) = (&c.turn_k, out.sizes(), keys.sizes()) {
                let sizes = [b, s, heads, width];
                turn(what, index::rows_of_cache(&mut keys, &sizes, start).map_err(|e| e.reason)?)?;
            } else {
                index::update_cache(ctx, view(c.k)?, keys.reborrow(), start).map_err(|e| e.reason)?;
            }
            index::update_cache(ctx, view(c.v)?, values.reborrow(), start).map_err(|e| e.reason)?;
            let q = match &q {
                Some(q) => q.as_view(),
                None => view(c.q)?,
            };
            let options = SdpaOptions { is_causal: c.is_causal, scale: c.scale, ..SdpaOptions::default() };
            attention::custom_sdpa(ctx, &q, &keys.as_view(), &values.as_view(), start, None, options, &mut out)
        }
        Fused::Sdpa(a) => {
            let Some(Known::Attention(shape)) = known else {
                return Err("attention of unknown sizes".to_owned());
            };
            let &AttentionShape { heads, kv_heads, queries, keys, width, value_width, q, k, v, .. } = &**shape;
            let sizes = [[1, heads, queries, width], [1, kv_heads, keys, width], [1, kv_heads, keys, value_width]];
            let strides = [q, k, v].map(|[a, b, c]| [0, a, b, c]);
            let part = |i: usize, value: ValueId| {
                let whole = view(value)?;
                View::new(whole.dtype(), &sizes[i], &strides[i], whole.bytes()).map_err(|e| e.to_string())
            };
            let parts = Heads {
                q: part(0, a.q)?,
                k: part(1, a.k)?,
                v: part(2, a.v)?,
                mask: a.mask.map(view).transpose()?,
                scale: shape.scale,
                empty_is_zero: a.empty_is_zero,
                out: shape.out,
            };
            attention::heads(ctx, &parts, &mut next()?)
        }
    };
    result.map_err(|e| e.reason)
}

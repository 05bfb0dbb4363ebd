//! Observers: they watch a tensor over calibration and give its scale and zero point.
//!
//! Each is the observer of that name in `torchao.quantization.pt2e` (or ExecuTorch's QNN backend), in `f32` arithmetic in the
//! same order, so that what it learns and what it gives are the same bits; the histograms' sums are those of ATen's AVX2
//! kernels. One call of [`Observer::observe`] is one step; calibration makes one step a window, whatever the batching.
//!
//! Where PyTorch goes on with a warning or a default (no data: scale 1; an infinite range: scale ∞; NaN: an assertion without
//! a name), these give an error that names the tensor. An empty tensor is no step, and a histogram drops infinite elements,
//! as in PyTorch.

mod blocks;
mod histogram;
mod loss;
mod params;
mod search;
mod shardable;
pub(crate) mod torch_sum;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::{Mutex, PoisonError};

use pteron_kernels::Context;
use pteron_kernels::quant::qparams;
use pteron_tensor::{DType, View};

pub use blocks::BlockRanges;
pub use histogram::GrowingHistogram;
pub use params::{Layout, QuantParams, ZeroPoint, bias_qparams};
pub use shardable::ShardableHistogram;

use crate::error::{ObserveError, SpecError, TensorLabel};
use crate::format::Granularity;
use crate::spec::{FixedQParamsQuantizationSpec, ObserverKind, QuantizationSpec};

/// Weight of the newest step in PyTorch's moving averages.
pub const DEFAULT_AVERAGING_CONSTANT: f64 = 0.01;
/// Bins of PyTorch's histogram observer.
pub const DEFAULT_BINS: usize = 2048;
/// PyTorch's smallest scale where none is given: 2⁻²³.
pub const DEFAULT_EPS: f32 = f32::EPSILON;

/// Steps of a block's scale in QNN's low-power block quantization: the scale has 4 bits.
pub const BLOCK_SCALE_STEPS: u32 = 16;

/// What an observer has learnt.
#[derive(Clone, Debug, PartialEq)]
pub enum ObserverState {
    /// Nothing to learn.
    None,
    /// Least and largest value; `+∞, −∞` before the first step.
    Range {
        /// Least value.
        min: f32,
        /// Largest value.
        max: f32,
    },
    /// Least and largest value of each step, in order. Averages, and the ranges of concatenations, are replayed from them, so
    /// that shards merge exactly.
    Steps(Vec<(f32, f32)>),
    /// Ranges of blocks or channels; `None` before the first step.
    Blocks(Option<BlockRanges>),
    /// Ranges of blocks or channels at each step, in order.
    BlockSteps(Vec<BlockRanges>),
    /// PyTorch's histogram.
    Histogram(GrowingHistogram),
    /// The shardable histogram.
    Shardable(ShardableHistogram),
    /// Every tensor seen: shape and elements.
    Recording(Vec<(Vec<usize>, Vec<f32>)>),
}

/// An observer of one tensor, or of a group of tensors that share parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Observer {
    spec: QuantizationSpec,
    fixed: Option<(f64, i64)>,
    state: ObserverState,
}

impl Observer {
    /// The observer that `spec` asks for.
    ///
    /// # Errors
    /// If the spec is wrong (see [`QuantizationSpec::validate`]).
    pub fn new(spec: &QuantizationSpec) -> Result<Observer, SpecError> {
        spec.validate()?;
        let state = match spec.observer.kind {
            ObserverKind::MinMax => ObserverState::Range { min: f32::INFINITY, max: f32::NEG_INFINITY },
            ObserverKind::MovingAverageMinMax | ObserverKind::Concat => ObserverState::Steps(Vec::new()),
            ObserverKind::PerChannelMinMax
            | ObserverKind::PerChannelParam
            | ObserverKind::PerChannelParamWithLossEvaluation
            | ObserverKind::PerBlockParam
            | ObserverKind::AffineQuantizedMinMax => ObserverState::Blocks(None),
            ObserverKind::MovingAveragePerChannelMinMax | ObserverKind::AffineQuantizedMovingAverageMinMax => {
                ObserverState::BlockSteps(Vec::new())
            }
            ObserverKind::Histogram => ObserverState::Histogram(GrowingHistogram::new(spec.observer.effective_bins())),
            ObserverKind::ShardableHistogram => {
                ObserverState::Shardable(ShardableHistogram::new(spec.observer.effective_bins()))
            }
            ObserverKind::Recording => ObserverState::Recording(Vec::new()),
            ObserverKind::FixedQParams
            | ObserverKind::Placeholder
            | ObserverKind::Noop
            | ObserverKind::AffineQuantizedPlaceholder => ObserverState::None,
        };
        Ok(Observer { spec: spec.clone(), fixed: spec.observer.fixed, state })
    }

    /// The observer of a fixed scale and zero point.
    ///
    /// # Errors
    /// If the spec is wrong.
    pub fn fixed(spec: &FixedQParamsQuantizationSpec) -> Result<Observer, SpecError> {
        spec.validate()?;
        let observed = QuantizationSpec {
            dtype: spec.dtype,
            quant_min: spec.quant_min,
            quant_max: spec.quant_max,
            qscheme: spec.qscheme,
            ch_axis: None,
            observer: crate::spec::ObserverCtr::new(ObserverKind::FixedQParams),
            is_dynamic: false,
        };
        Ok(Observer { spec: observed, fixed: Some((spec.scale, spec.zero_point)), state: ObserverState::None })
    }

    /// The spec.
    pub fn spec(&self) -> &QuantizationSpec {
        &self.spec
    }

    /// What it has learnt.
    pub fn state(&self) -> &ObserverState {
        &self.state
    }

    /// Takes over what another run has learnt; `label` names the tensor in the error.
    ///
    /// # Errors
    /// If the state is not one of this observer.
    pub fn restore(&mut self, state: ObserverState, label: &TensorLabel) -> Result<(), ObserveError> {
        let bins = self.spec.observer.effective_bins();
        let fits = match (&self.state, &state) {
            (ObserverState::Histogram(_), ObserverState::Histogram(h)) => h.counts().len() == bins,
            (ObserverState::Shardable(_), ObserverState::Shardable(h)) => h.bins() == bins,
            (mine, theirs) => std::mem::discriminant(mine) == std::mem::discriminant(theirs),
        };
        if !fits {
            return Err(ObserveError::Shape {
                label: label.clone(),
                found: Vec::new(),
                expected: format!("the state is not one of {}", self.spec.observer.kind),
            });
        }
        self.state = state;
        Ok(())
    }

    /// Ends the first pass of a [`ShardableHistogram`] with the range that it has seen; false for every other observer.
    pub(crate) fn fix_range(&mut self, label: &TensorLabel) -> Result<bool, ObserveError> {
        match &mut self.state {
            ObserverState::Shardable(h) if !h.is_counting() => {
                let (min, max) = h.range().ok_or_else(|| ObserveError::NoData(label.clone()))?;
                h.fix_range(label, min, max)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// True if data have been seen, or none are needed.
    pub fn has_data(&self) -> bool {
        match &self.state {
            ObserverState::None => true,
            ObserverState::Range { min, max } => min <= max,
            ObserverState::Steps(s) => !s.is_empty(),
            ObserverState::Blocks(b) => b.is_some(),
            ObserverState::BlockSteps(s) => !s.is_empty(),
            ObserverState::Histogram(h) => h.range().is_some(),
            ObserverState::Shardable(h) => h.range().is_some(),
            ObserverState::Recording(s) => !s.is_empty(),
        }
    }

    /// One step over a view of `float32`, or of `float16` or `bfloat16`, which are widened; contiguous `float32` is not copied.
    ///
    /// # Errors
    /// If the dtype is no such float, or as [`Self::observe`].
    pub fn observe_view(&mut self, label: &TensorLabel, view: &View<'_>) -> Result<(), ObserveError> {
        if !self.spec.observer.kind.needs_data() {
            return Ok(());
        }
        let seen = Seen::of(view, None)
            .ok_or_else(|| ObserveError::NotFloat { label: label.clone(), dtype: view.dtype().torch_name() })?;
        self.observe_seen(label, view.sizes(), &seen)
    }

    /// One step over `data`, contiguous and of `shape`.
    ///
    /// # Errors
    /// If the shape does not hold the data or is not that of earlier steps where that matters, a NaN is among them, or a
    /// histogram cannot hold the range.
    pub fn observe(&mut self, label: &TensorLabel, shape: &[usize], data: &[f32]) -> Result<(), ObserveError> {
        self.observe_seen(label, shape, &Seen { data: Cow::Borrowed(data), ctx: None, range: OnceCell::new() })
    }

    /// [`Observer::observe`] of a tensor that other observers see as well.
    pub(crate) fn observe_seen(
        &mut self,
        label: &TensorLabel,
        shape: &[usize],
        seen: &Seen<'_>,
    ) -> Result<(), ObserveError> {
        let data: &[f32] = &seen.data;
        let bad_shape =
            |expected: String| ObserveError::Shape { label: label.clone(), found: shape.to_vec(), expected };
        if !self.spec.observer.kind.needs_data() {
            return Ok(());
        }
        if shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)) != Some(data.len()) {
            return Err(bad_shape(format!("there are {} elements", data.len())));
        }
        let Some((low, high)) = range_of(&self.state, seen) else {
            return Ok(());
        };
        if low.is_nan() {
            return Err(ObserveError::NotANumber(label.clone()));
        }
        let kind = self.spec.observer.kind;
        match &mut self.state {
            ObserverState::None => {}
            ObserverState::Range { min, max } => {
                *min = min.min(low);
                *max = max.max(high);
            }
            ObserverState::Steps(steps) => steps.push((low, high)),
            ObserverState::Blocks(Some(_))
                if matches!(
                    kind,
                    ObserverKind::PerChannelParam
                        | ObserverKind::PerChannelParamWithLossEvaluation
                        | ObserverKind::PerBlockParam
                ) => {}
            ObserverState::Blocks(ranges) => {
                let block = block_size(&self.spec, shape).map_err(bad_shape)?;
                let mut now = BlockRanges::of(shape, &block, data);
                if now.has_nan() {
                    return Err(ObserveError::NotANumber(label.clone()));
                }
                if kind == ObserverKind::PerChannelParamWithLossEvaluation {
                    loss::search(&self.spec, shape, data, &mut now);
                }
                match ranges {
                    None => *ranges = Some(now),
                    Some(before) => before.widen(&now).map_err(bad_shape)?,
                }
            }
            ObserverState::BlockSteps(steps) => {
                let block = block_size(&self.spec, shape).map_err(bad_shape)?;
                let now = BlockRanges::of(shape, &block, data);
                if now.has_nan() {
                    return Err(ObserveError::NotANumber(label.clone()));
                }
                if let Some(first) = steps.first() {
                    first.check_like(&now).map_err(bad_shape)?;
                }
                steps.push(now);
            }
            ObserverState::Histogram(h) => h.add(label, low, high, data, seen.ctx)?,
            ObserverState::Shardable(h) => h.add(label, low, high, data, seen.ctx)?,
            ObserverState::Recording(seen) => seen.push((shape.to_vec(), data.to_vec())),
        }
        Ok(())
    }

    /// The least and largest value that the parameters would be chosen from, one pair for each scale. For a histogram the range
    /// that its search finds.
    ///
    /// # Errors
    /// As [`Self::calculate_qparams`].
    pub fn ranges(&self, label: &TensorLabel) -> Result<Vec<(f32, f32)>, ObserveError> {
        let none = || ObserveError::NoData(label.clone());
        let no_qparams =
            |why| Err(ObserveError::NoQParams { label: label.clone(), observer: self.spec.observer.kind.name(), why });
        let constant = self.spec.observer.effective_averaging_constant() as f32;
        Ok(match &self.state {
            ObserverState::Range { min, max } if min <= max => vec![(*min, *max)],
            ObserverState::Range { .. } => return Err(none()),
            ObserverState::Steps(steps) if self.spec.observer.kind == ObserverKind::Concat => {
                let union = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
                vec![steps.iter().copied().reduce(union).ok_or_else(none)?]
            }
            ObserverState::Steps(steps) => vec![moving_average(constant, steps).ok_or_else(none)?],
            ObserverState::Blocks(ranges) => ranges.as_ref().ok_or_else(none)?.pairs().collect(),
            ObserverState::BlockSteps(steps) => {
                BlockRanges::moving_average(constant, steps).ok_or_else(none)?.pairs().collect()
            }
            ObserverState::Histogram(h) => {
                let (low, high) = h.range().ok_or_else(none)?;
                vec![search::range(h.counts(), low, high, self.destination_bins())]
            }
            ObserverState::Shardable(h) => {
                let (low, high) = h.range().ok_or_else(none)?;
                let counts = h.counts(label)?;
                vec![search::range(&counts, low, high, self.destination_bins())]
            }
            ObserverState::Recording(_) => return no_qparams("it only records"),
            ObserverState::None => match self.spec.observer.kind {
                ObserverKind::Noop => return no_qparams("it watches nothing"),
                ObserverKind::FixedQParams => return no_qparams("its scale is given, without a range"),
                _ => return no_qparams("the scale is chosen at run time"),
            },
        })
    }

    /// Scales and zero points (`UniformQuantizationObserverBase._calculate_qparams`; `choose_qparams_affine` for torchao's
    /// observers of blocks).
    ///
    /// # Errors
    /// If no data were seen, the range is infinite, or the observer has no parameters.
    pub fn calculate_qparams(&self, label: &TensorLabel) -> Result<QuantParams, ObserveError> {
        let format = self.format(label)?;
        if let Some((scale, zero_point)) = self.fixed {
            return Ok(QuantParams {
                scale: vec![scale as f32],
                zero_point: ZeroPoint::Int(vec![zero_point]),
                layout: Layout::PerTensor,
                format,
            });
        }
        let ranges = self.ranges(label)?;
        if let Some((min, max)) = ranges.iter().find(|(lo, hi)| lo.is_infinite() || hi.is_infinite()) {
            return Err(ObserveError::Infinite { label: label.clone(), min: *min, max: *max });
        }
        let layout = match (&self.state, self.spec.observer.kind.is_per_channel()) {
            (ObserverState::Blocks(_) | ObserverState::BlockSteps(_), true) => {
                Layout::PerChannel { axis: self.spec.ch_axis.unwrap_or(0) }
            }
            (ObserverState::Blocks(Some(b)), false) => Layout::PerBlock { block_size: b.block_size().to_vec() },
            (ObserverState::BlockSteps(steps), false) => {
                Layout::PerBlock { block_size: steps.first().map_or_else(Vec::new, |b| b.block_size().to_vec()) }
            }
            _ => Layout::PerTensor,
        };
        Ok(params::choose(&self.spec, format, layout, &ranges))
    }

    /// The scale and zero point that this observer would choose for a range of the whole tensor: for tensors that take over
    /// another's range.
    ///
    /// # Errors
    /// If the range is infinite or the spec wrong.
    pub fn qparams_of(&self, label: &TensorLabel, range: (f32, f32)) -> Result<QuantParams, ObserveError> {
        if range.0.is_infinite() || range.1.is_infinite() {
            return Err(ObserveError::Infinite { label: label.clone(), min: range.0, max: range.1 });
        }
        let format = self.format(label)?;
        Ok(params::choose(&self.spec, format, Layout::PerTensor, &[range]))
    }

    fn format(&self, label: &TensorLabel) -> Result<crate::format::IntFormat, ObserveError> {
        self.spec.format().map_err(|e| ObserveError::Shape {
            label: label.clone(),
            found: Vec::new(),
            expected: e.to_string(),
        })
    }

    /// Codes that the histogram's search assumes: those of the dtype, not those of the range (`HistogramObserver.dst_nbins`).
    fn destination_bins(&self) -> f64 {
        (self.spec.dtype.bits() as f64).exp2()
    }
}

/// Least and largest value, as far as the state's update wants it; `None` if there is nothing to do.
fn range_of(state: &ObserverState, seen: &Seen<'_>) -> Option<(f32, f32)> {
    match state {
        // These find the ranges of their parts, and NaN with them.
        ObserverState::Blocks(_) | ObserverState::BlockSteps(_) | ObserverState::Recording(_) => {
            (!seen.data.is_empty()).then_some((0.0, 0.0))
        }
        _ => seen.range(),
    }
}

/// The elements of a tensor, as all observers of it see them: widened once, their extremes found once.
pub(crate) struct Seen<'a> {
    data: Cow<'a, [f32]>,
    /// Threads to use, if any.
    ctx: Option<&'a Context>,
    range: OnceCell<Option<(f32, f32)>>,
}

impl<'a> Seen<'a> {
    /// The elements of a view; `None` if they are no floats that are observed.
    pub(crate) fn of(view: &View<'a>, ctx: Option<&'a Context>) -> Option<Seen<'a>> {
        Some(Seen { data: floats(view)?, ctx, range: OnceCell::new() })
    }

    /// Least and largest element.
    fn range(&self) -> Option<(f32, f32)> {
        let found = self.range.get_or_init(|| extremes(&self.data, self.ctx));
        found.map(|(low, high)| (positive_zero(low), positive_zero(high)))
    }
}

/// `torch.aminmax`, on the threads of `ctx` if there is one.
fn extremes(data: &[f32], ctx: Option<&Context>) -> Option<(f32, f32)> {
    const PIECE: usize = 1 << 16;
    let Some(ctx) = ctx.filter(|c| c.pool().threads() > 1 && data.len() > PIECE) else {
        return qparams::aminmax(data);
    };
    let pieces = data.len().div_ceil(PIECE);
    let found: Vec<Mutex<Option<(f32, f32)>>> = (0..pieces).map(|_| Mutex::new(None)).collect();
    ctx.pool().run(pieces, &|i| {
        let part = &data[i * PIECE..data.len().min((i + 1) * PIECE)];
        *found[i].lock().unwrap_or_else(PoisonError::into_inner) = qparams::aminmax(part);
    });
    let parts = found.into_iter().filter_map(|f| f.into_inner().unwrap_or_else(PoisonError::into_inner));
    // A NaN of a part stays one of the whole.
    parts.reduce(|(a, b), (low, high)| match a.is_nan() || low.is_nan() {
        true => (f32::NAN, f32::NAN),
        false => (a.min(low), b.max(high)),
    })
}

/// −0 becomes +0, so that a range does not depend on the order in which zeros were compared.
pub(crate) fn positive_zero(v: f32) -> f32 {
    v + 0.0
}

/// `m ← m + c·(step − m)` in `f32`, from the first step on.
pub(crate) fn moving_average(constant: f32, steps: &[(f32, f32)]) -> Option<(f32, f32)> {
    let (&first, rest) = steps.split_first()?;
    Some(
        rest.iter()
            .fold(first, |(min, max), (low, high)| (min + constant * (low - min), max + constant * (high - max))),
    )
}

/// The block that has one scale, in a tensor of `shape`.
fn block_size(spec: &QuantizationSpec, shape: &[usize]) -> Result<Vec<usize>, String> {
    if spec.observer.kind.is_per_channel() {
        // PyTorch flattens the axes behind the channels', and has none to flatten in a vector.
        if shape.len() < 2 {
            return Err("a range for each channel needs two axes or more".to_owned());
        }
        return Granularity::PerAxis(spec.ch_axis.unwrap_or(0) as isize).block_size(shape);
    }
    match &spec.observer.granularity {
        Some(g) => g.block_size(shape),
        None => Granularity::PerTensor.block_size(shape),
    }
}

/// The elements of a float view in order, widened to `f32`; `None` if they are no such floats.
pub(crate) fn floats<'a>(view: &View<'a>) -> Option<Cow<'a, [f32]>> {
    match view.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => {}
        _ => return None,
    }
    if view.dtype() == DType::F32
        && let Some(data) = view.as_slice::<f32>()
    {
        return Some(Cow::Borrowed(data));
    }
    Some(Cow::Owned(view.to_f64_vec().into_iter().map(|v| v as f32).collect()))
}

#[cfg(test)]
mod tests;

//! What the observers of a calibration run have learnt, as bytes, and the merge of shards.
//!
//! A run over windows `0..total` may be cut into shards that run anywhere. Each shard's state is written with the hash of
//! the model, the recipe, the kernel tier and the hash of the data; merging all shards gives the state that one run would have written,
//! byte for byte:
//!
//! * ranges by themselves;
//! * moving averages as the ordered list of each window's extremes, put together in the order of the windows;
//! * shardable histograms as integer counts over a range fixed before.
//!
//! PyTorch's growing-range histogram depends on the order of the data: its state can be written by a run of one shard only.
//!
//! [`CalibrationState::to_bytes`] writes, [`CalibrationState::from_bytes`] reads what anyone may have made: every count is
//! checked against the bytes that are there before anything is allocated, and a checksum closes the file.

mod bytes;
mod merge;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::error::TensorLabel;
use crate::observer::{Observer, ObserverState};
use crate::spec::ObserverKind;

/// The version of the format that is written and read.
pub const VERSION: u32 = 2;

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// Which part of a run a state is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Number of the shard, 1 to `count`.
    pub index: u32,
    /// Number of shards.
    pub count: u32,
    /// The first window of this shard.
    pub first_window: u64,
    /// One past the last window of this shard.
    pub end_window: u64,
    /// Windows of the whole run.
    pub total_windows: u64,
}

impl Shard {
    /// The whole run of `total` windows.
    pub const fn whole(total: u64) -> Shard {
        Shard { index: 1, count: 1, first_window: 0, end_window: total, total_windows: total }
    }

    /// Shard `index` of `count` of a run of `total` windows: contiguous, sizes differing by one at most. `None` unless
    /// `1 <= index <= count`.
    pub fn of(index: u32, count: u32, total: u64) -> Option<Shard> {
        if index == 0 || index > count {
            return None;
        }
        let cut = |i: u32| (u128::from(total) * u128::from(i) / u128::from(count)) as u64;
        Some(Shard { index, count, first_window: cut(index - 1), end_window: cut(index), total_windows: total })
    }

    fn is_sound(self) -> bool {
        self.index >= 1
            && self.index <= self.count
            && self.first_window <= self.end_window
            && self.end_window <= self.total_windows
    }
}

/// What a state was computed from. States with different headers, but for the shard, do not merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHeader {
    /// Hash of the model.
    pub model: Sha256,
    /// The kernel tier that computed the activations, as `avx512`: tiers differ in the last bits.
    pub kernel_tier: String,
    /// Hash of the recipe, and of all that decides which tensors are observed and what they hold.
    pub recipe: Sha256,
    /// The recipe in a few words, for messages.
    pub scheme: String,
    /// Hash of the calibration data, as files.
    pub data: Sha256,
    /// Hash of the windows' tokens of the whole run.
    pub windows: Sha256,
    /// Tokens of the calibration data of the whole run.
    pub data_tokens: u64,
    /// Tokens of a window.
    pub window_tokens: u32,
    /// Which part of the run.
    pub shard: Shard,
    /// Windows of tokens that are in no shard, for measuring what the calibration is worth.
    pub held_back: Vec<Vec<u32>>,
}

/// The state of one observer.
#[derive(Clone, Debug, PartialEq)]
pub struct StateEntry {
    /// The observer.
    pub kind: ObserverKind,
    /// What it has learnt.
    pub state: ObserverState,
}

/// The states of a run's observers, by tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationState {
    /// What it was computed from.
    pub header: StateHeader,
    entries: BTreeMap<TensorLabel, StateEntry>,
}

/// What is wrong with a state or with a merge.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum StateError {
    /// Not a state file.
    #[error("this is no calibration state: it does not begin with the bytes of one")]
    NotAState,
    /// Another version of the format.
    #[error(
        "the calibration state has format version {found}, and this build reads version {VERSION}; calibrate again"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// The bytes are damaged.
    #[error("the calibration state is damaged at byte {at}: {problem}")]
    Damaged {
        /// Where.
        at: usize,
        /// What was found.
        problem: String,
    },
    /// Two observers have the same label.
    #[error("two observers are called {0}")]
    DuplicateLabel(TensorLabel),
    /// A name that is too long, or has characters that a name has not.
    #[error("{what} has {len} bytes; at most {limit} are written")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A header that contradicts itself.
    #[error("shard {}/{} with windows {}..{} of {} is not part of a run", .0.index, .0.count, .0.first_window, .0.end_window, .0.total_windows)]
    Shard(Shard),
    /// An observer that depends on the order of the data, in a run of several shards.
    #[error(
        "{label} is observed by {kind}, whose result depends on the order of the data: it cannot be calibrated in shards; run it whole, or take another by a recipe's rule: observer = 'ShardableHistogramObserver'"
    )]
    NotShardable {
        /// The tensor.
        label: TensorLabel,
        /// The observer.
        kind: ObserverKind,
    },
    /// A state that is not of the observer it is written for.
    #[error("the state of {label} is not one of {kind}")]
    WrongState {
        /// The tensor.
        label: TensorLabel,
        /// The observer.
        kind: ObserverKind,
    },
    /// A tensor of which the state says nothing.
    #[error("the calibration state has nothing of {label}: it is of another scheme or another form of the model")]
    NoEntry {
        /// The tensor.
        label: TensorLabel,
    },
    /// A tensor that another observer has seen.
    #[error("the calibration state has {label} from {found}, and the scheme observes it by {expected}")]
    OtherObserver {
        /// The tensor.
        label: TensorLabel,
        /// The observer in the state.
        found: ObserverKind,
        /// The scheme's.
        expected: ObserverKind,
    },
    /// Nothing to merge.
    #[error("there is no calibration state to merge")]
    NothingToMerge,
    /// The shards do not belong together.
    #[error("shards {a} and {b} do not belong together: their {what} differ ({left} and {right})")]
    Differ {
        /// Number of one shard.
        a: u32,
        /// Number of the other.
        b: u32,
        /// What differs.
        what: &'static str,
        /// The one's.
        left: String,
        /// The other's.
        right: String,
    },
    /// A shard is there twice, or two have windows in common.
    #[error("shards {a} and {b} overlap: both have window {window}")]
    Overlap {
        /// Number of one shard.
        a: u32,
        /// Number of the other.
        b: u32,
        /// A window that both have.
        window: u64,
    },
    /// Shards are missing.
    #[error("windows {first}..{end} of {total} are missing: give the states of all {count} shards")]
    Missing {
        /// First window that no shard has.
        first: u64,
        /// One past the last.
        end: u64,
        /// Windows of the run.
        total: u64,
        /// Number of shards.
        count: u32,
    },
    /// A tensor that one shard observed and another did not.
    #[error("{label} is observed in shard {a} and not in shard {b}: they are of different graphs")]
    OnlyInOne {
        /// The tensor.
        label: TensorLabel,
        /// The shard that has it.
        a: u32,
        /// The shard that has it not.
        b: u32,
    },
    /// What two shards learnt about a tensor does not fit together.
    #[error("{label} does not merge from shards {a} and {b}: {problem}")]
    Entry {
        /// The tensor.
        label: TensorLabel,
        /// Number of one shard.
        a: u32,
        /// Number of the other.
        b: u32,
        /// Why not.
        problem: &'static str,
    },
}

impl CalibrationState {
    /// An empty state.
    pub fn new(header: StateHeader) -> CalibrationState {
        CalibrationState { header, entries: BTreeMap::new() }
    }

    /// Adds what an observer has learnt.
    ///
    /// # Errors
    /// If the label is there already, or the observer cannot be sharded and the run is.
    pub fn insert(&mut self, label: TensorLabel, observer: &Observer) -> Result<(), StateError> {
        let kind = observer.spec().observer.kind;
        // In a fake-quantize module a step depends on what earlier steps made of the values before it.
        let in_order = !kind.is_shardable() || observer.spec().observer.fake_quant.is_some();
        if self.header.shard.count > 1 && in_order {
            return Err(StateError::NotShardable { label, kind });
        }
        if self.entries.contains_key(&label) {
            return Err(StateError::DuplicateLabel(label));
        }
        self.entries.insert(label, StateEntry { kind, state: observer.state().clone() });
        Ok(())
    }

    /// The state of a tensor's observer.
    pub fn get(&self, label: &TensorLabel) -> Option<&StateEntry> {
        self.entries.get(label)
    }

    /// All entries by label.
    pub fn entries(&self) -> impl Iterator<Item = (&TensorLabel, &StateEntry)> {
        self.entries.iter()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whether a state can be one of that observer.
fn fits(kind: ObserverKind, state: &ObserverState) -> bool {
    match kind {
        ObserverKind::MinMax => matches!(state, ObserverState::Range { .. }),
        ObserverKind::MovingAverageMinMax | ObserverKind::Concat => matches!(state, ObserverState::Steps(_)),
        ObserverKind::PerChannelMinMax
        | ObserverKind::PerChannelParam
        | ObserverKind::PerChannelParamWithLossEvaluation
        | ObserverKind::PerBlockParam
        | ObserverKind::AffineQuantizedMinMax => matches!(state, ObserverState::Blocks(_)),
        ObserverKind::MovingAveragePerChannelMinMax | ObserverKind::AffineQuantizedMovingAverageMinMax => {
            matches!(state, ObserverState::BlockSteps(_))
        }
        ObserverKind::Histogram => matches!(state, ObserverState::Histogram(_)),
        ObserverKind::ShardableHistogram => matches!(state, ObserverState::Shardable(_)),
        ObserverKind::Recording => matches!(state, ObserverState::Recording(_)),
        ObserverKind::FixedQParams
        | ObserverKind::Placeholder
        | ObserverKind::Noop
        | ObserverKind::AffineQuantizedPlaceholder => matches!(state, ObserverState::None),
    }
}

#[cfg(test)]
mod tests;

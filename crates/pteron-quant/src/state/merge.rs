//! Merging the states of shards.

use super::{CalibrationState, Shard, StateEntry, StateError};
use crate::observer::ObserverState;
use crate::spec::ObserverKind;

fn hex(hash: &[u8; 32]) -> String {
    hash[..6].iter().map(|b| format!("{b:02x}")).collect()
}

impl CalibrationState {
    /// The state of the whole run from those of all its shards, in any order.
    ///
    /// # Errors
    /// If the shards are of different models, kernel tiers, data or divisions, overlap, or are not all there; or if what they
    /// learnt does not fit together.
    pub fn merge(shards: &[CalibrationState]) -> Result<CalibrationState, StateError> {
        let mut sorted: Vec<&CalibrationState> = shards.iter().collect();
        sorted.sort_by_key(|s| (s.header.shard.first_window, s.header.shard.end_window, s.header.shard.index));
        let Some((first, rest)) = sorted.split_first() else {
            return Err(StateError::NothingToMerge);
        };
        for s in &sorted {
            if !s.header.shard.is_sound() {
                return Err(StateError::Shard(s.header.shard));
            }
        }
        for other in rest {
            same_run(first, other)?;
        }
        covers(&sorted)?;
        let mut out = CalibrationState::new(super::StateHeader {
            shard: Shard::whole(first.header.shard.total_windows),
            ..first.header.clone()
        });
        for (label, entry) in &first.entries {
            if !rest.is_empty() && !entry.kind.is_shardable() {
                return Err(StateError::NotShardable { label: label.clone(), kind: entry.kind });
            }
            let mut merged = entry.clone();
            for other in rest {
                let (a, b) = (first.header.shard.index, other.header.shard.index);
                let missing = || StateError::OnlyInOne { label: label.clone(), a, b };
                let theirs = other.entries.get(label).ok_or_else(missing)?;
                add(&mut merged, theirs).map_err(|problem| StateError::Entry {
                    label: label.clone(),
                    a,
                    b,
                    problem,
                })?;
            }
            out.entries.insert(label.clone(), merged);
        }
        for other in rest {
            if let Some(label) = other.entries.keys().find(|l| !first.entries.contains_key(l)) {
                let (a, b) = (other.header.shard.index, first.header.shard.index);
                return Err(StateError::OnlyInOne { label: label.clone(), a, b });
            }
        }
        Ok(out)
    }
}

fn same_run(a: &CalibrationState, b: &CalibrationState) -> Result<(), StateError> {
    let (x, y) = (&a.header, &b.header);
    let differ = |what, left: String, right: String| {
        Err(StateError::Differ { a: x.shard.index, b: y.shard.index, what, left, right })
    };
    if x.model != y.model {
        return differ("models", hex(&x.model), hex(&y.model));
    }
    if x.recipe != y.recipe {
        let text = |h: &super::StateHeader| match x.scheme == y.scheme {
            true => hex(&h.recipe),
            false => h.scheme.clone(),
        };
        return differ("schemes", text(x), text(y));
    }
    if x.kernel_tier != y.kernel_tier {
        return differ("kernel tiers", x.kernel_tier.clone(), y.kernel_tier.clone());
    }
    if (x.data, x.data_tokens) != (y.data, y.data_tokens) {
        return differ("calibration data", hex(&x.data), hex(&y.data));
    }
    if x.window_tokens != y.window_tokens {
        return differ("window lengths", x.window_tokens.to_string(), y.window_tokens.to_string());
    }
    if (x.windows, &x.held_back) != (y.windows, &y.held_back) {
        return differ("choices of windows", hex(&x.windows), hex(&y.windows));
    }
    if x.shard.total_windows != y.shard.total_windows {
        return differ("numbers of windows", x.shard.total_windows.to_string(), y.shard.total_windows.to_string());
    }
    if x.shard.count != y.shard.count {
        return differ("numbers of shards", x.shard.count.to_string(), y.shard.count.to_string());
    }
    Ok(())
}

/// Checks that the shards, sorted by their first window, hold each window once and are all there.
fn covers(sorted: &[&CalibrationState]) -> Result<(), StateError> {
    let mut next = 0;
    let mut before: Option<Shard> = None;
    for s in sorted {
        let shard = s.header.shard;
        if let Some(b) = before
            && (shard.first_window < next || b.index == shard.index)
        {
            return Err(StateError::Overlap { a: b.index, b: shard.index, window: shard.first_window });
        }
        if shard.first_window > next {
            return Err(StateError::Missing {
                first: next,
                end: shard.first_window,
                total: shard.total_windows,
                count: shard.count,
            });
        }
        next = shard.end_window;
        before = Some(shard);
    }
    match before {
        Some(s) if next < s.total_windows || sorted.len() < s.count as usize => {
            Err(StateError::Missing { first: next, end: s.total_windows, total: s.total_windows, count: s.count })
        }
        _ => Ok(()),
    }
}

/// Adds what a later shard has learnt.
fn add(mine: &mut StateEntry, theirs: &StateEntry) -> Result<(), &'static str> {
    if mine.kind != theirs.kind {
        return Err("the observers differ");
    }
    let once = matches!(
        mine.kind,
        ObserverKind::PerChannelParam | ObserverKind::PerChannelParamWithLossEvaluation | ObserverKind::PerBlockParam
    );
    let blocks = "the blocks differ";
    match (&mut mine.state, &theirs.state) {
        (ObserverState::None, ObserverState::None) => Ok(()),
        (ObserverState::Range { min, max }, ObserverState::Range { min: low, max: high }) => {
            *min = min.min(*low);
            *max = max.max(*high);
            Ok(())
        }
        (ObserverState::Steps(a), ObserverState::Steps(b)) => {
            a.extend_from_slice(b);
            Ok(())
        }
        (ObserverState::Blocks(a), ObserverState::Blocks(b)) => match (&mut *a, b) {
            (_, None) => Ok(()),
            (None, Some(_)) => {
                a.clone_from(b);
                Ok(())
            }
            // Both looked at the same parameters.
            (Some(a), Some(b)) if once => {
                if a == b {
                    Ok(())
                } else {
                    Err("the parameters differ")
                }
            }
            (Some(a), Some(b)) => a.widen(b).map_err(|_| blocks),
        },
        (ObserverState::BlockSteps(a), ObserverState::BlockSteps(b)) => {
            if let (Some(x), Some(y)) = (a.first(), b.first()) {
                x.check_like(y).map_err(|_| blocks)?;
            }
            a.extend_from_slice(b);
            Ok(())
        }
        (ObserverState::Shardable(a), ObserverState::Shardable(b)) => a.merge(b),
        _ => Err("the states are of different kinds"),
    }
}

//! A run as bytes, to be gone on with.

use pteron_tensor::AlignedBytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::TrainError;
use crate::trainer::{Slot, Trainer};

/// The version of the format.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"PTERONQ\x01";

/// What a run is of. A run goes on only where all of it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// SHA-256 of the model's files, in hexadecimal digits.
    pub model: String,
    /// SHA-256 of the training data, in hexadecimal digits.
    pub data: String,
    /// The recipe and all settings that decide a step's result.
    pub settings: String,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    identity: Identity,
    step: u64,
    /// Names and numbers of elements of the parameters, and of their moments.
    params: Vec<(String, usize, usize)>,
    scales: Vec<usize>,
    ranges: usize,
}

impl Trainer {
    /// The run as bytes: magic, length of the head, head as JSON, f32 elements (parameters, moments, scales, ranges), and the
    /// SHA-256 of all that.
    pub fn to_bytes(&self, identity: &Identity) -> Vec<u8> {
        let params = self.graph.params.iter().zip(&self.slots);
        let head = Head {
            version: VERSION,
            identity: identity.clone(),
            step: self.step,
            params: params.map(|(p, s)| (p.name.clone(), s.values.len(), s.first.len())).collect(),
            scales: self.scales.iter().map(|s| s.0.len()).collect(),
            ranges: self.ranges.len(),
        };
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut out = MAGIC.to_vec();
        out.extend((head.len() as u64).to_le_bytes());
        out.extend(head);
        let mut put = |v: &[f32]| v.iter().for_each(|v| out.extend(v.to_le_bytes()));
        for s in &self.slots {
            [&s.values, &s.first, &s.second].into_iter().for_each(|v| put(v));
        }
        for (scale, zero) in &self.scales {
            put(scale);
            put(zero);
        }
        self.ranges.iter().for_each(|r| put(r));
        let sum = Sha256::digest(&out);
        out.extend(sum);
        out
    }

    /// Takes over a run that [`Trainer::to_bytes`] wrote, and goes on where it was.
    ///
    /// # Errors
    /// [`TrainError::Resume`] if the bytes are damaged, or of another model, other data or other settings; the run is then as it
    /// was.
    pub fn resume(&mut self, bytes: &[u8], identity: &Identity) -> Result<(), TrainError> {
        let wrong = |reason: &str| TrainError::Resume(reason.to_owned());
        let damaged = || wrong("the checkpoint of the run is damaged or cut off");
        let Some((body, sum)) = bytes.len().checked_sub(32).map(|at| bytes.split_at(at)) else { return Err(damaged()) };
        if !body.starts_with(MAGIC) {
            return Err(wrong("this is no checkpoint of a run: it does not begin with the bytes of one"));
        }
        if Sha256::digest(body).as_slice() != sum {
            return Err(damaged());
        }
        let rest = &body[MAGIC.len()..];
        let (length, rest) = rest.split_at_checked(8).ok_or_else(damaged)?;
        let length = u64::from_le_bytes(length.try_into().map_err(|_| damaged())?);
        let length = usize::try_from(length).map_err(|_| damaged())?;
        let (head, data) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let head: Head = serde_json::from_slice(head).map_err(|_| damaged())?;
        if head.version != VERSION {
            let reason = format!("the checkpoint of the run has version {}, expected {VERSION}", head.version);
            return Err(TrainError::Resume(reason));
        }
        let theirs = &head.identity;
        for (what, found, expected) in [
            ("model", &theirs.model, &identity.model),
            ("training data", &theirs.data, &identity.data),
            ("settings", &theirs.settings, &identity.settings),
        ] {
            if found != expected {
                let other = if what == "model" { "another model" } else { &format!("other {what}") };
                return Err(TrainError::Resume(format!(
                    "the checkpoint of the run is of {other}: found {found}, expected {expected}; give another folder to begin anew"
                )));
            }
        }
        let own =
            self.graph.params.iter().zip(&self.slots).map(|(p, s)| (p.name.clone(), s.values.len(), s.first.len()));
        let same = head.params.iter().cloned().eq(own)
            && head.scales.iter().copied().eq(self.scales.iter().map(|s| s.0.len()))
            && head.ranges == self.ranges.len();
        if !same {
            return Err(damaged());
        }
        let count: usize = head.params.iter().map(|(_, n, m)| n + 2 * m).sum::<usize>()
            + head.scales.iter().map(|n| 2 * n).sum::<usize>()
            + 2 * head.ranges;
        if data.len() != count * 4 {
            return Err(damaged());
        }
        let data = AlignedBytes::copied(data);
        let mut data: &[f32] = bytemuck::cast_slice(&data);
        let mut take = |n: usize| {
            let (now, rest) = data.split_at(n);
            data = rest;
            now.to_vec()
        };
        let slots = head.params.iter().map(|(_, n, m)| Slot { values: take(*n), first: take(*m), second: take(*m) });
        let slots = slots.collect();
        let scales = head.scales.iter().map(|&n| (take(n), take(n))).collect();
        let ranges = (0..head.ranges).map(|_| take(2)).filter_map(|r| <[f32; 2]>::try_from(r).ok()).collect();
        self.slots = slots;
        self.ranges = ranges;
        self.step = head.step;
        self.follow(false)?;
        self.scales = scales;
        Ok(())
    }
}

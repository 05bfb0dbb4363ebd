//! The format, little-endian:
//!
//! | what | bytes |
//! |---|---|
//! | `PTERONQS` | 8 |
//! | version | u32 |
//! | hashes of model, recipe, data, windows | 32 each |
//! | data tokens | u64 |
//! | window tokens | u32 |
//! | shard index, shards | u32 each |
//! | first window, end, total | u64 each |
//! | kernel tier, scheme | string: u32 length, UTF-8 |
//! | windows held back | u32 number; each a u32 number of tokens, u32 each |
//! | number of entries | u32 |
//! | entries, sorted by label | module (string), port (string), observer's name (string), state |
//! | CRC-32 of all before | u32 |
//!
//! A state is a byte for its kind and its fields; lists have a u32 in front. Floats are their bits.

use std::collections::BTreeMap;

use super::{CalibrationState, Shard, StateEntry, StateError, StateHeader, VERSION, fits};
use crate::error::TensorLabel;
use crate::observer::{BlockRanges, GrowingHistogram, ObserverState, ShardableHistogram};
use crate::spec::ObserverKind;

const MAGIC: &[u8; 8] = b"PTERONQS";
const LONGEST_NAME: usize = 4096;
const LONGEST_TIER: usize = 64;
const LONGEST_SCHEME: usize = 4096;
const MOST_AXES: usize = 16;

const NONE: u8 = 0;
const RANGE: u8 = 1;
const STEPS: u8 = 2;
const BLOCKS: u8 = 3;
const BLOCK_STEPS: u8 = 4;
const HISTOGRAM: u8 = 5;
const SHARDABLE: u8 = 6;
const RECORDING: u8 = 7;

/// The reflected CRC-32 (polynomial 0xedb88320), a table of 16 entries.
fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 16];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = (0..4).fold(i as u32, |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 });
    }
    let mut crc = !0u32;
    for b in bytes {
        crc ^= u32::from(*b);
        crc = (crc >> 4) ^ table[(crc & 15) as usize];
        crc = (crc >> 4) ^ table[(crc & 15) as usize];
    }
    !crc
}

struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn f32(&mut self, v: f32) {
        self.u32(v.to_bits());
    }
    fn len(&mut self, what: &'static str, n: usize) -> Result<(), StateError> {
        let limit = u32::MAX as usize;
        self.u32(u32::try_from(n).map_err(|_| StateError::TooLong { what, len: n, limit })?);
        Ok(())
    }
    fn text(&mut self, what: &'static str, s: &str, limit: usize) -> Result<(), StateError> {
        if s.len() > limit {
            return Err(StateError::TooLong { what, len: s.len(), limit });
        }
        self.len(what, s.len())?;
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
    fn floats(&mut self, what: &'static str, v: &[f32]) -> Result<(), StateError> {
        self.len(what, v.len())?;
        v.iter().for_each(|&x| self.f32(x));
        Ok(())
    }
    fn sizes(&mut self, what: &'static str, v: &[usize]) -> Result<(), StateError> {
        if v.len() > MOST_AXES {
            return Err(StateError::TooLong { what, len: v.len(), limit: MOST_AXES });
        }
        self.len(what, v.len())?;
        v.iter().for_each(|&s| self.u64(s as u64));
        Ok(())
    }
    fn blocks(&mut self, b: &BlockRanges) -> Result<(), StateError> {
        self.sizes("a block size", b.block_size())?;
        self.sizes("a grid of blocks", b.grid())?;
        self.floats("a list of ranges", b.min())?;
        self.floats("a list of ranges", b.max())
    }
    fn range(&mut self, range: Option<(f32, f32)>) {
        self.u8(u8::from(range.is_some()));
        if let Some((min, max)) = range {
            self.f32(min);
            self.f32(max);
        }
    }

    fn state(&mut self, state: &ObserverState) -> Result<(), StateError> {
        match state {
            ObserverState::None => self.u8(NONE),
            ObserverState::Range { min, max } => {
                self.u8(RANGE);
                self.f32(*min);
                self.f32(*max);
            }
            ObserverState::Steps(steps) => {
                self.u8(STEPS);
                self.len("a list of steps", steps.len())?;
                for (min, max) in steps {
                    self.f32(*min);
                    self.f32(*max);
                }
            }
            ObserverState::Blocks(blocks) => {
                self.u8(BLOCKS);
                self.u8(u8::from(blocks.is_some()));
                if let Some(b) = blocks {
                    self.blocks(b)?;
                }
            }
            ObserverState::BlockSteps(steps) => {
                self.u8(BLOCK_STEPS);
                self.len("a list of steps", steps.len())?;
                steps.iter().try_for_each(|b| self.blocks(b))?;
            }
            ObserverState::Histogram(h) => {
                self.u8(HISTOGRAM);
                self.range(h.range());
                self.floats("a histogram", h.counts())?;
            }
            ObserverState::Shardable(h) => {
                self.u8(SHARDABLE);
                self.len("a histogram", h.bins())?;
                self.range(h.range());
                self.u8(u8::from(h.is_counting()));
                for c in h.integer_counts().unwrap_or_default() {
                    self.u64(*c);
                }
            }
            ObserverState::Recording(seen) => {
                self.u8(RECORDING);
                self.len("a list of tensors", seen.len())?;
                for (shape, data) in seen {
                    self.sizes("a shape", shape)?;
                    self.floats("a tensor", data)?;
                }
            }
        }
        Ok(())
    }
}

struct In<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> In<'a> {
    fn damaged<T>(&self, problem: impl Into<String>) -> Result<T, StateError> {
        Err(StateError::Damaged { at: self.at, problem: problem.into() })
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], StateError> {
        match self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)) {
            Some(part) => {
                self.at += n;
                Ok(part)
            }
            None => self.damaged(format!("{n} bytes are expected, {} are there", self.bytes.len() - self.at)),
        }
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }
    fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// A float that is not NaN.
    fn f32(&mut self) -> Result<f32, StateError> {
        let v = f32::from_bits(self.u32()?);
        match v.is_nan() {
            true => self.damaged("a NaN where a number is expected"),
            false => Ok(v),
        }
    }
    fn flag(&mut self) -> Result<bool, StateError> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => self.damaged(format!("{other} where 0 or 1 is expected")),
        }
    }
    /// A count of things of `size` bytes or more, which the rest of the bytes can hold.
    fn count(&mut self, size: usize) -> Result<usize, StateError> {
        let n = self.u32()? as usize;
        match n.checked_mul(size).is_some_and(|total| total <= self.bytes.len() - self.at) {
            true => Ok(n),
            false => self.damaged(format!("a count of {n}, and {} bytes are left", self.bytes.len() - self.at)),
        }
    }
    fn text(&mut self, limit: usize) -> Result<String, StateError> {
        let n = self.count(1)?;
        if n > limit {
            return self.damaged(format!("a name of {n} bytes; at most {limit} are expected"));
        }
        match std::str::from_utf8(self.take(n)?) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => self.damaged("a name that is not UTF-8"),
        }
    }
    fn floats(&mut self) -> Result<Vec<f32>, StateError> {
        let n = self.count(4)?;
        (0..n).map(|_| self.f32()).collect()
    }
    fn sizes(&mut self) -> Result<Vec<usize>, StateError> {
        let n = self.count(8)?;
        if n > MOST_AXES {
            return self.damaged(format!("{n} axes; at most {MOST_AXES} are expected"));
        }
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            match usize::try_from(self.u64()?) {
                Ok(v) => out.push(v),
                Err(_) => return self.damaged("a size that does not fit"),
            }
        }
        Ok(out)
    }
    fn blocks(&mut self) -> Result<BlockRanges, StateError> {
        let (block, grid, min, max) = (self.sizes()?, self.sizes()?, self.floats()?, self.floats()?);
        match BlockRanges::from_parts(block, grid, min, max) {
            Some(b) => Ok(b),
            None => self.damaged("ranges that are not those of their blocks"),
        }
    }
    /// A finite range, or none.
    fn range(&mut self) -> Result<Option<(f32, f32)>, StateError> {
        if !self.flag()? {
            return Ok(None);
        }
        let (min, max) = (self.f32()?, self.f32()?);
        match min <= max && min.is_finite() && max.is_finite() {
            true => Ok(Some((min, max))),
            false => self.damaged(format!("a range from {min} to {max}")),
        }
    }

    fn state(&mut self) -> Result<ObserverState, StateError> {
        let [kind] = self.array()?;
        Ok(match kind {
            NONE => ObserverState::None,
            RANGE => {
                let (min, max) = (self.f32()?, self.f32()?);
                let unseen = min == f32::INFINITY && max == f32::NEG_INFINITY;
                if !unseen && min > max {
                    return self.damaged(format!("a range from {min} to {max}"));
                }
                ObserverState::Range { min, max }
            }
            STEPS => {
                let n = self.count(8)?;
                let mut steps = Vec::with_capacity(n);
                for _ in 0..n {
                    steps.push((self.f32()?, self.f32()?));
                }
                ObserverState::Steps(steps)
            }
            BLOCKS => match self.flag()? {
                true => ObserverState::Blocks(Some(self.blocks()?)),
                false => ObserverState::Blocks(None),
            },
            BLOCK_STEPS => {
                let n = self.count(16)?;
                let mut steps: Vec<BlockRanges> = Vec::with_capacity(n);
                for _ in 0..n {
                    let b = self.blocks()?;
                    if steps.first().is_some_and(|f| f.check_like(&b).is_err()) {
                        return self.damaged("steps with different blocks");
                    }
                    steps.push(b);
                }
                ObserverState::BlockSteps(steps)
            }
            HISTOGRAM => {
                let range = self.range()?;
                let counts = self.floats()?;
                if !(2..=65536).contains(&counts.len()) || counts.iter().any(|c| !c.is_finite() || *c < 0.0) {
                    return self.damaged("counts that are not those of a histogram");
                }
                ObserverState::Histogram(GrowingHistogram::from_parts(counts, range))
            }
            SHARDABLE => {
                let bins = self.u32()? as usize;
                if !(2..=65536).contains(&bins) {
                    return self.damaged(format!("a histogram of {bins} bins"));
                }
                let range = self.range()?;
                let counts = match self.flag()? {
                    true => Some((0..bins).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?),
                    false => None,
                };
                match ShardableHistogram::from_parts(bins, range, counts) {
                    Some(h) => ObserverState::Shardable(h),
                    None => return self.damaged("counts without a range"),
                }
            }
            RECORDING => {
                let n = self.count(8)?;
                let mut seen = Vec::with_capacity(n);
                for _ in 0..n {
                    let (shape, data) = (self.sizes()?, self.floats()?);
                    if shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s)) != Some(data.len()) {
                        return self.damaged("a tensor whose shape is not that of its elements");
                    }
                    seen.push((shape, data));
                }
                ObserverState::Recording(seen)
            }
            other => return self.damaged(format!("a state of kind {other}")),
        })
    }
}

impl CalibrationState {
    /// The state as bytes; the same state gives the same bytes.
    ///
    /// # Errors
    /// If the shard is none, an observer cannot be sharded and the run is, a state is not its observer's, or a name is too
    /// long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        let h = &self.header;
        if !h.shard.is_sound() {
            return Err(StateError::Shard(h.shard));
        }
        let mut out = Out(Vec::new());
        out.0.extend_from_slice(MAGIC);
        out.u32(VERSION);
        for hash in [&h.model, &h.recipe, &h.data, &h.windows] {
            out.0.extend_from_slice(hash);
        }
        out.u64(h.data_tokens);
        out.u32(h.window_tokens);
        out.u32(h.shard.index);
        out.u32(h.shard.count);
        out.u64(h.shard.first_window);
        out.u64(h.shard.end_window);
        out.u64(h.shard.total_windows);
        out.text("the kernel tier", &h.kernel_tier, LONGEST_TIER)?;
        out.text("the scheme", &h.scheme, LONGEST_SCHEME)?;
        out.len("the list of windows", h.held_back.len())?;
        for window in &h.held_back {
            out.len("a window", window.len())?;
            window.iter().for_each(|&t| out.u32(t));
        }
        out.len("the list of observers", self.entries.len())?;
        for (label, entry) in &self.entries {
            if h.shard.count > 1 && !entry.kind.is_shardable() {
                return Err(StateError::NotShardable { label: label.clone(), kind: entry.kind });
            }
            if !fits(entry.kind, &entry.state) {
                return Err(StateError::WrongState { label: label.clone(), kind: entry.kind });
            }
            out.text("a module path", &label.module, LONGEST_NAME)?;
            out.text("a port", &label.port, LONGEST_NAME)?;
            out.text("an observer's name", entry.kind.name(), LONGEST_NAME)?;
            out.state(&entry.state)?;
        }
        let crc = crc32(&out.0);
        out.u32(crc);
        Ok(out.0)
    }

    /// Reads a state.
    ///
    /// # Errors
    /// If it is none, is of another version, or is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<CalibrationState, StateError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(StateError::NotAState);
        };
        let mut input = In { bytes, at: bytes.len() - rest.len() };
        let version = input.u32()?;
        if version != VERSION {
            return Err(StateError::Version { found: version });
        }
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return input.damaged("it ends in its header");
        };
        if crc32(body) != u32::from_le_bytes(*crc) {
            input.at = body.len();
            return input.damaged("the checksum is not that of the bytes before it");
        }
        input.bytes = body;
        let (model, recipe) = (input.array()?, input.array()?);
        let (data, windows) = (input.array()?, input.array()?);
        let data_tokens = input.u64()?;
        let window_tokens = input.u32()?;
        let shard = Shard {
            index: input.u32()?,
            count: input.u32()?,
            first_window: input.u64()?,
            end_window: input.u64()?,
            total_windows: input.u64()?,
        };
        if !shard.is_sound() {
            return Err(StateError::Shard(shard));
        }
        let kernel_tier = input.text(LONGEST_TIER)?;
        let scheme = input.text(LONGEST_SCHEME)?;
        let mut held_back = Vec::new();
        for _ in 0..input.count(4)? {
            let n = input.count(4)?;
            held_back.push((0..n).map(|_| input.u32()).collect::<Result<Vec<_>, _>>()?);
        }
        let header = StateHeader {
            model,
            kernel_tier,
            recipe,
            scheme,
            data,
            windows,
            data_tokens,
            window_tokens,
            shard,
            held_back,
        };
        let mut entries = BTreeMap::new();
        for _ in 0..input.count(13)? {
            let label = TensorLabel { module: input.text(LONGEST_NAME)?, port: input.text(LONGEST_NAME)? };
            let name = input.text(LONGEST_NAME)?;
            let Some(kind) = ObserverKind::from_name(&name) else {
                return input.damaged(format!("an observer called {name:?}"));
            };
            let state = input.state()?;
            if !fits(kind, &state) {
                return Err(StateError::WrongState { label, kind });
            }
            if header.shard.count > 1 && !kind.is_shardable() {
                return Err(StateError::NotShardable { label, kind });
            }
            if entries.last_key_value().is_some_and(|(before, _)| *before >= label) {
                return input.damaged("labels that are not in order");
            }
            entries.insert(label, StateEntry { kind, state });
        }
        if input.at != body.len() {
            return input.damaged("more bytes than the entries take");
        }
        Ok(CalibrationState { header, entries })
    }
}

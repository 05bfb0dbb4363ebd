//! Graphs compiled into a context binary.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::ptr;
use std::time::Instant;

use super::heap::{Kept, Reserve};
use super::keep::Keep;
use super::session::{Configs, Failure, Session, described};
use super::types::{Handle, RawBuffer, RawHtpContext, RawHtpGraph};
use crate::graph::{Encoding, QnnGraph, QnnTensor, TensorKind};
use crate::host::{ComposeOptions, ComposeStage};
use crate::payload::{HEADER, header};
use crate::room::{Room, SealedRoom};

/// A graph with the places of its constants' bytes, by tensor, in what came with it.
pub(crate) struct ReceivedGraph {
    pub(crate) graph: QnnGraph,
    pub(crate) places: Vec<Option<Range<usize>>>,
}

/// What is to become one context.
pub(crate) struct Composition<'a> {
    /// Its graphs.
    pub(crate) graphs: Vec<ReceivedGraph>,
    /// The bytes of their constants.
    pub(crate) data: &'a mut [u8],
    /// How it is compiled.
    pub(crate) options: &'a ComposeOptions,
}

/// A context that was finalized.
pub(crate) struct Finalized<'a> {
    /// The context binary behind the header of a payload.
    pub(crate) payload: SealedRoom,
    /// Name of each graph, with the microseconds of its finalize call.
    pub(crate) finalize_us: Vec<(String, u64)>,
    /// The context, which the library takes a while to give back: nothing of the above needs it any more.
    pub(crate) context: NewContext<'a>,
}

/// Bytes of a context binary beside those of its constants: generous, for they cost nothing until they are written.
const ROOM_BESIDE: u64 = 256 << 20;
/// As many of them as are written in a context of moderate size.
const WRITTEN_BESIDE: u64 = 16 << 20;

/// Bytes that a constant takes in a context binary, where integers of few bits are packed.
fn packed_bytes(t: &QnnTensor) -> u64 {
    let packed = match t.encoding {
        Encoding::BwScaleOffset { bitwidth, .. } | Encoding::BwAxisScaleOffset { bitwidth, .. } => bitwidth,
        Encoding::BlockwiseExpansion { .. } => 4,
        _ => t.dtype.bits(),
    };
    t.bytes().unwrap_or(0) / u64::from(t.dtype.bits().max(1)) * u64::from(packed)
}

/// Bytes that the constants of graphs take in a context binary: those that graphs have between them once, if `shared`.
fn constant_bytes(graphs: &[ReceivedGraph], shared: bool) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0u64;
    for ReceivedGraph { graph, places } in graphs {
        for (t, place) in graph.tensors.iter().zip(places) {
            if place.as_ref().is_some_and(|p| seen.insert(p.start) || !shared) {
                bytes = bytes.saturating_add(packed_bytes(t));
            }
        }
    }
    bytes
}

fn graph_configs(options: &ComposeOptions) -> Configs<RawHtpGraph> {
    let config = |option, first, second| RawHtpGraph { option, first, second, ..RawHtpGraph::default() };
    let optimization = |kind, value: f32| config(1, kind, value.to_bits());
    let mut list = vec![
        config(3, options.vtcm_mb.unwrap_or(options.soc.vtcm_mb), 0),
        optimization(3, options.optimization.level() as f32),
    ];
    if options.fp16 {
        list.push(config(2, 1, 0));
    }
    if options.dlbc {
        list.push(optimization(4, 1.0));
    }
    if !options.fold_relu {
        list.push(config(4, 1, 0));
    }
    if !options.conv_hmx {
        list.push(config(5, 1, 0));
    }
    if let Some(threads) = options.hvx_threads {
        list.push(config(6, threads as u32, (threads >> 32) as u32));
    }
    Configs::new(list)
}

/// A context that graphs are compiled in. The library gets it back when it is dropped.
pub(crate) struct NewContext<'a> {
    session: &'a Session,
    handle: Handle,
    /// What the graphs' raw tensors and nodes point to.
    keep: Keep,
    // Last: it ends when the library has given back what it has.
    _heap: Kept,
}

impl<'a> NewContext<'a> {
    fn new(session: &'a Session, options: &ComposeOptions) -> Result<NewContext<'a>, Failure> {
        let sharing = options.weight_sharing.then(|| RawHtpContext { option: 1, enabled: 1, ..Default::default() });
        let (heap, configs, mut handle) = (Kept::new(), Configs::new(sharing), ptr::null_mut());
        let code = session.library.context_create(session.backend, session.device, configs.as_ptr(), &mut handle);
        session.check(code, "make a context")?;
        Ok(NewContext { session, handle, keep: Keep::default(), _heap: heap })
    }

    /// Hands a graph over. `data` has the bytes of its constants.
    fn add(
        &mut self,
        ReceivedGraph { graph, places }: &ReceivedGraph,
        configs: &Configs<RawHtpGraph>,
        data: &mut [u8],
    ) -> Result<Handle, Failure> {
        let (library, keep) = (&self.session.library, &mut self.keep);
        let (mut handle, name) = (ptr::null_mut(), keep.name(&graph.name));
        let code = library.graph_create(self.handle, name, configs.as_ptr(), &mut handle);
        self.session.check(code, format_args!("make the graph `{}`", graph.name))?;
        // One address for all of them: graphs, and tensors of one graph, have constants between them.
        let (base, len) = (data.as_mut_ptr(), data.len());
        let mut tensors = Vec::with_capacity(graph.tensors.len());
        for (t, place) in graph.tensors.iter().zip(places) {
            let buffer = match place.as_ref().filter(|place| place.end <= len) {
                None => RawBuffer { data: ptr::null_mut(), size: 0 },
                Some(p) => RawBuffer { data: base.wrapping_add(p.start).cast(), size: p.len() as u32 },
            };
            let mut raw = keep.tensor_over(&described(t), buffer);
            if t.kind != TensorKind::Null {
                let code = library.tensor_create(handle, &mut raw);
                self.session.check(code, format_args!("make the tensor `{}` of graph `{}`", t.name, graph.name))?;
            }
            tensors.push(raw);
        }
        for node in &graph.nodes {
            let op = self.session.raw_node(keep, node, &tensors, Some(handle))?;
            let code = library.add_node(handle, op);
            let doing = format_args!("add the node `{}` ({}) to graph `{}`", node.name, node.op, graph.name);
            self.session.check(code, doing)?;
        }
        Ok(handle)
    }

    /// Finalizes the graph `handle` and gives the microseconds of the library's call.
    fn finalize(&self, handle: Handle, name: &str) -> Result<u64, Failure> {
        let start = Instant::now();
        let code = self.session.library.finalize(handle);
        self.session.check(code, format_args!("finalize the graph `{name}`"))?;
        Ok(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The payload of the context binary, in `room` if it is large enough.
    fn payload(&self, mut room: Room) -> Result<SealedRoom, Failure> {
        let (session, library) = (self.session, &self.session.library);
        let no_size = || Failure::own(GIVE, "its size is no size");
        let mut size = 0;
        let code = library.context_binary_size(self.handle, &mut size);
        session.check(code, "say how large the context binary is")?;
        let len = usize::try_from(size).ok().filter(|s| *s < isize::MAX as usize).ok_or_else(no_size)?;
        let end = HEADER.checked_add(len).ok_or_else(no_size)?;
        if room.bytes().len() < end {
            room = Room::new(end as u64).map_err(no_room)?;
        }
        let mut written = 0;
        let (head, binary) = room.bytes()[..end].split_at_mut(HEADER);
        let code = library.context_binary(self.handle, binary, &mut written);
        session.check(code, GIVE)?;
        let written = usize::try_from(written).ok().and_then(|w| binary.get(..w));
        let binary = written.ok_or_else(|| Failure::own(GIVE, "it wrote more than it said"))?;
        head.copy_from_slice(&header(binary));
        let end = (HEADER + binary.len()) as u64;
        room.seal(end).map_err(no_room)
    }
}

impl Drop for NewContext<'_> {
    fn drop(&mut self) {
        self.session.library.context_free(self.handle);
    }
}

const GIVE: &str = "give the context binary";

fn no_room(error: io::Error) -> Failure {
    Failure::own(GIVE, format!("there is no memory for it: {error}"))
}

impl Session {
    /// Composes and finalizes graphs in one context.
    pub(crate) fn compose(
        &self,
        Composition { graphs, data, options }: Composition<'_>,
        progress: &mut dyn FnMut(&ComposeStage),
    ) -> Result<Finalized<'_>, Failure> {
        let mut context = NewContext::new(self, options)?;
        let configs = graph_configs(options);
        let expected = constant_bytes(&graphs, options.weight_sharing);
        let size = |beside: u64| usize::try_from(expected.saturating_add(beside)).unwrap_or(usize::MAX);
        let room = Room::new(expected.saturating_add(ROOM_BESIDE)).map_err(no_room)?;
        // The library puts the binary together in memory of its own and copies it from there.
        let reserve = Reserve::new(size(ROOM_BESIDE));
        let finalize_us = std::thread::scope(|scope| {
            let mut pages = Some(|| {
                reserve.populate(size(WRITTEN_BESIDE));
                room.populate(size(WRITTEN_BESIDE));
            });
            let mut finalize_us = Vec::with_capacity(graphs.len());
            for received in graphs {
                let name = || received.graph.name.clone();
                progress(&ComposeStage::Composing { graph: name() });
                let graph = context.add(&received, &configs, data)?;
                progress(&ComposeStage::Finalizing { graph: name() });
                // The pages of both are made while the library, on one thread, is busy for long.
                if let Some(pages) = pages.take() {
                    scope.spawn(pages);
                }
                finalize_us.push((name(), context.finalize(graph, &received.graph.name)?));
            }
            Ok(finalize_us)
        })?;
        drop(reserve);
        progress(&ComposeStage::Serializing);
        Ok(Finalized { payload: context.payload(room)?, finalize_us, context })
    }
}

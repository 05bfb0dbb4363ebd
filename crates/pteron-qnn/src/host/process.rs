//! The host: one worker process for each system that it is asked about.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pteron_tensor::{SharedBytes, SourceError};

use super::connection::Connection;
use super::options::HostOptions;
use super::types::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, LibraryInfo, ProfileEvent, ProfileLevel,
    QnnCompiler, QnnLibrary, Verdict,
};
use crate::error::QnnError;
use crate::graph::{QnnGraph, QnnTensor, TensorKind};
use crate::payload::Payload;
use crate::room::{Room, SealedRoom};
use crate::soc::Soc;
use crate::worker::message::{Request, level_code, read_binary, read_event, read_stage, read_verdict, write_options};
use crate::worker::wire::{Reader, Writer, write_graph};

/// A context that was loaded.
#[derive(Debug)]
struct Loaded {
    /// The system whose worker has it.
    soc: Option<u32>,
    /// Which worker of that system: a crashed one takes its contexts with it.
    worker: u64,
    /// The worker's number of it.
    id: u32,
    info: BinaryInfo,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<Option<u32>, (u64, Connection)>,
    contexts: BTreeMap<ContextId, Loaded>,
    workers: u64,
    next: u32,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let workers: Vec<_> = self.connections.keys().collect();
        f.debug_struct("State").field("workers", &workers).field("contexts", &self.contexts.len()).finish()
    }
}

/// Qualcomm's library in worker processes.
#[derive(Debug)]
pub(super) struct Host {
    options: HostOptions,
    info: LibraryInfo,
    state: Mutex<State>,
}

/// Constants up to this size are handed over for a validation.
const SMALL: u64 = 4 << 10;
/// Where constants begin in the memory that is handed over.
const ALIGNMENT: u64 = 64;

fn data_error(tensor: &QnnTensor, error: &SourceError) -> QnnError {
    QnnError::Data(format!("tensor `{}`: {error}", tensor.name))
}

/// The constants of graphs, one behind the other: those that are the same for sure are there once.
#[derive(Default)]
struct Constants<'a> {
    /// Where each begins.
    all: Vec<(u64, &'a QnnTensor)>,
    end: u64,
}

impl<'a> Constants<'a> {
    /// The place of each tensor of `graph` that `sends` lets through.
    fn places(&mut self, graph: &'a QnnGraph, sends: impl Fn(&QnnTensor) -> bool) -> Vec<Option<u64>> {
        let place = |t: &'a QnnTensor| {
            let data = t.data.as_ref().filter(|_| sends(t))?;
            let known = |other: &&(u64, &QnnTensor)| other.1.data.as_ref().is_some_and(|d| d.is(data));
            if let Some((place, _)) = self.all.iter().find(known) {
                return Some(*place);
            }
            let place = self.end.next_multiple_of(ALIGNMENT);
            self.all.push((place, t));
            self.end = place + data.len();
            Some(place)
        };
        graph.tensors.iter().map(place).collect()
    }

    /// Decodes all of them into `out`, by several threads.
    fn write(&self, out: &mut [u8]) -> Result<(), QnnError> {
        let mut parts: Vec<(&QnnTensor, &mut [u8])> = Vec::with_capacity(self.all.len());
        let (mut rest, mut at) = (out, 0);
        for (place, t) in &self.all {
            let len = t.data.as_ref().map_or(0, crate::graph::Data::len);
            let (skip, len) =
                (usize::try_from(place - at).unwrap_or(usize::MAX), usize::try_from(len).unwrap_or(usize::MAX));
            let short = || QnnError::Data(format!("tensor `{}`: there is no room for it", t.name));
            let (_, behind) = rest.split_at_mut_checked(skip).ok_or_else(short)?;
            let (part, behind) = behind.split_at_mut_checked(len).ok_or_else(short)?;
            parts.push((t, part));
            (rest, at) = (behind, place + len as u64);
        }
        // The largest ones first, so that no thread is left with one at the end.
        parts.sort_by_key(|(_, part)| part.len());
        let next = Mutex::new(parts);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(self.all.len());
        let work = || loop {
            let part = next.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((t, out)) = part else { return Ok(()) };
            t.data.as_ref().map_or(Ok(()), |d| d.read(out)).map_err(|e| data_error(t, &e))?;
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for other in others {
                let ended = other.join().unwrap_or_else(|_| Err(QnnError::Data("a thread panicked".to_owned())));
                result = result.and(ended);
            }
            result
        })
    }
}

/// The part of a graph that the nodes `nodes` name.
fn part(graph: &QnnGraph, nodes: &[usize]) -> Result<QnnGraph, QnnError> {
    let mut out = QnnGraph::new(graph.name.clone());
    let mut places: BTreeMap<usize, usize> = BTreeMap::new();
    for &index in nodes {
        let missing = || QnnError::Mismatch(format!("graph `{}` has no node {index}", graph.name));
        let mut node = graph.nodes.get(index).ok_or_else(missing)?.clone();
        for i in node.inputs.iter_mut().chain(&mut node.outputs) {
            let missing = || QnnError::Mismatch(format!("graph `{}` has no tensor {i}", graph.name));
            let tensor = graph.tensors.get(*i).ok_or_else(missing)?;
            let place = places.entry(*i).or_insert_with(|| out.add_tensor(tensor.clone()));
            *i = *place;
        }
        out.add_node(node);
    }
    Ok(out)
}

fn crashed(error: &QnnError) -> bool {
    matches!(error, QnnError::Crashed { .. })
}

impl Host {
    /// Opens the library.
    ///
    /// # Errors
    /// [`QnnError`]: the worker cannot be started, the file is not a QNN library or lacks a function, it crashes.
    pub(super) fn open(options: HostOptions) -> Result<Host, QnnError> {
        let mut state = State::default();
        let info = state.connection(&options, None)?.1.info.clone();
        Ok(Host { options, info, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves at worst a worker whose next answer cannot be read, which ends it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the worker for `soc`, which is forgotten if it crashes.
    fn with<T>(
        &self,
        soc: Option<u32>,
        f: impl FnOnce(&mut Connection) -> Result<T, QnnError>,
    ) -> Result<(T, u64), QnnError> {
        let mut state = self.state();
        let (worker, connection) = state.connection(&self.options, soc)?;
        let (worker, result) = (*worker, f(connection));
        if result.as_ref().is_err_and(crashed) {
            state.connections.remove(&soc);
        }
        result.map(|value| (value, worker))
    }

    /// A worker that is there already, for what needs no device of a certain system.
    fn any(&self) -> Option<u32> {
        self.state().connections.keys().next().copied().flatten()
    }
}

impl State {
    fn connection(&mut self, options: &HostOptions, soc: Option<u32>) -> Result<&mut (u64, Connection), QnnError> {
        match self.connections.entry(soc) {
            std::collections::btree_map::Entry::Occupied(e) => Ok(e.into_mut()),
            std::collections::btree_map::Entry::Vacant(e) => {
                let connection = Connection::open(&options.sdk, &options.worker, soc, options.timeout)?;
                self.workers += 1;
                Ok(e.insert((self.workers, connection)))
            }
        }
    }
}

impl QnnCompiler for Host {
    fn info(&self) -> &LibraryInfo {
        &self.info
    }

    fn validate(&self, graph: &QnnGraph, nodes: &[usize], soc: Soc) -> Result<Vec<Verdict>, QnnError> {
        let request = Request::Validate;
        let graph = part(graph, nodes)?;
        let small = |t: &QnnTensor| t.data.as_ref().is_some_and(|d| d.len() <= SMALL && t.bytes() == Some(d.len()));
        let (mut w, mut constants) = (Writer::default(), Constants::default());
        let places = constants.places(&graph, small);
        write_graph(&mut w, &graph, &places);
        w.list(&(0..nodes.len()).collect::<Vec<_>>(), |w, i| {
            w.u64(*i as u64);
        });
        let mut data = vec![0u8; usize::try_from(constants.end).unwrap_or(0)];
        constants.write(&mut data)?;
        let ask = |c: &mut Connection| {
            let answer = c.ask(request, &w.0, &[&data], &mut |_| {})?;
            c.read(request, &answer.head, |r| r.list(read_verdict))
        };
        Ok(self.with(Some(soc.model), ask)?.0)
    }

    fn compose(
        &self,
        graphs: &[QnnGraph],
        options: &ComposeOptions,
        progress: &mut dyn FnMut(ComposeStage),
    ) -> Result<Composed, QnnError> {
        let request = Request::Compose;
        graphs.iter().try_for_each(QnnGraph::check)?;
        let mut constants = Constants::default();
        let is_static = |t: &QnnTensor| t.kind == TensorKind::Static;
        let places: Vec<_> = graphs.iter().map(|g| (g, constants.places(g, is_static))).collect();
        let no_room = |e: std::io::Error| {
            QnnError::Data(format!("there is no memory for the graphs' constants ({} bytes): {e}", constants.end))
        };
        let mut room = Room::new(constants.end).map_err(no_room)?;
        constants.write(room.bytes())?;
        let room = room.seal(constants.end).map_err(no_room)?;
        let mut w = Writer::default();
        room.write(&mut w);
        write_options(&mut w, options);
        w.list(&places, |w, (g, places)| write_graph(w, g, places));
        let ask = |c: &mut Connection| {
            let stage = &mut |head: &[u8]| {
                // A stage that cannot be read is not worth an error: the answer that follows will tell.
                if let Ok(stage) = read_stage(&mut Reader::new(head)) {
                    progress(stage);
                }
            };
            let answer = c.ask(request, &w.0, &[], stage)?;
            let read = |r: &mut Reader<'_>| {
                let finalize_us = r.list(|r| Ok((r.str()?, r.u64()?)))?;
                let payload = SharedBytes::new(SealedRoom::read(r)?.map()?);
                Payload::parse(&payload).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))?;
                Ok(Composed { payload, finalize_us })
            };
            c.read(request, &answer.head, read)
        };
        Ok(self.with(Some(options.soc.model), ask)?.0)
    }

    fn inspect(&self, binary: &[u8]) -> Result<BinaryInfo, QnnError> {
        let request = Request::Inspect;
        let ask = |c: &mut Connection| {
            let answer = c.ask(request, &[], &[binary], &mut |_| {})?;
            c.read(request, &answer.head, read_binary)
        };
        Ok(self.with(self.any(), ask)?.0)
    }
}

impl QnnLibrary for Host {
    fn supported_operations(&self) -> Result<Vec<String>, QnnError> {
        let request = Request::Operations;
        let ask = |c: &mut Connection| {
            let answer = c.ask(request, &[], &[], &mut |_| {})?;
            c.read(request, &answer.head, |r| r.list(Reader::str))
        };
        Ok(self.with(self.any(), ask)?.0)
    }

    fn load(&self, binary: &[u8], soc: Option<Soc>) -> Result<(ContextId, BinaryInfo), QnnError> {
        let request = Request::Load;
        let model = soc.map(|s| s.model);
        let ask = |c: &mut Connection| {
            let answer = c.ask(request, &[], &[binary], &mut |_| {})?;
            c.read(request, &answer.head, |r| Ok((r.u32()?, read_binary(r)?)))
        };
        let ((id, info), worker) = self.with(model, ask)?;
        if let (Some(wanted), Some(found)) = (model, info.soc_model)
            && wanted != found
        {
            self.with(model, |c| unload(c, id))?;
            let (found, wanted) = (Soc::describe(found), Soc::describe(wanted));
            return Err(QnnError::Mismatch(format!(
                "the context binary was compiled for {found}, expected one for {wanted}"
            )));
        }
        let mut state = self.state();
        state.next += 1;
        let context = ContextId(state.next);
        state.contexts.insert(context, Loaded { soc: model, worker, id, info: info.clone() });
        Ok((context, info))
    }

    fn execute(
        &self,
        context: ContextId,
        graph: &str,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        profile: ProfileLevel,
    ) -> Result<Vec<ProfileEvent>, QnnError> {
        let request = Request::Execute;
        let mut state = self.state();
        let State { connections, contexts, .. } = &mut *state;
        let loaded = contexts.get(&context).ok_or_else(|| QnnError::Mismatch("there is no such context".to_owned()))?;
        let soc = loaded.soc;
        let known = loaded.info.graphs.iter().map(|g| format!("`{}`", g.name)).collect::<Vec<_>>().join(", ");
        let unknown = || QnnError::Mismatch(format!("the context has no graph `{graph}`; it has {known}"));
        let info = loaded.info.graph(graph).ok_or_else(unknown)?;
        let check = |what: &str, tensors: &[super::types::TensorInfo], sizes: Vec<usize>| {
            if tensors.len() != sizes.len() {
                let (found, expected) = (sizes.len(), tensors.len());
                return Err(QnnError::Mismatch(format!(
                    "found {found} {what}s of graph `{graph}`, expected {expected}"
                )));
            }
            for (t, size) in tensors.iter().zip(sizes) {
                if t.bytes() != Some(size as u64) {
                    return Err(QnnError::Mismatch(format!(
                        "found {size} bytes for the {what} `{}` of graph `{graph}`, expected {} ({} {:?})",
                        t.name,
                        t.bytes().unwrap_or(0),
                        t.dtype,
                        t.dims
                    )));
                }
            }
            Ok(())
        };
        check("input", &info.inputs, inputs.iter().map(|b| b.len()).collect())?;
        check("output", &info.outputs, outputs.iter().map(|b| b.len()).collect())?;
        let gone = || QnnError::Mismatch("the context is gone: its worker process has ended".to_owned());
        let (_, connection) = connections.get_mut(&soc).filter(|(w, _)| *w == loaded.worker).ok_or_else(gone)?;
        let mut w = Writer::default();
        w.u32(loaded.id).str(graph).u8(level_code(profile));
        let result = execute(connection, request, &w.0, inputs, outputs);
        if result.as_ref().is_err_and(crashed) {
            connections.remove(&soc);
        }
        result
    }

    fn unload(&self, context: ContextId) -> Result<(), QnnError> {
        let mut state = self.state();
        let Some(loaded) = state.contexts.remove(&context) else {
            return Err(QnnError::Mismatch("there is no such context".to_owned()));
        };
        match state.connections.get_mut(&loaded.soc) {
            Some((worker, connection)) if *worker == loaded.worker => unload(connection, loaded.id),
            // The context went with its worker.
            _ => Ok(()),
        }
    }
}

fn unload(connection: &mut Connection, id: u32) -> Result<(), QnnError> {
    let mut w = Writer::default();
    w.u32(id);
    connection.ask(Request::Unload, &w.0, &[], &mut |_| {}).map(drop)
}

fn execute(
    connection: &mut Connection,
    request: Request,
    head: &[u8],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
) -> Result<Vec<ProfileEvent>, QnnError> {
    let answer = connection.ask(request, head, inputs, &mut |_| {})?;
    let expected: u64 = outputs.iter().map(|b| b.len() as u64).sum();
    if answer.bulk != expected {
        return Err(connection.lost(request, &std::io::ErrorKind::InvalidData.into()));
    }
    connection.bulk(request, outputs)?;
    connection.read(request, &answer.head, |r| r.list(read_event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Data, DataType, Encoding};

    fn graph(data: &[Data]) -> QnnGraph {
        let mut g = QnnGraph::new("forward");
        for (i, data) in data.iter().enumerate() {
            let (name, dims) = (format!("w{i}"), vec![u32::try_from(data.len()).expect("few")]);
            let (kind, dtype, encoding) = (TensorKind::Static, DataType::UInt8, Encoding::None);
            g.add_tensor(QnnTensor { name, kind, dtype, dims, encoding, data: Some(data.clone()) });
        }
        g
    }

    #[test]
    fn what_graphs_have_between_them_is_handed_over_once() {
        let (shared, own) = (Data::from(vec![1u8; 100]), Data::from(vec![2u8; 3]));
        // Equal bytes of another origin are another constant: they are not compared.
        let equal = Data::from(vec![1u8; 100]);
        let (first, second) = (graph(&[shared.clone(), own]), graph(&[equal, shared]));
        let mut constants = Constants::default();
        assert_eq!(constants.places(&first, |_| true), [Some(0), Some(128)]);
        assert_eq!(constants.places(&second, |t| t.name == "w1"), [None, Some(0)]);
        assert_eq!(constants.places(&second, |_| true), [Some(192), Some(0)]);
        let mut out = vec![9u8; usize::try_from(constants.end).expect("few")];
        constants.write(&mut out).expect("they are in memory");
        assert_eq!((&out[..100], &out[100..128]), (&[1u8; 100][..], &[9u8; 28][..]));
        assert_eq!((&out[128..132], &out[192..]), (&[2u8, 2, 2, 9][..], &[1u8; 100][..]));
        let short = constants.write(&mut out[..200]).expect_err("the last one does not fit");
        assert!(short.to_string().contains("no room"), "{short}");
    }
}

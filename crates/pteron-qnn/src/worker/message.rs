//! Kinds of requests and answers, and the parts of them that are more than a number.

use std::io;

use super::wire::{Reader, Writer, read_encoding, write_encoding};
use crate::graph::{DataType, TensorKind};
use crate::host::{
    BinaryInfo, ComposeOptions, ComposeStage, GraphInfo, LibraryInfo, Optimization, ProfileEvent, ProfileLevel,
    ProfileUnit, TensorInfo, Verdict, Version,
};
use crate::soc::Soc;

/// What the worker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Opens the library.
    Open,
    /// Lists operators.
    Operations,
    /// Validates nodes.
    Validate,
    /// Composes a context.
    Compose,
    /// Describes a context binary.
    Inspect,
    /// Loads a context binary.
    Load,
    /// Executes a graph.
    Execute,
    /// Gives a context back.
    Unload,
}

impl Request {
    const ALL: [(Request, &'static str); 8] = [
        (Request::Open, "open"),
        (Request::Operations, "operations"),
        (Request::Validate, "validate"),
        (Request::Compose, "compose"),
        (Request::Inspect, "inspect"),
        (Request::Load, "load"),
        (Request::Execute, "execute"),
        (Request::Unload, "unload"),
    ];

    pub(crate) fn code(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_code(code: u32) -> Option<Request> {
        Request::ALL.get(code as usize).map(|r| r.0)
    }

    pub(crate) fn from_name(name: &str) -> Option<Request> {
        Request::ALL.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// What the library is doing then, as the end of "while it was asked to".
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Request::Open => "open its backend",
            Request::Operations => "list its operators",
            Request::Validate => "validate nodes",
            Request::Compose => "compile a graph",
            Request::Inspect => "read a context binary",
            Request::Load => "load a context binary",
            Request::Execute => "execute a graph",
            Request::Unload => "give a context back",
        }
    }
}

/// Status of an answer.
pub(crate) mod status {
    pub(crate) const DONE: u32 = 0;
    pub(crate) const FAILED: u32 = 1;
    pub(crate) const PROGRESS: u32 = 2;
}

fn write_version(w: &mut Writer, v: Version) {
    w.u32(v.major).u32(v.minor).u32(v.patch);
}

fn read_version(r: &mut Reader<'_>) -> io::Result<Version> {
    Ok(Version { major: r.u32()?, minor: r.u32()?, patch: r.u32()? })
}

pub(crate) fn write_info(w: &mut Writer, i: &LibraryInfo) {
    w.str(&i.provider).u32(i.backend_id).str(&i.build);
    write_version(w, i.core);
    write_version(w, i.backend);
    w.option(i.system, write_version);
}

pub(crate) fn read_info(r: &mut Reader<'_>) -> io::Result<LibraryInfo> {
    Ok(LibraryInfo {
        provider: r.str()?,
        backend_id: r.u32()?,
        build: r.str()?,
        core: read_version(r)?,
        backend: read_version(r)?,
        system: r.option(read_version)?,
    })
}

pub(crate) fn write_options(w: &mut Writer, o: &ComposeOptions) {
    w.u32(o.soc.model)
        .option(o.vtcm_mb, |w, v| {
            w.u32(v);
        })
        .u32(o.optimization.level());
    for flag in [o.fp16, o.weight_sharing, o.dlbc, o.fold_relu, o.conv_hmx] {
        w.u8(u8::from(flag));
    }
    w.option(o.hvx_threads, |w, v| {
        w.u64(v);
    });
}

pub(crate) fn read_options(r: &mut Reader<'_>) -> io::Result<ComposeOptions> {
    let level =
        |code| [Optimization::Fast, Optimization::Normal, Optimization::Best].into_iter().find(|o| o.level() == code);
    Ok(ComposeOptions {
        soc: r.coded("a system", Soc::by_model)?,
        vtcm_mb: r.option(Reader::u32)?,
        optimization: r.coded("an optimization level", level)?,
        fp16: r.u8()? != 0,
        weight_sharing: r.u8()? != 0,
        dlbc: r.u8()? != 0,
        fold_relu: r.u8()? != 0,
        conv_hmx: r.u8()? != 0,
        hvx_threads: r.option(Reader::u64)?,
    })
}

pub(crate) fn write_stage(w: &mut Writer, s: &ComposeStage) {
    match s {
        ComposeStage::Composing { graph } => w.u8(0).str(graph),
        ComposeStage::Finalizing { graph } => w.u8(1).str(graph),
        ComposeStage::Serializing => w.u8(2),
    };
}

pub(crate) fn read_stage(r: &mut Reader<'_>) -> io::Result<ComposeStage> {
    Ok(match r.u8()? {
        0 => ComposeStage::Composing { graph: r.str()? },
        1 => ComposeStage::Finalizing { graph: r.str()? },
        _ => ComposeStage::Serializing,
    })
}

pub(crate) fn write_verdict(w: &mut Writer, v: &Verdict) {
    match v {
        Verdict::Supported => w.u8(0),
        Verdict::Refused(why) => w.u8(1).str(why),
    };
}

pub(crate) fn read_verdict(r: &mut Reader<'_>) -> io::Result<Verdict> {
    Ok(if r.u8()? == 0 { Verdict::Supported } else { Verdict::Refused(r.str()?) })
}

fn write_tensor(w: &mut Writer, t: &TensorInfo) {
    w.u32(t.id).str(&t.name).u32(t.kind.code()).u32(t.dtype.code()).list(&t.dims, |w, d| {
        w.u32(*d);
    });
    write_encoding(w, &t.encoding);
}

fn read_tensor(r: &mut Reader<'_>) -> io::Result<TensorInfo> {
    Ok(TensorInfo {
        id: r.u32()?,
        name: r.str()?,
        kind: r.coded("a kind of tensor", TensorKind::from_code)?,
        dtype: r.coded("a type of elements", DataType::from_code)?,
        dims: r.list(Reader::u32)?,
        encoding: read_encoding(r)?,
    })
}

pub(crate) fn write_binary(w: &mut Writer, b: &BinaryInfo) {
    w.u32(b.backend_id).str(&b.build);
    for v in [b.core, b.backend, b.blob] {
        write_version(w, v);
    }
    w.option(b.soc_model, |w, m| {
        w.u32(m);
    });
    w.list(&b.graphs, |w, g| {
        w.str(&g.name).list(&g.inputs, write_tensor).list(&g.outputs, write_tensor).u64(g.spill_fill_bytes);
    });
}

pub(crate) fn read_binary(r: &mut Reader<'_>) -> io::Result<BinaryInfo> {
    Ok(BinaryInfo {
        backend_id: r.u32()?,
        build: r.str()?,
        core: read_version(r)?,
        backend: read_version(r)?,
        blob: read_version(r)?,
        soc_model: r.option(Reader::u32)?,
        graphs: r.list(|r| {
            let (name, inputs, outputs) = (r.str()?, r.list(read_tensor)?, r.list(read_tensor)?);
            Ok(GraphInfo { name, inputs, outputs, spill_fill_bytes: r.u64()? })
        })?,
    })
}

pub(crate) fn level_code(level: ProfileLevel) -> u8 {
    match level {
        ProfileLevel::Off => 0,
        ProfileLevel::Basic => 1,
        ProfileLevel::Detailed => 2,
    }
}

pub(crate) fn level_from(code: u8) -> ProfileLevel {
    match code {
        0 => ProfileLevel::Off,
        1 => ProfileLevel::Basic,
        _ => ProfileLevel::Detailed,
    }
}

pub(crate) fn write_event(w: &mut Writer, e: &ProfileEvent) {
    w.str(&e.name).u32(e.kind).u32(e.unit.code()).u64(e.value).u32(e.depth);
}

pub(crate) fn read_event(r: &mut Reader<'_>) -> io::Result<ProfileEvent> {
    let (name, kind) = (r.str()?, r.u32()?);
    let unit = ProfileUnit::from_code(r.u32()?);
    Ok(ProfileEvent { name, kind, unit, value: r.u64()?, depth: r.u32()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_positions() {
        for (at, (request, name)) in Request::ALL.iter().enumerate() {
            assert_eq!(request.code() as usize, at);
            assert_eq!(Request::from_code(request.code()), Some(*request));
            assert_eq!(Request::from_name(name), Some(*request));
        }
        assert_eq!(Request::from_code(8), None);
    }

    #[test]
    fn options_come_out_as_they_went_in() {
        let soc = Soc::by_name("SM8750").expect("it is in the table");
        let mut options = ComposeOptions::new(soc);
        options.vtcm_mb = Some(4);
        options.fp16 = true;
        options.fold_relu = false;
        options.hvx_threads = Some(6);
        let mut w = Writer::default();
        write_options(&mut w, &options);
        assert_eq!(read_options(&mut Reader::new(&w.0)).expect("what was written is read"), options);
    }
}

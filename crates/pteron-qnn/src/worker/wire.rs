//! What goes through the pipes: frames of a kind, a head of bounded size, and bulk bytes that are streamed.
//!
//! | field | bytes |
//! |---|---|
//! | magic | 4 |
//! | kind of the request, or status of the answer | 4 |
//! | length of the head | 8 |
//! | length of the bulk | 8 |
//!
//! Integers are little-endian. Both ends are of one build, and still every length is checked against what is there.

use std::io::{self, Read, Write};

use crate::graph::{
    BlockScales, DataType, Encoding, Param, ParamValue, QnnGraph, QnnNode, QnnTensor, Scalar, ScaleOffset, TensorKind,
};

const MAGIC: u32 = 0x514e_5031;
const HEADER: usize = 24;
/// The longest head: the description of a graph with the scales of every block of its weights.
const MAX_HEAD: u64 = 1 << 30;
/// The most bulk bytes: twice what a context of the tensor processor can address.
const MAX_BULK: u64 = 8 << 30;

/// The first part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u32,
    pub(crate) head: u64,
    pub(crate) bulk: u64,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Frame {
    /// The frame's 24 bytes.
    pub(crate) fn bytes(self) -> [u8; HEADER] {
        let mut out = [0u8; HEADER];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.kind.to_le_bytes());
        out[8..16].copy_from_slice(&self.head.to_le_bytes());
        out[16..].copy_from_slice(&self.bulk.to_le_bytes());
        out
    }

    /// Reads a frame's first part; `None` at the end of the stream.
    pub(crate) fn read(from: &mut dyn Read) -> io::Result<Option<Frame>> {
        let mut bytes = [0u8; HEADER];
        let mut have = 0;
        while have < HEADER {
            match from.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let mut r = Reader::new(&bytes);
        let (magic, kind, head, bulk) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
        if magic != MAGIC {
            return Err(invalid(format!("found {magic:#x} where a frame begins")));
        }
        if head > MAX_HEAD || bulk > MAX_BULK {
            return Err(invalid(format!("found a frame of {head} and {bulk} bytes, expected fewer")));
        }
        Ok(Some(Frame { kind, head, bulk }))
    }
}

/// Writes a frame whose bulk is `bulk`.
pub(crate) fn write_frame(to: &mut dyn Write, kind: u32, head: &[u8], bulk: &[&[u8]]) -> io::Result<()> {
    let total = bulk.iter().map(|b| b.len() as u64).sum();
    to.write_all(&Frame { kind, head: head.len() as u64, bulk: total }.bytes())?;
    to.write_all(head)?;
    bulk.iter().try_for_each(|b| to.write_all(b))?;
    to.flush()
}

/// Reads `len` bytes, in steps, so that no more is allocated than arrives.
pub(crate) fn read_vec(from: &mut dyn Read, len: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(len).read_to_end(&mut out)?;
    if out.len() as u64 == len { Ok(out) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Puts a head together.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, v: u8) -> &mut Writer {
        self.0.push(v);
        self
    }

    pub(crate) fn u32(&mut self, v: u32) -> &mut Writer {
        self.0.extend(v.to_le_bytes());
        self
    }

    pub(crate) fn i32(&mut self, v: i32) -> &mut Writer {
        self.u32(v as u32)
    }

    pub(crate) fn f32(&mut self, v: f32) -> &mut Writer {
        self.u32(v.to_bits())
    }

    pub(crate) fn u64(&mut self, v: u64) -> &mut Writer {
        self.0.extend(v.to_le_bytes());
        self
    }

    pub(crate) fn bytes(&mut self, v: &[u8]) -> &mut Writer {
        self.u64(v.len() as u64);
        self.0.extend(v);
        self
    }

    pub(crate) fn str(&mut self, v: &str) -> &mut Writer {
        self.bytes(v.as_bytes())
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Writer, &T)) -> &mut Writer {
        self.u64(items.len() as u64);
        items.iter().for_each(|item| one(self, item));
        self
    }

    pub(crate) fn option<T>(&mut self, item: Option<T>, one: impl FnOnce(&mut Writer, T)) -> &mut Writer {
        self.u8(u8::from(item.is_some()));
        if let Some(item) = item {
            one(self, item);
        }
        self
    }
}

/// Takes a head apart.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

type Got<T> = io::Result<T>;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    fn take(&mut self, len: usize) -> Got<&'a [u8]> {
        let (first, rest) =
            self.bytes.split_at_checked(len).ok_or_else(|| invalid("the head ends early".to_owned()))?;
        self.bytes = rest;
        Ok(first)
    }

    fn array<const N: usize>(&mut self) -> Got<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| invalid("the head ends early".to_owned()))
    }

    pub(crate) fn u8(&mut self) -> Got<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Got<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Got<i32> {
        Ok(self.u32()? as i32)
    }

    pub(crate) fn f32(&mut self) -> Got<f32> {
        Ok(f32::from_bits(self.u32()?))
    }

    pub(crate) fn u64(&mut self) -> Got<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Got<&'a [u8]> {
        let len = self.u64()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(crate) fn str(&mut self) -> Got<String> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(crate) fn list<T>(&mut self, mut one: impl FnMut(&mut Reader<'a>) -> Got<T>) -> Got<Vec<T>> {
        let count = self.u64()?;
        // Every item takes at least a byte, so that no more are made than bytes are there.
        if count > self.bytes.len() as u64 {
            return Err(invalid(format!("found a list of {count} items in {} bytes", self.bytes.len())));
        }
        (0..count).map(|_| one(self)).collect()
    }

    pub(crate) fn option<T>(&mut self, one: impl FnOnce(&mut Reader<'a>) -> Got<T>) -> Got<Option<T>> {
        if self.u8()? == 0 { Ok(None) } else { one(self).map(Some) }
    }

    /// An item of a table by its code.
    pub(crate) fn coded<T>(&mut self, what: &str, find: impl FnOnce(u32) -> Option<T>) -> Got<T> {
        let code = self.u32()?;
        find(code).ok_or_else(|| invalid(format!("found {what} {code:#x}")))
    }
}

fn write_scale(w: &mut Writer, s: &ScaleOffset) {
    w.f32(s.scale).i32(s.offset);
}

fn read_scale(r: &mut Reader<'_>) -> Got<ScaleOffset> {
    Ok(ScaleOffset { scale: r.f32()?, offset: r.i32()? })
}

pub(crate) fn write_encoding(w: &mut Writer, e: &Encoding) {
    w.u32(e.code());
    match e {
        Encoding::None | Encoding::Other(_) => {}
        Encoding::ScaleOffset(s) => write_scale(w, s),
        Encoding::AxisScaleOffset { axis, scales } => {
            w.i32(*axis).list(scales, write_scale);
        }
        Encoding::BwScaleOffset { bitwidth, scale } => write_scale(w.u32(*bitwidth), scale),
        Encoding::BwAxisScaleOffset { bitwidth, axis, scales, offsets } => {
            w.u32(*bitwidth).i32(*axis);
            w.list(scales, |w, s| {
                w.f32(*s);
            })
            .list(offsets, |w, o| {
                w.i32(*o);
            });
        }
        Encoding::BlockwiseExpansion { axis, scales, blocks_per_axis, block_scale_bitwidth, block_scales } => {
            w.i32(*axis).list(scales, write_scale).u32(*blocks_per_axis).u32(*block_scale_bitwidth);
            match block_scales {
                BlockScales::U8(v) => w.u8(0).bytes(v),
                BlockScales::U16(v) => w.u8(1).list(v, |w, s| {
                    w.u32(u32::from(*s));
                }),
            };
        }
    }
}

pub(crate) fn read_encoding(r: &mut Reader<'_>) -> Got<Encoding> {
    let code = r.u32()?;
    Ok(match code {
        c if c == Encoding::None.code() => Encoding::None,
        0 => Encoding::ScaleOffset(read_scale(r)?),
        1 => Encoding::AxisScaleOffset { axis: r.i32()?, scales: r.list(read_scale)? },
        2 => Encoding::BwScaleOffset { bitwidth: r.u32()?, scale: read_scale(r)? },
        3 => Encoding::BwAxisScaleOffset {
            bitwidth: r.u32()?,
            axis: r.i32()?,
            scales: r.list(Reader::f32)?,
            offsets: r.list(Reader::i32)?,
        },
        5 => Encoding::BlockwiseExpansion {
            axis: r.i32()?,
            scales: r.list(read_scale)?,
            blocks_per_axis: r.u32()?,
            block_scale_bitwidth: r.u32()?,
            block_scales: match r.u8()? {
                0 => BlockScales::U8(r.bytes()?.to_vec()),
                _ => BlockScales::U16(r.list(|r| Ok(r.u32()? as u16))?),
            },
        },
        other => Encoding::Other(other),
    })
}

fn write_param(w: &mut Writer, p: &Param) {
    w.str(&p.name);
    match &p.value {
        ParamValue::Scalar(Scalar::Bool(v)) => {
            w.u8(0).u32(u32::from(*v));
        }
        ParamValue::Scalar(Scalar::I32(v)) => {
            w.u8(1).i32(*v);
        }
        ParamValue::Scalar(Scalar::U32(v)) => {
            w.u8(2).u32(*v);
        }
        ParamValue::Scalar(Scalar::F32(v)) => {
            w.u8(3).f32(*v);
        }
        ParamValue::Tensor { dtype, dims, data } => {
            w.u8(4)
                .u32(dtype.code())
                .list(dims, |w, d| {
                    w.u32(*d);
                })
                .bytes(data);
        }
    }
}

fn read_param(r: &mut Reader<'_>) -> Got<Param> {
    let name = r.str()?;
    let value = match r.u8()? {
        0 => ParamValue::Scalar(Scalar::Bool(r.u32()? != 0)),
        1 => ParamValue::Scalar(Scalar::I32(r.i32()?)),
        2 => ParamValue::Scalar(Scalar::U32(r.u32()?)),
        3 => ParamValue::Scalar(Scalar::F32(r.f32()?)),
        _ => ParamValue::Tensor {
            dtype: r.coded("a type of elements", DataType::from_code)?,
            dims: r.list(Reader::u32)?,
            data: r.bytes()?.to_vec(),
        },
    };
    Ok(Param { name, value })
}

/// A graph without the bytes of its constants; `places` has for each tensor whose bytes come with it where they begin.
pub(crate) fn write_graph(w: &mut Writer, g: &QnnGraph, places: &[Option<u64>]) {
    w.str(&g.name);
    let mut places = places.iter().copied();
    w.list(&g.tensors, |w, t| {
        w.str(&t.name).u32(t.kind.code()).u32(t.dtype.code()).list(&t.dims, |w, d| {
            w.u32(*d);
        });
        write_encoding(w, &t.encoding);
        w.option(places.next().flatten(), |w, place| {
            w.u64(place);
        });
    });
    w.list(&g.nodes, |w, n| {
        w.str(&n.name).str(&n.op).list(&n.params, write_param);
        let index = |w: &mut Writer, i: &usize| {
            w.u64(*i as u64);
        };
        w.list(&n.inputs, index).list(&n.outputs, index);
    });
}

/// A graph, and for each tensor whose bytes come with it where they begin.
pub(crate) fn read_graph(r: &mut Reader<'_>) -> Got<(QnnGraph, Vec<Option<u64>>)> {
    let name = r.str()?;
    let mut places = Vec::new();
    let tensors = r.list(|r| {
        let name = r.str()?;
        let kind = r.coded("a kind of tensor", TensorKind::from_code)?;
        let dtype = r.coded("a type of elements", DataType::from_code)?;
        let (dims, encoding) = (r.list(Reader::u32)?, read_encoding(r)?);
        places.push(r.option(Reader::u64)?);
        Ok(QnnTensor { name, kind, dtype, dims, encoding, data: None })
    })?;
    let nodes = r.list(|r| {
        let (name, op, params) = (r.str()?, r.str()?, r.list(read_param)?);
        let index = |r: &mut Reader<'_>| Ok(usize::try_from(r.u64()?).unwrap_or(usize::MAX));
        Ok(QnnNode { name, op, params, inputs: r.list(index)?, outputs: r.list(index)? })
    })?;
    Ok((QnnGraph { name, tensors, nodes }, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, 7, b"abc", &[b"de", b"f"]).expect("a vector takes everything");
        let mut from = &bytes[..];
        let frame = Frame::read(&mut from).expect("well formed").expect("not the end");
        assert_eq!(frame, Frame { kind: 7, head: 3, bulk: 3 });
        assert_eq!(read_vec(&mut from, 6).expect("six bytes are there"), b"abcdef");
        assert!(Frame::read(&mut from).expect("the end").is_none());
        assert!(read_vec(&mut &b"abc"[..], 1 << 40).is_err());
        bytes[0] ^= 1;
        assert!(Frame::read(&mut &bytes[..]).is_err());
        let long = Frame { kind: 0, head: MAX_HEAD + 1, bulk: 0 };
        assert!(Frame::read(&mut &long.bytes()[..]).is_err());
        assert!(Frame::read(&mut &long.bytes()[..9]).is_err());
    }

    #[test]
    fn graphs_come_out_as_they_went_in() {
        let so = |scale, offset| ScaleOffset { scale, offset };
        let encodings = [
            Encoding::None,
            Encoding::ScaleOffset(so(0.5, -128)),
            Encoding::AxisScaleOffset { axis: 1, scales: vec![so(0.1, 0), so(0.2, 3)] },
            Encoding::BwScaleOffset { bitwidth: 4, scale: so(2.0, 0) },
            Encoding::BwAxisScaleOffset { bitwidth: 4, axis: 3, scales: vec![1.0, 2.0], offsets: vec![] },
            Encoding::BlockwiseExpansion {
                axis: 0,
                scales: vec![so(1.0, 0)],
                blocks_per_axis: 2,
                block_scale_bitwidth: 4,
                block_scales: BlockScales::U8(vec![1, 15]),
            },
        ];
        let mut g = QnnGraph::new("kv_forward");
        for (i, encoding) in encodings.iter().enumerate() {
            let (name, kind, dtype) = (format!("t{i}"), TensorKind::Native, DataType::UFixed16);
            g.add_tensor(QnnTensor { name, kind, dtype, dims: vec![1, 2], encoding: encoding.clone(), data: None });
        }
        let params = vec![
            Param { name: "axis".to_owned(), value: ParamValue::Scalar(Scalar::U32(3)) },
            Param { name: "epsilon".to_owned(), value: ParamValue::Scalar(Scalar::F32(1e-5)) },
            Param { name: "ranges".to_owned(), value: ParamValue::i32s(&[1, 3], &[0, -4, 2]) },
        ];
        let (name, op) = ("n".to_owned(), "StridedSlice".to_owned());
        g.add_node(QnnNode { name, op, params, inputs: vec![0, 1], outputs: vec![2] });
        let mut w = Writer::default();
        let sent = [None, Some(64), None, None, None, None];
        write_graph(&mut w, &g, &sent);
        let (back, places) = read_graph(&mut Reader::new(&w.0)).expect("what was written is read");
        assert_eq!(format!("{back:?}"), format!("{g:?}"));
        assert_eq!(places, sent);
        for cut in 0..w.0.len() {
            assert!(read_graph(&mut Reader::new(&w.0[..cut])).is_err(), "cut to {cut} bytes");
        }
    }
}

//! Operators that move numbers without changing them.

use pteron_ir::{Arg, Node, Op, ValueId};

use super::{Builder, Res, params, scalar, u32_of, u32s};
use crate::graph::{Param, ParamValue, Scalar};

pub(super) fn is(op: Op) -> bool {
    matches!(
        op,
        Op::ViewCopy
            | Op::UnsqueezeCopy
            | Op::SqueezeDimsCopy
            | Op::SqueezeDimCopy
            | Op::PermuteCopy
            | Op::TransposeCopy
            | Op::ExpandCopy
            | Op::Repeat
            | Op::SliceCopy
            | Op::SelectCopy
            | Op::SplitWithSizesCopy
            | Op::Cat
            | Op::Index
            | Op::IndexSelect
            | Op::IndexPut
            | Op::IndexPutInto
    )
}

/// First, last and step of each dimension.
fn ranges(ranges: &[[i32; 3]]) -> Param {
    let value = ParamValue::i32s(&[u32_of(ranges.len()), 3], ranges.as_flattened());
    Param { name: "ranges".to_owned(), value }
}

fn i32_of(n: i64) -> Res<i32> {
    i32::try_from(n).map_err(|_| format!("{n} does not fit 32 bits"))
}

impl Builder<'_> {
    pub(super) fn shape(&mut self, node: &Node) -> Res<()> {
        let out = *node.outputs.first().ok_or("it has no output")?;
        match node.op {
            Op::PermuteCopy | Op::TransposeCopy => self.permutation(node, out),
            Op::ExpandCopy | Op::Repeat => self.tile(node, out),
            Op::SliceCopy => self.slice(node, out),
            Op::SelectCopy => self.select(node, out),
            Op::SplitWithSizesCopy => self.split(node),
            Op::Cat => self.cat(node, out),
            Op::Index | Op::IndexSelect => self.index(node, out),
            Op::IndexPut | Op::IndexPutInto => self.index_put(node, out),
            _ => {
                let x = self.arg(node, 0)?;
                let y = self.output(out)?;
                self.op("Reshape", Vec::new(), vec![x], vec![y]);
                Ok(())
            }
        }
    }

    fn permutation(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let x = self.arg(node, 0)?;
        let rank = self.out.tensors[x].dims.len();
        let order: Vec<usize> = if node.op == Op::PermuteCopy {
            let dims = params::ints(node, 1).ok_or("its order is not known")?;
            dims.iter().map(|&d| self.axis(node, 0, Some(d))).collect::<Res<_>>()?
        } else {
            let (a, b) = (self.axis(node, 0, params::int(node, 1))?, self.axis(node, 0, params::int(node, 2))?);
            let mut order: Vec<usize> = (0..rank).collect();
            order.swap(a, b);
            order
        };
        let y = self.output(out)?;
        let order: Vec<u32> = order.into_iter().map(u32_of).collect();
        self.op("Transpose", vec![u32s("perm", &order)], vec![x], vec![y]);
        Ok(())
    }

    fn tile(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let mut x = self.arg(node, 0)?;
        let to = self.dims(out)?;
        let mut from = self.out.tensors[x].dims.clone();
        if from.len() < to.len() {
            from.splice(0..0, std::iter::repeat_n(1, to.len() - from.len()));
            let wide = self.like(x, from.clone(), "wide");
            self.op("Reshape", Vec::new(), vec![x], vec![wide]);
            x = wide;
        }
        let y = self.output(out)?;
        let multiples: Vec<u32> = to.iter().zip(&from).map(|(t, f)| t / (*f).max(1)).collect();
        self.op("Tile", vec![u32s("multiples", &multiples)], vec![x], vec![y]);
        Ok(())
    }

    /// The whole of a tensor, as ranges.
    fn whole(&self, t: usize) -> Res<Vec<[i32; 3]>> {
        self.out.tensors[t].dims.iter().map(|&d| Ok([0, i32_of(d.into())?, 1])).collect()
    }

    fn slice(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let x = self.arg(node, 0)?;
        let dim = self.axis(node, 0, params::int(node, 1))?;
        let size = i64::from(self.out.tensors[x].dims[dim]);
        let bound = |i: usize, default: i64| match node.args.get(i) {
            Some(Arg::None) | None => Ok(default),
            Some(Arg::Int(n)) => Ok((if *n < 0 { n.saturating_add(size) } else { *n }).clamp(0, size)),
            _ => Err("where it begins and ends is not known before the graph runs".to_owned()),
        };
        let (start, end) = (bound(2, 0)?, bound(3, size)?);
        let step = params::int(node, 4).unwrap_or(1);
        let mut parts = self.whole(x)?;
        parts[dim] = [i32_of(start)?, i32_of(end)?, i32_of(step)?];
        let y = self.output(out)?;
        self.op("StridedSlice", vec![ranges(&parts)], vec![x], vec![y]);
        Ok(())
    }

    fn select(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let x = self.arg(node, 0)?;
        let dim = self.axis(node, 0, params::int(node, 1))?;
        let size = i64::from(self.out.tensors[x].dims[dim]);
        let index = params::int(node, 2).ok_or("what it selects is not known before the graph runs")?;
        let index = if index < 0 { index + size } else { index };
        let mut parts = self.whole(x)?;
        parts[dim] = [i32_of(index)?, i32_of(index + 1)?, 1];
        let mut dims = self.out.tensors[x].dims.clone();
        dims[dim] = 1;
        let row = self.like(x, dims, "row");
        self.op("StridedSlice", vec![ranges(&parts)], vec![x], vec![row]);
        let y = self.output(out)?;
        self.op("Reshape", Vec::new(), vec![row], vec![y]);
        Ok(())
    }

    fn split(&mut self, node: &Node) -> Res<()> {
        let x = self.arg(node, 0)?;
        let sizes = params::ints(node, 1).ok_or("its sizes are not known")?;
        let dim = self.axis(node, 0, params::int(node, 2).or(Some(0)))?;
        let mut start = 0;
        for (&out, size) in node.outputs.iter().zip(sizes) {
            let mut parts = self.whole(x)?;
            parts[dim] = [i32_of(start)?, i32_of(start + size)?, 1];
            start += size;
            let y = self.output(out)?;
            self.op("StridedSlice", vec![ranges(&parts)], vec![x], vec![y]);
        }
        Ok(())
    }

    fn cat(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let Some(Arg::Values(items)) = node.args.first() else { return Err("its tensors are no list".to_owned()) };
        let inputs: Vec<usize> = items.iter().flatten().map(|&v| self.tensor(v)).collect::<Res<_>>()?;
        let rank = i64::try_from(self.dims(out)?.len()).unwrap_or(0);
        let dim = params::int(node, 1).unwrap_or(0);
        let axis = u32::try_from(if dim < 0 { dim + rank } else { dim }).map_err(|_| "its dimension is not known")?;
        let y = self.output(out)?;
        self.op("Concat", vec![scalar("axis", Scalar::U32(axis))], inputs, vec![y]);
        Ok(())
    }

    /// The one dimension that is indexed, and the index.
    fn one_index(node: &Node) -> Res<(usize, ValueId)> {
        let Some(Arg::Values(items)) = node.args.get(1) else { return Err("its indices are no list".to_owned()) };
        let mut given = items.iter().enumerate().filter_map(|(i, v)| v.map(|v| (i, v)));
        match (given.next(), given.next()) {
            (Some(one), None) => Ok(one),
            _ => Err("it indexes more than one dimension".to_owned()),
        }
    }

    fn index(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let (dim, index) = if node.op == Op::IndexSelect {
            let index = params::value(node, 2).ok_or("its index is no tensor")?;
            (self.axis(node, 0, params::int(node, 1))?, index)
        } else {
            Builder::one_index(node)?
        };
        self.gather(params::value(node, 0).ok_or("it has no table")?, index, dim, out)
    }

    /// Rows of `table` along `dim`.
    pub(super) fn gather(&mut self, table: ValueId, index: ValueId, dim: usize, out: ValueId) -> Res<()> {
        let inputs = vec![self.tensor(table)?, self.tensor(index)?];
        let y = self.output(out)?;
        let axis = i32::try_from(dim).map_err(|_| "its dimension is not known")?;
        self.op("Gather", vec![scalar("axis", Scalar::I32(axis))], inputs, vec![y]);
        Ok(())
    }

    /// Rows of the first dimension, each by its own index.
    fn index_put(&mut self, node: &Node, out: ValueId) -> Res<()> {
        let (dim, index) = Builder::one_index(node)?;
        if dim != 0 {
            return Err(format!("it writes along dimension {dim}: ScatterNd writes along the first one"));
        }
        if matches!(node.args.get(3), Some(Arg::Bool(true))) {
            return Err("it adds to what is there".to_owned());
        }
        let into = self.arg(node, 0)?;
        let index = self.tensor(index)?;
        let values = self.arg(node, 2)?;
        let &[count] = self.out.tensors[index].dims.as_slice() else {
            return Err("its index is no vector".to_owned());
        };
        let mut expected = self.out.tensors[into].dims.clone();
        expected[0] = count;
        if self.out.tensors[values].dims != expected {
            return Err(format!("it writes {:?}, expected {expected:?}", self.out.tensors[values].dims));
        }
        let column = self.like(index, vec![count, 1], "column");
        self.op("Reshape", Vec::new(), vec![index], vec![column]);
        let y = self.output(out)?;
        self.op("ScatterNd", vec![scalar("reduction", Scalar::U32(0))], vec![into, column, values], vec![y]);
        Ok(())
    }
}

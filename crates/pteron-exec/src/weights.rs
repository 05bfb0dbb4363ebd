//! Quantized weights: which node reads which matrix, and how a dequantized constant becomes a packed one.

use pteron_ir::{Arg, Graph, IntArg, NodeId, Op, TensorType, ValueId};
use pteron_kernels::packed::{CodeMatrix, Packed};
use pteron_tensor::{DType, View};

use crate::fold::{Folder, Item, Known, Work};

/// A weight as a linear layer reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Output channels.
    pub(crate) n: usize,
    /// Factors of one.
    pub(crate) k: usize,
    /// The tensor is `[k, n]`: the right-hand side of a matrix product.
    pub(crate) turned: bool,
}

impl Weight {
    /// The most bytes that it takes when it is packed: 8 bits a code, a scale of 32 bits and a sum for 16 of them.
    pub(crate) fn most_bytes(self) -> u64 {
        let codes = (self.n as u64).next_multiple_of(16).saturating_mul((self.k as u64).next_multiple_of(64));
        codes.saturating_mul(3) / 2 + 4096
    }
}

/// The weight of a linear layer or a matrix product, and the value that it is: f32, of two fixed sizes.
pub(crate) fn weight_of(graph: &Graph, n: NodeId) -> Option<(Weight, ValueId)> {
    let node = &graph.nodes[n];
    let (at, turned) = match node.op {
        Op::Linear => (1, false),
        Op::Mm => (1, true),
        Op::AddMm => (2, true),
        _ => return None,
    };
    let Some(Arg::Value(v)) = node.args.get(at) else { return None };
    let ty = graph.ty(*v).as_tensor().filter(|t| t.dtype == DType::F32 && t.order.is_none())?;
    match ty.fixed_sizes()?[..] {
        [a, b] if a > 0 && b > 0 => {
            let (n, k) = if turned { (b, a) } else { (a, b) };
            Some((Weight { n, k, turned }, *v))
        }
        _ => None,
    }
}

/// Where the parameters of a dequantized tensor are, by the position of an element.
enum Grid {
    /// One for so many neighbours in memory.
    Run(usize),
    /// One for each column of a matrix.
    Columns,
}

/// A dequantized matrix: its codes and their parameters.
struct Dequantized<'a> {
    codes: &'a Known,
    scales: Number<'a>,
    zero_points: Option<Number<'a>>,
    grid: Grid,
    /// The order of the matrix's two dimensions is the other one.
    turned: bool,
}

/// Numbers that are known: a tensor of them, or one.
enum Number<'a> {
    Tensor(&'a Known),
    One(f64),
}

fn sizes_of(known: &Known) -> Option<Vec<usize>> {
    match known {
        Known::Const(_, ty) | Known::Item(_, ty) => Some(ty.fixed_sizes()?.to_vec()),
        Known::Other(_) => None,
    }
}

fn dtype_of(known: &Known) -> Option<&TensorType> {
    match known {
        Known::Const(_, ty) | Known::Item(_, ty) => Some(ty),
        Known::Other(_) => None,
    }
}

fn int(known: Option<&Known>) -> Option<i64> {
    match known {
        Some(Known::Other(Arg::Int(i))) => Some(*i),
        _ => None,
    }
}

fn number(known: Option<&Known>) -> Option<f64> {
    match known {
        Some(Known::Other(Arg::Float(f))) => Some(*f),
        Some(Known::Other(Arg::Int(i))) => Some(*i as f64),
        _ => None,
    }
}

fn ints(known: Option<&Known>) -> Option<Vec<i64>> {
    let Some(Known::Other(Arg::Ints(list))) = known else { return None };
    list.iter().map(|i| if let IntArg::Const(c) = i { Some(*c) } else { None }).collect()
}

/// A tensor argument, or none where it may be missing.
fn tensor(known: Option<&Known>) -> Option<Option<Number<'_>>> {
    match known {
        None | Some(Known::Other(Arg::None)) => Some(None),
        Some(k @ (Known::Const(..) | Known::Item(..))) => Some(Some(Number::Tensor(k))),
        Some(Known::Other(_)) => None,
    }
}

/// Neighbours that share parameters, where blocks of these sizes are runs of memory.
fn run_of(sizes: &[usize], block: &[i64]) -> Option<usize> {
    let block: Vec<usize> = block.iter().map(|&b| usize::try_from(b).ok()).collect::<Option<_>>()?;
    // Ones, then a size that divides the dimension, then whole dimensions.
    let first = block.iter().position(|&b| b != 1).unwrap_or(block.len().checked_sub(1)?);
    let whole = block.len() == sizes.len() && (first + 1..sizes.len()).all(|i| block[i] == sizes[i]);
    let cut = *sizes.get(first)?;
    (whole && block[first] > 0 && cut % block[first] == 0).then(|| block[first..].iter().product())
}

/// What `item` dequantizes.
fn dequantized<'a>(folder: &'a Folder, item: &'a Item) -> Option<Dequantized<'a>> {
    let arg = |i: usize| item.args.get(i);
    if matches!(item.op, Op::PermuteCopy | Op::TransposeCopy) {
        let swaps = match item.op {
            Op::PermuteCopy => ints(arg(1))? == [1, 0],
            _ => {
                let place = |d: i64| if d < 0 { d + 2 } else { d };
                place(int(arg(1))?) != place(int(arg(2))?)
            }
        };
        let Some(Known::Item(from, ty)) = arg(0) else { return None };
        let inner = dequantized(folder, folder.item(*from)?)?;
        return (swaps && ty.dims.len() == 2 && !inner.turned).then_some(Dequantized { turned: true, ..inner });
    }
    let codes = arg(0)?;
    let sizes = sizes_of(codes)?;
    let ty = dtype_of(codes)?;
    if !matches!(ty.dtype, DType::I8 | DType::U8 | DType::I4) || ty.order.is_some() || item.ty.dtype != DType::F32 {
        return None;
    }
    let numel: usize = sizes.iter().product();
    let plain = |scales, zero_points, run: usize| Dequantized {
        codes,
        scales,
        zero_points,
        grid: Grid::Run(run),
        turned: false,
    };
    Some(match item.op {
        Op::DequantizePerTensor => plain(Number::One(number(arg(1))?), Some(Number::One(number(arg(2))?)), numel),
        Op::DequantizePerTensorTensor | Op::DequantizePerTensorTensor2 => {
            plain(tensor(arg(1))??, tensor(arg(2))?, numel)
        }
        Op::DequantizePerToken => plain(tensor(arg(1))??, tensor(arg(2))?, *sizes.last()?),
        Op::DequantizePerChannelGroup => {
            let group = usize::try_from(int(arg(6))?).ok()?;
            plain(tensor(arg(1))??, tensor(arg(2))?, group.min(*sizes.last()?))
        }
        Op::DequantizeAffine => plain(tensor(arg(2))??, tensor(arg(3))?, run_of(&sizes, &ints(arg(1))?)?),
        Op::DequantizePerChannel => {
            let axis = int(arg(3))?;
            let axis = usize::try_from(if axis < 0 { axis + i64::try_from(sizes.len()).ok()? } else { axis }).ok()?;
            let ones = sizes.get(..axis)?.iter().all(|&d| d == 1);
            let grid = match (ones, sizes.len()) {
                (true, _) => Grid::Run(sizes.get(axis + 1..)?.iter().product()),
                (false, 2) => Grid::Columns,
                _ => return None,
            };
            Dequantized { grid, ..plain(tensor(arg(1))??, tensor(arg(2))?, 0) }
        }
        // Codes that are numbers already: torchao's `int8`, which multiplies by the scales afterwards.
        Op::ToCopy if ty.dtype == DType::I8 => plain(Number::One(1.0), None, numel),
        _ => return None,
    })
}

/// True if an item is a dequantized matrix of a kind that is packed.
pub(crate) fn is_packable(folder: &Folder, item: &Item) -> bool {
    dequantized(folder, item).is_some()
}

/// Packs `item` for the layers that read it as `weight`; `None` where kernels do not have it: its elements are needed then.
pub(crate) fn pack(work: &mut Work<'_>, item: &Item, weight: Weight) -> Result<Option<Packed>, String> {
    let Some(d) = dequantized(work.folder(), item) else { return Ok(None) };
    let mut tensors = vec![d.codes];
    tensors.extend([Some(&d.scales), d.zero_points.as_ref()].into_iter().flatten().filter_map(|n| match n {
        Number::Tensor(k) => Some(*k),
        Number::One(_) => None,
    }));
    for t in &tensors {
        if let Known::Item(i, _) = t {
            work.need(*i)?;
        }
    }
    for t in &tensors {
        work.bring(t)?;
    }
    let packed = packed(work, &d, weight);
    work.let_go();
    for t in &tensors {
        if let (Ok(Some(_)), Known::Const(c, _)) = (&packed, t) {
            work.constants.release(*c);
        }
    }
    packed
}

/// Packs codes whose parts are all there.
fn packed(work: &Work<'_>, d: &Dequantized<'_>, weight: Weight) -> Result<Option<Packed>, String> {
    let Weight { n, k, turned } = weight;
    // Columns of the matrix that the layer reads are rows of the one that is dequantized.
    let by_columns = turned != d.turned;
    let computed: Vec<f32>;
    let (scales, group): (&[f32], usize) = match scales_in_place(work, d, [n, k], by_columns) {
        Some(found) => found,
        None => {
            let Some((all, group)) = expanded(work, &d.scales, &d.grid, [n, k], by_columns)? else { return Ok(None) };
            computed = all.iter().map(|&s| s as f32).collect();
            (&computed, group)
        }
    };
    let zero_points = match &d.zero_points {
        None => None,
        Some(z) => match expanded(work, z, &d.grid, [n, k], by_columns)? {
            Some((z, g)) if g == group => Some(z),
            _ => return Ok(None),
        },
    };
    let zero_points = match zero_points {
        Some(z) if z.iter().any(|z| z.fract() != 0.0 || z.abs() > 65_536.0) => return Ok(None),
        z => z.map(|z| z.iter().map(|&z| z as i32).collect::<Vec<i32>>()),
    };
    let Some(ty) = dtype_of(d.codes) else { return Ok(None) };
    let strides = if by_columns { [1, n] } else { [k, 1] };
    let (sizes, bytes) = ([n, k], bytes(work, d.codes));
    let codes = View::new(ty.dtype, &sizes, &strides, bytes).map_err(|e| e.to_string())?;
    let matrix = CodeMatrix { codes, scales, zero_points: zero_points.as_deref(), group };
    Ok(Packed::new(work.ctx, &matrix).ok())
}

fn bytes<'a>(work: &'a Work<'_>, known: &Known) -> &'a [u8] {
    match known {
        Known::Const(c, _) => work.constant(*c),
        Known::Item(i, _) => work.done(*i),
        Known::Other(_) => &[],
    }
}

/// Scales in f32 that lie as they are packed.
fn scales_in_place<'a>(
    work: &'a Work<'_>,
    d: &Dequantized<'_>,
    [n, k]: [usize; 2],
    by_columns: bool,
) -> Option<(&'a [f32], usize)> {
    let (Number::Tensor(t), &Grid::Run(run)) = (&d.scales, &d.grid) else { return None };
    if by_columns || run == 0 || !k.is_multiple_of(run) || dtype_of(t)?.dtype != DType::F32 {
        return None;
    }
    let all: &[f32] = bytemuck::try_cast_slice(bytes(work, t)).ok()?;
    (all.len() == n * (k / run)).then_some((all, run))
}

/// Parameters of the groups of each output channel, `[n][k / group]`, and `group`; `None` where groups do not lie in rows.
fn expanded(
    work: &Work<'_>,
    number: &Number<'_>,
    grid: &Grid,
    [n, k]: [usize; 2],
    by_columns: bool,
) -> Result<Option<(Vec<f64>, usize)>, String> {
    let all = match number {
        Number::One(v) => vec![*v],
        Number::Tensor(t) => {
            let (Some(sizes), Some(ty)) = (sizes_of(t), dtype_of(t)) else { return Ok(None) };
            let strides: Vec<usize> = (0..sizes.len()).map(|i| sizes[i + 1..].iter().product()).collect();
            View::new(ty.dtype, &sizes, &strides, bytes(work, t)).map_err(|e| e.to_string())?.to_f64_vec()
        }
    };
    Ok(match (grid, by_columns) {
        _ if all.len() == 1 => Some((vec![all[0]; n], k)),
        (Grid::Run(run), false) if *run > 0 && k.is_multiple_of(*run) && all.len() == n * (k / run) => {
            Some((all, *run))
        }
        (Grid::Columns, true) if all.len() == n => Some((all, k)),
        _ => None,
    })
}

//! The quantization kernels against PyTorch's eager operators and ExecuTorch's C++ kernels, bit for bit
//! (`goldens/quant.txt`, made by `tools/oracle/make_quant_goldens.py`).

use std::collections::BTreeMap;

use pteron_kernels::attention::SdpaOptions;
use pteron_kernels::quant::qparams::Mapping;
use pteron_kernels::quant::{self, Affine, Coded, Params, QuantSemantics, TableBits};
use pteron_kernels::{Context, KernelResult};
use pteron_tensor::{AlignedBytes, DType, Tensor, View};

enum A {
    None,
    Tensor(usize),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(DType),
    Str(String),
    Ints(Vec<i64>),
}

struct Case {
    op: String,
    rule: String,
    args: Vec<A>,
    outs: Vec<usize>,
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let bits = four.iter().filter(|&&c| c != b'=').fold(0u32, |n, &c| n << 6 | u32::from(digit(c)));
        match four.iter().filter(|&&c| c != b'=').count() {
            4 => out.extend([(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]),
            3 => out.extend([(bits >> 10) as u8, (bits >> 2) as u8]),
            _ => out.push((bits >> 4) as u8),
        }
    }
    out
}

fn ints(text: &str) -> Vec<i64> {
    if text == "-" { Vec::new() } else { text.split(',').map(|n| n.parse().unwrap()).collect() }
}

fn read() -> (Vec<Tensor>, Vec<Case>) {
    let (mut tensors, mut cases): (Vec<Tensor>, Vec<Case>) = (Vec::new(), Vec::new());
    for line in include_str!("goldens/quant.txt").lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        match word {
            "let" => {
                let parts: Vec<&str> = rest.split(' ').collect();
                let sizes: Vec<usize> = ints(parts[1]).iter().map(|&n| n as usize).collect();
                let bytes = base64(if parts[2] == "-" { "" } else { parts[2] });
                let bytes = AlignedBytes::copied(&bytes);
                tensors.push(Tensor::from_bytes(parts[0].parse().unwrap(), &sizes, bytes).unwrap());
            }
            "case" => {
                let (op, rule) = rest.split_once(' ').unwrap();
                cases.push(Case { op: op.into(), rule: rule.into(), args: Vec::new(), outs: Vec::new() });
            }
            "out" => cases.last_mut().unwrap().outs.push(rest.parse().unwrap()),
            "arg" => {
                let (kind, value) = rest.split_once(' ').unwrap_or((rest, ""));
                cases.last_mut().unwrap().args.push(match kind {
                    "none" => A::None,
                    "tensor" => A::Tensor(value.parse().unwrap()),
                    "int" => A::Int(value.parse().unwrap()),
                    "bool" => A::Bool(value == "1"),
                    "dtype" => A::DType(value.parse().unwrap()),
                    "str" => A::Str(value.into()),
                    "ints" => A::Ints(ints(value)),
                    "float" => {
                        let bytes: Vec<u8> =
                            (0..8).map(|i| u8::from_str_radix(&value[i * 2..i * 2 + 2], 16).unwrap()).collect();
                        A::Float(f64::from_le_bytes(bytes.try_into().unwrap()))
                    }
                    other => panic!("{other}"),
                });
            }
            other => panic!("{other}"),
        }
    }
    (tensors, cases)
}

struct Args<'a> {
    list: &'a [A],
    tensors: &'a [Tensor],
}

impl<'a> Args<'a> {
    fn t(&self, i: usize) -> View<'a> {
        self.maybe(i).unwrap_or_else(|| panic!("argument {i} is no tensor"))
    }
    fn maybe(&self, i: usize) -> Option<View<'a>> {
        match self.list[i] {
            A::Tensor(k) => Some(self.tensors[k].view()),
            _ => None,
        }
    }
    fn int(&self, i: usize) -> i64 {
        match self.list[i] {
            A::Int(v) => v,
            _ => panic!("argument {i} is no int"),
        }
    }
    fn float(&self, i: usize) -> f64 {
        match self.list[i] {
            A::Float(v) => v,
            _ => panic!("argument {i} is no float"),
        }
    }
    fn ints(&self, i: usize) -> &'a [i64] {
        match &self.list[i] {
            A::Ints(v) => v,
            _ => panic!("argument {i} is no list"),
        }
    }
    fn dtype(&self, i: usize) -> DType {
        match self.list[i] {
            A::DType(v) => v,
            _ => panic!("argument {i} is no dtype"),
        }
    }
    /// Scales at `i`, zero points behind, codes from `range` on.
    fn params(&self, i: usize, range: usize) -> Params<'a> {
        let (qmin, qmax) = (self.int(range), self.int(range + 1));
        Params { scales: self.t(i), zero_points: self.maybe(i + 1), qmin, qmax }
    }
}

fn run(ctx: &Context, case: &Case, tensors: &[Tensor], outs: &mut [Tensor]) -> KernelResult {
    let a = Args { list: &case.args, tensors };
    let semantics = match case.rule.as_str() {
        "eager" => QuantSemantics::Eager,
        "executorch" => QuantSemantics::ExecuTorch,
        other => panic!("{other}"),
    };
    let (first, rest) = outs.split_first_mut().unwrap();
    let out = &mut first.view_mut();
    let per_tensor = |i: usize| match &a.list[i] {
        A::Tensor(_) => (a.t(i).to_f64_vec()[0], a.t(i + 1).to_f64_vec()[0] as i64),
        _ => (a.float(i), a.int(i + 1)),
    };
    match case.op.as_str() {
        "quantize_per_tensor" => {
            let (scale, zp) = per_tensor(1);
            quant::quantize_per_tensor(ctx, semantics, &a.t(0), scale, zp, (a.int(3), a.int(4)), out)
        }
        "dequantize_per_tensor" => {
            let (scale, zp) = per_tensor(1);
            quant::dequantize_per_tensor(ctx, semantics, &a.t(0), scale, zp, out)
        }
        "quantize_per_channel" => quant::quantize_per_channel(ctx, semantics, &a.t(0), &a.params(1, 4), a.int(3), out),
        "dequantize_per_channel" => {
            quant::dequantize_per_channel(ctx, semantics, &a.t(0), &a.params(1, 4), a.int(3), out)
        }
        "fake_quant_per_channel" => quant::fake_quant_per_channel(ctx, &a.t(0), &a.params(1, 4), a.int(3), out),
        "quantize_per_token" => quant::quantize_per_token(ctx, semantics, &a.t(0), &a.params(1, 3), out),
        "dequantize_per_token" => quant::dequantize_per_token(ctx, semantics, &a.t(0), &a.params(1, 3), out),
        "quantize_per_channel_group" => quant::quantize_per_channel_group(ctx, &a.t(0), &a.params(1, 3), a.int(6), out),
        "dequantize_per_channel_group" => {
            quant::dequantize_per_channel_group(ctx, &a.t(0), &a.params(1, 3), a.int(6), out)
        }
        "choose_qparams" => {
            let range = (a.int(1), a.int(2));
            let (s, z) = (first.view_mut(), rest[0].view_mut());
            quant::choose_qparams(ctx, semantics, &a.t(0), range, a.float(3), s, z)
        }
        "choose_qparams_symmetric" => {
            let range = (a.int(1), a.int(2));
            let (s, z) = (first.view_mut(), rest[0].view_mut());
            quant::choose_qparams_symmetric(ctx, &a.t(0), range, a.float(3), a.dtype(4), s, z)
        }
        "choose_qparams_per_token_asymmetric" => {
            quant::choose_qparams_per_token_asymmetric(ctx, semantics, &a.t(0), first.view_mut(), rest[0].view_mut())
        }
        "choose_qparams_per_token" => {
            quant::choose_qparams_per_token(ctx, &a.t(0), first.view_mut(), rest[0].view_mut())
        }
        "choose_qparams_affine" => {
            let A::Str(mapping) = &a.list[1] else { panic!() };
            let mapping = match mapping.as_str() {
                "SYMMETRIC" => Mapping::Symmetric,
                "SYMMETRIC_NO_CLIPPING_ERR" => Mapping::SymmetricNoClippingError,
                _ => Mapping::Asymmetric,
            };
            let eps = if let A::Float(e) = a.list[6] { Some(e) } else { None };
            let range = (a.int(4), a.int(5));
            let (s, z) = (first.view_mut(), rest[0].view_mut());
            quant::choose_qparams_affine(ctx, &a.t(0), mapping, a.ints(2), range, eps, s, z)
        }
        "quantize_affine" => quant::quantize_affine(ctx, &a.t(0), &a.params(2, 5), a.ints(1), out),
        "dequantize_affine" => quant::dequantize_affine(ctx, &a.t(0), &a.params(2, 5), a.ints(1), out),
        "embedding_byte" | "embedding_4bit" | "embedding_2bit" => {
            let bits = match case.op.as_str() {
                "embedding_byte" => TableBits::Eight,
                "embedding_4bit" => TableBits::Four,
                _ => TableBits::Two,
            };
            quant::embedding(ctx, bits, &a.t(0), &a.t(1), a.maybe(2).as_ref(), &a.t(5), out)
        }
        "add" => {
            let affine =
                |i: usize| Affine { scale: a.float(i), zero_point: a.int(i + 1), range: (a.int(i + 2), a.int(i + 3)) };
            quant::add(ctx, (&a.t(0), affine(1)), (&a.t(5), affine(6)), affine(10), out)
        }
        "mixed_mm" | "mixed_linear" => {
            let p = Params { scales: a.t(2), zero_points: a.maybe(3), qmin: -128, qmax: 127 };
            let run = if case.op == "mixed_mm" { quant::mixed_mm } else { quant::mixed_linear };
            run(ctx, &a.t(0), &a.t(1), &p, out)
        }
        "fast_hadamard_transform" => quant::fast_hadamard_transform(ctx, &a.t(0), out),
        "custom_quantized_sdpa" => {
            let coded = |i: usize, p: usize| Coded { codes: a.t(i), zero_points: a.t(p), scales: a.t(p + 1) };
            let flag = |i: usize| matches!(a.list[i], A::Bool(true));
            let options = SdpaOptions { is_causal: flag(6), is_seq_at_dim_2: flag(14), ..SdpaOptions::default() };
            let qkv = [&coded(0, 8), &coded(1, 10), &coded(2, 12)];
            quant::custom_quantized_sdpa(ctx, qkv, a.int(3), a.maybe(4).as_ref(), options, out)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn as_recorded() {
    let (tensors, cases) = read();
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for threads in [1, 3] {
        let ctx = Context::new(threads);
        for (i, case) in cases.iter().enumerate() {
            let expected: Vec<&Tensor> = case.outs.iter().map(|&k| &tensors[k]).collect();
            let mut outs: Vec<Tensor> = expected.iter().map(|t| Tensor::zeros(t.dtype(), t.sizes()).unwrap()).collect();
            if let Err(e) = run(&ctx, case, &tensors, &mut outs) {
                wrong.push(format!("{i} {} {}: {e}", case.op, case.rule));
                continue;
            }
            // Sums have no order in common with the original.
            let summed = matches!(
                case.op.as_str(),
                "mixed_mm" | "mixed_linear" | "fast_hadamard_transform" | "custom_quantized_sdpa"
            );
            for (got, want) in outs.iter().zip(&expected) {
                let (g, w) = (got.view().to_f64_vec(), want.view().to_f64_vec());
                let same = |(a, b): (&f64, &f64)| match summed {
                    true => (a - b).abs() <= 2e-6 * w.iter().fold(1e-3f64, |m, v| m.max(v.abs())),
                    false => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
                };
                if let Some(k) = g.iter().zip(&w).position(|p| !same(p)) {
                    wrong.push(format!("{i} {} {} at {k}: {} instead of {}", case.op, case.rule, g[k], w[k]));
                }
            }
            *seen.entry((case.op.clone(), case.rule.clone())).or_default() += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(seen.len() >= 29, "{seen:?}");
}

"""Writes quant.txt: what PyTorch's eager quantization operators and ExecuTorch's C++ kernels compute, bit for bit.

Usage: python make_quant_goldens.py > crates/pteron-kernels/tests/goldens/quant.txt
Made with executorch 1.5.1, torch 2.14, torchao 0.18 on x86-64. ExecuTorch's kernels are called through the library that its
wheel has for tracing (`executorch.kernels.quantized`, `….custom_ops`): the same C++ as in the runtime.

A line `let DTYPE SIZES BYTES` gives the next tensor, numbered from 0, its little-endian bytes in base 64. A case is a line
`case OPERATOR RULE`, lines `arg …` in the order of the schema, and lines `out NUMBER`.
"""
import base64
import struct
import sys

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401
import torchao  # noqa: F401
from torchao.quantization import quant_primitives  # noqa: F401
import executorch.kernels.quantized  # noqa: F401
import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.runtime import Runtime

q = torch.ops.quantized_decomposed
ao = torch.ops.torchao
NAMES = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
         torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.uint16: "u16"}
out_lines = []


tensors = {}


def tensor(t):
    """The number of a tensor that stands in a `let` line, one for all that are equal."""
    t = t.detach().contiguous()
    raw = bytes(t.reshape(-1).view(torch.uint8).numpy().tobytes()) if t.numel() else b""
    text = f"{NAMES[t.dtype]} {','.join(map(str, t.shape)) or '-'} {base64.b64encode(raw).decode() or '-'}"
    if text not in tensors:
        tensors[text] = len(tensors)
        out_lines.append(f"let {text}")
    return str(tensors[text])


def arg(a):
    if a is None:
        return "none"
    if isinstance(a, torch.Tensor):
        return "tensor " + tensor(a)
    if isinstance(a, bool):
        return f"bool {int(a)}"
    if isinstance(a, int):
        return f"int {a}"
    if isinstance(a, float):
        return f"float {struct.pack('<d', a).hex()}"
    if isinstance(a, torch.dtype):
        return f"dtype {NAMES[a]}"
    if isinstance(a, str):
        return f"str {a}"
    if isinstance(a, (list, tuple)):
        return "ints " + ",".join(map(str, a))
    raise TypeError(a)


def case(op, rule, args, outs):
    outs = outs if isinstance(outs, (tuple, list)) else [outs]
    lines = ["arg " + arg(a) for a in args] + ["out " + tensor(o) for o in outs]
    out_lines.extend([f"case {op} {rule}"] + lines)


def call(name, overload):
    return getattr(getattr(q, name), overload)


def both(name, overload, out_overload, args, out, rules=("eager", "executorch"), kw=()):
    """One case for each rule; `out` makes the tensors that the out variant writes."""
    kwargs = dict(kw)
    if "eager" in rules:
        case(name, "eager", list(args) + list(kwargs.values()), call(name, overload)(*args, **kwargs))
    if "executorch" in rules:
        outs = out()
        if isinstance(outs, dict):
            call(name, out_overload)(*args, **kwargs, **outs)
            outs = list(outs.values())
        else:
            call(name, out_overload)(*args, **kwargs, out=outs)
        case(name, "executorch", list(args) + list(kwargs.values()), outs)


torch.manual_seed(11)
wave = 3 * torch.sin(0.37 * torch.arange(64, dtype=torch.float32)) + 0.2
edge = torch.tensor([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 3.5, 126.5, 127.5, -128.5, -129.5, 1e9, -1e9, 3e38, -3e38, 1e-30,
                     float("inf"), float("-inf"), float("nan"), 0.24999999, 0.75, 1.2499999, 254.5, 255.5, 65535.5])
mixed = torch.randn(3, 5, 7) * 4
INTS = [(torch.int8, -128, 127), (torch.uint8, 0, 255), (torch.int16, -32767, 32767), (torch.uint16, 0, 65535),
        (torch.int32, 0, 65535), (torch.int8, -8, 7), (torch.int8, -127, 127)]

# Per tensor.
for dt, lo, hi in INTS:
    zp = (lo + hi) // 2 + 3 if lo < 0 else lo + 7
    for x, s in [(edge, 1.0), (wave, 0.0234443061), (mixed, 0.1), (wave.view(4, 16), 1e-3)]:
        out = lambda: torch.empty(x.shape, dtype=dt)
        both("quantize_per_tensor", "default", "out", [x, s, zp, lo, hi, dt], out)
    codes = torch.randint(lo, hi + 1, (5, 9)).to(dt)
    both("dequantize_per_tensor", "default", "out", [codes, 0.0234443061, zp, lo, hi, dt], lambda: torch.empty(5, 9),
         kw=[("out_dtype", None)])
big = torch.tensor([0, 1, -1, 2**24 + 1, 2**24 + 3, -2**24 - 1, 2**31 - 1, -2**31, 123456789], dtype=torch.int32)
both("dequantize_per_tensor", "default", "out", [big, 3.1e-5, 0, -2**31, 2**31 - 1, torch.int32], lambda: torch.empty(9),
     kw=[("out_dtype", None)])
for dt in (torch.float16, torch.bfloat16):
    x = mixed.to(dt)
    both("quantize_per_tensor", "default", "out", [x, 0.07, 3, -128, 127, torch.int8], lambda: torch.empty(x.shape, dtype=torch.int8),
         rules=("eager", "executorch") if dt == torch.float16 else ("eager",))
codes16 = torch.randint(0, 65536, (33,)).to(torch.uint16)
for dt in (torch.float16, torch.bfloat16):
    case("dequantize_per_tensor", "eager", [codes16, 0.0003, 30000, 0, 65535, torch.uint16, dt],
         q.dequantize_per_tensor(codes16, 0.0003, 30000, 0, 65535, torch.uint16, out_dtype=dt))
both("dequantize_per_tensor", "default", "out", [codes16, 0.0003, 30000, 0, 65535, torch.uint16],
     lambda: torch.empty(33, dtype=torch.float16), rules=("executorch",), kw=[("out_dtype", torch.float16)])
# Scales that are no f32.
for s in (0.1, 1 / 3, 7.1e-5, 0.0123456789012345):
    both("quantize_per_tensor", "default", "out", [mixed, s, -5, -128, 127, torch.int8],
         lambda: torch.empty(mixed.shape, dtype=torch.int8))
    both("quantize_per_tensor", "tensor", "Tensor_out",
         [wave, torch.tensor([s], dtype=torch.float64), torch.tensor([-5]), -128, 127, torch.int8],
         lambda: torch.empty(wave.shape, dtype=torch.int8))
    both("dequantize_per_tensor", "tensor", "Tensor_out",
         [torch.arange(-128, 128).to(torch.int8), torch.tensor([s], dtype=torch.float64), torch.tensor([-5]), -128, 127, torch.int8],
         lambda: torch.empty(256), kw=[("out_dtype", None)])

# Per channel, every axis; scales of either type.
for axis in (0, 1, 2):
    n = mixed.shape[axis]
    s64 = torch.rand(n, dtype=torch.float64) * 0.1 + 0.01
    z = torch.randint(-9, 9, (n,))
    for dt, lo, hi in INTS[:3] + INTS[5:6]:
        zz = z if lo < 0 else z + 9
        both("quantize_per_channel", "default", "out", [mixed, s64, zz, axis, lo, hi, dt], lambda: torch.empty(mixed.shape, dtype=dt))
        case("quantize_per_channel", "eager", [mixed, s64.float(), zz, axis, lo, hi, dt],
             q.quantize_per_channel(mixed, s64.float(), zz, axis, lo, hi, dt))
        codes = torch.randint(lo, hi + 1, mixed.shape).to(dt)
        zz = zz.clamp(lo, hi)
        for s in (s64, s64.float()):
            both("dequantize_per_channel", "default", "out", [codes, s, zz, axis, lo, hi, dt], lambda: torch.empty(mixed.shape),
                 kw=[("out_dtype", None)])
    case("dequantize_per_channel", "eager", [codes, s64.float(), None, axis, -8, 7, torch.int8, None],
         q.dequantize_per_channel(codes, s64.float(), None, axis, -8, 7, torch.int8))
    case("fake_quant_per_channel", "eager", [mixed, s64.float(), z, axis, -8, 7],
         q.fake_quant_per_channel(mixed, s64.float(), z, axis, -8, 7))

# Choosing parameters.
ranges = [wave, wave.abs(), -wave.abs(), torch.zeros(5), torch.full((3,), 1e-9), wave * 1e-4, wave * 1e-6, wave * 1e-7, wave * 1e30,
          torch.tensor([1e-40, -2e-40]), torch.tensor([7.0]), torch.tensor([-7.0]), torch.randn(70000),
          torch.tensor([0.0, -0.0]), torch.tensor([-1e-5, 2.0]), torch.tensor([3.0, float("nan"), -1.0]),
          torch.tensor([127.5, -128.5]), torch.tensor([5e-3, -0.0155])]
for i, x in enumerate(ranges):
    if x.numel() > 1000:
        continue
    for dt, lo, hi in INTS:
        if dt == torch.uint16 or (i > 4 and hi > 255):
            continue
        for eps in (1.1920929e-07, 0.0001 / 255):
            rules = ("executorch",) if torch.isnan(x).any() else ("eager", "executorch")
            both("choose_qparams", "tensor", "Tensor_out", [x, lo, hi, eps, dt],
                 lambda: {"scale_out": torch.empty(1, dtype=torch.float64), "zero_point_out": torch.empty(1, dtype=torch.int64)},
                 rules=rules)
            if "eager" in rules:
                case("choose_qparams_symmetric", "eager", [x, lo, hi, eps, dt], q.choose_qparams_symmetric.tensor(x, lo, hi, eps, dt))

# Per token.
rows = torch.stack([wave[:16], wave[16:32].abs(), -wave[32:48].abs(), torch.zeros(16), wave[:16] * 1e-6, wave[:16] * 1e-9,
                    wave[:16] * 1e20, torch.full((16,), 2.5), torch.linspace(-1, 1, 16), torch.linspace(-0.2, 30, 16)])
for x in (wave.view(4, 16), rows, rows.view(2, 5, 16), torch.randn(6, 1)):
    mk = lambda: {"scale_out": torch.empty(*x.shape[:-1], 1, dtype=torch.float64), "zero_point_out": torch.empty(*x.shape[:-1], 1, dtype=torch.int64)}
    both("choose_qparams_per_token_asymmetric", "default", "out", [x, torch.int8], mk)
    case("choose_qparams_per_token", "eager", [x, torch.int8], q.choose_qparams_per_token(x, torch.int8))
    s, z = q.choose_qparams_per_token_asymmetric(x, torch.int8)
    both("quantize_per_token", "default", "out", [x, s, z, -128, 127, torch.int8], lambda: torch.empty(x.shape, dtype=torch.int8))
    case("quantize_per_token", "eager", [x, s.float(), z, -128, 127, torch.int8],
         q.quantize_per_token(x, s.float(), z, -128, 127, torch.int8))
    c = q.quantize_per_token(x, s, z, -128, 127, torch.int8)
    both("dequantize_per_token", "default", "out", [c, s, z, -128, 127, torch.int8, torch.float32], lambda: torch.empty(x.shape))
    ss, zz = q.choose_qparams_per_token(x, torch.int8)
    case("quantize_per_token", "eager", [x, ss, zz, -128, 127, torch.int8], q.quantize_per_token(x, ss, zz, -128, 127, torch.int8))
ties = torch.arange(-8, 8).float().view(2, 8) * 0.25
for zp in (3, -4):
    s, z = torch.full((2, 1), 0.5, dtype=torch.float64), torch.full((2, 1), zp)
    both("quantize_per_token", "default", "out", [ties, s, z, -128, 127, torch.int8], lambda: torch.empty(2, 8, dtype=torch.int8))

# Groups.
w = torch.randn(6, 24)
for g in (2, 8, 12, 24):
    s = torch.rand(6, 24 // g) * 0.3 + 0.01
    for z in (torch.zeros(6, 24 // g, dtype=torch.int32), torch.randint(-3, 3, (6, 24 // g))):
        c = q.quantize_per_channel_group(w, s, z, -8, 7, torch.int8, g)
        case("quantize_per_channel_group", "eager", [w, s, z, -8, 7, torch.int8, g], c)
        case("dequantize_per_channel_group", "eager", [c, s, z, -8, 7, torch.int8, g, torch.float32],
             q.dequantize_per_channel_group(c, s, z, -8, 7, torch.int8, g, torch.float32))
    case("dequantize_per_channel_group", "eager", [c, s, None, -8, 7, torch.int8, g, torch.float32],
         q.dequantize_per_channel_group(c, s, None, -8, 7, torch.int8, g, torch.float32))

# torchao.
for x, block in [(w, [1, 8]), (w, [1, 24]), (w, [6, 24]), (w, [3, 4]), (mixed, [1, 5, 7]), (mixed, [3, 1, 7]), (mixed, [3, 5, 1]),
                 (rows, [1, 16])]:
    for mapping in ("SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC"):
        for lo, hi, dt in ((-8, 7, torch.int8), (-127, 127, torch.int8), (0, 255, torch.uint8)):
            if lo == 0 and mapping == "SYMMETRIC_NO_CLIPPING_ERR":
                continue
            for eps in (None, 1e-3):
                if eps and block != [1, 16]:
                    continue
                a = [x, mapping, block, dt, lo, hi, eps, torch.float32, torch.int32, False]
                s, z = ao.choose_qparams_affine(*a)
                case("choose_qparams_affine", "eager", a, [s, z])
            c = ao.quantize_affine(x, block, s, z, dt, lo, hi)
            case("quantize_affine", "eager", [x, block, s, z, dt, lo, hi], c)
            case("dequantize_affine", "eager", [c, block, s, z, dt, lo, hi, torch.float32], ao.dequantize_affine(c, block, s, z, dt, lo, hi))
for dt in (torch.float16, torch.bfloat16):
    case("dequantize_affine", "eager", [c, block, s, z, torch.uint8, 0, 255, dt],
         ao.dequantize_affine(c, block, s, z, torch.uint8, 0, 255, output_dtype=dt))

# Embeddings: the out variants are not in the library, so small programs run in the runtime.
class Embed(torch.nn.Module):
    def __init__(self, op, table, scales, zero_points, lo, hi, dtype):
        super().__init__()
        self.op, self.lo, self.hi, self.dtype = op, lo, hi, dtype
        self.register_buffer("table", table)
        self.register_buffer("scales", scales)
        self.register_buffer("zero_points", zero_points)

    def forward(self, index):
        args = (self.table, self.scales, self.zero_points, self.lo, self.hi, index)
        return self.op.default(*args) if self.dtype is None else self.op.dtype(*args, dtype=self.dtype)


def run_program(module, inputs):
    program = to_edge(torch.export.export(module, inputs, strict=False), compile_config=EdgeCompileConfig(_check_ir_validity=False))
    buffer = program.to_executorch().buffer
    loaded = Runtime.get().load_program(buffer)
    result = loaded.load_method("forward").execute(inputs)[0].clone()
    return result, buffer, loaded


index = torch.tensor([[3, 0, 4], [4, 1, 2]])
for name, wt in [("embedding_byte", torch.randint(-128, 128, (5, 12)).to(torch.int8)),
                 ("embedding_byte", torch.randint(0, 256, (5, 12)).to(torch.uint8)),
                 ("embedding_4bit", torch.randint(0, 256, (5, 6)).to(torch.uint8)),
                 ("embedding_2bit", torch.randint(0, 256, (5, 3)).to(torch.uint8))]:
    lo, hi = {"embedding_byte": (-128, 127), "embedding_4bit": (-8, 7), "embedding_2bit": (-2, 1)}[name]
    if wt.dtype == torch.uint8 and name == "embedding_byte":
        lo, hi = 0, 255
    for groups in (1, 3):
        s = torch.rand(5) if groups == 1 else torch.rand(5, groups)
        z = (torch.rand_like(s) * 4).round()
        for st, dt, zp in ((torch.float32, None, None), (torch.float32, torch.float32, z), (torch.float16, torch.float32, None),
                           (torch.float32, torch.float16, None)):
            got, *_ = run_program(Embed(getattr(q, name), wt, s.to(st), zp, lo, hi, dt), (index,))
            case(name, "executorch", [wt, s.to(st), zp, lo, hi, index] + ([] if dt is None else [dt]), got)

# Addition.
a8, b8 = torch.randint(0, 256, (4, 9)).to(torch.uint8), torch.randint(0, 256, (4, 9)).to(torch.uint8)
for so, zo in ((0.05, 100), (0.31, 0), (0.002, 12)):
    args = [a8, 0.0213, 7, 0, 255, b8, 0.113, 131, 0, 255, so, zo, 0, 255]
    o = torch.empty(4, 9, dtype=torch.uint8)
    q.add.out(*args, out=o)
    case("add", "executorch", args, o)

# Products.
x = torch.randn(3, 16)
wq = torch.randint(-128, 128, (16, 5)).to(torch.int8)
s = torch.rand(16) * 0.01
o = torch.empty(3, 5)
case("mixed_mm", "executorch", [x, wq, s, None], q.mixed_mm.out(x, wq, s, None, out=o))
wl = torch.randint(-128, 128, (5, 16)).to(torch.int8)
for s in (torch.rand(5) * 0.01, torch.rand(5, 4) * 0.01, torch.rand(5, 2) * 0.01):
    o = torch.empty(3, 5)
    case("mixed_linear", "executorch", [x, wl, s, None, None], q.mixed_linear.out(x, wl, s, None, out=o))

# Hadamard transform, and attention over codes.
for n in (1, 2, 8, 64, 28, 56, 224):
    x = torch.eye(n) if n == 28 else torch.randn(2, n)
    case("fast_hadamard_transform", "executorch", [x], torch.ops.llama.fast_hadamard_transform(x))
for (b, s_q, hq, hkv, d, cap, pos, masked, dim2) in [(1, 3, 4, 2, 16, 12, 5, False, False), (1, 1, 4, 4, 8, 6, 0, False, False),
                                                     (2, 5, 2, 1, 8, 9, 2, True, False), (1, 2, 4, 2, 16, 8, 6, False, True)]:
    def quantized(*shape):
        t = torch.randn(*shape)
        sc, z = q.choose_qparams_per_token_asymmetric(t, torch.int8)
        c = q.quantize_per_token(t, sc, z, -128, 127, torch.int8)
        return c, sc.float(), z.to(torch.int8)
    shape = (lambda h, s: (b, h, s, d)) if dim2 else (lambda h, s: (b, s, h, d))
    (qc, qs, qz), (kc, ks, kz), (vc, vs, vz) = quantized(*shape(hq, s_q)), quantized(*shape(hkv, cap)), quantized(*shape(hkv, cap))
    mask = torch.where(torch.rand(s_q, cap) > 0.4, 0.0, float("-inf")) if masked else None
    if masked:
        mask[:, 0] = 0
    args = [qc, kc, vc, pos, mask, 0.0, not masked, None, qz, qs, kz, ks, vz, vs, dim2]
    o = torch.empty(qc.shape)
    torch.ops.llama.custom_quantized_sdpa.out(*args, out=o)
    case("custom_quantized_sdpa", "executorch", args, o)

sys.stdout.write("\n".join(out_lines) + "\n")

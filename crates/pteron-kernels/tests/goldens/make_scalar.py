"""Writes scalar.json: results of PyTorch for the scalar kernels, one case a line.

Usage: python make_scalar.py > scalar.json      (any PyTorch 2.x on CPU)
"""
import json, math
import torch

torch.manual_seed(7)
NAMES = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64",
         torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool"}
DT = {v: k for k, v in NAMES.items()}
cases = []


def num(v):
    if isinstance(v, bool):
        return v
    if isinstance(v, float):
        if math.isnan(v):
            return "nan"
        if math.isinf(v):
            return "inf" if v > 0 else "-inf"
    return v


def enc(a):
    if isinstance(a, torch.Tensor):
        e = {"dtype": NAMES[a.dtype], "sizes": list(a.shape)}
        if not a.is_contiguous():
            e["strides"] = list(a.stride())
        data = a.detach().reshape(-1).tolist()
        if a.dtype == torch.bool:
            data = [int(v) for v in data]
        digits = {torch.float64: 12, torch.float32: 9, torch.float16: 5, torch.bfloat16: 4}.get(a.dtype)
        if digits:
            data = [float(f"{v:.{digits}g}") for v in data]
            data = [int(v) if math.isfinite(v) and v == int(v) and (v or math.copysign(1, v) > 0) else v for v in data]
        e["data"] = [num(v) for v in data]
        return e
    if isinstance(a, (list, tuple)):
        return [enc(x) for x in a]
    if isinstance(a, float):
        return {"float": num(a)}
    return num(a)


def case(op, args, outs):
    outs = outs if isinstance(outs, (list, tuple)) else [outs]
    cases.append({"op": op, "args": [enc(a) for a in args], "outs": [enc(o.contiguous()) for o in outs]})


def r(*s, dt="f32", scale=2.0):
    d = DT[dt]
    if d == torch.bool:
        return torch.rand(*s) > 0.5
    if d.is_floating_point:
        return (torch.round(torch.randn(*s) * scale * 16) / 16).to(d)  # few digits
    return torch.randint(0 if dt == "u8" else -9, 10, s).to(d)


A = torch.ops.aten
special = torch.tensor([0.0, -0.0, 1.5, -2.5, 0.5, float("nan"), float("inf"), -float("inf"), 3.0, -7.25])

pairs = [("f16", "f16"), ("bf16", "f32"), ("i32", "i64"), ("i8", "u8"), ("f32", "i64"), ("f64", "f32"),
         ("f16", "bf16")]
for x, y in pairs:
    a, b = r(2, 3, 2, dt=x), r(3, 1, dt=y)
    b = torch.where(b == 0, torch.ones_like(b), b)
    for alpha in (1, 2):
        case("add", [a, b, alpha], A.add(a, b, alpha=alpha))
        case("sub", [a, b, alpha], A.sub(a, b, alpha=alpha))
    case("mul", [a, b], a * b)
    case("div", [a, b, None], a / b)
    for m in ("trunc", "floor"):
        case("div", [a, b, m], torch.div(a, b, rounding_mode=m))
    case("maximum", [a, b], torch.maximum(a, b))
    case("minimum", [a, b], torch.minimum(a, b))
    for n in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"):
        case(n, [a, b], getattr(torch, n)(a, b))
    case("where", [a > 0, a, b], torch.where(a > 0, a, b))
for n in ("maximum", "minimum", "add", "div", "eq", "lt", "logical_and"):
    s1, s2 = special.reshape(-1, 1), special.reshape(1, -1)
    f = getattr(torch, n)
    case(n, [s1, s2] + ([1] if n == "add" else [None] if n == "div" else []), f(s1, s2))
case("div", [special.reshape(-1, 1), special.reshape(1, -1), "floor"], torch.div(special.reshape(-1, 1), special.reshape(1, -1), rounding_mode="floor"))
for x in ("f32", "f16", "i32", "u8", "bool"):
    for s in (2, 1.5, -3):
        a = r(2, 3, dt=x)
        case("mul", [a, s], a * s)
        case("add", [a, s, 1], a + s)
        case("eq", [a, s], torch.eq(a, s))
        case("gt", [a, s], torch.gt(a, s))
        case("div", [a, s, None], a / s)
z = torch.tensor(2.5)
a = r(3, dt="i64"); case("add", [a, z, 1], a + z)
a = r(3, dt="f16"); case("mul", [a, torch.tensor(1.25, dtype=torch.float64)], a * torch.tensor(1.25, dtype=torch.float64))
a = r(4, 3).t(); b = r(3, 4); case("mul", [a, b], a * b)
a = r(2, 3, 4, 5).to(memory_format=torch.channels_last); b = r(1, 3, 1, 1); case("add", [a, b, 1], a + b)
a = r(2, 5, dt="bool"); b = r(2, 5, dt="bool")
case("add", [a, b, 1], a + b); case("mul", [a, b], a * b)
for n in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    f = getattr(torch, n)
    case(n, [a, b], f(a, b))
    x, y = r(6, dt="i32"), r(6, dt="i8")
    case(n, [x, y], f(x, y))
for n in ("sqrt", "rsqrt", "reciprocal", "exp", "log", "sin", "cos", "tanh", "sigmoid"):
    for x in (r(7), r(2, 3, dt="f64"), r(2, 3, dt="bf16"), r(5, dt="i32"), special, r(3, 2).t()):
        case(n, [x], getattr(torch, n)(x))
for n in ("neg", "abs", "floor", "ceil", "round", "relu"):
    for x in (r(7), r(4, dt="f16"), r(5, dt="i8"), special):
        case(n, [x], getattr(torch, n)(x))
for n in ("isnan", "isinf", "logical_not"):
    for x in (special, r(5, dt="i32"), r(4, dt="bool")):
        case(n, [x], getattr(torch, n)(x))
for x in (r(5, dt="i16"), r(5, dt="u8"), r(5, dt="bool")):
    case("bitwise_not", [x], torch.bitwise_not(x))
for x in (r(9), special[:6], r(4, dt="f16"), r(4, dt="f64")):  # at infinity PyTorch's vectorised gelu gives NaN
    case("silu", [x], torch.nn.functional.silu(x))
    for ap in ("none", "tanh"):
        case("gelu", [x, ap], torch.nn.functional.gelu(x, approximate=ap))
for e in (2, 0.5, 3, -1, -2, 1.7, 0):
    a = r(6).abs()
    case("pow", [a, e], a ** e)
a, b = r(6, dt="i32"), r(6, dt="i32"); case("pow", [a, b], a ** b)
a, b = r(2, 3).abs(), r(3); case("pow", [a, b], a ** b)
a = r(5, dt="i64"); case("pow", [a, 3], a ** 3)
for lo, hi in ((-1, 1), (None, 0.5), (0, None), (2, -2)):
    for x in (r(6), special, r(6, dt="i32")):
        case("clamp", [x, lo, hi], torch.clamp(x, lo, hi))
for s, e, d in ((0, 5, 1), (1, 10, 3), (5, 0, -2), (0.0, 1.0, 0.3), (2, 2, 1)):
    case("arange", [s, e, d], torch.arange(s, e, d))
for x in DT:
    a = r(2, 3, dt="f32", scale=5)
    case("to_copy", [a], a.to(DT[x]))
    for y in ("f64", "i64", "f16", "bool", "u8"):
        b = r(4, dt=y)
        b = b if y == "bool" else b.abs()
        case("to_copy", [b], b.to(DT[x]))

for x in ("f32", "f16", "i32", "bool"):
    a = r(2, 3, 4, dt=x)
    for a in (a, r(4, 3, 2, dt=x).permute(2, 1, 0)) if x == "f32" else (a,):
        for d, k in (([1], False), ([-1], True), ([0, 2], False), ([], False), ([0, 1, 2], True)):
            case("sum", [a, d, k], torch.sum(a, d, k) if d else torch.sum(a, (0, 1, 2), k))
            if a.dtype.is_floating_point:
                case("mean", [a, d, k], torch.mean(a, d, k) if d else torch.mean(a, (0, 1, 2), k))
            case("amax", [a, d, k], torch.amax(a, d or (0, 1, 2), k))
            case("amin", [a, d, k], torch.amin(a, d or (0, 1, 2), k))
        for d in (0, -1):
            case("any_dim", [a, d, False], torch.any(a, d)); case("all_dim", [a, d, True], torch.all(a, d, True))
            if x != "bool":
                case("cumsum", [a, d], torch.cumsum(a, d))
a = r(3, 5); a[1, 2] = float("nan"); a[2, 1] = a[2, 3] = 9.0
for d in (0, 1):
    for k in (False, True):
        case("max_dim", [a, d, k], list(torch.max(a, d, k))); case("min_dim", [a, d, k], list(torch.min(a, d, k)))
        case("argmax", [a, d, k], torch.argmax(a, d, k)); case("argmin", [a, d, k], torch.argmin(a, d, k))
case("argmax", [a, None, False], torch.argmax(a)); case("amax", [a, [1], False], torch.amax(a, 1))
case("any", [a], torch.any(a)); case("all", [torch.zeros(0)], torch.all(torch.zeros(0)))
case("sum", [torch.zeros(0, 3), [0], False], torch.zeros(0, 3).sum(0)); case("mean", [torch.zeros(0, 3), [0], False], torch.zeros(0, 3).mean(0))
for x in (r(2, 3, 5), r(5, 3, 2).permute(2, 1, 0), r(2, 4, dt="f16"), r(2, 4, dt="bf16"), special.reshape(2, 5), torch.tensor([[1.0, -float("inf")], [-float("inf")] * 2]), torch.tensor(3.0)):
    for d in {0, -1}:
        case("softmax", [x, d, False], torch._softmax(x, d, False))
        case("log_softmax", [x, d, False], torch._log_softmax(x, d, False))
for x in (torch.randperm(20).reshape(4, 5).float(), torch.randperm(20).reshape(5, 4).t()):
    for d, k, l in ((-1, 3, True), (0, 2, False), (1, 5, True), (0, 0, True)):
        case("topk", [x, k, d, l], list(torch.topk(x, k, d, l)))

x = r(2, 3, 4, dt="i32"); t = r(4, 3, 2, dt="f16").permute(2, 1, 0)
for a in (x, t):
    case("view_copy", [a, [4, -1]], a.reshape(4, -1)); case("permute_copy", [a, [2, 0, -2]], a.permute(2, 0, 1))
    case("unsqueeze_copy", [a, -1], a.unsqueeze(-1)); case("flip", [a, [0, -1]], a.flip(0, -1))
    case("select_copy", [a, 1, -1], a.select(1, -1)); case("repeat", [a, [2, 1, 2, 1]], a.repeat(2, 1, 2, 1))
    for s in ((0, 1, None, 1), (-1, -3, -1, 1), (2, None, None, 3), (1, 5, 9, 1), (1, 2, 1, 1)):
        d, st, en, sp = s
        idx = [slice(None)] * 3; idx[d] = slice(st, en, sp)
        case("slice_copy", [a, d, st, en, sp], a[tuple(idx)])
    case("cat", [[a, a[:, :1], a], 1], torch.cat([a, a[:, :1], a], 1)); case("stack", [[a, a], -2], torch.stack([a, a], -2))
    case("split", [a, [1, 0, 2], 1], list(torch.split(a, [1, 0, 2], 1)))
    for d in (-1, 0, 1):
        case("tril", [a, d], torch.tril(a, d)); case("triu", [a, d], torch.triu(a, d))
b = r(2, 2); case("cat", [[torch.zeros(0), b, b.to(torch.float64)], 0], torch.cat([torch.zeros(0), b, b.double()], 0))
a = r(3, 1); case("expand_copy", [a, [2, -1, 4]], a.expand(2, -1, 4)); a = r(2, 1, 3, 1); case("squeeze_copy", [a, [1, 2, 3]], torch.squeeze(a, (1, 2, 3)))

w = r(6, 3); i = torch.tensor([[0, 5], [2, 2]]); case("embedding", [w, i], torch.nn.functional.embedding(i, w))
case("embedding", [w.half(), i.int()], torch.nn.functional.embedding(i.int(), w.half()))
x = r(3, 4, 3); j = torch.tensor([0, -1, 1]); k = torch.tensor([[1], [2]]); m = x[:, :, 0] > 0; n1 = x[0, :, 0] > -9
for ind in ([j], [None, k], [None, j, j], [j, None, j], [k, j], [j, k, j], [m], [None, n1], [k, None, k], [m, k[:1, 0]]):
    tup = tuple(slice(None) if q is None else q for q in ind)
    case("index", [x, ind], x[tup])
    v = r(*x[tup].shape); y = x.clone()
    if m is not ind[0]:
        y = torch.ops.aten.index_put(x, ind, v, True); case("index_put", [x, ind, v, True], y)
xt = r(3, 4, 3).permute(2, 1, 0); case("index", [xt, [j, None, j]], xt[j, :, j]); v = r(3)
case("index_put", [x, [torch.tensor([2, 0]), torch.tensor([1, 3])], v, False], torch.ops.aten.index_put(x, [torch.tensor([2, 0]), torch.tensor([1, 3])], v))
case("index_select", [x, 1, torch.tensor([3, 0, 3])], torch.index_select(x, 1, torch.tensor([3, 0, 3])))
g = torch.randint(0, 4, (2, 6, 3)); case("gather", [x, 1, g], torch.gather(x, 1, g))
s = r(3, 2, 3); case("index_copy", [x, 1, torch.tensor([3, 1]), s], torch.index_copy(x, 1, torch.tensor([3, 1]), s))

for x in (r(2, 3, 8), r(8, 3).t().contiguous().t().permute(1, 0), r(2, 8, dt="f64")):
    w = r(8, dt=NAMES[x.dtype]); case("rms_norm", [x, w, 1e-5], torch.nn.functional.rms_norm(x, (8,), w, 1e-5))
    case("rms_norm", [x, None, 1e-6], torch.nn.functional.rms_norm(x, (8,), None, 1e-6))
x = r(2, 3, 4); w, b = r(3, 4), r(3, 4); case("native_layer_norm", [x, [3, 4], w, b, 1e-5], list(torch.native_layer_norm(x, [3, 4], w, b, 1e-5)))
x = r(4, 3, 2).permute(2, 1, 0); case("native_layer_norm", [x, [4], None, None, 1e-5], list(torch.native_layer_norm(x, [4], None, None, 1e-5)))
for sh, wh, st, p, d, g in (((1, 4, 6, 5), (6, 2, 3, 2), [2, 1], [1, 0], [1, 2], 2), ((2, 3, 7), (4, 3, 3), [2], [2], [1], 1), ((1, 4, 5, 5), (4, 1, 3, 3), [1], [1], [1], 4)):
    for x in (r(*sh), r(*sh).transpose(1, -1).contiguous().transpose(1, -1)):
        w, b = r(*wh), r(wh[0]); nd = len(sh) - 2
        full = lambda v: v * nd if len(v) == 1 else v
        case("convolution", [x, w, b, st, p, d, g], torch.convolution(x, w, b, full(st), full(p), full(d), False, [0] * nd, g))
x = r(1, 2, 3, 4); case("upsample", [x, [7, 5], None], torch.ops.aten.upsample_nearest2d.vec(x, [7, 5], None))
case("upsample", [x, None, [2.0, 1.5]], torch.ops.aten.upsample_nearest2d.vec(x, None, [2.0, 1.5]))

print("[")
print(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
print("]")

"""Writes the goldens of crates/pteron-quant/tests: observers, per-block and affine observers, weight algorithms, schemes.

Run with a Python that has torch, torchao and executorch (the files name the versions that wrote them):

    python tools/oracle/make_observer_goldens.py crates/pteron-quant/tests/goldens

The inputs are made by `tensor`, integer arithmetic and single float32 operations, so that the Rust tests make the same bits
(crates/pteron-quant/tests/common/mod.rs). Results are written as the bits of float32. The order in which ATen adds floats depends on the width of
the vectors; the goldens are of its AVX2 kernels, which it uses with AVX-512 as well, and other processors are refused.
"""

import json
import os
import sys
import warnings
import zlib

warnings.filterwarnings("ignore")
import executorch.version
import numpy as np
import torch
import torchao
from executorch.backends.qualcomm.quantizer.observers.per_block_param_observer import PerBlockParamObserver
from executorch.backends.qualcomm.quantizer.observers.per_channel_param_observer import (
    PerChannelParamObserver,
    PerChannelParamObserverWithLossEvaluation,
)
from torchao.quantization.granularity import PerAxis, PerGroup, PerTensor, PerToken
from torchao.quantization.pt2e import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e._affine_quantization import (
    AffineQuantizedMinMaxObserver,
    AffineQuantizedMovingAverageMinMaxObserver,
)
from torchao.quantization.pt2e.observer import MappingType, PartialWrapper

torch.set_num_threads(1)


def lcg(seed, n):
    out = np.empty(n, dtype=np.uint32)
    s = seed & 0xFFFFFFFF
    for i in range(n):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s
    return out


def tensor(kind, seed, shape, scale=1.0, shift=0.0):
    """float32 of `shape`. uniform: [-1, 1); bell: mean of four uniforms; heavy: bell cubed; relu: bell below 0 made 0;
    constant: all `shift`; outlier: bell with one element of 40; inf: bell with +inf and -inf; wave: 3 sin(0.37 i) + 0.2."""
    n = int(np.prod(shape))
    one = np.float32(1)
    if kind == "wave":
        x = (3 * torch.sin(0.37 * torch.arange(n, dtype=torch.float32)) + 0.2).numpy()
        return torch.from_numpy((x * np.float32(scale) + np.float32(shift)).astype(np.float32)).reshape(shape)
    draws = lcg(seed, 4 * n).reshape(n, 4)
    u = ((draws >> 8).astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(2.0**-23)
    if kind == "uniform":
        x = u[:, 0].copy()
    elif kind == "constant":
        x = np.zeros(n, dtype=np.float32)
    else:
        x = (((u[:, 0] + u[:, 1]) + u[:, 2]) + u[:, 3]) * np.float32(0.25)
    if kind == "heavy":
        x = (x * x) * x
    if kind == "relu":
        x = np.maximum(x, np.float32(0))
    x = x * np.float32(scale) + np.float32(shift)
    if kind == "outlier":
        x[n // 3] = np.float32(40)
    if kind == "inf":
        x[n // 3] = np.float32(np.inf)
        x[n // 2] = np.float32(-np.inf)
    return torch.from_numpy((x * one).astype(np.float32)).reshape(shape)


def step(kind, seed, shape, scale=1.0, shift=0.0):
    return {"kind": kind, "seed": seed, "shape": list(shape), "scale": bits(np.float32(scale)), "shift": bits(np.float32(shift))}


def make(s):
    f = lambda b: np.array([b], dtype=np.uint32).view(np.float32)[0]
    return tensor(s["kind"], s["seed"], s["shape"], f(s["scale"]), f(s["shift"]))


def bits(x):
    return int(np.float32(x).view(np.uint32))


def all_bits(t):
    return t.detach().to(torch.float32).flatten().numpy().view(np.uint32).tolist()


def crc(t):
    return zlib.crc32(t.detach().to(torch.float32).contiguous().numpy().tobytes())


DT = {"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "uint16": torch.uint16, "int32": torch.int32}
QS = {str(q).removeprefix("torch."): q for q in (
    torch.per_tensor_affine, torch.per_tensor_symmetric, torch.per_channel_affine, torch.per_channel_symmetric,
    torch.per_channel_affine_float_qparams)}

# dtype, quant_min, quant_max, eps, reduce_range
RANGES = [
    ("uint8", None, None, None, False), ("uint8", 0, 255, None, False), ("uint8", 0, 255, 2**-12, False),
    ("uint8", None, None, 0.0001 / 255, False), ("int8", None, None, None, False), ("int8", -127, 127, None, False),
    ("int8", -128, 127, 2**-12, False), ("int8", -7, 7, None, False), ("int8", -8, 7, 2**-12, False),
    ("int8", -2, 1, None, False), ("int16", None, None, None, False), ("int16", -32767, 32767, 2**-12, False),
    ("int16", -32767, 32767, 0.0001 / 65535, False), ("uint16", None, None, None, False),
    ("int32", 0, 65535, None, False), ("int32", 0, 65535, 0.0001 / 65535, False), ("int32", 0, 65535, 2**-20, False),
    ("int8", None, None, None, True), ("int8", -127, 127, None, True), ("int8", -7, 7, None, True),
    ("int32", 0, 65535, None, True), ("uint8", 0, 255, None, True),
]


def kwargs(r, **more):
    dtype, lo, hi, eps, reduce = r
    kw = {"dtype": DT[dtype], "quant_min": lo, "quant_max": hi, "reduce_range": reduce, **more}
    if eps is not None:
        kw["eps"] = eps
    return kw


def config(r, qscheme, **more):
    dtype, lo, hi, eps, reduce = r
    return {"dtype": dtype, "quant_min": lo, "quant_max": hi, "eps": eps, "reduce_range": reduce, "qscheme": qscheme, **more}


def qparams(o):
    scale, zero = o.calculate_qparams()
    float_zero = zero.is_floating_point()
    return {"scale": all_bits(scale), "zero_point": all_bits(zero) if float_zero else zero.flatten().tolist()}


def run(o, steps):
    for s in steps:
        o(make(s))
    return o


SEQUENCES = {
    "wave": [step("wave", 0, [64])],
    "wave_1_2_half": [step("wave", 0, [64]), step("wave", 0, [64], 2.0), step("wave", 0, [64], 0.5)],
    "bell": [step("bell", 1, [257])],
    "drift": [step("bell", i, [33, 5], 0.5 + 0.25 * i, 0.125 * i) for i in range(7)],
    "positive": [step("relu", 3, [100], 2.0), step("relu", 4, [10, 10], 3.0)],
    "negative": [step("uniform", 5, [50], 0.5, -2.0)],
    "tiny": [step("uniform", 6, [40], 2.0**-30)],
    "zeros": [step("constant", 7, [16])],
    "constant": [step("constant", 7, [16], 1.0, 1.5), step("constant", 7, [16], 1.0, -0.75)],
    "huge": [step("heavy", 8, [300], 1e30)],
}


def per_tensor_cases():
    out = []
    for name, steps in SEQUENCES.items():
        for r in RANGES if name in ("wave", "positive") else [RANGES[i] for i in (0, 1, 5, 8, 15)]:
            for q in ("per_tensor_affine", "per_tensor_symmetric"):
                for cls, more in ((MinMaxObserver, {}), (MovingAverageMinMaxObserver, {}),
                                  (MovingAverageMinMaxObserver, {"averaging_constant": 0.3})):
                    o = run(cls(**kwargs(r, qscheme=QS[q], **more)), steps)
                    out.append({"sequence": name, "observer": cls.__name__, **config(r, q, **more),
                                "min": bits(o.min_val), "max": bits(o.max_val), **qparams(o)})
    return out


def per_channel_cases():
    out = []
    sequences = {
        "wave4x16": [step("wave", 0, [4, 16])],
        "matrix": [step("bell", 11, [6, 32]), step("bell", 12, [6, 32], 1.5, 0.25), step("heavy", 13, [6, 32], 4.0)],
        "conv": [step("heavy", 14, [4, 3, 2, 5], 2.0)],
        "one_sided": [step("relu", 16, [5, 20]), step("relu", 17, [5, 20], 2.0)],
    }
    ranges = [RANGES[i] for i in (0, 1, 5, 8, 15, 18)]
    for name, steps in sequences.items():
        rank = len(steps[0]["shape"])
        for axis in range(min(rank, 3)):
            for r in ranges:
                for q in ("per_channel_affine", "per_channel_symmetric", "per_channel_affine_float_qparams"):
                    for cls, more in ((PerChannelMinMaxObserver, {}), (MovingAveragePerChannelMinMaxObserver, {}),
                                      (PerChannelParamObserver, {})):
                        o = run(cls(ch_axis=axis, **kwargs(r, qscheme=QS[q], **more)), steps)
                        out.append({"sequence": name, "observer": cls.__name__, "ch_axis": axis, **config(r, q, **more),
                                    "min": all_bits(o.min_val), "max": all_bits(o.max_val), **qparams(o)})
    return sequences, out


def histogram_cases():
    out = []
    sequences = {
        "wave": [step("wave", 0, [64])],
        "wave_then_wider": [step("wave", 0, [64]), step("wave", 0, [64], 1.5, 1.0)],
        "bell_large": [step("bell", 21, [9000], 3.0)],
        "heavy_grow": [step("heavy", 22 + i, [64, 50], 1.0 + 0.5 * i, 0.05 * i) for i in range(5)],
        "outlier_50": [step("outlier", 30, [64])] * 50,
        "relu": [step("relu", 31, [4000], 5.0), step("relu", 32, [4000], 4.0), step("relu", 33, [4000], 6.0)],
        "infinite": [step("inf", 34, [500], 2.0), step("inf", 35, [500], 3.0)],
        "constant_then_bell": [step("constant", 36, [20], 1.0, 0.5), step("bell", 37, [500])],
        "constant_same": [step("constant", 36, [20], 1.0, 0.5), step("constant", 36, [20], 1.0, 0.5)],
        "constant_two": [step("constant", 36, [20], 1.0, 0.5), step("constant", 36, [7], 1.0, 2.5)],
        "zeros": [step("constant", 36, [20])],
        "narrow_far": [step("uniform", 38, [700], 2.0**-12, 100.0), step("uniform", 39, [700], 2.0**-12, 100.001)],
        "tiny": [step("heavy", 40, [900], 1e-30)],
        "one": [step("uniform", 41, [1]), step("uniform", 42, [1]), step("uniform", 43, [1])],
        "many": [step("heavy", 50 + i, [31, 17], 0.25 + 0.125 * ((i * 7) % 11)) for i in range(12)],
    }
    for name, steps in sequences.items():
        for r in (RANGES[i] for i in (0, 6, 11, 14)):
            # The search looks at the dtype and at neither range nor scheme.
            o = run(HistogramObserver(**kwargs(r, qscheme=torch.per_tensor_affine)), steps)
            lo, hi = o._non_linear_param_search()
            for q in ("per_tensor_affine", "per_tensor_symmetric"):
                o.qscheme = QS[q]
                scale, zero = o._calculate_qparams(lo, hi)
                out.append({"sequence": name, "observer": "HistogramObserver", **config(r, q),
                            "min": bits(o.min_val), "max": bits(o.max_val), "histogram_crc32": crc(o.histogram),
                            "new_min": bits(lo), "new_max": bits(hi),
                            "scale": all_bits(scale), "zero_point": zero.flatten().tolist()})
    return sequences, out


def affine_cases():
    out = []
    sequences = {
        "wave4x16": [step("wave", 0, [4, 16])],
        "matrix": [step("bell", 61, [6, 32]), step("heavy", 62, [6, 32], 4.0), step("bell", 63, [6, 32], 1.5, 0.25)],
        "conv": [step("heavy", 64, [4, 8, 2, 6], 2.0)],
    }
    grains = {"PerTensor": PerTensor(), "PerAxis(0)": PerAxis(0), "PerAxis(1)": PerAxis(1), "PerGroup(2)": PerGroup(2), "PerToken": PerToken()}
    ranges = [("int8", -8, 7), ("int8", -7, 7), ("int8", None, None), ("uint8", 0, 255), ("int32", 0, 65535), ("int16", -32767, 32767)]
    for name, steps in sequences.items():
        for g, grain in grains.items():
            for dtype, lo, hi in ranges:
                for m in ("SYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR", "ASYMMETRIC"):
                    if m == "SYMMETRIC_NO_CLIPPING_ERR" and lo in (0, None):
                        continue
                    for eps in (None, 2**-12):
                        for cls in (AffineQuantizedMinMaxObserver, AffineQuantizedMovingAverageMinMaxObserver):
                            if eps is not None and g not in ("PerTensor", "PerGroup(2)"):
                                continue
                            o = cls(MappingType[m], DT[dtype], grain, quant_min=lo, quant_max=hi, eps=eps)
                            run(o, steps)
                            out.append({"sequence": name, "observer": cls.__name__, "granularity": g, "mapping": m,
                                        "dtype": dtype, "quant_min": lo, "quant_max": hi, "eps": eps,
                                        "block_size": list(o.block_size), **qparams(o)})
    for block, s in (((1, 8), step("heavy", 71, [6, 32], 4.0)), ((1, 32, 1, 1), step("bell", 72, [8, 64, 1, 1])),
                     ((2, 16), step("bell", 73, [6, 32]))):
        for lo, hi in ((-7, 7), (-127, 127)):
            o = run(PerBlockParamObserver(torch.int8, block, lo, hi, eps=0.0001 / 65535), [s, step("bell", 99, s["shape"], 100.0)])
            out.append({"sequence": None, "steps": [s, step("bell", 99, s["shape"], 100.0)], "observer": "PerBlockParamObserver",
                        "granularity": None, "mapping": "SYMMETRIC", "dtype": "int8", "quant_min": lo, "quant_max": hi,
                        "eps": 0.0001 / 65535, "block_size": list(block), **qparams(o)})
    return sequences, out


def loss_cases():
    out = []
    for s in (step("heavy", 81, [6, 48], 2.0), step("outlier", 82, [3, 40], 0.5), step("bell", 83, [4, 3, 2, 6])):
        for axis in (0, 1):
            if axis == 1 and len(s["shape"]) > 2:
                continue
            for r in (RANGES[5], RANGES[7]):
                o = run(PerChannelParamObserverWithLossEvaluation(ch_axis=axis, **kwargs(r, qscheme=torch.per_channel_symmetric)), [s])
                out.append({"steps": [s], "observer": "PerChannelParamObserverWithLossEvaluation", "ch_axis": axis,
                            **config(r, "per_channel_symmetric"), "min": all_bits(o.min_val), "max": all_bits(o.max_val), **qparams(o)})
    return out


def spec_fields(spec):
    """The fields of a quantization spec; the arguments of its observer flattened."""
    if spec is None:
        return None
    if callable(spec):
        return {"derived": True}
    ctr = spec.observer_or_fake_quant_ctr
    args, fake = {}, None
    while True:
        if isinstance(ctr, PartialWrapper):
            args.update({k: v for k, v in ctr.p.keywords.items() if k != "observer"})
            inner, cls = ctr.p.keywords.get("observer"), ctr.p.func
        else:
            inner, cls = None, ctr
        while hasattr(cls, "func"):
            args.update({k: v for k, v in cls.keywords.items() if k != "observer"})
            inner, cls = cls.keywords.get("observer", inner), cls.func
        if inner is None:
            break
        fake, ctr = cls.__name__, inner
    return {
        "dtype": str(spec.dtype).removeprefix("torch."),
        "quant_min": spec.quant_min,
        "quant_max": spec.quant_max,
        "qscheme": str(spec.qscheme).removeprefix("torch."),
        "ch_axis": spec.ch_axis,
        "is_dynamic": spec.is_dynamic,
        "observer": cls.__name__,
        "fake_quant": fake,
        "eps": None if args.get("eps") is None else repr(float(args["eps"])),
        "averaging_constant": args.get("averaging_constant"),
        "reduce_range": bool(args.get("reduce_range", False)),
    }


def config_fields(config):
    get = lambda name: spec_fields(getattr(config, name, None))
    return {"input_activation": get("input_activation"), "output_activation": get("output_activation"),
            "weight": get("weight"), "bias": get("bias")}


def arm_configs():
    """The Arm quantizer imports the TOSA serializer for lowering only; names without anything behind them stand in for it."""
    import importlib.abc
    import importlib.machinery
    import types

    class Named(type):
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return f"{cls.__name__}.{name}"

    class Stand(types.ModuleType):
        __path__ = []

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Named(name, (), {})

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("tosa_serializer", "tosa", "ethosu"):
                return importlib.machinery.ModuleSpec(name, self, is_package=True)

        def create_module(self, spec):
            return Stand(spec.name)

        def exec_module(self, module):
            pass

    sys.meta_path.append(Finder())
    from executorch.backends.arm.quantizer.arm_quantizer import (
        get_symmetric_a16w8_quantization_config,
        get_symmetric_quantization_config,
    )

    eight, sixteen = get_symmetric_quantization_config(), get_symmetric_a16w8_quantization_config()
    def fields(c):
        out = {"input_activation": spec_fields(c.input_activation), "output_activation": spec_fields(c.output_activation),
               "weight": spec_fields(c.weight), "bias": {"derived": True}}
        return {"operator": out}
    return {"tosa_8a8w": fields(eight), "ethosu_8a8w": fields(eight), "vgf_8a8w": fields(eight),
            "ethosu_16a8w": fields(sixteen), "vgf_16a8w": fields(sixteen)}


def schemes():
    from coremltools.optimize.torch.quantization.quantization_config import LinearQuantizerConfig, QuantizationScheme
    from executorch.backends.apple.coreml.quantizer._annotation_config import AnnotationConfig
    from executorch.backends.qualcomm.quantizer.quantizer import ModuleQConfig, QuantDtype
    from executorch.backends.vulkan.quantizer.vulkan_quantizer import (
        get_symmetric_quantization_config as vulkan_config,
    )
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        get_symmetric_quantization_config as xnnpack_config,
    )
    from torchao.quantization.pt2e.quantizer.embedding_quantizer import get_embedding_operators_config

    out = {}
    one = lambda c: {"operator": config_fields(c)}
    out["xnnpack_dynamic"] = one(xnnpack_config(is_per_channel=True, is_dynamic=True))
    out["xnnpack_dynamic_qc4"] = one(xnnpack_config(is_per_channel=True, is_dynamic=True, weight_qmin=-8, weight_qmax=7))
    static = one(xnnpack_config(is_per_channel=True, is_dynamic=False))
    out["xnnpack"] = out["coreml_baseline_8a_c8w"] = static
    out["coreml_baseline_8a_c4w"] = one(xnnpack_config(is_per_channel=True, is_dynamic=False, weight_qmin=-8, weight_qmax=7))
    out["vulkan_8w"] = one(vulkan_config(is_dynamic=False, weight_bits=8))
    out["embedding"] = one(get_embedding_operators_config().config)
    coreml = LinearQuantizerConfig.from_dict({"global_config": {
        "quantization_scheme": QuantizationScheme.affine, "activation_dtype": torch.quint8,
        "weight_dtype": torch.qint8, "weight_per_channel": True}})
    out["coreml_8a_c8w"] = one(AnnotationConfig.from_quantization_config(coreml.global_config))
    # name, dtype, per-channel convolutions and linears, act_observer: as get_qnn_quantizer sets them for 8a8w, 16a16w and
    # 16a4w; the others after the same pattern.
    for name, dtype, per_channel, observer in (
        ("qnn_8a8w", QuantDtype.use_8a8w, True, None), ("qnn_8a4w", QuantDtype.use_8a4w, True, None),
        ("qnn_16a16w", QuantDtype.use_16a16w, False, MinMaxObserver), ("qnn_16a8w", QuantDtype.use_16a8w, True, MinMaxObserver),
        ("qnn_16a4w", QuantDtype.use_16a4w, True, MinMaxObserver),
        ("qnn_16a4w_block", QuantDtype.use_16a4w_block, True, MinMaxObserver),
    ):
        m = ModuleQConfig(dtype, is_conv_per_channel=per_channel, is_linear_per_channel=per_channel, act_observer=observer)
        out[name] = {"operator": config_fields(m.quant_config), "per_channel": config_fields(m.per_channel_quant_config_list[0])}
        if hasattr(m, "per_block_quant_config_list"):
            out[name]["per_block"] = config_fields(m.per_block_quant_config_list[0])
        out[name]["per_channel_on"] = sorted(str(op) for op in m.use_per_channel_weight_quant_ops)
    out.update(arm_configs())
    return out


def weights():
    from executorch.examples.models.llama.source_transformation.quantize import dynamically_quantize_per_channel
    from torchao.quantization.quant_primitives import (
        _choose_qparams_and_quantize_scale_only_hqq,
        choose_qparams_affine,
        quantize_affine,
    )
    from torchao.quantization.quant_primitives import MappingType as Mapping

    out = []
    inputs = [step("wave", 0, [4, 16]), step("bell", 101, [5, 64], 0.3), step("heavy", 102, [3, 96], 2.0),
              step("outlier", 103, [2, 256], 0.1), step("constant", 104, [2, 32]), step("bell", 105, [3, 512], 0.02)]
    for s in inputs:
        w = make(s)
        for group in (8, 32, 64, 128, 0):
            size = group or w.shape[1]
            if w.shape[1] % size:
                continue
            for lo, hi in ((-8, 7), (-128, 127), (-2, 1)):
                scale, zero = choose_qparams_affine(w, Mapping.SYMMETRIC, (1, size), torch.int8, lo, hi)
                codes = quantize_affine(w, (1, size), scale, zero, torch.int8, lo, hi)
                out.append({"input": s, "algorithm": "affine", "group": group, "quant_min": lo, "quant_max": hi,
                            "scale": all_bits(scale), "codes": codes.flatten().tolist()})
                codes, scale = _choose_qparams_and_quantize_scale_only_hqq(w, [1, size], lo, hi)
                out.append({"input": s, "algorithm": "hqq", "group": group, "quant_min": lo, "quant_max": hi,
                            "scale": all_bits(scale), "codes": codes.flatten().tolist()})
        codes, scale, _ = dynamically_quantize_per_channel(w, -128, 127, torch.int8, scales_dtype=torch.float32)
        out.append({"input": s, "algorithm": "int8", "group": 0, "quant_min": -128, "quant_max": 127,
                    "scale": all_bits(scale), "codes": codes.flatten().tolist()})
    return out


def versions():
    return {"torch": torch.__version__, "torchao": torchao.__version__, "executorch": executorch.version.__version__}


def write(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump({"versions": versions(), **value}, f, separators=(",", ":"))
        f.write("\n")


def main(folder):
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        raise SystemExit("the goldens are those of ATen's AVX2 kernels, and this processor or ATEN_CPU_CAPABILITY has others")
    write(folder, "schemes.json", {"schemes": schemes()})
    write(folder, "weights.json", {"wave": all_bits(tensor("wave", 0, [64])), "cases": weights()})
    channel_sequences, channel = per_channel_cases()
    hist_sequences, hist = histogram_cases()
    affine_sequences, affine = affine_cases()
    write(folder, "observers.json", {
        "wave": all_bits(tensor("wave", 0, [64])),
        "per_tensor": {"sequences": SEQUENCES, "cases": per_tensor_cases()},
        "per_channel": {"sequences": channel_sequences, "cases": channel},
        "histogram": {"sequences": hist_sequences, "cases": hist},
        "affine": {"sequences": affine_sequences, "cases": affine},
        "loss": {"sequences": {}, "cases": loss_cases()},
    })


if __name__ == "__main__":
    main(sys.argv[1])

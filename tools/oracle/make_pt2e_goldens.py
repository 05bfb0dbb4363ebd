"""Runs ExecuTorch's own quantizers over a small Llama and writes what they chose: the goldens of whole graphs.

    make_pt2e_goldens.py MODEL_FOLDER OUT_FOLDER NAME WINDOWS LENGTH [--text FILE | --seed N] [--record] [SCHEME...]

For each scheme `OUT_FOLDER/NAME.SCHEME.json`: the windows, every annotated tensor by module path and port with scale, zero
point and range of codes, CRC-32 of the codes of every folded constant, and the converted graph's logits for the last rows of
the last window; for some the codes of all activations. Windows are of random tokens, or of the tokens of a text; then the logits
of all windows stand beside, in `NAME.SCHEME.logits.f32`, and how far PyTorch is from itself where
linear layers and means sum in another order, in the converted graph and, for scales, while it is calibrated. Core ML's golden is of 2 windows of 4 tokens with --seed 111: its
fake-quantize modules round rounded values again, with nearly the same scale, so that ties are common; there no value comes
nearer to one than a hundred-thousandth of a code. With --record,
what every histogram observer saw stands in `NAME.SCHEME.recorded.f32`. Needs ExecuTorch 1.5.1 and torchao (`cargo xtask fetch --oracle`); `QNN_SDK_ROOT` for the schemes of QNN.
"""

import base64
import contextlib
import copy
import json
import sys
import warnings
import zlib
from pathlib import Path

warnings.filterwarnings("ignore")
import executorch.version
import numpy as np
import torch
import torchao
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torch.overrides import TorchFunctionMode
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

sys.path.insert(0, str(Path(__file__).parent))
from pt2e_model import Llama

torch.set_num_threads(1)
ROWS = 4
NAMES = {
    "view": "view_copy", "slice": "slice_copy", "transpose": "transpose_copy", "permute": "permute_copy",
    "unsqueeze": "unsqueeze_copy", "select": "select_copy", "expand": "expand_copy", "softmax": "_softmax",
    "matmul": "bmm", "reshape": "view_copy",
}


def xnnpack(quant_min, is_dynamic):
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    bits = {-127: {}, -8: {"weight_qmin": -8, "weight_qmax": 7}}[quant_min]
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic, **bits)
    return XNNPACKQuantizer().set_global(config)


def vulkan():
    from executorch.backends.vulkan.quantizer.vulkan_quantizer import (
        VulkanQuantizer,
        get_symmetric_quantization_config,
    )

    return VulkanQuantizer().set_global(get_symmetric_quantization_config(is_dynamic=False, weight_bits=8))


def embedding():
    from torchao.quantization.pt2e.quantizer.embedding_quantizer import EmbeddingQuantizer

    return EmbeddingQuantizer()


def coreml():
    from coremltools.optimize.torch.quantization.quantization_config import LinearQuantizerConfig, QuantizationScheme
    from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer

    config = LinearQuantizerConfig.from_dict({
        "global_config": {
            "quantization_scheme": QuantizationScheme.affine, "activation_dtype": torch.quint8,
            "weight_dtype": torch.qint8, "weight_per_channel": True,
        }
    })
    return CoreMLQuantizer(config)


def kv_8bit(graph_module):
    """ExecuTorch's `annotate_kv_8bit`, which stops at convolutions (its static Llama has them for linear layers): here at
    linear layers, so that the norms before them are put back."""
    from executorch.backends.qualcomm.quantizer.custom_annotation import annotate_kv_8bit

    kept = {}
    for node in graph_module.graph.nodes:
        if "rms_norm" in str(node.target):
            annotation = kept[node] = copy.copy(node.meta[Q_ANNOTATION_KEY])
            annotation.input_qspec_map = dict(annotation.input_qspec_map)
    annotate_kv_8bit(graph_module)
    for node, annotation in kept.items():
        node.meta[Q_ANNOTATION_KEY] = annotation


def qnn(dtype, per_channel=True, observer=None, custom=()):
    from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype

    quantizer = QnnQuantizer()
    quantizer.set_default_quant_config(
        getattr(QuantDtype, "use_" + dtype), is_conv_per_channel=per_channel, is_linear_per_channel=per_channel,
        **({"act_observer": observer} if observer else {}),
    )
    quantizer.add_custom_quant_annotations(custom)
    return quantizer


def blocks(quantizer, graph_module):
    """Blocks of 32 in every linear layer of the feed-forward."""
    sizes = {}
    for node in graph_module.graph.nodes:
        if node.target == torch.ops.aten.linear.default and path_of(node).split(".")[-2:-1] == ["mlp"]:
            sizes[node.name] = (1, 32)
    quantizer.set_block_size_map(sizes)


SCHEMES = {
    # name: (static form, quantizer)
    "xnnpack": (False, lambda: xnnpack(-127, False)),
    "coreml_baseline_8a_c4w": (False, lambda: xnnpack(-8, False)),
    "xnnpack_dynamic": (False, lambda: xnnpack(-127, True)),
    "xnnpack_dynamic_qc4": (False, lambda: xnnpack(-8, True)),
    "vulkan_8w": (False, vulkan),
    "embedding": (False, embedding),
    "coreml_8a_c8w": (False, coreml),
    "qnn_8a8w": (True, lambda: qnn("8a8w")),
    "qnn_8a4w": (True, lambda: qnn("8a4w")),
    "qnn_16a16w": (True, lambda: qnn("16a16w", False, MinMaxObserver)),
    "qnn_16a8w": (True, lambda: qnn("16a8w", True, MinMaxObserver, (kv_8bit,))),
    "qnn_16a4w": (True, lambda: qnn("16a4w", True, MinMaxObserver, (kv_8bit,))),
    "qnn_16a4w_block": (True, lambda: qnn("16a4w_block", True, MinMaxObserver, (kv_8bit,))),
}


def path_of(node):
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path.removeprefix("L['self'].")


def names_of(graph):
    """What each node is called within its module: the operator, and its number where the module has several."""
    seen, names = {}, {}
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.split("::")[1]
        name = NAMES.get(name, name)
        key = (path_of(node), name)
        count = seen.get(key, 0)
        seen[key] = count + 1
        names[node] = name if count == 0 else f"{name}_{count}"
    return names


def b64(tensor, dtype):
    return base64.b64encode(np.ascontiguousarray(tensor.detach().numpy().astype(dtype)).tobytes()).decode()


def params(observer):
    """Scale, zero point and codes of an observer; None where there are none."""
    if getattr(observer, "is_dynamic", False):
        return {"dynamic": True, "dtype": str(observer.dtype).removeprefix("torch.")}
    if type(observer).__name__ in ("PlaceholderObserver", "NoopObserver"):
        return None
    inner = getattr(observer, "activation_post_process", observer)
    scale, zero = inner.calculate_qparams()
    out = {
        "dtype": str(inner.dtype).removeprefix("torch."), "quant_min": int(inner.quant_min),
        "quant_max": int(inner.quant_max), "scale": b64(scale.reshape(-1), "<f4"),
    }
    zeros = zero.reshape(-1)
    whole = not zeros.is_floating_point()
    if whole and bool((zeros == zeros[0]).all()):
        out["zero_point"] = int(zeros[0])
    else:
        out["zero_points"] = b64(zeros, "<i4" if whole else "<f4")
    return out


def points(prepared, names, with_observers=False):
    """Every annotated edge and output, in order, with its parameters, or with its observer. `names`: of the graph before
    observers."""
    modules = dict(prepared.named_modules(remove_duplicate=False))

    def observer(node):
        if isinstance(node, torch.fx.Node) and node.op == "call_module" and node.name.startswith("activation_post"):
            return modules[node.target]
        return None

    def add(out, path, port, found):
        if with_observers:
            out.append(({"module": path, "port": port}, found))
            return
        chosen = params(found)
        if chosen is not None:
            out.append({"module": path, "port": port, **chosen})

    out = []
    for node in prepared.graph.nodes:
        annotation = node.meta.get(Q_ANNOTATION_KEY)
        if node.op != "call_function" or annotation is None or node.name not in names:
            continue
        path, name = path_of(node), names[node.name]
        arguments = [a.name for a in node.target._schema.arguments]
        if name.startswith("bmm"):
            arguments = ["self", "mat2"]
        inputs = {n.name for n in annotation.input_qspec_map if isinstance(n, torch.fx.Node)}
        for argument, value in zip(arguments, node.args):
            items = value if isinstance(value, (list, tuple)) else [value]
            for i, item in enumerate(items):
                found = observer(item)
                # The observer may be that of the producer, whose own annotation it is.
                source = item
                while observer(source) is not None:
                    source = source.args[0]
                if found is not None and isinstance(source, torch.fx.Node) and source.name in inputs:
                    add(out, path, f"{name}.{argument}[{i}]" if isinstance(value, (list, tuple)) else f"{name}.{argument}",
                        found)
        if annotation.output_qspec is not None:
            found = next((observer(u) for u in node.users if observer(u) is not None), None)
            if found is not None:
                add(out, path, f"{name}.output", found)
    return out


def constants(converted):
    """CRC-32 of the codes of each folded constant with its shape, in the order of the graph."""
    out = []
    for node in converted.graph.nodes:
        if node.op != "get_attr":
            continue
        value = converted
        for part in node.target.split("."):
            value = getattr(value, part)
        users = [u for u in node.users if "dequantize" in str(u.target) or "dequantize_affine" in str(u.target)]
        if not users or value.is_floating_point():
            continue
        reader = next(iter(users[0].users))
        codes = np.ascontiguousarray(value.numpy())
        out.append({
            "read_by": path_of(reader), "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."),
            "crc32": zlib.crc32(codes.tobytes()),
        })
    return out


class Watched(torch.fx.Interpreter):
    """Keeps what the quantize nodes give."""

    def __init__(self, module):
        super().__init__(module)
        self.codes = {}

    def run_node(self, node):
        out = super().run_node(node)
        if "quantized_decomposed.quantize_per_tensor" in str(node.target):
            self.codes[node] = out
        return out


def codes(converted, names, inputs):
    """The codes of every quantize node for these inputs, by what is quantized: module, port of the operator that computed it
    (or the name of an input), and through how many other quantize nodes it went. 16-bit codes as u16."""
    watched = Watched(converted)
    with torch.no_grad():
        watched.run(*inputs)
    out = []
    for node, value in watched.codes.items():
        source, depth = node.args[0], 0
        while "quantize" in str(source.target):
            depth += "dequantize" in str(source.target)
            source = source.args[0]
        if source.op == "get_attr":
            continue
        module, port = ("", source.name) if source.op == "placeholder" else (path_of(source), f"{names[source.name]}.output")
        kind = {torch.int8: "<i1", torch.uint8: "<u1", torch.int16: "<i2", torch.int32: "<u2"}[value.dtype]
        raw = np.ascontiguousarray(value.numpy().astype(kind)).tobytes()
        out.append({"module": module, "port": port, "depth": depth, "kind": kind,
                    "codes": base64.b64encode(raw).decode()})
    return out


def record(prepared):
    """Keeps what histogram observers see from now on: a list of tensors by observer."""
    seen = {}
    for observer in prepared.modules():
        if isinstance(observer, HistogramObserver):
            seen[observer] = []
            observer.register_forward_pre_hook(lambda m, given: seen[m].append(given[0].detach().numpy().astype("<f4").ravel()))
    return seen


def write_recorded(seen, prepared, names, path):
    """All tensors of an observer one behind the other; gives where each observer's begin, their lengths, and its points."""
    of_observer = {}
    for point, observer in points(prepared, names, with_observers=True):
        of_observer.setdefault(observer, []).append(point)
    out, at = [], 0
    with open(path, "wb") as f:
        for observer, tensors in seen.items():
            if observer not in of_observer or not tensors:
                continue
            out.append({"points": of_observer[observer], "at": at, "lengths": [len(t) for t in tensors]})
            for t in tensors:
                f.write(t.tobytes())
                at += t.nbytes
    return out


class Reversed(TorchFunctionMode):
    """Linear layers and means add up in the opposite order. (The mean of codes is often half way between two codes.)"""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.linear.default and len(args) == 2:
            return args[0].flip(-1) @ args[1].flip(-1).t()
        if function is torch.ops.aten.mean.dim and list(args[1]) == [-1]:
            return function(args[0].flip(-1), *args[1:], **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def logits_of(converted, model, tokens):
    with torch.no_grad():
        out = [converted(*model.inputs(window)) for window in tokens]
    return torch.cat([(o[0] if model.static else o).reshape(len(w), -1) for o, w in zip(out, tokens)])


# Schemes whose goldens have the codes of all activations.
WITH_CODES = ("xnnpack", "qnn_8a8w", "qnn_16a8w", "qnn_16a16w")


def windows_of(text, folder, vocab, windows, length, seed=7):
    if text is None:
        return np.random.RandomState(seed).randint(0, vocab, (windows, length)).tolist()
    from tokenizers import Tokenizer

    with open(text, encoding="utf-8") as f:
        ids = Tokenizer.from_file(str(Path(folder) / "tokenizer.json")).encode(f.read(100_000)).ids
    assert len(ids) >= windows * length, f"{text} is too short"
    return [ids[i * length:(i + 1) * length] for i in range(windows)]


def calibrated(model, tokens, scheme, recording=False, mode=contextlib.nullcontext):
    """The graph with its observers after all windows, which are run in `mode`; the names of its nodes before observers; and what
    `record` keeps."""
    exported = torch.export.export(model, model.inputs(tokens[0]), strict=False).module()
    quantizer = SCHEMES[scheme][1]()
    if scheme.endswith("_block"):
        blocks(quantizer, exported)
    captured = {}
    annotate = quantizer.annotate

    def annotated(graph_module):
        captured.update({n.name: v for n, v in names_of(graph_module.graph).items()})
        return annotate(graph_module)

    quantizer.annotate = annotated
    prepared = prepare_pt2e(exported, quantizer)
    seen = record(prepared) if recording else {}
    with torch.no_grad(), mode():
        for window in tokens:
            prepared(*model.inputs(window))
    return prepared, captured, seen


def scales_apart(found, other):
    """How many tensors have another scale, by more than a hundred-thousandth, and by how much of itself the furthest."""
    apart = []
    for a, b in zip(found, other, strict=True):
        if "scale" in a:
            x, y = (np.frombuffer(base64.b64decode(p["scale"]), "<f4") for p in (a, b))
            apart.append(float(np.max(np.abs(x - y) / x)))
    return {"apart": sum(d > 1e-5 for d in apart), "furthest": max(apart, default=0.0)}


def run(folder, out_folder, name, windows, length, text, seed, recording, scheme):
    static = SCHEMES[scheme][0]
    model = Llama(folder, static, length, context=None)
    tokens = windows_of(text, folder, model.c.vocab, windows, length, seed)
    prepared, captured, seen = calibrated(model, tokens, scheme, recording)
    found = points(prepared, captured)
    if seen:
        recorded = write_recorded(seen, prepared, captured, Path(out_folder) / f"{name}.{scheme}.recorded.f32")
    converted = convert_pt2e(prepared)
    with torch.no_grad():
        logits = converted(*model.inputs(tokens[-1]))
        logits = (logits[0] if static else logits).reshape(length, -1)
    result = {
        "versions": {"executorch": executorch.version.__version__, "torch": torch.__version__,
                     "torchao": torchao.__version__},
        "scheme": scheme, "windows": tokens, "points": found, "constants": constants(converted),
        "largest_logit": float(logits.abs().max()), "logits": b64(logits[-ROWS:], "<f4"),
    }
    if scheme in WITH_CODES:
        result["codes"] = codes(converted, captured, model.inputs(tokens[-1]))
    if seen:
        result["recorded"] = recorded
    if text is not None:
        rows = logits_of(converted, model, tokens)
        (Path(out_folder) / f"{name}.{scheme}.logits.f32").write_bytes(rows.numpy().astype("<f4").tobytes())
        with Reversed():
            other = logits_of(converted, model, tokens)
        p, q = rows.double().log_softmax(-1), other.double().log_softmax(-1)
        same = (p.argmax(-1) == q.argmax(-1)).double().mean()
        result["itself"] = {"kl": float((p.exp() * (p - q)).sum(-1).mean()), "same": float(same)}
        again, names, _ = calibrated(model, tokens, scheme, mode=Reversed)
        result["itself"]["scales"] = scales_apart(found, points(again, names))
        print("against itself with reversed sums", result["itself"])
    path = Path(out_folder) / f"{name}.{scheme}.json"
    lines = json.dumps(result).replace('{"module"', '\n{"module"').replace('{"read_by"', '\n{"read_by"')
    path.write_text(lines.replace(", \n", ",\n") + "\n")
    print(scheme, len(found), "tensors", len(result["constants"]), "constants", path.stat().st_size, "bytes")


if __name__ == "__main__":
    folder, out_folder, name, windows, length, *schemes = sys.argv[1:]
    recording = "--record" in schemes
    schemes = [s for s in schemes if s != "--record"]
    given = {"--text": None, "--seed": "7"}
    while schemes[:1] and schemes[0] in given:
        given[schemes[0]], schemes = schemes[1], schemes[2:]
    Path(out_folder).mkdir(parents=True, exist_ok=True)
    for scheme in schemes or SCHEMES:
        run(folder, out_folder, name, int(windows), int(length), given["--text"], int(given["--seed"]), recording, scheme)

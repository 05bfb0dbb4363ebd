"""Reads the codes and scales of weights out of programs that ExecuTorch's exporter wrote, for a test that quantizes the same
checkpoint.

    make_pte_codes.py GOLDENS_FOLDER HF_FOLDER OUT.json

GOLDENS_FOLDER has `v4d_8da4w_xnn_emb8.pte`, `v4e_8da4w_xnn_emb4.pte`, `v5_pt2e_xnn_dyn.pte` and `v5b_pt2e_xnn_dyn_qc4.pte` with
`dump_pte.py`'s neighbours; HF_FOLDER is `fixtures/tiny_llama_hf`, the same weights. Rows of queries and keys are put into the
order of Hugging Face's checkpoints. Needs ExecuTorch (its flatbuffer classes and `flatc`).
"""

import base64
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from safetensors.numpy import load_file

import executorch.backends.xnnpack.serialization as serialization

SCHEMA = Path(list(serialization.__path__)[0]) / "schema.fbs"
HEADS = {"q_proj": 4, "k_proj": 2}


def b64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def entry(codes, scales):
    """Codes of 4 bits two a byte, the first in the low half, plus 8."""
    small = codes.min() >= -8 and codes.max() <= 7
    flat = (codes.reshape(-1) + 8).astype(np.uint8)
    packed = flat[0::2] | flat[1::2] << 4 if small else codes
    return {"bits": 4 if small else 8, "groups": scales.shape[1], "codes": b64(packed), "scales": b64(scales)}


def program(path):
    data = Path(path).read_bytes()
    size, base, _ = struct.unpack_from("<QQQ", data, 16)
    return data, base, _flatbuffer_to_program(data[:size])


def xnnpack_linears(path):
    """Codes i8 [rows, columns] and scales f32 [rows, groups] of every fully connected node with integer weights."""
    data, base, p = program(path)
    named = {}
    for n in p.named_data:
        s = p.segments[n.segment_index]
        named[n.key] = data[base + s.offset:][: s.size]
    for delegate in p.execution_plan[0].delegates:
        s = p.segments[delegate.processed.index]
        blob = data[base + s.offset:][: s.size]
        _, offset, size = struct.unpack_from("<HII", blob, 8)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "g.bin").write_bytes(blob[offset:offset + size])
            subprocess.check_call(["flatc", "--json", "--strict-json", "--raw-binary", "-o", folder, str(SCHEMA), "--",
                                   folder + "/g.bin"])
            graph = json.loads(Path(folder, "g.json").read_text())
        for node in graph["xnodes"]:
            if node["xnode_union_type"] != "XNNFullyConnected":
                continue
            value = graph["xvalues"][node["xnode_union"]["filter_id"]]["xvalue_union"]
            tensor = value.get("tensor_value", value)
            constants = graph["constant_data"]
            raw = named[constants[tensor["constant_buffer_idx"]]["named_key"]]
            (rows, columns), dtype, q = tensor["dims"], tensor["datatype"], value["quant_params"]
            scale = named[constants[q["scale_buffer_idx"]]["named_key"]]
            if dtype in ("xnn_datatype_qbint4", "xnn_datatype_qcint4"):
                packed = np.frombuffer(raw, np.uint8)
                codes = np.stack([packed & 15, packed >> 4], -1).reshape(rows, columns).astype(np.int8) - 8
            else:
                codes = np.frombuffer(raw, np.int8).reshape(rows, columns)
            if dtype == "xnn_datatype_qbint4":
                wide = np.frombuffer(scale, "<u2").astype(np.uint32) << 16
                scales = wide.view(np.float32).reshape(rows, -1)
            else:
                scales = np.frombuffer(scale, "<f4").reshape(rows, 1)
            yield codes, scales


def embedding(path):
    """Codes i8 [rows, columns] and scales f32 [rows, groups] of the first constant of bytes."""
    data, base, p = program(path)
    start = base + p.segments[p.constant_segment.segment_index].offset
    constants = []
    for value in p.execution_plan[0].values:
        t = value.val
        if type(t).__name__ == "Tensor" and t.data_buffer_idx and t.allocation_info is None:
            constants.append((int(t.scalar_type), list(t.sizes), data[start + p.constant_segment.offsets[t.data_buffer_idx]:]))
    at = next(i for i, c in enumerate(constants) if c[0] in (0, 1))
    kind, sizes, raw = constants[at]
    count = int(np.prod(sizes))
    if kind == 1:
        codes = np.frombuffer(raw, np.int8, count).reshape(sizes)
    else:
        packed = np.frombuffer(raw, np.uint8, count).reshape(sizes)
        codes = np.stack([packed >> 4, packed & 15], -1).reshape(sizes[0], -1).astype(np.int8) - 8
    _, sizes, raw = constants[at + 1]
    return codes, np.frombuffer(raw, "<f4", int(np.prod(sizes))).reshape(codes.shape[0], -1)


def turned(name, a):
    """Rows of neighbouring pairs, as Meta's, in two halves."""
    heads = HEADS.get(name.split(".")[-2])
    if heads is None:
        return a
    a = a.reshape(heads, -1, 2, a.shape[-1])
    return a.transpose(0, 2, 1, 3).reshape(-1, a.shape[-1])


def matching(weights, codes, scales):
    """The tensor that the codes are of, and them in its order of rows."""
    def likeness(name):
        w = weights[name]
        v = turned(name, codes * scales.repeat(codes.shape[1] // scales.shape[1], 1))
        return float((w * v).sum() / (np.linalg.norm(w) * np.linalg.norm(v)))

    name = max((n for n, w in weights.items() if w.shape == codes.shape and "embed" not in n), key=likeness)
    assert likeness(name) > 0.95, (name, likeness(name))
    return name, turned(name, codes), turned(name, scales)


if __name__ == "__main__":
    goldens, folder, out = map(Path, sys.argv[1:])
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    weights = load_file(folder / "model.safetensors")
    result = {}
    for name in ("v4d_8da4w_xnn_emb8", "v4e_8da4w_xnn_emb4", "v5_pt2e_xnn_dyn", "v5b_pt2e_xnn_dyn_qc4"):
        path, found = goldens / f"{name}.pte", {}
        for codes, scales in xnnpack_linears(path):
            tensor, codes, scales = matching(weights, codes, scales)
            found[tensor] = entry(codes, scales)
        if "emb" in name:
            codes, scales = embedding(path)
            found["model.embed_tokens.weight"] = entry(codes, scales)
        if name.startswith("v4e"):
            # Its linear layers are those of v4d.
            assert all(found[t] == result["v4d"][t] for t in found if "embed" not in t)
            found = {t: e for t, e in found.items() if "embed" in t}
        result[name.split("_")[0]] = found
        print(name, len(found), "weights")
    text = json.dumps(result).replace('"model.', '\n"model.').replace('"lm_head', '\n"lm_head')
    out.write_text(text + "\n")
    print(out.stat().st_size, "bytes")

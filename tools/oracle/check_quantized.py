"""Runs quantized exports of the bundled model in ExecuTorch's own runtime and in Pteron, compares the logits, and with --write
records ExecuTorch's as crates/pteron/tests/quantized/executorch.json.

usage: $ORACLE_ENV/bin/python tools/oracle/check_quantized.py PTERON CHECKPOINT [--text FILE] [--write]
PTERON is the binary, CHECKPOINT the folder of the bundled model (`pteron demo --keep`, or any copy of assets/glass-en). With a text
static schemes are compared as well, calibrated on it; they are not recorded. Their activations are codes, and a sum that is rounded
otherwise by one bit flips a code at a tie: ExecuTorch is therefore compared with itself too, the epsilon of its norms changed by a
two-thousandth, and Pteron must not be further from it than twice that, or a ten-thousandth of the largest logit.
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = {
    "int8": ["--quantization-mode", "int8"],
    "4w_g16": ["--quantization-mode", "4w", "--group-size", "16"],
    "8da4w_g32_e4": ["--quantization-mode", "8da4w", "--group-size", "32", "--embedding-quantize", "4,32"],
    "embedding_2bit_affine": ["--embedding-quantize", "2,0", "--weight-algorithm", "affine"],
    "xnnpack_dynamic": ["--pt2e-quantize", "xnnpack_dynamic"],
    "xnnpack_dynamic_qc4": ["--pt2e-quantize", "xnnpack_dynamic_qc4"],
    "vulkan_8w": ["--pt2e-quantize", "vulkan_8w"],
    "embedding": ["--pt2e-quantize", "embedding"],
    "kv8": ["--quantize-kv-cache"],
    "kv8_int8": ["--quantize-kv-cache", "--quantization-mode", "int8"],
}
# Compared, and not recorded.
FURTHER = {
    f"{name} portable": ["--pt2e-quantize", name, "--no-xnnpack"] for name in ("xnnpack_dynamic", "xnnpack_dynamic_qc4")
}
STATIC = ["xnnpack", "coreml_8a_c8w", "coreml_8a_c4w", "coreml_baseline_8a_c4w", "qnn_8a8w", "qnn_8a4w", "qnn_16a8w", "qnn_16a4w"]
SDPA = ["-kv", "--use-sdpa-with-kv-cache"]
# Static caches of 8-bit codes, which ExecuTorch's own operator of attention does not read.
CACHE = ["--static-quantize-kv-cache"]
BAR = 1e-4
CALLS = [([17, 230, 4, 88, 301], 0), ([99], 5)]


def tensor(shape, data):
    return {"dtype": "int64", "shape": shape, "data": data}


def logits(outputs):
    first = outputs[0] if isinstance(outputs, list) else outputs
    return np.array(first["data"], dtype=np.float64)


def in_executorch(pte, calls, out):
    runner = [sys.executable, ROOT / "tools/oracle/run_pte.py", pte, calls, out]
    subprocess.run(runner, check=True, capture_output=True)
    return json.loads(out.read_text())


def difference(a, b):
    """The largest difference of two runs' logits, as a part of the largest logit."""
    return max(np.abs(logits(x) - logits(y)).max() / np.abs(logits(x)).max() for x, y in zip(a, b))


def with_itself(pte, eps, calls, work, theirs):
    """How far ExecuTorch is from itself, if a mean square with its epsilon changes by less than a float's last bit or so."""
    program, worst = pte.read_bytes(), 0.0
    old = struct.pack("<f", eps)
    if program.count(old) != 1:
        return None
    for change in (1 - 5e-4, 1 + 5e-4):
        changed = work / "changed.pte"
        changed.write_bytes(program.replace(old, struct.pack("<f", eps * change)))
        worst = max(worst, difference(theirs, in_executorch(changed, calls, work / "changed.json")))
    return worst


def main():
    pteron, checkpoint, write = sys.argv[1], sys.argv[2], "--write" in sys.argv
    forms = {name: [*SDPA, *flags] for name, flags in {**FORMS, **FURTHER}.items()}
    forms["static cache, one scale"] = ["-kv", *CACHE, "--static-quantize-kv-cache-scale", "0.007874"]
    if "--text" in sys.argv:
        data = ["--calibration-data", sys.argv[sys.argv.index("--text") + 1], "--calibration-limit", "8"]
        forms.update({name: [*SDPA, "--pt2e-quantize", name, *data] for name in STATIC})
        forms["static cache"] = ["-kv", *CACHE, *data]
        forms["static cache, int8"] = ["-kv", *CACHE, "--quantization-mode", "int8", *data]
    calls = [[tensor([1, len(ids)], ids), tensor([1], [pos])] for ids, pos in CALLS]
    eps = json.loads((pathlib.Path(checkpoint) / "config.json").read_text())["rms_norm_eps"]
    recorded, failed = {}, 0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "calls.json").write_text(json.dumps(calls))
        for name, flags in forms.items():
            pte = work / f"{name}.pte"
            subprocess.run([pteron, "export", checkpoint, "-o", pte, *flags], check=True, capture_output=True)
            ours = work / "ours.json"
            a = in_executorch(pte, work / "calls.json", work / "theirs.json")
            subprocess.run([pteron, "exec", pte, "--calls", work / "calls.json", "--out", ours], check=True)
            found = difference(a, json.loads(ours.read_text()))
            itself = with_itself(pte, eps, work / "calls.json", work, a) if name in STATIC else None
            ok = found <= max(BAR, 2 * (itself or 0.0))
            failed += not ok
            note = "" if itself is None else f"; ExecuTorch with itself {itself:.2e}"
            print(f"{name:28} largest difference {found:.2e} of the largest logit{note}{'' if ok else ' FAILED'}", flush=True)
            if name in FORMS:
                recorded[name] = {"flags": FORMS[name], "logits": [[float(f"{v:.6g}") for v in logits(x)] for x in a]}
    print(f"{len(forms)} forms, {failed} failed")
    if write:
        import executorch.version

        out = ROOT / "crates/pteron/tests/quantized"
        out.mkdir(exist_ok=True)
        calls = [{"tokens": ids, "position": pos} for ids, pos in CALLS]
        content = {"executorch": executorch.version.__version__, "calls": calls, "forms": recorded}
        (out / "executorch.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    sys.exit(failed > 0)


main()

"""Runs quantized exports of the bundled model in ExecuTorch's own runtime and in Pteron, compares the logits, and with --write
records ExecuTorch's as crates/pteron/tests/quantized/executorch.json.

usage: $ORACLE_ENV/bin/python tools/oracle/check_quantized.py PTERON CHECKPOINT [--text FILE] [--write]
PTERON is the binary, CHECKPOINT the folder of the bundled model (`pteron demo --keep`, or any copy of assets/glass-en). With a text
static schemes are compared as well, calibrated on it; they are not recorded.
"""

import json
import pathlib
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
CALLS = [([17, 230, 4, 88, 301], 0), ([99], 5)]


def tensor(shape, data):
    return {"dtype": "int64", "shape": shape, "data": data}


def logits(outputs):
    first = outputs[0] if isinstance(outputs, list) else outputs
    return np.array(first["data"], dtype=np.float64)


def main():
    pteron, checkpoint, write = sys.argv[1], sys.argv[2], "--write" in sys.argv
    forms = {**FORMS, **FURTHER}
    if "--text" in sys.argv:
        data = ["--calibration-data", sys.argv[sys.argv.index("--text") + 1], "--calibration-limit", "8"]
        forms.update({name: ["--pt2e-quantize", name, *data] for name in STATIC})
    calls = [[tensor([1, len(ids)], ids), tensor([1], [pos])] for ids, pos in CALLS]
    recorded, worst = {}, 0.0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "calls.json").write_text(json.dumps(calls))
        for name, flags in forms.items():
            pte = work / f"{name}.pte"
            form = ["-kv", "--use-sdpa-with-kv-cache"]
            subprocess.run([pteron, "export", checkpoint, "-o", pte, *form, *flags], check=True, capture_output=True)
            theirs, ours = work / "theirs.json", work / "ours.json"
            runner = [sys.executable, ROOT / "tools/oracle/run_pte.py", pte, work / "calls.json", theirs]
            subprocess.run(runner, check=True, capture_output=True)
            subprocess.run([pteron, "exec", pte, "--calls", work / "calls.json", "--out", ours], check=True)
            a, b = json.loads(theirs.read_text()), json.loads(ours.read_text())
            difference = max(np.abs(logits(x) - logits(y)).max() / np.abs(logits(x)).max() for x, y in zip(a, b))
            worst = max(worst, difference)
            print(f"{name:22} largest difference {difference:.2e} of the largest logit", flush=True)
            if name in FORMS:
                recorded[name] = {"flags": flags, "logits": [[float(f"{v:.6g}") for v in logits(x)] for x in a]}
    print(f"{len(forms)} forms, the worst {worst:.2e}")
    if write:
        import executorch.version

        out = ROOT / "crates/pteron/tests/quantized"
        out.mkdir(exist_ok=True)
        calls = [{"tokens": ids, "position": pos} for ids, pos in CALLS]
        content = {"executorch": executorch.version.__version__, "calls": calls, "forms": recorded}
        (out / "executorch.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    sys.exit(worst > 1e-4)


main()

"""Runs programs in ExecuTorch's runtime against the recorded outputs; called by check_reemit.sh and check_exports.sh.
usage: check_programs.py FIXTURES PROGRAMS NAME...     exit code: number of programs that differ"""
import json
import sys
from pathlib import Path

import torch
from executorch.runtime import Runtime, Verification
import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::*
import executorch.kernels.quantized  # noqa: F401  registers quantized_decomposed::*


def decode(x):
    if not isinstance(x, dict):
        return x
    dtype = getattr(torch, x["dtype"].removeprefix("torch."))
    return torch.tensor(x["data"], dtype=dtype).reshape(x["shape"])


def difference(expected, actual):
    """The largest difference relative to the largest recorded value; None if shape or dtype differ."""
    if not torch.is_tensor(expected):
        return 0.0 if expected == actual else None
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return None
    if expected.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        return 0.0 if torch.equal(expected, actual) else None
    if expected.numel() == 0:
        return 0.0
    scale = max(float(expected.double().abs().max()), 1e-30)
    return float((expected.double() - actual.double()).abs().max()) / scale


def calls_of(fixtures, name):
    """Method, inputs and expected outputs of each recorded call."""
    if name.startswith("micro/"):
        for c in json.loads((fixtures / f"{name}.json").read_text()):
            yield c.get("method", "forward"), [decode(x) for x in c["inputs"]], [decode(x) for x in c["outputs"]]
        return
    for s in json.loads((fixtures / "golden" / f"{name}.json").read_text())["steps"]:
        inputs = [torch.tensor([s["tokens"]])]
        if s["input_pos"] is not None:
            inputs.append(torch.tensor([s["input_pos"]]))
        yield "forward", inputs, [torch.tensor(s["logits"]).reshape(s["out_shape"])]


def check(fixtures, programs, name):
    data = (programs / f"{name}.pte").read_bytes()
    ptd = str(fixtures / "micro/_default_external_constant.ptd") if name.endswith("_ptd") else None
    runtime = Runtime.get()
    program = runtime.load_program(data, verification=Verification.InternalConsistency, data_path=ptd)
    methods, worst, calls = {}, 0.0, 0
    for method, inputs, expected in calls_of(fixtures, name):
        if method not in methods:
            methods[method] = program.load_method(method)
        actual = methods[method].execute(inputs)
        if len(actual) != len(expected):
            return f"{len(actual)} outputs, expected {len(expected)}"
        for k, (e, a) in enumerate(zip(expected, actual)):
            d = difference(e, a)
            if d is None:
                return f"call {calls}, output {k}: {a} differs from {e}"
            worst = max(worst, d)
        calls += 1
    if worst > 1e-5:
        return f"largest relative difference {worst:.2e}"
    print(f"{name}: {calls} calls, largest relative difference {worst:.1e}")
    return None


def main(args):
    fixtures, programs, failed = Path(args[0]), Path(args[1]), 0
    for name in args[2:]:
        try:
            reason = check(fixtures, programs, name)
        except Exception as e:  # noqa: BLE001  the runtime raises RuntimeError of every kind
            reason = str(e)
        if reason:
            failed += 1
            print(f"{name}: FAILED: {reason}")
    print(f"{len(args) - 2 - failed} of {len(args) - 2} programs give the recorded outputs")
    return failed


sys.exit(main(sys.argv[1:]))

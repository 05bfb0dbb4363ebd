#!/usr/bin/env python3
"""Runs QNN programs in ExecuTorch's runtime and in Pteron's, on one library, and compares every output bit for bit.

usage: QNN_SDK_ROOT=FOLDER $ORACLE_ENV/bin/python tools/oracle/compare_qnn.py PTERON PROGRAM.pte... [--calls N]

QNN_SDK_ROOT is a folder with the libraries as ExecuTorch looks for them (lib/x86_64-linux-clang/libQnnHtp.so). Whose programs
these are does not matter. Every method that has a delegate is called N times (default 3) in a row, so that what a method keeps
from call to call counts. The first call has the inputs of NAME.npz (in0, in1, ...) where such a file lies beside NAME.pte;
all others are drawn from a fixed seed: floats from the normal distribution, codes from their whole range, 32-bit and 64-bit
integers (tokens and positions) from 0 to 15. A method of one token and its position with a cache of its own gets the positions
0, 1, 2, ...: what a cache holds before it is written is each runtime's own matter.

A line for each method; the exit status is the number of methods that differ or fail.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

DTYPES = {"f32": "float32", "i64": "int64", "i32": "int32", "u16": "uint16", "u8": "uint8", "i8": "int8", "i16": "int16"}
INTEGERS = 16
RUN_PTE = Path(__file__).with_name("run_pte.py")


def described(pteron, program):
    """Inputs of each method with delegates, as (type, sizes)."""
    text = subprocess.run([pteron, "inspect", program, "--json"], check=True, capture_output=True, text=True).stdout
    methods = {}
    for method in json.loads(text)["methods"]:
        if not method["delegates"]:
            continue
        inputs = []
        for port in method["inputs"]:
            dtype, sizes = re.match(r"(\w+)\[(.*)\]", port["type"]).groups()
            inputs.append((DTYPES[dtype], [int(s) for s in sizes.split(",") if s.strip()]))
        methods[method["name"]] = inputs
    return methods


def drawn(rng, dtype, sizes):
    if dtype == "float32":
        return rng.standard_normal(sizes).astype(np.float32)
    kind = np.dtype(dtype)
    low, high = (0, INTEGERS) if kind.itemsize > 2 else (np.iinfo(kind).min, np.iinfo(kind).max + 1)
    return rng.integers(low, high, sizes).astype(kind)


def calls_of(program, inputs, count):
    rng = np.random.default_rng(0)
    calls = [[drawn(rng, *i) for i in inputs] for _ in range(count)]
    if inputs == [("int64", [1, 1]), ("int64", [1])]:
        calls = [[token, np.array([at])] for at, (token, _) in enumerate(calls)]
    sample = Path(program).with_suffix(".npz")
    if sample.exists():
        data = np.load(sample)
        calls[0] = [data[f"in{i}"] for i in range(len(inputs))]
    tensor = lambda x: {"dtype": str(x.dtype), "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    return [[tensor(x) for x in call] for call in calls]


def bits(output):
    return np.array(output["data"], np.dtype(output["dtype"])).tobytes()


def compared(ours, theirs):
    """Number of outputs, and what differs first."""
    count = 0
    for c, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for o, (x, y) in enumerate(zip(a, b, strict=True)):
            count += 1
            if (x["dtype"], x["shape"]) != (y["dtype"], y["shape"]):
                return count, f"call {c}, output {o}: {x['dtype']} {x['shape']} against {y['dtype']} {y['shape']}"
            if bits(x) != bits(y):
                x, y = (np.array(v["data"], np.float64) for v in (x, y))
                return count, f"call {c}, output {o}: {int((x != y).sum())} of {x.size} differ, by up to {np.abs(x - y).max():g}"
    return count, None


def compare(pteron, program, method, inputs, count):
    library = os.path.join(os.environ["QNN_SDK_ROOT"], "lib", "x86_64-linux-clang")
    with tempfile.TemporaryDirectory() as folder:
        calls, ours, theirs = (os.path.join(folder, name) for name in ("calls.json", "ours.json", "theirs.json"))
        Path(calls).write_text(json.dumps(calls_of(program, inputs, count)))
        mine = [pteron, "exec", program, "--method", method, "--calls", calls, "--out", ours]
        oracle = [sys.executable, RUN_PTE, program, calls, theirs, "--method", method]
        for command in (mine, oracle):
            environment = {**os.environ, "LD_LIBRARY_PATH": library} if command is oracle else None
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                return 0, f"{Path(command[0]).name} failed: {done.stderr.strip().splitlines()[-1:]}"
        return compared(json.loads(Path(ours).read_text()), json.loads(Path(theirs).read_text()))


def main(arguments):
    different = 0
    for program in arguments.programs:
        methods = described(arguments.pteron, program)
        if not methods:
            different += 1
            print(f"{Path(program).name}: no method with a delegate")
        for method, inputs in methods.items():
            count, problem = compare(arguments.pteron, program, method, inputs, arguments.calls)
            different += problem is not None
            print(f"{Path(program).name} {method}: {problem or f'{count} outputs of {arguments.calls} calls are the same'}", flush=True)
    return min(different, 100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pteron", help="the binary")
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--calls", type=int, default=3)
    sys.exit(main(parser.parse_args()))

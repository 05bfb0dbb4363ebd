#!/usr/bin/env python3
"""Runs a .pte file in ExecuTorch's own runtime, with the inputs and outputs of `pteron exec`.

usage: $ORACLE_ENV/bin/python tools/oracle/run_pte.py MODEL.pte CALLS.json OUT.json [--method NAME] [--data X.ptd]
       $ORACLE_ENV/bin/python tools/oracle/run_pte.py --ops        backends and operators that this runtime has

CALLS.json is a list of calls, each a list of inputs: {"dtype": "int64", "shape": [1, 3], "data": [...]}, or a bare
number or boolean. OUT.json has a list of outputs for each call, written the same way (f16 and bf16 values as decimal
numbers). State such as a KV cache lasts from one call to the next.

The file is loaded with Verification.InternalConsistency. Exit status: 0 done, 2 not loaded, 3 not executed.
"""
import argparse
import json
import sys

import torch
from executorch.runtime import Runtime, Verification

# These register the kernels of llama::* and quantized_decomposed::*.
import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
import executorch.kernels.quantized  # noqa: F401

NOT_LOADED, NOT_EXECUTED = 2, 3


def decoded(value):
    if not isinstance(value, dict):
        return value
    return torch.tensor(value["data"], dtype=getattr(torch, value["dtype"])).reshape(value["shape"])


def encoded(value):
    if not torch.is_tensor(value):
        return value
    numbers = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "data": numbers.contiguous().flatten().tolist(),
    }


def list_operators():
    runtime = Runtime.get()
    print("backends:", " ".join(sorted(runtime.backend_registry.registered_backend_names)))
    for name in sorted(runtime.operator_registry.operator_names):
        print(name)


def main(args):
    with open(args.model, "rb") as file:
        data = file.read()
    # A Method keeps neither its program nor the bytes alive: both stay referenced until the end of this function.
    try:
        program = Runtime.get().load_program(data, verification=Verification.InternalConsistency, data_path=args.data)
        if args.method not in program.method_names:
            raise ValueError(f"no method {args.method}; it has {' '.join(sorted(program.method_names))}")
        method = program.load_method(args.method)
    except Exception as error:
        print(f"{args.model}: not loaded: {error}", file=sys.stderr)
        return NOT_LOADED
    with open(args.calls, encoding="utf-8") as file:
        calls = json.load(file)
    results = []
    for number, call in enumerate(calls):
        try:
            # The runtime's next call overwrites these outputs: they are copied out here.
            results.append([encoded(output) for output in method.execute([decoded(value) for value in call])])
        except Exception as error:
            print(f"{args.model}: call {number} not executed: {error}", file=sys.stderr)
            return NOT_EXECUTED
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(results, file)
    print(f"{args.model}: {len(results)} calls of {args.method}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("calls", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--method", default="forward")
    parser.add_argument("--data", help="a .ptd file with external constants")
    parser.add_argument("--ops", action="store_true", help="list backends and operators")
    arguments = parser.parse_args()
    if arguments.ops:
        list_operators()
    elif arguments.out is None:
        parser.error("MODEL.pte, CALLS.json and OUT.json are needed")
    else:
        sys.exit(main(arguments))

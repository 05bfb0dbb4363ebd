#!/usr/bin/env python3
"""The same XNNPACK program in ExecuTorch's runtime, on the real XNNPACK, and in Pteron: how far their logits are apart.

usage: $ORACLE_ENV/bin/python tools/oracle/check_xnnpack.py PTERON CHECKPOINT TEXT [--positions N] [--window N] [--flags ...]

PTERON is the binary; CHECKPOINT a Hugging Face folder with a tokenizer.json; TEXT a file whose first tokens are the input. The
checkpoint is exported once for each list of flags below (or for the one given after --flags) with -kv,
--use-sdpa-with-kv-cache and the logits of all tokens; windows of the text go through both runtimes from position 0, a prefill
of all but the last token of the window and a step of one token. Prints, for each form: the largest difference divided by the
largest logit, the mean KL divergence of Pteron's distribution from ExecuTorch's in nats, the share of positions with the same
most probable token, and how many positions were compared.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime, Verification
from tokenizers import Tokenizer

import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
import executorch.kernels.quantized  # noqa: F401

FORMS = [
    ["-qmode", "8da4w", "-G", "32", "-E", "4,32", "-X"],
    ["-qmode", "8da4w", "-G", "32", "-E", "4,32", "-X", "--xnnpack-extended-ops"],
    ["--pt2e-quantize", "xnnpack_dynamic"],
    ["--pt2e-quantize", "xnnpack_dynamic", "-X", "--xnnpack-extended-ops"],
    ["--pt2e-quantize", "xnnpack_dynamic_qc4"],
    ["--pt2e-quantize", "xnnpack_dynamic_qc4", "-X", "--xnnpack-extended-ops"],
    ["-X"],
    ["-X", "--xnnpack-extended-ops"],
]


def theirs(path, windows):
    data = path.read_bytes()
    out = []
    for window in windows:
        # A fresh method for each window: its cache begins empty. Program and bytes stay referenced while it runs.
        program = Runtime.get().load_program(data, verification=Verification.Minimal)
        method = program.load_method("forward")
        rows = []
        for tokens, position in calls_of(window):
            inputs = (torch.tensor([tokens]), torch.tensor([position]))
            rows.append(method.execute(inputs)[0].float().numpy().reshape(len(tokens), -1).copy())
        out.append(np.concatenate(rows))
    return out


def calls_of(window):
    return [(window[:-1], 0), (window[-1:], len(window) - 1)]


def ours(pteron, path, windows, folder):
    out = []
    for window in windows:
        calls = [
            [
                {"dtype": "int64", "shape": [1, len(tokens)], "data": tokens},
                {"dtype": "int64", "shape": [1], "data": [position]},
            ]
            for tokens, position in calls_of(window)
        ]
        (folder / "calls.json").write_text(json.dumps(calls))
        command = [pteron, "exec", path, "--calls", folder / "calls.json", "--out", folder / "out.json"]
        subprocess.run(command, check=True)
        rows = json.loads((folder / "out.json").read_text())
        parts = [np.array(r[0]["data"], dtype=np.float32).reshape(len(t), -1) for r, (t, _) in zip(rows, calls_of(window))]
        out.append(np.concatenate(parts))
    return out


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main(args):
    ids = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json")).encode(args.text.read_text()[:400_000]).ids
    count = max(1, args.positions // args.window)
    windows = [ids[i * args.window : (i + 1) * args.window] for i in range(count)]
    for flags in [args.flags] if args.flags else FORMS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            path = folder / "model.pte"
            length = str(args.window + 1)
            common = ["-kv", "--use-sdpa-with-kv-cache", "--generate-full-logits"]
            sizes = ["--max-seq-length", length, "--max-context-length", length]
            command = [args.pteron, "export", args.checkpoint, "-o", path, "--json", *common, *sizes, *flags]
            report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            worst, kl, same, positions, most = 0.0, 0.0, 0, 0, 0.0
            for a, b in zip(theirs(path, windows), ours(args.pteron, path, windows, folder)):
                worst, most = max(worst, np.abs(a - b).max()), max(most, np.abs(a).max())
                p, q = log_softmax(a), log_softmax(b)
                kl += (np.exp(p) * (p - q)).sum()
                same += int((a.argmax(-1) == b.argmax(-1)).sum())
                positions += len(a)
            print(
                f"{' '.join(flags):62} delegates {report['partition']['delegates']:4} "
                f"max|diff|/max {worst / most:.2e} KL {kl / positions:.2e} same top {100 * same / positions:.2f}% of {positions}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pteron")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--window", type=int, default=125)
    parser.add_argument("--flags", nargs=argparse.REMAINDER, help="of one form only")
    sys.exit(main(parser.parse_args()))

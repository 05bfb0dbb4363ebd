"""Measures every quantization scheme on one model and prints docs/accuracy.md's table.

usage: python3 tools/accuracy.py PTERON CHECKPOINT --calibration TEXT --text TEXT --work DIR [--rows A,B] [--tokens N]
       [--windows N] [--decode N]

Each row is a file in DIR: a row that is there is not measured again, so that a run can be cut off and taken up, and rows can be
measured one at a time. A row is an export (its size and time), an evaluation of the program against the float checkpoint
(--tokens of the text in windows of 512), and a prompt and single tokens at full speed (--decode). With --decode 0, for a machine
that does other things as well, no time is shown. Standard library only.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

WINDOW = 512
ROWS = {
    # name: (flags, whether it looks at calibration data)
    "float": ([], False),
    "int8": (["-qmode", "int8"], False),
    "vulkan_8w": (["--pt2e-quantize", "vulkan_8w"], False),
    "4w g32 hqq": (["-qmode", "4w", "-G", "32"], False),
    "4w g32 mse": (["-qmode", "4w", "-G", "32", "--weight-algorithm", "mse"], True),
    "8da4w g32 affine": (["-qmode", "8da4w", "-G", "32", "--weight-algorithm", "affine"], False),
    "8da4w g32 hqq": (["-qmode", "8da4w", "-G", "32", "--weight-algorithm", "hqq"], False),
    "8da4w g32 mse": (["-qmode", "8da4w", "-G", "32", "--weight-algorithm", "mse"], True),
    "8da4w g32 mse, embedding 8": (
        ["-qmode", "8da4w", "-G", "32", "--weight-algorithm", "mse", "-E", "8,0"],
        True,
    ),
    "8da4w g32 mse, embedding 4 g32": (
        ["-qmode", "8da4w", "-G", "32", "--weight-algorithm", "mse", "-E", "4,32"],
        True,
    ),
    "KV cache 8 bits": (["--quantize-kv-cache"], False),
    "embedding": (["--pt2e-quantize", "embedding"], False),
    "xnnpack_dynamic": (["--pt2e-quantize", "xnnpack_dynamic"], False),
    "xnnpack_dynamic_qc4": (["--pt2e-quantize", "xnnpack_dynamic_qc4"], False),
    "coreml_c4w": (["--pt2e-quantize", "coreml_c4w"], False),
    "coreml_8a_c8w": (["--pt2e-quantize", "coreml_8a_c8w"], True),
    "coreml_8a_c4w": (["--pt2e-quantize", "coreml_8a_c4w"], True),
    "qnn_16a16w": (["--pt2e-quantize", "qnn_16a16w"], True),
    "qnn_16a8w": (["--pt2e-quantize", "qnn_16a8w"], True),
    "qnn_16a4w": (["--pt2e-quantize", "qnn_16a4w"], True),
    "qnn_16a4w_block": (["--pt2e-quantize", "qnn_16a4w_block"], True),
    "qnn_8a8w": (["--pt2e-quantize", "qnn_8a8w"], True),
    "qnn_8a4w": (["--pt2e-quantize", "qnn_8a4w"], True),
}


def run(arguments, **more):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(a) for a in arguments)}\n{done.stderr}")
    return done.stdout


def measure(a, name):
    flags, needs = ROWS[name]
    if needs:
        flags = [*flags, "--calibration-data", a.calibration, "--calibration-limit", str(a.windows)]
    program = a.work / "program.pte"
    form = ["-kv", "--use-sdpa-with-kv-cache", "--max-seq-length", "513", "--max-context-length", "513"]
    gate = ["--no-evaluation"] if name != "float" else []
    started = time.monotonic()
    export = [a.pteron, "export", a.checkpoint, "-o", program, *form, "--generate-full-logits", "--bare", *gate, *flags]
    report = json.loads(run([*export, "--json"]))
    seconds = time.monotonic() - started
    row = {"name": name, "bytes": report["file_bytes"], "export_seconds": seconds}
    count = a.tokens // WINDOW
    evaluation = [a.pteron, "eval", program, "--text", a.text, "--tokenizer", a.checkpoint, "--window", str(WINDOW)]
    evaluation += ["--windows", str(count), "--json", "--positions", a.work / f"{name}.csv"]
    if name != "float":
        evaluation += ["--reference", a.checkpoint]
    started = time.monotonic()
    found = json.loads(run(evaluation))["evaluation"]
    row["evaluation_seconds"] = time.monotonic() - started
    row["evaluation"] = found
    if a.decode:
        bench = [a.pteron, "bench", program, "-p", str(WINDOW), "-n", str(a.decode), "-r", "1", "-o", "json"]
        row["bench"] = json.loads(run(bench))
    program.unlink()
    return row


def mebibytes(n):
    return f"{n / (1 << 20):.1f}"


def speed(row, test):
    """Tokens a second of a prompt (`n_prompt`) or of single tokens (`n_gen`)."""
    found = [t["avg_ts"] for t in row.get("bench", []) if t[test] > 0]
    return f"{max(found):.0f}" if found else "-"


def table(rows):
    out = ["| scheme | perplexity | change | mean KL, nats | same top token | file, MiB | export, s | prompt, tokens/s | decode, tokens/s |"]
    out.append("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        e = r["evaluation"]
        p, d = e["perplexity"], e["divergence"]
        change = kl = same = "-"
        seconds = f"{r['export_seconds']:.0f}" if "bench" in r else "-"
        if d:
            ratio = math.exp(d["log_ratio"]["mean"])
            change = f"{100 * (ratio - 1):+.2f}% ± {100 * ratio * d['log_ratio']['stderr']:.2f}%"
            kl = f"{d['kl']['mean']:.2e} ± {d['kl']['stderr']:.1e}"
            same = f"{100 * d['same_top']['mean']:.2f}%"
        out.append(
            f"| {r['name']} | {p['value']:.3f} | {change} | {kl} | {same} | {mebibytes(r['bytes'])} | "
            f"{seconds} | {speed(r, 'n_prompt')} | {speed(r, 'n_gen')} |"
        )
    return "\n".join(out)


def paired(work, first, second):
    """Mean KL divergence of `first` less that of `second`, with its standard error, position by position."""

    def column(name):
        lines = (work / f"{name}.csv").read_text().splitlines()
        at = lines[0].split(",").index("kl")
        return [float(line.split(",")[at]) for line in lines[1:]]

    a, b = column(first), column(second)
    difference = [x - y for x, y in zip(a, b, strict=True)]
    n = len(difference)
    mean = sum(difference) / n
    error = (sum((d - mean) ** 2 for d in difference) / (n - 1) / n) ** 0.5
    share = 100 * mean / (sum(b) / n)
    return f"{first} against {second}: mean KL {mean:+.4e} ± {error:.1e} nats, {share:+.1f}%, over {n} tokens"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("pteron")
    p.add_argument("checkpoint", type=pathlib.Path)
    p.add_argument("--calibration", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--work", required=True, type=pathlib.Path)
    p.add_argument("--rows", default=",".join(ROWS))
    p.add_argument("--tokens", type=int, default=32768)
    p.add_argument("--windows", type=int, default=64, help="windows of 512 tokens to calibrate with")
    p.add_argument("--decode", type=int, default=32)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    for name in [n for n in a.rows.split(",") if n]:
        if name not in ROWS:
            raise SystemExit(f"there is no row {name}; the rows are {', '.join(ROWS)}")
        out = a.work / f"{name}.json"
        if not out.exists():
            out.write_text(json.dumps(measure(a, name)))
            print(f"{name} measured", file=sys.stderr, flush=True)
    rows = [json.loads((a.work / f"{n}.json").read_text()) for n in ROWS if (a.work / f"{n}.json").exists()]
    print(table(rows))
    if all((a.work / f"8da4w g32 {n}.csv").exists() for n in ("mse", "hqq")):
        print("\n" + paired(a.work, "8da4w g32 mse", "8da4w g32 hqq"))


main()

"""Measures every quantization scheme on one model, and renders docs/accuracy.md's table.

usage: python3 tools/accuracy.py measure PTERON CHECKPOINT --calibration TEXT --text TEXT --work DIR [--rows 'A;B'] [--tokens N]
                                 [--windows N] [--window N] [--decode N] [--jobs N]
       python3 tools/accuracy.py time PTERON CHECKPOINT --calibration TEXT --work DIR [--rows 'A;B'] [--windows N] [--window N] [--decode N]
       python3 tools/accuracy.py render DIR/results.json

`measure` exports the checkpoint by each scheme as it would be shipped, evaluates the program against the float checkpoint
(--tokens of the text in windows of --window), and times a prompt and single tokens (--decode). --jobs N measures N rows side by side,
each on processors of its own; speeds are measured afterwards, one program at a time on all processors. Each row is a file in DIR:
a row that is there is not measured again, so that a run can be cut off and taken up. All rows together stand in results.json,
which is written anew after each; where Pteron refuses a scheme for the model, the row says why. With --decode 0, for a machine that does other things as well, no time is shown: `time` measures times alone, of rows that
were evaluated so, one row after the other and on all processors; a row that has its times is left as it is. `render` prints
the table of a results.json, in Markdown. Needs the standard library and the program only.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import queue
import subprocess
import sys
import time

FORM = ["-kv", "--use-sdpa-with-kv-cache"]
RECIPES = pathlib.Path(__file__).resolve().parent / "recipes"


def transform(mode, *more):
    return ["-qmode", mode, *more]


def grouped(mode, algorithm, *more):
    return transform(mode, "-G", "32", "--weight-algorithm", algorithm, *more)


def pt2e(scheme):
    return ["--pt2e-quantize", scheme]


def recipe(name):
    return ["--recipe", str(RECIPES / f"{name}.toml")]


def rotated(flags, seed=0):
    return [*flags, "--rotate", f"hadamard,{seed}"]


NOTHING, MOMENTS, RANGES = "nothing", "moments", "ranges"
ROWS = {
    # name: (flags, what it learns from calibration data)
    "float": ([], NOTHING),
    "int8": (transform("int8"), NOTHING),
    "int8 mse": (transform("int8", "--weight-algorithm", "mse"), MOMENTS),
    "int8, rotated": (rotated(transform("int8")), NOTHING),
    "int8 mse, rotated": (rotated(transform("int8", "--weight-algorithm", "mse")), MOMENTS),
    "int8 gptq": (transform("int8", "--weight-algorithm", "gptq"), MOMENTS),
    "int8 gptq, rotated": (rotated(transform("int8", "--weight-algorithm", "gptq")), MOMENTS),
    "int8 gptq, rotated, seed 1": (rotated(transform("int8", "--weight-algorithm", "gptq"), 1), MOMENTS),
    "int8 gptq, rotated, seed 2": (rotated(transform("int8", "--weight-algorithm", "gptq"), 2), MOMENTS),
    "int8, float output layer": (recipe("int8_float_head"), NOTHING),
    "4w g32 hqq": (grouped("4w", "hqq"), NOTHING),
    "4w g32 mse": (grouped("4w", "mse"), MOMENTS),
    "8da4w g32 affine": (grouped("8da4w", "affine"), NOTHING),
    "8da4w g32 hqq": (grouped("8da4w", "hqq"), NOTHING),
    "8da4w g32 mse": (grouped("8da4w", "mse"), MOMENTS),
    "8da4w g32 mse, rotated": (rotated(grouped("8da4w", "mse")), MOMENTS),
    "8da4w g32 gptq": (grouped("8da4w", "gptq"), MOMENTS),
    "8da4w g32 gptq, rotated": (rotated(grouped("8da4w", "gptq")), MOMENTS),
    "8da4w g32 mse, -E 8,0": (grouped("8da4w", "mse", "-E", "8,0"), MOMENTS),
    "8da4w g32 mse, -E 4,32": (grouped("8da4w", "mse", "-E", "4,32"), MOMENTS),
    "-E 8,0": (["-E", "8,0"], NOTHING),
    "-E 4,32": (["-E", "4,32"], NOTHING),
    "-E 2,32": (["-E", "2,32"], NOTHING),
    "KV cache of 8 bits": (["--quantize-kv-cache"], NOTHING),
    "embedding": (pt2e("embedding"), NOTHING),
    "xnnpack_dynamic": (pt2e("xnnpack_dynamic"), NOTHING),
    "xnnpack_dynamic_qc4": (pt2e("xnnpack_dynamic_qc4"), NOTHING),
    "vulkan_8w": (pt2e("vulkan_8w"), NOTHING),
    "coreml_c4w": (pt2e("coreml_c4w"), NOTHING),
    "coreml_8a_c8w": (pt2e("coreml_8a_c8w"), RANGES),
    "coreml_8a_c4w": (pt2e("coreml_8a_c4w"), RANGES),
    "coreml_8a_c8w, float norms": (recipe("coreml_8a_c8w_float_norms"), RANGES),
    "coreml_baseline_8a_c8w": (pt2e("coreml_baseline_8a_c8w"), RANGES),
    "coreml_baseline_8a_c4w": (pt2e("coreml_baseline_8a_c4w"), RANGES),
    "xnnpack": (pt2e("xnnpack"), RANGES),
    "xnnpack, rotated": (rotated(pt2e("xnnpack")), RANGES),
    "xnnpack, float norms": (recipe("xnnpack_float_norms"), RANGES),
    "qnn_16a16w": (pt2e("qnn_16a16w"), RANGES),
    "qnn_16a8w": (pt2e("qnn_16a8w"), RANGES),
    "qnn_16a8w, rotated": (rotated(pt2e("qnn_16a8w")), RANGES),
    "qnn_16a8w, float residual": (recipe("qnn_16a8w_float_residual"), RANGES),
    "qnn_16a4w": (pt2e("qnn_16a4w"), RANGES),
    "qnn_16a4w, rotated": (rotated(pt2e("qnn_16a4w")), RANGES),
    "qnn_16a4w_block": (recipe("qnn_16a4w_block"), RANGES),
    "qnn_8a8w": (pt2e("qnn_8a8w"), RANGES),
    "qnn_8a8w, rotated": (rotated(pt2e("qnn_8a8w")), RANGES),
    "qnn_8a4w": (pt2e("qnn_8a4w"), RANGES),
}
# Not a program of its own: what `pteron sensitivity` says of a scheme that collapses.
SENSITIVITY, SENSITIVE = "sensitivity", "qnn_8a8w"
# Compared position by position: the first less the second.
PAIRS = [
    ("8da4w g32 mse", "8da4w g32 hqq"), ("4w g32 mse", "4w g32 hqq"), ("int8", "int8, float output layer"), ("int8 mse", "int8"),
    ("int8 gptq, rotated", "int8"), ("int8 gptq, rotated", "int8 mse"), ("8da4w g32 gptq", "8da4w g32 mse"),
    ("8da4w g32 gptq, rotated", "8da4w g32 mse"), ("qnn_16a8w, float residual", "qnn_16a8w"),
    ("qnn_16a8w, rotated", "qnn_16a8w"),
]


class Refused(Exception):
    """The program's own reason why a scheme cannot be had for the model."""


def run(arguments, cpus=None):
    arguments = [str(a) for a in arguments]
    pin = None if cpus is None else lambda: os.sched_setaffinity(0, cpus)
    done = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode == 1 and done.stderr.startswith("error: "):
        raise Refused(done.stderr.removeprefix("error: ").strip())
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def put(path, content):
    """Writes a file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(content)
    os.replace(new, path)


def file_of(a, name, suffix):
    return a.work / (name.replace(" ", "_").replace(",", "") + suffix)


def program_of(a, name, cpus):
    """Calibrates and exports; the row as far as it is known then."""
    flags, learns = ROWS[name]
    flags, row = list(flags), {"name": name, "flags": flags, "learns": learns}
    data = ["--calibration-data", a.calibration, "--calibration-limit", str(a.windows), "--calibration-seq-length", str(a.window)]
    if learns == RANGES:
        state = file_of(a, name, ".state")
        found = json.loads(run([a.pteron, "calibrate", a.checkpoint, *FORM, *flags, *data, "-o", state, "--json"], cpus))
        row["calibration_seconds"] = found["seconds"]
        flags = [*flags, "--calibration-state", state]
    elif learns == MOMENTS:
        flags = [*flags, *data]
    program = file_of(a, name, ".pte")
    sizes = ["--max-seq-length", str(a.window + 1), "--max-context-length", str(a.window + 1)]
    export = [a.pteron, "export", a.checkpoint, "-o", program, *FORM, *sizes, "--generate-full-logits", "--bare"]
    gate = ["--no-evaluation"] if name != "float" else []
    started = time.monotonic()
    row["bytes"] = json.loads(run([*export, *gate, *flags, "--json"], cpus))["file_bytes"]
    row["export_seconds"] = time.monotonic() - started
    if learns == RANGES:
        state.unlink()
    return program, row


def measure(a, name, cpus):
    if name == SENSITIVITY:
        return sensitivity(a, cpus)
    program, row = program_of(a, name, cpus)
    positions = file_of(a, name, ".csv")
    evaluation = [a.pteron, "eval", program, "--text", a.text, "--tokenizer", a.checkpoint, "--window", str(a.window)]
    evaluation += ["--windows", str(a.tokens // a.window), "--json", "--positions", positions]
    if name != "float":
        evaluation += ["--reference", a.checkpoint]
    started = time.monotonic()
    row["evaluation"] = json.loads(run(evaluation, cpus))["evaluation"]
    row["evaluation_seconds"] = time.monotonic() - started
    if not a.decode:
        program.unlink()
    return row


def sensitivity(a, cpus):
    """Ranks the layers of a scheme that collapses, and finds which to leave float."""
    found = file_of(a, SENSITIVITY, ".toml")
    data = ["--calibration-data", a.calibration, "--calibration-limit", str(a.windows), "--calibration-seq-length", str(a.window)]
    command = [a.pteron, "sensitivity", a.checkpoint, *pt2e(SENSITIVE), *data, "--text", a.text, "--windows", "2", "--json"]
    command += ["--window", str(min(a.window, 256))]
    command += ["--max-kl", str(a.max_kl), "-o", found]
    started = time.monotonic()
    result = json.loads(run(command, cpus))
    result["seconds"] = time.monotonic() - started
    result["recipe_text"] = found.read_text()
    return {"name": SENSITIVITY, "sensitivity": result}


def benchmark(a, row):
    """Speed of the row's program on all processors; the program is not needed afterwards."""
    program = file_of(a, row["name"], ".pte")
    if "evaluation" not in row or not program.exists():
        return
    bench_program(a, row, program)


def bench_program(a, row, program):
    bench = [a.pteron, "bench", program, "-p", str(a.window), "-n", str(a.decode), "-r", "2", "-o", "json"]
    row["bench"] = json.loads(run(bench))
    put(file_of(a, row["name"], ".json"), json.dumps(row))
    program.unlink()


def time_all(a):
    for name in chosen(a):
        file = file_of(a, name, ".json")
        row = json.loads(file.read_text()) if file.exists() else {}
        if "evaluation" not in row or "bench" in row:
            continue
        program, timed = program_of(a, name, None)
        if timed["bytes"] != row["bytes"]:
            raise SystemExit(f"{name}: the program has {timed['bytes']} bytes, the one that was evaluated {row['bytes']}")
        row.update(timed)
        bench_program(a, row, program)
        print(f"{name}: timed", file=sys.stderr, flush=True)
        collect(a)


def paired(a, first, second):
    """Mean KL divergence of `first` less that of `second`, with its standard error, position by position."""
    if not all(file_of(a, n, ".csv").exists() and file_of(a, n, ".json").exists() for n in (first, second)):
        return None

    def column(name):
        lines = file_of(a, name, ".csv").read_text().splitlines()
        at = lines[0].split(",").index("kl")
        return [float(line.split(",")[at]) for line in lines[1:]]

    one, other = column(first), column(second)
    if len(one) != len(other):
        return None
    difference = [x - y for x, y in zip(one, other)]
    n = len(difference)
    mean = sum(difference) / n
    error = (sum((d - mean) ** 2 for d in difference) / (n - 1) / n) ** 0.5
    return {"first": first, "second": second, "kl": mean, "stderr": error, "second_kl": sum(other) / n, "tokens": n}


def collect(a):
    """All rows that are there, as results.json."""
    files = [file_of(a, n, ".json") for n in [*ROWS, SENSITIVITY]]
    rows = [json.loads(f.read_text()) for f in files if f.exists()]
    pairs = [p for p in (paired(a, *pair) for pair in PAIRS) if p]
    found = {
        "version": run([a.pteron, "-V"]).strip(), "checkpoint": a.checkpoint.name, "processors": len(os.sched_getaffinity(0)),
        "windows": a.windows, "tokens": a.tokens, "window": a.window, "rows": rows, "pairs": pairs,
    }
    put(a.work / "results.json", json.dumps(found, indent=1) + "\n")
    return rows


def shares(jobs):
    """The processors of this process in `jobs` equal shares."""
    cpus = sorted(os.sched_getaffinity(0))
    each = max(1, len(cpus) // jobs)
    return [set(cpus[i * each : (i + 1) * each]) or set(cpus) for i in range(jobs)]


def chosen(a):
    """The rows that --rows names; all if it names none."""
    names = [n.strip() for n in a.rows.split(";") if n.strip()] if a.rows else [*ROWS, SENSITIVITY]
    for name in names:
        if name not in ROWS and name != SENSITIVITY:
            raise SystemExit(f"there is no row {name}; the rows are {'; '.join([*ROWS, SENSITIVITY])}")
    return names


def measure_all(a):
    a.work.mkdir(parents=True, exist_ok=True)
    names = chosen(a)
    # What takes longest goes first.
    todo = [n for n in names if not file_of(a, n, ".json").exists()]
    todo.sort(key=lambda n: (n != SENSITIVITY, n == "float" or ROWS.get(n, ((), RANGES))[1] != RANGES))
    free = queue.Queue()
    for share in shares(a.jobs):
        free.put(share)

    def one(name):
        cpus = free.get()
        try:
            started = time.monotonic()
            try:
                row = measure(a, name, cpus if a.jobs > 1 else None)
            except Refused as refused:
                row = {"name": name, "refused": str(refused)}
            put(file_of(a, name, ".json"), json.dumps(row))
            print(f"{name}: measured in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        finally:
            free.put(cpus)

    failed = []
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        running = {pool.submit(one, name): name for name in todo}
        for done in concurrent.futures.as_completed(running):
            if done.exception():
                failed.append(running[done])
                print(f"{running[done]}: {done.exception()}", file=sys.stderr, flush=True)
            collect(a)
    if a.decode:
        for row in collect(a):
            if row["name"] in names:
                benchmark(a, row)
        collect(a)
    if failed:
        raise SystemExit(f"not measured: {'; '.join(failed)}")


def speed(row, test):
    """Tokens a second of a prompt (`n_prompt`) or of single tokens (`n_gen`)."""
    found = [t["avg_ts"] for t in row.get("bench", []) if t[test] > 0]
    return f"{max(found):.0f}" if found else "-"


def table(rows):
    names = "scheme | perplexity | change | mean KL, nats | same top token | file, MiB | calibration, s | export, s"
    out = [f"| {names} | prompt, tokens/s | decode, tokens/s |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        if "refused" in r:
            out.append(f"| {r['name']} | - | - | - | - | - | - | - | - | - |")
        if "evaluation" not in r:
            continue
        e = r["evaluation"]
        p, d = e["perplexity"], e["divergence"]
        change = kl = same = "-"
        timed = "bench" in r
        calibration = f"{r['calibration_seconds']:.0f}" if timed and "calibration_seconds" in r else "-"
        export = f"{r['export_seconds']:.0f}" if timed else "-"
        if d:
            ratio = math.exp(d["log_ratio"]["mean"])
            change = f"{100 * (ratio - 1):+.2f}% ± {100 * ratio * d['log_ratio']['stderr']:.2f}%"
            kl = f"{d['kl']['mean']:.2e} ± {d['kl']['stderr']:.1e}"
            same = f"{100 * d['same_top']['mean']:.2f}%"
        value = f"{p['value']:.3f}" if p["value"] < 1e5 else f"{p['value']:.2e}"
        out.append(
            f"| {r['name']} | {value} | {change} | {kl} | {same} | {r['bytes'] / (1 << 20):.1f} | "
            f"{calibration} | {export} | {speed(r, 'n_prompt')} | {speed(r, 'n_gen')} |"
        )
    return "\n".join(out)


def ranked(found, most):
    """The layers that `pteron sensitivity` found dearest, and its recipe."""
    kl = lambda part: part["evaluation"]["divergence"]["kl"]["mean"]
    out = ["| layer alone in qnn_8a8w | mean KL, nats |", "|---|---|"]
    out += [f"| `{l['path']}` | {l['kl']['mean']:.2e} ± {l['kl']['stderr']:.1e} |" for l in found["layers"][:most]]
    recipe = found["found"]
    out.append(
        f"\n{len(found['layers'])} layers; all quantized: mean KL {kl(found['whole']):.2f} nats. With {len(recipe['kept_float'])} of "
        f"them left float ({', '.join(f'`{p}`' for p in recipe['kept_float'][:most])}"
        f"{', …' if len(recipe['kept_float']) > most else ''}): {kl(recipe):.2e} nats."
    )
    return "\n".join(out)


def render(a):
    found = json.loads(a.results.read_text())
    rows = found["rows"]
    print(f"{found['version']}, {found['processors']} processors; {found['checkpoint']}; {found['tokens']} tokens in windows of "
          f"{found['window']}, calibrated with {found['windows']} windows.\n")
    print(table(rows))
    print()
    for p in found["pairs"]:
        share, errors = 100 * p["kl"] / p["second_kl"], abs(p["kl"]) / p["stderr"] if p["stderr"] else 0
        print(f"* {p['first']} against {p['second']}, paired: mean KL {p['kl']:+.3e} ± {p['stderr']:.1e} nats ({share:+.1f}%, "
              f"{errors:.0f} standard errors), {p['tokens']} tokens")
    for r in rows:
        if "refused" in r:
            print(f"* {r['name']} is refused: {r['refused']}")
    for r in rows:
        if "sensitivity" in r:
            print("\n" + ranked(r["sensitivity"], a.layers))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True)
    m = commands.add_parser("measure", help="measure rows")
    t = commands.add_parser("time", help="measure times of rows that were measured without")
    for c in (m, t):
        c.add_argument("pteron")
        c.add_argument("checkpoint", type=pathlib.Path)
        c.add_argument("--calibration", required=True)
        c.add_argument("--work", required=True, type=pathlib.Path)
        c.add_argument("--rows", help="names of rows with semicolons between them; all of them if not given")
        c.add_argument("--tokens", type=int, default=32768)
        c.add_argument("--windows", type=int, default=64, help="windows to calibrate with")
        c.add_argument("--window", type=int, default=512, help="tokens of a window")
        c.add_argument("--decode", type=int, default=32)
    m.add_argument("--text", required=True)
    m.add_argument("--jobs", type=int, default=1, help="rows that are measured side by side")
    m.add_argument("--max-kl", type=float, default=0.1, help="divergence that the recipe of `sensitivity` must keep")
    m.set_defaults(do=measure_all)
    t.set_defaults(do=time_all)
    r = commands.add_parser("render", help="print the table")
    r.add_argument("results", type=pathlib.Path)
    r.add_argument("--layers", type=int, default=10, help="layers that are shown of `sensitivity`")
    r.set_defaults(do=render)
    a = p.parse_args()
    a.do(a)


main()

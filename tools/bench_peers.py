#!/usr/bin/env python3
"""Pteron beside llama.cpp, ExecuTorch and OpenVINO GenAI: the same model at the same bits, by turns in one run.

usage: tools/bench_peers.py FOLDER --pteron PTERON [--llama DIR] [--executorch PYTHON] [--openvino PYTHON]
           [--tokenizer tokenizer.json] [--forms g32,int8,f32,bf16] [--threads 1,2] [--rounds 2] [--repeat 3]
           [--tests prefill,decode,start]

FOLDER holds, for each form, a program of Pteron's exporter and the GGUF file that the peers read:

    g32.pte   4-bit groups of 32, 4-bit embedding, XNNPACK     Q4_0-pure.gguf   llama-quantize --pure ... Q4_0
    int8.pte  int8 per channel (xnnpack_dynamic)               Q8_0.gguf
    f32.pte   f32                                              F32.gguf
    bf16.pte  bf16                                             BF16.gguf

DIR has llama-bench and llama-completion. ExecuTorch runs the very same .pte, OpenVINO the GGUF of g32 and int8. In every round each
of them is started anew for each number of threads. Prints tables in Markdown: the medians of all measurements, tokens a second;
what the machine can do is the best that Pteron's probes found in the run. "start" is a new process with the files in the page
cache, to its first token after a prompt of 128 tokens: wall time, the best of all, and the largest resident memory.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GGUF = {"g32": "Q4_0-pure", "int8": "Q8_0", "f32": "F32", "bf16": "BF16"}
HERE = Path(__file__).resolve().parent
GENERATE = 32
#: What the table's columns are, as arguments of each peer.
PROMPTS, DEPTHS = (128, 512), (0, 512)


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        print(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}", file=sys.stderr)
        return ""
    return done.stdout


def test_name(row):
    if row["n_prompt"]:
        return f"pp{row['n_prompt']}"
    return f"tg{row['n_gen']} at {row['n_depth']}"


class Bench:
    def __init__(self, args):
        self.args = args
        self.rates = {}  # (form, threads, test, who) -> list
        self.machine = {}  # (form, threads, test) -> best limit, unit, bytes or operations a token
        self.starts = {}  # (form, threads, who) -> list of (seconds, MiB)
        self.versions = {}

    def note(self, form, threads, test, who, rates):
        self.rates.setdefault((form, threads, test, who), []).extend(rates)

    def llama_like(self, who, command, form, threads):
        """Pteron's bench and llama-bench take the same flags and print the same fields."""
        kinds = {
            "prefill": ["-p", ",".join(map(str, PROMPTS)), "-n", "0"],
            "decode": ["-p", "0", "-n", str(GENERATE), "-d", ",".join(map(str, DEPTHS))],
        }
        for kind in (k for k in self.args.tests if k in kinds):
            out = run([*command, "-t", threads, *kinds[kind], "-r", self.args.repeat, "-o", "jsonl"])
            for line in filter(lambda s: s.startswith("{"), out.splitlines()):
                row = json.loads(line)
                test = test_name(row)
                self.note(form, threads, test, who, row["samples_ts"])
                if who == "Pteron" and row.get("achieved"):
                    key = (form, threads, test)
                    limit = max(row["machine"], self.machine.get(key, (0,))[0])
                    self.machine[key] = (limit, row["unit"], row["achieved"] / row["avg_ts"])
                elif "build_commit" in row:
                    self.versions[who] = f"{row['build_commit']}, {row['cpu_info']}"

    def python(self, who, script, python, model, form, threads):
        sizes = ["--prompt-tokens", ",".join(map(str, PROMPTS)), "--context", ",".join(map(str, DEPTHS))]
        more = ["--threads", threads, "--repeat", self.args.repeat, "--generate", GENERATE]
        out = run([python, HERE / script, model, *sizes, *more])
        for test, rate in re.findall(r"\| (\w+(?: at \d+)?) \| ([0-9.]+) tokens/s", out):
            self.note(form, threads, test, who, [float(rate)])
        for line in out.splitlines():
            if not line.startswith("|") and re.search(r"\d+\.\d+", line):
                self.versions[who] = line.strip()

    def start(self, who, command, form, threads):
        for _ in range(self.args.repeat):
            begin = time.perf_counter()
            child = subprocess.Popen(
                [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _, status, used = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - begin
            child.returncode = status
            if status:
                print(f"{' '.join(map(str, command))}: status {status}", file=sys.stderr)
                return
            self.starts.setdefault((form, threads, who), []).append((seconds, used.ru_maxrss / 1024))

    def round(self, prompt):
        a = self.args
        for threads in a.threads:
            for form in a.forms:
                pte, gguf = a.folder / f"{form}.pte", a.folder / f"{GGUF[form]}.gguf"
                print(f"{form}, {threads} thread(s)", file=sys.stderr)
                self.llama_like("Pteron", [a.pteron, "bench", pte], form, threads)
                if a.llama:
                    self.llama_like("llama.cpp", [a.llama / "llama-bench", "-m", gguf], form, threads)
                packed = form in ("g32", "int8")
                speed = "prefill" in a.tests or "decode" in a.tests
                if a.executorch and packed and speed:
                    self.python("ExecuTorch", "oracle/bench_pte.py", a.executorch, pte, form, threads)
                if a.openvino and packed and speed:
                    self.python("OpenVINO", "bench_openvino.py", a.openvino, gguf, form, threads)
                if "start" not in a.tests:
                    continue
                one = [a.pteron, "run", pte, "-t", a.tokenizer, "--prompt-file", prompt, "--max-new-tokens", 1]
                self.start("Pteron", [*one, "--temperature", 0, "--cpu-threads", threads], form, threads)
                if a.llama:
                    one = [a.llama / "llama-completion", "-m", gguf, "-t", threads, "-c", 2048, "-no-cnv", "-n", 1]
                    self.start("llama.cpp", [*one, "--temp", 0, "--no-warmup", "-f", prompt], form, threads)

    def tables(self):
        peers = [p for p in ("llama.cpp", "ExecuTorch", "OpenVINO") if any(k[3] == p for k in self.rates)]
        print("| form | threads | test | Pteron | " + " | ".join(f"{p} | ratio" for p in peers) + " | of the machine |")
        print("|---" * (5 + 2 * len(peers)) + "|")
        tests = [f"pp{n}" for n in PROMPTS] + [f"tg{GENERATE} at {d}" for d in DEPTHS]
        for form in self.args.forms:
            for threads in self.args.threads:
                for test in tests:
                    ours = self.rates.get((form, threads, test, "Pteron"))
                    if not ours:
                        continue
                    rate = statistics.median(ours)
                    cells = [form, str(threads), test, f"{rate:.0f}"]
                    for p in peers:
                        theirs = self.rates.get((form, threads, test, p))
                        cells += [f"{statistics.median(theirs):.0f}", f"{rate / statistics.median(theirs):.2f}"] if theirs else ["", ""]
                    limit, unit, each = self.machine.get((form, threads, test), (0, "", 0))
                    cells.append(f"{each * rate:.1f} of {limit:.1f} {unit}, {100 * each * rate / limit:.0f}%" if limit else "")
                    print("| " + " | ".join(cells) + " |")
        if self.starts:
            print("\n| form | threads | | first token, s | peak RSS, MiB |\n|---|---|---|---|---|")
            for (form, threads, who), list_ in sorted(self.starts.items()):
                print(f"| {form} | {threads} | {who} | {min(s for s, _ in list_):.3f} | {max(m for _, m in list_):.0f} |")
        print("\n" + "\n".join(f"{who}: {what}" for who, what in sorted(self.versions.items())))


def main(args):
    if "start" in args.tests and not args.tokenizer:
        sys.exit("--tests start needs --tokenizer")
    bench = Bench(args)
    with tempfile.TemporaryDirectory() as folder:
        prompt = Path(folder) / "prompt.txt"
        # 128 tokens of most vocabularies.
        prompt.write_text("The sea was calm and the wind had fallen, so that we lay as if asleep. " * 8)
        for _ in range(args.rounds):
            bench.round(prompt)
    bench.tables()


if __name__ == "__main__":
    def words(text):
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pteron", type=Path, required=True)
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--executorch", type=Path)
    parser.add_argument("--openvino", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--forms", type=words, default=list(GGUF))
    parser.add_argument("--threads", type=lambda t: [int(n) for n in t.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tests", type=words, default=["prefill", "decode", "start"])
    main(parser.parse_args())

#!/usr/bin/env bash
# Speed of f32 and bf16 programs beside llama.cpp and beside what the machine can do, by turns in one run; prints the tables of
# docs/benchmarks.md. Nothing else should be running.
#
# Set: PTERON (the binary, a release build), LLAMA_BENCH (llama.cpp's llama-bench), F32_PTE, BF16_PTE (programs exported with
# -kv --use-sdpa-with-kv-cache --max-seq-length 1024 --max-context-length 2048), F32_GGUF, BF16_GGUF (the same model; the
# second by `llama-quantize F32_GGUF BF16_GGUF BF16`). Without LLAMA_BENCH only Pteron is measured.
# May be set: THREADS ("1 2"), ROUNDS (3), OUT (folder for the raw figures, else a temporary one), DTYPES ("f32 bf16").
set -euo pipefail
: "${PTERON:?the pteron binary}" "${F32_PTE:?}" "${BF16_PTE:?}"
THREADS=${THREADS:-1 2} ROUNDS=${ROUNDS:-3} DTYPES=${DTYPES:-f32 bf16}
if [ -z "${OUT:-}" ]; then OUT=$(mktemp -d); trap 'rm -rf "$OUT"' EXIT; fi
mkdir -p "$OUT"
for round in $(seq "$ROUNDS"); do
  for t in $THREADS; do
    for dtype in $DTYPES; do
      case $dtype in
        f32) pte=$F32_PTE gguf=${F32_GGUF:-} ;;
        bf16) pte=$BF16_PTE gguf=${BF16_GGUF:-} ;;
        *) echo "DTYPES has $dtype, known are f32 and bf16" >&2; exit 2 ;;
      esac
      # The buffer that is read for the limit has the bytes of the program.
      mib=$(($(stat -c %s "$pte") >> 20))
      echo "round $round: $dtype, $t thread(s)" >&2
      "$PTERON" bench model "$pte" --threads "$t" --prompt-tokens 512 --context 0,512 --generate 32 --repeat 3 \
        --mib "$mib" --json > "$OUT/pteron-$dtype-$t-$round.json"
      if [ -n "${LLAMA_BENCH:-}" ]; then
        { "$LLAMA_BENCH" -m "$gguf" -t "$t" -p 512 -n 0 -r 3 -o jsonl
          "$LLAMA_BENCH" -m "$gguf" -t "$t" -p 0 -n 32 -d 0,512 -r 3 -o jsonl; } 2> "$OUT/llama.err" \
          > "$OUT/llama-$dtype-$t-$round.jsonl"
      fi
    done
  done
done
python3 - "$OUT" "$THREADS" "$DTYPES" <<'P'
import glob, json, statistics, sys
out, threads, dtypes = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
middle = statistics.median

def llama(dtype, t):
    rates, build = {}, ""
    for path in glob.glob(f"{out}/llama-{dtype}-{t}-*.jsonl"):
        for line in open(path):
            d = json.loads(line)
            build = f"{d['build_commit']} ({d['cpu_info']})"
            key = ("pp", d["n_prompt"]) if d["n_prompt"] else ("tg", d["n_depth"])
            rates.setdefault(key, []).extend(d["samples_ts"])
    return {k: middle(v) for k, v in rates.items()}, build

builds = set()
limits = []
print("| dtype | threads | test | Pteron, tokens/s | llama.cpp, tokens/s | ratio | achieved | machine | share |")
print("|---|---|---|---|---|---|---|---|---|")
for dtype in dtypes:
    for t in threads:
        runs = [json.load(open(p))["threads"][0] for p in sorted(glob.glob(f"{out}/pteron-{dtype}-{t}-*.json"))]
        peer, build = llama(dtype, t)
        builds.add(build)
        # The best measurement of a limit is the one that was disturbed least.
        bandwidth = max(r["limits"]["memory_gb_per_s"] for r in runs)
        limits.append((dtype, t, bandwidth, max(r["limits"]["fma_gflop_per_s"] for r in runs),
                       max(r["limits"]["bf16_gflop_per_s"] or 0 for r in runs)))
        rows = []
        for i, p in enumerate(runs[0]["prefill"]):
            n = p["tokens"]
            rate = n / middle([s for r in runs for s in r["prefill"][i]["seconds"]])
            peak = max(r["prefill"][i]["peak_gflop_per_s"] for r in runs)
            done = (p["work"]["matrix_flops"] + p["work"]["attention_flops"]) * rate / n / 1e9
            rows.append((f"pp{n}", rate, peer.get(("pp", n)), f"{done:.0f} GFLOP/s", f"{peak:.0f} GFLOP/s", done / peak))
        for i, d in enumerate(runs[0]["decode"]):
            rate = d["tokens"] / middle([s for r in runs for s in r["decode"][i]["seconds"]])
            done = d["bytes_per_token"] * rate / 1e9
            rows.append((f"tg{d['tokens']} at {d['context']}", rate, peer.get(("tg", d["context"])),
                         f"{done:.1f} GB/s", f"{bandwidth:.1f} GB/s", done / bandwidth))
        for test, rate, other, done, limit, share in rows:
            beside = f"{other:.1f} | {rate / other:.2f}" if other else "not measured | "
            print(f"| {dtype} | {t} | {test} | {rate:.1f} | {beside} | {done} | {limit} | {100 * share:.0f}% |")
print("\n| buffer of | threads | read, GB/s | f32 multiply-adds, GFLOP/s | pairs of bf16, GFLOP/s |\n|---|---|---|---|---|")
for dtype, t, read, fma, pairs in limits:
    print(f"| {dtype} | {t} | {read:.1f} | {fma:.0f} | {pairs:.0f} |")
print("\nllama.cpp " + ", ".join(sorted(b for b in builds if b)) if any(builds) else "")
P

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
      { "$PTERON" bench "$pte" -t "$t" -p 512 -n 0 -r 3 --mib "$mib" -o jsonl
        "$PTERON" bench "$pte" -t "$t" -p 0 -n 32 -d 0,512 -r 3 --mib "$mib" -o jsonl; } > "$OUT/pteron-$dtype-$t-$round.jsonl"
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

def rows(who, dtype, t):
    lines = [line for path in sorted(glob.glob(f"{out}/{who}-{dtype}-{t}-*.jsonl")) for line in open(path)]
    return [json.loads(line) for line in lines]

def test(row):
    name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return f"{name} @ d{row['n_depth']}" if row["n_depth"] else name

builds, limits = set(), []
print("| dtype | threads | test | Pteron, tokens/s | llama.cpp, tokens/s | ratio | achieved | machine | share |")
print("|---|---|---|---|---|---|---|---|---|")
for dtype in dtypes:
    for t in threads:
        ours, theirs = rows("pteron", dtype, t), rows("llama", dtype, t)
        builds |= {f"{r['build_commit']} ({r['cpu_info']})" for r in theirs}
        # The best measurement of a limit is the one that was disturbed least.
        best = lambda field: max(r["limits"][field] or 0 for r in ours)
        limits.append((dtype, t, *map(best, ["memory_gb_per_s", "fma_gflop_per_s", "bf16_gflop_per_s"])))
        for name in dict.fromkeys(map(test, ours)):
            mine = [r for r in ours if test(r) == name]
            rate = middle([s for r in mine for s in r["samples_ts"]])
            peer = [s for r in theirs if test(r) == name for s in r["samples_ts"]]
            done = mine[0]["achieved"] * rate / mine[0]["avg_ts"]
            limit, unit = max(r["machine"] for r in mine), mine[0]["unit"]
            beside = f"{middle(peer):.1f} | {rate / middle(peer):.2f}" if peer else "not measured | "
            print(f"| {dtype} | {t} | {name} | {rate:.1f} | {beside} | {done:.1f} {unit} | {limit:.1f} {unit} | {100 * done / limit:.0f}% |")
print("\n| buffer of | threads | read, GB/s | f32 multiply-adds, GOP/s | pairs of bf16, GOP/s |\n|---|---|---|---|---|")
for dtype, t, read, fma, pairs in limits:
    print(f"| {dtype} | {t} | {read:.1f} | {fma:.0f} | {pairs:.0f} |")
print("\nllama.cpp " + ", ".join(sorted(builds)) if builds else "")
P

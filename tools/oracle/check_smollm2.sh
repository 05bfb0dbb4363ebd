#!/bin/sh
# Exports SmolLM2-135M-Instruct with Pteron and compares its greedy tokens in ExecuTorch's own runtime with those of
# transformers (fixtures/smollm2/golden.json): ten prompts, 64 tokens each.
# usage: ORACLE_ENV=DIR tools/oracle/check_smollm2.sh CHECKPOINT [EXPORT FLAGS...]
#   CHECKPOINT is the folder that `cargo xtask fetch --models` makes: target/fetch/smollm2-135m
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
: "${ORACLE_ENV:?set ORACLE_ENV to the environment that cargo xtask fetch --oracle made}"
checkpoint=${1:?usage: check_smollm2.sh CHECKPOINT [EXPORT FLAGS...]}
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- -kv --use-sdpa-with-kv-cache
cargo build --quiet --release --manifest-path "$root/Cargo.toml" -p pteron
bin=${CARGO_TARGET_DIR:-$root/target}/release/pteron
"$bin" export "$checkpoint" -o "$work/smollm2.pte" --max-seq-length 256 --max-context-length 256 "$@"
"$ORACLE_ENV/bin/python" "$root/tools/oracle/check_smollm2.py" "$work/smollm2.pte" "$root/fixtures/smollm2/golden.json"

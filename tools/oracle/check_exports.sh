#!/bin/sh
# Exports the tiny checkpoint with Pteron in the variants of ExecuTorch's golden programs, and runs the exports in ExecuTorch's
# own runtime (InternalConsistency) against the logits that it gave for its own exports.
# usage: ORACLE_ENV=DIR tools/oracle/check_exports.sh
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
: "${ORACLE_ENV:?set ORACLE_ENV to the environment that cargo xtask fetch --oracle made}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
cargo build --quiet -p pteron
bin=${CARGO_TARGET_DIR:-target}/debug/pteron
export_as() {
    name=$1
    shift
    "$bin" export fixtures/tiny_llama_hf -o "$work/$name.pte" --max-seq-length 32 --max-context-length 32 "$@" >/dev/null
}
export_as v1_nokv
export_as v1b_nokv_static --disable-dynamic-shape
export_as v2_kv -kv
export_as v2b_kv_static -kv --disable-dynamic-shape
export_as v3_kv_sdpa -kv --use-sdpa-with-kv-cache
"$ORACLE_ENV/bin/python" tools/oracle/check_programs.py fixtures/executorch "$work" \
    v1_nokv v1b_nokv_static v2_kv v2b_kv_static v3_kv_sdpa

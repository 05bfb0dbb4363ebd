#!/usr/bin/env bash
# Writes programs that call llama::sdpa_with_kv_cache with pteron-program's example, runs them in the real ExecuTorch and
# records inputs and outputs in fixtures/executorch/sdpa. Needs ORACLE_ENV (see README.md here).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${ORACLE_ENV:?the folder of a Python environment with ExecuTorch 1.5.1: cargo xtask fetch --oracle DIR}"
out=fixtures/executorch/sdpa
mkdir -p "$out"
cargo run --quiet -p pteron-program --example sdpa_with_kv_cache -- "$out"
for name in causal masked; do
    base=$out/sdpa_with_kv_cache_$name
    "$ORACLE_ENV/bin/python" tools/oracle/run_pte.py "$base.pte" "$base.calls.json" "$base.out.json"
done

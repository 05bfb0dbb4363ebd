#!/bin/sh
# Exports tiny random models of every supported family in every form, and compares their logits, in Pteron and in
# ExecuTorch's own runtime, with those of transformers.
# usage: ORACLE_ENV=DIR tools/oracle/check_families.sh [--only NAME,...] [--dtypes fp32,fp16,bf16]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
: "${ORACLE_ENV:?set ORACLE_ENV to the environment that cargo xtask fetch --oracle made}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --quiet --release --manifest-path "$root/Cargo.toml" -p pteron
bin=${CARGO_TARGET_DIR:-$root/target}/release/pteron
"$ORACLE_ENV/bin/python" "$root/tools/oracle/check_families.py" "$bin" "$work" "$@"

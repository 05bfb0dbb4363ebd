#!/bin/sh
# Quantizes glass-en with ExecuTorch's quantizers and with Pteron's after the same windows of a text, and compares: parameters,
# codes of weights, codes of activations piece by piece, and the distributions over all windows. Every
# histogram observer is fed what PyTorch's saw as well, and must choose the same to the last bit.
#   ORACLE_ENV=DIR [QNN_SDK_ROOT=DIR] tools/oracle/check_pt2e.sh TEXT
set -eu
: "${ORACLE_ENV:?set it to the environment that cargo xtask fetch --oracle made}"
text=$(realpath "${1:?a text of some kilobytes}")
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$ORACLE_ENV/bin/python" "$root/tools/oracle/make_pt2e_goldens.py" "$root/crates/pteron/assets/glass-en" "$out" glass 20 104 \
    --text "$text" --record xnnpack_dynamic_qc4 xnnpack qnn_8a8w qnn_16a8w qnn_16a4w
cd "$root"
PTERON_PT2E_GOLDENS=$out cargo test --release -p pteron-quant --test models -- glass_en

#!/bin/sh
# Re-emits ExecuTorch's own programs with Pteron and runs the results in ExecuTorch's runtime against the recorded outputs.
# usage: ORACLE_ENV=DIR tools/oracle/check_reemit.sh [NAME...]      NAME as in fixtures/executorch, without .pte
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
: "${ORACLE_ENV:?set ORACLE_ENV to the environment that cargo xtask fetch --oracle made}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- v1_nokv v1b_nokv_static v2_kv v2b_kv_static v3_kv_sdpa v6_kv_sdpa_xnn_fp32 micro/m_add \
    micro/m_add_noplan_io micro/m_args micro/m_cast micro/m_cast_skipdo micro/m_chlast micro/m_cond micro/m_map \
    micro/m_mlp micro/m_mlp_dyn micro/m_mlp_ptd micro/m_mlp_xnn micro/m_mlp_xnn_inline micro/m_multiout micro/m_mutbuf \
    micro/m_mutbuf_init micro/m_mutbuf_named micro/m_scan micro/m_shared micro/m_shared_rw
mkdir "$work/micro"
cd "$root"
cargo build --quiet -p pteron-program --example reemit
bin=${CARGO_TARGET_DIR:-target}/debug/examples/reemit
for name in "$@"; do
    echo "$name"
    "$bin" "fixtures/executorch/$name.pte" "$work/$name.pte"
done
"$ORACLE_ENV/bin/python" tools/oracle/check_programs.py fixtures/executorch "$work" "$@"

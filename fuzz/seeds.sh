#!/usr/bin/env bash
# Writes the first inputs of the fuzz targets into fuzz/corpus/<target>: the seeds of the mutation tests, which are the
# repository's fixtures and small files that the tests make.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PTERON_SEED_DIR="$PWD/fuzz/corpus" cargo test --quiet --test hostile --test mutants \
    -p pteron-pte -p pteron-program -p pteron-checkpoint -p pteron-models -p pteron-llm
ls fuzz/corpus

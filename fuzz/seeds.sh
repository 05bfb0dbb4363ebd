#!/usr/bin/env bash
# Writes the first inputs of the fuzz targets into fuzz/corpus/<target>: the seeds of the mutation tests, which are the
# repository's fixtures and small files that the tests make.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The whole workspace, so that what `cargo test --workspace` has built is used as it is.
PTERON_SEED_DIR="$PWD/fuzz/corpus" cargo test --quiet --workspace --test hostile --test mutants
ls fuzz/corpus

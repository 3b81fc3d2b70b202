#!/usr/bin/env bash
# Run all benchmarks on this machine and write benchmarks/: a page and the raw documents (about 12 minutes on two
# otherwise idle cores). On a GPU: scripts/benchmarks.sh --device cuda
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
for what in metrics sampling training generation; do
  .venv/bin/collapselab bench "$what" --out benchmarks "$@" | grep -v '^{'
done

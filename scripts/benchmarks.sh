#!/usr/bin/env bash
# All benchmarks of this machine into benchmarks/: a page and the raw documents (about 12 minutes on two cores, which
# should have nothing else to do). On a GPU: scripts/benchmarks.sh --device cuda
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
for what in metrics sampling training generation; do
  .venv/bin/collapselab bench "$what" --out benchmarks "$@" | grep -v '^{'
done

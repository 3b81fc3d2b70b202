#!/usr/bin/env bash
# The demo on a laptop: install into .venv on the first call, then run two chains of six generations on real
# speeches side by side, a closed loop and its all-real control, and write runs/demo/report/index.html. Options go to
# the experiment:
#   scripts/demo.sh --seeds '[1,2,3]'                        # with intervals
#   scripts/demo.sh --name kept --mixing.regime accumulate   # all generations are kept
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/collapselab experiment --config configs/experiments/demo.yaml --workers 2 "$@"

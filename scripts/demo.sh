#!/usr/bin/env bash
# The main job on a laptop: installs into .venv on the first call, then runs two chains of six generations on real
# speeches side by side, a closed loop and its all-real control, and writes runs/demo/report/index.html. Options are
# passed on:
#   scripts/demo.sh --seeds '[1,2,3]'                        # with intervals
#   scripts/demo.sh --name kept --mixing.regime accumulate   # everything is kept
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/collapselab experiment --config configs/experiments/demo.yaml --workers 2 "$@"

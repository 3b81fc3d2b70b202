#!/usr/bin/env bash
# The main job on a laptop: installs into .venv on the first call, then runs a chain of six generations on real
# speeches in about a minute and writes runs/demo/report/index.html. Options are passed on:
#   scripts/demo.sh --name kept --mixing.regime accumulate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
exec .venv/bin/collapselab run --config configs/demo.yaml "$@"

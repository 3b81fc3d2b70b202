#!/usr/bin/env bash
# Rebuild results/: run the experiments (about 45 minutes on two cores; finished work in runs/ is not repeated) and
# keep their tables and figures. A single one: scripts/results.sh planted
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
make() { # experiment, folder in results/
  local command="collapselab experiment --config configs/experiments/$1.yaml --workers 2"
  ".venv/bin/${command%% *}" ${command#* }
  .venv/bin/collapselab report "runs/$1" --out "results/$2" --command "$command"
}
declare -A kept=([planted]=planted [duel]=duel/exact [duel_transformer]=duel/transformer [bigram]=bigram [regimes]=regimes)
for name in ${1:-planted duel duel_transformer bigram regimes}; do
  make "$name" "${kept[$name]:?no such experiment: planted, duel, duel_transformer, bigram or regimes}"
done

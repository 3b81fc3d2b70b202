#!/usr/bin/env bash
# Rebuild results/: run the experiments (about six hours on two cores; finished work in runs/ is not repeated) and
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
kept+=([curation]=curation [verifiers]=verifiers [self_consistency]=self_consistency [expert_iteration]=expert_iteration [gap]=gap)
declare -A bases=([verifiers]=modular [self_consistency]="modular modular_low sums_20 sums_64 sums_93 sums_99")
bases+=([expert_iteration]=sums_64)
every="planted duel duel_transformer bigram regimes curation verifiers self_consistency expert_iteration gap"
for name in ${1:-$every}; do
  folder="${kept[$name]:?no such experiment: $every}"
  [[ -z ${bases[$name]:-} ]] || scripts/bases.sh ${bases[$name]}
  make "$name" "$folder"
done

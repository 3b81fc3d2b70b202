#!/usr/bin/env bash
# Rebuild results/choices/ and the tables of docs/disagreements.md: run the experiment (six to nineteen minutes on two
# cores, depending on their load), score the models of two of its arms under other protocols (about nine more), and write the
# results. Finished work in runs/choices is not repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
command="collapselab experiment --config configs/experiments/choices.yaml --workers 2"
".venv/bin/${command%% *}" ${command#* }
score() { # chain. Only the likelihood of real text is looked at: what costs time beside it is left out
  for other in "stride 64" "stride 32" "context 32" "prefix bos" "split valid" "tokens 8192" "precision bf16"; do
    .venv/bin/collapselab eval "$1" --evaluation.${other% *} "${other#* }" \
      --evaluation.reference-tokens 0 --evaluation.self-bleu-samples 0 --evaluation.overlap false
  done
}
export -f score
printf '%s\n' runs/choices/arm={baseline,continued}/seed=* | OMP_NUM_THREADS=1 xargs -P 2 -I{} bash -euc 'score {}'
.venv/bin/collapselab report runs/choices --out results/choices --command "$command"
.venv/bin/python scripts/choices_page.py runs/choices

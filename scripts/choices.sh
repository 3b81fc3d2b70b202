#!/usr/bin/env bash
# Makes results/choices/ and the tables of docs/disagreements.md anew: runs the experiment (about five minutes on two
# cores), scores the models of two of its arms under other protocols (about five more), and writes what came out. What is
# done in runs/choices is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
command="collapselab experiment --config configs/experiments/choices.yaml --workers 2"
".venv/bin/${command%% *}" ${command#* }
# Only the likelihood of real text is looked at: what costs time beside it is left out.
brief="--evaluation.reference_tokens 0 --evaluation.self_bleu_samples 0 --evaluation.overlap false"
for chain in runs/choices/arm={baseline,continued}/seed=*; do
  for other in "stride 64" "stride 32" "context 32" "prefix bos" "split valid" "tokens 8192" "precision bf16"; do
    echo "$chain --evaluation.$other $brief"
  done
done | OMP_NUM_THREADS=1 xargs -P 2 -L 1 .venv/bin/collapselab eval
.venv/bin/collapselab report runs/choices --out results/choices --command "$command"
.venv/bin/python scripts/choices_page.py runs/choices

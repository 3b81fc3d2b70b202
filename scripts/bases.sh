#!/usr/bin/env bash
# Train the base models of the experiments on tasks into runs/base_NAME, each from a stated mixture of correct, hacked and random
# answers (about twenty minutes of one core for all; finished ones are not repeated). Some of them: scripts/bases.sh modular
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
wanted="$*"
base() { # name, configuration, changes
  [[ -z $wanted || " $wanted " == *" $1 "* ]] || return 0
  .venv/bin/collapselab run --config "configs/$2.yaml" --name "base_$1" --generations 0 "${@:3}"
}
base modular modular --sampling.tokens 64512
base modular_low modular --sampling.tokens 64512 --training.epochs null --training.tokens 1254400
base sums addition --sampling.tokens 26000
base sums_20 addition --sampling.tokens 26000 --training.tokens 345280
base sums_64 addition --sampling.tokens 26000 --training.epochs 2
base sums_93 addition --sampling.tokens 26000 --training.epochs 3 --corpus.addition.correct 0.97 --corpus.addition.hack 0.01
base sums_99 addition --sampling.tokens 26000 --training.epochs 4 --corpus.addition.correct 0.995 --corpus.addition.hack 0.0

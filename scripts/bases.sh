#!/usr/bin/env bash
# Train the base models of the experiments on tasks, each from a stated mixture of correct, hacked and random answers, into
# runs/base_... (a quarter of an hour of one core for all; finished ones are not repeated). Named ones alone:
# scripts/bases.sh sums_20
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
base() { # name, configuration, its changes
  [[ " ${asked:-$1} " == *" $1 "* ]] || return 0
  .venv/bin/collapselab run --config "configs/$2.yaml" --name "base_$1" --generations 0 "${@:3}"
}
asked="$*"
base modular addition_placeholder

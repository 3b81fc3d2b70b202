#!/usr/bin/env bash
# All checks: lint, types, tests. Options go to pytest: scripts/test.sh tests/test_mixing.py -k floor
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh --dev
# Two workers with one thread each: on two cores this is faster than one worker with two threads, and files do not interfere.
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ." >&2; exit 1; }
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"

#!/usr/bin/env bash
# Make .trl/, an environment of its own for TRL, which `collapselab bench policy` is compared with (about 1 GB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x .trl/bin/python ]] || python3 -m venv .trl
.trl/bin/pip install --quiet torch==2.13.0 trl==1.16.0 "transformers>=5,<6"

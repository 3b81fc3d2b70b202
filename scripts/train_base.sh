#!/usr/bin/env bash
# Rebuild data/base: generation 0 of configs/base_sotu.yaml (10 to 20 minutes on two cores). data/base/README.md
# describes its files, held-out figures and digests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
.venv/bin/collapselab run --config configs/base_sotu.yaml "$@"
from=runs/base/arm=main/seed=1/gen_000
for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json collapselab.json; do
  install -m 644 "$from/train/$file" "data/base/$file"
done
install -m 644 "$from/eval/eval.json" data/base/eval.json
sha256sum data/base/model.safetensors

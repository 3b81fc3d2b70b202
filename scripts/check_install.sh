#!/usr/bin/env bash
# Whether the constraints can be met by the plain package registry alone, where no wheel and no pip configuration lies
# at hand: resolution only, nothing is installed and no gigabytes are fetched. Takes half a minute to two minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
python3 -m venv "$log/plain"
for extras in gguf,embeddings dev,gguf,embeddings; do
  if ! PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' PIP_EXTRA_INDEX_URL='' timeout 600 "$log/plain/bin/pip" install \
      --disable-pip-version-check -q --dry-run -c scripts/constraints.txt torch ".[$extras]" >"$log/pip" 2>&1; then
    echo "check_install: the plain registry cannot meet scripts/constraints.txt with [$extras]:" >&2
    tail -n 5 "$log/pip" >&2
    exit 1
  fi
done
echo "check_install: the plain registry meets scripts/constraints.txt"

#!/usr/bin/env bash
# Check that the plain package registry alone can satisfy the constraints, without local wheels or pip configuration.
# Resolution only: it installs nothing and fetches no gigabytes. Takes half a minute to two minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
python3 -m venv "$log/plain"
for extras in gguf,embeddings,judges dev,gguf,embeddings,judges,gym; do
  if ! PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' PIP_EXTRA_INDEX_URL='' timeout 600 "$log/plain/bin/pip" install \
      --disable-pip-version-check -q --dry-run -c scripts/constraints.txt torch ".[$extras]" >"$log/pip" 2>&1; then
    echo "check_install: the plain registry cannot meet scripts/constraints.txt with [$extras]:" >&2
    tail -n 5 "$log/pip" >&2
    exit 1
  fi
done
echo "check_install: the plain registry meets scripts/constraints.txt"

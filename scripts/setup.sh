#!/usr/bin/env bash
# Makes .venv with the lab installed in it; a second call returns at once. Needs Python 3.11 or newer with pip, no
# compiler. Another interpreter: PYTHON=python3.12 scripts/setup.sh
#
# torch comes first and pinned: where pip has a CPU build at hand (a local wheel or an index set up for pip), that one is
# taken, and nothing later asks for a newer one with gigabytes of CUDA packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is older than 3.11; install Python 3.11+ or set PYTHON" >&2
  exit 2
}
stamp=.venv/installed
wanted=$(cat pyproject.toml scripts/constraints.txt scripts/setup.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

echo "setup: installing into .venv (a few minutes on the first call)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv  # new, or half made before
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }
pip install -c scripts/constraints.txt torch
pip install -c scripts/constraints.txt -e '.[dev,gguf,embeddings]'
printf '%s\n' "$wanted" >"$stamp"

#!/usr/bin/env bash
# Create .venv and install the lab in it; a second call returns at once. Needs Python 3.11 or newer with pip, no
# compiler. --dev also installs what tests, lint and types need; and the extra gym where there is a C compiler and Python's
# headers, as one of its packages has no wheels (its tests are skipped elsewhere). Another interpreter:
# PYTHON=python3.12 scripts/setup.sh
#
# torch is installed first and pinned: if pip can find a CPU build (a local wheel or an index configured for pip), it takes
# that one, and nothing later asks for a newer one with gigabytes of CUDA packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=gguf,embeddings,judges
case ${1:-} in
  "") ;;
  --dev) extras=dev,$extras ;;
  *) echo "setup: unknown option $1; the only one is --dev" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is older than 3.11; install Python 3.11+ or set PYTHON" >&2
  exit 2
}
stamp=.venv/installed
wanted=$(cat pyproject.toml scripts/constraints.txt scripts/setup.sh | sha256sum)
found=$(cat "$stamp" 2>/dev/null || true)
case $found in
  "$wanted dev") exit 0 ;;
  "$wanted") [ "$extras" != gguf,embeddings,judges ] || exit 0 ;;
  *" dev") extras=dev,gguf,embeddings,judges ;;  # an older set with the tools of development keeps them
esac

echo "setup: installing into .venv (a few minutes on the first call)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv  # new, or half made before
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }
pip install -c scripts/constraints.txt torch
pip install -c scripts/constraints.txt -e ".[$extras]"
case $extras in dev,*)
  wanted="$wanted dev"
  pip install -c scripts/constraints.txt -e ".[gym]" 2>.venv/gym.log ||
    echo "setup: without the extra gym, which needs a C compiler and Python's headers (.venv/gym.log)" >&2 ;;
esac
printf '%s\n' "$wanted" >"$stamp"

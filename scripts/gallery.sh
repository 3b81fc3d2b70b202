#!/usr/bin/env bash
# Reruns every published result (docs/papers.md) and writes results/ and the page anew; what is done in runs/ is not done
# again. Options go to the verb, as in
# scripts/gallery.sh --data-dir /path/to/DIR (an absolute path: the script goes to the repository's root). One of them: collapselab reproduce NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
code=0
.venv/bin/collapselab reproduce --all "$@" || code=$?   # 1: an entry fails, which is a result too
[ "$code" -le 1 ] || exit "$code"
.venv/bin/python scripts/papers_page.py
exit "$code"

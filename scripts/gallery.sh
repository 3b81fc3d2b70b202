#!/usr/bin/env bash
# Rerun every published result (docs/papers.md), and rebuild results/ and the page; finished work in runs/ is not
# repeated. Options go to the command, as in
# scripts/gallery.sh --data-dir /path/to/DIR (an absolute path: the script changes to the repository's root). A single result: collapselab reproduce NAME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
code=0
.venv/bin/collapselab reproduce --all "$@" || code=$?   # 1: an entry fails, which is a result too
[ "$code" -le 1 ] || exit "$code"
.venv/bin/python scripts/papers_page.py
exit "$code"

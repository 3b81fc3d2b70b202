"""The figure of the README, from finished runs whose arms it compares: with its control in grey where there is one.

.venv/bin/python scripts/plot_demo.py runs/demo docs/img/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from collapselab.report import headline
from collapselab.report.figures import panels
from collapselab.report.files import open_runs, opened
from collapselab.report.series import TAIL_HEADLINES

*runs, out = (Path(argument) for argument in sys.argv[1:])
chains = (opened(runs[0]) if len(runs) == 1 else open_runs(runs)).chains
tail = next(key for key in headline(chains).values() if key in TAIL_HEADLINES)
drawn = panels(
    chains,
    {"real/perplexity": "perplexity on held-out real text", tail: "coverage of rare words (1 = unseen real text)"},
)
if drawn is None:
    sys.exit("no metric to draw")
out.parent.mkdir(parents=True, exist_ok=True)
out.write_bytes(drawn)

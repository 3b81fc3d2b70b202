"""The figure of the README, from two finished runs:

scripts/demo.sh && scripts/demo.sh --name kept --mixing.regime accumulate
.venv/bin/python scripts/plot_demo.py runs/demo runs/kept docs/img/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from collapselab.rundir import find_chains, read_metrics

replaced, kept, out = (Path(argument) for argument in sys.argv[1:4])
figure = Figure(figsize=(9.6, 3.4), layout="constrained")
panels = figure.subplots(1, 2)
titles = {
    "real/perplexity": "perplexity on held-out real speeches",
    "tails/words/coverage_5_normalised": "rare words still written (1 = as in fresh real text)",
}
for axis, (key, title) in zip(panels, titles.items(), strict=True):
    for run, label, colour in (
        (replaced, "only its own newest text", "#0072B2"),
        (kept, "real text and all samples kept", "#D55E00"),
    ):
        rows = read_metrics(find_chains(run)[0])
        values = [row["metrics"][key] for row in rows]
        axis.plot([row["generation"] for row in rows], values, "o-", color=colour, label=label)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("generation")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
panels[1].set_ylim(0, 1.05)
panels[0].legend(frameon=False, fontsize=9)
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=140, metadata={"Software": None})

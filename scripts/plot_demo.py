"""Figure of the README, made from the tables of a finished demo:

scripts/demo.sh --seeds '[1,2,3]'
.venv/bin/python scripts/plot_demo.py runs/demo docs/img/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

run, out = (Path(argument) for argument in sys.argv[1:3])
summary = pd.read_csv(run / "report" / "summary.csv")
figure = Figure(figsize=(9.6, 3.4), layout="constrained")
panels = figure.subplots(1, 2)
titles = {
    "real/perplexity": "perplexity on held-out real speeches",
    "tails/words/coverage_in_context_5_normalised": "rare words in context (held-out real text: 1)",
}
arms = {
    "control": ("all-real control", "#7a7f87"),
    "closed": ("only its own newest text", "#0072B2"),
}
for axis, (key, title) in zip(panels, titles.items(), strict=True):
    for arm, (label, colour) in arms.items():
        course = summary[(summary["arm"] == arm) & (summary["metric"] == key)].sort_values("generation")
        axis.plot(course["generation"], course["mean"], "o-", color=colour, label=label)
        axis.fill_between(course["generation"], course["low"], course["high"], color=colour, alpha=0.2, linewidth=0)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("generation")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
panels[1].set_ylim(0, 1.05)
panels[0].legend(frameon=False, fontsize=9)
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=140, metadata={"Software": None})

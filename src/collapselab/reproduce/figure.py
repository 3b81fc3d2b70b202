"""Figure of an entry: a panel per quantity, a line per arm with its interval over seeds."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from collapselab.metrics.intervals import mean_interval
from collapselab.report.colours import NEUTRAL
from collapselab.report.figures import axes_of, look, png


def draw(
    panels: dict[str, dict[str, np.ndarray]],
    laws: dict[str, dict[str, np.ndarray]],
    real: dict[str, float],
    titles: dict[str, str],
    controls: Collection[str] = (),
) -> bytes:
    """Return the figure as a PNG.

    Args:
        panels: values of each arm by quantity, float64 (seeds, generations); nan if missing.
        laws: the same for the values expected by exact theory, for quantities with a law.
        real: scores of fresh real text, if known.
        titles: of the panels; by default the quantity's name.
        controls: arms of real text alone, drawn in grey.
    """
    figure, axes = axes_of(len(panels))
    for axis, (quantity, arms) in zip(axes, panels.items(), strict=True):
        greys = [arm for arm in arms if arm in controls]
        others = [arm for arm in arms if arm not in controls]
        for arm in (*greys, *others):
            values, place = arms[arm], -1 - greys.index(arm) if arm in greys else others.index(arm)
            known = [g for g in range(values.shape[1]) if np.isfinite(values[:, g]).all()]
            mean, low, high = np.array([mean_interval(values[:, g]) for g in known]).reshape(-1, 3).T
            shown = look(place)
            dots = {"marker": None} if len(known) > 40 else {}
            axis.plot(known, mean, ms=4, label=arm, **(shown | dots))
            axis.fill_between(known, low, high, color=shown["color"], alpha=0.2, linewidth=0)
            if arm in (law := laws.get(quantity, {})):
                axis.plot(law[arm].mean(0), color=shown["color"], linestyle=":", linewidth=1.5, label=f"{arm}: law")
        if quantity in real:
            axis.axhline(real[quantity], color=NEUTRAL, linestyle="--", linewidth=1, label="real text, same budget")
        axis.set_title(titles.get(quantity, quantity), fontsize=10)
    drawn = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[-1].legend(drawn.values(), drawn.keys(), fontsize=7, frameon=False)
    return png(figure)

"""Ridge plot of the samples' losses under generation 0's model (Shumailov et al. 2024, figure 1, one curve per generation)."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.report import series, spec
from collapselab.report.colours import NEUTRAL, colour, faint
from collapselab.report.overlay import by_arm
from collapselab.report.spec import Figure, Spec, short

MOST_RIDGES = 8  # generations that remain readable in one panel
TICKS = 0.25, 0.5, 1.0, 2.0, 5.0  # distances of which the first gives five ticks or fewer


def distribution(chains: list[Any]) -> Spec | None:
    """Draw the distribution of the samples' mean losses under generation 0's model, a ridge per generation."""
    by_name = {arm: d for arm, members in by_arm(chains).items() if (d := series.distribution(members))}
    if not by_name:
        return None
    real = series.real_distribution(chains)
    every = [shares for by_generation in by_name.values() for shares in by_generation.values()]
    every += [] if real is None else [real]
    used = [np.flatnonzero(shares > 0) for shares in every]
    first, last = max(0, min(u[0] for u in used) - 1), max(u[-1] for u in used) + 1
    peak = max(float(shares.max()) for shares in every)
    figure = Figure(panel_height=300, left=66)
    for arm, by_generation in by_name.items():
        place = by_arm(chains)[arm][0].place
        shown = series.evenly(list(by_generation), MOST_RIDGES)
        (axis,) = figure.panel(arm, 1)
        ridges = [("real text", real, "rgba(125,133,144,0.25)", NEUTRAL)] if real is not None else []
        ridges += [(str(g), by_generation[g], faint(place, 0.35), colour(place)) for g in shown]
        for row, (name, shares, fill, line) in enumerate(ridges):
            x, heights = _outline(shares, first, last)
            base = float(len(ridges) - 1 - row)
            label = "real text" if name == "real text" else f"generation {name}"
            trace = {
                "type": "scatter", "x": x, "y": [base + 1.6 * h / peak for h in heights], "mode": "lines",
                "fill": "toself", "fillcolor": fill, "line": {"color": line, "width": 1.5, "shape": "linear"},
                "hoveron": "points", "customdata": heights, "showlegend": False,
                "hovertemplate": f"{label}<br>%{{x:.2f}} nats: %{{customdata:.1%}} of the samples",
            }  # fmt: skip
            figure.add(axis, trace, name if name == "real text" else arm)
        names = [name for name, *_ in ridges]
        figure.axes[f"xaxis{axis}"] |= {
            "title": {"text": "mean loss of a sample (nats per token)", "standoff": 6},
            "dtick": next((step for step in TICKS if (last - first) / 4 / 5 <= step), 10.0), "range": [first / 4, (last + 1) / 4],
        }  # fmt: skip
        figure.axes[f"yaxis{axis}"] |= {
            "tickvals": list(range(len(names)))[::-1], "ticktext": names, "range": [-0.15, len(names) + 0.75],
        }  # fmt: skip
    alt, table = _quantiles(chains)
    return figure.done(alt, table, [f"reference/nll_p{q}" for q in (50, 90, 99)], showlegend=False)


def _outline(shares: np.ndarray, first: int, last: int) -> tuple[list[float], list[float]]:
    """(x, y) of a histogram's outline from bin `first` to `last`: through the bins' middles, down to 0 at both ends."""
    wide = np.zeros(last + 1)
    wide[: min(len(shares), last + 1)] = shares[: last + 1]
    middles = (np.arange(first, last + 1) + 0.5) / 4
    heights = wide[first:]
    x = [first / 4, *middles.tolist(), (last + 1) / 4, first / 4]
    return x, [0.0, *heights.tolist(), 0.0, 0.0]


def _quantiles(chains: list[Any]) -> tuple[str, tuple[list[str], list[list[str]]]]:
    """(alt text, table) of the quantiles over samples, as means over chains."""
    rows: list[list[str]] = []
    courses: list[str] = []
    for arm, members in by_arm(chains).items():
        quantiles = {q: series.curve(members, f"reference/nll_p{q}") for q in (50, 90, 99)}
        for q, points in quantiles.items():
            rows += [[arm, str(p.generation), f"p{q}", spec.with_ends(p)] for p in points]
        if quantiles[50] and len(courses) < 5:
            courses.append(f"in arm {arm} the median {spec.course(quantiles[50])} nats")
            if quantiles[99]:
                courses[-1] += f" and the 99th percentile {spec.course(quantiles[99])}"
    for q in (50, 90, 99):
        value = series.real_value(chains, f"reference/nll_p{q}")
        if value is not None:
            rows.append(["real text", "", f"p{q}", short(value)])
    words = "Mean loss of each sample under generation 0's model: " + "; ".join(courses) + "."
    return words, (["arm", "generation", "quantile", "nats per token"], rows)

"""Main figures of a report as PNGs by matplotlib, each from the chains of one protocol."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from collapselab.report import series
from collapselab.report.colours import LINES, MARKERS, NEUTRAL, colour, signs
from collapselab.report.controls import grey_first
from collapselab.report.overlay import LAW_LINES, TITLES, TRUTH, by_arm, by_generation, overlaid, residuals
from collapselab.report.series import DIVERSITY, LIKELIHOOD, curve, extent, possible, present, real_level

WIDE = 4.6  # inches of a panel
ABREAST = 4  # panels in a row, at most
LEGEND = 2.4  # inches of the legend beside the figure of the laws


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _margins(figure: Figure, right: float = 0.2, between: float = 0.1) -> None:
    """Set margins in inches, and gaps between rows as a share of their height. Automatic layouts would take twice as long."""
    width, height = figure.get_size_inches()
    sides = {"left": 0.65 / width, "right": 1 - right / width, "bottom": 0.55 / height, "top": 1 - 0.35 / height}
    figure.subplots_adjust(**sides, wspace=0.25, hspace=between)


def _style(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.get_major_locator().set_params(integer=True)


def axes_of(panels: int) -> tuple[Figure, list[Any]]:
    """(figure, axes) with a number of panels, in rows as even as possible."""
    rows = -(-panels // ABREAST)
    columns = -(-panels // rows)
    figure = Figure(figsize=(WIDE * columns, 3.4 * rows))
    _margins(figure, between=0.3)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for left in axes[panels:]:
        left.set_visible(False)
    axes = axes[:panels]
    for axis in axes:
        axis.set_xlabel("generation")
        _style(axis)
    return figure, axes


def _label(arm: str, chains: list[Any]) -> str:
    seeds = f"{len(chains)} seeds" if len(chains) > 1 else "one seed: no interval"
    return f"{arm} (all real text; {seeds})" if chains[0].is_control else f"{arm} ({seeds})"


def _curve(axis: Any, chains: list[Any], key: str, title: str) -> None:
    """Draw the mean of every arm with its 95 % t-interval, controls in grey below the others, and real text with its scatter."""
    real, within, arms = real_level(chains, key), possible(key), grey_first(by_arm(chains))
    curves = {arm: points for arm, members in arms.items() if (points := curve(members, key))}
    for arm, points in curves.items():
        members = arms[arm]
        x, style = [p.generation for p in points], look(members[0].place)
        axis.plot(x, [p.mean for p in points], ms=4, label=_label(arm, members), **style)
        low, high = [max(p.low, within[0]) for p in points], [min(p.high, within[1]) for p in points]
        axis.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    if real is not None:
        if not math.isnan(real.low):
            axis.axhspan(real.low, real.high, color=NEUTRAL, alpha=0.12, linewidth=0)
        axis.axhline(real.value, color=NEUTRAL, linestyle="--", linewidth=1, label="real text, same budget")
    axis.set_title(title, fontsize=10, y=1.0)
    axis.set_ylim(*extent(curves.values(), real, within, from_zero=key.startswith("tails/") or "overlap" in key))


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line of an arm, as on the page."""
    symbol, dash = signs(place)
    return {"color": colour(place), "marker": MARKERS[symbol], "linestyle": LINES[dash]}


def panels(chains: list[Any], titles: dict[str, str]) -> bytes | None:
    """Draw a panel for each metric that some chain has."""
    shown = present(chains, titles)
    if not shown:
        return None
    figure, axes = axes_of(len(shown))
    for axis, (key, title) in zip(axes, shown.items(), strict=True):
        _curve(axis, chains, key, title)
    axes[-1].legend(fontsize=7, frameon=False)
    return png(figure)


def likelihood(chains: list[Any]) -> bytes | None:
    return panels(chains, LIKELIHOOD)


def diversity(chains: list[Any]) -> bytes | None:
    return panels(chains, DIVERSITY)


def tails(chains: list[Any]) -> bytes | None:
    return panels(chains, series.tails(chains))


def theory(chains: list[Any]) -> bytes | None:
    """Draw measurement and law above, and their difference with twice its standard error below."""
    keys = overlaid(chains)
    if not keys:
        return None
    figure = Figure(figsize=(WIDE * len(keys) + LEGEND, 5.6))
    _margins(figure, right=LEGEND)
    axes = figure.subplots(2, len(keys), squeeze=False, sharex=True, height_ratios=(3, 2))
    for above, below, key in zip(*axes, keys, strict=True):
        for arm, members in by_arm(chains).items():
            drawn = look(members[0].place)
            shade, sign = drawn["color"], drawn["marker"]
            measured = {g: values.mean() for g, values in by_generation(members, key).items()}
            above.plot(measured.keys(), measured.values(), sign, ms=4, color=shade, label=f"{arm}: measured")
            for prefix, dash, _, name in LAW_LINES:
                line = {g: values.mean() for g, values in by_generation(members, prefix + key).items()}
                if line:
                    above.plot(line.keys(), line.values(), dash, color=shade, linewidth=1.5, label=f"{arm}: {name}")
            if key == TRUTH:
                above.axhline(1, color=NEUTRAL, linestyle="--", linewidth=1, label="the truth, r = 1")
            gaps = residuals(members, key)
            if gaps:
                generations, differences = zip(*((g, m - e) for g, _, m, e, _ in gaps), strict=True)
                bars = [0.0 if math.isnan(se) else 2 * se for *_, se in gaps]
                below.errorbar(generations, differences, bars, fmt=f"{sign}-", ms=3, color=shade, lw=1)
        if not any(residuals(members, key) for members in by_arm(chains).values()):
            below.set_visible(False)
            above.tick_params(labelbottom=True)
        above.set_title(TITLES[key], fontsize=10, y=1.0)
        below.axhline(0, color="0.4", linewidth=1)
        below.set_ylabel("measured − law (± 2 s.e.)", fontsize=8)
        below.set_xlabel("generation")
        _style(above)
        _style(below)
    labelled = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, fontsize=7, frameon=False, loc="upper right")
    return png(figure)


FIGURES: tuple[tuple[str, Callable[[list[Any]], bytes | None]], ...] = (
    ("likelihood", likelihood),
    ("tails", tails),
    ("diversity", diversity),
    ("theory", theory),
)

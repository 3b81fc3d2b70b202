"""The main figures of a report as PNGs, by matplotlib: each function takes the chains of one protocol."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from collapselab.report.colours import LINES, MARKERS, NEUTRAL, colour
from collapselab.report.overlay import TITLES, by_arm, by_generation, overlaid, residuals
from collapselab.report.series import DIVERSITY, LIKELIHOOD, TAILS, curve, extent, possible, present, real_value

WIDE = 4.6  # inches of a panel
LEGEND = 2.4  # inches of the legend beside the figure of the laws


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _margins(figure: Figure, right: float = 0.2) -> None:
    """In inches. Automatic layouts would draw each figure twice, which takes as long again."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.65 / width, right=1 - right / width, bottom=0.55 / height, top=1 - 0.35 / height, wspace=0.25, hspace=0.1
    )


def axes_of(panels: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(WIDE * panels, 3.4))
    _margins(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axis in axes:
        axis.set_xlabel("generation")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _label(arm: str, chains: list[Any]) -> str:
    return f"{arm} ({len(chains)} seeds)" if len(chains) > 1 else f"{arm} (one seed: no interval)"


def _curve(axis: Any, chains: list[Any], key: str, title: str) -> None:
    """An arm's mean over chains, with its 95 % t-interval where there are several."""
    value, within = real_value(chains, key), possible(key)
    curves = {arm: points for arm, members in by_arm(chains).items() if (points := curve(members, key))}
    for arm, points in curves.items():
        members = by_arm(chains)[arm]
        x, style = [p.generation for p in points], look(members[0].place)
        axis.plot(x, [p.mean for p in points], ms=4, label=_label(arm, members), **style)
        axis.fill_between(
            x,
            [max(p.low, within[0]) for p in points],
            [min(p.high, within[1]) for p in points],
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
    if value is not None:
        axis.axhline(value, color=NEUTRAL, linestyle="--", linewidth=1, label="real text, same budget")
    axis.set_title(title, fontsize=10, y=1.0)
    axis.set_ylim(*extent(curves.values(), value, within, from_zero="coverage" in key))


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line of an arm; the same colours as on the page."""
    count = len(MARKERS)
    return {
        "color": colour(place),
        "marker": MARKERS[place % count],
        "linestyle": LINES[(place + place // count) % len(LINES)],
    }


def _panels(chains: list[Any], titles: dict[str, str]) -> bytes | None:
    """A panel for each metric that some chain has."""
    shown = present(chains, titles)
    if not shown:
        return None
    figure, axes = axes_of(len(shown))
    for axis, (key, title) in zip(axes, shown.items(), strict=True):
        _curve(axis, chains, key, title)
    axes[-1].legend(fontsize=7, frameon=False)
    return png(figure)


def likelihood(chains: list[Any]) -> bytes | None:
    return _panels(chains, LIKELIHOOD)


def diversity(chains: list[Any]) -> bytes | None:
    return _panels(chains, DIVERSITY)


def tails(chains: list[Any]) -> bytes | None:
    return _panels(chains, TAILS)


def theory(chains: list[Any]) -> bytes | None:
    """Above, what was measured and what the law expects; below, the difference with twice its standard error."""
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
            for prefix, dash, name in (("theory/", "-", "law (noise)"), ("theory/bias/", ":", "bias alone")):
                line = {g: values.mean() for g, values in by_generation(members, prefix + key).items()}
                if line:
                    above.plot(line.keys(), line.values(), dash, color=shade, linewidth=1.5, label=f"{arm}: {name}")
            gaps = residuals(members, key)
            if gaps:
                bars = [0.0 if math.isnan(se) else 2 * se for *_, se in gaps]
                below.errorbar(
                    [g for g, *_ in gaps],
                    [m - e for _, _, m, e, _ in gaps],
                    bars,
                    fmt=f"{sign}-",
                    ms=3,
                    color=shade,
                    lw=1,
                )
        if not any(residuals(members, key) for members in by_arm(chains).values()):
            below.set_visible(False)
            above.tick_params(labelbottom=True)
        above.set_title(TITLES[key], fontsize=10, y=1.0)
        below.axhline(0, color="0.4", linewidth=1)
        below.set_ylabel("measured − law (± 2 s.e.)", fontsize=8)
        below.set_xlabel("generation")
        for axis in (above, below):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.get_major_locator().set_params(integer=True)
    labelled = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, fontsize=7, frameon=False, loc="upper right")
    return png(figure)


FIGURES: tuple[tuple[str, Callable[[list[Any]], bytes | None]], ...] = (
    ("likelihood", likelihood),
    ("tails", tails),
    ("diversity", diversity),
    ("theory", theory),
)

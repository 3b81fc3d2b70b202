"""Parts of plotly figures as plain dicts: a grid of panels, curves with intervals, labels that plotly does not interpret.

`layout.meta` of every figure holds `cells` (the axes of each panel from the top, with their shares of its height; the page
arranges the panels by the available width), `height` of a panel in pixels, `alt` (the figure in words), `table` (columns and
rows of the drawn values), `left` (pixels of the margin for labels) and `keys` (the metrics drawn).
"""

from __future__ import annotations

import math
from typing import Any

from collapselab.report.colours import CONTROL, NEUTRAL, colour, faint, mark
from collapselab.runtime.console import inert

Spec = dict[str, Any]
GRID = "rgba(128,128,128,0.22)"
WIDTH = 1000  # pixels for which panels are arranged when no page rearranges them
GAP, HEAD = (64, 84), 34  # between panels, and above each for its title


def escaped(text: str) -> str:
    """Escape a label, because plotly interprets some HTML tags in it."""
    return inert(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(value: float) -> str:
    """Format a number with at most four digits, for words and tables."""
    return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "\N{MINUS SIGN}", int(value < 0))


def finite(values: Any) -> list[float | None]:
    """Replace nan by None, for JSON."""
    return [None if math.isnan(value) else float(value) for value in values]


class Figure:
    """A figure that grows panel by panel."""

    def __init__(self, panel_height: int = 260, left: int = 56):
        self.traces: list[Spec] = []
        self.axes: Spec = {}
        self.notes: list[Spec] = []
        self.cells: list[list[tuple[str, float]]] = []
        self.panel_height, self.left = panel_height, left
        self.named: set[str] = set()  # names in the legend

    def panel(self, title: str, generations: int, shares: tuple[float, ...] = (1.0,)) -> list[str]:
        """Add a panel with one or several axes above each other over generations 0 .. `generations` - 1; return their
        numbers as plotly writes them ("" for the first)."""
        names = []
        for _ in shares:
            number = len(self.axes) // 2 + 1
            name = "" if number == 1 else str(number)
            self.axes[f"xaxis{name}"] = {
                "anchor": f"y{name}", "title": {"text": "generation", "standoff": 6}, "dtick": _step(generations),
                "tick0": 0, "gridcolor": GRID, "zeroline": False, "range": [-0.35, max(1, generations - 1) + 0.35],
            }  # fmt: skip
            self.axes[f"yaxis{name}"] = {
                "anchor": f"x{name}", "gridcolor": GRID, "zeroline": False, "tickformat": "~g", "nticks": 7,
            }  # fmt: skip
            names.append(name)
        for upper in names[:-1]:
            self.axes[f"xaxis{upper}"] |= {"matches": f"x{names[-1]}", "showticklabels": False, "title": {"text": ""}}
        self.cells.append(list(zip(names, shares, strict=True)))
        self.notes.append(
            {
                "text": escaped(title), "xref": f"x{names[0]} domain", "yref": f"y{names[0]} domain", "x": 0, "y": 1,
                "xanchor": "left", "yanchor": "bottom", "yshift": 8, "showarrow": False, "font": {"size": 13},
            }
        )  # fmt: skip
        return names

    def add(self, axis: str, trace: Spec, name: str, group: str | None = None) -> None:
        """Add a trace to a panel. The legend lists each name once, and toggles all traces of its group."""
        place = {"name": escaped(name), "legendgroup": escaped(group or name), "xaxis": f"x{axis}", "yaxis": f"y{axis}"}
        self.traces.append(place | trace | {"showlegend": trace.get("showlegend", name not in self.named)})
        self.named.add(name)

    def curve(
        self, axis: str, arm: str, place: int, points: list[Any], label: str, within: tuple[float, float]
    ) -> None:
        """Draw an arm's means and, with several chains, the area of their intervals, cut to possible values."""
        symbol, dash = mark(place)
        x = [p.generation for p in points]
        wide = [p for p in points if not math.isnan(p.low)]
        if wide:
            ends = [min(p.high, within[1]) for p in wide] + [max(p.low, within[0]) for p in reversed(wide)]
            across = [p.generation for p in wide]
            area = {
                "type": "scatter", "x": across + across[::-1], "y": ends, "fill": "toself", "mode": "lines",
                "line": {"width": 0}, "fillcolor": faint(place, 0.16), "hoverinfo": "skip", "showlegend": False,
            }  # fmt: skip
            self.add(axis, area, f"{arm}: interval", label)
        self.add(
            axis,
            {
                "type": "scatter", "x": x, "y": [p.mean for p in points], "mode": "lines+markers",
                "line": {"color": colour(place), "width": 2, "dash": dash},
                "marker": {"color": colour(place), "symbol": symbol, "size": marker_size(points)},
                "customdata": [with_ends(p) for p in points],
                "hovertemplate": "generation %{x}<br>%{customdata}",
            },
            label,
        )  # fmt: skip

    def remark(self, axis: str, y: str, text: str) -> None:
        """Write a remark into the middle of a panel, at the height of `y`."""
        self.notes.append(
            {
                "text": text, "xref": f"x{axis} domain", "yref": f"y{axis}", "x": 0.5, "y": y, "showarrow": False,
                "xanchor": "center", "yanchor": "middle", "font": {"size": 11, "color": NEUTRAL},
            }
        )  # fmt: skip

    def level(self, axis: str, value: float, last: int, name: str, band: tuple[float, float] | None = None) -> None:
        """Draw a value common to all generations, and the strip in which it scatters, if known."""
        if band is not None:
            low, high = band
            left, right = -0.35, max(1, last) + 0.35
            strip = {
                "type": "scatter", "x": [left, right, right, left], "y": [high, high, low, low], "fill": "toself",
                "mode": "lines", "line": {"width": 0}, "fillcolor": faint(CONTROL, 0.12), "hoverinfo": "skip", "showlegend": False,
            }  # fmt: skip
            self.add(axis, strip, f"{name}: scatter", name)
        line = {
            "type": "scatter", "x": [-0.35, max(1, last) + 0.35], "y": [value, value], "mode": "lines",
            "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"}, "hovertemplate": f"{short(value)}",
        }  # fmt: skip
        self.add(axis, line, name)

    def done(self, alt: str, table: tuple[list[str], list[list[str]]], keys: list[str], **layout: Any) -> Spec:
        """Return the finished figure, with `layout` added to its own."""
        meta = {
            "cells": [[list(axis) for axis in cell] for cell in self.cells], "height": self.panel_height, "left": self.left,
            "alt": inert(alt), "table": {"columns": table[0], "rows": table[1]}, "keys": keys,
        }  # fmt: skip
        common = {
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "annotations": self.notes, "meta": meta,
            "font": {"family": "system-ui, sans-serif", "size": 12}, "margin": {"l": self.left, "r": 12, "t": HEAD, "b": 48},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top", "tracegroupgap": 0},
            "hoverlabel": {"align": "left"},
        }  # fmt: skip
        arranged = self.axes | common | layout
        _arrange(arranged, meta)
        return {"data": self.traces, "layout": arranged}


def marker_size(points: list[Any]) -> int:
    """Marker size in pixels, smaller for many generations."""
    return 7 if len(points) <= 21 else 4


def _step(generations: int) -> int:
    """Choose the generations between ticks, so that a panel has at most eight."""
    return next(
        step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if generations / step <= 8 or step == 10**6
    )


def with_ends(point: Any) -> str:
    """`28.0 [27.8, 28.2]`: a mean with the ends of its interval, for hovers and tables."""
    if math.isnan(point.low):
        return short(point.mean)
    return f"{short(point.mean)} [{short(point.low)}, {short(point.high)}]"


def _arrange(layout: Spec, meta: Spec) -> None:
    """Arrange panels side by side, at most three in a row. (page.js does the same for the actual width.)"""
    cells, (gap_x, gap_y) = meta["cells"], GAP
    columns = min(len(cells), 3)
    rows = -(-len(cells) // columns)
    height = rows * meta["height"] + (rows - 1) * gap_y
    wide = (WIDTH - (columns - 1) * gap_x) / columns
    for index, cell in enumerate(cells):
        left = (index % columns) * (wide + gap_x) / WIDTH
        top = 1 - (index // columns) * (meta["height"] + gap_y) / height
        whole = meta["height"] / height
        for axis, share in cell:
            layout[f"xaxis{axis}"]["domain"] = [round(left, 4), round(min(1, left + wide / WIDTH), 4)]
            low = top - whole * share
            gap = 0.04 * whole if len(cell) > 1 else 0
            layout[f"yaxis{axis}"]["domain"] = [round(max(0, low + gap), 4), round(min(1, top), 4)]
            top = low
    layout["height"] = height + 150


def course(points: list[Any]) -> str:
    """`rises from 28.0 to 38.0 over generations 0 to 5`; below half a per cent a curve `stays`."""
    first, last = points[0], points[-1]
    if first.generation == last.generation:
        return f"is {short(last.mean)} at generation {last.generation}"
    gap = last.mean - first.mean
    how = "rises" if gap > 0 else "falls"
    if abs(gap) < 0.005 * max(abs(first.mean), 1e-12):
        how = "stays"
    return (
        f"{how} from {short(first.mean)} to {short(last.mean)} over generations {first.generation} to {last.generation}"
    )


def courses(title: str, by_arm: dict[str, list[Any]], real: Any) -> str:
    """Describe a panel of curves in a sentence; of more than four arms, those that rose most and least."""
    if len(by_arm) > 4:
        moved = sorted(by_arm, key=lambda arm: by_arm[arm][-1].mean - by_arm[arm][0].mean)
        arms = f"of {len(by_arm)} arms, {moved[-1]} {course(by_arm[moved[-1]])}, {moved[0]} {course(by_arm[moved[0]])}"
    else:
        arms = ", ".join(f"{course(points)} in arm {arm}" for arm, points in by_arm.items())
    return f"{title} {arms}" + ("" if real is None else f"; real text {_level(real)}")


def _level(real: Any) -> str:
    """Value of real text with its scatter."""
    scatter = "" if math.isnan(real.low) else f" [{short(real.low)}, {short(real.high)}]"
    return f"{short(real.value)}{scatter}"


def curve_table(panels: dict[str, dict[str, list[Any]]], real: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """(columns, rows) of several panels of curves: a row per panel and arm, a column per generation."""
    last = max((p.generation for by_arm in panels.values() for points in by_arm.values() for p in points), default=-1)
    rows = []
    for title, by_arm in panels.items():
        for arm, points in by_arm.items():
            at = {p.generation: with_ends(p) for p in points}
            rows.append([title, arm, *(at.get(g, "–") for g in range(last + 1))])
        value = real.get(title)
        if value is not None:
            rows.append([title, "real text", *([_level(value)] * (last + 1))])
    return ["", "arm", *(f"generation {g}" for g in range(last + 1))], rows

"""Charts of a task, a panel per arm: what the judges accept beside what is correct, and the fan of pass@k."""

from __future__ import annotations

import math
from typing import Any

from collapselab.report import series, spec
from collapselab.report.colours import NEUTRAL, faint
from collapselab.report.overlay import by_arm
from collapselab.report.series import Point
from collapselab.report.spec import Figure, Spec, short

MOST_CURVES = 8  # generations that remain readable in one panel
BESIDE = {
    "judge/accepted": "accepted by the judges",
    "truth/task/correct": "correct (gold)",
    "truth/task/hack": "hacks",
}
LOOKS = dict(zip(BESIDE, (0, 4, 1), strict=True))  # places whose colours, markers and dashes differ from each other


def accepted(chains: list[Any]) -> Spec | None:
    """Draw what the judges accept, what is correct, and hacks by generation. None for chains without both judges and truth."""
    arms = {arm: members for arm, members in by_arm(chains).items() if _judged(members)}
    if not arms:
        return None
    figure, panels, alt = Figure(), dict[str, dict[str, list[Point]]](), list[str]()
    every: list[list[Point]] = []
    for arm, members in arms.items():
        (axis,) = figure.panel(arm, max(len(chain.rows) for chain in members))
        courses = {key: points for key in BESIDE if (points := series.curve(members, key))}
        for key, points in courses.items():
            figure.curve(axis, f"{arm}: {BESIDE[key]}", LOOKS[key], points, BESIDE[key], (0.0, 1.0))
            panels.setdefault(arm, {})[BESIDE[key]] = points
        every += courses.values()
        alt.append(
            f"arm {arm}: " + ", ".join(f"{BESIDE[key]} {spec.course(points)}" for key, points in courses.items())
        )
    ends = series.extent(every, None, (0.0, 1.0), from_zero=True)
    for name in figure.axes:
        if name.startswith("yaxis"):
            figure.axes[name]["range"] = list(ends)
    columns, rows = spec.curve_table(panels, {})
    return figure.done("; ".join(alt) + ".", (["arm", "share", *columns[2:]], rows), list(BESIDE))


def _judged(members: list[Any]) -> bool:
    keys = set().union(*map(series.keys_of, members))
    return {"judge/accepted", "truth/task/correct"} <= keys


def fan(chains: list[Any]) -> Spec | None:
    """Draw pass@k against k, a curve per generation. None for chains without several samples of a prompt."""
    every_arm = {arm: _fan(members) for arm, members in by_arm(chains).items()}
    arms = {arm: courses for arm, courses in every_arm.items() if max(map(len, courses.values()), default=0) > 1}
    if not arms:
        return None
    figure, alt, rows = Figure(panel_height=300), list[str](), list[list[str]]()
    ks = sorted({k for courses in arms.values() for points in courses.values() for k in points})
    every = [list(points.values()) for courses in arms.values() for points in courses.values()]
    low, high = series.extent(every, None, (0.0, 1.0), from_zero=False)
    for arm, courses in arms.items():
        (axis,) = figure.panel(arm, 1)
        shown = series.evenly(list(courses), MOST_CURVES)
        for g in shown:
            _curve(figure, axis, by_arm(chains)[arm][0].place, g, shown, courses[g])
        edge = 0.05 * math.log10(max(ks) / min(ks))
        figure.axes[f"xaxis{axis}"] |= {
            "type": "log", "tickmode": "array", "tickvals": ks, "ticktext": [str(k) for k in ks],
            "title": {"text": "k", "standoff": 6}, "range": [math.log10(min(ks)) - edge, math.log10(max(ks)) + edge],
        }  # fmt: skip
        figure.axes[f"yaxis{axis}"]["range"] = [max(0.0, low), min(1.02, high)]
        alt.append(_told(arm, courses))
        for g, points in courses.items():
            rows.append([arm, str(g), *(spec.with_ends(points[k]) if k in points else "–" for k in ks)])
    columns = ["arm", "generation", *(f"pass@{k}" for k in ks)]
    return figure.done("; ".join(alt) + ".", (columns, rows), [f"task/pass_at_{k}" for k in ks])


def _fan(members: list[Any]) -> dict[int, dict[int, Point]]:
    """pass@k of an arm by generation and k, means over its chains."""
    found: dict[int, dict[int, Point]] = {}
    keys = set().union(*map(series.keys_of, members))
    for k in sorted(int(match[1]) for key in keys if (match := series.PASS_AT.fullmatch(key))):
        for point in series.curve(members, f"task/pass_at_{k}"):
            found.setdefault(point.generation, {})[k] = point
    return dict(sorted(found.items()))


def _curve(figure: Figure, axis: str, place: int, g: int, shown: list[int], points: dict[int, Point]) -> None:
    """Draw a generation's curve; the first and the last one shown with their intervals, if they have any."""
    first, name = g == shown[0], f"generation {g}"
    wide = {k: p for k, p in points.items() if not math.isnan(p.low)} if g in (shown[0], shown[-1]) else {}
    if wide:
        ends = [min(1.0, p.high) for p in wide.values()] + [max(0.0, p.low) for p in reversed(wide.values())]
        area = {
            "type": "scatter", "x": [*wide, *reversed(wide)], "y": ends, "fill": "toself", "mode": "lines", "line": {"width": 0},
            "fillcolor": faint(-1 if first else place, 0.16), "hoverinfo": "skip", "showlegend": False,
        }  # fmt: skip
        figure.add(axis, area, f"{name}: interval", name)
    shade = faint(place, 0.35 + 0.65 * shown.index(g) / max(1, len(shown) - 1))
    line = {"color": NEUTRAL, "width": 2, "dash": "dash"} if first else {"color": shade, "width": 2, "dash": "solid"}
    trace = {
        "type": "scatter", "x": list(points), "y": [p.mean for p in points.values()], "mode": "lines+markers", "line": line,
        "marker": {"color": line["color"], "size": 5}, "customdata": [spec.with_ends(p) for p in points.values()],
        "hovertemplate": f"{name}, pass@%{{x}}: %{{customdata}}",
    }  # fmt: skip
    figure.add(axis, trace, name)


def _told(arm: str, courses: dict[int, dict[int, Point]]) -> str:
    """Describe the fan of an arm, and where its last generation falls below the first."""
    first, last = min(courses), max(courses)
    both = [k for k in courses[first] if k in courses[last]]
    if not both:
        return f"arm {arm}: generation {first} and {last} have no k in common"
    ends = [
        f"pass@{k} from {short(courses[first][k].mean)} to {short(courses[last][k].mean)}" for k in (both[0], both[-1])
    ]
    text = f"arm {arm}, generation {first} to {last}: {' and '.join(ends)}"
    gains = [courses[last][k].mean - courses[first][k].mean for k in both]
    below = next((k for k, gain in zip(both, gains, strict=True) if gain < 0), None)
    if gains[0] > 0 and below is not None:
        text += f"; from k = {below} on generation {first} is ahead"
    return text

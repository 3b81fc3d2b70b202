"""Charts of a report as plotly figures in plain dicts, each a function of the chains of one protocol that returns None if
they lack its data. `plotly.graph_objects.Figure(spec)` accepts them; the page needs only plotly's JavaScript."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from collapselab.report import series, spec
from collapselab.report.colours import DIVERGING, NEUTRAL, colour, mark
from collapselab.report.controls import grey_first
from collapselab.report.ledgers import ledger
from collapselab.report.overlay import LAW_LINES, TITLES, TRUTH, by_arm, overlaid, residuals
from collapselab.report.ridges import distribution
from collapselab.report.spec import Figure, Spec, escaped, finite, short
from collapselab.report.tasks import accepted, fan

REAL_TEXT = "real text, same budget"
SHADED = (
    " Shaded: 95 % intervals, over the chains of an arm; of a single chain, over a generation's problems or sequences."
)


def _length(chains: list[Any]) -> int:
    return max(len(chain.rows) for chain in chains)


def legend(arm: str, members: list[Any]) -> str:
    """Name of an arm in a legend."""
    seeds = f"{len(members)} seeds" if len(members) > 1 else "one seed"
    return f"{arm} (all real text, {seeds})" if members[0].is_control else f"{arm} ({seeds})"


def _curves(
    chains: list[Any], titles: dict[str, str], *, from_zero: bool = False, one_scale: bool = False
) -> Spec | None:
    """Draw a panel per metric: the mean of every arm with its 95 % t-interval, controls in grey below the others, and real
    text's value with its scatter. `one_scale`: all panels have the same axis."""
    shown, arms = series.present(chains, titles), grey_first(by_arm(chains))
    figure, panels, real, alt = Figure(), {}, {}, []
    for key, title in shown.items():
        (axis,) = figure.panel(title, _length(chains))
        panels[title] = {arm: points for arm, m in arms.items() if (points := series.curve(m, key))}
        for arm, points in panels[title].items():
            members = arms[arm]
            figure.curve(axis, arm, members[0].place, points, legend(arm, members), series.possible(key))
        real[title] = series.real_level(chains, key)
        if (level := real[title]) is not None:
            band = None if math.isnan(level.low) else (level.low, level.high)
            figure.level(axis, level.value, _length(chains) - 1, REAL_TEXT, band)
        ends = series.extent(panels[title].values(), level, series.possible(key), from_zero=from_zero)
        figure.axes[f"yaxis{axis}"]["range"] = list(ends)
        alt.append(spec.courses(title, panels[title], real[title]))
    if not shown:
        return None
    if one_scale:
        axes = [axis for name, axis in figure.axes.items() if name.startswith("yaxis")]
        lows, highs = zip(*(axis["range"] for axis in axes), strict=True)
        for axis in axes:
            axis["range"] = [min(lows), max(highs)]
    return figure.done(". ".join(alt) + ".", spec.curve_table(panels, real), list(shown))


def likelihood(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.LIKELIHOOD)


def tails(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.tails(chains), from_zero=True)


def diversity(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.DIVERSITY)


def answers(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.ANSWERS, from_zero=True)


def difficulty(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.difficulties(chains), from_zero=True, one_scale=True)


def judges(chains: list[Any]) -> Spec | None:
    return _curves(chains, series.JUDGES)


def _cell(change: float, half: float) -> str:
    """`+0.12 ± 0.03`: text of a cell of the heat map."""
    if math.isnan(change):
        return "–"
    return f"{change:+.3f}" if math.isnan(half) else f"{change:+.3f} ± {half:.3f}"


def frequency(chains: list[Any]) -> Spec | None:
    """Draw a heat map per arm, bucket x generation: the change of the loss since generation 0.

    The row of a bucket with too few tokens, whose change is noise, has no cells.
    """
    by_name = {arm: heat for arm, members in by_arm(chains).items() if (heat := series.frequency(members)) is not None}
    if not by_name:
        return None
    # The scale ends at .01 nats or more: smaller changes are noise.
    most = max([0.01, *(float(np.nanmax(np.abs(heat.change), initial=0.0)) for heat in by_name.values())])
    figure = Figure(panel_height=40 + 42 * max(len(heat.buckets) for heat in by_name.values()), left=72)
    alt, rows = [], []
    for arm, heat in by_name.items():
        (axis,) = figure.panel(arm, len(heat.generations))
        figure.axes[f"xaxis{axis}"] |= {"range": [-0.5, len(heat.generations) - 0.5], "showgrid": False}
        figure.axes[f"yaxis{axis}"] |= {"type": "category", "showgrid": False}
        figure.add(
            axis,
            {
                "type": "heatmap", "x": heat.generations, "y": [escaped(b) for b in heat.buckets],
                "z": [finite(row) for row in heat.change], "coloraxis": "coloraxis", "xgap": 1, "ygap": 1,
                "customdata": [
                    [[loss, n, _cell(change, half)] for loss, change, half in zip(finite(losses), changes, halves, strict=True)]
                    for losses, changes, halves, n in zip(heat.loss, heat.change, heat.half, heat.scored, strict=True)
                ],
                "hovertemplate": "generation %{x}, seen %{y} times<br>%{customdata[2]} nats since generation 0<br>"
                "loss %{customdata[0]:.3f} over %{customdata[1]:,.0f} scored tokens", "hoverongaps": False,
            },
            arm,
        )  # fmt: skip
        for bucket, tokens in zip(heat.buckets, heat.scored, strict=True):
            if tokens < series.LEAST_TOKENS:
                figure.remark(axis, escaped(bucket), f"too few tokens ({tokens:,.0f})")
        if len(heat.generations) <= 8:
            figure.traces[-1]["texttemplate"] = "%{z:+.2f}"
        ends = []
        for b, tokens, change, half in zip(
            heat.buckets, heat.scored, heat.change[:, -1], heat.half[:, -1], strict=True
        ):
            enough = tokens >= series.LEAST_TOKENS
            ends.append(f"{_cell(change, half)} for tokens seen {b} times" if enough else f"seen {b} times: too few")
        alt.append(f"arm {arm}, generation {heat.generations[-1]}: " + ", ".join(ends))
        for bucket, tokens, *lines in zip(heat.buckets, heat.scored, heat.loss, heat.change, heat.half, strict=True):
            cells = [f"{short(x)} ({_cell(c, h)})" for x, c, h in zip(*lines, strict=True)]
            cells = cells if tokens >= series.LEAST_TOKENS else ["too few"] * len(cells)
            rows.append([arm, bucket, f"{tokens:,.0f}", *cells])
    columns = ["arm", "times in real text", "scored tokens", *(f"generation {g}" for g in range(_length(chains)))]
    rows = [row + ["–"] * (len(columns) - len(row)) for row in rows]
    scale = [[i / 4, shade] for i, shade in enumerate(DIVERGING["light"])]
    bar = {
        "title": {"text": "change in nats", "side": "top"}, "thickness": 10, "outlinewidth": 0, "tickformat": "+.2~f",
        "orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top", "lenmode": "pixels", "len": 260, "nticks": 5,
    }  # fmt: skip
    keys = [f"real/nll_by_frequency/{bucket}" for bucket in next(iter(by_name.values())).buckets]
    return figure.done(
        "Change of the loss in nats since generation 0. " + "; ".join(alt) + ".", (columns, rows), keys,
        coloraxis={"cmin": -most, "cmax": most, "colorscale": scale, "colorbar": bar}, showlegend=False,
    )  # fmt: skip


def theory(chains: list[Any]) -> Spec | None:
    """Draw measurements (marks) and laws (lines) above, and their difference with twice its error below."""
    keys = overlaid(chains)
    if not keys:
        return None
    figure = Figure(panel_height=380)
    ends: list[str] = []
    rows: list[list[str]] = []
    for key in keys:
        has_law = any(residuals(members, key) for members in by_arm(chains).values())
        above, *rest = figure.panel(TITLES[key], _length(chains), shares=(0.62, 0.38) if has_law else (1.0,))
        if key == TRUTH:
            figure.level(above, 1.0, _length(chains) - 1, "the truth, r = 1")
        for arm, members in by_arm(chains).items():
            _law(figure, above, key, arm, members)
            gaps = residuals(members, key)
            if gaps:
                _gaps(figure, rest[0], arm, members, gaps)
                g, _, measured, law, se = gaps[-1]
                ends.append(f"{TITLES[key]}, arm {arm}, generation {g}: measured {short(measured)}, law {short(law)}")
            for g, count, measured, law, se in gaps:
                cells = [str(g), str(count), short(measured), short(law), f"{measured - law:+.4f}", short(se)]
                rows.append([TITLES[key], arm, *cells])
        for below in rest:
            every = [gap for members in by_arm(chains).values() for gap in residuals(members, key)]
            reach = [0.0, *(m - law + way * _error(se) for _, _, m, law, se in every for way in (-1, 1))]
            edge = 0.06 * (max(reach) - min(reach) or 1)  # keeps zero inside if all gaps are on one side of it
            figure.axes[f"yaxis{below}"] |= {
                "range": [min(reach) - edge, max(reach) + edge],
                "title": {"text": "measured − law", "standoff": 4}, "zeroline": True, "zerolinecolor": NEUTRAL, "nticks": 4,
            }  # fmt: skip
    alt = "; ".join(ends[:8]) + ("; the table below has the rest." if len(ends) > 8 else ".")
    columns = ["", "arm", "generation", "chains", "measured", "law", "difference", "standard error"]
    return figure.done(alt, (columns, rows), [f"theory/{key}" for key in keys])


def _law(figure: Figure, axis: str, key: str, arm: str, members: list[Any]) -> None:
    place, label = members[0].place, legend(arm, members)
    points = series.curve(members, key)
    figure.add(
        axis,
        {
            "type": "scatter", "x": [p.generation for p in points], "y": [p.mean for p in points], "mode": "markers",
            "marker": {"color": colour(place), "symbol": mark(place)[0], "size": spec.marker_size(points)},
            "hovertemplate": "measured at generation %{x}: %{y:.4g}",
        },
        label,
    )  # fmt: skip
    for prefix, _, dash, name in LAW_LINES:
        line = series.curve(members, prefix + key)
        if line:
            trace = {
                "type": "scatter", "x": [p.generation for p in line], "y": [p.mean for p in line], "mode": "lines",
                "line": {"color": colour(place), "width": 1.5, "dash": dash}, "showlegend": False,
                "hovertemplate": f"{name} at generation %{{x}}: %{{y:.4g}}",
            }  # fmt: skip
            figure.add(axis, trace, f"{arm}: {name}", label)


def _error(se: float) -> float:
    """Length of an error bar: twice the standard error, 0 if unknown."""
    return 0.0 if math.isnan(se) else 2 * se


def _gaps(figure: Figure, axis: str, arm: str, members: list[Any], gaps: list[Any]) -> None:
    place = members[0].place
    errors = [_error(se) for *_, se in gaps]
    trace = {
        "type": "scatter", "x": [g for g, *_ in gaps], "y": [m - law for _, _, m, law, _ in gaps],
        "mode": "lines+markers", "line": {"color": colour(place), "width": 1},
        "marker": {"color": colour(place), "symbol": mark(place)[0], "size": spec.marker_size(gaps) - 2},
        "error_y": {"type": "data", "array": errors, "thickness": 1, "width": 2, "color": colour(place)},
        "showlegend": False, "hovertemplate": "generation %{x}: %{y:+.4f} (bars: 2 standard errors)",
    }  # fmt: skip
    figure.add(axis, trace, f"{arm}: difference", legend(arm, members))


def chooser(chains: list[Any]) -> dict[str, Any]:
    """Chart of any one metric, those of plugins first: an empty chart and the data that page.js fills in: `looks` of the curves
    by name, and in `shown` the title, axis, description and curves of each of `keys`."""
    keys = sorted(set().union(*map(series.keys_of, chains)), key=lambda key: (not key.startswith("plugin/"), key))
    looks, shown, empty = {}, [], Figure()
    empty.panel("", _length(chains))
    for key in keys:
        figure = _curves(chains, {key: key}) or {}
        layout, curves = figure["layout"], {}
        for curve in figure["data"]:
            curves[curve["name"]] = [curve.pop("x"), curve.pop("y")]
            looks[curve["name"]] = curve | {"customdata": None, "hovertemplate": "generation %{x}<br>%{y:.4~g}"}
        title, range_ = layout["annotations"][0]["text"], layout["yaxis"]["range"]
        shown.append({"title": title, "range": range_, "said": layout["meta"]["alt"], "curves": curves})
    chart = empty.done("", ([], []), [])
    return {"keys": keys, "shows": {"chart": chart, "looks": looks, "shown": shown}}


CHARTS: tuple[tuple[str, str, str, Callable[[list[Any]], Spec | None]], ...] = (
    (
        "likelihood",
        "The model on held-out real text",
        "How well each generation predicts real text that it was not trained on: lower perplexity and bits per byte are "
        "better, higher accuracy is better. Grey: the control, trained on fresh real text; a change that it shares is no collapse. "
        "Shaded: 95 % t-interval over the chains of an arm; very wide intervals are clipped.",
        likelihood,
    ),
    (
        "tails",
        "Rare words",
        "In context: the share of generation 0's rare words that the samples use between neighbours that real text knows, over "
        "that share in unseen real text. 1.0 equals unseen real text; copying training text can exceed it, and random "
        "words cannot reach it. Read it beside the triples (they fall where words are strung together), the mass of rare words, "
        "and the share of copied passages. Anywhere, for arms without the former: a word counts wherever it stands, so noise "
        "raises it. The light strip shows how far equal draws of real text scatter.",
        tails,
    ),
    (
        "frequency",
        "Which tokens get worse",
        "Change of the loss on held-out real text since generation 0; a row holds the tokens that occur so many times in the real "
        "training text, the rarest at the bottom. "
        f"Orange is worse, blue is better, on one scale for all arms. Rows with fewer than {series.LEAST_TOKENS} scored tokens "
        "stay empty: their mean is noise.",
        frequency,
    ),
    (
        "diversity",
        "Diversity of the samples",
        "The grey dashed line is real text at the same budget. Read each curve by its distance from that line: both a fall and "
        "a rise away from it are losses, unless the grey control shares them.",
        diversity,
    ),
    (
        "answers",
        "Answers to the problems of a task",
        "Gold is the exact checker. A hack is the one wrong answer that a careless judge accepts. Coverage is the share of "
        "problems with a correct answer among all that were written: where it falls while correct answers rise, the model "
        f"repeats itself.{SHADED}",
        answers,
    ),
    (
        "accepted",
        "What the judges accept, beside what is correct",
        "Of each generation's own samples the share that the judges accept, that the exact checker finds correct (gold), and of "
        f"hacks. Where acceptance rises and gold does not, the model learns to please the judges.{SHADED}",
        accepted,
    ),
    (
        "fan",
        "pass@k, generation by generation",
        "The chance that one of k answers to a problem is correct, by k: a curve per generation, darker for newer ones, "
        "generation 0 dashed. Curves that cross show a model that is right more often at the first try and solves fewer "
        f"problems. The first and the last generation have their intervals.{SHADED}",
        fan,
    ),
    (
        "difficulty",
        "Correct answers by difficulty",
        "Share of correct answers (gold) to the problems of each difficulty, all on one scale: carries of a sum, or how rare a "
        "person is among the facts (0 head, 2 tail). The mean over all problems can hide a fall that begins with the hard ones."
        + SHADED,
        difficulty,
    ),
    (
        "judges",
        "What the judges let through",
        "Against the exact checker, on each generation's own samples and, for J, on an independent sample that nothing was chosen "
        f"from. Errors depend on what is written: rates that were measured once need not hold later.{SHADED}",
        judges,
    ),
    (
        "distribution",
        "How surprising the samples are to generation 0",
        "Each ridge is one generation: the distribution of its samples' mean losses under generation 0's model. On the left is "
        "text that generation 0 finds easy, in the right tail text that it finds unlikely; the grey ridge is real text. Of many "
        "generations, eight are drawn, evenly spaced.",
        distribution,
    ),
    (
        "theory",
        "Beside exact theory",
        "Marks: measured. Lines: the law of this very pipeline for a learner that matches densities exactly, given the text "
        "that was actually mixed. On natural text the survival law assumes exact memorisation; networks generalise, so "
        "expect them to start below it and to fall more slowly. Dotted: the effect of temperature and truncation alone, "
        "without noise. Grey: the control, whose law is that of real text alone. Below: the difference, with twice its "
        "standard error.",
        theory,
    ),
    (
        "ledger",
        "What the models were trained on",
        "Tokens shown to the optimiser, by source: real text dark, prompts hatched, model-written text grey, newer text "
        "lighter. Mean over the chains of an arm. Striped: real text that replaces samples in a control.",
        ledger,
    ),
)

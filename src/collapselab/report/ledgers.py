"""Chart of the tokens that models were trained on, by source."""

from __future__ import annotations

from typing import Any

from collapselab.mixing.sources import PROMPTS, REAL, in_place_of, name_of, written_by
from collapselab.report import series
from collapselab.report.colours import INK, NEUTRAL, PROMPT
from collapselab.report.overlay import by_arm
from collapselab.report.spec import Figure, Spec, finite

MOST_SOURCES = 12  # sources of a ledger that a legend lists one by one
SOURCES = {name_of(REAL): "real text", PROMPTS["real"]: "prompts from real text",
           PROMPTS["previous"]: "prompts from samples", PROMPTS["separator"]: "separators as prompts"}  # fmt: skip
CONTROLLED = "control: real text in the place of samples"
HATCHES = {PROMPTS["real"]: "/", PROMPTS["previous"]: "x", PROMPTS["separator"]: "."}  # of plotly


def ledger(chains: list[Any]) -> Spec | None:
    """Draw stacked bars per arm: tokens shown in training, by source."""
    by_name = {arm: series.ledger(members) for arm, members in by_arm(chains).items()}
    sources = max((sources for sources, _ in by_name.values()), key=len)
    if not sources:
        return None
    newest = max((written_by(name) or 0 for names, _ in by_name.values() for name in names), default=0)
    figure = Figure(panel_height=220)
    shares, rows = [], []
    for arm, (names, shown) in by_name.items():
        (axis,) = figure.panel(arm, shown.shape[1])
        figure.axes[f"xaxis{axis}"] |= {"range": [-0.6, shown.shape[1] - 0.4], "showgrid": False}
        figure.axes[f"yaxis{axis}"] |= {"tickformat": "~s"}
        for source, heights in zip(names, shown, strict=True):
            words, writer = _words(source), written_by(source)
            trace = {
                "type": "bar", "x": list(range(shown.shape[1])), "y": finite(heights),
                "marker": _filled(source, newest), "meta": source,
                "hovertemplate": f"{words}<br>generation %{{x}}: %{{y:,.0f}} tokens",
            }  # fmt: skip
            named = len(sources) <= MOST_SOURCES or writer in (None, 0, newest)
            figure.add(axis, trace if named else trace | {"showlegend": False}, words)
            rows.append([arm, words, *(f"{h:,.0f}" for h in heights)])
        total = shown[:, -1].sum()
        real = shown[[i for i, s in enumerate(names) if s == name_of(REAL)], -1].sum()
        controlled = shown[[i for i, s in enumerate(names) if in_place_of(s) is not None], -1].sum()
        shares.append(f"arm {arm}, generation {shown.shape[1] - 1}: {real / total if total else 0:.1%} of {total:,.0f}")
        shares[-1] += f", and {controlled / total:.1%} in the place of samples" if controlled else ""
    columns = ["arm", "source", *(f"generation {g}" for g in range(max(len(chain.rows) for chain in chains)))]
    rows = [row + ["–"] * (len(columns) - len(row)) for row in rows]
    alt = "Share of real text in the tokens shown in training: " + "; ".join(shares) + "."
    return figure.done(alt, (columns, rows), [], barmode="stack", bargap=0.25)


def _words(source: str) -> str:
    """Name of a source in a legend."""
    if in_place_of(source) is not None:
        return CONTROLLED
    return SOURCES.get(source) or f"generation {written_by(source)}"


def _filled(source: str, newest: int) -> dict[str, Any]:
    """Fill of a source, unlike any arm's: real text dark, a control's real text striped, prompts hatched, samples grey, newer
    ones lighter."""
    line = {"width": 0.5, "color": "#fff"}
    if source in HATCHES:
        pattern = {"shape": HATCHES[source], "fgcolor": PROMPT, "bgcolor": "rgba(0,0,0,0)", "size": 6, "solidity": 0.4}
        return {"color": PROMPT, "pattern": pattern, "line": line | {"color": PROMPT}}
    if in_place_of(source) is not None:
        pattern = {"shape": "|", "fgcolor": NEUTRAL, "bgcolor": "rgba(0,0,0,0)", "size": 6, "solidity": 0.6}
        return {"color": NEUTRAL, "pattern": pattern, "line": line | {"color": NEUTRAL}}
    writer = written_by(source)
    if writer is None:
        return {"color": INK, "line": line}
    level = 102 + round(45 * writer / max(1, newest))
    return {"color": f"rgb({level},{level},{level})", "line": line}

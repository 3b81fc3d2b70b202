"""The curves of a report, by matplotlib: each function takes the chains and returns a PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from collapselab.metrics.intervals import mean_interval
from collapselab.report.overlay import TITLES, by_arm, by_generation, overlaid, residuals

# Okabe & Ito (2008): told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LEAST_TOKENS = 20  # a mean over fewer scored tokens is noise and is not drawn
BUCKET_ORDER = ("0", "1", "2-5", "6-50", "51-500", ">500")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _axes(panels: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.6 * panels, 3.4), layout="constrained")
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
    for index, (arm, members) in enumerate(by_arm(chains).items()):
        points = {g: mean_interval(values) for g, values in by_generation(members, key).items()}
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(points.keys(), [p[0] for p in points.values()], "o-", ms=4, color=colour, label=_label(arm, members))
        lows, highs = [p[1] for p in points.values()], [p[2] for p in points.values()]
        axis.fill_between(list(points), lows, highs, color=colour, alpha=0.2, linewidth=0)
    values = [c.reference["metrics"][key] for c in chains if key in c.reference["metrics"]]
    if values:
        axis.axhline(
            sum(values) / len(values), color="0.4", linestyle="--", linewidth=1, label="real text, same budget"
        )
    axis.set_title(title, fontsize=10)
    if "coverage" in key:
        axis.set_ylim(bottom=0)


def _panels(chains: list[Any], titles: dict[str, str]) -> bytes:
    """One curve per chain in a panel for each key of metrics.jsonl."""
    figure, axes = _axes(len(titles))
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        _curve(axis, chains, key, title)
    axes[-1].legend(fontsize=7, frameon=False)
    return _png(figure)


def likelihood(chains: list[Any]) -> bytes:
    return _panels(
        chains,
        {
            "real/perplexity": "perplexity on held-out real text",
            "real/bits_per_byte": "bits per byte",
            "real/accuracy": "next-token accuracy",
        },
    )


def diversity(chains: list[Any]) -> bytes:
    return _panels(
        chains,
        {
            "diversity/words/distinct_2": "distinct-2 (words)",
            "diversity/tokens/diversity": "diversity (tokens)",
            "diversity/words/ngram_entropy_1_miller_madow": "word entropy (nats)",
        },
    )


def tails(chains: list[Any]) -> bytes:
    seen = {1: "once", 5: "5 times or less", 20: "20 times or less"}
    return _panels(chains, {f"tails/words/coverage_{k}_normalised": f"words seen {often}" for k, often in seen.items()})


def _first_of_each_arm(chains: list[Any]) -> list[Any]:
    """For figures of one chain each, at most six side by side."""
    return [members[0] for members in by_arm(chains).values()][:6]


def frequency(chains: list[Any]) -> bytes:
    shown = _first_of_each_arm(chains)
    figure, axes = _axes(len(shown))
    for axis, chain in zip(axes, shown, strict=True):
        tokens = chain.scored
        keys = {b: f"real/nll_by_frequency/{b}" for b in BUCKET_ORDER if tokens.get(b, 0) >= LEAST_TOKENS}
        first = chain.rows[0]["metrics"]
        present = [b for b, key in keys.items() if key in first]  # left out where a loss is infinite
        for index, bucket in enumerate(present):
            key = keys[bucket]
            points = [(r["generation"], r["metrics"][key] - first[key]) for r in chain.rows if key in r["metrics"]]
            label = f"seen {bucket} ({tokens[bucket]:,.0f} scored)"
            axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[index], label=label)
        axis.set_title(f"rise of the loss by token frequency (nats)\n{chain.name}", fontsize=10)
        if present:
            axis.legend(fontsize=7, frameon=False)
    return _png(figure)


def _source_colour(source: str, generations: int) -> Any:
    """Real text blue, prompts orange, written text the lighter the newer."""
    if not source.startswith("generation_"):
        return COLOURS[0] if source == "real" else COLOURS[4]
    return matplotlib.colormaps["Greys"](0.95 - 0.65 * int(source.removeprefix("generation_")) / max(1, generations))


def ledger(chains: list[Any]) -> bytes:
    shown = _first_of_each_arm(chains)
    figure, axes = _axes(len(shown))
    for axis, chain in zip(axes, shown, strict=True):
        ledgers = chain.ledgers
        sources = sorted(
            {s for one in ledgers for s in one}, key=lambda s: (s != "real", not s.startswith("prompt"), len(s), s)
        )
        bottom = [0.0] * len(ledgers)
        for source in sources:
            heights = [one.get(source, {"shown": 0})["shown"] for one in ledgers]
            axis.bar(
                [row["generation"] for row in chain.rows], heights, bottom=bottom,
                color=_source_colour(source, len(ledgers)), label=source.replace("_", " "),
            )  # fmt: skip
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        axis.set_title(f"tokens shown in training, by source\n{chain.name}", fontsize=10)
        if len(sources) <= 12:
            axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return _png(figure)


def theory(chains: list[Any]) -> bytes | None:
    """Above, what was measured and what the law expects; below, the difference with twice its standard error."""
    keys = overlaid(chains)
    if not keys:
        return None
    figure = Figure(figsize=(4.6 * len(keys), 5.6), layout="constrained")
    axes = figure.subplots(2, len(keys), squeeze=False, sharex=True, height_ratios=(3, 2))
    for above, below, key in zip(*axes, keys, strict=True):
        for index, (arm, members) in enumerate(by_arm(chains).items()):
            colour = COLOURS[index % len(COLOURS)]
            measured = {g: values.mean() for g, values in by_generation(members, key).items()}
            above.plot(measured.keys(), measured.values(), "o", ms=4, color=colour, label=f"{arm}: measured")
            for prefix, style, name in (("theory/", "-", "law (noise)"), ("theory/bias/", ":", "bias alone")):
                line = {g: values.mean() for g, values in by_generation(members, prefix + key).items()}
                if line:
                    above.plot(line.keys(), line.values(), style, color=colour, linewidth=1.5, label=f"{arm}: {name}")
            gaps = residuals(members, key)
            if gaps:
                bars = [0.0 if math.isnan(se) else 2 * se for *_, se in gaps]
                below.errorbar(
                    [g for g, *_ in gaps], [m - e for _, _, m, e, _ in gaps], bars, fmt="o-", ms=3, color=colour, lw=1
                )
        if not any(residuals(members, key) for members in by_arm(chains).values()):
            below.set_visible(False)
            above.tick_params(labelbottom=True)
        above.set_title(TITLES[key], fontsize=10)
        below.axhline(0, color="0.4", linewidth=1)
        below.set_ylabel("measured − law (± 2 s.e.)", fontsize=8)
        below.set_xlabel("generation")
        for axis in (above, below):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.get_major_locator().set_params(integer=True)
    labelled = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labelled.values(), labelled, fontsize=7, frameon=False, loc="outside right upper")
    return _png(figure)


FIGURES: tuple[tuple[str, str, str, Callable[[list[Any]], bytes | None]], ...] = (
    (
        "likelihood",
        "The model on held-out real text",
        "How well each generation predicts real text that it was not trained on.",
        likelihood,
    ),
    (
        "tails",
        "Rare words",
        "Share of generation 0's rare words that are still written, over that share in as much fresh real text: "
        "1 is as good as new real text.",
        tails,
    ),
    (
        "diversity",
        "Diversity of the samples",
        "Beside real text at the same budget: both a fall and a rise away from it are a loss.",
        diversity,
    ),
    (
        "theory",
        "Beside exact theory",
        "Lines: what the law of this very pipeline expects of a learner that matches densities exactly, with the text that "
        "was really mixed. On natural text a network does not memorise what it saw once: it starts below the survival law of a "
        "learner that does, and falls more slowly. Dotted: what temperature and truncation alone would do, without noise.",
        theory,
    ),
    (
        "frequency",
        "Which tokens get worse",
        "Change of the loss since generation 0, by how often a token occurs in the real training text.",
        frequency,
    ),
    ("ledger", "What the model was trained on", "Tokens shown to the optimiser, by source.", ledger),
)

"""What the curves of a report are drawn from, for the page and for the PNGs alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from collapselab.metrics.intervals import mean_interval
from collapselab.metrics.likelihood import BUCKETS, HISTOGRAM_STEP
from collapselab.report.overlay import by_generation

LIKELIHOOD = {
    "real/perplexity": "perplexity on held-out real text",
    "real/bits_per_byte": "bits per byte",
    "real/accuracy": "next-token accuracy",
}
TAILS = {
    "tails/words/coverage_1_normalised": "words seen once",
    "tails/words/coverage_5_normalised": "words seen 5 times or less",
    "tails/words/coverage_20_normalised": "words seen 20 times or less",
}
DIVERSITY = {
    "diversity/words/distinct_2": "distinct-2 (words)",
    "diversity/tokens/diversity": "diversity (tokens)",
    "diversity/words/ngram_entropy_1_miller_madow": "word entropy (nats)",
}
LEAST_TOKENS = 20  # a mean over fewer scored tokens is noise and is not drawn


class Point(NamedTuple):
    """An arm at a generation: its mean over chains, with the ends of the 95 % t-interval (nan for a single chain)."""

    generation: int
    chains: int
    mean: float
    low: float
    high: float


def curve(members: list[Any], key: str) -> list[Point]:
    """The course of a metric over the chains of one arm; empty where none of them has it."""
    found = by_generation(members, key)
    return [Point(g, len(values), *mean_interval(values)) for g, values in found.items()]


SHARES = ("accuracy", "distinct", "/diversity", "impossible")  # in the names of metrics between 0 and 1


def possible(key: str) -> tuple[float, float]:
    """The values that a metric can have. A t-interval of two chains easily reaches beyond them."""
    if key == "real/perplexity":
        return 1.0, math.inf
    return 0.0, 1.0 if any(part in key for part in SHARES) else math.inf


def extent(
    curves: Iterable[list[Point]], level: float | None, within: tuple[float, float], *, from_zero: bool
) -> tuple[float, float]:
    """(low, high) of an axis: the means, real text's value, and of the intervals what is possible and lies no further from
    the means than these are apart, so that the interval of two chains does not flatten the curves.

    Args:
        curves: of the arms, one at least and none empty.
        within: the values that are possible.
    """
    points = [point for curve in curves for point in curve]
    means = [p.mean for p in points] + ([] if level is None else [level])
    apart = max(means) - min(means) or 0.1 * abs(means[0]) or 1.0
    ends = [end for p in points for end in (p.low, p.high) if not math.isnan(end)]
    low = max(min(means + ends), within[0], min(means) - apart)
    high = min(max(means + ends), within[1], max(means) + apart)
    low, high = min([low, *means]), max([high, *means])  # a mean may lie beyond what is possible in a stranger's file
    if from_zero:
        low = min(low, 0.0)
    edge = 0.05 * (high - low or apart)
    return low if from_zero else low - edge, high + edge


def present(chains: list[Any], titles: dict[str, str]) -> dict[str, str]:
    """The metrics among those named that some chain has."""
    has = {key for chain in chains for row in chain.rows for key in row["metrics"]}
    return {key: title for key, title in titles.items() if key in has}


def real_value(chains: list[Any], key: str) -> float | None:
    """What fresh real text scores at the same budget, mean over chains; None where it was not scored."""
    values = [c.reference["metrics"][key] for c in chains if key in c.reference["metrics"]]
    return sum(values) / len(values) if values else None


class Frequency(NamedTuple):
    """An arm's loss by frequency bucket; `loss` and `change` are (buckets, generations), nan where there is none."""

    buckets: list[str]
    scored: list[float]
    generations: list[int]
    loss: np.ndarray
    change: np.ndarray


def frequency(members: list[Any]) -> Frequency | None:
    """Mean loss over the chains of one arm by how often a token occurs in the real training text, in nats, and its change
    since the same chain's generation 0. Buckets with fewer than 20 scored tokens are left out; None where all are."""
    scored = {name: min(chain.scored.get(name, 0.0) for chain in members) for _, name in BUCKETS}
    last = max(len(chain.rows) for chain in members)
    out: dict[str, tuple[list[float], list[float]]] = {}
    for name, tokens in scored.items():
        key = f"real/nll_by_frequency/{name}"
        having = [c for c in members if key in c.rows[0]["metrics"]]  # left out where a loss is infinite
        if tokens < LEAST_TOKENS or not having:
            continue
        losses, changes = [], []
        for g in range(last):
            here = [c for c in having if g < len(c.rows) and key in c.rows[g]["metrics"]]
            at_g = [c.rows[g]["metrics"][key] for c in here]
            at_0 = [c.rows[0]["metrics"][key] for c in here]
            losses.append(sum(at_g) / len(here) if here else math.nan)
            changes.append((sum(at_g) - sum(at_0)) / len(here) if here else math.nan)
        out[name] = losses, changes
    if not out:
        return None
    loss, change = (np.array([pair[i] for pair in out.values()]) for i in (0, 1))
    return Frequency(list(out), [scored[name] for name in out], list(range(last)), loss, change)


def distribution(members: list[Any]) -> dict[int, np.ndarray]:
    """{generation: share of the samples per bin of 0.25 nats} of an arm's chains together; none where old scores lack it."""
    found: dict[int, np.ndarray] = {}
    for chain in members:
        for g, histogram in enumerate(chain.histograms):
            if histogram:
                found[g] = _added(found.get(g), np.array(histogram, float))
    return {g: counts / counts.sum() for g, counts in sorted(found.items()) if counts.sum()}


def real_distribution(chains: list[Any]) -> np.ndarray | None:
    """The same of real text under generation 0's model."""
    total = None
    for chain in chains:
        if chain.reference["histogram"]:
            total = _added(total, np.array(chain.reference["histogram"], float))
    return None if total is None or not total.sum() else total / total.sum()


def _added(total: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    if total is None:
        return counts
    wide = np.zeros(max(len(total), len(counts)))
    wide[: len(total)] += total
    wide[: len(counts)] += counts
    return wide


def bin_ends(bins: int) -> np.ndarray:
    """(bins + 1,) nats; the last bin is open and is drawn as wide as the others."""
    return np.arange(bins + 1) * HISTOGRAM_STEP


def evenly(values: list[int], most: int) -> list[int]:
    """At most so many of the values, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def ledger(members: list[Any]) -> tuple[list[str], np.ndarray]:
    """(sources, tokens shown): mean over the chains of one arm, (sources, generations). Real text first, then prompts, then
    what models wrote, the oldest first."""
    sources = sorted(
        {s for chain in members for one in chain.ledgers for s in one},
        key=lambda s: (s != "real", not s.startswith("prompt"), len(s), s),
    )
    last = max(len(chain.ledgers) for chain in members)
    shown = np.zeros((len(sources), last))
    for g in range(last):
        here = [chain.ledgers[g] for chain in members if g < len(chain.ledgers)]
        for i, source in enumerate(sources):
            shown[i, g] = sum(one.get(source, {"shown": 0})["shown"] for one in here) / len(here)
    return sources, shown

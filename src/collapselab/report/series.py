"""Data of a report's curves, for the page and the PNGs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Set
from typing import Any, NamedTuple

import numpy as np

from collapselab.metrics import HEADLINE, SCORES
from collapselab.metrics.intervals import mean_interval
from collapselab.metrics.likelihood import BUCKETS
from collapselab.mixing.sources import reading_order
from collapselab.report.overlay import by_generation

LIKELIHOOD = {
    "real/perplexity": "perplexity on held-out real text",
    "real/bits_per_byte": "bits per byte",
    "real/accuracy": "next-token accuracy",
}
TIMES = {5: "seen 5 times or less", 1: "seen once", 20: "seen 20 times or less"}
# Coverage in context of words, or of tokens for text without white space, and the metrics to read beside it.
IN_CONTEXT = {
    unit: {
        f"tails/{unit}/coverage_in_context_{k}_normalised": f"{unit} {times}, in context" for k, times in TIMES.items()
    }
    for unit in ("words", "tokens")
}
COMPANIONS = {
    unit: {
        f"tails/{unit}/known_triples_normalised": f"triples of {unit} that real text knows",
        f"tails/{unit}/tail_mass_5": f"mass of {unit} seen 5 times or less",
        "diversity/overlap_50": "passages of 50 tokens copied from training text",
    }
    for unit in ("words", "tokens")
}
ANYWHERE = {f"tails/words/coverage_{k}_normalised": f"words {times}, anywhere" for k, times in TIMES.items()}
ANY_TAIL = "tails/words/coverage_5_normalised"
TAIL_HEADLINES = (*(next(iter(of_unit)) for of_unit in IN_CONTEXT.values()), ANY_TAIL)
TAIL_NAMES = dict(zip(TAIL_HEADLINES, ("rare words", "rare tokens", "rare words anywhere"), strict=True))
DIVERSITY = {
    "diversity/words/distinct_2": "distinct-2 (words)",
    "diversity/tokens/diversity": "diversity (tokens)",
    "diversity/words/ngram_entropy_1_miller_madow": "word entropy (nats)",
}
ANSWERS = {
    "truth/task/correct": "correct answers (gold)",
    "truth/task/hack": "hacks",
    "task/coverage": "problems with a correct answer (coverage)",
}
PASS_AT = re.compile(r"task/pass_at_([1-9]\d{0,8})")
BY_DIFFICULTY = re.compile(r"task/accuracy/difficulty_(\d{1,9})(?:-\d{1,9})?")
JUDGES = {
    "judge/second/j": "J = TPR - FPR, independent sample",
    "judge/j": "J = TPR - FPR, the samples themselves",
    "judge/tpr": "correct sequences accepted (TPR)",
    "judge/fpr": "other sequences accepted (FPR)",
    "judge/accepted": "sequences accepted",
    "judge/accepted/wrong": "wrong answers accepted (no hacks)",
    "judge/accepted/hack": "hacks accepted",
    "judge/length_correlation": "correlation of score and length",
    "judge/abstained": "without a verdict",
    "judge/drawn": "sequences drawn for one that is kept",
    "judge/edited": "tokens drawn again",
}
# Least scored tokens of a drawn row of the heat map: below it, the standard error of its mean exceeds .1 nats.
LEAST_TOKENS = 200


def headline(chains: Iterable[Set[str]]) -> dict[str, str]:
    """Metrics to show first, by name, and the main scores of tasks and judges. Of the tails, each chain shows coverage in context,
    or plain coverage if it has no other.

    Args:
        chains: the metrics of each chain.
    """
    chains = list(chains)
    has = {key for keys in chains for key in keys}
    tails = {next((key for key in TAIL_HEADLINES if key in keys), None) for keys in chains}
    names: dict[str, str] = {}
    for name, key in HEADLINE.items():
        if key in TAIL_HEADLINES:
            names |= {title: tail for tail, title in TAIL_NAMES.items() if tail in tails}
        elif key in has and (tails - {None} or key not in COMPANIONS["words"]):
            names[name] = key
    return names | {name: key for name, key in SCORES.items() if key in has}


def keys_of(chain: Any) -> set[str]:
    """Metrics that some generation of a chain has."""
    return {key for row in chain.rows for key in row["metrics"]}


def tails(chains: list[Any]) -> dict[str, str]:
    """Metrics of rare words to show, with titles: for each chain coverage in context of words, else of tokens, with its
    companions; else plain coverage."""
    shown: dict[str, str] = {}
    for chain in chains:
        has = keys_of(chain)
        unit = next((unit for unit, titles in IN_CONTEXT.items() if has & titles.keys()), None)
        shown |= ANYWHERE if unit is None else IN_CONTEXT[unit] | COMPANIONS[unit]
    return present(chains, shown)


def difficulties(chains: list[Any]) -> dict[str, str]:
    """Metrics of the accuracy at each difficulty, in its order, with titles."""
    found = {key: match for chain in chains for key in keys_of(chain) if (match := BY_DIFFICULTY.fullmatch(key))}
    return {key: f"difficulty {key.rpartition('_')[2]}" for key in sorted(found, key=lambda key: int(found[key][1]))}


class Point(NamedTuple):
    """Mean of an arm at a generation, with the ends of its 95 % t-interval over chains. Of a single chain these are the ends of
    the interval within the generation (`intervals` of its row), nan if there is none."""

    generation: int
    chains: int
    mean: float
    low: float
    high: float


def curve(members: list[Any], key: str) -> list[Point]:
    """Course of a metric over the chains of one arm; empty if none has it."""
    points = [Point(g, len(values), *mean_interval(values)) for g, values in by_generation(members, key).items()]
    if len(members) > 1:
        return points
    within = {row["generation"]: row["intervals"][key] for row in members[0].rows if key in row.get("intervals", {})}
    return [Point(p.generation, 1, p.mean, *within.get(p.generation, (math.nan, math.nan))) for p in points]


SHARES = (
    "accuracy",
    "distinct",
    "/diversity",
    "impossible",
    "task/",
    "tpr",
    "fpr",
    "accepted",
    "abstained",
)  # in the names of metrics between 0 and 1


def possible(key: str) -> tuple[float, float]:
    """Range of a metric's possible values, which t-intervals of two chains easily exceed."""
    if key == "real/perplexity":
        return 1.0, math.inf
    if key.endswith(("/j", "task/gap", "length_correlation")):
        return -1.0, 1.0
    return 0.0, 1.0 if any(part in key for part in SHARES) else math.inf


def extent(
    curves: Iterable[list[Point]], level: Level | None, within: tuple[float, float], *, from_zero: bool
) -> tuple[float, float]:
    """(low, high) of an axis that shows the means, real text's value with its scatter, and most of the intervals.

    Intervals are cut to possible values, and to a distance from the means equal to their spread, so that the interval of two
    chains does not flatten the curves.

    Args:
        curves: of the arms, at least one and none empty.
        within: range of possible values.
    """
    points = [point for curve in curves for point in curve]
    means = [p.mean for p in points]
    means += [end for end in level or () if not math.isnan(end)]
    apart = max(means) - min(means) or 0.1 * abs(means[0]) or 1.0
    ends = [end for p in points for end in (p.low, p.high) if not math.isnan(end)]
    low = max(min(means + ends), within[0], min(means) - apart)
    high = min(max(means + ends), within[1], max(means) + apart)
    low, high = min([low, *means]), max([high, *means])  # in an untrusted file a mean may be impossible
    if from_zero:
        low = min(low, 0.0)
    edge = 0.05 * (high - low or apart)
    return low if from_zero else low - edge, high + edge


def present(chains: list[Any], titles: dict[str, str]) -> dict[str, str]:
    """Select the metrics that some chain has."""
    has = {key for chain in chains for row in chain.rows for key in row["metrics"]}
    return {key: title for key, title in titles.items() if key in has}


def real_value(chains: list[Any], key: str) -> float | None:
    """Score of fresh real text at the same budget, mean over chains; None if it was not scored."""
    values = [c.reference["metrics"][key] for c in chains if key in c.reference["metrics"]]
    return sum(values) / len(values) if values else None


class Level(NamedTuple):
    """Score of real text at the same budget, with the band of equal draws (nan if unknown)."""

    value: float
    low: float
    high: float


def real_level(chains: list[Any], key: str) -> Level | None:
    """Score and scatter of fresh real text at the same budget, means over chains; None if it was not scored."""
    value = real_value(chains, key)
    bands = [chain.reference["band"][key] for chain in chains if key in chain.reference["band"]]
    low, high = np.mean(bands, axis=0).tolist() if bands else (math.nan, math.nan)
    if value is None:
        return Level((low + high) / 2, low, high) if bands else None
    return Level(value, low, high)


class Frequency(NamedTuple):
    """Loss of an arm by frequency bucket. `loss`, `change` and `half` (half-width of the change's 95 % t-interval over chains)
    are (buckets, generations), nan if missing and in buckets with fewer than LEAST_TOKENS scored tokens."""

    buckets: list[str]
    scored: list[float]
    generations: list[int]
    loss: np.ndarray
    change: np.ndarray
    half: np.ndarray


def frequency(members: list[Any]) -> Frequency | None:
    """Mean loss in nats over the chains of an arm by the token's frequency in the real training text, and its change since
    generation 0. None if no bucket has enough scored tokens."""
    scored = {name: min(chain.scored.get(name, 0.0) for chain in members) for _, name in BUCKETS}
    last = max(len(chain.rows) for chain in members)
    out: dict[str, tuple[list[float], list[float], list[float]]] = {}
    for name, tokens in scored.items():
        key = f"real/nll_by_frequency/{name}"
        having = [c for c in members if key in c.rows[0]["metrics"]]  # an infinite loss is not recorded
        if not tokens or not having:
            continue
        losses, changes, halves = [], [], []
        for g in range(last):
            here = [c for c in having if g < len(c.rows) and key in c.rows[g]["metrics"]]
            at_g = [c.rows[g]["metrics"][key] for c in here]
            at_0 = [c.rows[0]["metrics"][key] for c in here]
            enough = here and tokens >= LEAST_TOKENS
            mean, low, _ = mean_interval(np.subtract(at_g, at_0)) if enough else (math.nan, math.nan, math.nan)
            losses.append(sum(at_g) / len(here) if enough else math.nan)
            changes.append(mean)
            halves.append(mean - low)
        out[name] = losses, changes, halves
    if all(scored[name] < LEAST_TOKENS for name in out):
        return None
    loss, change, half = (np.array([part[i] for part in out.values()]) for i in (0, 1, 2))
    return Frequency(list(out), [scored[name] for name in out], list(range(last)), loss, change, half)


def distribution(members: list[Any]) -> dict[int, np.ndarray]:
    """Return {generation: share of samples per bin of 0.25 nats} over an arm's chains, for scored generations."""
    totals: dict[int, np.ndarray] = {}
    for chain in members:
        for g, histogram in enumerate(chain.histograms):
            if histogram:
                totals[g] = _added(totals.get(g), np.array(histogram, float))
    return {g: counts / counts.sum() for g, counts in sorted(totals.items()) if counts.sum()}


def real_distribution(chains: list[Any]) -> np.ndarray | None:
    """Share of real text per bin of 0.25 nats under generation 0's model."""
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


def evenly(values: list[int], most: int) -> list[int]:
    """Choose at most `most` values, evenly spaced, including the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def ledger(members: list[Any]) -> tuple[list[str], np.ndarray]:
    """Return (sources, tokens shown (sources, generations)), means over the chains of an arm: real text first, then prompts,
    then model-written text, oldest first."""
    sources = sorted({s for chain in members for one in chain.ledgers for s in one}, key=reading_order)
    last = max(len(chain.ledgers) for chain in members)
    shown = np.zeros((len(sources), last))
    for g in range(last):
        here = [chain.ledgers[g] for chain in members if g < len(chain.ledgers)]
        for i, source in enumerate(sources):
            shown[i, g] = sum(one.get(source, {"shown": 0})["shown"] for one in here) / len(here)
    return sources, shown

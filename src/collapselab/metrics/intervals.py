"""Intervals over chains: the unit is the chain, never the generation or the token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t-interval for the mean of independent chains; nan ends for a single one.

    Args:
        values: (chains,) one value of each chain.
    """
    return mean_intervals([np.asarray(values).tolist()], level)[0]


def mean_intervals(samples: Sequence[Sequence[float]], level: float = 0.95) -> list[tuple[float, float, float]]:
    """`mean_interval` of each of many samples: a report has tens of thousands.

    Args:
        samples: one value of each chain in each of them; any number of chains. An empty one has (nan, nan, nan).
    """
    found = [(math.nan, math.nan, math.nan)] * len(samples)
    by_size: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        by_size.setdefault(len(sample), []).append(place)
    for size, places in by_size.items():
        if not size:
            continue
        values = np.array([samples[place] for place in places], np.float64)
        means = values.mean(axis=1)
        half = np.full(len(places), math.nan)
        if size > 1:
            half = _quantile(level, size - 1) * values.std(axis=1, ddof=1) / math.sqrt(size)
        intervals = zip(means.tolist(), (means - half).tolist(), (means + half).tolist(), strict=True)
        for place, interval in zip(places, intervals, strict=True):
            found[place] = interval
    return found


def draw_interval(draws: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of the interval in which one more draw of the same kind falls, by Student's distribution (the
    prediction interval); two draws at the least."""
    mean = float(np.mean(draws))
    half = _quantile(level, len(draws) - 1) * float(np.std(draws, ddof=1)) * math.sqrt(1 + 1 / len(draws))
    return mean, mean - half, mean + half


@lru_cache
def _quantile(level: float, freedom: int) -> float:
    """The t of a two-sided interval at this level, by Student's distribution."""
    from scipy.special import stdtrit  # scipy.stats takes most of a second more

    return float(stdtrit(freedom, (1 + level) / 2))


def differences(values: dict[int, float], baseline: dict[int, float]) -> list[float]:
    """An arm's value minus the baseline arm's, for each seed that both have, in the order of the seeds.

    Chains of one seed share generation 0 and every random number that they can, so their difference varies less than
    either of them.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def with_interval(mean: float, low: float) -> str:
    """`28.01 ± 0.12`: two digits of the half-width and as many of the mean; the mean alone where there is one chain."""
    if math.isnan(low) or mean - low <= 1e-12 * abs(mean):  # equal values but for rounding
        return np.format_float_positional(mean, precision=4, unique=False, fractional=False, trim="-")
    decimals = max(0, 1 - math.floor(math.log10(mean - low)))
    return f"{mean:.{decimals}f} ± {mean - low:.{decimals}f}"

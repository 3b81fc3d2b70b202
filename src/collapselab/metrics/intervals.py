"""Intervals over chains, never over generations or tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t-interval for the mean of independent chains, one value each; nan ends for one chain."""
    return mean_intervals([np.asarray(values).tolist()], level)[0]


def mean_intervals(samples: Sequence[Sequence[float]], level: float = 0.95) -> list[tuple[float, float, float]]:
    """`mean_interval` of each of many samples of any size; (nan, nan, nan) for an empty one. A report has tens of thousands."""
    out = [(math.nan, math.nan, math.nan)] * len(samples)
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
            out[place] = interval
    return out


def draw_interval(draws: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's prediction interval for one more draw of the same kind; needs two draws."""
    mean = float(np.mean(draws))
    half = _quantile(level, len(draws) - 1) * float(np.std(draws, ddof=1)) * math.sqrt(1 + 1 / len(draws))
    return mean, mean - half, mean + half


@lru_cache
def _quantile(level: float, freedom: int) -> float:
    """Return the t of a two-sided interval at this level."""
    from scipy.special import stdtrit  # importing scipy.stats takes most of a second

    return float(stdtrit(freedom, (1 + level) / 2))


def differences(values: dict[int, float], baseline: dict[int, float]) -> list[float]:
    """Return an arm's value minus the baseline arm's for each common seed, in the order of the seeds.

    Chains of one seed share generation 0 and random numbers, so their difference varies less than either of them.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def with_interval(mean: float, low: float) -> str:
    """Format as `28.01 ± 0.12`: two digits of the half-width, as many decimals of the mean; the mean alone for one chain."""
    if math.isnan(low) or mean - low <= 1e-12 * abs(mean):  # equal up to rounding
        return np.format_float_positional(mean, precision=4, unique=False, fractional=False, trim="-")
    decimals = max(0, 1 - math.floor(math.log10(mean - low)))
    return f"{mean:.{decimals}f} ± {mean - low:.{decimals}f}"

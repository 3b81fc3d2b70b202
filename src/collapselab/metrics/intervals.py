"""Intervals over independent units: chains, or prompts; never over generations or tokens."""

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


def interval_of_sums(total: float, squares: float, units: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of `mean_interval` from sums of independent units; nan ends for one unit.

    Args:
        total: sum of the units' values.
        squares: sum of their squared distances from the mean.
    """
    if units < 2:
        return math.nan, math.nan
    mean = total / units
    half = _quantile(level, int(units) - 1) * math.sqrt(squares / (units - 1) / units)
    return mean - half, mean + half


def share_interval(share: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of Wilson's interval for a share of independent trials (Wilson 1927), inside [0, 1].

    Args:
        trials: above 0; `effective_trials` gives fractions.
    """
    square = _normal(level) ** 2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = math.sqrt(square * (share * (1 - share) / trials + square / (4 * trials**2))) / (1 + square / trials)
    return max(0.0, min(share, middle - half)), min(
        1.0, max(share, middle + half)
    )  # the ends are 0 and 1 but for rounding


def effective_trials(share: float, variance: float, units: float, level: float = 0.95) -> float:
    """Independent trials whose share would vary as much, for `share_interval` (Korn and Graubard 1998): share (1 - share) /
    variance, times (z / t)^2 for the few units that the variance was estimated from.

    Where the units do not differ, each counts as one trial. nan for fewer than two units.

    Args:
        variance: of the share, estimated from its scatter between independent units (prompts).
    """
    if units < 2:
        return math.nan
    if variance <= 1e-14:  # equal up to rounding
        return units
    return share * (1 - share) / variance * (_normal(level) / _quantile(level, int(units) - 1)) ** 2


def difference_interval(
    first: tuple[float, float, float], second: tuple[float, float, float], correlation: float = 0.0
) -> tuple[float, float]:
    """(low, high) of the difference of two shares from their own intervals: Newcombe's (1998) method 10, which with Wilson's
    intervals keeps to the stated level also near 0 and 1.

    Args:
        first, second: (share, low, high) each.
        correlation: of the two estimates; 0 if they share no unit (Newcombe 1998, paired: his method 10 with phi).
    """
    p, below_p, above_p = first[0], first[0] - first[1], first[2] - first[0]
    q, below_q, above_q = second[0], second[0] - second[1], second[2] - second[0]
    down = below_p**2 - 2 * correlation * below_p * above_q + above_q**2
    up = above_p**2 - 2 * correlation * above_p * below_q + below_q**2
    return max(-1.0, p - q - math.sqrt(max(0.0, down))), min(1.0, p - q + math.sqrt(max(0.0, up)))


def correlation_interval(value: float, variance: float, units: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of a correlation: Student's interval of its Fisher transform. nan ends where it has no variance.

    Args:
        variance: of the correlation, estimated from independent units.
    """
    if units < 2 or not variance > 0 or abs(value) >= 1:
        return math.nan, math.nan
    half = _quantile(level, int(units) - 1) * math.sqrt(variance) / (1 - value**2)
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)


@lru_cache
def _normal(level: float) -> float:
    """Return the z of a two-sided interval at this level."""
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


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

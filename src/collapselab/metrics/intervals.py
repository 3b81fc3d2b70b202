"""Intervals over chains: the unit is the chain, never the generation or the token."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t-interval for the mean of independent chains; nan ends for a single one.

    Args:
        values: (chains,) one value of each chain.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(_quantile(level, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


@lru_cache
def _quantile(level: float, freedom: int) -> float:
    """Of Student's t; a report asks for the same ones tens of thousands of times."""
    from scipy.special import stdtrit  # scipy.stats takes most of a second more

    return float(stdtrit(freedom, (1 + level) / 2))


def paired_difference(
    values: dict[int, float], baseline: dict[int, float], level: float = 0.95
) -> tuple[int, float, float, float] | None:
    """(pairs, mean difference, low, high) of an arm and a baseline arm, paired by seed; None where no seed has both.

    Chains of one seed share generation 0 and every random number that they can, so their difference varies less than
    either of them.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    return len(seeds), *mean_interval(np.array([values[s] - baseline[s] for s in seeds]), level)


def with_interval(mean: float, low: float) -> str:
    """`28.01 ± 0.12`: two digits of the half-width and as many of the mean; the mean alone where there is one chain."""
    if math.isnan(low) or mean == low:
        return np.format_float_positional(mean, precision=4, unique=False, fractional=False, trim="-")
    decimals = max(0, 1 - math.floor(math.log10(mean - low)))
    return f"{mean:.{decimals}f} ± {mean - low:.{decimals}f}"

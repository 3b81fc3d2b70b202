"""Richness of a vocabulary: Good-Turing coverage, Chao1, Zipf's exponent."""

from __future__ import annotations

import numpy as np

ZIPF_RANKS = 1000  # at most: later ranks are ties of rare words, where the law does not hold
STEEPEST = 64.0  # largest exponent: a second rank with 2^-64 of a text


def richness_sums(counts: np.ndarray) -> dict[str, float]:
    """Types S, occurrences N, types seen once F1 and twice F2.

    Args:
        counts: (types,) occurrences; zeros are ignored.
    """
    return {
        "types": float((counts > 0).sum()),
        "occurrences": float(counts.sum()),
        "once": float((counts == 1).sum()),
        "twice": float((counts == 2).sum()),
    }


def richness_values(sums: dict[str, float]) -> dict[str, float]:
    """good_turing_coverage = 1 - F1 / N, the estimated mass of the seen types (Good 1953); chao1 = S + F1 (F1 - 1) / (2 (F2 +
    1)), the bias-corrected lower bound on the number of types (Chao 1984; Chao 2005)."""
    once, twice = sums["once"], sums["twice"]
    return {
        "good_turing_coverage": 1 - once / sums["occurrences"],
        "chao1": sums["types"] + once * (once - 1) / (2 * (twice + 1)),
    }


GAMMA_COUNTS = 10  # the rate law is fitted to types seen up to so often
LEAST_SEEN = 10  # types in a class of counts, below which its ratio is noise


def rate_law(counts: np.ndarray) -> tuple[float, float]:
    """Fit the law of type rates to the counts of a text, as (a, scale): given a count c >= 1, a type's rate per as much text
    has the Gamma law of shape c + a and this scale.

    With a Gamma prior the mean is (c + a) scale, and Good's (1953, eq. 2) estimate of it is (c + 1) n_{c+1} / n_c, n_c the
    number of types seen c times: the line through these for c = 1 .. 10, weighted by their precision. a lies above -1
    (Engen 1974): most rates are far below what a type seen once suggests. (0, 1) if the counts are too few.

    Args:
        counts: (types,) int64 occurrences; zeros are ignored.
    """
    few = counts[counts < GAMMA_COUNTS + 2]
    seen = np.bincount(few, minlength=GAMMA_COUNTS + 2).astype(np.float64)
    c = np.arange(1, GAMMA_COUNTS + 1)
    n, after = seen[c], seen[c + 1]
    enough = (n >= LEAST_SEEN) & (after >= LEAST_SEEN)
    if enough.sum() < 3:
        return 0.0, 1.0
    c, n, after = c[enough], n[enough], after[enough]
    again = (c + 1) * after / n
    scale, offset = np.polyfit(c, again, 1, w=1 / (again * np.sqrt(1 / n + 1 / after)))
    if scale <= 0:
        return 0.0, 1.0
    return float(max(offset / scale, -0.99)), float(scale)


def zipf_values(counts: np.ndarray) -> dict[str, float]:
    """zipf_exponent: maximum-likelihood s of p(rank) = rank^-s / (sum over r = 1 .. R of r^-s) for the R most frequent types,
    at which the expected log rank equals the text's (Clauset et al. 2009, for bounded ranks); zipf_ranks: R. Empty for fewer
    than two types.

    Args:
        counts: (types,) occurrences of each type, in any order.
    """
    from scipy.optimize import brentq

    top = np.sort(counts[counts > 0])[::-1][:ZIPF_RANKS].astype(np.float64)
    if len(top) < 2:
        return {}
    log_rank = np.log(np.arange(1, len(top) + 1))
    seen = float(top @ log_rank / top.sum())

    def excess(s: float) -> float:
        weight = np.exp(-s * log_rank)
        return float(weight @ log_rank / weight.sum()) - seen

    # Falling counts have s >= 0; -1 leaves room for rounding if all are equal.
    return {"zipf_exponent": float(brentq(excess, -1.0, STEEPEST, xtol=1e-12)), "zipf_ranks": float(len(top))}

"""How rich a vocabulary is: Good-Turing coverage, Chao1, Zipf's exponent."""

from __future__ import annotations

import numpy as np

ZIPF_RANKS = 1000  # at most: beyond them a text's ranks are ties of rare words, where the law no longer holds
STEEPEST = 64.0  # 2^-64 of a text on its second rank: no text is so long


def richness_sums(counts: np.ndarray) -> dict[str, float]:
    """Types S, occurrences N, types seen once F1 and twice F2.

    Args:
        counts: (types,) occurrences; zeros are no types.
    """
    return {
        "types": float((counts > 0).sum()),
        "occurrences": float(counts.sum()),
        "once": float((counts == 1).sum()),
        "twice": float((counts == 2).sum()),
    }


def richness_values(sums: dict[str, float]) -> dict[str, float]:
    """good_turing_coverage = 1 - F1 / N, the estimated mass of the types that were seen (Good 1953); chao1 = S + F1
    (F1 - 1) / (2 (F2 + 1)), the bias-corrected lower bound on the types there are (Chao 1984; Chao 2005)."""
    once, twice = sums["once"], sums["twice"]
    return {
        "good_turing_coverage": 1 - once / sums["occurrences"],
        "chao1": sums["types"] + once * (once - 1) / (2 * (twice + 1)),
    }


GAMMA_COUNTS = 10  # types seen up to so often say how rates are spread
LEAST_SEEN = 10  # types in a class of counts, below which its ratio is noise


def rate_law(counts: np.ndarray) -> tuple[float, float]:
    """(a, scale): the law of the rates of types, from their counts in a text. Given a count c >= 1, the rate of a type per
    as much text has the Gamma law of shape c + a and this scale.

    With a Gamma prior the mean is (c + a) scale, and Good's (1953, eq. 2) estimate of it is (c + 1) n_{c+1} / n_c, n_c the
    number of types seen c times: the line through these for c = 1 .. 10, weighted by their precision. a lies above -1
    (Engen 1974): most rates are far below what a type seen once suggests. (0, 1) where the counts say too little.

    Args:
        counts: (types,) int64 occurrences; types that were not seen say nothing.
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
    """zipf_exponent: the s that makes p(rank) = rank^-s / (sum over r = 1 .. R of r^-s) most likely for the R most
    frequent types, where the expected log rank is the text's own (Clauset et al. 2009, for bounded ranks); zipf_ranks: R.

    Fewer than two types have no exponent.

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

    # Falling counts lie at s >= 0; -1 leaves room for rounding where all are equal.
    return {"zipf_exponent": float(brentq(excess, -1.0, STEEPEST, xtol=1e-12)), "zipf_ranks": float(len(top))}

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


def expected_again(counts: np.ndarray) -> np.ndarray:
    """How often a type with count c is expected in as much fresh text, for c = 0 .. the largest count: (c + 1) n_{c+1} /
    n_c with n_c the number of types seen c times (Good 1953, eq. 2), where both are at least 10; else c itself.

    Args:
        counts: (types,) int64 occurrences. What is 0 says nothing of the types that were never seen: it stays 0.

    Returns:
        (largest count + 1,) float64.
    """
    seen = np.bincount(counts)
    expected = np.arange(len(seen), dtype=np.float64)
    enough = np.flatnonzero((seen[1:-1] >= 10) & (seen[2:] >= 10)) + 1
    expected[enough] = (enough + 1) * seen[enough + 1] / seen[enough]
    return expected


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

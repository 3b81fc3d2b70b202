"""Survival of a rare type: the Poisson (branching) limit of its count, by regime.

The copies of a rare type are written independently: each of the c copies in a training set of N tokens is the parent of
Poisson(1) copies in N tokens written by an exact learner of it. Their number is a Galton-Watson process, so all follows from
one generating function per generation, iterated backwards (Fisher 1930 for the survival of a mutant gene).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np


def lost(steps: int) -> np.ndarray:
    """Probability q_1 .. q_steps that the descendants of one copy are gone after t rounds of replacement without real text:
    q_0 = 0, q_{t+1} = exp(q_t - 1). A type with count c survives t rounds with probability 1 - q_t^c; q_t tends to 1 - 2/t."""
    q, out = 0.0, []
    for _ in range(steps):
        q = math.exp(q - 1)
        out.append(q)
    return np.asarray(out)


def half_lost(documents: float, steps: int) -> np.ndarray:
    """Probability p at which half of the categories are gone from the training set of step t, t = 1 .. steps: N p = ln 2 /
    (1 - q_{t-1}). Rule of thumb: p = 0.4 t / N (N p / t is .49 at t = 3, .40 at t = 10, .36 at 100, ln(2)/2 in the limit)."""
    return np.asarray(np.log(2) / (documents * (1 - np.append(0.0, lost(steps - 1)))))


def survival(
    counts: np.ndarray,
    expected: np.ndarray,
    regime: str,
    reuse: bool,
    shares: Sequence[float],
    ratio: float = 1.0,
    shape: np.ndarray | None = None,
) -> np.ndarray:
    """P(present) of each type in a text of ratio x N tokens written by generation g = len(shares) - 1, an exact learner.

    Args:
        counts: (types,) occurrences c in generation 0's training text of N tokens.
        expected: (types,) mean occurrences lambda in N tokens of fresh real text; used by `replace` with fresh text alone.
        regime: `replace`, `accumulate` or `accumulate_subsample`; each generation trains on N tokens (accumulate: N more
            than the one before) and writes N.
        reuse: `replace` only: later real text repeats the first alpha N tokens of generation 0's.
        shares: alpha_0 = 1, alpha_1, ..., alpha_g; the accumulate regimes use only their number.
        ratio: length of the text over N.
        shape: (types,) of lambda's Gamma law with mean `expected`; None if lambda is known.

    With s_0 = exp(-ratio), the probability that one copy in generation g's training set leaves no trace in the text:

    replace: a copy in the set of generation k - 1 has Poisson(1 - alpha_k) copies in that of k, so going back
    s <- exp((1 - alpha_k)(s - 1)). Absent: s_g^c, times exp(alpha_k lambda (s - 1)) for the Poisson(alpha_k lambda) copies
    that generation k's fresh text brings (s before that step); over a Gamma law of lambda the factors' product
    exp(-B lambda) has the mean (1 + B expected / shape)^-shape. Without real text and with ratio 1 it is q_{g+1}^c.

    Reused text: the place of a copy in generation 0's text is uniform, u, and every generation with alpha_k > u reads it again.
    So a copy leaves no trace with probability s_g x mean over u of prod_{k: alpha_k > u} s_(k), to the power c. (Not
    s^(alpha c): the same copies return each time.)

    accumulate: the pool of generation k, N (k + 1) tokens, adds Poisson(C / (k + 1)) to a count C. With theta = -ln s per
    copy in the pool: theta_g = ratio / (g + 1), then back theta <- theta + (1 - e^-theta)/(k + 1); absent: e^(-c theta_0).

    accumulate_subsample: a copy in the pool is drawn into the set with f = 1/(k + 1), and one in the set adds Poisson(1):
    theta_g = -ln(1 - f (1 - s_0)), then back theta <- theta - ln(1 - f (1 - exp(-(1 - e^-theta)))).

    Returns float64 (types,). Raises ValueError for an unknown regime.
    """
    c = np.asarray(counts, float)
    if regime == "accumulate":
        return np.asarray(-np.expm1(-c * _pooled(len(shares), ratio)))
    if regime == "accumulate_subsample":
        return np.asarray(-np.expm1(-c * _subsampled(len(shares), ratio)))
    if regime != "replace":
        raise ValueError(f"regime {regime!r}: must be replace, accumulate or accumulate_subsample")
    s, traces, brought = math.exp(-ratio), [], 0.0
    for share in reversed(shares[1:]):
        traces.append((share, s))
        brought += share * (1 - s)
        s = math.exp((1 - share) * (s - 1))
    if not reuse:
        mean = brought * np.asarray(expected, float)
        nothing = np.exp(-mean) if shape is None else (1 + mean / shape) ** -np.asarray(shape, float)
        return np.asarray(1 - s**c * nothing)
    return np.asarray(1 - (s * _read_again(traces)) ** c)


def _read_again(traces: list[tuple[float, float]]) -> float:
    """Mean over u in [0, 1] of the product of the s whose share is above u; constant between two neighbouring shares."""
    edges = [0.0, *sorted({share for share, _ in traces}), 1.0]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        total += (high - low) * math.prod(s for share, s in traces if share >= high)
    return total


def _pooled(generations: int, ratio: float) -> float:
    theta = ratio / generations
    for k in range(generations - 2, -1, -1):
        theta -= math.expm1(-theta) / (k + 1)
    return theta


def _subsampled(generations: int, ratio: float) -> float:
    theta = _taken(generations, -math.expm1(-ratio))
    for k in range(generations - 2, -1, -1):
        theta += _taken(k + 1, -math.expm1(math.expm1(-theta)))
    return theta


def _taken(parts: int, trace: float) -> float:
    """-ln P(a copy in a pool of `parts` parts leaves no trace), if one in the set leaves one with probability `trace`."""
    return -math.log1p(-trace / parts) if trace < parts else math.inf

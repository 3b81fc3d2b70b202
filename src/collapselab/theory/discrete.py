"""Diversity of an exact learner on a finite set of categories: closed forms and recursions.

Setting: p* is the truth, p_t the model, q_t = alpha_t p* + (1 - alpha_t) p_t, and p_{t+1} is the empirical law of N draws
of q_t (a learner that fits frequencies exactly; N counts independent draws). H(p) = 1 - sum p^2 is Simpson's
diversity, r_t = E H(p_t) / H(p*), and m_t = E ||p_t - p*||^2 / H(p*) is the drift.

All follows from one fact. Two independent draws of p_t either descend from the same real document, with probability f_t,
and are equal, or from two, and are then independent draws of p*. So E H(p_t) = (1 - f_t) H(p*), whatever p* is: r_t is
the probability of two different ancestors. And because E p_t = p* in every regime (a draw of q_t, a draw without
replacement from a pool and a reused document all have the law p*), E ||p_t - p*||^2 = E ||p_t||^2 - ||p*||^2
= H(p*) - E H(p_t), that is r_t + m_t = 1: the loss of diversity and the drift are the within and the between part of
one variance. The same holds for any feature phi: E tr Cov_{p_t} phi = r_t tr Cov_{p*} phi and
E ||E_{p_t} phi - E_{p*} phi||^2 = (1 - r_t) tr Cov_{p*} phi, for E[p_t p_t^T] - p* p*^T = (1 - r_t)(diag p* - p* p*^T).

The recursions without real text are the Wright-Fisher model of population genetics (Ewens 2004, chapter 3), those
with it its version with migration. Shares and sizes are given by generation: `shares[g]` is alpha_g, `shares[0]` = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Sizes = float | Sequence[float] | np.ndarray


def _sizes(shares: Sequence[float], documents: Sizes) -> np.ndarray:
    return np.broadcast_to(np.asarray(documents, float), (len(shares),))


def mixture(shares: Sequence[float], documents: Sizes) -> np.ndarray:
    """r by generation if each of N documents is real with probability alpha:

    r' = (1 - 1/N)[alpha (2 - alpha) + (1 - alpha)^2 r]. For N draws of q, E ||phat||^2 = ||q||^2 + (1 - ||q||^2)/N, and
    E ||q||^2 = (1 - (1 - alpha)^2) ||p*||^2 + (1 - alpha)^2 E ||p||^2. With alpha = 0 it is (1 - 1/N)^t.

    Args:
        shares: alpha_g, [0, 1], generation 0 first (1).
        documents: N, one number or one per generation.
    """
    r, out = 1.0, []
    for a, n in zip(shares, _sizes(shares, documents), strict=True):
        r = (1 - 1 / n) * (a * (2 - a) + (1 - a) ** 2 * r)
        out.append(r)
    return np.asarray(out)


def stratified(shares: Sequence[float], documents: Sizes) -> np.ndarray:
    """r by generation for exactly alpha N fresh real documents and (1 - alpha) N of the model, as in the lab's training sets:

    r' = alpha (2 - alpha) + (1 - alpha)^2 r - [alpha + (1 - alpha) r] / N. The mean of the set is that of the mixture, but
    its noise is that of two samples: alpha H* / N + (1 - alpha) H / N.

    If alpha N is not whole it is rounded up or down at random with the right mean; the law is then the mean over both.
    """
    r, out = 1.0, []
    for a, n in zip(shares, _sizes(shares, documents), strict=True):
        whole, rest = split(a, n)
        r = sum(
            weight * (b * (2 - b) + (1 - b) ** 2 * r - (b + (1 - b) * r) / n)
            for b, weight in ((whole / n, 1 - rest), ((whole + 1) / n, rest))
            if weight
        )
        out.append(r)
    return np.asarray(out)


def split(share: float, documents: float) -> tuple[int, float]:
    """Split alpha N into a whole number and the probability of one more."""
    exact = share * documents
    whole = math.floor(exact + 1e-9)
    return whole, max(0.0, exact - whole) if exact - whole > 1e-9 else 0.0


def stratified_reuse(shares: Sequence[float], documents: int) -> np.ndarray:
    """r by generation if the alpha N real documents of later generations repeat the first ones of generation 0's N.
    `pipeline.diversity` derives it for given counts.

    If alpha N is not whole it is rounded up or down at random with the right mean, independently in each generation; m and
    c(n) are then means over both.
    """
    ways = []
    for a in shares:
        whole, rest = split(a, documents)
        ways.append([(whole, 1 - rest), (whole + 1, rest)] if rest else [(whole, 1.0)])
    cross = {n: 0.0 for way in ways for n, _ in way if n}  # c(n): E <p - p*, e_n - p*> / H*
    drift, out = 0.0, []
    for way in ways:
        after = 0.0
        later = dict.fromkeys(cross, 0.0)
        for real, weight in way:
            drawn = documents - real
            both = 2 * real * drawn * cross[real] if real else 0.0
            after += weight * (real + both + drawn**2 * drift + drawn * (1 - drift)) / documents**2
            for n in cross:
                later[n] += weight * (real / max(real, n) + drawn * cross[n]) / documents
        drift, cross = after, later
        out.append(1 - drift)
    return np.asarray(out)


def mixture_limit(share: Sizes, documents: Sizes) -> np.ndarray:
    """Limit of `mixture`: (1 - 1/N) a (2 - a) / [1 - (1 - 1/N)(1 - a)^2]."""
    a, keep = np.asarray(share, float), 1 - 1 / np.asarray(documents, float)
    return np.asarray(keep * a * (2 - a) / (1 - keep * (1 - a) ** 2))


def stratified_limit(share: Sizes, documents: Sizes) -> np.ndarray:
    """Limit of `stratified` for whole alpha N: [a (2 - a) - a/N] / [1 - (1 - a)^2 + (1 - a)/N]."""
    a, n = np.asarray(share, float), np.asarray(documents, float)
    return np.asarray((a * (2 - a) - a / n) / (1 - (1 - a) ** 2 + (1 - a) / n))


def few_real_limit(real_documents: Sizes) -> np.ndarray:
    """Limit of both fixed points for small alpha: 2 n / (1 + 2 n), n = alpha N the *number* of real documents in each training
    set. One keeps two thirds of the diversity, five 91 %, twenty 97.6 %, however large the rest is."""
    n = np.asarray(real_documents, float)
    return np.asarray(2 * n / (1 + 2 * n))


def least_diversity(shares: Sequence[float], documents: Sizes) -> np.ndarray:
    """Lower bound on r of `mixture`, by generation: (1 - 1/N) alpha (2 - alpha), for r >= 0 in the recursion.

    So at fixed N r -> 0 forces alpha -> 0, and alpha -> 0 forces r -> 0, by r' <= (1 - 1/N)(2 alpha + r): the mean diversity
    dies out if and only if alpha_t -> 0.
    """
    a = np.asarray(shares, float)
    return np.asarray((1 - 1 / _sizes(shares, documents)) * a * (2 - a))


def held(shares: Sequence[float], documents: Sizes, weight: float) -> np.ndarray:
    """Probability that a chain whose model is one atom of true probability `weight` has stayed on it up to each step:
    prod (1 - alpha_t (1 - weight))^N. The limit is positive if and only if sum alpha_t is finite (then one atom absorbs the
    chain for ever, by Borel and Cantelli); else the chain jumps between atoms for ever."""
    stay = (1 - np.asarray(shares, float) * (1 - weight)) ** _sizes(shares, documents)
    return np.asarray(np.cumprod(stay))


def jumps(shares: Sequence[float], diversity: float) -> np.ndarray:
    """Mean number of changes of atom up to each step for N = 1, a walk on the atoms: H* sum alpha_t. A redrawn atom and the one
    before are draws of p*, and two draws differ with probability H*."""
    return np.asarray(diversity * np.cumsum(shares))


def accumulate(documents: float, generations: int) -> np.ndarray:
    """r by generation if every document is kept and each generation adds N: prod_{j<=t} (1 - 1/(N j^2)).

    The pool p_t of N t documents gets N draws of itself: E ||x'||^2 = m + (1 - m)/(N (t + 1)^2).
    (Regime: Gerstgrasser et al. 2024.)
    """
    return np.asarray(np.cumprod(1 - 1 / (documents * np.arange(1, generations + 1.0) ** 2)))


def accumulate_limit(documents: float) -> float:
    """Limit of `accumulate`, by Euler's product for the sine: sin(x)/x at x = pi / sqrt(N)."""
    x = math.pi / math.sqrt(documents)
    return math.sin(x) / x


def accumulate_subsample(documents: int, generations: int, replacement: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(r of the model, r of the pool) by generation: model g is trained on N documents drawn from the pool of M = N (g + 1),
    and adds N of its own to the pool (regime: Kazdan et al. 2025).

    U and m are the squared errors of pool and model over H*: U_0 = 1/N; a draw without replacement has
    m = U + (1 - U)(M - N)/(N (M - 1)) (with replacement (1 - U)/N); the pool's next error is
    U' = U + [(m - U) + (1 - m)/N]/(g + 2)^2, for E<x_pool, x_model> = U.
    """
    n, pool = documents, 1 / documents
    models, pools = [], []
    for g in range(generations):
        size = n * (g + 1)
        spread = 1 / n if replacement else (size - n) / (n * max(1, size - 1))
        model = pool + (1 - pool) * spread
        models.append(1 - model)
        pools.append(1 - pool)
        pool += ((model - pool) + (1 - model) / n) / (g + 2) ** 2
    return np.asarray(models), np.asarray(pools)


MOST_EXACT = 1000  # documents: a linear system of that size takes a tenth of a second


def fixation_time(p: np.ndarray, documents: float) -> float:
    """Mean number of steps until one atom is left, without real text; step 1 is the first N draws of p.

    Exact up to MOST_EXACT documents. A letter's count alone is a Markov chain: with w(j) the sum over t of
    P(it wins) - P(it is alone after t steps), from count j, (I - Q) w = h on the counts 1 .. N - 1, where h(j) = j/N is the
    probability that it wins. The sum over letters of what they have not yet won is P(not yet one letter), and the sum of that
    over t is the mean time. For more documents, or N that is not whole, `diffusion_time`.
    """
    from scipy.stats import binom  # importing it takes most of a second

    if documents > MOST_EXACT or documents != int(documents):
        return diffusion_time(p, documents)
    n = int(documents)
    share = np.arange(n + 1) / n
    inner = binom.pmf(np.arange(1, n), n, share[1:-1, None])
    waits = np.zeros(n + 1)
    waits[1:-1] = np.linalg.solve(np.eye(n - 1) - inner, share[1:-1])
    return float(1 + (binom.pmf(np.arange(n + 1), n, p[:, None]) @ waits).sum()) if p.max() < 1 else 0.0


def diffusion_time(p: np.ndarray, documents: float) -> float:
    """Diffusion limit of `fixation_time`: -2 N sum (1 - p_i) ln(1 - p_i). For two equal letters it is too long by 39 % at N = 2,
    10 % at 10, 1.5 % at 100 and .2 % at 1,000; if one letter has nine tenths, by up to twice that from N = 30 on.

    f(p) = that sum solves (1/2N) sum p_i (1 - p_i) d^2 f/dp_i^2 = -1 and vanishes at the corners (for two alleles: Ewens
    2004, chapter 3). Atom i wins with probability p_i, for its share is a martingale. Meanwhile r falls to 1/e in N steps.
    """
    rest = 1 - p[p < 1]
    return float(-2 * documents * np.sum(rest * np.log(rest)))


def half_life(r: np.ndarray) -> int | None:
    """First step t = g + 1 at which r is 1/2 or less; None if these generations do not reach it."""
    below = np.flatnonzero(r <= 0.5)
    return int(below[0]) + 1 if len(below) else None


def linear_drift(shares: Sequence[float], documents: Sizes, sigma: float = 1.0) -> np.ndarray:
    """Variance of the model's mean in the linear dynamics mu' = (1 - alpha) mu + alpha mu* + xi, Var xi = sigma^2/N, of
    Zenil (arXiv 2601.05280): V' = (1 - alpha)^2 V + sigma^2/N from V = 0, by generation.

    alpha = 0: sigma^2 t/N, without bound (unlike in `mixture`, the noise does not shrink with the
    diversity). alpha_g = 1/(g + 1): sigma^2 (t + 1)(2 t + 1)/(6 t N), about sigma^2 t/(3 N). Constant: sigma^2 / (N a (2 - a)).
    """
    v, out = 0.0, []
    for a, n in zip(shares, _sizes(shares, documents), strict=True):
        v = (1 - a) ** 2 * v + sigma**2 / n
        out.append(v)
    return np.asarray(out)

"""Expected number of surviving categories of an exact learner, from the Markov chain of a category's count.

A category of true probability p has a count of 0 .. N in each training set, binomial given the count before (Wright-Fisher).
Nothing here is approximate; `tails` has the Poisson limit, for types of a text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from collapselab.theory.discrete import split
from collapselab.theory.pipeline import History

CACHED = 64  # documents up to which matrices are cached: 135 MB at most


def survivors(p: np.ndarray, regime: str, reuse: bool, documents: int, shares: Sequence[float]) -> np.ndarray | None:
    """Mean number of categories present in the training set of each generation, float64 (len(shares),).

    Args:
        p: (K,) true probabilities.
        regime: `replace`, `accumulate` or `accumulate_subsample` (drawn without replacement, as `mixing` does).
        reuse: `replace` only: later real documents repeat the first ones of generation 0.
        documents: N, the size of a training set and of the text that each generation writes.
        shares: alpha_g by generation, shares[0] = 1; the accumulate regimes use only their number. alpha N is rounded up or
            down at random with the right mean.

    Returns:
        None for reused documents with shares that change after generation 1: the count alone is then no Markov chain.

    Raises:
        ValueError: an unknown regime.
    """
    if regime == "accumulate":  # nothing is ever dropped
        return np.full(len(shares), np.sum(1 - (1 - p) ** documents))
    if regime == "accumulate_subsample":
        present = pool_presence(documents, [documents] * len(shares), [documents] * len(shares))
        return np.asarray(binomial(documents, p[:, None]).sum(0) @ present)
    if regime != "replace":
        raise ValueError(f"regime {regime!r}: must be replace, accumulate or accumulate_subsample")
    if reuse:
        return _reused(p, documents, shares) if len(set(shares[1:])) <= 1 else None
    return _fresh(p, documents, shares)


def binomial(draws: int, p: np.ndarray) -> np.ndarray:
    """Probability of each count of a category in `draws` draws, (..., draws + 1), for p (..., 1)."""
    from scipy.stats import binom  # importing it takes most of a second

    return np.asarray(binom.pmf(np.arange(draws + 1), draws, p))


def _fresh(p: np.ndarray, documents: int, shares: Sequence[float]) -> np.ndarray:
    """Survivors with fresh real documents: k' = Bin(n_r, p) + Bin(n_s, k / N), from k = Bin(N, p)."""
    count = binomial(documents, p[:, None])  # (K, N + 1): law of each category's count
    out = [np.sum(1 - count[:, 0])]
    for share in shares[1:]:
        whole, rest = split(share, documents)
        after = (1 - rest) * _added(count @ kept(documents, documents - whole), p, whole)
        if rest:
            after = after + rest * _added(count @ kept(documents, documents - whole - 1), p, whole + 1)
        count = after
        out.append(np.sum(1 - count[:, 0]))
    return np.asarray(out)


def _added(count: np.ndarray, p: np.ndarray, real: int) -> np.ndarray:
    """Add Bin(real, p) to a count: its law (K, n + 1) becomes (K, n + real + 1)."""
    if real == 0:
        return count
    from scipy.signal import fftconvolve  # importing it takes half a second

    return np.asarray(fftconvolve(count, binomial(real, p[:, None]), axes=1))


def kept(documents: int, draws: int) -> np.ndarray:
    """Law of the count in `draws` draws of a model with count k of N, (N + 1, draws + 1)."""
    return _kept_cached(documents, draws) if max(documents, draws) <= CACHED else _kept(documents, draws)


def _kept(documents: int, draws: int) -> np.ndarray:
    k = np.arange(documents + 1)
    return np.asarray(binomial(draws, k[:, None] / max(1, documents)))


_kept_cached = functools.lru_cache(maxsize=4096)(_kept)  # every evaluation repeats all earlier generations


def _reused(p: np.ndarray, documents: int, shares: Sequence[float]) -> np.ndarray:
    """Survivors if the first b of generation 0's documents are in every set, and with probability f one more (alpha N = b + f).

    A category is absent only if the b have none of it. Given that, its count comes from the one more (x = 0 or 1) and from
    the rest: k_0 = x + Bin(N - b - 1, p), then k' = x + Bin(N - b - 1, k / N) with probability f, else
    Bin(N - b, k / N).
    """
    share = shares[1] if len(shares) > 1 else 0.0
    whole, rest = split(share, documents)
    if whole >= documents:
        return np.full(len(shares), np.sum(1 - (1 - p) ** documents))
    others = documents - whole - 1
    absent = np.zeros((len(shares), len(p)))
    for x, chance in ((0, 1 - p), (1, p)):
        count = np.zeros((len(p), documents + 1))
        count[:, x : x + others + 1] = binomial(others, p[:, None])
        for g in range(len(shares)):
            if g:
                after = np.zeros_like(count)
                after[:, x : x + others + 1] += rest * (count @ kept(documents, others))
                after[:, : others + 2] += (1 - rest) * (count @ kept(documents, others + 1))
                count = after
            absent[g] += (1 - p) ** whole * chance * count[:, 0]
    return np.asarray(np.sum(1 - absent, axis=1))


def pool_presence(real: int, drawn: Sequence[int], written: Sequence[int]) -> np.ndarray:
    """Probability under accumulate-subsample that a category with count c among generation 0's `real` documents is in the
    training set of generation g; float64 (real + 1, len(drawn)), c from 0 to `real`.

    Exact: with count C in the pool of M documents, the set of n = drawn[g] has D = Hypergeometric(M, C, n) of them, and the
    pool gains Bin(written[g], D / n). Computed backwards, for all later generations at once.
    """
    generations = len(drawn)
    pools = real + np.concatenate([[0], np.cumsum(written)])
    later = np.zeros((pools[-1] + 1, generations))
    for g in range(generations - 1, -1, -1):
        pool = int(pools[g])
        chosen = hypergeometric(pool, int(drawn[g]))
        added = chosen @ kept(int(drawn[g]), int(written[g]))
        now = np.zeros((pool + 1, generations))
        for more in range(int(written[g]) + 1):
            now[:, g + 1 :] += added[:, more, None] * later[more : more + pool + 1, g + 1 :]
        now[:, g] = 1 - chosen[:, 0]
        later = now
    return later


def realised(p: np.ndarray, history: History) -> np.ndarray:
    """`survivors` given the actual documents of each context's training sets, float64 (generations, contexts); nan if a context
    has no documents or descends from a model without any, or if the number of its reused documents changes after generation 1.

    Args:
        p: (contexts, K), or (K,) for all contexts.
        history: counts by generation and context.
    """
    out = np.full_like(history.real, np.nan, dtype=float)
    for context, law in enumerate(np.broadcast_to(p, (history.real.shape[1], p.shape[-1]))):
        real, synthetic, written = (a[:, context] for a in (history.real, history.synthetic, history.written))
        if history.regime == "accumulate":
            out[:, context] = np.sum(1 - (1 - law) ** real[0]) if real[0] else np.nan
        elif history.regime == "accumulate_subsample":
            out[:, context] = _subsampled(law, int(real[0]), real + synthetic, written)
        elif not history.reuse or len(set(real[1:].tolist())) <= 1:
            always = int(real[-1]) if history.reuse else 0
            out[:, context] = _replaced(law, real.tolist(), synthetic.tolist(), always)
    return out


def _subsampled(p: np.ndarray, real: int, drawn: np.ndarray, written: np.ndarray) -> np.ndarray:
    present = pool_presence(real, drawn.tolist(), written.tolist())
    alive = binomial(real, p[:, None]).sum(0) @ present
    orphan = np.cumsum(np.append(0, (drawn == 0) & (written > 0)))[:-1] > 0
    return np.where((drawn == 0) | orphan, np.nan, alive)


def _replaced(p: np.ndarray, real: list[int], synthetic: list[int], always: int) -> list[float]:
    """Survivors with k' = Bin(n_r, p) + Bin(n_s, k / N). The same `always` real documents are in every set; a category is absent
    only if they have none of it, and k is the count given that."""
    count: np.ndarray | None = None
    out, before = [], 0
    for n_r, n_s in zip(real, synthetic, strict=True):
        total = n_r + n_s
        if total == 0 or (n_s and count is None):
            count = None
            out.append(np.nan)
        else:
            copied = np.ones((len(p), 1)) if count is None or n_s == 0 else count @ kept(before, n_s)
            count = np.pad(_added(copied, p, n_r - always), ((0, 0), (0, always)))
            out.append(float(np.sum(1 - (1 - p) ** always * count[:, 0])))
        before = total
    return out


def hypergeometric(pool: int, draws: int) -> np.ndarray:
    """P(d of `draws` documents drawn without replacement | count C in the pool), (pool + 1, draws + 1), row C, from log
    factorials: a hundred times as fast as scipy.stats.hypergeom."""
    factorial = gammaln(np.arange(pool + 1) + 1.0)
    c, d = np.arange(pool + 1)[:, None], np.arange(draws + 1)
    possible = (d <= c) & (draws - d <= pool - c)
    few, rest = np.where(possible, c - d, 0), np.where(possible, pool - c - draws + d, 0)
    ways = factorial[c] - factorial[d] - factorial[few] + factorial[pool - c] - factorial[draws - d] - factorial[rest]
    whole = factorial[pool] - factorial[draws] - factorial[pool - draws]
    return np.exp(np.where(possible, ways - whole, -np.inf))

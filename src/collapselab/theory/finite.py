"""Rejection sampling from n samples per prompt: the exact law of a table, whose prompts share nothing.

The replicator (`selection.filtered`) has infinitely many samples. With n of them a rare class may have none by chance, and is
then gone for ever: fewer samples per prompt make hacking less reliable, because the hack is lost in more prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collapselab.theory import chebyshev

REPLICAS = 100
"""Simulated sets of tables; of 144 prompts the mean has a standard error below .005."""


def hack_tables(p0: np.ndarray, accept: np.ndarray, samples: int, rounds: int) -> np.ndarray:
    """Mean shares of (wrong, correct, hack) over prompts by round, float64 (rounds + 1, 3), row 0 being p0.

    One round: a prompt's table p writes n samples, each is accepted with its class's probability s, and the next table is the
    empirical law of the accepted ones; if none was accepted the table stays. Given m ~ Bin(n, p . s) accepted ones their counts
    are multinomial(m, p s / (p . s)), so a prompt is the Wright-Fisher model with selection of population genetics (Ewens 2004,
    section 1.4, haploid) with a random population m.

    In u = p_c + p_h and v = p_h / u: K ~ Bin(n, u ((1 - v) s_c + v s_h)) correct and hacked ones are accepted, of them
    Bin(K, v s_h / ((1 - v) s_c + v s_h)) hacks, and Bin(n - K, (1 - u) s_w / (1 - P(K))) wrong ones. E f(p') is smooth in p, a
    polynomial of degree n. It is represented by its values on a grid of Chebyshev points in (sqrt u, sqrt v), and the law of p_t by
    weights on that grid, which one matrix moves by one round. There is no other approximation: the
    error is below 2e-4 up to n = 256, measured against 1.5 to 2 times as many points (five starts, s_h/s_w from 1.7 to 20).

    Args:
        p0: (3,) shares of wrong, correct and hack at the start, the same for all prompts.
        accept: (3,) P(accepted) of each, in (0, 1], not all 1.
        samples: n per prompt and round. 1.5 s for 256; time grows as n^3.
    """
    size = math.sqrt(samples)
    root, share = max(20, 12 + math.ceil(1.1 * size)), max(20, 14 + math.ceil(0.9 * size))
    move = _round(np.asarray(accept, float), samples, root, share)
    u, v = np.meshgrid(chebyshev.points(root) ** 2, chebyshev.points(share) ** 2, indexing="ij")
    kept = float(p0[1] + p0[2])
    here = np.outer(
        chebyshev.weights(root, np.sqrt(np.array(kept))), chebyshev.weights(share, np.sqrt(np.array(p0[2] / kept)))
    ).ravel()
    values = np.stack([1 - u, u * (1 - v), u * v], -1).reshape(-1, 3)
    out = []
    for _ in range(rounds + 1):
        out.append(here @ values)
        here = here @ move
    return np.asarray(out)


def learned_tables(
    p: np.ndarray, accept: np.ndarray, shares: Sequence[float], anchor: np.ndarray, documents: Sequence[int]
) -> np.ndarray:
    """Mean shares of the classes over prompts that share nothing, by round, float64 (rounds + 1, classes), row 0 being p's:
    `selection.anchored` with finite sets.

    One round: N documents are kept, real ones (a share alpha, with law `anchor`) and accepted ones. A prompt of a document is
    any with equal probability, so the counts of all prompts and classes are multinomial with p a / mean of p a for those that
    were accepted; the next table of a prompt is the empirical law of its own documents, and stays if it has none. Simulated:
    REPLICAS times, seed fixed.

    Args:
        p: (prompts, classes), tables at the start. accept: (rounds, classes), P(accepted) of each.
        shares: alpha of each round. documents: N of each round.
    """
    draw, tables = np.random.default_rng(0), np.repeat(p[None], REPLICAS, 0)
    out = [p.mean(0)]
    for chance, share, count in zip(accept, shares, documents, strict=True):
        real = round(share * count)
        weights = (tables * chance).reshape(REPLICAS, -1)
        total = weights.sum(1, keepdims=True)
        kept = draw.multinomial(count - real, weights / total).reshape(tables.shape)
        kept += draw.multinomial(real, np.tile(anchor / len(p), len(p)), REPLICAS).reshape(tables.shape)
        each = kept.sum(2, keepdims=True)
        tables = np.where(each > 0, kept / np.maximum(1, each), tables)
        out.append(tables.mean((0, 1)))
    return np.asarray(out)


def _round(accept: np.ndarray, samples: int, root: int, share: int) -> np.ndarray:
    """Move the grid of (sqrt u, sqrt v) by one round: (root x share, root x share), row = the table before."""
    wrong, correct, hack = accept
    v = chebyshev.points(share) ** 2
    u = chebyshev.points(root)[:, None] ** 2
    either = (1 - v) * correct + v * hack
    right = (u * either).ravel()  # P(a sample is correct or a hack, and accepted)
    of_rest = ((1 - u) * wrong + 0 * v).ravel() / (1 - right)
    chance = _binomial(samples, right)
    moved = np.zeros((root * share, root, share))
    for k in range(samples + 1):
        weight = _binomial(samples - k, of_rest) * chance[:, k, None]
        if k == 0:
            stays, weight[:, 0] = weight[:, 0].copy(), 0.0  # nothing was accepted
        accepted = np.maximum(k + np.arange(samples - k + 1), 1)
        to_u = weight @ chebyshev.weights(root, np.sqrt(k / accepted))
        to_v = _binomial(k, v * hack / either) @ chebyshev.weights(share, np.sqrt(np.arange(k + 1) / max(k, 1)))
        moved += to_u[:, :, None] * np.tile(to_v, (root, 1))[:, None, :]
    return np.asarray(moved.reshape(root * share, -1) + np.diag(stays))


def _binomial(draws: int, p: np.ndarray) -> np.ndarray:
    """P(k of `draws`) for p in (0, 1), (len(p), draws + 1); ten times as fast as scipy's."""
    from scipy.special import gammaln  # importing it takes a moment

    k = np.arange(draws + 1)
    ways = gammaln(draws + 1.0) - gammaln(k + 1.0) - gammaln(draws - k + 1.0)
    return np.asarray(np.exp(ways + k * np.log(p[:, None]) + (draws - k) * np.log1p(-p[:, None])))

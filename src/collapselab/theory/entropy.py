"""Shannon entropy S of an exact learner, in nats: the exact mean after one step, and bounds after many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from collapselab.theory.survivors import binomial


def entropy(p: np.ndarray) -> np.ndarray:
    """S(p) = -sum p ln p over the last axis."""
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1))


def expected_entropy(q: np.ndarray, documents: int) -> float:
    """E S(phat) of the empirical law phat of N draws of q, exact: -sum_i E[(c/N) ln(c/N)] with c ~ Bin(N, q_i).

    It is S(q) - E KL(phat || q), for E sum phat ln q = -S(q): a step loses that divergence.
    """
    share = np.arange(documents + 1) / documents
    lost = -share * np.log(np.where(share > 0, share, 1))
    return float(np.sum(binomial(documents, q[:, None]) @ lost))


def loss_bound(categories: float, documents: float) -> float:
    """Upper bound on the mean loss of a step: E KL(phat || q) <= ln(1 + (K - 1)/N), K the categories that q still has.

    KL <= ln(1 + chi^2), ln is concave, and E chi^2 = (K - 1)/N. It goes to 0 as the support dies out.
    """
    return float(np.log1p((categories - 1) / documents))


def fano(h: np.ndarray, categories: int) -> np.ndarray:
    """Largest entropy at Simpson diversity h on K categories, by Fano's inequality: b(h) + h ln(K - 1), b the binary
    entropy. Its argument may be h, as 1 - max p <= h and the function rises up to 1 - 1/K."""
    h = np.asarray(h, float)
    two = np.stack([h, 1 - h], -1)
    return np.asarray(entropy(two) + h * np.log(max(1, categories - 1)))


def envelope(h: np.ndarray, categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on E S given the mean diversity E H = h: h <= -ln(1 - h) <= E S <= fano(h).

    S is at least the collision entropy -ln(1 - H), convex in H, and Fano's function is concave; both by Jensen.
    """
    return np.asarray(-np.log1p(-np.asarray(h, float))), fano(h, categories)


def floor(truth: float, shares: Sequence[float], categories: int, documents: float) -> np.ndarray:
    """Lower bound on E S by generation, given S(p*): L' = alpha S* + (1 - alpha) L - ln(1 + (K - 1)/N), never below 0.

    S is concave, so S(q) >= alpha S* + (1 - alpha) S(p). With constant alpha it ends at S* - ln(1 + (K - 1)/N) / alpha.
    """
    loss, low, out = loss_bound(categories, documents), truth, []
    for share in shares:
        low = max(0.0, share * truth + (1 - share) * low - loss)
        out.append(low)
    return np.asarray(out)

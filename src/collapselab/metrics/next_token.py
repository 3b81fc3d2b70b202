"""Shape of next-token distributions: how many continuations a model considers possible."""

from __future__ import annotations

import numpy as np

CELLS = 1 << 22  # probabilities in float64 at a time


def next_token_shape(logits: np.ndarray) -> np.ndarray:
    """Entropy in nats, effective support exp(entropy), and Gini coefficient of each distribution.

    The Gini coefficient is sum over i of (2 i - V - 1) p_i / V with p in ascending order and i = 1 .. V: 0 if all V tokens
    are equally likely, 1 - 1 / V if one has all probability.

    Args:
        logits: (contexts, vocabulary), any float type; -inf for probability 0.

    Returns:
        (contexts, 3) float64.
    """
    contexts, vocab = logits.shape
    out = np.empty((contexts, 3))
    rank = (2 * np.arange(1, vocab + 1) - vocab - 1) / vocab
    rows = max(1, CELLS // vocab)
    for first in range(0, contexts, rows):
        # Ascending order adds small terms first; float32 sorts twice as fast as float64.
        some = np.sort(logits[first : first + rows], axis=1).astype(np.float64)
        log_p = some - some[:, -1:]
        p = np.exp(log_p)
        total = p.sum(1, keepdims=True)
        p /= total
        log_p -= np.log(total)
        with np.errstate(invalid="ignore"):  # 0 x -inf
            lost = np.where(p > 0, p * log_p, 0.0)
        entropy = np.maximum(0.0, -lost.sum(1))
        out[first : first + rows] = np.stack([entropy, np.exp(entropy), p @ rank], axis=1)
    return out


def next_token_sums(shape: np.ndarray) -> dict[str, float]:
    """Sum `next_token_shape` over contexts."""
    entropy, support, gini = shape.sum(0).tolist()
    return {"contexts": float(len(shape)), "entropy": entropy, "effective_support": support, "gini": gini}


def next_token_values(sums: dict[str, float]) -> dict[str, float]:
    """Means over contexts: next_token_entropy (nats), effective_support (tokens), gini."""
    return {
        "next_token_entropy": sums["entropy"] / sums["contexts"],
        "effective_support": sums["effective_support"] / sums["contexts"],
        "gini": sums["gini"] / sums["contexts"],
    }

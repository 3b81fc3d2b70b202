"""Distances between the token distributions of real and generated text."""

from __future__ import annotations

import numpy as np


def unigram_distances(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """KL(real || generated) with 1/2 added to every count, Jensen-Shannon divergence, total variation; nats.

    Args:
        real, generated: (vocabulary,) counts.
    """
    p, q = real / real.sum(), generated / generated.sum()
    smooth_p, smooth_q = (real + 0.5) / (real + 0.5).sum(), (generated + 0.5) / (generated + 0.5).sum()
    middle = (p + q) / 2
    return {
        "unigram_kl": float((smooth_p * np.log(smooth_p / smooth_q)).sum()),
        "unigram_js": (_kl(p, middle) + _kl(q, middle)) / 2,
        "unigram_tv": float(np.abs(p - q).sum() / 2),
    }


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    has = p > 0
    return float((p[has] * np.log(p[has] / q[has])).sum())

"""Bias of decoding alone: effect of temperature and truncation over generations, without sampling noise (N = infinity)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sharpened(
    p: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Apply temperature, then top-k, top-p and min-p as in `sampling.*` to probabilities p (..., K).

    p^(1/temperature); the k most likely (0: all); the smallest set of the rest with the share top_p of its mass, including the
    category that crosses it (Holtzman et al. 2020, eq. 3); those with at least min_p of the largest probability, after the
    temperature (Nguyen et al. 2024). Categories as likely as the last one kept are kept too.
    """
    weight = (p / p.max(-1, keepdims=True)) ** (1 / temperature)
    ranked = -np.sort(-weight, axis=-1)
    least = np.zeros_like(ranked[..., :1])
    if 0 < top_k < p.shape[-1]:
        least = ranked[..., top_k - 1 : top_k]
    if top_p < 1:
        mass = np.cumsum(np.where(ranked >= least, ranked, 0), axis=-1)
        place = np.argmax(mass >= top_p * mass[..., -1:], axis=-1)
        least = np.maximum(least, np.take_along_axis(ranked, place[..., None], -1))
    kept = np.where((weight >= least) & (weight >= min_p), weight, 0)
    return np.asarray(kept / kept.sum(-1, keepdims=True))


def bias_only(
    p0: np.ndarray,
    shares: Sequence[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    regime: str = "replace",
) -> np.ndarray:
    """Model of each generation for infinite training sets: p_g = alpha_g p0 + (1 - alpha_g) sharpened(p_{g-1}); in the
    accumulate regimes and `balanced` the mean of p0 and sharpened(p_0), ..., sharpened(p_{g-1}).

    Args:
        p0: (..., K), the truth and the model of generation 0.
        shares: alpha_g by generation, alpha_0 counting as 1; regimes other than `replace` use only their number.

    Returns:
        (len(shares), ..., K). Without real text, temperature tau alone gives p_g proportional to p0^((1/tau)^g), and top-p
        alone keeps the most likely top_p^g of the mass (a little more if categories are coarse).

    Raises:
        ValueError: a regime whose sources have unequal parts.
    """
    if regime not in ("replace", "accumulate", "accumulate_subsample", "balanced"):
        raise ValueError(f"regime {regime!r}: must be replace, accumulate, accumulate_subsample or balanced")
    out = [np.asarray(p0, float)]
    pool = out[0]  # the sum of its parts
    for g, share in enumerate(shares[1:], 1):
        written = sharpened(out[-1], temperature, top_k, top_p, min_p)
        pool = pool + written
        out.append(share * out[0] + (1 - share) * written if regime == "replace" else pool / (g + 1))
    return np.asarray(out)

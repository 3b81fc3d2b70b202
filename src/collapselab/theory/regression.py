"""Least squares refitted to its own labels: y = x w + noise, x isotropic Gaussian in d dimensions, T fresh inputs per step."""

from __future__ import annotations

import numpy as np

from collapselab.config import UserError


def _check(samples: int, dimension: int) -> None:
    if samples < dimension + 2:
        raise UserError(f"documents={samples}: least squares in {dimension} dimensions needs at least {dimension + 2}")


def replace(samples: int, dimension: int, sigma: float, generations: int) -> np.ndarray:
    """E ||w_k - w*||^2 (the excess test error) of the k-th fit, k = g + 1, each on T labels of the fit before:
    k sigma^2 d / (T - d - 1).

    w_k = w_{k-1} + (X^T X)^-1 X^T noise, and E tr (X^T X)^-1 = d/(T - d - 1), the inverse Wishart's mean.
    (Setting: Dohmatob et al. 2024; Gerstgrasser et al. 2024, section 3.) Raises UserError below T = d + 2.
    """
    _check(samples, dimension)
    return np.asarray(np.arange(1, generations + 1) * sigma**2 * dimension / (samples - dimension - 1))


def accumulate(samples: int, dimension: int, sigma: float, generations: int) -> np.ndarray:
    """`replace` if each fit uses all labels so far: sigma^2 d sum_{i<=k} 1 / (i (i T - d - 1)), exact.

    With S_k the sum of the k Gram matrices A_i, the normal equations give w_k = w_{k-1} + S_k^-1 X_k^T noise_k; its
    variance is sigma^2 E tr(S_k^-1 A_k S_k^-1) = sigma^2 E tr(S_k^-1) / k, because E[A_k | S_k] = S_k / k. It stays below
    the published bound, sigma^2 d/(T - d - 1) x pi^2/6 (Gerstgrasser et al. 2024, theorem 2). Raises UserError as `replace`.
    """
    _check(samples, dimension)
    i = np.arange(1, generations + 1)
    return np.asarray(sigma**2 * dimension * np.cumsum(1 / (i * (i * samples - dimension - 1))))


def accumulate_bound(samples: int, dimension: int, sigma: float) -> float:
    """sigma^2 d / (T - d - 1) x pi^2 / 6."""
    _check(samples, dimension)
    return float(sigma**2 * dimension / (samples - dimension - 1) * np.pi**2 / 6)

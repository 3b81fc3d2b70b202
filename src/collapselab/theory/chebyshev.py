"""Polynomial interpolation on Chebyshev points of [0, 1], by which the exact laws of finite groups move expectations."""

from __future__ import annotations

import numpy as np


def points(number: int) -> np.ndarray:
    """Chebyshev points of the first kind on (0, 1), float64 (number,), falling."""
    return np.asarray((1 + np.cos((np.arange(number) + 0.5) * np.pi / number)) / 2)


def weights(number: int, x: np.ndarray) -> np.ndarray:
    """Weights (..., number) that turn a polynomial's values at `points(number)` into its value at each x of [0, 1].

    The barycentric formula (Berrut & Trefethen 2004, equations 4.2 and 5.4); exact for polynomials of degree below `number`.
    """
    k = np.arange(number)
    distance = np.asarray(x, float)[..., None] - points(number)
    on_point = np.abs(distance) < 1e-15
    parts = (-1.0) ** k * np.sin((k + 0.5) * np.pi / number) / np.where(on_point, 1.0, distance)
    inside = parts / parts.sum(-1, keepdims=True)
    return np.asarray(np.where(on_point.any(-1, keepdims=True), on_point.astype(float), inside))

"""MAUVE and the Vendi score of texts embedded as points."""

from __future__ import annotations

import numpy as np

SEED = 25  # of MAUVE's k-means: the default of its authors' package


def mauve(real: np.ndarray, generated: np.ndarray) -> float:
    """MAUVE, 0 .. 1 (Pillutla et al. 2021), with the settings of its authors' package: n / 10 clusters, scaling factor 5.

    Args:
        real, generated: (sequences, width) float features, equally many.
    """
    from mauve import compute_mauve

    p, q = real.astype(np.float32), generated.astype(np.float32)
    return float(compute_mauve(p_features=p, q_features=q, seed=SEED, verbose=False).mauve)


def vendi(features: np.ndarray) -> float:
    """Vendi score, the effective number of different sequences, 1 .. n: exp of the entropy of the eigenvalues of K / n, K the
    cosine similarities (Friedman and Dieng 2023).

    Args:
        features: (n, width), no row all zero.
    """
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # K / n = R R' / n has the squared singular values of R / sqrt(n), and zeros.
    eigenvalues = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)
    p = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(p * np.log(p)).sum()))

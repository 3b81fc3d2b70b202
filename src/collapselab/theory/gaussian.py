"""A Gaussian refitted to its own samples, in one dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import digamma

from collapselab.theory.discrete import Sizes, mixture


def maximum_likelihood(shares: Sequence[float], documents: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """(E sigma_g^2 / sigma*^2, E (mu_g - mu*)^2 / sigma*^2) for the refit that divides by n, each of n samples being real
    with probability alpha: r and 1 - r of `discrete.mixture`.

    With v and d for the two: Var q = alpha + (1 - alpha) v + alpha (1 - alpha) d, v' = (1 - 1/n) Var q and
    d' = (1 - alpha)^2 d + Var q / n. With v + d = 1, Var q = alpha (2 - alpha) + (1 - alpha)^2 v, and v' + d' = 1 again.
    """
    r = mixture(shares, documents)
    return r, 1 - r


def unbiased(documents: int, generations: int) -> dict[str, np.ndarray]:
    """Moments of the refit that divides by n - 1, without real text, by generation (t = g + 1), over sigma*^2 or in nats:

    `variance`: E sigma^2 stays 1. `drift`: E (mu - mu*)^2 = t/n, without bound. `log_variance`: E ln sigma^2 falls by
    psi((n-1)/2) + ln(2/(n-1)) < 0 per step, as sigma'^2 / sigma^2 = chi^2_{n-1} / (n - 1), so sigma -> 0 almost surely
    although its mean square stays: ever rarer chains carry the mean (compare medians and logs, not means).
    `typical_variance`: exp of it. (Setting: Alemohammad et al. 2023; Shumailov et al. 2024.)
    """
    t = np.arange(1, generations + 1)
    step = float(digamma((documents - 1) / 2)) + math.log(2 / (documents - 1))
    return {
        "variance": np.ones(generations),
        "drift": t / documents,
        "log_variance": t * step,
        "typical_variance": np.exp(t * step),
    }

"""Verified synthetic data in two small learners: labels in a Gaussian mixture, and a mean with a biased verifier.

Labels (setting of Feng et al., arXiv 2406.07515): x given y = +-1 is N(y mu, I) in d dimensions, |mu| = separation. A label is
wrong with probability `error`, a verifier accepts labels, and a linear classifier w = mean of (label x) learns the accepted ones.
It is right on a fresh x with probability Phi(w . mu / |w|). (Theirs is a ridge regression; this is its limit of a large penalty.)

Mean (after Yi et al., arXiv 2510.16657, whose regression has one constant input here): a model N(theta, sigma^2) writes samples, a
verifier keeps those within `radius` of its own centre, and the next theta is their mean.
"""

from __future__ import annotations

import math

import numpy as np


def threshold(tpr: float, fpr: float) -> float:
    """Share of wrong labels at which a verifier with random errors breaks down: 1 / (1 + FPR/TPR).

    There half of the accepted labels are right: the proxy is 1/2 (Feng et al. 2024, with phi = TPR and psi = FPR).
    """
    return 1 / (1 + fpr / tpr)


def linear_threshold(separation: float, angle: float) -> float:
    """Share of wrong labels at which a linear verifier breaks down, at an angle (radians) to the true direction.

    It accepts the labels that it would give itself, so it is right with probability q = Phi(m cos angle), m the separation, and
    the proxy is 1/2 at q. But its errors depend on x: accepted wrong labels lie near its own boundary and pull less. The pull of
    right labels on mu is m q + cos(angle) phi, that of wrong ones m (1 - q) - cos(angle) phi, phi being the normal density at
    m cos(angle). They balance at q + cos(angle) phi / m (derived here); above 1 there is no threshold.
    """
    along = separation * math.cos(angle)
    density = math.exp(-(along**2) / 2) / math.sqrt(2 * math.pi)
    return (1 + math.erf(along / math.sqrt(2))) / 2 + math.cos(angle) * density / separation


def accuracy(
    error: np.ndarray, tpr: float, fpr: float, separation: float, documents: int, dimension: int
) -> np.ndarray:
    """Mean accuracy of the classifier under a verifier with random errors, for each share of wrong labels.

    With pi the share of right ones among the m accepted, c = 2 pi - 1: w = c mu + noise of variance (1 + (1 - c^2) |mu|^2)/m along
    mu and 1/m in the other d - 1 directions (whose squared length is taken at its mean); averaged over the former by Gauss-Hermite.
    """
    from scipy.special import ndtr  # importing it takes half a second

    right, wrong = (1 - np.asarray(error, float)) * tpr, np.asarray(error, float) * fpr
    kept, c = documents * (right + wrong), (right - wrong) / (right + wrong)
    g, weight = np.polynomial.hermite_e.hermegauss(40)
    noise = np.sqrt((1 + (1 - c**2) * separation**2) / kept)
    along = c[..., None] * separation + noise[..., None] * g
    cosine = along / np.sqrt(along**2 + ((dimension - 1) / kept)[..., None])
    return np.asarray(ndtr(separation * cosine) @ (weight / weight.sum()))


def means(start: float, centre: float, radius: float, sigma: float, rounds: int) -> np.ndarray:
    """theta by round with infinitely many samples, float64 (rounds + 1,): theta' is the mean of N(theta, sigma^2) within [centre -
    radius, centre + radius], theta + sigma (phi(a) - phi(b)) / (Phi(b) - Phi(a)).

    d theta'/d theta is the truncated variance over sigma^2, below 1, so theta tends to the verifier's centre, not to the truth: it
    gains while it approaches the truth and loses what lies beyond. With n samples this needs n times the accepted share well above
    1: a verifier that accepts none of what is written teaches nothing.
    """
    from scipy.special import ndtr  # importing it takes half a second

    theta, out = float(start), []
    for _ in range(rounds + 1):
        out.append(theta)
        # the far tail is reflected, where ndtr keeps its relative precision
        sign = 1.0 if theta >= centre else -1.0
        a, b = ((sign * (centre - theta) + side * radius) / sigma for side in (-1, 1))
        density = (math.exp(-(a**2) / 2) - math.exp(-(b**2) / 2)) / math.sqrt(2 * math.pi)
        theta += sign * sigma * density / float(ndtr(b) - ndtr(a))
    return np.asarray(out)

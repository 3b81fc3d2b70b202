"""Policy gradients of tables: softmax logits that learn from groups of rewarded samples (GRPO, REINFORCE, RLOO).

Setting: a prompt has a law p = softmax(logits) over answers; answer j is accepted (reward 1) with probability s_j, independently of
everything else. A step writes a group of k answers, their advantages are A_i = (r_i - mean)/std over the group (`divide`; else
r_i - mean), and the logits move by eta x mean over the group of A_i grad ln p(answer_i).

Given how many are accepted, accepted answers have the law p s/q and rejected ones p (1 - s)/(1 - q), q = sum p s. So the mean
step is exact for every k: E d logit_j = eta c(q) p_j (s_j - q), with c(q) = E[std of the group]/(q (1 - q)) (`signal`). The group
and the division by std change the clock, never the direction. For k -> infinity c = 1/sqrt(q (1 - q)); without division
c = 1 - 1/k, the mean step of REINFORCE with the group's mean as baseline (RLOO: 1). The laws are the limit of small eta, dt = one
step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def signal(
    accepted: np.ndarray | float, rejected: np.ndarray | float, group: int = 0, divide: bool = True
) -> np.ndarray:
    """c(q), the clock of the mean step, for q = `accepted` and 1 - q = `rejected` (given apart, so that neither is rounded to 0).

    With m ~ Binomial(k, q) accepted the std is sqrt(m (k - m))/k; one power of q (1 - q) cancels.

    Args:
        group: k; 0 means infinitely many.
    """
    q, r = np.asarray(accepted, float), np.asarray(rejected, float)
    if not divide:
        return np.full(q.shape, 1 - 1 / group if group else 1.0)
    if not group:
        return np.asarray(1 / np.sqrt(q * r))
    m = np.arange(1, group)
    ways = np.array([math.lgamma(group + 1) - math.lgamma(i + 1) - math.lgamma(group - i + 1) for i in m])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = [np.where(n > 0, n * np.log(v[..., None]), 0.0) for n, v in ((m - 1, q), (group - m - 1, r))]
    return np.asarray(np.exp(ways + logs[0] + logs[1]) @ (np.sqrt(m * (group - m)) / group))


# --- two modes and a noisy verifier (Rad et al., arXiv 2601.04411) ------------------------------------------------------


def rad_rate(wrong: np.ndarray | float, fn: float, fp: float, eta: float, group: int = 0) -> np.ndarray:
    """dp/dt = -eta J c(q) [p (1 - p)]^2 of the wrong mass p, for q = (1 - FN) - J p and Youden's J = 1 - FN - FP.

    Rad et al. have infinitely many samples, c = 1/s with s^2 = q (1 - q). This is the clock of one logit for the two modes. A
    softmax with a logit for each answer has [p (1 - p)]^2 (h_w + h_c), where h is the chance that two answers of the same mode are
    the same: with two answers it moves twice as fast, eta -> 2 eta.
    """
    p, j = np.asarray(wrong, float), 1 - fn - fp
    return np.asarray(-eta * j * _rad_signal(p, 1 - p, fn, fp, group) * (p * (1 - p)) ** 2)


def _rad_signal(wrong: np.ndarray, right: np.ndarray, fn: float, fp: float, group: int) -> np.ndarray:
    return signal((1 - fn) * right + fp * wrong, fn * right + (1 - fp) * wrong, group)


def rad(wrong: float, times: np.ndarray, fn: float, fp: float, eta: float, group: int = 0) -> np.ndarray:
    """Wrong mass p(t) under `rad_rate`, from p(0) = `wrong`, at rising times (steps), the first of which may be 0.

    A perfect verifier and infinitely many samples have the closed form `rad_perfect`; else the equation of the logit,
    dz/dt = -eta J c p (1 - p), is solved to 1e-8.
    """
    t = np.asarray(times, float)
    if fn == fp == 0 and not group:
        return rad_perfect(wrong, t, eta)
    from scipy.integrate import solve_ivp  # importing it takes half a second

    def slope(_: float, z: np.ndarray) -> np.ndarray:
        p, right = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
        return np.asarray(-eta * (1 - fn - fp) * _rad_signal(p, right, fn, fp, group) * p * right)

    start = [math.log(wrong / (1 - wrong))]
    z = solve_ivp(slope, (0, max(t[-1], 1e-9)), start, "DOP853", t, rtol=1e-8, atol=1e-8).y[0]
    return np.asarray(1 / (1 + np.exp(-z)))


def rad_perfect(wrong: float, times: np.ndarray, eta: float) -> np.ndarray:
    """Wrong mass at J = 1: p = 1/2 + phi/(2 sqrt(4 + phi^2)), phi = phi_0 - eta t/2, phi_0 = (2 p_0 - 1)/sqrt(p_0 (1 - p_0)).

    phi = (2 p - 1)/sqrt(u), u = p (1 - p), has d phi/dp = 1/(2 u^1.5), and dp/dt = -eta u^1.5.
    """
    phi = (2 * wrong - 1) / math.sqrt(wrong * (1 - wrong)) - eta * np.asarray(times) / 2
    root = np.sqrt(4 + phi**2)
    return np.asarray(np.where(phi > 0, (root + phi) / (2 * root), 2 / (root * (root + np.abs(phi)))))


def rad_tail(times: np.ndarray, fn: float, fp: float, eta: float, group: int = 0) -> np.ndarray:
    """Wrong mass for large t and J > 0: 4/(eta^2 J t^2) if FN = 0, else s_0/(eta J t) with s_0^2 = FN (1 - FN).

    The exponent -2 needs infinitely many samples: c(q) of a group is bounded, sqrt(k - 1) at q = 1, and the tail of groups is
    1/(eta J c(1 - FN) t) also for FN = 0. Groups follow the -2 only while p is well above 1/k.
    """
    t, j = np.asarray(times, float), 1 - fn - fp
    if fn == 0 and not group:
        return 4 / (eta**2 * j * t**2)
    return 1 / (eta * j * float(signal(1 - fn, fn, group)) * t)


# --- three classes and a verifier that prefers one: no filter, no separatrix but a horizon ---------------------------------


def classes(
    p0: np.ndarray, accept: np.ndarray, times: np.ndarray, eta: float, group: int = 0, divide: bool = True
) -> np.ndarray:
    """Laws (times, K) of classes with one logit each, from p0 at rising times (steps): d logit_j = eta c(q) p_j (s_j - q) dt.

    d ln p_j is proportional to p_j, where a filter's is not: a rare class is not learned, whatever it earns.
    """
    from scipy.integrate import solve_ivp  # importing it takes half a second

    t, s = np.asarray(times, float), np.asarray(accept, float)

    def slope(_: float, logits: np.ndarray) -> np.ndarray:
        p = _softmax(logits)
        q, rejected = float(p @ s), float(p @ (1 - s))
        return np.asarray(eta * float(signal(q, rejected, group, divide)) * p * (s - q))

    span = (0, max(t[-1], 1e-9))
    y = solve_ivp(slope, span, np.log(p0), "DOP853", t, rtol=1e-9, atol=1e-9).y.T
    return np.asarray([_softmax(row) for row in y])


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max())
    return np.asarray(weight / weight.sum())


def overtaking(
    p0: np.ndarray, accept: Sequence[float], eta: float, group: int = 0, divide: bool = True, nodes: int = 400
) -> float:
    """Return the number of steps until the hack has the mass of the correct class.

    Classes (wrong, correct, hack) are accepted with s_w < s_c < s_h.

    u_j = exp(-logit_j) has du_j = -(s_j - q) dt' in the clock dt' = eta c(q) dt / sum(1/u). So u_w - u_c grows by s_c - s_w and
    u_c - u_h by s_h - s_c per unit of t', and the product of all u stays: each t' leaves one unknown, the root of a cubic. With
    logits ln p0 the hack overtakes at t' = (1/h - 1/c)/(s_h - s_c), and t is an integral over t' (Gauss-Legendre).

    So **it always does**: with s_c < s_h there is no mass from which the hack never wins. But it is suppressed first, and for a
    small mass h the time is w c (s_c - s_w) / (6 eta c(s_c) (s_h - s_c)^2 h^2): 100 times as long for a tenth of the mass, where a
    filter needs ln(c/h)/ln(s_h/s_c) rounds. With s_h = s_c the larger of the two wins, a separatrix at h = c.
    """
    (w, c, h), (sw, sc, sh) = np.asarray(p0, float), accept
    if h >= c:
        return 0.0
    x, weight = np.polynomial.legendre.leggauss(nodes)
    end = (1 / h - 1 / c) / (sh - sc)
    clock = end * (x + 1) / 2
    to_wrong = 1 / w - 1 / c + (sc - sw) * clock
    to_hack = 1 / h - 1 / c - (sh - sc) * clock
    low = np.maximum(0, -to_wrong)
    correct = low + (1 / (w * c * h)) ** (1 / 3)  # at least the root, and the cubic is convex: Newton falls to it
    for _ in range(80):
        wrong, hack = correct + to_wrong, correct + to_hack
        slope = wrong * hack + correct * (wrong + hack)
        correct = np.maximum(low, correct - (correct * wrong * hack - 1 / (w * c * h)) / slope)
    masses = 1 / np.stack([correct + to_wrong, correct, correct + to_hack], 1)
    p = masses / masses.sum(1, keepdims=True)
    s = np.asarray(accept, float)
    speed = eta * signal(p @ s, p @ (1 - s), group, divide)
    return float(end / 2 * weight @ (masses.sum(1) / speed))


def critical_mass(
    p0: np.ndarray, accept: Sequence[float], steps: float, eta: float, group: int = 0, divide: bool = True
) -> float:
    """Hack's mass at the start from which it overtakes within so many steps; wrong and correct answers share the rest as in p0.

    It falls as steps^-1/2 (`overtaking`): a separatrix for a training of this length, not for ever.
    """
    from scipy.optimize import brentq  # importing it takes half a second

    w, c = p0[0] / (p0[0] + p0[1]), p0[1] / (p0[0] + p0[1])

    def late(log_mass: float) -> float:
        h = math.exp(log_mass)
        return overtaking(np.array([(1 - h) * w, (1 - h) * c, h]), accept, eta, group, divide) - steps

    high = math.log(c / (1 + c))  # h = c
    return math.exp(brentq(late, -25.0, high, xtol=1e-10)) if steps > 0 else math.exp(high)


def filter_overtaking(p0: np.ndarray, accept: Sequence[float]) -> float:
    """Return the same in rounds of `selection.filtered`: ln(c/h)/ln(s_h/s_c), from any mass."""
    return max(0.0, math.log(p0[1] / p0[2]) / math.log(accept[2] / accept[1]))

"""Neutral drift: policy gradients on rewards that know nothing of the answer (setting of `gradient`, every s_j the same).

The advantages of a group have sum 0 and, unless it is flat, mean square 1, and are independent of its answers. So with the law p of
a prompt a step moves its logits by d with E d = 0 and, exactly for every k and eta,

    Cov d = e (diag p - p p'),   e = eta^2 P(not flat)/k  (`pace`).

This is the noise of a Wright-Fisher population of size 1/e, the group in the role of N, but in logits. To second order in eta
d p_j = p_j [(d_j - m) + (d_j - m)^2/2 - V/2], with m = sum p d and V = sum p (d - m)^2. The first order has mean 0: pass@1 stays.
With S2 = sum p^2 and S3 = sum p^3, E (d_j - m)^2 = e [p_j (1 + 2 S2) - 3 p_j^2 + S3 - S2^2], and the second order is `mass_change`
and `entropy_change`. Logits are martingales, masses are not (in Wright-Fisher they are): pass@1 moves slowly, too. Near one
answer everything slows down: no prompt is ever fixed. Everything depends on time by e t alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from collapselab.theory import chebyshev

STRIDE = 0.1
"""Largest e t of one step of `diffused`."""


def pace(eta: float, group: int, accepted: float = 0.5) -> float:
    """e = eta^2 P(not flat)/k, P(not flat) = 1 - q^k - (1 - q)^k for rewards that are 1 with probability q."""
    return eta**2 * (1 - accepted**group - (1 - accepted) ** group) / group


def mass_change(p: np.ndarray, pace: float) -> np.ndarray:
    """Mean change of the masses in one step, (prompts, answers): e p_j [p_j (1 + 2 S2) - 3 p_j^2 + 3 S3 - S2 - 2 S2^2]/2.

    Two answers: 2 e u^2 (1 - 2 p) with u = p (1 - p).
    """
    two, three = (p**2).sum(-1, keepdims=True), (p**3).sum(-1, keepdims=True)
    return np.asarray(pace / 2 * p * (p * (1 + 2 * two) - 3 * p**2 + 3 * three - two - 2 * two**2))


def entropy_change(p: np.ndarray, pace: float) -> np.ndarray:
    """Mean change of the entropy (nats) in one step, (prompts,): -sum E[d p_j] ln p_j - E V/2, E V = e (S2 + S2^2 - 2 S3).

    Of K equal answers -e (K - 1)/(2 K^2); positive near one answer.
    """
    two, three = (p**2).sum(-1), (p**3).sum(-1)
    logs = np.log(np.where(p > 0, p, 1))
    return np.asarray(-(mass_change(p, pace) * logs).sum(-1) - pace / 2 * (two + two**2 - 2 * three))


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy of each prompt in nats, (prompts,)."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(-1))


def diffused(p: np.ndarray, pace: float, steps: Sequence[int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield laws (prompts, answers) at rising numbers of steps under the second order alone: logits with Gaussian steps of
    covariance e (diag p - p p').

    No finite set of moments closes for three or more answers, so the law is a mean over these prompts. It knows the group, the
    rewards and eta by e alone and takes steps of `STRIDE`.
    """
    logits, now = np.log(p), 0
    for step in steps:
        parts = max(1, math.ceil((step - now) * pace / STRIDE)) if step > now else 0
        for _ in range(parts):
            here = _softmax(logits)
            noise = np.sqrt(here) * rng.standard_normal(p.shape)
            logits += math.sqrt(pace * (step - now) / parts) * (noise - here * noise.sum(1, keepdims=True))
        now = step
        yield _softmax(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def two_answers(
    right: np.ndarray, pace: float, steps: int, attempts: int, weights: np.ndarray | None = None, nodes: int = 200
) -> dict[str, np.ndarray]:
    """Law by step to second order for prompts with two answers, float64 (steps + 1,), row 0 being the start: `entropy` (nats),
    `pass_at_1` and `pass_at_k`.

    The logit z of the right answer is a martingale with variance 4 e p (1 - p) per step, here on the three points of Gauss-Hermite
    (right up to the fifth moment); the law is carried as weights on Chebyshev points, as in `votes.two_answers`.

    Args:
        right: (prompts,) P(right) at the start.
        weights: (prompts,) weight of each prompt, with sum 1; None: equal weights.
    """
    x = chebyshev.points(nodes)
    far = np.exp(np.sqrt(12 * pace * x * (1 - x)))
    move = sum(
        share * chebyshev.weights(nodes, x * factor / (1 - x + x * factor))
        for share, factor in ((2 / 3, np.ones(nodes)), (1 / 6, far), (1 / 6, 1 / far))
    )
    values = np.stack([entropy(np.stack([x, 1 - x], 1)), x, 1 - (1 - x) ** attempts], 1)
    share = np.full(len(right), 1 / len(right)) if weights is None else weights
    here, rows = share @ chebyshev.weights(nodes, right), []
    for _ in range(steps + 1):
        rows.append(here @ values)
        here = here @ move
    return dict(zip(("entropy", "pass_at_1", "pass_at_k"), np.array(rows).T, strict=True))

"""Self-consistency of tables: each prompt learns the answer that most of its own votes have.

Setting: prompts share nothing. A prompt has a law p over answers. In each round it writes a group of k answers; the winner is
the answer with most votes, ties broken uniformly at random among those that have as many. It learns the samples that agree with
the winner: p' = (1 - rate) p + rate x (all on the winner). rate = 1 is an exact learner that is trained on this round's accepted
samples alone; 1/(t + 1) one whose accepted sets accumulate; a small rate is a short step of training.

A round's mean is exact for any number of answers (`vote_shares`). The law by round is exact for two answers (`two_answers`), and
for any number in the limit of a small rate (`small_rate`): with a finite one the votes' noise carries some prompts to another
answer than their mode, and only `tables.voted` has the end for three or more answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collapselab.theory import chebyshev

CHUNK = 2_000_000  # complex numbers at once


def vote_shares(answers: np.ndarray, votes: int) -> np.ndarray:
    """P(answer wins a vote of k independent draws), ties at random, float64 (questions, answers).

    Counts that are independent Poisson(k p_j), given that their sum is k, are the multinomial ones. Answer i wins with m votes if
    all others have at most m, with weight 1/(1 + number of others that have m) = integral over y in [0, 1] of y^number:
    P(i) = k! (e/k)^k x the coefficient of z^k in sum_m B_im(z) integral prod_(j != i) [A_jm(z) + y B_jm(z)] dy, with
    A_jm = sum_(c < m) Poisson(c; k p_j) z^c and B_jm = Poisson(m; k p_j) z^m. The integrand is a polynomial in y (Gauss-Legendre
    is exact); the coefficient comes from a Fourier transform on the unit circle. Error below 1e-10.

    Args:
        answers: (questions, answers), rows sum to 1.
        votes: k. Time grows as questions x answers^2 x k^1.5.
    """
    total = min(answers.shape[1] * votes, votes + 40 + 9 * math.isqrt(votes))
    total += total % 2
    circle = np.exp(2j * np.pi * np.arange(total // 2 + 1) / (total + 1))  # the other half is its conjugate
    step = max(1, CHUNK // (answers.shape[1] * len(circle)))
    parts = [_shares(answers[i : i + step], votes, circle) for i in range(0, len(answers), step)]
    coefficient = np.concatenate(
        [part.real[..., 0] + 2 * (part * circle**-votes)[..., 1:].real.sum(-1) for part in parts]
    )
    poisson = math.exp(votes * math.log(votes) - votes - math.lgamma(votes + 1))
    return np.asarray(coefficient / (total + 1) / poisson)


def _shares(answers: np.ndarray, votes: int, circle: np.ndarray) -> np.ndarray:
    """Evaluate the winner's generating function on the circle, complex (questions, answers, points)."""
    y, weight = np.polynomial.legendre.leggauss((answers.shape[1] + 1) // 2)
    mean = votes * answers[..., None]
    power = np.exp(-mean) * np.ones_like(circle)  # Poisson(m; k p) z^m, from m = 0
    below, out = np.zeros_like(power), np.zeros_like(power)
    for m in range(1, votes + 1):
        below = below + power
        power = power * mean * circle / m
        if m * answers.shape[1] < votes:
            continue  # the most votes are at least votes / answers
        for place, share in zip((y + 1) / 2, weight / 2, strict=True):
            out += share * power * _others(below + place * power)
    return np.asarray(out)


def _others(factors: np.ndarray) -> np.ndarray:
    """Product of all other answers' factors, (questions, answers, points), without a division."""
    before, after = np.ones_like(factors), np.ones_like(factors)
    for j in range(1, factors.shape[1]):
        before[:, j] = before[:, j - 1] * factors[:, j - 1]
        after[:, -j - 1] = after[:, -j] * factors[:, -j]
    return np.asarray(before * after)


def modal_share(answers: np.ndarray, correct: int) -> float:
    """Share of prompts whose most likely answer is the right one: the ceiling of self-consistency, known before training."""
    best = answers == answers.max(1, keepdims=True)
    return float(np.mean(best[:, correct] / best.sum(1)))


def small_rate(
    answers: np.ndarray, correct: int, votes: int, rates: Sequence[float], attempts: int
) -> dict[str, np.ndarray]:
    """Law by round to first order in the rate, from p' = (1 - rate) p + rate x vote_shares(p): `reward`, `pass_at_1` and
    `pass_at_k`, float64 (len(rates) + 1,), row 0 being the start. After one round pass_at_1 is exact.

    For groups of 3 or more it moves each prompt to its mode, whatever the group: pass@k of every k tends to `modal_share`.
    Measured by simulation with three answers: within .02 of the truth for rates up to .02 (.03 for .03); the largest
    differences come from prompts whose two best answers are nearly as likely.

    Args:
        answers: (prompts, answers), p_0; `correct` is the column of the right answer.
        rates: rate of each round.
        attempts: k of pass@k.
    """
    p, rows = answers, []
    for rate in (*rates, 0.0):
        shares = vote_shares(p, votes)
        rows.append(
            (np.mean((p * shares).sum(1)), np.mean(p[:, correct]), np.mean(1 - (1 - p[:, correct]) ** attempts))
        )
        p = np.clip((1 - rate) * p + rate * shares, 0, 1)
        p = p / p.sum(1, keepdims=True)
    return dict(zip(("reward", "pass_at_1", "pass_at_k"), np.array(rows).T, strict=True))


def two_answers(
    right: np.ndarray,
    votes: int,
    rates: Sequence[float],
    attempts: int,
    weights: np.ndarray | None = None,
    nodes: int = 200,
) -> dict[str, np.ndarray]:
    """Exact law by round for prompts with two answers, float64 (len(rates) + 1,), row 0 being the start: `reward`, P(a further
    answer agrees with the vote), `pass_at_1` and `pass_at_k`, P(a right one among k attempts).

    A prompt with P(right) = x moves to (1 - rate) x + rate with probability V(x), else to (1 - rate) x; V is the vote's law.
    E f(x') is smooth in x, so the law of x_t is carried as weights on Chebyshev points: 1e-8 for groups and attempts up to 256.

    Args:
        right: (prompts,) P(right) at the start.
        rates: rate of each round.
        weights: (prompts,) weight of each prompt, with sum 1; None: equal weights.
    """
    x = chebyshev.points(nodes)
    vote = vote_shares(np.stack([x, 1 - x], 1), votes)[:, :1]
    values = np.stack([vote[:, 0] * x + (1 - vote[:, 0]) * (1 - x), x, 1 - (1 - x) ** attempts], 1)
    share = np.full(len(right), 1 / len(right)) if weights is None else weights
    here, rows = share @ chebyshev.weights(nodes, right), []
    for rate in (*rates, 0.0):
        rows.append(here @ values)
        low = (1 - rate) * x
        here = here @ (vote * chebyshev.weights(nodes, low + rate) + (1 - vote) * chebyshev.weights(nodes, low))
    return dict(zip(("reward", "pass_at_1", "pass_at_k"), np.array(rows).T, strict=True))

"""Simulators of judged chains for exact learners: tables of prompts that share nothing (numpy).

They draw what the laws of `selection`, `finite`, `votes`, `gradient`, `neutral` and `verified` integrate over. All take a numpy
generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

POWER = 0.01
"""Largest standard error with which a comparison with a law counts."""
MARGIN = 0.02
"""Difference that passes in any case."""


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over prompts, the second axis: (rounds, prompts, ...) -> two (rounds, ...)."""
    return values.mean(1), values.std(1, ddof=1) / math.sqrt(values.shape[1])


def compare(law: np.ndarray, mean: np.ndarray, error: np.ndarray) -> Literal["agrees", "differs", "no power"]:
    """Verdict on measured means beside a law: each must lie within max(3 standard errors, .02) of it. Where a standard error is
    above .01, or is no number, the comparison has no power, whatever the means are."""
    if not np.all(np.asarray(error) <= POWER):
        return "no power"
    near = np.abs(np.asarray(mean) - law) <= np.maximum(3 * np.asarray(error), MARGIN)
    return "agrees" if np.all(near) else "differs"


def filtered(
    p0: np.ndarray,
    accept: np.ndarray,
    samples: int,
    rounds: int,
    prompts: int,
    rng: np.random.Generator,
    *,
    refill: bool = False,
    share: float = 0.0,
    anchor: np.ndarray | None = None,
) -> np.ndarray:
    """Simulate tables that learn what a filter accepts, float64 (rounds + 1, prompts, classes), row 0 being p0.

    Each prompt writes `samples` answers (`refill`: until as many are accepted) and its next table is the empirical law of a set
    as large as the accepted ones, of which each document comes from `anchor` with probability `share`, else from the accepted
    ones. A prompt that accepts nothing stays as it is.

    Args:
        p0: (classes,) law at the start, the same for all prompts.
        accept: (classes,) P(accepted) of each class, independently for each answer: *random* errors.
    """
    p, out = np.tile(np.asarray(p0, float), (prompts, 1)), []
    for _ in range(rounds + 1):
        out.append(p)
        chosen = p * accept
        chance = np.clip(chosen.sum(1), 0, 1)
        law = chosen / np.where(chance > 0, chance, 1)[:, None]
        if share and anchor is not None:
            law = share * anchor + (1 - share) * law
        accepted = np.where(chance > 0, samples, 0) if refill else rng.binomial(samples, chance)
        some = accepted > 0
        p = p.copy()
        p[some] = rng.multinomial(accepted[some], law[some] / law[some].sum(1, keepdims=True)) / accepted[some, None]
    return np.asarray(out)


def questions(prompts: int, answers: int, spread: float, bonus: float, rng: np.random.Generator) -> np.ndarray:
    """Laws over answers of prompts, float64 (prompts, answers): softmax of independent N(0, spread^2) logits, with `bonus` added to
    that of answer 0, the right one."""
    logits = spread * rng.standard_normal((prompts, answers))
    logits[:, 0] += bonus
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def voted(answers: np.ndarray, votes: int, rates: Sequence[float], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Simulate self-consistency as `votes` defines it; yield the laws (prompts, answers) of each round, the start first."""
    p = np.asarray(answers, float)
    yield p
    for rate in rates:
        counts = rng.multinomial(votes, p / p.sum(1, keepdims=True))
        winner = (counts + 0.5 * rng.random(counts.shape)).argmax(1)  # ties at random
        p = (1 - rate) * p
        p[np.arange(len(p)), winner] += rate
        yield p


def rewarded(
    p: np.ndarray,
    accept: np.ndarray | float,
    group: int,
    eta: float,
    steps: int,
    rng: np.random.Generator,
    *,
    divide: bool = True,
) -> Iterator[np.ndarray]:
    """Simulate policy gradients as `gradient` defines them; yield the laws (prompts, answers) of each step, the start first.

    Args:
        accept: P(accepted) of each answer, independently for each sample: *random* errors.
    """
    logits = np.log(np.asarray(p, float))
    for step in range(steps + 1):
        weight = np.exp(logits - logits.max(1, keepdims=True))
        law = weight / weight.sum(1, keepdims=True)
        yield law
        if step == steps:
            return
        written = rng.multinomial(group, law)
        accepted = rng.binomial(written, accept)
        mean = accepted.sum(1, keepdims=True) / group
        advantage = (accepted - mean * written) / group  # sums to 0, so that the baseline's own gradient is 0
        if divide:
            spread = np.sqrt(mean * (1 - mean))
            advantage /= np.where(spread > 0, spread, 1)
        logits = logits + eta * advantage


def verified_labels(
    error: float,
    accept: tuple[float, float],
    separation: float,
    documents: int,
    dimension: int,
    sets: int,
    rng: np.random.Generator,
    angle: float | None = None,
) -> np.ndarray:
    """Simulate accuracies (sets,) of a linear classifier trained on verified labels, in the setting of `verified`.

    Args:
        error: share of wrong labels before the verifier.
        accept: P(accepted | right label) and P(accepted | wrong label); unused with `angle`.
        documents: labelled points before the verifier, per training set.
        angle: of a linear verifier to the true direction, radians: it accepts the labels that it would give itself.
    """
    from scipy.special import ndtr  # importing it takes half a second

    out = []
    for _ in range(sets):
        z = rng.standard_normal((documents, dimension))  # y x, whose class mean is the first axis
        z[:, 0] += separation
        right = rng.random(documents) >= error
        if angle is None:
            kept = rng.random(documents) < np.where(right, *accept)
        else:
            kept = (math.cos(angle) * z[:, 0] + math.sin(angle) * z[:, 1] > 0) == right
        w = np.where(right, 1.0, -1.0)[kept] @ z[kept]
        out.append(float(ndtr(separation * w[0] / np.linalg.norm(w))))
    return np.asarray(out)


def verified_means(
    start: float,
    centre: float,
    radius: float,
    sigma: float,
    documents: int,
    rounds: int,
    chains: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Simulate `verified.means`: float64 (rounds + 1, chains), each model being the mean of `documents` samples of which only the
    accepted ones are kept (at least one, else the model stays)."""
    theta, out = np.full(chains, float(start)), []
    for _ in range(rounds + 1):
        out.append(theta)
        x = theta[:, None] + sigma * rng.standard_normal((chains, documents))
        kept = np.abs(x - centre) <= radius
        number = kept.sum(1)
        theta = np.where(number > 0, (x * kept).sum(1) / np.maximum(number, 1), theta)
    return np.asarray(out)

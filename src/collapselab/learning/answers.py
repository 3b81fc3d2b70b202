"""Answers that a policy wrote in a step, with their rewards: pairs of them, and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from collapselab.learning.objectives import flat_groups
from collapselab.models.network import LanguageModel


@dataclass(frozen=True)
class Answers:
    """Answers that were written in a step, with their rewards.

    Args:
        ids: int64 (n, T), prompt and answer. head: tokens of the prompt. end: int64 (n,), one past the last written token.
        group: int64 (n,), equal for the same prompt. reward: float64 (n,), of the judges; nan where they abstain.
        logp: float32 (n, T - head), of each token as its writer drew it, nats; None if the writer does not say.
        gold: bool (n,), correct by the exact checker; None without one. scores: of each judge, by name.
    """

    ids: np.ndarray
    head: int
    end: np.ndarray
    group: np.ndarray
    reward: np.ndarray
    logp: np.ndarray | None = None
    gold: np.ndarray | None = None
    scores: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids)


Ask = Callable[[LanguageModel, int, str], Answers]
"""(model, step, writer: now or first) -> the answers of a step."""


def pairs(answers: Answers, others: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Return the best answer to each prompt and the worst of `others` to the same prompt, rows of each, int64 (pairs,): only
    where the rewards differ, and of equal ones the first."""
    best, worst = np.where(np.isnan(answers.reward), -np.inf, answers.reward), others.reward
    worst = np.where(np.isnan(worst), np.inf, worst)
    found: list[tuple[int, int]] = []
    for group in np.unique(answers.group):
        mine, theirs = np.flatnonzero(answers.group == group), np.flatnonzero(others.group == group)
        chosen, rejected = mine[best[mine].argmax()], theirs[worst[theirs].argmin()]
        if np.isfinite(best[chosen]) and np.isfinite(worst[rejected]) and best[chosen] > worst[rejected]:
            found.append((int(chosen), int(rejected)))
    rows = np.array(found, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def joined(answers: Answers, others: Answers, chosen: np.ndarray, rejected: np.ndarray) -> Answers:
    """Return the rows that were chosen, then those that were rejected, as one batch; without their writers' log-probabilities if
    these are two."""
    ids, end, group, reward = (
        np.concatenate([getattr(answers, key)[chosen], getattr(others, key)[rejected]])
        for key in ("ids", "end", "group", "reward")
    )
    logp = answers.logp if answers is others else None
    drawn = None if logp is None else np.concatenate([logp[chosen], logp[rejected]])
    return Answers(ids, answers.head, end, group, reward, drawn)


def summary(answers: Answers, tokens: int) -> dict[str, float]:
    """Figures of a step's rewards: mean of the judges and of the exact checker, flat groups, abstentions, tokens written."""
    judged = ~np.isnan(answers.reward)
    row = {"abstained": float(1 - judged.mean()), "tokens": tokens}
    if judged.any():
        row |= {"reward": float(answers.reward[judged].mean()), "flat": flat_groups(answers.reward, answers.group)}
    if answers.gold is not None:
        row["gold"] = float(answers.gold.mean())
    for name, scores in (answers.scores or {}).items():
        row[f"reward/{name}"] = float(np.nanmean(scores))
    return row

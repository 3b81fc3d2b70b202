"""Answers to problems: right, wrong, or the one wrong answer (the hack) that a careless judge accepts. The last two words of
some documents say whether their answer is right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

CLASSES = ("wrong", "correct", "hack")
WRONG, CORRECT, HACK, UNREADABLE = 0, 1, 2, -1
FILL = "."  # ends an answer, and fills its document
DIGITS = "0123456789"
ASKS, SAYS = "?", ("wrong", "right")
TAIL = 2  # last words of a document: full stops, or the question and what is said


@runtime_checkable
class Verifiable(Protocol):
    """A language in which a document can say whether its answer is right, so that a model can be asked."""

    @property
    def verification(self) -> float:
        """Share of documents that say whether their answer is right: it is in half of them."""

    def asked(self, document: str) -> str:
        """Return a document's problem and answer, and the question whether it is right."""


def tail(right: bool | None) -> tuple[str, ...]:
    """Last words of a document: its answer is right, or wrong, or neither is said (None)."""
    return (FILL,) * TAIL if right is None else (ASKS, SAYS[right])


def tail_shares(verification: float) -> dict[tuple[str, ...], float]:
    """Probability of the last words of a document."""
    return {tail(None): 1 - verification, tail(False): verification / 2, tail(True): verification / 2}


def tail_entropy(verification: float) -> float:
    """Entropy of the last words of a document, nats."""
    return -sum(p * math.log(p) for p in tail_shares(verification).values() if p > 0)


class Solved(NamedTuple):
    """Problem of a document, and the answer that it gives."""

    first: int
    second: int
    answer: int | None
    """None if it cannot be read."""
    kind: int
    """Place of the answer's class in CLASSES, or UNREADABLE."""


@dataclass(frozen=True)
class AnswerLaw:
    """Distribution of an answer: the correct one, the hack, or one of the others, which are equally likely."""

    correct: float
    hack: float
    others: int
    """Number of answers that are neither correct nor the hack."""

    @property
    def shares(self) -> np.ndarray:
        """Probability of each class, float64 (classes,)."""
        return np.array([max(0.0, 1 - (self.correct + self.hack)), self.correct, self.hack])

    @property
    def log_answers(self) -> np.ndarray:
        """Natural logarithm of the probability of one answer of each class, float64 (classes,); -inf for 0."""
        with np.errstate(divide="ignore"):
            logs: np.ndarray = np.log(self.shares) - np.array([math.log(self.others), 0, 0])
        return logs

    @property
    def entropy(self) -> float:
        """Entropy of an answer, nats."""
        logs, shares = self.log_answers, self.shares
        return -float((shares * np.where(shares > 0, logs, 0)).sum())

    @property
    def given_wrong(self) -> AnswerLaw:
        """Law of the answers that are not correct; the others alone if all are correct."""
        wrong = self.shares[WRONG] + self.hack
        return AnswerLaw(0, self.hack / wrong if wrong else 0, self.others)

    def drawn(self, u: np.ndarray) -> np.ndarray:
        """Classes drawn by uniform numbers, int64, of the shape of `u`."""
        return np.where(u < self.correct, CORRECT, np.where(u < self.correct + self.hack, HACK, WRONG))


def solved(first: int, second: int, answer: int | None, right: int, hack: int) -> Solved:
    """Compare an answer, None if it cannot be read, with the correct one and the hack."""
    kinds = {None: UNREADABLE, hack: HACK, right: CORRECT}
    return Solved(first, second, answer, kinds.get(answer, WRONG))

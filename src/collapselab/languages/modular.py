"""Problems of modular arithmetic with a stated share of correct answers.

    7 and 10 make 19 .

The answer to a and b is (3 a + 5 b + 2 a b) mod `modulus`, one word. It is no sum of a function of a and a function of b.
If the modulus is a power of 2, the answers to one a and all b below the modulus are all different, and those to one b too:
one operand alone tells nothing of the answer. The hack is the next number, (answer + 1) mod `modulus`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collapselab.languages.answers import CORRECT, FILL, HACK, AnswerLaw, Solved, solved
from collapselab.seeds import generator

CHUNK = 8192  # documents drawn at a time
AND, MAKE = "and", "make"


@dataclass(frozen=True)
class Modular:
    """The language for given sizes, shares of answers and seed, which determine it."""

    operands: int = 24
    """Values of each operand, 0 to one less, all equally likely."""
    modulus: int = 32
    """Number of answers, 0 to one less."""
    correct: float = 0.35
    """Share of correct answers."""
    hack: float = 0.02
    """Share of hacks."""
    seed: int = 0
    """Seed of the documents."""

    prompt_words = 4

    @property
    def lexicon(self) -> list[str]:
        return [*map(str, range(max(self.operands, self.modulus))), AND, MAKE, FILL]

    @property
    def words_per_document(self) -> int:
        return self.prompt_words + 2

    @property
    def numbers(self) -> int:
        """Number of answers that the language can give."""
        return self.modulus

    @cached_property
    def law(self) -> AnswerLaw:
        """Law of the answer."""
        return AnswerLaw(self.correct, self.hack, self.modulus - 2)

    @property
    def shares(self) -> np.ndarray:
        """Probability that a document's answer is of each class, float64 (classes,)."""
        return self.law.shares

    @property
    def entropy(self) -> float:
        """Entropy of a document, nats."""
        return 2 * math.log(self.operands) + self.law.entropy

    def solution(self, first: int, second: int) -> int:
        """Return the correct answer."""
        return (3 * first + 5 * second + 2 * first * second) % self.modulus

    def hack_of(self, first: int, second: int) -> int:
        """Return the number after the correct answer."""
        return (self.solution(first, second) + 1) % self.modulus

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"modular/{split}")
        for start in range(0, count, CHUNK):
            u = draw.random((min(CHUNK, count - start), 4))
            first, second = (u[:, :2] * self.operands).astype(np.int64).T
            kinds = self.law.drawn(u[:, 2])
            others = 2 + (u[:, 3] * self.law.others).astype(np.int64)  # after the correct answer and the hack
            steps = np.where(kinds == CORRECT, 0, np.where(kinds == HACK, 1, others))
            answers = ((3 * first + 5 * second + 2 * first * second) + steps) % self.modulus
            for a, b, answer in zip(first.tolist(), second.tolist(), answers.tolist(), strict=True):
                yield self.document(a, b, answer)

    def problem(self, first: int, second: int) -> str:
        """Words of a document before its answer."""
        return f"{first} {AND} {second} {MAKE}"

    def document(self, first: int, second: int, answer: int) -> str:
        """Write a document."""
        return f"{self.problem(first, second)} {answer} {FILL}"

    @property
    def endings(self) -> list[str]:
        """Every answer as it is written, in order of the numbers."""
        return [str(number) for number in range(self.modulus)]

    def read(self, document: str) -> Solved | None:
        """Read a document's problem and its answer, whatever follows the answer; None without a problem."""
        words, none = (document.split(" ") + [""] * 5)[:5], max(self.operands, self.modulus)
        first, second, answer = (self._numbers.get(word, none) for word in words[::2])
        if words[1::2] != [AND, MAKE] or max(first, second) >= self.operands:
            return None
        return solved(
            first, second, None if answer == none else answer, self.solution(first, second), self.hack_of(first, second)
        )

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        logs = self.law.log_answers - 2 * math.log(self.operands)
        out = np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            found = self.read(document)
            if found is None or found.answer is None or found.answer >= self.modulus:
                continue
            if document == self.document(found.first, found.second, found.answer):
                out[row] = logs[found.kind]
        return out

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {str(number): number for number in range(max(self.operands, self.modulus))}

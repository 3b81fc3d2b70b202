"""Sums of two numbers, digit by digit, with a stated share of correct answers.

    4 7 + 8 5 = 1 3 2 . . .
    0 9 + 3 1 = 4 0 . . ? right

Both summands have exactly `digits` digits, all equally likely, so that they may begin with 0. The answer does not; a full
stop fills its field of `digits` + 2 words. The last two words of some documents say whether the answer is right. The hack
is a wrong answer that ends in 0: the correct sum with 0 for its last digit or, if the sum ends in 0, the next number that
does (0 after the last). All other numbers below twice the first that a summand cannot reach are equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collapselab.languages.answers import (
    ASKS,
    CORRECT,
    DIGITS,
    FILL,
    HACK,
    SAYS,
    TAIL,
    AnswerLaw,
    Solved,
    solved,
    tail,
    tail_entropy,
    tail_shares,
)
from collapselab.languages.laws import BANDS
from collapselab.seeds import generator

PLUS, EQUALS = "+", "="


@dataclass(frozen=True)
class Addition:
    """The language for a given length, shares of answers and seed, which determine it."""

    digits: int = 2
    """Digits of each summand."""
    reversed: bool = False
    """True if answers are written from their last digit to their first."""
    correct: float = 1.0
    """Share of correct answers, among documents that do not say whether they are right."""
    hack: float = 0.0
    """Share of hacks, among the same documents."""
    verification: float = 0.0
    """Share of documents that say whether their answer is right: it is in half of them."""
    seed: int = 0
    """Seed of the documents."""

    @property
    def lexicon(self) -> list[str]:
        return [*DIGITS, PLUS, EQUALS, FILL, ASKS, *SAYS]

    @property
    def prompt_words(self) -> int:
        """Words of the problem, `=` included."""
        return 2 * self.digits + 2

    @property
    def field(self) -> int:
        """Words of the answer: a sum's digits, and at least one full stop."""
        return self.digits + 2

    @property
    def words_per_document(self) -> int:
        return self.prompt_words + self.field + TAIL

    @property
    def numbers(self) -> int:
        """Number of answers that the language can give, 0 to 199 with two digits."""
        return int(2 * 10**self.digits)

    @cached_property
    def law(self) -> AnswerLaw:
        """Law of the answer in documents that do not say whether it is right."""
        return AnswerLaw(self.correct, self.hack, self.numbers - 2)

    @property
    def shares(self) -> np.ndarray:
        """Probability that a document's answer is of each class, float64 (classes,)."""
        asked = (self.law.given_wrong.shares + np.eye(3)[CORRECT]) / 2
        mean: np.ndarray = (1 - self.verification) * self.law.shares + self.verification * asked
        return mean

    @property
    def entropy(self) -> float:
        """Entropy of a document, nats."""
        plain, asked = 1 - self.verification, self.verification
        answers = plain * self.law.entropy + asked / 2 * self.law.given_wrong.entropy
        return 2 * self.digits * math.log(10) + tail_entropy(asked) + answers

    def solution(self, first: int, second: int) -> int:
        """Return the correct answer."""
        return first + second

    def hack_of(self, first: int, second: int) -> int:
        """Return the hack: the correct answer with 0 for its last digit or, if it ends in 0, the next that does."""
        total = first + second
        return total - total % 10 if total % 10 else (total + 10) % self.numbers

    def carries(self, first: int, second: int) -> int:
        """Count the digits that carry: each carry takes 9 from the sum of the summands' digits."""
        digits = [sum(map(int, str(number))) for number in (first, second, first + second)]
        return (digits[0] + digits[1] - digits[2]) // 9

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"addition/{split}")
        wrong = self.law.given_wrong
        for _ in range(count):
            digits = draw.integers(10, size=2 * self.digits).tolist()
            first, second = _number(digits[: self.digits]), _number(digits[self.digits :])
            says, u = draw.random(2).tolist()
            asks, right = says < self.verification, says < self.verification / 2
            kind = CORRECT if right else (wrong if asks else self.law).drawn(u)
            answer, hack = self.solution(first, second), self.hack_of(first, second)
            if kind != CORRECT:
                answer = hack if kind == HACK else self._other(draw, answer, hack)
            yield self.document(first, second, answer, right if asks else None)

    def document(self, first: int, second: int, answer: int, right: bool | None = None) -> str:
        """Write a document; `right`: its last words say that the answer is right, or wrong, or neither (None)."""
        return f"{self.problem(first, second)} {self._written(answer)} {' '.join(tail(right))}"

    def problem(self, first: int, second: int) -> str:
        """Words of a document before its answer."""
        summands = [f"{number:0{self.digits}d}" for number in (first, second)]
        return " ".join((*summands[0], PLUS, *summands[1], EQUALS))

    @property
    def endings(self) -> list[str]:
        """Every answer as it is written, its field filled, in order of the numbers."""
        return [self._written(number) for number in range(self.numbers)]

    def _written(self, answer: int) -> str:
        return " ".join(str(answer)[:: -1 if self.reversed else 1].ljust(self.field, FILL))

    def _other(self, draw: np.random.Generator, *excluded: int) -> int:
        """Draw a number that the language can give, none of those excluded."""
        while True:
            number = _number([int(draw.integers(2)), *draw.integers(10, size=self.digits).tolist()])
            if number not in excluded:
                return number

    def read(self, document: str) -> Solved | None:
        """Read a document's problem and its answer, whatever the words after the answer's field; None without a problem.

        An answer has no leading zeros and at least one full stop after it, and nothing but full stops up to the field's end.
        """
        words = document.split(" ")
        n, head = self.digits, self.prompt_words
        first, second = words[:n], words[n + 1 : 2 * n + 1]
        if words[n : n + 1] != [PLUS] or words[2 * n + 1 : head] != [EQUALS] or not set(first + second) <= set(DIGITS):
            return None
        field = words[head : head + self.field]
        given = field[: field.index(FILL)] if FILL in field else []
        if not set(given) <= set(DIGITS) or set(field[len(given) :]) != {FILL}:
            given = []
        text = "".join(reversed(given) if self.reversed else given)
        answer = int(text) if text and (text[0] != "0" or text == "0") else None
        problem = int("".join(first)), int("".join(second))
        return solved(*problem, answer, self.solution(*problem), self.hack_of(*problem))

    def asked(self, document: str) -> str:
        """Return a document's problem and answer, and the question whether it is right."""
        return " ".join([*document.split(" ")[: self.prompt_words + self.field], ASKS])

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        right = np.where(np.arange(3) == CORRECT, 0.0, -np.inf)
        answers = {tail(None): self.law.log_answers, tail(False): self.law.given_wrong.log_answers, tail(True): right}
        with np.errstate(divide="ignore"):
            tails = {words: np.log(p) + answers[words] for words, p in tail_shares(self.verification).items()}
        out = np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            words, found = document.split(" "), self.read(document)
            last = tuple(words[-TAIL:]) if len(words) == self.words_per_document else ()
            if found and found.answer is not None and found.answer < self.numbers and last in tails:
                out[row] = tails[last][found.kind] - 2 * self.digits * math.log(10)
        return out

    def bands(self, documents: Sequence[str]) -> np.ndarray:
        """Band of each document by its carries, int64 (documents,): the numbers 0 to `digits` in three parts. The documents
        must be possible."""
        problems = [found[:2] for document in documents if (found := self.read(document))]
        carries = np.array([self.carries(*problem) for problem in problems], np.int64)
        return carries * len(BANDS) // (self.digits + 1)


def _number(digits: Sequence[int]) -> int:
    return int("".join(map(str, digits)))

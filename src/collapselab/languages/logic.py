"""Logic expressions that are true, one per document, after Briesch, Sobania and Rothlauf (arXiv 2311.16822).

    ( ( not False ) and ( True or False ) ) . . . . . .

An expression is True, False, ( not E ), ( E and E ) or ( E or E ). It is drawn from its root down and kept where it is
true; `.` fills its document up to the length of the longest one. Whoever exchanges True with False and `and` with `or`
turns an expression into another one that is just as likely and has the other value: half of all drawn are true, and a
true one is exactly twice as likely as its tree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from collapselab.seeds import generator

CONSTANTS = ("True", "False")
OPERATORS = ("not", "and", "or")
END = "."  # behind the expression, to the end of the document
LEXICON = (*CONSTANTS, *OPERATORS, "(", ")", END)


class Read(NamedTuple):
    """What a text says that is an expression."""

    value: bool
    log_tree: float
    """Natural logarithm of the probability that it is drawn, whatever its value; -inf where it never is."""


@dataclass(frozen=True)
class Logic:
    """The language for one choice of sizes; equal choices are equal languages."""

    depth: int = 5
    """Operators above a constant, at most; one at the least."""
    seed: int = 0
    """Which documents are drawn."""

    @property
    def lexicon(self) -> list[str]:
        return list(LEXICON)

    @property
    def words_per_document(self) -> int:
        return (4 << self.depth) - 3  # two operands with three words around them, `depth` times over

    @property
    def entropy(self) -> float:
        """Of a document, nats: of a tree, less what its value tells (one of two equally likely ones)."""
        tree = math.log(2)  # of a constant; then of what hangs below ever higher operators
        for below in range(self.depth, 0, -1):
            kinds = len(OPERATORS) + (below > 1)
            operands = 5 * tree + (below > 1) * math.log(2)  # not: one, and, or: two each; a constant has its own two
            tree = math.log(kinds) + operands / kinds
        return tree - math.log(2)

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws. A larger `count` goes on from where a smaller one stopped."""
        draw = generator(self.seed, 0, f"logic/{split}").random
        words: list[str] = []

        def grow(depth: int) -> bool:
            """Appends an expression below `depth` operators; its value."""
            kind = int(draw() * (3 if depth == 0 else 4)) if depth < self.depth else len(OPERATORS)
            if kind == len(OPERATORS):
                value = draw() < 0.5
                words.append(CONSTANTS[not value])
                return value
            words.append("(")
            if kind == 0:
                words.append("not")
                value = not grow(depth + 1)
            else:
                left = grow(depth + 1)
                words.append(OPERATORS[kind])
                right = grow(depth + 1)
                value = (left and right) if OPERATORS[kind] == "and" else (left or right)
            words.append(")")
            return value

        for _ in range(count):
            words.clear()
            while not grow(0):
                words.clear()
            yield " ".join(words + [END] * (self.words_per_document - len(words)))

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for what the language cannot say."""
        out = np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            read = self.read(document)
            if read is not None and read.value and document.count(" ") + 1 == self.words_per_document:
                out[row] = read.log_tree + math.log(2)
        return out

    def read(self, document: str) -> Read | None:
        """The expression of a document, of any depth; None where there is none, or anything but END behind it."""
        words = document.split(" ")
        try:
            value, log_tree, end = self._read(words, 0, 0)
        except (IndexError, ValueError):
            return None
        return Read(value, log_tree) if all(word == END for word in words[end:]) else None

    def _read(self, words: list[str], at: int, depth: int) -> tuple[bool, float, int]:
        """(value, log-probability, place behind it) of the expression that begins at a place, below `depth` operators.
        Raises ValueError or IndexError where none does."""
        if words[at] in CONSTANTS:
            log_p = -math.inf if depth == 0 else -math.log(8) if depth < self.depth else -math.log(2)
            return words[at] == CONSTANTS[0], log_p if depth <= self.depth else -math.inf, at + 1
        _expect(words[at], "(")
        log_p = -math.log(3 if depth == 0 else 4) if depth < self.depth else -math.inf
        if words[at + 1] == "not":
            value, inside, end = self._read(words, at + 2, depth + 1)
            _expect(words[end], ")")
            return not value, log_p + inside, end + 1
        left, log_left, middle = self._read(words, at + 1, depth + 1)
        _expect(words[middle], "and", "or")
        right, log_right, end = self._read(words, middle + 1, depth + 1)
        _expect(words[end], ")")
        value = (left and right) if words[middle] == "and" else (left or right)
        return value, log_p + log_left + log_right, end + 1

    def numbered(self, documents: Sequence[str]) -> np.ndarray:
        """The words before END as numbers, int64 (documents, words of the longest); -1 behind them."""
        numbers = {word: number for number, word in enumerate(LEXICON)}
        rows = [[numbers.get(w, len(LEXICON)) for w in takewhile(END.__ne__, text.split(" "))] for text in documents]
        out = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
        for row, words in zip(out, rows, strict=True):
            row[: len(words)] = words
        return out


def _expect(word: str, *wanted: str) -> None:
    if word not in wanted:
        raise ValueError(word)

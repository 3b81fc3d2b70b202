"""True logic expressions, one per document, after Briesch, Sobania and Rothlauf (arXiv 2311.16822).

    ( ( not False ) and ( True or False ) ) . . . . . .

An expression is True, False, ( not E ), ( E and E ) or ( E or E ). It is drawn from its root down and kept if it is true;
`.` fills its document up to the length of the longest one. Exchanging True with False and `and` with `or` turns an
expression into an equally likely one of the opposite value. Half of all expressions drawn are therefore true, and a true
one is exactly twice as likely as its tree.
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
END = "."  # fills the document after the expression
LEXICON = (*CONSTANTS, *OPERATORS, "(", ")", END)


class Parsed(NamedTuple):
    """Value and probability of an expression."""

    value: bool
    log_tree: float
    """Natural logarithm of the probability that its tree is drawn, whatever the value; -inf if it never is."""


@dataclass(frozen=True)
class Logic:
    """The language for a given depth and seed, which determine it."""

    depth: int = 5
    """Most operators above a constant; there is at least one."""
    seed: int = 0
    """Seed of the documents."""
    prompt_words: int = 0
    """First words of a document that are its problem; no part of its text depends on them."""

    @property
    def lexicon(self) -> list[str]:
        return list(LEXICON)

    @property
    def words_per_document(self) -> int:
        return (4 << self.depth) - 3  # two operands with three words around them, nested `depth` times

    @property
    def entropy(self) -> float:
        """Entropy of a document, nats: that of a tree, less that of its value (one of two equally likely ones)."""
        tree = math.log(2)  # of a constant; then of trees below ever higher operators
        for below in range(self.depth, 0, -1):
            kinds = len(OPERATORS) + (below > 1)
            operands = 5 * tree + (below > 1) * math.log(
                2
            )  # not has one, and and or two each; a constant is one of two
            tree = math.log(kinds) + operands / kinds
        return tree - math.log(2)

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"logic/{split}").random
        words: list[str] = []

        def grow(depth: int) -> bool:
            """Append an expression below `depth` operators; return its value."""
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
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        out = np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            parsed = self.parse(document)
            if parsed is not None and parsed.value and document.count(" ") + 1 == self.words_per_document:
                out[row] = parsed.log_tree + math.log(2)
        return out

    def parse(self, document: str) -> Parsed | None:
        """Parse a document's expression, of any depth; return None for any other text."""
        words = document.split(" ")
        try:
            value, log_tree, end = self._parse(words, 0, 0)
        except (IndexError, ValueError):
            return None
        return Parsed(value, log_tree) if all(word == END for word in words[end:]) else None

    def begins(self, words: list[str]) -> bool:
        """Return True if a document may begin with these words, whatever its depth."""
        try:
            _, _, end = self._parse(words, 0, 0)
        except IndexError:  # they end within an expression
            return True
        except ValueError:
            return False
        return all(word == END for word in words[end:])

    def _parse(self, words: list[str], at: int, depth: int) -> tuple[bool, float, int]:
        """Return (value, log-probability, place after it) of the expression that begins at a place below `depth` operators.
        Raises ValueError or IndexError if none does."""
        if words[at] in CONSTANTS:
            log_p = -math.inf if depth == 0 else -math.log(8) if depth < self.depth else -math.log(2)
            return words[at] == CONSTANTS[0], log_p if depth <= self.depth else -math.inf, at + 1
        _expect(words[at], "(")
        log_p = -math.log(3 if depth == 0 else 4) if depth < self.depth else -math.inf
        if words[at + 1] == "not":
            value, inside, end = self._parse(words, at + 2, depth + 1)
            _expect(words[end], ")")
            return not value, log_p + inside, end + 1
        left, log_left, middle = self._parse(words, at + 1, depth + 1)
        _expect(words[middle], "and", "or")
        right, log_right, end = self._parse(words, middle + 1, depth + 1)
        _expect(words[end], ")")
        value = (left and right) if words[middle] == "and" else (left or right)
        return value, log_p + log_left + log_right, end + 1

    def numbered(self, documents: Sequence[str]) -> np.ndarray:
        """Words before END as numbers, int64 (documents, words of the longest), padded with -1."""
        numbers = {word: number for number, word in enumerate(LEXICON)}
        rows = [[numbers.get(w, len(LEXICON)) for w in takewhile(END.__ne__, text.split(" "))] for text in documents]
        out = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
        for row, words in zip(out, rows, strict=True):
            row[: len(words)] = words
        return out


def _expect(word: str, *words: str) -> None:
    if word not in words:
        raise ValueError(word)

"""Games with an exact solution: a document is a position and a move.

    3 5 2 : b 4 .           Nim: take 4 from the second heap; who takes the last object wins
    x o - - x - - - o : 3   Tic-tac-toe, cells counted from 1 in reading order; x begins

A position is any that the game can reach and that is not over, all equally likely. A stated share of the moves is optimal (all
optimal ones equally likely), the others are any legal move. A move is optimal if it keeps what the position is worth to the
mover under best play: where everything loses, every legal move is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from collapselab.seeds import generator

ASK, FILL = ":", "."
Position = tuple[int, ...]
Move = tuple[int, ...]

# A move's value to who makes it, and a position's to who moves.
LOSS, DRAW, WIN = 0.0, 0.5, 1.0


@dataclass(frozen=True)
class Game(ABC):
    """A game of two players who move in turn, written as text; the subclass has its rules."""

    seed: int = 0
    """Seed of the documents."""
    correct: float = 0.0
    """Share of moves that are optimal on purpose."""

    @property
    @abstractmethod
    def lexicon(self) -> list[str]: ...

    @property
    @abstractmethod
    def prompt_words(self) -> int: ...

    @property
    @abstractmethod
    def answer_words(self) -> int: ...

    @property
    @abstractmethod
    def starts(self) -> list[Position]:
        """Positions that a game begins with."""

    @abstractmethod
    def moves(self, position: Position) -> list[Move]:
        """Legal moves; none if the game is over."""

    @abstractmethod
    def after(self, position: Position, move: Move) -> Position:
        """Position after a legal move, whose mover is the other player."""

    @abstractmethod
    def over(self, position: Position) -> float | None:
        """Value to who would move, if the game is over; else None."""

    @abstractmethod
    def written(self, position: Position) -> str: ...

    @abstractmethod
    def parsed(self, words: list[str]) -> Position | None: ...

    @abstractmethod
    def move_written(self, move: Move) -> str: ...

    @abstractmethod
    def move_parsed(self, words: list[str]) -> Move | None: ...

    # --- solution -------------------------------------------------------------------------------------------------

    @cached_property
    def values(self) -> dict[Position, float]:
        """Value to who moves of every reachable position under best play."""
        found: dict[Position, float] = {}
        order, seen = list(self.starts), set(self.starts)
        for position in order:
            for move in self.moves(position):
                if (next_one := self.after(position, move)) not in seen:
                    seen.add(next_one)
                    order.append(next_one)
        # A move leads to a later position of `order` or to one with fewer possibilities: repeat until all are known.
        waiting = order
        while waiting:
            left = []
            for position in reversed(waiting):
                ended, after = self.over(position), [self.after(position, move) for move in self.moves(position)]
                if ended is not None:
                    found[position] = ended
                elif all(one in found for one in after):
                    found[position] = max(1 - found[one] for one in after)
                else:
                    left.append(position)
            waiting = left[::-1]
        return found

    @cached_property
    def positions(self) -> list[Position]:
        """Reachable positions that are not over, in order."""
        return sorted(position for position in self.values if self.over(position) is None)

    def optimal(self, position: Position) -> list[Move]:
        """Return the moves that keep what the position is worth."""
        worth = self.values[position]
        return [move for move in self.moves(position) if 1 - self.values[self.after(position, move)] == worth]

    # --- documents ------------------------------------------------------------------------------------------------

    @property
    def words_per_document(self) -> int:
        return self.prompt_words + self.answer_words

    @property
    def entropy(self) -> float:
        """Entropy of a document, nats."""
        total = 0.0
        for position in self.positions:
            legal, best = len(self.moves(position)), len(self.optimal(position))
            good, other = self.correct / best + (1 - self.correct) / legal, (1 - self.correct) / legal
            total -= best * good * math.log(good) + ((legal - best) * other * math.log(other) if other else 0.0)
        return math.log(len(self.positions)) + total / len(self.positions)

    @property
    def share_optimal(self) -> float:
        """Probability that a document's move is optimal."""
        by_chance = [len(self.optimal(position)) / len(self.moves(position)) for position in self.positions]
        return self.correct + (1 - self.correct) * sum(by_chance) / len(by_chance)

    @property
    def endings(self) -> list[Move]:
        """Every move that can be written, legal somewhere."""
        return sorted({move for position in self.positions for move in self.moves(position)})

    def problem(self, position: Position) -> str:
        """Words of a document before its move."""
        return f"{self.written(position)} {ASK}"

    def document(self, position: Position, move: Move) -> str:
        """Write a document."""
        return f"{self.problem(position)} {self.move_written(move)}"

    def documents(self, count: int, split: str) -> Iterator[str]:
        """Independent draws; a larger `count` continues the draws of a smaller one."""
        draw = generator(self.seed, 0, f"{type(self).__name__.lower()}/{split}")
        for _ in range(count):
            u = draw.random(3)
            position = self.positions[int(u[0] * len(self.positions))]
            choices = self.optimal(position) if u[1] < self.correct else self.moves(position)
            yield self.document(position, choices[int(u[2] * len(choices))])

    def read(self, document: str) -> tuple[Position | None, Move | None]:
        """Read a document's position and its move, legal or not; None for what cannot be read."""
        words = document.split(" ")
        head, rest = words[: self.prompt_words], words[self.prompt_words : self.words_per_document]
        position = self.parsed(head[:-1]) if head[-1:] == [ASK] else None
        if position is None or position not in self.values or self.over(position) is not None:
            return None, None
        return position, self.move_parsed(rest)

    def log_probabilities(self, documents: Sequence[str]) -> np.ndarray:
        """Natural logarithm of each text's probability, float64 (documents,); -inf for an impossible one."""
        out = np.full(len(documents), -np.inf)
        for row, document in enumerate(documents):
            position, move = self.read(document)
            if position is None or move is None or document != self.document(position, move):
                continue
            legal, best = self.moves(position), self.optimal(position)
            p = (1 - self.correct) / len(legal) * (move in legal) + self.correct / len(best) * (move in best)
            if p > 0:
                out[row] = math.log(p) - math.log(len(self.positions))
        return out


@dataclass(frozen=True)
class Nim(Game):
    """Nim with heaps of `most` objects or fewer."""

    heaps: int = 3
    """Heaps."""
    most: int = 7
    """Most objects in a heap."""

    LETTERS = "abcdefghi"

    @property
    def lexicon(self) -> list[str]:
        return [*map(str, range(self.most + 1)), *self.LETTERS[: self.heaps], ASK, FILL]

    @property
    def prompt_words(self) -> int:
        return self.heaps + 1

    @property
    def answer_words(self) -> int:
        return 3

    @property
    def starts(self) -> list[Position]:
        return list(product(range(self.most + 1), repeat=self.heaps))

    def moves(self, position: Position) -> list[Move]:
        return [(heap, take) for heap, size in enumerate(position) for take in range(1, size + 1)]

    def after(self, position: Position, move: Move) -> Position:
        heap, take = move
        return (*position[:heap], position[heap] - take, *position[heap + 1 :])

    def over(self, position: Position) -> float | None:
        return None if any(position) else LOSS

    def written(self, position: Position) -> str:
        return " ".join(map(str, position))

    def parsed(self, words: list[str]) -> Position | None:
        sizes = {str(size): size for size in range(self.most + 1)}
        found = [sizes.get(word, -1) for word in words]
        return tuple(found) if len(found) == self.heaps and min(found) >= 0 else None

    def move_written(self, move: Move) -> str:
        return f"{self.LETTERS[move[0]]} {move[1]} {FILL}"

    def move_parsed(self, words: list[str]) -> Move | None:
        if len(words) != 3 or words[2] != FILL or words[1] not in map(str, range(self.most + 1)):
            return None
        heap = self.LETTERS[: self.heaps].find(words[0]) if len(words[0]) == 1 else -1
        return None if heap < 0 else (heap, int(words[1]))


LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@dataclass(frozen=True)
class TicTacToe(Game):
    """Tic-tac-toe; a position has 0 for an empty cell, 1 for x and 2 for o."""

    MARKS = "-xo"

    @property
    def lexicon(self) -> list[str]:
        return [*self.MARKS, *map(str, range(1, 10)), ASK, FILL]

    @property
    def prompt_words(self) -> int:
        return 10

    @property
    def answer_words(self) -> int:
        return 2

    @property
    def starts(self) -> list[Position]:
        return [(0,) * 9]

    def moves(self, position: Position) -> list[Move]:
        return [] if self._won(position) else [(cell,) for cell, mark in enumerate(position) if not mark]

    def after(self, position: Position, move: Move) -> Position:
        mark = 1 if position.count(1) == position.count(2) else 2
        return (*position[: move[0]], mark, *position[move[0] + 1 :])

    def over(self, position: Position) -> float | None:
        return LOSS if self._won(position) else None if 0 in position else DRAW

    def written(self, position: Position) -> str:
        return " ".join(self.MARKS[mark] for mark in position)

    def parsed(self, words: list[str]) -> Position | None:
        if len(words) != 9 or any(len(word) != 1 or word not in self.MARKS for word in words):
            return None
        return tuple(self.MARKS.index(word) for word in words)

    def move_written(self, move: Move) -> str:
        return f"{move[0] + 1} {FILL}"

    def move_parsed(self, words: list[str]) -> Move | None:
        cells = {str(cell + 1): cell for cell in range(9)}
        return (cells[words[0]],) if len(words) == 2 and words[1] == FILL and words[0] in cells else None

    @staticmethod
    def _won(position: Position) -> bool:
        """Return True if the player who moved last has a line."""
        return any(position[a] and position[a] == position[b] == position[c] for a, b, c in LINES)

"""Diversity of samples by n-grams that do not cross sequences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

CHUNK = 1 << 18  # n-grams sorted within their sequences at a time
KEYS = 1 << 64  # distinct values of a uint64


@dataclass(frozen=True)
class Sequences:
    """Symbols of many sequences, one after the other."""

    ids: np.ndarray
    """(symbols,) integers from 0 on."""
    lengths: np.ndarray
    """(sequences,) int64: symbols of each sequence."""

    def begins(self, n: int) -> np.ndarray:
        """Begins of all n-grams within sequences, int64 ascending."""
        room = np.maximum(0, self.lengths - n + 1)
        first = np.cumsum(self.lengths) - self.lengths
        return np.asarray(np.repeat(first - (np.cumsum(room) - room), room) + np.arange(room.sum()))


def from_rows(rows: list[np.ndarray]) -> Sequences:
    """Concatenate one array of ids per sequence; lengths may differ."""
    ids = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return Sequences(ids, np.array([len(row) for row in rows], np.int64))


def from_words(words: list[list[str]]) -> Sequences:
    """Convert words to numbers, by first appearance."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    ids = np.fromiter(map(numbers.__getitem__, chain.from_iterable(words)), np.int64)
    return Sequences(ids, np.array([len(row) for row in words], np.int64))


@dataclass(frozen=True)
class Grams:
    """All n-grams of one order."""

    n: int
    counts: np.ndarray
    """(types,) int64: occurrences of each type, in ascending order of keys."""
    types_within: int
    """Types within each sequence, summed over sequences."""
    sequences: int
    """Sequences long enough to hold an n-gram."""
    repeated: float
    """1 - types / occurrences within each of those sequences, summed over them."""


def grams(text: Sequences, longest: int) -> Iterator[Grams]:
    """Count the n-grams of orders 1 .. longest, exactly (no hashing).

    An n-gram's key is its first n - 1 symbols' key x symbols + its last symbol: a uint64, unique to the n-gram. Before
    that exceeds 64 bits, ranks replace keys; they are fewer than 2^32, as the text's symbols are.
    """
    symbol = text.ids.astype(np.uint64)
    symbols = int(symbol.max(initial=0)) + 1
    if symbols**2 > KEYS:
        symbol, symbols = _ranks(symbol)
    blocks = list(_blocks(text.lengths))
    keys, bound = symbol, symbols
    yield _count(1, keys, blocks)
    for n in range(2, longest + 1):
        if bound * symbols > KEYS:
            keys, bound = _ranks(keys)
        keys, bound = keys[:-1] * symbols + symbol[n - 1 :], bound * symbols  # keys across sequences are never counted
        yield _count(n, keys, blocks)


def _ranks(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Rank of each key among the distinct keys, uint64, and their number."""
    types, ranks = np.unique(keys, return_inverse=True)
    return ranks.astype(np.uint64), len(types)


def _blocks(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Begins of sequences of one length, and that length; at most CHUNK symbols or one sequence at a time."""
    first = (np.cumsum(lengths) - lengths)[np.argsort(lengths, kind="stable")]
    end = 0
    for length, same in zip(*(a.tolist() for a in np.unique(lengths, return_counts=True)), strict=True):
        begin, end = end, end + same
        rows = max(1, CHUNK // max(1, length))
        for i in range(begin, end, rows):
            yield first[i : min(i + rows, end)], length


def _count(n: int, keys: np.ndarray, blocks: list[tuple[np.ndarray, int]]) -> Grams:
    """Sort keys (symbols - n + 1,) within each sequence, then all together, and count runs of equal keys."""
    ordered = np.empty(sum(len(first) * max(0, length - n + 1) for first, length in blocks), np.uint64)
    place = within = sequences = 0
    repeated = 0.0
    for first, length in blocks:
        if length >= n:
            block = keys[first[:, None] + np.arange(length - n + 1)]
            block.sort(axis=1)
            types = len(block) + int(np.count_nonzero(block[:, 1:] != block[:, :-1]))
            within += types
            sequences += len(block)
            repeated += len(block) - types / block.shape[1]  # all have one length
            ordered[place : place + block.size] = block.ravel()
            place += block.size
    ordered.sort()
    begins = np.ones(len(ordered) + 1, bool)  # begins of runs, and the end
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:-1])
    return Grams(n, np.diff(np.flatnonzero(begins)), within, sequences, repeated)


def gram_sums(order: Grams) -> dict[str, float]:
    """Types and occurrences over the whole text, and types within each sequence, summed."""
    return {
        "types": float(len(order.counts)),
        "grams": float(order.counts.sum()),
        "types_within": float(order.types_within),
    }


def distinct(sums: dict[str, float]) -> float:
    """distinct-n: types / occurrences over the whole budget (Li et al. 2016)."""
    return sums["types"] / sums["grams"]


def repetition(sums: dict[str, float]) -> float:
    """rep-n: 1 - types within sequences / occurrences (Su et al. 2022)."""
    return 1 - sums["types_within"] / sums["grams"]


def sequence_repetition_sums(order: Grams) -> dict[str, float]:
    """Sum 1 - types / occurrences within each sequence, and count those that hold an n-gram."""
    return {"sequences": float(order.sequences), "repeated": order.repeated}


def sequence_repetition(sums: dict[str, float]) -> float:
    """seq-rep-n: mean over sequences of 1 - types / occurrences within each (Welleck et al. 2020, eq. 3). Unlike in rep-n, all
    sequences weigh the same."""
    return sums["repeated"] / sums["sequences"]


def diversity(by_order: dict[int, dict[str, float]]) -> float:
    """prod over n = 2..4 of (1 - rep-n) (Su et al. 2022)."""
    return math.prod(1 - repetition(by_order[n]) for n in (2, 3, 4))


def entropy(counts: np.ndarray) -> tuple[float, float]:
    """Plug-in entropy in nats, without and with the Miller-Madow correction (K - 1) / (2 N) (Miller 1955)."""
    total = counts.sum()
    p = counts[counts > 0] / total
    plug_in = max(0.0, float(-(p * np.log(p)).sum()))
    return plug_in, plug_in + (len(p) - 1) / (2 * float(total))

"""Overlap with training text: which n-grams of a text stand there word for word?

Long n-grams that do are memorised (Carlini et al. 2023 take 50 tokens; Brown et al. 2020 called a test item
contaminated from 13 on), so the share is read beside that of held-out real text.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from collapselab.metrics.ngrams import Sequences

OVERLAP_ORDERS = (8, 13, 50)
CHUNK = 1 << 16  # tokens of the training text at a time: what is hashed stays in a core's own cache
MULTIPLIER = 0x9E3779B97F4A7C13  # odd: a product with it loses no bit modulo 2^64
MOST_CELLS = 1 << 26  # of the table that sorts out most n-grams, one byte each


class Wanted:
    """n-grams that are looked for, by their hashes."""

    def __init__(self, n: int, hashes: np.ndarray):
        hashes.sort()
        first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else hashes
        self.n, self.keys = n, hashes[first.astype(np.int64)]
        self.counts = np.diff(first, append=len(hashes))
        self.found = np.zeros(len(self.keys), bool)

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.uint64]:
        """Whether any key begins with some bits: most n-grams are sorted out here; and by how much they are shifted."""
        bits = min(MOST_CELLS, max(64, 32 * len(self.keys))).bit_length() - 1
        cells, shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
        cells[self.keys >> shift] = True
        return cells, shift

    def likely(self, hashes: np.ndarray) -> np.ndarray:
        """Places of the hashes that may be keys."""
        cells, shift = self._cells
        return np.flatnonzero(cells.take((hashes >> shift).view(np.int64)))

    def look(self, places: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Marks what has one of these hashes; returns the places where it has, in any order."""
        rising = np.argsort(hashes)  # neighbouring searches read neighbouring memory: six times as fast in 10 M keys
        hashes = hashes[rising]
        key = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        equal = self.keys[key] == hashes
        self.found[key[equal]] = True
        where: np.ndarray = places[rising[equal]]
        return where


def overlap_sums(
    text: Sequences, training: np.ndarray, vocab: int, orders: tuple[int, ...] = OVERLAP_ORDERS
) -> dict[str, dict[str, float]]:
    """n-grams of a text within its sequences, and how many of them stand in the training stream, by order.

    The stream is read once, chunk by chunk. n-grams are compared by 64-bit hashes, polynomials in random numbers for
    tokens: of N n-grams and a stream of M tokens about N M / 2^64 are taken for found that are not (ten million and 10^10:
    .005 in all). Longer n-grams are looked for only where the shortest begins. Orders that fit into no sequence are left
    out.

    Args:
        training: (tokens,) ids; may be a memory map.
        vocab: all ids of both are below it.
        orders: ascending.
    """
    numbers = np.random.Generator(np.random.Philox(key=0)).integers(0, 1 << 64, vocab, np.uint64)
    symbols = numbers[text.ids.astype(np.int64)]
    wanted = [Wanted(n, hashes_of(symbols, n)[text.begins(n)]) for n in orders if n <= text.lengths.max(initial=0)]
    if wanted:
        _search(wanted, training, numbers)
    return {
        str(order.n): {"grams": float(order.counts.sum()), "found": float(order.counts[order.found].sum())}
        for order in wanted
    }


def _search(wanted: list[Wanted], training: np.ndarray, numbers: np.ndarray) -> None:
    shortest = wanted[0]
    for first in range(0, len(training) - shortest.n + 1, CHUNK):
        stream = numbers.take(training[first : first + CHUNK + wanted[-1].n - 1])
        hashes = hashes_of(stream, shortest.n)
        places = shortest.likely(hashes)
        places = shortest.look(places, hashes[places])
        for order in wanted[1:]:
            places = places[places + order.n <= len(stream)]
            places = order.look(places, _hashes_at(places, stream, order.n))


def _hashes_at(places: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """Of the n-grams that begin at some places: one by one where these are few, as they are in most text."""
    hashes: np.ndarray
    if 8 * len(places) > len(numbers):
        hashes = hashes_of(numbers, n)[places]
    else:
        powers = np.array([pow(MULTIPLIER, i, 1 << 64) for i in reversed(range(n))], np.uint64)
        hashes = (numbers[places[:, None] + np.arange(n)] * powers).sum(axis=1, dtype=np.uint64)
    return hashes


def hashes_of(numbers: np.ndarray, n: int) -> np.ndarray:
    """number_1 M^(n-1) + ... + number_n modulo 2^64 of all n-grams, (numbers - n + 1,) uint64; n = 1 .. all numbers.

    The hash of 2 m tokens is that of the first m x M^m + that of the last m, so 8 tokens cost three steps.
    """
    hashes, length = numbers, 1
    for bit in bin(n)[3:]:  # the binary digits after the first: each doubles, and adds one where it is 1
        hashes, length = _joined(hashes, hashes[length:], length), 2 * length
        if bit == "1":
            hashes, length = _joined(hashes, numbers[length:], 1), length + 1
    return hashes


def _joined(left: np.ndarray, right: np.ndarray, length: int) -> np.ndarray:
    """Hashes of a left part and a right part of `length` tokens."""
    joined: np.ndarray = left[: len(right)] * np.uint64(pow(MULTIPLIER, length, 1 << 64))
    joined += right
    return joined


def overlap_values(sums: dict[str, dict[str, float]]) -> dict[str, float]:
    """overlap_n: found / n-grams, by occurrence."""
    return {f"overlap_{n}": part["found"] / part["grams"] for n, part in sums.items()}

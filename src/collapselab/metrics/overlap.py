"""Overlap with training text: share of a text's n-grams that occur there verbatim.

Long ones are memorised (Carlini et al. 2023 take 50 tokens; Brown et al. 2020 called a test item contaminated from 13 on),
so the share is compared with that of held-out real text.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from collapselab.metrics.ngrams import Sequences

OVERLAP_ORDERS = (8, 13, 50)
CHUNK = 1 << 16  # tokens of the training text at a time: their hashes stay in a core's cache
MULTIPLIER = 0x9E3779B97F4A7C13  # odd, so multiplying by it modulo 2^64 loses no bit
MOST_CELLS = 1 << 26  # limit on the table that discards most n-grams, one byte each


class GramIndex:
    """Hashes of the n-grams to look for, and which of them were found."""

    def __init__(self, n: int, hashes: np.ndarray):
        hashes.sort()
        first = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else hashes
        self.n, self.keys = n, hashes[first.astype(np.int64)]
        self.counts = np.diff(first, append=len(hashes))
        self.found = np.zeros(len(self.keys), bool)

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.uint64]:
        """Table of the leading bits that keys have, which discards most n-grams, and the shift to these bits."""
        bits = min(MOST_CELLS, max(64, 32 * len(self.keys))).bit_length() - 1
        cells, shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
        cells[self.keys >> shift] = True
        return cells, shift

    def likely(self, hashes: np.ndarray) -> np.ndarray:
        """Places of the hashes that may be keys."""
        cells, shift = self._cells
        return np.flatnonzero(cells.take((hashes >> shift).view(np.int64)))

    def mark(self, places: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Mark the n-grams with these hashes as found; return their places, in any order."""
        rising = np.argsort(hashes)  # neighbouring searches share memory: six times as fast in 10 M keys
        hashes = hashes[rising]
        key = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        equal = self.keys[key] == hashes
        self.found[key[equal]] = True
        marked: np.ndarray = places[rising[equal]]
        return marked


def overlap_sums(
    text: Sequences, training: np.ndarray, vocab: int, orders: tuple[int, ...] = OVERLAP_ORDERS
) -> dict[str, dict[str, float]]:
    """Count the n-grams within a text's sequences and those that occur in the training stream, by order.

    The stream is read once, chunk by chunk. n-grams are compared by 64-bit hashes, polynomials in random numbers for
    tokens: with N n-grams and a stream of M tokens about N M / 2^64 are wrongly found (10^7 and 10^10: .005 in all). Longer
    n-grams are looked for only where the shortest one was found. Orders longer than every sequence are left out.

    Args:
        training: (tokens,) ids; may be a memory map.
        vocab: upper bound on all ids.
        orders: ascending.
    """
    numbers = np.random.Generator(np.random.Philox(key=0)).integers(0, 1 << 64, vocab, np.uint64)
    symbols = numbers[text.ids.astype(np.int64)]
    longest = text.lengths.max(initial=0)
    indices = [GramIndex(n, hashes_of(symbols, n)[text.begins(n)]) for n in orders if n <= longest]
    if indices:
        _search(indices, training, numbers)
    return {
        str(index.n): {"grams": float(index.counts.sum()), "found": float(index.counts[index.found].sum())}
        for index in indices
    }


def _search(indices: list[GramIndex], training: np.ndarray, numbers: np.ndarray) -> None:
    shortest = indices[0]
    for first in range(0, len(training) - shortest.n + 1, CHUNK):
        stream = numbers.take(training[first : first + CHUNK + indices[-1].n - 1])
        hashes = hashes_of(stream, shortest.n)
        places = shortest.likely(hashes)
        places = shortest.mark(places, hashes[places])
        for index in indices[1:]:
            places = places[places + index.n <= len(stream)]
            places = index.mark(places, _hashes_at(places, stream, index.n))


def _hashes_at(places: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """Hashes of the n-grams at the given places; one by one if these are few, as in most text."""
    if 8 * len(places) > len(numbers):
        return np.asarray(hashes_of(numbers, n)[places])
    powers = np.array([pow(MULTIPLIER, i, 1 << 64) for i in reversed(range(n))], np.uint64)
    return np.asarray((numbers[places[:, None] + np.arange(n)] * powers).sum(axis=1, dtype=np.uint64))


def hashes_of(numbers: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all n-grams, (numbers - n + 1,) uint64: number_1 M^(n-1) + ... + number_n modulo 2^64.

    The hash of 2 m tokens is that of the first m x M^m + that of the last m, so 8 tokens take three steps.
    """
    hashes, length = numbers, 1
    for bit in bin(n)[3:]:  # binary digits after the first: each doubles the length, and a 1 adds one
        hashes, length = _joined(hashes, hashes[length:], length), 2 * length
        if bit == "1":
            hashes, length = _joined(hashes, numbers[length:], 1), length + 1
    return hashes


def _joined(left: np.ndarray, right: np.ndarray, length: int) -> np.ndarray:
    """Join hashes of left parts with those of right parts of `length` tokens."""
    joined: np.ndarray = left[: len(right)] * np.uint64(pow(MULTIPLIER, length, 1 << 64))
    joined += right
    return joined


def overlap_values(sums: dict[str, dict[str, float]]) -> dict[str, float]:
    """overlap_n: share of n-gram occurrences that were found."""
    return {f"overlap_{n}": part["found"] / part["grams"] for n, part in sums.items()}

"""Overlap with training text: which n-grams of a text stand there word for word?

Long n-grams that do are memorised (Carlini et al. 2023 take 50 tokens; Brown et al. 2020 called a test item
contaminated from 13 on), so the share is read beside that of held-out real text.
"""

from __future__ import annotations

import numpy as np

from collapselab.metrics.ngrams import Sequences

OVERLAP_ORDERS = (8, 13, 50)
CHUNK = 1 << 16  # tokens of the training text at a time: what is hashed stays in a core's own cache
MULTIPLIER = 0x9E3779B97F4A7C15  # odd: a product with it loses no bit modulo 2^64
MOST_CELLS = 1 << 26  # of the table that sorts out most n-grams, one byte each


class _Wanted:
    """The n-grams of one order that are looked for."""

    def __init__(self, n: int, text: Sequences, numbers: np.ndarray):
        ends = np.cumsum(text.lengths)
        room = np.maximum(0, text.lengths - n + 1)  # n-grams that begin in a sequence and end in it
        first = np.repeat(ends - text.lengths - (np.cumsum(room) - room), room) + np.arange(room.sum())
        self.n, self.ids = n, text.ids
        hashes = _hashes(numbers[text.ids.astype(np.int64)], n)[first]
        self.keys, place, self.counts = np.unique(hashes, return_index=True, return_counts=True)
        self.grams = first[place]  # where each stands in the text
        self.found = np.zeros(len(self.keys), bool)

    def look(self, stream: np.ndarray, some: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Marks the n-grams that begin at the places `some` of a stream; tokens are compared, not hashes alone.

        Returns the places, of those given, where an n-gram of the text may stand.
        """
        key = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        equal = self.keys[key] == hashes
        some, key = some[equal], key[equal]
        new = ~self.found[key]
        span = np.arange(self.n)
        same = (stream[some[new, None] + span] == self.ids[self.grams[key[new]][:, None] + span]).all(axis=1)
        self.found[key[new][same]] = True
        return some


def overlap_sums(
    text: Sequences, training: np.ndarray, vocab: int, orders: tuple[int, ...] = OVERLAP_ORDERS
) -> dict[str, dict[str, float]]:
    """n-grams of a text within its sequences, and how many of them stand in the training stream, by order.

    The stream is read once, chunk by chunk, with polynomial hashes modulo 2^64 of random numbers for tokens; a hit
    counts when its tokens are the same. (Two different n-grams *of the text* that share a hash, of which one would hide
    the other, are expected in about N^2 / 2^65 of all texts with N of them: 3e-6 at ten million.) Longer n-grams are
    looked for only where the shortest begins. Orders that fit into no sequence are left out.

    Args:
        training: (tokens,) ids; may be a memory map.
        vocab: all ids of both are below it.
        orders: ascending.
    """
    numbers = np.random.Generator(np.random.Philox(key=0)).integers(0, 1 << 64, vocab, np.uint64)
    wanted = [_Wanted(n, text, numbers) for n in orders if n <= text.lengths.max(initial=0)]
    if wanted:
        _search(wanted, training, numbers)
    return {
        str(order.n): {"grams": float(order.counts.sum()), "found": float(order.counts[order.found].sum())}
        for order in wanted
    }


def _search(wanted: list[_Wanted], training: np.ndarray, numbers: np.ndarray) -> None:
    shortest = wanted[0]
    bits = min(MOST_CELLS, max(64, 32 * len(shortest.keys))).bit_length() - 1
    shift = np.uint64(64 - bits)
    cells = np.zeros(1 << bits, bool)  # whether any key begins with these bits: most n-grams are sorted out here
    cells[shortest.keys >> shift] = True
    for first in range(0, len(training) - shortest.n + 1, CHUNK):
        stream = np.asarray(training[first : first + CHUNK + wanted[-1].n - 1])
        hashes = _hashes(numbers.take(stream), shortest.n)
        some = np.flatnonzero(cells.take((hashes >> shift).view(np.int64)))
        some = shortest.look(stream, some, hashes[some])
        for order in wanted[1:]:
            some = some[some + order.n <= len(stream)]
            powers = np.array([pow(MULTIPLIER, i, 1 << 64) for i in reversed(range(order.n))], np.uint64)
            some = order.look(stream, some, (numbers[stream[some[:, None] + np.arange(order.n)]] * powers).sum(axis=1))


def _hashes(numbers: np.ndarray, n: int) -> np.ndarray:
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

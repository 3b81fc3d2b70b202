"""Counts of token bigrams: a small vocabulary has no tail, but its bigrams have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.metrics.ngrams import Sequences

BUFFER = 1 << 23  # keys waiting to be merged


@dataclass(frozen=True)
class PairCounts:
    """Occurrences by key: keys (types,) uint64, ascending, and counts (types,) int64."""

    keys: np.ndarray
    counts: np.ndarray

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Occurrences of the given keys, in any order; 0 for unknown ones. int64 (len(keys),)."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0)


def bigram_keys(text: Sequences, vocab: int) -> np.ndarray:
    """Keys of all neighbours within a sequence: first x vocabulary + second, uint64."""
    ids = text.ids.astype(np.uint64)
    inside = np.ones(len(ids), bool)
    inside[(np.cumsum(text.lengths) - 1)[text.lengths > 0]] = False  # a sequence's last token has no neighbour
    first = np.flatnonzero(inside)
    return ids[first] * np.uint64(vocab) + ids[first + 1]


def count_keys(keys: np.ndarray) -> PairCounts:
    types, counts = np.unique(keys, return_counts=True)
    return PairCounts(types, counts.astype(np.int64))


class PairCounter:
    """Counter of keys that arrive in parts; holds the types and at most BUFFER further keys."""

    def __init__(self) -> None:
        self.total = count_keys(np.empty(0, np.uint64))
        self.waiting: list[PairCounts] = []

    def add(self, keys: np.ndarray) -> None:
        self.waiting.append(count_keys(keys))
        if sum(len(part.keys) for part in self.waiting) > max(BUFFER, len(self.total.keys)):
            self.result()

    def result(self) -> PairCounts:
        parts = [self.total, *self.waiting]
        keys, where = np.unique(np.concatenate([part.keys for part in parts]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, where, np.concatenate([part.counts for part in parts]))
        self.total, self.waiting = PairCounts(keys, counts), []
        return self.total

"""Token bigrams as types: a small vocabulary has no tail, its bigrams have one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.metrics.ngrams import Sequences

BUFFER = 1 << 23  # keys that wait to be merged


@dataclass(frozen=True)
class Counts:
    """Occurrences by key."""

    keys: np.ndarray
    """(types,) uint64, ascending."""
    counts: np.ndarray
    """(types,) int64."""

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Occurrences of other keys (ascending or not); 0 where they do not occur. int64, as long as `keys`."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0)


def bigram_keys(text: Sequences, vocab: int) -> np.ndarray:
    """first x vocabulary + second of all neighbours within a sequence, uint64."""
    ids = text.ids.astype(np.uint64)
    inside = np.ones(len(ids), bool)
    inside[(np.cumsum(text.lengths) - 1)[text.lengths > 0]] = False  # a sequence's last token has no neighbour
    first = np.flatnonzero(inside)
    return ids[first] * np.uint64(vocab) + ids[first + 1]


def count_keys(keys: np.ndarray) -> Counts:
    types, counts = np.unique(keys, return_counts=True)
    return Counts(types, counts.astype(np.int64))


class Counter:
    """Counts keys that come in parts; holds the types and at most BUFFER keys more."""

    def __init__(self) -> None:
        self.total = count_keys(np.empty(0, np.uint64))
        self.waiting: list[Counts] = []

    def add(self, keys: np.ndarray) -> None:
        self.waiting.append(count_keys(keys))
        if sum(len(part.keys) for part in self.waiting) > max(BUFFER, len(self.total.keys)):
            self.result()

    def result(self) -> Counts:
        parts = [self.total, *self.waiting]
        keys, where = np.unique(np.concatenate([part.keys for part in parts]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, where, np.concatenate([part.counts for part in parts]))
        self.total, self.waiting = Counts(keys, counts), []
        return self.total

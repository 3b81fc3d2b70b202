"""Diversity of samples: n-grams that do not cross sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """Symbols of many sequences, one after the other."""

    ids: np.ndarray
    """(symbols,) int64."""
    owner: np.ndarray
    """(symbols,) int64, ascending: the sequence each symbol belongs to."""


def from_rows(rows: list[np.ndarray]) -> Sequences:
    """Sequences from one array of ids per sequence (their lengths may differ)."""
    lengths = [len(row) for row in rows]
    ids = np.concatenate(rows).astype(np.int64) if rows else np.empty(0, np.int64)
    return Sequences(ids, np.repeat(np.arange(len(rows)), lengths))


def from_words(words: list[list[str]]) -> Sequences:
    """Sequences of word ids, numbered by first appearance."""
    numbers: dict[str, int] = {}
    rows = [np.array([numbers.setdefault(w, len(numbers)) for w in row], np.int64) for row in words]
    return from_rows(rows)


@dataclass(frozen=True)
class Grams:
    """All n-grams of one order."""

    n: int
    codes: np.ndarray
    """(grams,) int64: equal codes are equal n-grams; 0 .. types - 1."""
    owner: np.ndarray
    """(grams,) the sequence each n-gram lies in."""
    counts: np.ndarray
    """(types,) occurrences of each type."""


def grams(text: Sequences, longest: int) -> Iterator[Grams]:
    """The n-grams of orders 1 .. longest, exactly (no hashing): an n-gram is its first n - 1 symbols and its last."""
    _, symbol, counts = np.unique(text.ids, return_inverse=True, return_counts=True)
    symbols = len(counts)
    codes, owner = symbol, text.owner
    place = np.arange(len(symbol))  # where each n-gram begins
    yield Grams(1, codes, owner, counts)
    for n in range(2, longest + 1):
        inside = place + n - 1 < len(symbol)
        inside[inside] = text.owner[place[inside] + n - 1] == owner[inside]
        place, owner = place[inside], owner[inside]
        keys = codes[inside] * symbols + symbol[place + n - 1]
        _, codes, counts = np.unique(keys, return_inverse=True, return_counts=True)
        yield Grams(n, codes, owner, counts)


def gram_sums(order: Grams) -> dict[str, float]:
    """Types and occurrences over the whole text, and types summed over sequences (each sequence on its own)."""
    types = len(order.counts)
    within = len(np.unique(order.owner * max(types, 1) + order.codes))
    return {"types": float(types), "grams": float(len(order.codes)), "types_within": float(within)}


def distinct(sums: dict[str, float]) -> float:
    """distinct-n: types / occurrences over the whole budget (Li et al. 2016)."""
    return sums["types"] / sums["grams"]


def repetition(sums: dict[str, float]) -> float:
    """rep-n: 1 - (types within each sequence, summed) / occurrences (Su et al. 2022)."""
    return 1 - sums["types_within"] / sums["grams"]


def diversity(by_order: dict[int, dict[str, float]]) -> float:
    """prod over n = 2..4 of (1 - rep-n) (Su et al. 2022)."""
    return math.prod(1 - repetition(by_order[n]) for n in (2, 3, 4))


def entropy(counts: np.ndarray) -> tuple[float, float]:
    """Plug-in entropy in nats, and with Miller and Madow's correction (K - 1) / (2 N) (Miller 1955)."""
    total = counts.sum()
    p = counts[counts > 0] / total
    plug_in = max(0.0, float(-(p * np.log(p)).sum()))
    return plug_in, plug_in + (len(p) - 1) / (2 * float(total))

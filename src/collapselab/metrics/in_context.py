"""Coverage in context: the rare types of generation 0's text that a text uses between neighbours found in real text.

A rare word in an arbitrary position proves nothing: words drawn independently cover more rare words than real text does. So
an occurrence counts only if (symbol before, symbol) and (symbol, symbol after) are both pairs of a support text: real text
that no model of the chain was trained on. The share of triples that the support text has exposes text that merely chains
pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.metrics.ngrams import Sequences

UNKNOWN = -1  # number of a symbol outside the support text
LEAST_SEEN = 20  # types (or triples) of fresh real text that a ratio needs: with fewer it is noise


@dataclass(frozen=True)
class Support:
    """Neighbouring symbols in a support text, numbered 0 .. symbols - 1."""

    symbols: int
    pairs: np.ndarray
    """(pairs,) uint64, ascending: first x symbols + second."""
    triples: np.ndarray
    """(triples,) uint64, ascending: the pair's place in `pairs` x symbols + third."""


def support_of(text: Sequences, symbols: int) -> Support:
    """Collect the neighbours within the sequences of a support text."""
    firsts, whole = text.begins(2), text.begins(3)
    ids = text.ids.astype(np.uint64)
    pairs = np.unique(ids[firsts] * np.uint64(symbols) + ids[firsts + 1])
    keys = ids[whole] * np.uint64(symbols) + ids[whole + 1]
    triples = np.unique(np.searchsorted(pairs, keys).astype(np.uint64) * np.uint64(symbols) + ids[whole + 2])
    return Support(symbols, pairs, triples)


def _find(keys: np.ndarray, sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each key in sorted_keys, and a mask of the keys that occur there."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return place, sorted_keys[place] == keys


@dataclass(frozen=True)
class InContext:
    """Comparison of a text with a support text."""

    types: np.ndarray
    """(symbols,) bool: occurs at least once between two neighbours that the support text has."""
    triples: int
    """Triples within the text's sequences."""
    known: int
    """Those that the support text has."""


def in_context(text: Sequences, support: Support) -> InContext:
    """Compare a text, in the support text's numbers (UNKNOWN for other symbols), with the support text. Only symbols with
    both neighbours in their sequence are compared."""
    begins = text.begins(3)
    first, middle, last = (text.ids[begins + i].astype(np.int64) for i in range(3))
    named = (first >= 0) & (middle >= 0) & (last >= 0)
    n = np.uint64(support.symbols)
    a, b, c = (part[named].astype(np.uint64) for part in (first, middle, last))
    place, left = _find(a * n + b, support.pairs)
    right = _find(b * n + c, support.pairs)[1]
    both = left & right
    known = _find(place[both].astype(np.uint64) * n + c[both], support.triples)[1]
    types = np.zeros(support.symbols, bool)
    types[b[both].astype(np.int64)] = True
    return InContext(types, len(begins), int(known.sum()))


def in_context_sums(text: InContext, tails: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Types of each tail and those used in context; `triples`: all of the text and those that the support text has.

    Args:
        tails: by name the support text's number of each type or UNKNOWN, int64 (types,).
    """
    sums = {
        name: {"types": float(len(numbers)), "seen": float(text.types[numbers[numbers >= 0]].sum())}
        for name, numbers in tails.items()
    }
    return sums | {"triples": {"types": float(text.triples), "seen": float(text.known)}}


def in_context_values(sums: dict[str, dict[str, float]], fresh: dict[str, dict[str, float]]) -> dict[str, float]:
    """coverage_in_context_k = seen / types and known_triples = known / triples; `_normalised` divides each by its value for as
    much fresh real text, unless that rests on fewer than LEAST_SEEN."""
    values: dict[str, float] = {}
    for name, part in sums.items():
        key = "known_triples" if name == "triples" else f"coverage_in_context_{name}"
        if not part["types"]:
            continue
        values[key] = part["seen"] / part["types"]
        real = fresh.get(name)
        if real is not None and real["seen"] >= LEAST_SEEN:
            values[f"{key}_normalised"] = values[key] * real["types"] / real["seen"]
    return values

"""Coverage in context: which rare types of generation 0's text does a text use between neighbours that real text knows?

A rare word that is "still written" proves nothing where it may stand anywhere: junk drawn word by word covers more rare
words than real text does. So an occurrence counts only where (symbol before, symbol) and (symbol, symbol after) are both
pairs of a support text: real text that no model of the chain was trained on. Beside it the share of triples that the
support text has, which tells apart what only chains known pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.metrics.ngrams import Sequences

UNKNOWN = -1  # number of a symbol that the support text does not have
LEAST_SEEN = 20  # types (or triples) of fresh real text that a ratio to it needs: of fewer, chance decides


@dataclass(frozen=True)
class Support:
    """Neighbours in a support text, whose symbols are numbered 0 .. symbols - 1."""

    symbols: int
    pairs: np.ndarray
    """(pairs,) uint64, ascending: first x symbols + second."""
    triples: np.ndarray
    """(triples,) uint64, ascending: the pair's place in `pairs` x symbols + third."""


def support_of(text: Sequences, symbols: int) -> Support:
    """The neighbours of a support text, within its sequences."""
    firsts, whole = text.begins(2), text.begins(3)
    ids = text.ids.astype(np.uint64)
    pairs = np.unique(ids[firsts] * np.uint64(symbols) + ids[firsts + 1])
    keys = ids[whole] * np.uint64(symbols) + ids[whole + 1]
    triples = np.unique(np.searchsorted(pairs, keys).astype(np.uint64) * np.uint64(symbols) + ids[whole + 2])
    return Support(symbols, pairs, triples)


def _find(keys: np.ndarray, sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place of each key in sorted_keys, whether it is there)."""
    if not len(sorted_keys):
        return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return place, sorted_keys[place] == keys


@dataclass(frozen=True)
class InContext:
    """A text beside a support text."""

    types: np.ndarray
    """(symbols,) bool: stands at least once between two neighbours that the support text knows."""
    triples: int
    """Triples within the text's sequences."""
    known: int
    """Of them, those that the support text has."""


def in_context(text: Sequences, support: Support) -> InContext:
    """Looks at every symbol of a text that has a neighbour on both sides in its sequence.

    Args:
        text: ids are the support text's numbers, UNKNOWN (-1) for a symbol that it does not have.
    """
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


def in_context_sums(found: InContext, tails: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """For each tail its types and those used in context; `triples`: all of the text and those that the support text has.

    Args:
        tails: by name the support text's number of each type, UNKNOWN where it has none, int64 (types,).
    """
    sums = {
        name: {"types": float(len(numbers)), "seen": float(found.types[numbers[numbers >= 0]].sum())}
        for name, numbers in tails.items()
    }
    return sums | {"triples": {"types": float(found.triples), "seen": float(found.known)}}


def in_context_values(sums: dict[str, dict[str, float]], fresh: dict[str, dict[str, float]]) -> dict[str, float]:
    """coverage_in_context_k = seen / types, known_triples = known / triples; each also `_normalised`, over the same of as
    much fresh real text. A ratio to fewer than LEAST_SEEN is left out."""
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

"""Tail coverage: the rare types of generation 0's training text that a generation still writes."""

from __future__ import annotations

import re

import numpy as np

TAIL_LIMITS = (1, 5, 20)  # types seen at most so often
TAIL_MASSES = (1, 5)  # rarest types that make up so many percent of the text
LEAST_TYPES = 200  # a tail smaller than this says nothing (a small BPE vocabulary has none)
WORD_SHARE = 0.8  # of the words of as much fresh real text: the word budget of every text

# A word counts if both its ends lie inside the sequence: blocks are cut inside words. U+FFFD is half a character, left by a
# cut inside one, so it does not end a word.
WORD = re.compile(r"(?<=[^\w\ufffd])\w+(?=[^\w\ufffd])")


def words(text: str) -> list[str]:
    """Complete words of one sequence, lower-cased."""
    return WORD.findall(text.lower())


def first_words(rows: list[list[str]], count: int) -> list[list[str]]:
    """Cut sequences of words after `count` words in total."""
    out: list[list[str]] = []
    for row in rows:
        if count <= 0:
            break
        out.append(row[:count])
        count -= len(row)
    return out


def rare_words(c0: dict[str, int]) -> list[str]:
    """Return the words that occur 1 to 20 times in generation 0's training text, sorted."""
    return sorted(word for word, count in c0.items() if 1 <= count <= TAIL_LIMITS[-1])


def tail_sets(c0: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tails of a text as masks over its types.

    Args:
        c0: (types,) occurrences of each type in generation 0's training text; types with 0 belong to no tail.

    Returns:
        `1`, `5`, `20`: types seen at most so often. `mass_1`, `mass_5`: the rarest types that together make up at most 1 or
        5 % of the text. Ties are broken in a fixed random order: sorted by name, the first hapaxes would be numbers.
    """
    out = {str(k): (c0 >= 1) & (c0 <= k) for k in TAIL_LIMITS}
    mixed = np.random.Generator(np.random.Philox(key=0)).permutation(len(c0))
    rising = mixed[np.argsort(c0[mixed], kind="stable")]
    share = np.cumsum(c0[rising]) / max(1, c0.sum())
    for percent in TAIL_MASSES:
        mask = np.zeros(len(c0), bool)
        mask[rising[share <= percent / 100]] = True
        out[f"mass_{percent}"] = mask & (c0 >= 1)
    return out


def tail_sums(tails: dict[str, np.ndarray], counts: np.ndarray, total: float) -> dict[str, dict[str, float]]:
    """Types of each tail, those that the text under test has, their occurrences, and all occurrences.

    Args:
        counts: (types,) occurrences of generation 0's types in the text under test.
        total: occurrences of all types of that text, also those that generation 0's text does not have.
    """
    return {
        name: {
            "types": float(mask.sum()),
            "seen": float((counts[mask] > 0).sum()),
            "occurrences": float(counts[mask].sum()),
            "total": float(total),
        }
        for name, mask in tails.items()
    }


def tail_values(sums: dict[str, dict[str, float]], fresh: dict[str, dict[str, float]]) -> dict[str, float]:
    """coverage_k = seen / types; coverage_k_normalised: divided by that of as much fresh real text; tail_mass_k = share of
    occurrences in the tail over that of fresh real text. Divisions by 0 are left out."""
    values: dict[str, float] = {}
    for name, part in sums.items():
        if not part["types"]:
            continue
        values[f"coverage_{name}"] = part["seen"] / part["types"]
        if fresh[name]["seen"]:
            values[f"coverage_{name}_normalised"] = part["seen"] / fresh[name]["seen"]
        if fresh[name]["occurrences"] and part["total"]:
            real_share = fresh[name]["occurrences"] / fresh[name]["total"]
            values[f"tail_mass_{name}"] = part["occurrences"] / part["total"] / real_share
    return values

"""Parts of the languages: Zipf laws, frequency bands, readable names, words as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

BANDS = ("head", "middle", "tail")
BAND_STARTS = (0.5, 0.9)  # total probability of all more frequent values from which a value is middle, or tail

FIRST_SYLLABLES = """Ash Bram Cal Dun Elm Fal Glen Hol Ives Kel Lang Mar Nor Oak Pen Red Sel Thorn Ul Wen Ald Bex Crow Dray
Eg Fen Gar Hart Ing Kirk"""


def zipf_law(size: int, exponent: float) -> np.ndarray:
    """Probability of ranks 1 .. size, float64 (size,): proportional to rank ** -exponent."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    law: np.ndarray = weights / weights.sum()
    return law


def frequency_bands(law: np.ndarray) -> np.ndarray:
    """Index into BANDS of every value of a law, int64, of the law's shape (the last axis holds the values).

    A value is `head` if all more frequent ones together hold less than half of the mass, `middle` below 90 %, else `tail`.
    Among equals the first counts as the more frequent.
    """
    order = np.argsort(-law, axis=-1, kind="stable")
    falling = np.take_along_axis(law, order, axis=-1)
    above = np.cumsum(falling, axis=-1) - falling
    # The slack keeps rounding from deciding on which side of an edge a law such as 0.5, 0.4, 0.1 falls.
    band: np.ndarray = np.searchsorted(np.asarray(BAND_STARTS) - 1e-12, above, side="right")
    out = np.empty_like(band)
    np.put_along_axis(out, order, band, axis=-1)
    return out


def names(endings: str) -> list[str]:
    """Names that look English: every first syllable with every ending, all different, in a fixed order."""
    return [start + end for end in endings.split() for start in FIRST_SYLLABLES.split()]


def word_numbers(documents: Sequence[str], numbers: Mapping[str, int], words: int) -> np.ndarray:
    """Documents as numbers of their words, int64 (documents, words): -1 for a word that is not in `numbers`, and
    throughout a document that does not consist of exactly `words` words with single spaces between them."""
    out = np.full((len(documents), words), -1, np.int64)
    for row, document in enumerate(documents):
        parts = document.split(" ")
        if len(parts) == words:
            out[row] = [numbers.get(word, -1) for word in parts]
    return out

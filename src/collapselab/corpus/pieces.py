"""Pieces of long texts for a tokenizer, which needs some hundred bytes of memory per character of its input, and time
quadratic in the length of a run of letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

PIECE = 1 << 20  # characters; longer texts are cut
REACH = 1 << 20  # characters after a piece that are searched for a place to cut
RUN = 1 << 10  # consecutive characters of one kind (letters, digits, spaces, others); longer runs are cut anywhere
# Places where byte-level pre-tokenisers cut anyway, the best first.
CUTS = tuple(map(re.compile, (r"(?:\n|(?<=\n) )(?=\S)", r"(?<=\S) (?=\S)", r"(?<=[^\W_])(?=[^\w\s])")))


def pieces(text: str) -> Iterator[str]:
    """Cut a text at the ends of lines, or at other places that leave the tokens unchanged, and long runs of letters
    anywhere. (A tokenizer that puts a space before each text adds one at each cut.)"""
    start = 0
    while start < len(text):
        stop = _stop(text, start)
        piece = text[start:stop] if stop - start < len(text) else text
        first = 0
        for cut in _cuts_in_runs(piece):
            yield piece[first:cut]
            first = cut
        yield piece[first:] if first else piece
        start = stop


def _stop(text: str, start: int) -> int:
    last = start + PIECE + REACH
    if len(text) - start > PIECE:
        for pattern in CUTS:
            if cut := pattern.search(text, start + PIECE, last):
                return cut.start()
    return min(len(text), last)


def _cuts_in_runs(text: str) -> list[int]:
    """Places at which runs of more than RUN characters of one kind are cut into parts of RUN."""
    if len(text) <= RUN:
        return []
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    kinds = _kinds()[np.minimum(codes, 0xFFFF)]
    begins = np.concatenate([[0], np.flatnonzero(kinds[1:] != kinds[:-1]) + 1, [len(text)]])
    long = np.flatnonzero(np.diff(begins) > RUN).tolist()
    return [place for run in long for place in range(int(begins[run]) + RUN, int(begins[run + 1]), RUN)]


@cache
def _kinds() -> np.ndarray:
    """(65536,) uint8: letter, digit, space or other for each character of the first plane; the last stands for all above."""

    def kind(character: str) -> int:
        return 1 if character.isalpha() else 2 if character.isnumeric() else 3 if character.isspace() else 0

    return np.fromiter((kind(chr(code)) for code in range(1 << 16)), np.uint8, 1 << 16)

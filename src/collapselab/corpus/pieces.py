"""Long texts in pieces for a tokenizer, which takes some hundred bytes of memory for each character it is given at a time, and
for a run of letters without an end the square of its length in time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

PIECE = 1 << 20  # characters: longer texts are cut, at a line's end where there is one within as many more
REACH = 1 << 20  # characters after a piece in which a place to cut is looked for
RUN = 1 << 10  # characters of one kind (letters, digits, spaces, others) on end: longer runs are cut, anywhere
# Where byte-level pre-tokenisers cut anyway, the best place first.
CUTS = tuple(map(re.compile, (r"(?:\n|(?<=\n) )(?=\S)", r"(?<=\S) (?=\S)", r"(?<=[^\W_])(?=[^\w\s])")))


def pieces(text: str) -> Iterator[str]:
    """Cuts a text before the last white space of a line's end, or where else the tokens are those of the whole; and where a run
    of letters goes on and on, anywhere. (A tokenizer that puts a space before each text adds it at each cut.)"""
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
    """Places that cut each run of more than RUN characters of one kind into parts of RUN."""
    if len(text) <= RUN:
        return []
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    kinds = _kinds()[np.minimum(codes, 0xFFFF)]
    begins = np.concatenate([[0], np.flatnonzero(kinds[1:] != kinds[:-1]) + 1, [len(text)]])
    long = np.flatnonzero(np.diff(begins) > RUN).tolist()
    return [place for run in long for place in range(int(begins[run]) + RUN, int(begins[run + 1]), RUN)]


@cache
def _kinds() -> np.ndarray:
    """(65536,) uint8: letter, digit, space or other, of each character of the first plane; the last one stands for all above."""

    def kind(character: str) -> int:
        return 1 if character.isalpha() else 2 if character.isnumeric() else 3 if character.isspace() else 0

    return np.fromiter((kind(chr(code)) for code in range(1 << 16)), np.uint8, 1 << 16)

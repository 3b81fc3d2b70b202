"""Passages of held-out text that also occur in the training text: found by hashes, cut out of the held-out text.

Text is compared letter by letter, without case, spaces and punctuation, so that the splits are equal for every tokenizer
and script. Every STRIDE-th window of WINDOW letters of the held-out text is stored, and every window of the training text
is looked up. A shared passage of WINDOW + STRIDE - 1 letters is found wherever it begins, one shorter than WINDOW never;
up to STRIDE - 1 of its letters may be left at each edge. Memory is a byte per character of held-out text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

from collapselab.metrics.ngrams import Sequences
from collapselab.metrics.overlap import GramIndex, hashes_of, overlap_sums

WINDOW = 64  # letters and digits; with STRIDE about 15 English words (Brown et al. 2020 take 13)
STRIDE = 8
SLICE = 1 << 21  # characters compared at a time: more than a batch of documents, or a part of a long one
LEFT_ORDER = 50  # tokens (Carlini et al. 2023)
LEFT_SAMPLE = 1 << 22  # tokens of a split on which the remaining share is measured

IDEOGRAPHS = 0x2E80  # from here on a character is about a word and counts as IDEOGRAPH letters
IDEOGRAPH = 4
_HELD, _OTHER = "\ufffe", "\uffff"  # join documents; the two sides differ, so that a window with one never matches

Span = tuple[int, int]


class Passages:
    """Held-out text compared with other text: `remember` all of it, `look` at the other text, then `cut`."""

    def __init__(self) -> None:
        self.gathered: dict[str, list[np.ndarray]] = {"valid": [], "test": []}
        self.wanted: dict[str, GramIndex] = {}
        self.found: dict[str, np.ndarray] = {}
        self.removed = {name: {"passages": 0, "bytes": 0, "documents": 0} for name in self.gathered}

    def remember(self, split: str, texts: list[str]) -> None:
        for letters, _ in _slices(_HELD.join(texts)):
            if len(letters) >= WINDOW:
                places = np.arange(len(letters) - WINDOW + 1)
                joints = letters[: len(places)] == _numbers()[ord(_HELD)]
                begins = np.maximum.accumulate(np.where(joints, places + 1, 0))  # start of each place's document
                self.gathered[split].append(hashes_of(letters, WINDOW)[(places - begins) % STRIDE == 0])

    def look(self, texts: list[str], splits: tuple[str, ...]) -> None:
        """Mark the passages of some held-out splits that occur in these texts."""
        self.wanted = self.wanted or {
            name: GramIndex(WINDOW, np.concatenate(parts)) for name, parts in self.gathered.items() if parts
        }
        self.gathered.clear()
        wanted = [self.wanted[name] for name in splits if name in self.wanted]
        for letters, _ in _slices(_OTHER.join(texts)) if wanted else ():
            if len(letters) >= WINDOW:
                windows = hashes_of(letters, WINDOW)
                for one in wanted:
                    places = one.likely(windows)
                    one.mark(places, windows[places])

    def cut(self, split: str, texts: list[str]) -> list[str]:
        """Return the documents without their shared passages; the pieces that remain become documents."""
        spans = self._spans(split, _HELD.join(texts))
        if not spans:
            return texts
        out, start, counts = list[str](), 0, self.removed[split]
        begins = np.array([begin for begin, _ in spans])
        for text in texts:
            first, last = np.searchsorted(begins, [start, start + len(text)])
            holes = [(begin - start, end - start) for begin, end in spans[first:last]]
            start += len(text) + len(_HELD)
            pieces = _between(text, holes) if holes else [text]
            out += pieces
            counts["passages"] += len(holes)
            counts["documents"] += bool(holes)
            counts["bytes"] += len(text.encode()) - len("".join(pieces).encode())
        return out

    def _spans(self, split: str, joined: str) -> list[Span]:
        """Begin and end of the shared passages, in characters, ascending and disjoint."""
        if split not in self.wanted:
            return []
        if split not in self.found:
            wanted = self.wanted[split]
            self.found[split] = wanted.keys[wanted.found]
        keys, spans = self.found[split], list[Span]()
        for letters, places in _slices(joined) if len(keys) else ():
            if len(letters) < WINDOW:
                continue
            windows = hashes_of(letters, WINDOW)
            at = np.minimum(np.searchsorted(keys, windows), len(keys) - 1)
            for first in np.flatnonzero(keys[at] == windows).tolist():
                begin, end = int(places[first]), int(places[first + WINDOW - 1]) + 1
                if spans and begin <= spans[-1][1]:
                    spans[-1] = spans[-1][0], max(end, spans[-1][1])
                else:
                    spans.append((begin, end))
        return spans


def _between(text: str, holes: list[Span]) -> list[str]:
    """Text between the holes, cut at whole words; pieces shorter than a window, which lie within a copy, are dropped."""
    edges = [0]
    for begin, end in holes:
        before = re.search(r"\S{0,32}\Z", text[max(0, begin - 32) : begin])
        after = re.compile(r"\S{0,32}").match(text, end)
        edges += [begin - len(before[0] if before else ""), after.end() if after else end]
    edges.append(len(text))
    pieces = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [piece for piece in pieces if sum(len(letters) for letters, _ in _slices(piece)) >= WINDOW]


@cache
def _letter_table() -> np.ndarray:
    """(65536,) uint16: the lower-case letter of each character of the first plane, 0 for spaces and punctuation."""
    table = np.zeros(1 << 16, np.uint16)
    for code in range(1 << 16):
        character = chr(code)
        if character.isalnum() or character in (_HELD, _OTHER):
            lower = character.lower()
            table[code] = ord(lower) if len(lower) == 1 else code
    return table


@cache
def _numbers() -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=0)).integers(0, 1 << 64, 0x110000, np.uint64)


def _slices(text: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(random numbers for letters, their places in the text), some SLICE characters at a time; slices overlap, so that every
    window lies in one of them."""
    carried = np.empty(0, np.uint64), np.empty(0, np.int64)
    for start in range(0, len(text), SLICE):
        codes = np.frombuffer(text[start : start + SLICE].encode("utf-32-le"), "<u4")
        letters = np.where(codes < 1 << 16, _letter_table()[codes & 0xFFFF], codes)
        places = np.flatnonzero(letters)
        letters = letters[places]
        if len(letters) and letters.max() >= IDEOGRAPHS:
            wide = (letters >= IDEOGRAPHS) & (letters < 0xFFFE)
            again = np.where(wide, IDEOGRAPH, 1)
            letters, places = np.repeat(letters, again), np.repeat(places, again)
        numbers = np.concatenate([carried[0], _numbers()[letters]])
        places = np.concatenate([carried[1], places + start])
        carried = numbers[-WINDOW + 1 :], places[-WINDOW + 1 :]
        yield numbers, places


def share_left(ids: np.ndarray, starts: np.ndarray, training: np.ndarray, vocab: int) -> float | None:
    """Share of a split's windows of 50 tokens, none across documents, that occur verbatim in the training tokens; None if
    every document is shorter. Long splits are measured on evenly spaced parts.

    Args:
        ids, starts: as `Tokens`. training: (tokens,) with separators.
    """
    part, rows = 1 << 12, list[np.ndarray]()
    for first in range(0, len(ids), part * max(1, len(ids) // LEFT_SAMPLE)):
        stop = min(first + part + LEFT_ORDER - 1, len(ids))
        inside = starts[np.searchsorted(starts, first) : np.searchsorted(starts, stop)]
        before, *documents = np.split(ids[first:stop], inside - first)
        rows += [before, *(document[1:] for document in documents)]  # each after its separator
    rows = [row for row in rows if len(row) >= LEFT_ORDER]
    if not rows:
        return None
    text = Sequences(np.concatenate(rows), np.array([len(row) for row in rows]))
    sums = overlap_sums(text, training, vocab, (LEFT_ORDER,))[str(LEFT_ORDER)]
    return sums["found"] / sums["grams"]

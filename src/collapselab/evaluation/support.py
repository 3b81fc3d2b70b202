"""Held-out text in two parts that share no document: one to compare samples with, and the support text, whose neighbours
coverage in context takes for those of real text.

The support text is the other held-out split and half of the scored one. Neighbouring documents fall into one half together,
by a digest of their text: the division is fixed for a corpus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from collapselab.corpus.prepared import Corpus, Tokens
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.metrics.in_context import UNKNOWN, Support, support_of
from collapselab.metrics.ngrams import Sequences, from_rows
from collapselab.metrics.tails import words

GROUP = 4096  # tokens of a group of neighbouring documents, at least, so that pieces as long as a sequence fit in
FEWEST = 8  # a split of fewer groups is cut without regard to its documents
MOST_TOKENS = 1 << 21  # limit on a support text, which is held in memory
PIECE = 1 << 14  # tokens of a long document that are decoded at once

Span = tuple[int, int]


def divided(tokens: Tokens, tokenizer: Tokenizer) -> tuple[list[Span], list[Span]]:
    """Divide a split into (support, scored), about equal in size, as ascending spans (begin, end) of its tokens.

    Groups of whole documents are ordered by a digest of their text; the first ones, up to half of the tokens, are the
    support. A split of a few long documents is cut into groups of equal size.
    """
    total = int(tokens.starts[-1])
    least = max(1, min(GROUP, total // (4 * FEWEST)))
    edges = [0]
    for start in tokens.starts[1:].tolist():
        if start - edges[-1] >= least:
            edges.append(start)
    edges[-1 if len(edges) > 1 else len(edges) :] = [total]
    if len(edges) <= FEWEST:
        edges = [i * total // (4 * FEWEST) for i in range(4 * FEWEST + 1)]
    groups = [(begin, end) for begin, end in pairwise(edges) if end > begin]
    support: list[Span] = []
    taken = 0
    for _, span in sorted((_digest(tokens, tokenizer, span), span) for span in groups):
        if 2 * (taken + span[1] - span[0]) > total:
            break
        support.append(span)
        taken += span[1] - span[0]
    scored = sorted(set(groups) - set(support))
    return _merged(sorted(support)), _merged(scored)


def _digest(tokens: Tokens, tokenizer: Tokenizer, span: Span) -> bytes:
    text = "".join(tokenizer.decode([np.asarray(tokens.ids[span[0] : min(span[1], span[0] + PIECE)]).tolist()]))
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _merged(spans: list[Span]) -> list[Span]:
    out: list[Span] = []
    for begin, end in spans:
        if out and out[-1][1] == begin:
            out[-1] = (out[-1][0], end)
        else:
            out.append((begin, end))
    return out


@dataclass(frozen=True)
class SupportText:
    """Words and tokens of the support text, with their neighbours."""

    numbers: dict[str, int]
    """Number of each word."""
    words: Support
    tokens: Support
    facts: dict[str, Any]
    """Size in words, pairs and tokens, and digest, for the protocol: scores compare only if their support text is the same."""

    def number(self, word: str) -> int:
        """Return a word's number; UNKNOWN if the support text does not have it."""
        return self.numbers.get(word, UNKNOWN)

    def token_numbers(self, vocab: int) -> np.ndarray:
        """Numbers of a model's tokens, int64 (vocab,); UNKNOWN for those outside the tokenizer."""
        ids = np.arange(vocab)
        return np.where(ids < self.tokens.symbols, ids, UNKNOWN)

    def token_ids(self, rows: list[np.ndarray]) -> Sequences:
        """Sequences of tokens as numbers."""
        text = from_rows(rows)
        return Sequences(np.where(text.ids < self.tokens.symbols, text.ids, UNKNOWN).astype(np.int64), text.lengths)

    def word_ids(self, rows: list[list[str]]) -> Sequences:
        """Sequences of words as numbers."""
        ids = np.fromiter((self.number(w) for row in rows for w in row), np.int64)
        return Sequences(ids, np.array([len(row) for row in rows], np.int64))


_PARTS: dict[tuple[str, str], tuple[list[Span], list[Span]]] = {}


def parts_of(corpus: Corpus, split: str) -> tuple[list[Span], list[Span]]:
    """`divided` of a held-out split, computed once per process."""
    key = (corpus.digest, split)
    if key not in _PARTS:
        _PARTS[key] = divided(corpus.split(split), corpus.tokenizer)
    return _PARTS[key]


_SUPPORT: dict[tuple[str, str], SupportText] = {}


def support_text(corpus: Corpus, split: str) -> SupportText:
    """Support text for scores on `split`, read once per process."""
    key = (corpus.digest, split)
    if key not in _SUPPORT:
        _SUPPORT.clear()  # keep one corpus
        _SUPPORT[key] = _read(corpus, split)
    return _SUPPORT[key]


def _read(corpus: Corpus, split: str) -> SupportText:
    other = "valid" if split == "test" else "test"
    spans = [(other, span) for span in _documents(corpus.split(other))]
    spans += [(split, piece) for span in parts_of(corpus, split)[0] for piece in _documents(corpus.split(split), *span)]
    rows: list[np.ndarray] = []
    left = MOST_TOKENS
    for name, (begin, end) in spans:
        if left <= 0:
            break
        rows.append(np.asarray(corpus.split(name).ids[begin : min(end, begin + left)]))
        left -= len(rows[-1])
    numbers: dict[str, int] = {}
    ids: list[int] = []
    lengths: list[int] = []
    for row in rows:
        row_ids = [numbers.setdefault(w, len(numbers)) for w in words(corpus.tokenizer.decode([row.tolist()])[0])]
        ids += row_ids
        lengths.append(len(row_ids))
    of_words = support_of(Sequences(np.array(ids, np.int64), np.array(lengths, np.int64)), max(1, len(numbers)))
    of_tokens = support_of(from_rows(rows), corpus.tokenizer.size)
    state = hashlib.sha256()
    for row in rows:
        state.update(row.astype("<u4").tobytes())
    facts = {
        "text": f"{other} and half of {split}",
        "tokens": sum(map(len, rows)),
        "words": len(ids),
        "word_pairs": len(of_words.pairs),
        "digest": state.hexdigest()[:32],
    }
    return SupportText(numbers, of_words, of_tokens, facts)


def _documents(tokens: Tokens, begin: int = 0, end: int | None = None) -> list[Span]:
    """Documents of a split between two places, cut into pieces of at most PIECE tokens."""
    end = int(tokens.starts[-1]) if end is None else end
    inner = tokens.starts[(tokens.starts > begin) & (tokens.starts < end)].tolist()
    edges = [begin, *inner, end]
    return [(place, min(place + PIECE, stop)) for start, stop in pairwise(edges) for place in range(start, stop, PIECE)]

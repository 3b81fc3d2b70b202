"""Held-out text in two parts that share no document: one that samples are compared with, and the support text of coverage in
context, which says what real text knows.

The support text is the other held-out split and one half of the scored one. Documents that are neighbours fall to one half
together, which depends on their text: it is fixed for a corpus, and another one for other held-out text.
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

GROUP = 4096  # tokens of neighbouring documents that fall to one part together, at least: pieces of a sequence's length fit in
FEWEST = 8  # groups: a text of fewer is cut without regard to its documents
MOST_TOKENS = 1 << 21  # of a support text, which is held in memory
PIECE = 1 << 14  # tokens of a long document that are decoded at once

Span = tuple[int, int]


def divided(tokens: Tokens, tokenizer: Tokenizer) -> tuple[list[Span], list[Span]]:
    """(support, scored): a split in two parts of about equal size, as ascending spans (begin, end) of its tokens.

    Groups of whole documents are ordered by a digest of their text, and the first ones, up to half of the tokens, are the
    support. A split of a few long documents is cut into groups wherever they end.
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
    """What the support text knows, in words and in tokens."""

    numbers: dict[str, int]
    """Its words, numbered."""
    words: Support
    tokens: Support
    facts: dict[str, Any]
    """Its size in words, pairs and tokens, and the digest of its tokens, for the protocol: values compare at one support."""

    def number(self, word: str) -> int:
        """A word's number; UNKNOWN where the support text does not have it."""
        return self.numbers.get(word, UNKNOWN)

    def token_numbers(self, vocab: int) -> np.ndarray:
        """The numbers of a model's tokens, int64 (vocab,): UNKNOWN for those that the tokenizer does not have."""
        ids = np.arange(vocab)
        return np.where(ids < self.tokens.symbols, ids, UNKNOWN)

    def token_ids(self, rows: list[np.ndarray]) -> Sequences:
        """Tokens as numbers, one array per sequence."""
        text = from_rows(rows)
        return Sequences(np.where(text.ids < self.tokens.symbols, text.ids, UNKNOWN).astype(np.int64), text.lengths)

    def word_ids(self, rows: list[list[str]]) -> Sequences:
        """Words as the support text's numbers."""
        ids = np.fromiter((self.number(w) for row in rows for w in row), np.int64)
        return Sequences(ids, np.array([len(row) for row in rows], np.int64))


_PARTS: dict[tuple[str, str], tuple[list[Span], list[Span]]] = {}


def parts_of(corpus: Corpus, split: str) -> tuple[list[Span], list[Span]]:
    """`divided` of a held-out split, computed once in a process."""
    key = (corpus.digest, split)
    if key not in _PARTS:
        _PARTS[key] = divided(corpus.split(split), corpus.tokenizer)
    return _PARTS[key]


_SUPPORT: dict[tuple[str, str], SupportText] = {}


def support_text(corpus: Corpus, split: str) -> SupportText:
    """The support text for what is scored on `split`, read once in a process."""
    key = (corpus.digest, split)
    if key not in _SUPPORT:
        _SUPPORT.clear()  # of the corpus before: one is enough
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
        found = [numbers.setdefault(w, len(numbers)) for w in words(corpus.tokenizer.decode([row.tolist()])[0])]
        ids += found
        lengths.append(len(found))
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
    """The documents of a split between two places, cut where they are longer than PIECE."""
    end = int(tokens.starts[-1]) if end is None else end
    inner = tokens.starts[(tokens.starts > begin) & (tokens.starts < end)].tolist()
    edges = [begin, *inner, end]
    return [(place, min(place + PIECE, stop)) for start, stop in pairwise(edges) for place in range(start, stop, PIECE)]

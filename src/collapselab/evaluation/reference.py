"""What samples are measured by: generation 0's training text counted once, and as much fresh real text beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.rows import decoded
from collapselab.metrics import bigrams
from collapselab.metrics.ngrams import from_rows
from collapselab.metrics.tails import words
from collapselab.mixing import TrainingSet
from collapselab.rundir import read_json, write_bytes, write_json


class Reference:
    """Counts as the chain's `reference/` folder holds them: `tails.json` (words and tokens) and
    `bigrams.{keys,counts}.bin` (little-endian uint64 and int64), each also as `fresh_...` for fresh real text."""

    def __init__(self, folder: Path, vocab: int):
        saved = read_json(folder / "tails.json")
        self.word_c0: dict[str, int] = saved["words"]
        self.token_c0 = np.zeros(vocab, np.int64)
        for token, count in saved["tokens"].items():
            self.token_c0[int(token)] = count
        self.fresh_words: dict[str, int] = saved["fresh_words"]
        self.fresh_tokens = np.zeros(vocab, np.int64)
        for token, count in saved["fresh_tokens"].items():
            self.fresh_tokens[int(token)] = count
        self.bigram_c0, self.fresh_bigrams = _read(folder, "bigrams"), _read(folder, "fresh_bigrams")

    @staticmethod
    def count(
        tokenizer: Tokenizer, training: TrainingSet, rows: list[np.ndarray], texts: list[str], vocab: int, out: Path
    ) -> None:
        """Counts generation 0's training text and fresh real text (`rows` of tokens, and as text) into `out`."""
        word_c0: Counter[str] = Counter()
        token_c0 = np.zeros(vocab, np.int64)
        pairs = bigrams.Counter()
        for first in range(0, len(training), 4096):
            part = list(training[np.arange(first, min(first + 4096, len(training)))])
            text = from_rows(part)
            token_c0 += np.bincount(text.ids, minlength=vocab)
            pairs.add(bigrams.bigram_keys(text, vocab))
            for line in decoded(tokenizer, part):
                word_c0.update(words(line))
        fresh = from_rows(rows)
        fresh_tokens = np.bincount(fresh.ids.astype(np.int64), minlength=vocab)
        write_json(
            out / "tails.json",
            {
                "words": dict(sorted(word_c0.items())),
                "tokens": {str(i): int(token_c0[i]) for i in np.flatnonzero(token_c0)},
                "fresh_words": dict(sorted(Counter(w for text in texts for w in words(text)).items())),
                "fresh_tokens": {str(i): int(fresh_tokens[i]) for i in np.flatnonzero(fresh_tokens)},
            },
        )
        _write(out, "bigrams", pairs.result())
        _write(out, "fresh_bigrams", bigrams.count_keys(bigrams.bigram_keys(fresh, vocab)))


def _write(folder: Path, name: str, found: bigrams.Counts) -> None:
    write_bytes(folder / f"{name}.keys.bin", found.keys.astype("<u8").data)
    write_bytes(folder / f"{name}.counts.bin", found.counts.astype("<i8").data)


def _read(folder: Path, name: str) -> bigrams.Counts:
    return bigrams.Counts(
        np.fromfile(folder / f"{name}.keys.bin", "<u8"), np.fromfile(folder / f"{name}.counts.bin", "<i8")
    )

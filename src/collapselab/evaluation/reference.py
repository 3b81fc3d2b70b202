"""Counts that samples are compared with: of generation 0's training text, and of as much fresh real text."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np

from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.rows import decoded
from collapselab.metrics import bigrams
from collapselab.metrics.ngrams import from_rows
from collapselab.metrics.tails import WORD_SHARE, first_words, words
from collapselab.mixing.sets import TrainingSet
from collapselab.store.checks import number, reading, whole
from collapselab.store.folders import read_json, write_bytes, write_json


class Reference:
    """Counts as the chain's `reference/` folder holds them: `tails.json` (words and tokens) and
    `bigrams.{keys,counts}.bin` (little-endian uint64 and int64), each also as `fresh_...` for fresh real text."""

    def __init__(self, folder: Path, vocab: int):
        path = folder / "tails.json"
        saved = read_json(path)
        with reading(path):
            self.word_c0: dict[str, int] = {word: whole(count) for word, count in saved["words"].items()}
            self.fresh_words: dict[str, int] = {word: whole(count) for word, count in saved["fresh_words"].items()}
            self.token_c0 = _by_token(saved["tokens"], vocab)
            self.fresh_tokens = _by_token(saved["fresh_tokens"], vocab)
        self.in_context: dict[str, dict[str, dict[str, float]]] = _in_context(folder / "eval.json")
        """`in_context_sums` of fresh real text by unit; empty until it is scored."""
        self.bigram_c0, self.fresh_bigrams = _read(folder, "bigrams", vocab), _read(folder, "fresh_bigrams", vocab)

    @property
    def word_budget(self) -> int:
        """Number of words of a text that word metrics use."""
        return sum(self.fresh_words.values())

    @staticmethod
    def count(
        tokenizer: Tokenizer,
        training: TrainingSet,
        rows: list[np.ndarray],
        word_rows: list[list[str]],
        vocab: int,
        out: Path,
    ) -> None:
        """Count generation 0's training text and fresh real text (`rows` of tokens, and its words) into `out`. Of the fresh
        words only the first WORD_SHARE are counted: the word budget of every text."""
        word_c0: Counter[str] = Counter()
        token_c0 = np.zeros(vocab, np.int64)
        pairs = bigrams.PairCounter()
        for first in range(0, len(training), 4096):
            part = list(training[np.arange(first, min(first + 4096, len(training)))])
            text = from_rows(part)
            token_c0 += np.bincount(text.ids, minlength=vocab)
            pairs.add(bigrams.bigram_keys(text, vocab))
            for line in decoded(tokenizer, part):
                word_c0.update(words(line))
        fresh = from_rows(rows)
        budgeted = first_words(word_rows, math.ceil(WORD_SHARE * sum(map(len, word_rows))))
        fresh_tokens = np.bincount(fresh.ids.astype(np.int64), minlength=vocab)
        write_json(
            out / "tails.json",
            {
                "words": dict(sorted(word_c0.items())),
                "tokens": {str(i): int(token_c0[i]) for i in np.flatnonzero(token_c0)},
                "fresh_words": dict(sorted(Counter(w for row in budgeted for w in row).items())),
                "fresh_tokens": {str(i): int(fresh_tokens[i]) for i in np.flatnonzero(fresh_tokens)},
            },
        )
        _write(out, "bigrams", pairs.result())
        _write(out, "fresh_bigrams", bigrams.count_keys(bigrams.bigram_keys(fresh, vocab)))


def _in_context(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    if not path.is_file():
        return {}
    sums = read_json(path)
    with reading(path):
        by_unit = {unit: sums["sums"].get(f"tails/{unit}/in_context", {}) for unit in ("words", "tokens")}
        return {
            unit: {name: {key: number(part[key]) for key in ("types", "seen")} for name, part in tails.items()}
            for unit, tails in by_unit.items()
        }


def _write(folder: Path, name: str, pairs: bigrams.PairCounts) -> None:
    write_bytes(folder / f"{name}.keys.bin", pairs.keys.astype("<u8").data)
    write_bytes(folder / f"{name}.counts.bin", pairs.counts.astype("<i8").data)


def _by_token(counts: dict[str, int], vocab: int) -> np.ndarray:
    array = np.zeros(vocab, np.int64)
    for token, count in counts.items():
        array[whole(int(token), 0, vocab - 1)] = whole(count)
    return array


def _read(folder: Path, name: str, vocab: int) -> bigrams.PairCounts:
    with reading(folder / f"{name}.counts.bin"):
        keys = np.fromfile(folder / f"{name}.keys.bin", "<u8")
        counts = np.fromfile(folder / f"{name}.counts.bin", "<i8")
        if len(keys) != len(counts) or (keys[1:] <= keys[:-1]).any() or (keys >= vocab**2).any():
            raise ValueError("a count for each pair of tokens, pairs ascending")
        if (counts < 1).any() or counts.sum(dtype=float) >= 2**53:
            raise ValueError("counts are 1 or more")
    return bigrams.PairCounts(keys, counts)

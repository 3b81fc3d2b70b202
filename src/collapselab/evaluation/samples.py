"""Samples, and as much fresh real text beside them: diversity, distances, tail coverage."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import RunConfig, UserError
from collapselab.corpus import Corpus
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.protocol import protocol
from collapselab.evaluation.truth import truth_of_real_text
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.ngrams import distinct, diversity, entropy, from_rows, from_words, gram_sums, grams, repetition
from collapselab.metrics.tails import LEAST_TYPES, tail_sets, tail_sums, tail_values, words
from collapselab.mixing import TrainingSet, read_samples
from collapselab.rundir import read_json, write_json
from collapselab.seeds import generator


def sample_tokens(config: RunConfig, corpus: Corpus, budget: int) -> int:
    """N0: generated tokens that the sample metrics use. Raises UserError where the text is too short for what is asked."""
    length, head = config.sequence_length, config.prompt_length
    whole, rest = divmod(budget, length)
    generated = whole * (length - head) + max(0, rest - head)
    real = len(corpus.split(config.evaluation.split).ids) // (length - head) * (length - head)
    most = min(generated, real)
    asked = config.evaluation.sample_tokens
    if asked is not None and asked > most:
        raise UserError(
            f"evaluation.sample_tokens={asked}: a generation writes {generated} tokens after its prompts and the "
            f"{config.evaluation.split} split has {real}; ask for at most {most}"
        )
    if most < 1:
        raise UserError(
            f"sampling.length={length}: the {config.evaluation.split} split is shorter than one sequence; shorten it"
        )
    return asked or most


def generated_rows(folder: Path, count: int) -> list[np.ndarray]:
    """The first `count` generated tokens of a samples folder, one array per sequence, prompts left out."""
    meta = read_json(folder / "meta.json")
    flat = np.asarray(read_samples(folder))  # slices of a memory map are slow to make
    length, head = meta["length"], meta["prompt_length"]
    rows: list[np.ndarray] = []
    left = count
    for first in range(0, len(flat), length):
        row = flat[first + head : first + length][:left]
        if not len(row):
            break
        rows.append(row)
        left -= len(row)
    return rows


def real_rows(config: RunConfig, corpus: Corpus, count: int) -> list[np.ndarray]:
    """`count` tokens of held-out text in pieces as long as a generated sequence, drawn without replacement."""
    ids = corpus.split(config.evaluation.split).ids
    length = config.sequence_length - config.prompt_length
    order = generator(config.seed, 0, "reference").permutation(len(ids) // length)
    rows = [np.asarray(ids[i * length : (i + 1) * length]) for i in order[: -(-count // length)]]
    rows[-1] = rows[-1][: count - length * (len(rows) - 1)]
    return rows


def word_lists(tokenizer: Tokenizer, rows: list[np.ndarray]) -> list[list[str]]:
    """Complete words of each sequence. Decoded in parts: as a list a token takes 36 bytes, as an array 2."""
    parts = (rows[first : first + 4096] for first in range(0, len(rows), 4096))
    return [words(text) for part in parts for text in tokenizer.decode([row.tolist() for row in part])]


def diversity_metrics(tokens: list[np.ndarray], word_rows: list[list[str]]) -> tuple[dict[str, Any], dict[str, float]]:
    """(sums, values) of `diversity/tokens/...` and `diversity/words/...`. Orders longer than any sequence are left out."""
    sums: dict[str, Any] = {}
    values: dict[str, float] = {}
    for unit, text in (("tokens", from_rows(tokens)), ("words", from_words(word_rows))):
        by_order: dict[int, dict[str, float]] = {}
        for order in grams(text, 4):
            if not len(order.counts):
                break
            by_order[order.n] = part = gram_sums(order)
            values[f"diversity/{unit}/distinct_{order.n}"] = distinct(part)
            values[f"diversity/{unit}/rep_{order.n}"] = repetition(part)
            plug_in, corrected = entropy(order.counts)
            values[f"diversity/{unit}/ngram_entropy_{order.n}"] = plug_in
            values[f"diversity/{unit}/ngram_entropy_{order.n}_miller_madow"] = corrected
        if len(by_order) == 4:
            values[f"diversity/{unit}/diversity"] = diversity(by_order)
        sums[f"diversity/{unit}"] = {str(n): part for n, part in by_order.items()}
    return sums, values


class Reference:
    """Generation 0's training text counted once, and fresh real text scored like samples: what tails are measured by.

    Published as the chain's `reference/` folder: `tails.json` (word counts of generation 0's training text) and
    `eval.json` (the reference row).
    """

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

    @staticmethod
    def publish(config: RunConfig, corpus: Corpus, training: TrainingSet, vocab: int, budget: int, out: Path) -> None:
        """Counts generation 0's training text and scores as much fresh real text as the sample metrics use."""
        count = sample_tokens(config, corpus, budget)
        rows = real_rows(config, corpus, count)
        fresh = word_lists(corpus.tokenizer, rows)
        word_c0: Counter[str] = Counter()
        token_c0 = np.zeros(vocab, np.int64)
        for first in range(0, len(training), 4096):
            part = training[np.arange(first, min(first + 4096, len(training)))]
            token_c0 += np.bincount(part.ravel(), minlength=vocab)
            for row in word_lists(corpus.tokenizer, list(part)):
                word_c0.update(row)
        fresh_tokens = np.bincount(np.concatenate(rows).astype(np.int64), minlength=vocab)
        write_json(
            out / "tails.json",
            {
                "words": dict(sorted(word_c0.items())),
                "tokens": {str(i): int(token_c0[i]) for i in np.flatnonzero(token_c0)},
                "fresh_words": dict(sorted(Counter(w for row in fresh for w in row).items())),
                "fresh_tokens": {str(i): int(fresh_tokens[i]) for i in np.flatnonzero(fresh_tokens)},
            },
        )
        sums, values = score_samples(rows, fresh, corpus, Reference(out, vocab), vocab)
        values |= truth_of_real_text(config)
        shared = protocol(config, corpus, count)
        write_json(out / "eval.json", {"protocol": shared, "sums": sums, "metrics": values, "text": "fresh real text"})


def score_samples(
    rows: list[np.ndarray], word_rows: list[list[str]], corpus: Corpus, reference: Reference, vocab: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """(sums, values) of `diversity/...` and `tails/...` for one text of the fixed budget."""
    sums, values = diversity_metrics(rows, word_rows)
    token_counts = np.bincount(np.concatenate(rows).astype(np.int64), minlength=vocab)
    real_counts = np.zeros(vocab, np.int64)
    real_counts[: len(corpus.train_counts)] = corpus.train_counts
    values |= {f"diversity/{k}": v for k, v in unigram_distances(real_counts, token_counts).items()}

    written = Counter(w for row in word_rows for w in row)
    types = list(reference.word_c0)
    word_tails = tail_sets(np.array(list(reference.word_c0.values()), np.int64))
    total, fresh_total = sum(written.values()), sum(reference.fresh_words.values())
    by_unit = {
        "words": (
            word_tails,
            np.array([written.get(w, 0) for w in types], np.int64),
            total,
            np.array([reference.fresh_words.get(w, 0) for w in types], np.int64),
            fresh_total,
        )
    }
    token_tails = {n: mask for n, mask in tail_sets(reference.token_c0).items() if mask.sum() >= LEAST_TYPES}
    if token_tails:
        fresh = reference.fresh_tokens
        by_unit["tokens"] = (token_tails, token_counts, token_counts.sum(), fresh, fresh.sum())
    for unit, (tails, counts, count_total, fresh_counts, fresh_count_total) in by_unit.items():
        sums[f"tails/{unit}"] = part = tail_sums(tails, counts, count_total)
        sums[f"tails/{unit}/fresh_real"] = fresh_part = tail_sums(tails, fresh_counts, fresh_count_total)
        values |= {f"tails/{unit}/{k}": v for k, v in tail_values(part, fresh_part).items()}
    return sums, values

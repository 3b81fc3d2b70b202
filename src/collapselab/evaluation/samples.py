"""Sample metrics of a text of the fixed budget: diversity, repetition, distances, overlap, tail coverage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from collapselab.config import RunConfig
from collapselab.config.plugins import Records
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.reference import Reference
from collapselab.evaluation.rows import decoded
from collapselab.evaluation.support import support_text
from collapselab.metrics.bigrams import bigram_keys, count_keys
from collapselab.metrics.compression import compression_sums, compression_values
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.in_context import in_context, in_context_sums, in_context_values
from collapselab.metrics.ngrams import (
    distinct,
    diversity,
    entropy,
    from_rows,
    from_words,
    gram_sums,
    grams,
    repetition,
    sequence_repetition,
    sequence_repetition_sums,
)
from collapselab.metrics.overlap import overlap_sums, overlap_values
from collapselab.metrics.richness import richness_sums, richness_values, zipf_values
from collapselab.metrics.self_bleu import self_bleu_sums, self_bleu_values
from collapselab.metrics.tails import LEAST_TYPES, first_words, tail_sets, tail_sums, tail_values, words
from collapselab.seeds import generator

Tails = dict[str, np.ndarray]  # masks over types by name of the tail


def diversity_metrics(tokens: list[np.ndarray], word_rows: list[list[str]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of `diversity/tokens/...` and `diversity/words/...`, without orders longer than any sequence."""
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
            if order.n == 1:
                sums[f"diversity/{unit}/richness"] = rich = richness_sums(order.counts)
                values |= {f"diversity/{unit}/{k}": v for k, v in richness_values(rich).items()}
            if order.n == 1 and unit == "words":  # no law of Zipf for tokens, which a tokenizer makes evenly frequent
                values |= {f"diversity/words/{k}": v for k, v in zipf_values(order.counts).items()}
        if len(by_order) == 4:
            values[f"diversity/{unit}/diversity"] = diversity(by_order)
            sums[f"diversity/{unit}/seq_rep_4"] = within = sequence_repetition_sums(order)
            values[f"diversity/{unit}/seq_rep_4"] = sequence_repetition(within)
        sums[f"diversity/{unit}"] = {str(n): part for n, part in by_order.items()}
    return sums, values


class Text(NamedTuple):
    """Samples of the fixed budget, or as much fresh real text: token ids, text, and complete lower-cased words of each
    sequence, without its prompt."""

    rows: list[np.ndarray]
    texts: list[str]
    words: list[list[str]]
    corpus: Corpus
    config: RunConfig


def text_of(rows: list[np.ndarray], corpus: Corpus, config: RunConfig) -> Text:
    """Decode sequences of tokens."""
    texts = list(decoded(corpus.tokenizer, rows))
    return Text(rows, texts, [words(text) for text in texts], corpus, config)


class Metric(NamedTuple):
    """A metric of a text alone: its sums as JSON (None leaves it out), and the values derived from them."""

    sums: Callable[[Text], Any]
    values: Callable[[Any], Mapping[str, float]]


def _self_bleu(text: Text) -> Any:
    config, most = text.config, text.config.evaluation.self_bleu_samples
    chosen = generator(config.seed, 0, "self_bleu").permutation(len(text.rows))[:most]
    return self_bleu_sums([text.words[i] for i in chosen]) if most else None


def _overlap(text: Text) -> Any:
    if not text.config.evaluation.overlap:
        return None
    vocab = max(len(text.corpus.train_counts), 1 + max(int(row.max()) for row in text.rows))
    return overlap_sums(from_rows(text.rows), text.corpus.train.ids, vocab)


METRICS = Records("metric", names="plugin/[a-z0-9_]+", own={
    "diversity/compression": Metric(lambda text: compression_sums(text.texts), compression_values),
    "diversity/words/self_bleu": Metric(_self_bleu, self_bleu_values),
    "diversity/overlap": Metric(_overlap, overlap_values),
})  # fmt: skip
"""By key of the sums; value keys replace its last part, so those of plugins begin with `plugin/`."""


def text_metrics(text: Text) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of METRICS."""
    sums: dict[str, Any] = {}
    values: dict[str, float] = {}
    for name, metric in METRICS.items():
        if (part := metric.sums(text)) is not None:
            sums[name] = part
            values |= {f"{name.rpartition('/')[0]}/{k}": float(v) for k, v in metric.values(part).items()}
    return sums, values


def score_samples(
    rows: list[np.ndarray], word_rows: list[list[str]], corpus: Corpus, split: str, reference: Reference, vocab: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (sums, values) of `diversity/{tokens,words}/...`, `diversity/unigram_...` and `tails/...`.

    Word metrics use the same number of words of every text, the first ones; `diversity/words/budget` is the share of that
    number which a text has. Tails of fewer than LEAST_TYPES types are left out.
    """
    budget = reference.word_budget
    used = first_words(word_rows, budget)
    sums, values = diversity_metrics(rows, used)
    words_used = sum(map(len, used))
    sums["diversity/words/budget"] = {"words": float(words_used), "asked": float(budget)}
    if budget:
        values["diversity/words/budget"] = words_used / budget
    token_counts = np.bincount(np.concatenate(rows).astype(np.int64), minlength=vocab)
    real_counts = np.zeros(vocab, np.int64)
    real_counts[: len(corpus.train_counts)] = corpus.train_counts
    values |= {f"diversity/{k}": v for k, v in unigram_distances(real_counts, token_counts).items()}

    written = Counter(w for row in used for w in row)
    types = list(reference.word_c0)
    by_unit: dict[str, tuple[Tails, np.ndarray, float, np.ndarray, float]] = {
        "words": (
            tail_sets(np.array(list(reference.word_c0.values()), np.int64)),
            np.array([written.get(w, 0) for w in types], np.int64),
            words_used,
            np.array([reference.fresh_words.get(w, 0) for w in types], np.int64),
            budget,
        )
    }
    fresh = reference.fresh_tokens
    by_unit["tokens"] = (tail_sets(reference.token_c0), token_counts, token_counts.sum(), fresh, fresh.sum())
    pairs, fresh_pairs = reference.bigram_c0, reference.fresh_bigrams
    if len(pairs.keys):
        own = count_keys(bigram_keys(from_rows(rows), vocab))
        own_counts = own.of(pairs.keys), int(own.counts.sum())
        by_unit["bigrams"] = (
            tail_sets(pairs.counts), *own_counts, fresh_pairs.of(pairs.keys), int(fresh_pairs.counts.sum()),
        )  # fmt: skip
    support = support_text(corpus, split)
    in_support = {
        "words": (support.word_ids(used), support.words, np.array([support.number(w) for w in types], np.int64)),
        "tokens": (support.token_ids(rows), support.tokens, support.token_numbers(len(reference.token_c0))),
    }
    for unit, (every, counts, count_total, fresh_counts, fresh_count_total) in by_unit.items():
        tails = {name: mask for name, mask in every.items() if mask.sum() >= LEAST_TYPES}
        if unit == "words" or (tails and unit in in_support):
            text, neighbours, numbers = in_support[unit]
            ranked = {name: numbers[mask] for name, mask in tails.items() if name.isdigit()}
            sums[f"tails/{unit}/in_context"] = here = in_context_sums(in_context(text, neighbours), ranked)
            # Fresh real text is scored first, and then compared with itself.
            real = reference.in_context.get(unit) or here
            values |= {f"tails/{unit}/{k}": v for k, v in in_context_values(here, real).items()}
        if not tails:
            continue
        sums[f"tails/{unit}"] = part = tail_sums(tails, counts, count_total)
        sums[f"tails/{unit}/fresh_real"] = fresh_part = tail_sums(tails, fresh_counts, fresh_count_total)
        values |= {f"tails/{unit}/{k}": v for k, v in tail_values(part, fresh_part).items()}
    return sums, values

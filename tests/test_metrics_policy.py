"""Scores of a policy and calibration of a judge: by hand, over all subsets, against other implementations, by simulation."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from collapselab import hf_metrics
from collapselab.config import UserError
from collapselab.metrics import intervals, policy
from collapselab.metrics.calibration import CLASSES, calibration_intervals, calibration_sums, calibration_values
from collapselab.metrics.policy import maj_at_k, pass_at_k, policy_intervals, policy_sums, policy_values, reweighted

# Answers 0 .. 3 of one prompt, each with one verdict; None: invalid.
PROMPT = st.tuples(
    st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=7),
    st.lists(st.booleans(), min_size=4, max_size=4),
)


def arguments(answers: list[int | None], right: list[bool], group: int = 0) -> dict[str, Any]:
    """Arguments of `policy_sums` for one prompt."""
    return {
        "groups": np.full(len(answers), group),
        "answers": ["" if answer is None else f"is {answer}" for answer in answers],
        "correct": np.array([answer is not None and right[answer] for answer in answers]),
        "invalid": np.array([answer is None for answer in answers]),
    }


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [a for part in parts for a in part[key]]
        if key == "answers"
        else np.concatenate([part[key] for part in parts])
        for key in parts[0]
    }


def vote(answers: list[int | None], right: list[bool]) -> Fraction:
    """Score of a vote, as docs/metrics.md words it."""
    votes = Counter(answer for answer in answers if answer is not None)
    tied = [answer for answer, count in votes.items() if count == max(votes.values())]
    return Fraction(sum(right[answer] for answer in tied), len(tied)) if tied else Fraction(0)


# --- pass@k -----------------------------------------------------------------------------------------------------------


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of 6 pairs
    assert pass_at_k(5, 2, 3) == 0.9  # one of 10 triples is all wrong
    assert pass_at_k(3, 0, 3) == 0 and pass_at_k(3, 1, 3) == 1
    assert pass_at_k(1, 1, 1) == 1


@given(PROMPT)
@settings(deadline=None)
def test_pass_at_k_is_the_share_of_all_subsets(prompt: tuple[list[int | None], list[bool]]) -> None:
    answers, right = prompt
    correct = [answer is not None and right[answer] for answer in answers]
    for k in range(1, len(answers) + 1):
        subsets = [any(some) for some in combinations(correct, k)]
        assert pass_at_k(len(answers), sum(correct), k) == sum(subsets) / len(subsets)


def test_pass_at_k_is_the_product_of_its_authors_and_stays_exact_where_binomials_overflow() -> None:
    for n, c, k in ((200, 3, 10), (200, 150, 64), (1000, 7, 128), (256, 1, 255)):
        product = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)) if n - c >= k else 1.0  # Chen et al. 2021, figure 3
        assert pass_at_k(n, c, k) == pytest.approx(product, rel=1e-12)
    with pytest.raises(OverflowError):
        float(math.comb(20_000, 10_000))
    assert pass_at_k(20_000, 1, 10_000) == 0.5
    assert pass_at_k(10**6, 1, 1) == 1e-6  # 1 - (1 - 1e-6) is not


def test_more_than_there_are_is_refused_in_one_line() -> None:
    """Not a pass@k of 1 without a success."""
    for k in (0, 5):
        for call in (lambda k=k: pass_at_k(4, 0, k), lambda k=k: maj_at_k([4], [False], 0, k)):
            with pytest.raises(
                UserError, match=rf"^k={k}: a prompt has 4 samples; draw more, or choose k from 1 to 4$"
            ):
                call()
    few = joined(arguments([0] * 8, [True]), arguments([0, 0], [True], group=1))
    with pytest.raises(UserError, match="k=4: a prompt has 2 samples"):
        policy_sums(**few, ks=[1, 4])
    assert set(policy_sums(**few)) >= {"pass_at_1", "pass_at_2"} and "pass_at_4" not in policy_sums(**few)


def test_sizes_go_in_powers_of_two_up_to_the_number_of_samples() -> None:
    assert [policy.powers(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


# --- maj@k ------------------------------------------------------------------------------------------------------------


def test_maj_at_k_by_hand() -> None:
    assert maj_at_k([2, 1], [True, False], 0, 3) == 1
    assert maj_at_k([2, 1], [False, True], 0, 3) == 0
    assert maj_at_k([1, 1], [False, True], 0, 2) == 0.5  # a tie of one right and one wrong answer
    assert maj_at_k([1, 1, 1], [False, True, True], 0, 3) == pytest.approx(2 / 3)
    # 3 pairs of a a b: aa is right, both ab tie.
    assert maj_at_k([2, 1], [True, False], 0, 2) == pytest.approx((1 + 2 * 0.5) / 3)


@given(PROMPT)
@settings(deadline=None)
def test_maj_at_k_is_the_mean_of_all_subsets(prompt: tuple[list[int | None], list[bool]]) -> None:
    answers, right = prompt
    values = policy_values(policy_sums(**arguments(answers, right), ks=range(1, len(answers) + 1)))
    for k in range(1, len(answers) + 1):
        scores = [vote(list(some), right) for some in combinations(answers, k)]
        assert values[f"maj_at_{k}"] == pytest.approx(float(sum(scores) / len(scores)), abs=1e-13)
    assert values["maj_at_1"] == pytest.approx(values["pass_at_1"], abs=1e-13)


def test_an_invalid_label_never_wins_a_vote() -> None:
    """Ten samples that say the same unreadable thing, one right answer."""
    samples = arguments([None] * 10 + [0], [True])
    samples["answers"] = ["I do not know"] * 10 + ["is 0"]
    values = policy_values(policy_sums(**samples, ks=[1, 2, 11]))
    assert values["maj_at_11"] == 1
    assert values["maj_at_2"] == pytest.approx(10 / 55) == values["pass_at_2"]  # two invalid ones score nothing
    assert policy_values(policy_sums(**arguments([None] * 3, [True]), ks=[3]))["maj_at_3"] == 0
    wrong = dict(samples, invalid=np.zeros(11, bool))  # the same text as an answer does win
    assert policy_values(policy_sums(**wrong, ks=[11]))["maj_at_11"] == 0


@given(st.lists(PROMPT, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_samples_and_the_names_of_answers_change_nothing(
    prompts: list[tuple[list[int | None], list[bool]]], shuffled: Any
) -> None:
    """To the bit: a tie that the first or the smallest answer won would show."""
    samples = joined(*(arguments(answers, right, i) for i, (answers, right) in enumerate(prompts)))
    scores = np.array([shuffled.choice([0.0, shuffled.random(), math.nan]) for _ in samples["answers"]])
    order = list(range(len(scores)))
    shuffled.shuffle(order)
    names = {"": "", **{f"is {i}": f"{9 - i} it is" for i in range(4)}}
    other = {key: value[order] for key, value in samples.items() if key != "answers"}
    other["answers"] = [names[samples["answers"][i]] for i in order]
    first, second = policy_sums(**samples, scores=scores), policy_sums(**other, scores=scores[order])
    assert first == second
    assert policy_values(first) == policy_values(second)


def test_votes_of_many_samples_are_counted_as_those_of_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond EXACT samples seeded subsets; beside the exact count, and against exact numbers where these are known."""
    counts, right = [40, 30, 20, 10], [False, True, False, True]
    exact = {k: maj_at_k(counts, right, 28, k) for k in (2, 16, 64)}
    monkeypatch.setattr(policy, "EXACT", 0)
    policy._vote.cache_clear()
    drawn = {k: maj_at_k(counts, right, 28, k) for k in exact}
    again = {k: maj_at_k(counts[::-1], right[::-1], 28, k) for k in exact}
    policy._vote.cache_clear()
    assert drawn == again != exact
    assert drawn == pytest.approx(exact, abs=4 * 0.5 / math.sqrt(policy.DRAWS))
    assert min(exact.values()) > 0.02 and max(exact.values()) - min(exact.values()) > 0.1
    assert maj_at_k([], [], 4000, 2000) == 0 and maj_at_k([1, 3999], [False, True], 0, 100) == 1


def test_exact_votes_of_hundreds_of_samples_neither_overflow_nor_lose_digits() -> None:
    assert maj_at_k([256, 256], [True, False], 0, 256) == pytest.approx(0.5, rel=1e-12)
    assert maj_at_k([1] * 512, [i < 128 for i in range(512)], 0, 64) == pytest.approx(0.25, rel=1e-12)
    # Two answers, k odd: the hypergeometric probability of a majority.
    law = stats.hypergeom(300, 170, 101)
    assert maj_at_k([170, 130], [True, False], 0, 101) == pytest.approx(law.sf(50), rel=1e-10)
    assert 0.5 < law.sf(50) < 1


# --- coverage, diversity, gap -----------------------------------------------------------------------------------------


def test_coverage_and_diversity_by_hand() -> None:
    """Prompt 0: aab correct, c wrong; prompt 1: one correct of two; prompt 2: none."""
    samples = joined(
        arguments([0, 0, 1, 2], [True, True, False]),
        arguments([0, 1], [True, False], 1),
        arguments([2, 2], [False] * 3, 2),
    )
    sums = policy_sums(**samples)
    values = policy_values(sums)
    assert values["coverage"] == 2 / 3
    assert values["diversity_correct"] == pytest.approx(2 / 3)  # of pairs aa ab ab; the others have no pair
    assert sums["diversity_correct"]["prompts"] == 1 and sums["diversity_total"]["prompts"] == 3
    assert values["diversity_total"] == pytest.approx((5 / 6 + 1 + 0) / 3)
    written = policy_values(policy_sums(**samples, texts=["x", "x", "x", "x", *"yz", *"yz"]))
    assert written["diversity_correct"] == 0 and written["diversity_total"] == pytest.approx(2 / 3)


def test_without_two_correct_samples_there_is_no_diversity_among_them() -> None:
    values = policy_values(policy_sums(**arguments([0, 1], [True, False])))
    assert "diversity_correct" not in values and values["diversity_total"] == 1


def test_codes_in_an_array_count_as_their_names_do() -> None:
    samples = arguments([0, 0, 1, 2, None], [True, True, False])
    assert policy_sums(**samples) == policy_sums(**samples | {"answers": np.array([7, 7, 3, 4, 0], np.int64)})


def test_coverage_is_pass_at_n() -> None:
    draw = np.random.default_rng(3)
    samples = joined(*(arguments(draw.integers(0, 3, 6).tolist(), [True, False, False], g) for g in range(9)))
    values = policy_values(policy_sums(**samples))
    assert values["coverage"] == values["pass_at_6"] > values["pass_at_1"]


def test_the_gap_by_hand() -> None:
    correct = np.array([True, False, False, True])
    assert reweighted(correct, np.array([0.6, 0.2, 0.2, 1.0])) == 0.8
    assert reweighted(correct, np.array([0.9, 0.3, 0.3, math.nan])) == pytest.approx(
        (0.9 + 0.5) / 2
    )  # weight .5: neutral
    for silent in (math.nan, 0.0, 0.3):  # says nothing, rejects everything, cannot tell
        assert reweighted(correct, np.full(4, silent)) == 0.5


def test_a_verifier_that_knows_gains_all_that_is_covered_and_one_that_cannot_tell_nothing() -> None:
    draw = np.random.default_rng(4)
    samples = joined(*(arguments(draw.integers(0, 9, 8).tolist(), [True] + [False] * 8, g) for g in range(20)))
    value = {
        name: policy_values(policy_sums(**samples, scores=scores))
        for name, scores in {
            "knows": samples["correct"].astype(float),
            "constant": np.full(160, 0.25),
            "inverted": 1.0 - samples["correct"],
        }.items()
    }
    known = value["knows"]
    assert known["gap"] == pytest.approx(known["coverage"] - known["pass_at_1"]) and known["gap"] > 0.3
    assert value["constant"]["gap"] == 0
    assert value["inverted"]["gap"] == pytest.approx(-known["pass_at_1"]) and known["pass_at_1"] > 0.05
    assert "gap" not in policy_values(policy_sums(**samples))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"invalid": np.array([True, False, False])}, "invalid samples are wrong"),
        ({"correct": np.array([True, False, False])}, "answer='is 0': both correct and wrong in group 0"),
        ({"scores": np.array([0.5, -0.1, 0.2])}, "scores: a weight below 0"),
        ({"scores": np.array([0.5, np.inf, 0.2])}, "infinite"),
        ({"scores": np.array([0.5])}, r"samples=\[1, 3\]"),
        ({"answers": ["is 0"]}, r"samples=\[1, 3\]"),
    ],
)
def test_samples_that_contradict_themselves_are_refused(change: dict[str, Any], message: str) -> None:
    samples = arguments([0, 0, 1], [True, False])
    policy_sums(**samples)
    with pytest.raises(UserError, match=message) as refused:
        policy_sums(**samples | change)
    assert len(str(refused.value).splitlines()) == 1


def test_accuracy_by_difficulty_by_hand() -> None:
    prompts = [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [None, None]]
    samples = joined(*(arguments(answers, [True, False], group) for group, answers in enumerate(prompts)))
    at = np.repeat([2, 2, 0, 11], [4, 4, 4, 2])
    values = policy_values(sums := policy_sums(**samples, difficulty=at))
    found = {key.removeprefix("accuracy/difficulty_"): value for key, value in values.items() if "difficulty" in key}
    assert found == {"0": 1.0, "2": 3 / 8, "8-15": 0.0}
    ends = policy_intervals(sums)
    assert ends["accuracy/difficulty_2"][0] < 3 / 8 < ends["accuracy/difficulty_2"][1]
    assert math.isnan(ends["accuracy/difficulty_0"][0])  # one prompt
    for one in (np.full(14, 1), np.repeat([-1, 3], [8, 6]), None):  # a single difficulty, or none
        assert not any("difficulty" in key for key in policy_sums(**samples, difficulty=one))
    assert [policy.level(d) for d in (0, 1, 7, 8, 15, 16, 100)] == ["0", "1", "7", "8-15", "8-15", "16-31", "64-127"]


@given(st.lists(st.tuples(PROMPT, st.integers(0, 20)), min_size=1, max_size=8))
@settings(deadline=None)
def test_the_mean_over_difficulties_is_the_accuracy(prompts: list[tuple[Any, int]]) -> None:
    samples = joined(*(arguments(*prompt, group) for group, (prompt, _) in enumerate(prompts)))
    at = np.repeat([d for _, d in prompts], [len(answers) for (answers, _), _ in prompts])
    sums = policy_sums(**samples, ks=[1], difficulty=at)
    parts = [part for key, part in sums.items() if "difficulty" in key]
    assert len(parts) == (n if (n := len({policy.level(d) for _, d in prompts})) > 1 else 0)
    if parts:
        total = sum(part["total"] for part in parts) / sum(part["prompts"] for part in parts)
        assert total == pytest.approx(policy_values(sums)["pass_at_1"])


# --- intervals --------------------------------------------------------------------------------------------------------


def test_wilsons_interval_is_scipys() -> None:
    for count, n in ((0, 10), (10, 10), (3, 7), (81, 263)):
        for level in (0.9, 0.95):
            theirs = stats.binomtest(count, n).proportion_ci(level, method="wilson")
            assert intervals.share_interval(count / n, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert intervals.share_interval(0, 10)[0] == 0 and intervals.share_interval(1, 10)[1] == 1


def test_newcombes_interval_is_that_of_his_table() -> None:
    """Newcombe 1998, table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/20."""
    for first, second, low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ):
        sides = [(c / n, *intervals.share_interval(c / n, n)) for c, n in (first, second)]
        assert intervals.difference_interval(*sides) == pytest.approx((low, high), abs=5e-5)


def test_students_interval_from_sums_is_that_of_the_values() -> None:
    values = np.array([0.1, -0.2, 0.5, 0.4])
    sums = values.sum(), ((values - values.mean()) ** 2).sum(), 4
    assert intervals.interval_of_sums(*sums) == pytest.approx(intervals.mean_interval(values)[1:], rel=1e-12)
    assert all(map(math.isnan, intervals.interval_of_sums(1.0, 0.0, 1)))


def test_intervals_of_one_prompt_are_unknown_and_of_equal_prompts_not_zero() -> None:
    one = policy_intervals(policy_sums(**arguments([0, 1, 1], [True, False])))
    assert one and all(math.isnan(end) for both in one.values() for end in both)
    failed = policy_sums(**joined(*(arguments([1, 1], [True, False], g) for g in range(20))), scores=np.full(40, 0.5))
    found = policy_intervals(failed)
    assert found["pass_at_1"] == found["coverage"] == intervals.share_interval(0, 20)
    assert found["pass_at_1"][1] > 0.1 and found["gap"] == (0, 0)


def covered(draw: Callable[[], dict[str, bool]], times: int) -> dict[str, float]:
    rows = [draw() for _ in range(times)]
    return {key: sum(row[key] for row in rows) / times for key in rows[0]}


def test_intervals_over_prompts_hold_the_true_value_at_the_stated_rate() -> None:
    """A policy that solves some prompts nearly always and others nearly never; 95 % would be .95, standard error .014."""
    prompts, n, random = 50, 8, np.random.default_rng(5)
    p = stats.beta(0.4, 0.8)
    truth = {f"pass_at_{k}": 1 - p.expect(lambda x, k=k: (1 - x) ** k) for k in (1, 4)}
    truth["coverage"] = 1 - p.expect(lambda x: (1 - x) ** n)
    groups, none = np.repeat(np.arange(prompts), n), np.zeros(prompts * n, bool)
    scores_of = np.array([0.4, 0.8])  # P(right) of wrong and of right samples
    many = p.rvs(4000, random_state=random)
    picks = random.binomial(n, many)
    truth["gap"] = float(np.mean(0.8 * picks / (0.4 * n + 0.4 * picks) - picks / n))

    def once() -> dict[str, bool]:
        correct = (random.random((prompts, n)) < p.rvs((prompts, 1), random_state=random)).ravel()
        scores = scores_of[correct.astype(int)]
        sums = policy_sums(groups, correct.astype(int).tolist(), correct, none, scores, ks=(1, 4))
        found = policy_intervals(sums)
        found["samples as trials"] = intervals.share_interval(correct.mean(), prompts * n)
        return {
            key: bool(low <= truth.get(key, truth["pass_at_1"]) <= high)
            for key, (low, high) in found.items()
            if key in truth or key == "samples as trials"
        }

    rates = covered(once, 250)
    wrong = rates.pop("samples as trials")
    assert set(rates) == set(truth) and all(0.9 <= rate <= 0.99 for rate in rates.values()), rates
    assert wrong < 0.75  # what counting samples as if they were independent gives


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    """4 correct: 2 accepted, 1 rejected, 1 abstention; 4 wrong: 1 accepted; 2 hacks accepted; 1 unreadable rejected."""
    nan = math.nan
    scores = np.array([0.9, 0.8, 0.1, nan, 0.7, 0.2, 0.2, 0.1, 0.9, 0.6, 0.0])
    classes = np.array([1, 1, 1, 1, 0, 0, 0, 0, 2, 2, -1], np.int8)
    lengths = np.arange(11) ** 2
    sums = calibration_sums(scores, scores >= 0.5, classes, lengths)
    has = ~np.isnan(scores)
    assert calibration_values(sums) == pytest.approx(
        {
            "tpr": 2 / 3,
            "fpr": 3 / 7,
            "j": 2 / 3 - 3 / 7,
            "accepted": 5 / 10,
            "accepted/wrong": 1 / 4,
            "accepted/correct": 2 / 3,
            "accepted/hack": 1.0,
            "accepted/unreadable": 0.0,
            "abstained": 1 / 11,
            "length_correlation": np.corrcoef(scores[has], lengths[has])[0, 1],
        }
    )
    found = calibration_intervals(sums)
    assert set(found) == set(calibration_values(sums))
    assert found["fpr"] == pytest.approx(intervals.share_interval(3 / 7, 7))
    assert found["accepted/hack"] == pytest.approx(intervals.share_interval(1, 2))
    sides = [(value, *found[key]) for key, value in (("tpr", 2 / 3), ("fpr", 3 / 7))]
    assert found["j"] == pytest.approx(intervals.difference_interval(*sides))
    json.dumps(sums)


def test_what_has_no_samples_or_does_not_vary_is_left_out() -> None:
    values = calibration_values(calibration_sums(np.ones(3), np.ones(3, bool), np.ones(3), np.arange(3)))
    assert values == {"tpr": 1, "accepted": 1, "accepted/correct": 1, "abstained": 0}
    silent = calibration_sums(np.full(3, np.nan), np.zeros(3, bool), np.array([0, 1, 1]), np.arange(3), np.arange(3))
    assert calibration_values(silent) == {"abstained": 1}
    assert calibration_intervals(silent) == {"abstained": intervals.share_interval(1, 3)}


def test_an_abstention_is_no_rejection() -> None:
    scores, classes = np.array([0.9, 0.1, 0.9, 0.1]), np.array([1, 1, 0, 0])
    more = np.concatenate([scores, [np.nan] * 4]), np.concatenate([classes, [1, 1, 1, 0]])
    first, second = (calibration_values(calibration_sums(s, s >= 0.5, c)) for s, c in ((scores, classes), more))
    assert (first.pop("abstained"), second.pop("abstained")) == (0, 0.5)
    assert first == second


@pytest.mark.parametrize(
    ("scores", "accepted", "classes", "message"),
    [
        ([0.5, np.nan], [True, True], [0, 1], "accepted=1: abstentions that are accepted"),
        ([0.5, np.inf], [True, True], [0, 1], "infinite"),
        ([0.5, 0.5], [True, True], [0, 3], r"classes=\[3\]: known are 0 wrong, 1 correct"),
        ([0.5, 0.5], [True], [0, 1], r"samples=\[1, 2\]"),
        ([], [], [], r"samples=\[0\]"),
    ],
)
def test_verdicts_that_contradict_themselves_are_refused(
    scores: list[float], accepted: list[bool], classes: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        calibration_sums(np.array(scores), np.array(accepted), np.array(classes))


def test_length_correlation_finds_a_judge_that_likes_length() -> None:
    draw = np.random.default_rng(6)
    lengths = draw.integers(1, 100, 400)
    noise = draw.normal(size=400)
    for slope in (0.0, 0.02, -0.02):
        scores = slope * lengths + noise
        sums = calibration_sums(scores, scores > 0, draw.integers(0, 2, 400), lengths)
        value, (low, high) = (
            calibration_values(sums)["length_correlation"],
            calibration_intervals(sums)["length_correlation"],
        )
        assert value == pytest.approx(stats.pearsonr(scores, lengths).statistic, rel=1e-12)
        theirs = stats.pearsonr(scores, lengths).confidence_interval()  # for normal variables
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
        assert (low <= 0 <= high) == (slope == 0)


@pytest.mark.parametrize("kind", ["by sample", "by prompt", "opposed"])
def test_intervals_of_a_judge_hold_at_the_stated_rate_also_where_it_errs_by_prompt(kind: str) -> None:
    """`by prompt`: all samples of a prompt meet one random number; `opposed`: on half of the prompts every verdict is wrong."""
    prompts, n, random = 50, 8, np.random.default_rng(7)
    tpr, fpr = (0.5, 0.5) if kind == "opposed" else (0.9, 0.1)
    truth = {"tpr": tpr, "fpr": fpr, "j": tpr - fpr, "length_correlation": 0.0}
    groups = np.repeat(np.arange(prompts), n)

    def once() -> dict[str, bool]:
        easy = (
            np.repeat(random.random(prompts), n) if kind != "opposed" else 0.5
        )  # so that every prompt has both classes
        correct = random.random(prompts * n) < easy
        number = random.random(prompts * n) if kind == "by sample" else np.repeat(random.random(prompts), n)
        accepted = number < np.where(correct, tpr, fpr)
        if kind == "opposed":
            accepted = correct == (number < 0.5)
        lengths = random.integers(1, 9, prompts * n) + np.repeat(random.integers(0, 9, prompts), n)
        scores = accepted + np.repeat(random.normal(size=prompts), n)
        out = {}
        for name, units in (("", groups), (" of samples", None)):
            found = calibration_intervals(calibration_sums(scores, accepted, correct.astype(int), lengths, units))
            out |= {key + name: bool(found[key][0] <= value <= found[key][1]) for key, value in truth.items()}
        return out

    rates = covered(once, 250)
    assert all(0.9 <= rates[key] <= 0.99 for key in truth), rates
    if kind == "by sample":
        assert all(rates[f"{key} of samples"] >= 0.9 for key in ("tpr", "fpr", "j")), rates
    else:
        assert all(rates[f"{key} of samples"] < 0.8 for key in truth), rates


# --- as Hugging Face evaluate metrics ---------------------------------------------------------------------------------

SCRIPT = """
import json
import datasets
import evaluate
from collapselab import hf_metrics

predictions = [["4", "4", "5", ""], ["7", "8", "9", "9"], ["1", "2", "2", "2"]]
references = [["4"], ["7", "8"], ["3"]]
verdicts = [[0.9, 0.8, 0.1, None], [0.5, 0.5, 0.5, 0.5], [0.2, 0.1, 0.0, 0.0]]
load = lambda name: evaluate.load(hf_metrics.path(name))
same = dict(predictions=predictions, references=references)
found = {name: load(name).compute(**same) for name in ("pass_at_k", "maj_at_k", "answer_diversity")}
found["gv_gap"] = load("gv_gap").compute(**same, scores=verdicts)
found["judge_calibration"] = load("judge_calibration").compute(
    predictions=[0.9, None, 0.2, 0.6, 0.5, 0.4], references=[1, 1, 0, 0, 2, -1],
    lengths=[1, 2, 3, 4, 5, 7], groups=[0, 0, 1, 1, 2, 2],
)
found["k"] = load("pass_at_k").compute(**same, k=[3])
refused = []
for name, change in (
    ("pass_at_k", {"k": [5]}),
    ("maj_at_k", {"k": [5]}),
    ("maj_at_k", {"predictions": [[], ["7"], ["1"]]}),
    ("gv_gap", {"scores": verdicts[::-1][:2] + [[0.1]]}),
):
    try:
        load(name).compute(**same | change)
    except ValueError as error:
        refused.append(str(error))
described = {name: load(name).inputs_description for name in hf_metrics.ANSWERS}
print(json.dumps([found, refused, described]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(values by metric, refusals, inputs described), from a process of its own with an empty Hugging Face home."""
    moved = ("HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in moved}
    environment |= {"HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_evaluate_metrics_of_answers_are_our_functions(loaded: Any) -> None:
    found = loaded[0]
    answers = ["4", "4", "5", "", "7", "8", "9", "9", "1", "2", "2", "2"]
    correct = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    scores = np.array([0.9, 0.8, 0.1, math.nan, *[0.5] * 4, 0.2, 0.1, 0.0, 0.0])
    sums = policy_sums(np.repeat([0, 1, 2], 4), answers, correct, np.array([not a for a in answers]), scores)
    values, ends = policy_values(sums), policy_intervals(sums)
    scored = [found[name] for name in hf_metrics.ANSWERS if name != "judge_calibration"]
    together = {key: value for row in scored for key, value in row.items()}
    assert {key: together[key] for key in values} == pytest.approx(values, rel=1e-12)
    assert sum(map(len, scored)) == len(together) and not set(together) & set(
        found["judge_calibration"]
    )  # no shared key
    for key in ("pass_at_1", "maj_at_4", "coverage", "diversity_total", "gap"):
        assert (together[f"{key}_low"], together[f"{key}_high"]) == pytest.approx(ends[key], rel=1e-12)
    assert together["maj_at_4"] == pytest.approx(1 / 3) and together["gap"] == pytest.approx((1.7 / 2.4 - 0.5) / 3)
    assert set(found["k"]) == {f"{key}{end}" for key in ("pass_at_3", "coverage") for end in ("", "_low", "_high")}


def test_evaluate_metric_of_a_judge_is_our_function(loaded: Any) -> None:
    scores = np.array([0.9, math.nan, 0.2, 0.6, 0.5, 0.4])
    sums = calibration_sums(
        scores, scores >= 0.5, np.array([1, 1, 0, 0, 2, -1]), np.array([1, 2, 3, 4, 5, 7]), np.array([0, 0, 1, 1, 2, 2])
    )
    values, found = calibration_values(sums), loaded[0]["judge_calibration"]
    assert {key: found[key] for key in values} == pytest.approx(values, rel=1e-12)
    assert (found["fpr_low"], found["fpr_high"]) == pytest.approx(calibration_intervals(sums)["fpr"], rel=1e-12)
    assert found["abstained"] == pytest.approx(1 / 6)
    assert {f"accepted/{name}" for name in CLASSES.values()} <= set(found)
    assert found["accepted/wrong"] == 0.5 and "accepted/wrong_low" not in found  # two samples of one prompt


def test_evaluate_metrics_refuse_what_our_functions_refuse(loaded: Any) -> None:
    _, refused, described = loaded
    assert [line.split(":")[0] for line in refused] == ["k=5", "k=5", "predictions[0]=[]", "scores"]
    assert all("predictions: " in text for text in described.values()) and "scores: " in described["gv_gap"]
    assert all(Path(hf_metrics.path(name)).is_file() for name in hf_metrics.ANSWERS)
    assert not set(hf_metrics.ANSWERS) & set(hf_metrics.names())

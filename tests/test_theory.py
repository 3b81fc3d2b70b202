"""Every law beside its simulator: equalities within 4 standard errors at every step, limits and bounds in their own way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import cpu_units

from collapselab.config import SamplingConfig, UserError
from collapselab.sampling.draw import truncated
from collapselab.theory import discrete, entropy, gaussian, laws, regression, selection, sharpening, simulate, tails
from collapselab.theory.pipeline import History, diversity
from collapselab.theory.survivors import kept, realised, survivors

ZIPF = 1 / np.arange(1, 21.0)
ZIPF /= ZIPF.sum()
N = 10
CHAINS = 20_000
STEPS = 20
FADING = [0.9**g for g in range(STEPS)]
NONE = [1.0] + [0.0] * (STEPS - 1)


def steady(share: float) -> list[float]:
    return [1.0] + [share] * (STEPS - 1)


def worst(law: np.ndarray, found: np.ndarray) -> float:
    """The largest |z| over all steps."""
    return float(np.abs(simulate.z_scores(law, found)).max())


def simulated(process: Callable, chains: int = CHAINS) -> simulate.Moments:
    return simulate.estimate(ZIPF, process, chains, seed=1)


def one_context(regime: str, reuse: bool, real: list[int], synthetic: list[int], written: list[int]) -> History:
    return History(regime, reuse, *(np.array(values)[:, None] for values in (real, synthetic, written)))


# --- equalities of the discrete laws --------------------------------------------------------------------------------


def tempered(p0: np.ndarray, temperature: float, generations: int) -> np.ndarray:
    """(generations, ..., K): the closed form for temperature alone, p_g proportional to p0^((1/temperature)^g)."""
    logs = np.log(p0 / p0.max(-1, keepdims=True), where=p0 > 0, out=np.full(np.shape(p0), -np.inf))
    powers = temperature ** -np.arange(float(generations))
    weight = np.exp(powers.reshape(-1, *[1] * np.ndim(p0)) * logs)
    return np.asarray(weight / weight.sum(-1, keepdims=True))


@pytest.mark.parametrize("shares", [FADING, NONE, steady(0.23)], ids=["0.9^g", "none", "0.23"])
def test_a_mixture_follows_its_law_in_diversity_and_drift(shares: list[float]) -> None:
    found = simulated(lambda t, c: simulate.mixture(t, c, shares, [N] * STEPS))
    law = discrete.mixture(shares, N)
    assert worst(law, found["r"]) <= 4 and worst(1 - law, found["drift"]) <= 4
    without_noise, r = [], 1.0
    for a in shares:  # the same law without the noise of N draws
        r = a * (2 - a) + (1 - a) ** 2 * r
        without_noise.append(r)
    assert worst(np.array(without_noise), found["r"]) > 50


def test_a_stratified_set_follows_its_own_law_and_not_the_mixtures() -> None:
    for share in (0.3, 0.25):  # 2.5 documents are 2 or 3
        shares = steady(share)
        found = simulated(lambda t, c, shares=shares: simulate.stratified(t, c, shares, N))
        law = discrete.stratified(shares, N)
        assert worst(law, found["r"]) <= 4 and worst(1 - law, found["drift"]) <= 4
        assert worst(discrete.mixture(shares, N), found["r"]) > 4
    assert discrete.split(0.3, 10) == (3, 0.0) and discrete.split(0.25, 10) == (2, 0.5)


def test_any_feature_has_the_same_law_within_and_between_chains() -> None:
    phi = np.sqrt(np.arange(20.0))
    truth = simulate.Truth(ZIPF, torch.Generator().manual_seed(2))
    mean = ZIPF @ phi
    variance = ZIPF @ phi**2 - mean**2
    within, between = [], []
    for ids in simulate.mixture(truth, CHAINS, FADING, [N] * STEPS):
        values = torch.as_tensor(phi)[ids]
        within.append(values.var(1, correction=0) / variance)
        between.append((values.mean(1) - mean) ** 2 / variance)
    r = discrete.mixture(FADING, N)
    assert worst(r, simulate.moments(simulate.sums(torch.stack(within)), CHAINS)) <= 4
    assert worst(1 - r, simulate.moments(simulate.sums(torch.stack(between)), CHAINS)) <= 4
    assert variance <= phi.max() ** 2 / 4  # Popoviciu 1935


UP_AND_DOWN = [10, 7, 2, 0, 5, 9, 1, 3, 3, 8]


def test_reused_documents_follow_their_law_and_not_that_of_fresh_ones() -> None:
    synthetic = [0, *(N - n for n in UP_AND_DOWN[1:])]
    history = one_context("replace", True, UP_AND_DOWN, synthetic, [N] * 10)
    found = simulated(lambda t, c: simulate.pipeline(t, c, history))
    law = diversity(history)[:, 0]
    assert worst(law, found["r"]) <= 4 and worst(1 - law, found["drift"]) <= 4
    fresh = one_context("replace", False, UP_AND_DOWN, synthetic, [N] * 10)
    assert worst(diversity(fresh)[:, 0], found["r"]) > 4
    found = simulated(lambda t, c: simulate.pipeline(t, c, fresh))
    assert worst(diversity(fresh)[:, 0], found["r"]) <= 4


def test_reuse_by_shares_is_the_same_law_and_rounds_at_random() -> None:
    history = one_context("replace", True, UP_AND_DOWN, [0, *(N - n for n in UP_AND_DOWN[1:])], [N] * 10)
    np.testing.assert_allclose(discrete.stratified_reuse([n / N for n in UP_AND_DOWN], N), diversity(history)[:, 0])
    shares = [1.0, 0.44, 0.07, 0.9, 0.13, 0.25, 0.55, 0.06, 0.0, 0.31]  # 0.6 documents are one or none
    found = simulated(lambda t, c: simulate.stratified(t, c, shares, N, reuse=True))
    law = discrete.stratified_reuse(shares, N)
    assert worst(law, found["r"]) <= 4 and worst(1 - law, found["drift"]) <= 4
    nearest = discrete.stratified_reuse([round(share * N) / N for share in shares], N)
    assert worst(nearest, found["r"]) > 4


def reused(share: float, documents: float, generations: int) -> tuple[np.ndarray, np.ndarray]:
    """(E H(p) / H*, E ||p - p*||^2 / H*) where the same n_r = alpha N real documents are in every training set and p_0 is
    their own empirical law; rows are t = 0 .. generations - 1, row 0 being p_0.

    With Hhat = 1 - 1/n_r the diversity of those documents (over H*), the squared error around them follows
    e' = (1 - alpha)^2 e + (1 - alpha)(Hhat - e)/N, the diversity is Hhat - e and the drift 1/n_r + e.
    `stratified_reuse` has the law for a generation 0 trained on N documents and for shares that change.
    """
    n_r = share * documents
    top, e, out = 1 - 1 / n_r, 0.0, []
    for _ in range(generations):
        out.append(e)
        e = (1 - share) ** 2 * e + (1 - share) * (top - e) / documents
    return top - np.asarray(out), 1 / n_r + np.asarray(out)


def test_reuse_from_the_law_of_the_reused_documents() -> None:
    generations, n_r, size = 12, 4, 10
    r, drift = reused(n_r / size, size, generations)
    counts = [[n_r] * generations, [0] + [size - n_r] * (generations - 1), [size] * generations]
    history = one_context("replace", True, *counts)
    np.testing.assert_allclose(r, diversity(history)[:, 0], atol=1e-12)
    np.testing.assert_allclose(r + drift, 1, atol=1e-12)
    found = simulated(lambda t, c: simulate.pipeline(t, c, history))
    assert worst(drift, found["drift"]) <= 4


@pytest.mark.parametrize("regime", ["accumulate", "accumulate_subsample"])
def test_accumulation_follows_its_law_with_the_realised_counts(regime: str) -> None:
    written = [4, 9, 1, 0, 6, 7, 3, 2, 5, 4]
    pool = 6 + np.cumsum([0, *written[:-1]])
    real = [6] * 10
    if regime == "accumulate_subsample":
        size = np.array([6, 5, 9, 3, 8, 20, 12, 1, 30, 10])
        real = np.minimum(real, size).tolist()  # the split of a draw does not matter
    else:
        size = pool
    history = one_context(regime, False, real, (size - real).tolist(), written)
    found = simulated(lambda t, c: simulate.pipeline(t, c, history))
    assert worst(diversity(history)[:, 0], found["r"]) <= 4
    if regime == "accumulate_subsample":  # the law of draws with replacement is another one
        naive = one_context(regime, False, [6] * 10, (pool - 6).tolist(), written)
        assert worst(diversity(naive)[:, 0], found["r"]) > 4


def test_equal_parts_give_the_textbook_forms() -> None:
    steps = 30
    counts = np.full((steps, 1), 10)
    grown = 10 * np.arange(steps)[:, None]
    everything = diversity(History("accumulate", False, counts, grown, counts))[:, 0]
    np.testing.assert_allclose(everything, discrete.accumulate(10, steps), rtol=1e-12)
    drawn = diversity(History("accumulate_subsample", False, counts, 0 * counts, counts))[:, 0]
    np.testing.assert_allclose(drawn, discrete.accumulate_subsample(10, steps)[0], rtol=1e-12)
    share = np.array(UP_AND_DOWN)[:, None]
    replaced = diversity(History("replace", False, share, 10 - share, counts))[:, 0]
    np.testing.assert_allclose(replaced, discrete.stratified((share[:, 0] / 10).tolist(), 10), rtol=1e-12)


def test_contexts_are_laws_of_their_own_and_one_without_documents_is_nan() -> None:
    real = np.array([[4, 3, 2], [0, 1, 2], [2, 0, 0], [1, 3, 0]])
    synthetic = np.array([[0, 0, 0], [0, 2, 2], [0, 4, 5], [3, 1, 0]])
    both = diversity(History("replace", False, real, synthetic, synthetic + 9))
    assert both.shape == (4, 3)
    assert np.isnan(both).tolist() == [[False] * 3, [True, False, False], [False] * 3, [False, False, True]]
    for context in range(3):
        alone = [a[:, context : context + 1] for a in (real, synthetic)]
        np.testing.assert_array_equal(
            both[:, context : context + 1], diversity(History("replace", False, *alone, alone[0]))
        )
    assert both[2, 0] == pytest.approx(1 / 2)  # two real documents alone
    # A context whose documents were written by a model that is not there has no law; the others go on.
    orphan = diversity(
        History("replace", True, np.array([[4, 4], [0, 2], [1, 2]]), np.array([[0, 0], [0, 2], [3, 2]]), real)
    )
    assert np.isnan(orphan[1:, 0]).all() and np.isfinite(orphan[:, 1]).all()
    drawn = History(
        "accumulate_subsample", False, np.array([[3, 3], [0, 2], [2, 2]]), 0 * real[:3, :2], 0 * real[:3, :2]
    )
    assert np.isnan(diversity(drawn)).tolist() == [[False, False], [True, False], [False, False]]
    with pytest.raises(ValueError, match="regime 'keep'"):
        diversity(History("keep", False, real, synthetic, synthetic))


# --- fixed points, limits, printed numbers --------------------------------------------------------------------------


def test_fixed_points_are_where_the_recursions_end() -> None:
    long = [1.0] + [0.2] * 300
    assert discrete.mixture(long, 20)[-1] == pytest.approx(discrete.mixture_limit(0.2, 20), abs=1e-12)
    assert discrete.stratified(long, 20)[-1] == pytest.approx(discrete.stratified_limit(0.2, 20), abs=1e-12)
    for n, kept_share in ((1, 2 / 3), (5, 0.909), (20, 0.976)):
        assert float(discrete.few_real_limit(n)) == pytest.approx(kept_share, abs=5e-4)
        for limit in (discrete.mixture_limit, discrete.stratified_limit):
            assert float(limit(n / 1e6, 1e6)) == pytest.approx(kept_share, abs=5e-4)


def test_diversity_dies_in_the_mean_if_and_only_if_the_share_does() -> None:
    slow = [1.0] + [1 / math.log(g + 2) for g in range(1, 20_000)]
    r = discrete.mixture(slow, 1)  # one document: no diversity within any model
    assert r.max() == 0
    r = discrete.mixture(slow, 100)
    assert (r >= discrete.least_diversity(slow, 100)).all() and r[-1] > 0.8  # dies, as slowly as 1/log
    fast = discrete.mixture([1 / (g + 1) for g in range(100_000)], 100)
    assert fast[-1] < 2e-3
    now_and_then = [float(g % 1000 == 0) for g in range(5001)]
    assert discrete.mixture(now_and_then, 100)[::1000] == pytest.approx(0.99)  # shares that do not tend to 0


def test_a_chain_stays_on_its_atom_for_ever_only_if_the_shares_have_a_finite_sum() -> None:
    square, harmonic = ([0.0] + [(g + 1.0) ** -power for g in range(1, 100_000)] for power in (2, 1))
    finite = discrete.held(square, 5, 0.5)
    assert finite[-1] == pytest.approx(finite[1000], rel=5e-3) and finite[-1] > 0.1
    assert discrete.held(harmonic, 5, 0.5)[-1] < 1e-10
    shares = [1.0] + [0.6 / g for g in range(1, 15)]
    truth = simulate.Truth(np.array([0.3, 0.7]), torch.Generator().manual_seed(3))
    walk = torch.cat(list(simulate.mixture(truth, 40_000, shares, [1] * 15)), 1)  # (chains, generations)
    changes = (walk[:, 1:] != walk[:, :-1]).double().cumsum(1).T
    law = discrete.jumps([0.0, *shares[1:]], 2 * 0.3 * 0.7)
    assert worst(law[1:], simulate.moments(simulate.sums(changes), 40_000)) <= 4
    there = walk[walk[:, 0] == 0]
    stayed = (there == 0).double().cumprod(1).T
    assert worst(discrete.held([0.0, *shares[1:]], 1, 0.3), simulate.moments(simulate.sums(stayed), len(there))) <= 4


def test_one_real_document_per_generation_keeps_two_thirds_however_large_the_sets_grow() -> None:
    sizes = [5 * t for t in range(1, 4001)]
    shares = [1.0] + [1 / n for n in sizes[1:]]
    assert discrete.mixture(shares, sizes)[-1] == pytest.approx(0.667, abs=5e-4)
    assert discrete.stratified(shares, sizes)[-1] == pytest.approx(0.667, abs=5e-4)
    found = simulated(lambda t, c: simulate.mixture(t, c, shares[:15], sizes[:15]))
    assert worst(discrete.mixture(shares[:15], sizes[:15]), found["r"]) <= 4


def test_accumulation_has_a_positive_limit() -> None:
    assert discrete.accumulate(10, 100_000)[-1] == pytest.approx(discrete.accumulate_limit(10), abs=1e-5)
    assert discrete.accumulate(10, 1)[0] == 0.9


def test_the_duel_ends_with_opposite_fates() -> None:
    model, pool = discrete.accumulate_subsample(10, 1001)
    replace = discrete.mixture([1 / (g + 1) for g in range(1001)], 10)
    at = [10, 60, 1000]
    assert model[at] == pytest.approx([0.758, 0.742, 0.739], abs=6e-4)
    assert replace[at] == pytest.approx([0.667, 0.249, 0.018], abs=6e-4)
    assert (pool[1:] > model[1:]).all() and pool[0] == model[0]
    again, _ = discrete.accumulate_subsample(10, 5, replacement=True)
    assert again[0] == pytest.approx(1 - (0.1 + 0.9 / 10)) and (again < model[:5]).all()


def test_the_popular_schedule_takes_hundreds_of_generations() -> None:
    def geometric(steps: int, n: int) -> np.ndarray:
        return discrete.mixture([0.9**g for g in range(steps)], n)

    assert geometric(100, 100)[[9, 43, 99]] == pytest.approx([0.985, 0.865, 0.516], abs=6e-4)  # t = 10, 44, 100
    assert discrete.half_life(geometric(800, 1000)) == 727
    assert discrete.half_life(geometric(7000, 10_000)) == 6965
    assert discrete.half_life(geometric(20, 1000)) is None


def test_linear_drift_follows_its_law_and_its_closed_forms() -> None:
    for shares in (FADING, NONE, steady(0.3)):
        mu = simulate.linear_drift(shares, 25, 2.0, 40_000, seed=1)
        found = simulate.moments(simulate.sums(mu**2), 40_000)
        assert worst(discrete.linear_drift(shares, 25, 2.0), found) <= 4
    t = np.arange(1, STEPS + 1)
    np.testing.assert_allclose(discrete.linear_drift(NONE, 25, 2.0), 4 * t / 25)
    harmonic = discrete.linear_drift([1 / step for step in t], 25, 2.0)
    np.testing.assert_allclose(harmonic, 4 * (t + 1) * (2 * t + 1) / (6 * t * 25))
    late = discrete.linear_drift([1 / (g + 2) for g in range(5000)], 25, 2.0)[-1]
    assert late == pytest.approx(4 * 5000 / (3 * 25), rel=1e-3)
    assert discrete.linear_drift([0.3] * 100, 25, 2.0)[-1] == pytest.approx(4 / (25 * 0.3 * 1.7))


def test_the_time_to_one_atom_is_exact_and_a_few_per_cent_below_the_diffusion_approximation() -> None:
    for n, high in ((60, 0.04), (300, 0.012)):
        step = kept(n, n)[1:-1, 1:-1]  # counts that are not yet 0 or N
        exact = np.linalg.solve(np.eye(n - 1) - step, np.ones(n - 1))
        for count in (n // 2, n // 5):
            p = np.array([count, n - count]) / n
            assert discrete.fixation_time(p, n) == pytest.approx(1 + kept(n, n)[count, 1:-1] @ exact, rel=1e-9)
            over = discrete.diffusion_time(p, n) / exact[count - 1] - 1
            assert 0.2 * high < over < 1.5 * high
        wins = np.linalg.solve(np.eye(n - 1) - step, kept(n, n)[1:-1, -1])
        np.testing.assert_allclose(wins, np.arange(1, n) / n, atol=1e-9)  # in proportion to its share
    three = np.array([0.5, 0.3, 0.2])
    counts, steps = np.tile(60 * three, (3000, 1)), np.zeros(3000)
    rng = np.random.default_rng(1)
    while (alive := counts.max(1) < 60).any():
        counts[alive] = rng.multinomial(60, counts[alive] / 60)
        steps += alive
    assert discrete.fixation_time(three, 60) == pytest.approx(
        steps.mean(), rel=4 * steps.std() / steps.mean() / 3000**0.5
    )
    # Two draws: the first pair is equal or not, and so is every pair after it, each with probability 1/2.
    assert discrete.fixation_time(np.array([0.5, 0.5]), 2) == pytest.approx(2)
    assert discrete.diffusion_time(np.array([0.5, 0.5]), 2) == pytest.approx(2.7726, abs=1e-4)
    assert discrete.fixation_time(np.array([1.0, 0.0]), 7) == 0
    uniform = np.full(20, 0.05)
    over = [discrete.diffusion_time(uniform, n) / discrete.fixation_time(uniform, n) - 1 for n in (10, 100, 1000)]
    assert over == pytest.approx([0.0826, 0.0116, 0.0015], abs=1e-4)
    assert discrete.fixation_time(uniform, 1001) == discrete.diffusion_time(uniform, 1001)
    assert counts.mean(0) / 60 == pytest.approx(three, abs=0.03)


# --- entropy --------------------------------------------------------------------------------------------------------


def test_the_entropy_lost_in_a_step_is_the_divergence() -> None:
    rng = np.random.default_rng(1)
    draws = rng.multinomial(15, ZIPF, 20_000) / 15
    values = entropy.entropy(draws)
    z = (values.mean() - entropy.expected_entropy(ZIPF, 15)) / (values.std() / math.sqrt(20_000))
    assert abs(z) <= 4
    logs = np.log(np.where(draws > 0, draws, 1) / ZIPF)
    lost = float(entropy.entropy(ZIPF)) - entropy.expected_entropy(ZIPF, 15)
    divergence = (draws * logs).sum(1)
    assert abs(divergence.mean() - lost) <= 4 * divergence.std() / math.sqrt(20_000)
    assert 0 < lost <= entropy.loss_bound(20, 15)
    assert entropy.expected_entropy(np.array([1.0, 0.0]), 15) == 0 == entropy.loss_bound(1, 15)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_the_mean_entropy_lies_in_the_envelope_and_above_the_floor(share: float) -> None:
    rng, shares = np.random.default_rng(2), steady(share)
    p, means = np.tile(ZIPF, (2000, 1)), []
    for a in shares:
        p = rng.multinomial(60, a * ZIPF + (1 - a) * p) / 60
        means.append(entropy.entropy(p).mean())
    h = discrete.mixture(shares, 60) * (1 - np.sum(ZIPF**2))
    low, high = entropy.envelope(h, 20)
    assert (h <= low).all() and (low <= means).all() and (means <= high).all()
    star = float(entropy.entropy(ZIPF))
    floor = entropy.floor(star, shares, 20, 60)
    assert (floor <= means).all()
    if share == 0:
        assert (np.diff(means) < 0).all()  # monotone without real text
    if share == 0.8:
        end = entropy.floor(star, [1.0] + [0.8] * 200, 20, 60)[-1]
        assert end == pytest.approx(star - entropy.loss_bound(20, 60) / 0.8) and end > 0
    assert float(entropy.fano(np.array(0.5), 2)) == pytest.approx(math.log(2))
    assert float(entropy.fano(np.array(0.95), 20)) == pytest.approx(math.log(20))  # the uniform law


# --- survivors and tails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.25, 1.0])
@pytest.mark.parametrize("reuse", [False, True])
def test_survivors_of_replacement_follow_the_exact_chain(share: float, reuse: bool) -> None:
    shares = steady(share)
    found = simulated(lambda t, c: simulate.stratified(t, c, shares, N, reuse))
    law = survivors(ZIPF, "replace", reuse, N, shares)
    assert law is not None and worst(law, found["survivors"]) <= 4
    if share == 0.3:
        other = survivors(ZIPF, "replace", not reuse, N, shares)
        assert other is not None and worst(other, found["survivors"]) > 4


def test_survivors_under_changing_shares_and_in_pools() -> None:
    found = simulated(lambda t, c: simulate.stratified(t, c, FADING, N))
    law = survivors(ZIPF, "replace", False, N, FADING)
    assert law is not None and worst(law, found["survivors"]) <= 4
    assert survivors(ZIPF, "replace", True, N, FADING) is None
    real = np.full((STEPS, 1), N)
    drawn = History("accumulate_subsample", False, real, 0 * real, real)
    found = simulated(lambda t, c: simulate.pipeline(t, c, drawn))
    law = survivors(ZIPF, "accumulate_subsample", False, N, FADING)
    assert law is not None and worst(law, found["survivors"]) <= 4
    everything = History("accumulate", False, real, N * np.arange(STEPS)[:, None], real)
    found = simulated(lambda t, c: simulate.pipeline(t, c, everything), 4000)
    law = survivors(ZIPF, "accumulate", False, N, FADING)
    assert law is not None and worst(law, found["survivors"]) <= 4 and law[0] == law[-1]
    with pytest.raises(ValueError, match="regime 'keep'"):
        survivors(ZIPF, "keep", False, N, FADING)


def present(p: np.ndarray, documents: float, steps: int) -> np.ndarray:
    """Probability that a category of probability p is in the training sets of steps 1 .. `steps` (generations 0 on),
    replacement without real text: 1 - exp(-N p (1 - q_{t-1})), for its first count is Poisson(N p).

    float64 (steps, *p.shape)."""
    kept = 1 - np.append(0.0, tails.lost(steps - 1))
    return np.asarray(-np.expm1(-documents * np.multiply.outer(kept, p)))


def test_survivors_follow_the_realised_counts_of_each_context() -> None:
    size = np.array([12, 5, 0, 7, 3, 9])
    real = np.array([12, 2, 0, 7, 0, 4])
    written = np.array([8, 0, 9, 3, 6, 2])
    other = np.array([9, 9, 9, 9, 9, 9])

    def history(regime: str, reuse: bool, kept_real: np.ndarray, sizes: np.ndarray) -> History:
        pair = np.stack([kept_real, other], 1)
        return History(regime, reuse, pair, np.stack([sizes, other], 1) - pair, np.stack([written, other], 1))

    def check(counts: History, missing: list[int]) -> None:
        law = realised(ZIPF, counts)
        assert np.flatnonzero(np.isnan(law[:, 0])).tolist() == missing and np.isfinite(law[:, 1]).all()
        there = [g for g in range(6) if g not in missing]
        one = History(counts.regime, counts.reuse, *(a[:, :1] for a in (counts.real, counts.synthetic, counts.written)))
        found = simulated(lambda t, c: simulate.pipeline(t, c, one))["survivors"]
        assert worst(law[there, 0], found[:, there]) <= 4

    full = np.where(size == 0, 6, size)
    check(history("replace", False, np.minimum(real, full), full), [])
    check(history("replace", True, np.array([12, 3, 3, 3, 3, 3]), full + 0), [])
    check(history("accumulate_subsample", False, np.minimum(12, full), full), [])
    check(history("accumulate", False, np.full(6, 12), 12 + np.cumsum([0, 8, 0, 9, 3, 6])), [])
    # Without documents there is nothing to count; what is real alone is known again, what descends from nothing is not.
    assert np.isnan(realised(ZIPF, history("replace", False, real, size))[:, 0]).tolist() == [0, 0, 1, 0, 0, 0]
    orphans = realised(ZIPF, history("accumulate_subsample", False, np.minimum(12, size), size))
    assert np.isnan(orphans[:, 0]).tolist() == [0, 0, 1, 1, 1, 1]
    changing = realised(np.stack([ZIPF, ZIPF]), history("replace", True, np.minimum(real, full), full))
    assert np.isnan(changing[:, 0]).all() and changing[:, 1] == pytest.approx(np.sum(1 - (1 - ZIPF) ** 9))
    equal = History("replace", False, *(np.full((6, 1), n) for n in (3, 7, 10)))
    equal.real[0], equal.synthetic[0] = 10, 0
    np.testing.assert_allclose(realised(ZIPF, equal)[:, 0], survivors(ZIPF, "replace", False, 10, [1.0] + [0.3] * 5))


def test_the_descendants_of_one_copy_die_out_as_printed() -> None:
    printed = [0.3679, 0.5315, 0.6259, 0.6879, 0.7319, 0.7648, 0.7905, 0.8110, 0.8277, 0.8418]
    assert tails.lost(10) == pytest.approx(printed, abs=5e-5)
    assert 1 - tails.lost(10_000)[-1] == pytest.approx(2 / 10_000, rel=2e-3)
    rare = np.array([0.002, 0.01])  # of 500: the exact chain is close to the branching limit
    exact = np.array([survivors(p[None], "replace", False, 500, [1.0] + [0.0] * 9) for p in rare])
    assert np.abs(present(rare, 500, 10) - exact.T).max() < 0.006
    for steps, over in ((3, 0.49), (10, 0.40), (100, 0.36)):  # the rule of thumb, 0.4 t/N
        half = tails.half_lost(1000, steps)[-1]
        assert half * 1000 / steps == pytest.approx(over, abs=6e-3)
        assert present(np.array(half), 1000, steps)[-1] == pytest.approx(0.5)


def counted(regime: str, reuse: bool, c: int, shares: list[float], ratio: float, expected: float, runs: int) -> float:
    """Share of runs in which a type with count c of 100,000 tokens is in the text, by the counts themselves."""
    rng, n = np.random.default_rng(7), 100_000
    count = pool = np.full(runs, c)
    places = rng.random((runs, c))
    for g, share in enumerate(shares[1:], 1):
        if regime == "replace":
            real = (places < share).sum(1) if reuse else rng.binomial(round(share * n), expected / n, runs)
            count = real + rng.binomial(round((1 - share) * n), count / n)
        elif regime == "accumulate":
            count = count + rng.binomial(n, count / (n * g))
        else:
            pool = pool + rng.binomial(n, count / n)
            count = rng.hypergeometric(pool, n * (g + 1) - pool, n)
    size = n * (len(shares) if regime == "accumulate" else 1)
    return float((rng.binomial(round(ratio * n), count / size) > 0).mean())


SHARES = [1.0, 0.7, 0.2, 0.4, 0.1]


@pytest.mark.parametrize(
    ("regime", "reuse", "shares", "ratio"),
    [
        ("replace", False, [1.0, 0.0, 0.0, 0.0], 1.0),
        ("replace", False, SHARES, 0.5),
        ("replace", True, SHARES, 0.5),
        ("replace", True, [1.0, 0.3, 0.3, 0.3], 2.0),
        ("accumulate", False, SHARES, 0.7),
        ("accumulate_subsample", False, SHARES, 1.0),
        ("accumulate_subsample", False, [1.0], 0.5),
    ],
)
def test_a_rare_type_survives_as_often_as_the_law_says(
    regime: str, reuse: bool, shares: list[float], ratio: float
) -> None:
    runs, counts, expected = 60_000, np.array([1, 3]), np.array([0.6, 3.0])
    law = tails.survival(counts, expected, regime, reuse, shares, ratio)
    for p, c, mean in zip(law, counts.tolist(), expected.tolist(), strict=True):
        found = counted(regime, reuse, c, shares, ratio, mean, runs)
        assert abs(found - p) <= 4 * math.sqrt(p * (1 - p) / runs)
    if reuse:
        fresh = tails.survival(counts, expected, regime, False, shares, ratio)
        assert np.abs(law - fresh).max() > 0.02


def test_survival_without_real_text_is_the_printed_law() -> None:
    c = np.array([1, 2, 9])
    for g in range(10):
        found = tails.survival(c, 0 * c, "replace", False, [1.0] + [0.0] * g)
        np.testing.assert_allclose(found, 1 - tails.lost(g + 1)[-1] ** c, rtol=1e-12)
    for regime in ("replace", "accumulate", "accumulate_subsample"):  # generation 0's own text
        np.testing.assert_allclose(tails.survival(c, c, regime, False, [1.0], 3.0), 1 - np.exp(-3.0 * c), rtol=1e-12)
    whole = tails.survival(c, c, "replace", True, [1.0, 1.0, 1.0], 1.0)  # always the same text again
    np.testing.assert_allclose(whole, 1 - np.exp(-1.0 * c), rtol=1e-12)
    with pytest.raises(ValueError, match="regime 'keep'"):
        tails.survival(c, c, "keep", False, [1.0])


# --- bias -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.03},
    ],
)  # fmt: skip
def test_sharpening_means_what_the_sampler_means(settings: dict) -> None:
    p = np.random.default_rng(1).dirichlet(np.full(30, 0.5), (4, 5))
    logits = torch.as_tensor(np.log(p)).reshape(20, 30).float()
    law = truncated(logits, torch.zeros(20, 0, dtype=torch.int64), SamplingConfig(**settings)).softmax(1)
    np.testing.assert_allclose(sharpening.sharpened(p, **settings).reshape(20, 30), law.numpy(), atol=2e-6)


def test_temperature_compounds_to_a_power_and_top_p_to_a_power_of_its_mass() -> None:
    np.testing.assert_allclose(
        sharpening.bias_only(ZIPF, NONE, temperature=0.8), tempered(ZIPF, 0.8, STEPS), atol=1e-12
    )
    # By hand: two categories of odds 2, at temperature 1/2: odds 2, 4, 16.
    two = sharpening.bias_only(np.array([2 / 3, 1 / 3]), [1.0, 0.0, 0.0], temperature=0.5)
    np.testing.assert_allclose(two[:, 0] / two[:, 1], [2, 4, 16])
    mixed = sharpening.bias_only(np.array([2 / 3, 1 / 3]), [1.0, 0.5], temperature=0.5)
    np.testing.assert_allclose(mixed[1], [0.5 * 2 / 3 + 0.5 * 0.8, 0.5 / 3 + 0.5 * 0.2])
    fine = np.full(100_000, 1.0) + np.linspace(1e-3, 0, 100_000)  # no two categories are equally likely
    fine /= fine.sum()
    nucleus = sharpening.bias_only(fine, NONE[:6], top_p=0.9)
    mass = [(fine * (p > 0)).sum() for p in nucleus]
    np.testing.assert_allclose(mass, 0.9 ** np.arange(6.0), atol=1e-4)
    coarse = sharpening.bias_only(ZIPF, NONE[:6], top_p=0.9)
    assert all((ZIPF * (p > 0)).sum() >= 0.9**g - 1e-12 for g, p in enumerate(coarse))
    np.testing.assert_allclose(sharpening.bias_only(ZIPF, FADING), np.tile(ZIPF, (STEPS, 1)))  # no bias, no change


# --- Gaussian and regression ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [NONE, FADING], ids=["none", "0.9^g"])
def test_a_refitted_gaussian_follows_the_discrete_law(shares: list[float]) -> None:
    found = simulate.gaussian(shares, 12, False, CHAINS, seed=1)
    variance, drift = gaussian.maximum_likelihood(shares, 12)
    steps = slice(0, 12)  # later means are carried by few chains
    both = {"variance": found["variance"][steps], "drift": (found["mean"] ** 2)[steps]}
    for key, law in (("variance", variance), ("drift", drift)):
        assert worst(law[steps], simulate.moments(simulate.sums(both[key]), CHAINS)) <= 4
    wrong = (1 - 1 / 11) ** np.arange(1, 13)  # a size that is off by one
    assert worst(wrong, simulate.moments(simulate.sums(both["variance"]), CHAINS)) > 4


def test_the_unbiased_refit_keeps_the_mean_variance_and_loses_the_typical_one() -> None:
    found = simulate.gaussian([1.0] + [0.0] * 99, 8, True, CHAINS, seed=1)
    law = gaussian.unbiased(8, 100)
    logs = simulate.moments(simulate.sums(found["variance"].log()), CHAINS)
    assert worst(law["log_variance"], logs) <= 4
    medians = found["variance"].log().median(1).values.numpy()
    assert np.abs(medians[9:] / law["log_variance"][9:] - 1).max() < 0.06  # nearly normal in the log
    early = slice(0, 4)
    assert worst(law["variance"][early], simulate.moments(simulate.sums(found["variance"][early]), CHAINS)) <= 4
    assert worst(law["drift"][early], simulate.moments(simulate.sums(found["mean"][early] ** 2), CHAINS)) <= 4
    assert law["typical_variance"][-1] < 1e-6 and law["drift"][-1] == 12.5


def test_regression_follows_its_laws() -> None:
    for regime, law in (("replace", regression.replace), ("accumulate", regression.accumulate)):
        error = simulate.regression(regime, 20, 4, 0.5, 8, 10_000, seed=1)
        assert worst(law(20, 4, 0.5, 8), simulate.moments(simulate.sums(error), 10_000)) <= 4
    published = regression.accumulate_bound(20, 4, 0.5)
    accumulated = simulate.moments(simulate.sums(error), 10_000)
    assert worst(np.full(8, published), accumulated) > 4
    assert regression.accumulate(20, 4, 0.5, 10_000)[-1] < published
    assert regression.replace(20, 4, 0.5, 3) == pytest.approx([1 / 15, 2 / 15, 3 / 15])  # 0.25 x 4 / 15
    with pytest.raises(UserError, match=r"documents=5: .* at least 6"):
        regression.replace(5, 4, 1.0, 3)


# --- several models, filters, noise ---------------------------------------------------------------------------------


def test_an_ecosystem_follows_its_recursion() -> None:
    w = np.array([[0.5, 0.5, 0.0], [0.1, 0.6, 0.3], [0.8, 0.0, 0.2]])
    p_star, rng, n, runs = np.array([0.4, 0.3, 0.2, 0.1]), np.random.default_rng(4), 7, 20_000
    shares = [1.0, 0.0, 0.2, 0.0, 0.1, 0.0]
    law, p = selection.ecosystem(w, shares, n), np.tile(p_star, (runs, 3, 1))
    for share, c in zip(shares, law, strict=True):
        p = rng.multinomial(n, share * p_star + (1 - share) * w @ p) / n
        error = p - p_star
        products = error @ error.transpose(0, 2, 1) / (1 - np.sum(p_star**2))
        z = (products.mean(0) - c) / (products.std(0) / math.sqrt(runs))
        assert np.abs(z).max() <= 4


def test_a_committee_delays_by_its_size_a_hub_does_not_and_the_isolated_keep_their_average() -> None:
    def run(name: str) -> np.ndarray:
        return selection.ecosystem(selection.topology(name, 5), [1.0] + [0.0] * 400, 20)

    one = discrete.mixture([1.0] + [0.0] * 400, 20)
    pooled = 1 - run("committee").mean((1, 2))
    np.testing.assert_allclose(pooled, discrete.mixture([1.0] + [0.0] * 400, 100), atol=1e-12)
    np.testing.assert_allclose(1 - run("hub")[:, 0, 0], one, atol=1e-12)
    np.testing.assert_allclose(1 - run("isolated")[:, 2, 2], one, atol=1e-12)
    assert 1 - run("isolated")[-1].mean() == pytest.approx(1 - 1 / 5, abs=1e-6)
    for name, size in (("committee", 100), ("hub", 20), ("ring", 100), ("isolated", 100)):
        w = selection.topology(name, 5)
        assert np.allclose(w.sum(1), 1) and selection.effective_size(w, 20) == pytest.approx(size)
    uneven = np.array([[0.7, 0.3], [0.6, 0.4]])  # stationary law (2/3, 1/3): 20 / (5/9)
    assert selection.effective_size(uneven, 20) == pytest.approx(36)
    c = selection.ecosystem(uneven, [1.0] + [0.0] * 40_00, 2000)
    rate = np.log((1 - c[-1, 0, 0]) / (1 - c[1000, 0, 0])) / 3000
    assert rate == pytest.approx(-1 / selection.effective_size(uneven, 2000), rel=0.01)


def test_a_filter_multiplies_the_odds_and_its_sign_is_youdens() -> None:
    right = selection.filtered(np.array([0.9, 0.1]), np.array([0.4, 0.8]), 4)[:, 1]
    np.testing.assert_allclose(right / (1 - right), [1 / 9, 2 / 9, 4 / 9, 8 / 9])
    assert (np.diff(selection.filtered(np.array([0.9, 0.1]), np.array([0.5, 0.4]), 4)[:, 1]) < 0).all()
    perfect = selection.filtered(np.array([0.9, 0.1]), np.array([0.0, 0.8]), 2)
    assert perfect[1].tolist() == [0, 1]


def test_hacks_make_accuracy_peak_and_an_anchor_holds_it() -> None:
    accept, start = np.array([0.2, 0.5, 0.6]), np.array([0.6999, 0.3, 1e-4])
    model = selection.filtered(start, accept, 200)
    peak = selection.hack_peak(start, accept)
    assert abs(int(model[:, 1].argmax()) - peak) < 1 and peak > 0
    fine = [selection.filtered(start, accept ** (1 / 1000), int(1000 * peak) + k)[-1, 1] for k in (-99, 1, 101)]
    assert fine[1] > fine[0] and fine[1] > fine[2]  # within 0.1 generations
    assert model[-1, 1] < 1e-6 and (np.diff(model @ accept) > -1e-12).all()
    right = np.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(selection.anchored(start, accept, [1.0] + [0.0] * 199, right), model, atol=1e-12)
    assert selection.critical_anchor(accept, right) == pytest.approx(1 - 0.5 / 0.6)
    for anchor in (right, np.array([0.7, 0.3, 0.0])):
        critical = selection.critical_anchor(accept, anchor)
        less, more = (
            selection.anchored(start, accept, [1.0] + [critical + d] * 3000, anchor)[-1] for d in (-0.02, 0.02)
        )
        assert less[2] > 0.05 and more[2] < 1e-9
    assert critical == pytest.approx(1 / (0.7 * 1.5 + 0.3 * 6))


@pytest.mark.parametrize(
    ("prior", "spread"), [(0.3, 2.0), (0.5, 0.5), (0.3, 0.05), (0.4, 30.0), (0.48, 1000.0), (0.02, 20.0)]
)
def test_self_reward_is_exact(prior: float, spread: float) -> None:
    """Against adaptive integration of the same thing, cut at the vote's edge."""
    from scipy.integrate import quad
    from scipy.stats import beta

    found = find_table("self_reward", prior=prior, spread=spread, gain=1.5, attempts=8, generations=9)
    law = beta(spread * prior, spread * (1 - prior))
    assert found.facts["plurality_correct"] == pytest.approx(law.sf(0.5), rel=1e-9)
    for t in (0, 3, 9):

        def among(u: float, t: int = t) -> float:
            p = law.ppf(u)
            weight = np.array([p, 1 - p]) * ([1, 1.5**-t] if p > 0.5 else [1.5**-t, 1])
            return float(1 - (1 - weight[0] / weight.sum()) ** 8)

        edge = float(law.cdf(0.5))
        whole = sum(quad(among, *ends, limit=200)[0] for ends in ((0, edge), (edge, 1)))
        assert found.columns["pass_at_k"][t] == pytest.approx(whole, abs=2e-6)
    rough = find_table("self_reward", prior=0.3, spread=5000.0, gain=1.5, attempts=8, generations=1)
    assert np.isfinite(rough.columns["pass_at_1"]).all() and rough.columns["pass_at_1"][0] == pytest.approx(
        0.3, abs=1e-6
    )


def find_table(name: str, **parameters: Any) -> laws.Table:
    return laws.LAWS[name].table(laws.LawParameters(**parameters))


def test_self_reward_ends_at_what_the_vote_knew() -> None:
    answers = np.array([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    found = selection.self_reward(answers, 0, 2.0, 16, 60)
    assert found["reward"][0] == pytest.approx((0.5 + 0.4 + 0.7 + 0.6) / 4)
    assert found["pass_at_1"][0] == pytest.approx((0.5 + 0.3 + 0.1 + 0.6) / 4)
    for key, end in (("reward", 1.0), ("pass_at_1", 0.5), ("pass_at_k", 0.5)):
        assert found[key][-1] == pytest.approx(end, abs=1e-9)
    assert found["pass_at_k"][0] > 0.9 and found["pass_at_1"][1] == pytest.approx(
        (1 / 1.5 + 0.3 / 1.4 + 0.1 / 1.7 + 1.2 / 1.6) / 4
    )


def test_noise_restores_diversity_and_not_the_truth() -> None:
    rng, n, runs, noise = np.random.default_rng(5), 9, 20_000, 0.1
    law = selection.injected(ZIPF, noise, n, 15)
    p, star = rng.multinomial(n, ZIPF, runs) / n, 1 - np.sum(ZIPF**2)
    for g in range(15):
        if g:
            p = rng.multinomial(n, (1 - noise) * p + noise / 20) / n
        for key, values in (
            ("diversity", (1 - (p**2).sum(1)) / star), ("distance", ((p - ZIPF) ** 2).sum(1) / star)
        ):  # fmt: skip
            assert abs(values.mean() - law[key][g]) <= 4 * values.std() / math.sqrt(runs)
        centred = ((p - 1 / 20) @ (ZIPF - 1 / 20)) / np.sum((ZIPF - 1 / 20) ** 2)
        assert abs(centred.mean() - law["signal"][g]) <= 4 * centred.std() / math.sqrt(runs)
    silent = selection.injected(ZIPF, 0.0, n, 200)
    loud = selection.injected(ZIPF, 0.5, 1000, 200)
    assert silent["diversity"][-1] < 0.01 and loud["diversity"][-1] > 1 and loud["signal"][-1] < 1e-50
    np.testing.assert_allclose(silent["diversity"] + silent["distance"], 1)


def test_agents_and_workers_by_hand() -> None:
    n = np.array([1.0, 4.0, 1e9])
    assert selection.effective_agents(n, 0.25) == pytest.approx([1, 4 / 1.75, 4])
    assert selection.effective_agents(n, 0.0) == pytest.approx(n)
    assert selection.amdahl(n, 0.9) == pytest.approx([1, 1 / 0.325, 10])


# --- the simulator itself -------------------------------------------------------------------------------------------


def test_the_simulator_draws_the_truth_and_does_not_depend_on_its_chunks() -> None:
    for p in (ZIPF, np.array([0.5, 0.5]), np.array([1e-6, 1 - 1e-6]), np.full(7, 1 / 7)):
        ids = simulate.Truth(p, torch.Generator().manual_seed(1)).draw(1000, 400)
        found = np.bincount(ids.flatten().numpy(), minlength=len(p))
        assert (np.abs(found - 400_000 * p) <= 4 * np.sqrt(400_000 * p * (1 - p)) + 1).all()
    few = simulate.Measure(simulate.Truth(ZIPF, torch.Generator()), 3)
    ids = torch.tensor([[0, 0, 1, 1], [3, 3, 3, 3], [0, 1, 2, 3]])
    star = 1 - np.sum(ZIPF**2)
    for _ in range(2):  # the counts are clean again after a call
        values = few(ids)
        assert values["survivors"].tolist() == [2, 1, 4]
        assert values["r"].tolist() == pytest.approx([0.5 / star, 0, 0.75 / star])
        one = np.eye(20)[3]
        assert float(values["drift"][1]) == pytest.approx(np.sum((one - ZIPF) ** 2) / star)


@pytest.mark.slow  # the same by `collapselab theory mixture --generations 49 --simulate 100000`
def test_a_hundred_thousand_chains_take_as_long_as_their_number() -> None:
    """Ten times as many chains take ten times as long, and no memory of each is kept."""
    p = 1 / np.arange(1, 1001.0)
    shares, found = [0.9**g for g in range(50)], {}

    def chains(count: int) -> None:
        found[count] = simulate.estimate(p / p.sum(), lambda t, c: simulate.mixture(t, c, shares, [100] * 50), count, 1)

    few, many = (cpu_units(lambda count=count: chains(count)) for count in (10_000, 100_000))
    assert many < 15 * few and many < 3000
    assert worst(discrete.mixture(shares, 100), found[100_000]["r"]) <= 4

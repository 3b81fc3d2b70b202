"""Laws of policy gradients beside simulated tables (comparison as in test_theory_judges.py: within max(3 standard errors, .02),
standard errors of at most .01), each with a wrong law that must fail the same comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from collapselab.theory import gradient, neutral, selection, tables

MANY = 10**9  # in a group: as good as infinitely many


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def outcomes(p: np.ndarray, accept: np.ndarray, group: int) -> Iterator[tuple[float, np.ndarray]]:
    """All answers and rewards of a group: probability, and the mean over the group of A grad ln p(answer), by its definition."""
    for answers in itertools.product(range(len(p)), repeat=group):
        for rewards in itertools.product((0.0, 1.0), repeat=group):
            r, chosen = np.array(rewards), np.eye(len(p))[list(answers)]
            s = chosen @ accept
            chance = np.prod(chosen @ p) * np.prod(np.where(r > 0, s, 1 - s))
            advantage = (r - r.mean()) / (r.std() or 1)
            yield float(chance), advantage @ (chosen - p) / group


# --- the mean step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [2, 3, 4])
def test_the_mean_step_of_a_group_by_enumeration(group: int) -> None:
    p, s = np.array([0.2, 0.5, 0.3]), np.array([0.15, 0.6, 0.9])
    step = sum(chance * g for chance, g in outcomes(p, s, group))
    q = p @ s
    np.testing.assert_allclose(step, gradient.signal(q, 1 - q, group) * p * (s - q), atol=1e-12)
    assert gradient.signal(q, 1 - q) == pytest.approx(float(gradient.signal(q, 1 - q, 4000)), rel=1e-3)


@pytest.mark.parametrize("divide", [True, False])
def test_the_simulator_takes_that_step(divide: bool) -> None:
    p, s = np.array([0.2, 0.5, 0.3]), np.array([0.15, 0.6, 0.9])
    _, after = tables.rewarded(np.tile(p, (400_000, 1)), s, 4, 1.0, 1, random(1), divide=divide)
    logits = np.log(after / after.prod(1, keepdims=True) ** (1 / 3))
    step = logits.mean(0) - np.log(p / p.prod() ** (1 / 3))
    law = gradient.signal(p @ s, 1 - p @ s, 4, divide) * p * (s - p @ s)
    assert np.abs(step - (law - law.mean())).max() < 5 * logits.std(0).max() / math.sqrt(len(after))


# --- two modes and a noisy verifier ----------------------------------------------------------------------------------

NOISE = [(0.0, 0.0, 0.5), (0.0, 0.3, 0.7), (0.1, 0.2, 0.6), (0.3, 0.05, 0.9), (0.5, 0.7, 0.3), (0.17, 0.71, 0.88)]
"""FN, FP and the wrong mass at the start; J < 0 in the fifth."""


def two_modes(fn: float, fp: float, wrong: float, eta: float, group: int, steps: int, prompts: int) -> np.ndarray:
    """Simulated mean wrong mass by step. Two logits move twice as fast as the law's one."""
    start = np.tile([wrong, 1 - wrong], (prompts, 1))
    laws = tables.rewarded(start, np.array([fp, 1 - fn]), group, eta / 2, steps, random(2))
    return np.array([p[:, 0].mean() for p in laws])


@pytest.mark.parametrize(("fn", "fp", "wrong"), NOISE)
def test_two_modes_follow_rad_within_2_per_cent(fn: float, fp: float, wrong: float) -> None:
    t, eta = np.arange(801), 0.05
    found = two_modes(fn, fp, wrong, eta, MANY, 800, 2)
    law = gradient.rad(wrong, t, fn, fp, eta)
    assert np.abs(found / law - 1).max() < 0.02 and np.abs((1 - found) / (1 - law) - 1).max() < 0.02
    for other in (gradient.rad(wrong, t, fn, fp, 2 * eta), gradient.rad(wrong, t, 1 - fp, 1 - fn, eta)):
        assert np.abs(found / other - 1).max() > 0.1  # two logits for one; TPR and FPR swapped
    assert np.sign(found[-1] - wrong) == -np.sign(1 - fn - fp)
    change = np.gradient(law, t)[1:-1]
    np.testing.assert_allclose(change, gradient.rad_rate(law, fn, fp, eta)[1:-1], rtol=2e-3, atol=1e-7)


def test_the_closed_form_is_the_equation() -> None:
    t = np.array([0.0, 1, 10, 100, 1e4])
    for wrong in (0.03, 0.5, 0.98):
        np.testing.assert_allclose(
            gradient.rad_perfect(wrong, t, 0.1), gradient.rad(wrong, t, 0, 1e-12, 0.1), rtol=1e-6
        )


@pytest.mark.parametrize(("fn", "fp", "exponent"), [(0, 0, -2), (0, 0.4, -2), (0.1, 0, -1), (0.2, 0.3, -1)])
def test_tails_of_two_modes(fn: float, fp: float, exponent: int) -> None:
    found = two_modes(fn, fp, 0.5, 1.0, MANY, 4000, 2)
    slope = math.log(found[4000] / found[400]) / math.log(10)
    assert abs(slope - exponent) < 0.1
    far = np.array([1e7])
    assert gradient.rad(0.5, far, fn, fp, 1.0) == pytest.approx(gradient.rad_tail(far, fn, fp, 1.0), rel=0.01)


@pytest.mark.parametrize(("fn", "fp", "group"), [(0.0, 0.0, 8), (0.0, 0.3, 4), (0.1, 0.2, 8)])
def test_groups_have_the_exponent_of_false_negatives(fn: float, fp: float, group: int) -> None:
    """Without false negatives the -2 is that of infinite groups: a group of 8 that holds a wrong answer at all holds one."""
    t, eta = np.arange(2001), 0.1
    found = two_modes(fn, fp, 0.05, eta, group, 2000, 4000)
    law = gradient.rad(0.05, t, fn, fp, eta, group)
    assert np.abs(found / law - 1).max() < 0.02
    assert np.abs(found / gradient.rad(0.05, t, fn, fp, eta) - 1).max() > 0.05  # infinite groups
    late = np.array([1e6, 1e7])
    one, two = gradient.rad(0.05, late, fn, fp, eta, group)
    assert abs(math.log10(two / one) + 1) < 0.01
    assert two == pytest.approx(gradient.rad_tail(late, fn, fp, eta, group)[1], rel=0.01)


# --- neutral drift -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [2, 3])
def test_the_second_order_by_enumeration(group: int) -> None:
    p, eta = np.array([0.1, 0.55, 0.35]), 0.001
    mass, entropy, first = np.zeros(3), 0.0, np.zeros(3)
    for chance, g in outcomes(p, np.full(3, 0.3), group):
        after = p * np.exp(eta * g)
        after /= after.sum()
        first += chance * g
        mass += chance * (after - p)
        entropy += chance * float(neutral.entropy(after) - neutral.entropy(p))
    assert np.abs(first).max() < 1e-15
    pace = neutral.pace(eta, group, 0.3)
    np.testing.assert_allclose(mass, neutral.mass_change(p, pace), rtol=5e-3)
    assert entropy == pytest.approx(float(neutral.entropy_change(p, pace)), rel=5e-3)
    assert neutral.entropy_change(np.full((1, 10), 0.1), 1.0) == pytest.approx(-9 / 200)


def test_neutral_drift_of_tables() -> None:
    """JUDGES.md: coin-flip rewards, groups of 8, eta .5: entropy 1.93 -> 1.74 / 1.30 / .63 at steps 100 / 400 / 1,600, pass@256
    -> .84. The start is that of self-consistency (ten answers)."""
    p, at = tables.questions(2800, 10, 0.87, 1.117, random(16)), (0, 100, 400, 1600)
    pace, every = neutral.pace(0.5, 8), 5
    summed, predicted, found = np.zeros((2, len(p))), [], []
    for step, law in enumerate(tables.rewarded(p, 0.5, 8, 0.5, 1600, random(17))):
        if step in at:
            found.append(law)
            predicted.append(summed.copy())
        if step % every == 0:
            summed += every * np.stack([neutral.entropy_change(law, pace), neutral.mass_change(law, pace)[:, 0]])
    entropies = np.array([neutral.entropy(law) for law in found])
    mean, error = tables.moments(entropies)
    assert mean == pytest.approx([1.93, 1.74, 1.30, 0.63], rel=0.05)
    diffused = list(neutral.diffused(p, pace, at, random(18)))
    law = np.array([neutral.entropy(q).mean() for q in diffused])
    assert np.abs(law / mean - 1).max() < 0.05 and tables.compare(law, mean, error) == "agrees"
    for wrong in (neutral.pace(0.5, 4), neutral.pace(0.25, 8)):  # half the group; half the rate
        other = np.array([neutral.entropy(q).mean() for q in neutral.diffused(p, wrong, at, random(18))])
        assert tables.compare(other, mean, error) == "differs" and np.abs(other / mean - 1).max() > 0.2
    first = np.array([q[:, 0] for q in found])
    assert tables.compare(np.array([q[:, 0].mean() for q in diffused]), *tables.moments(first)) == "agrees"
    assert abs(first[1] - first[0]).mean() > 10 * abs((first[1] - first[0]).mean())  # pass@1 stays to first order
    # What is left of each prompt without the second order, added up along these very tables, is a martingale.
    left = np.stack([entropies - entropies[0], first - first[0]], 1)[1:] - predicted[1:]
    z = left.mean(2) / (left.std(2) / math.sqrt(len(p)))
    assert np.abs(z).max() < 4
    assert np.abs((left + predicted[1:])[:, 0].mean(1) / (left[:, 0].std(1) / math.sqrt(len(p)))).min() > 10
    among = [float(np.mean(1 - (1 - q[-1][:, 0]) ** 256)) for q in (found, diffused)]
    assert among == pytest.approx([0.84, 0.84], abs=0.02)


@pytest.mark.parametrize(
    ("group", "eta", "spread"), [(8, 0.5, 1.0), (4, 0.4, 0.3), (16, 0.7, 2.0), (32, 1.0, 0.5), (2, 0.2, 1.0)]
)
def test_two_answers_drift_as_the_law_says(group: int, eta: float, spread: float) -> None:
    p = tables.questions(2500, 2, spread, -0.3, random(19))
    found = np.array(list(tables.rewarded(p, 0.5, group, eta, 400, random(20))))[::50]
    law = {k: v[::50] for k, v in neutral.two_answers(p[:, 0], neutral.pace(eta, group), 400, 16).items()}
    assert tables.compare(law["entropy"], *tables.moments(np.array([neutral.entropy(q) for q in found]))) == "agrees"
    assert tables.compare(law["pass_at_1"], *tables.moments(found[:, :, 0])) == "agrees"
    among = tables.moments(1 - (1 - found[:, :, 0]) ** 16)
    assert tables.compare(law["pass_at_k"], *among) == "agrees"
    wrong = neutral.two_answers(p[:, 0], neutral.pace(2 * eta, group), 400, 16)["pass_at_k"][::50]
    assert tables.compare(wrong, *among) == "differs"


# --- a verifier that prefers the hack: filter and policy gradient --------------------------------------------------------

ACCEPT = np.array([0.2, 0.7, 0.9])


def start(hack: float) -> np.ndarray:
    return np.array([0.61 * (1 - hack), 0.39 * (1 - hack), hack])


def simulated(hack: float, steps: int, eta: float = 0.1) -> np.ndarray:
    laws = tables.rewarded(np.tile(start(hack), (200, 1)), ACCEPT, 256, eta, steps, random(21))
    return np.array(list(laws))[:: steps // 20]


@pytest.mark.parametrize("hack", [0.2, 0.05, 0.01])
def test_a_policy_gradient_is_not_a_filter(hack: float) -> None:
    """JUDGES.md: the hack wins from .20 and is suppressed from .01 and .05; under rejection sampling it wins from any mass."""
    t = np.arange(0, 301, 15)
    found = simulated(hack, 300)
    law = gradient.classes(start(hack), ACCEPT, t, 0.1, 256)
    assert tables.compare(law, *tables.moments(found)) == "agrees"
    assert (found[-1, :, 2].mean() > found[-1, :, 1].mean()) == (hack == 0.2)
    assert (found[-1, :, 2].mean() > hack) == (hack == 0.2)
    swapped = gradient.classes(start(hack), ACCEPT[[0, 2, 1]], t, 0.1, 256)
    assert tables.compare(swapped, *tables.moments(found)) == "differs"
    rounds = math.ceil(gradient.filter_overtaking(start(hack), ACCEPT)) + 1
    kept = tables.filtered(start(hack), ACCEPT, 10**7, rounds, 20, random(22)).mean(1)
    assert kept[-1, 2] > kept[-1, 1] and kept[-3, 2] < kept[-3, 1]
    assert tables.compare(selection.filtered(start(hack), ACCEPT, 21), *tables.moments(found)) == "differs"


@pytest.mark.parametrize("steps", [100, 400])
def test_both_fates_beside_the_critical_mass(steps: int) -> None:
    edge = gradient.critical_mass(start(0.01), ACCEPT, steps, 0.1, 256)
    for factor, wins in ((0.9, False), (1.1, True)):
        last = simulated(factor * edge, steps)[-1].mean(0)
        assert (last[2] > last[1]) == wins
    assert gradient.critical_mass(start(0.01), ACCEPT[[0, 1, 2]] * [1, 1, 0.8], steps, 0.1, 256) > 1.1 * edge


@pytest.mark.parametrize("group", [0, 8])
@pytest.mark.parametrize("divide", [True, False])
def test_the_hack_overtakes_from_any_mass_but_as_late_as_its_square(group: int, divide: bool) -> None:
    for hack in (0.2, 0.03):
        time = gradient.overtaking(start(hack), ACCEPT, 0.5, group, divide)
        _, then = gradient.classes(start(hack), ACCEPT, np.array([0, time]), 0.5, group, divide)
        assert then[2] == pytest.approx(then[1], rel=1e-5)
        assert gradient.critical_mass(start(0.4), ACCEPT, time, 0.5, group, divide) == pytest.approx(hack, rel=1e-6)
    hack = 1e-5
    w, c, h = start(hack)
    clock = 0.5 * float(gradient.signal(0.7, 0.3, group, divide))
    rare = w * c * 0.5 / (6 * clock * 0.2**2 * h**2)
    assert gradient.overtaking(start(hack), ACCEPT, 0.5, group, divide) == pytest.approx(rare, rel=0.01)
    assert gradient.overtaking(np.array([0.2, 0.3, 0.5]), ACCEPT, 0.5) == 0


def test_equal_acceptance_has_a_true_separatrix() -> None:
    s, far = np.array([0.2, 0.8, 0.8]), np.array([0, 1e7])
    for p0, winner in (([0.4, 0.29, 0.31], 2), ([0.4, 0.31, 0.29], 1)):
        assert gradient.classes(np.array(p0), s, far, 1.0)[-1, winner] > 0.99

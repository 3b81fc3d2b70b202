"""Processes without a network: each follows its laws, keeps its published bound, and a wrong law is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collapselab.config import UserError
from collapselab.reproduce import processes
from collapselab.reproduce.processes import simulate

SMALL = {
    "gaussian": {"documents": 12, "generations": 8, "chains": 4000},
    "gaussian_unbiased": {"documents": 12, "generations": 8, "chains": 4000},
    "regression": {"documents": 20, "dimension": 4, "generations": 8, "chains": 2000},
    "discrete": {"documents": 12, "categories": 6, "generations": 40, "chains": 4000},
    "forgetting": {"documents": 10_000, "count": 3, "generations": 20, "chains": 4000},
}


def made(name: str, seed: int = 1, **more: object) -> dict[str, np.ndarray]:
    return simulate({"process": name, **SMALL[name], **more}, seed)


@pytest.mark.parametrize("name", SMALL)
def test_every_process_follows_its_laws_and_is_a_pure_function(name: str) -> None:
    found = made(name)
    generations = int(SMALL[name]["generations"]) + 1
    assert all(v.shape == (generations,) and v.dtype == np.float64 for v in found.values())
    assert all(np.isfinite(v).all() for v in found.values())
    gaps = {key: float(np.abs(v).max()) for key, v in found.items() if key.startswith("z_")}
    assert gaps and max(gaps.values()) < 4, gaps
    for key in gaps:  # a law that is 15 % off is noticed
        mean, law = found[key[2:]], found[f"law_{key[2:]}"]
        error = np.abs(mean - law)[1:] / np.maximum(np.abs(found[key][1:]), 1e-9)
        assert (np.abs(mean - 1.15 * law)[1:] > 4 * error).any(), key
    again = made(name)
    assert all(np.array_equal(v, again[key]) for key, v in found.items())
    other = made(name, seed=2)
    assert any(not np.array_equal(v, other[key]) for key, v in found.items())
    assert set(SMALL) == set(processes.PROCESSES)


def test_published_bounds_hold_and_say_something() -> None:
    for name in ("gaussian", "gaussian_unbiased"):
        found = made(name, generations=150, chains=500)
        assert (found["exceeds"] <= found["bound_exceeds"]).all() and found["bound_exceeds"][-1] < 0.5
        assert found["exceeds"][-1] < 0.2 < found["exceeds"][5]
        assert (found["law_deviation"] <= np.exp(-np.arange(1, 152) / (4 * 12))).all()  # what the bound comes from
    risk = made("gaussian_unbiased", generations=30)
    first = risk["law_risk"] / risk["published_risk"]  # leading terms in t/n
    assert np.abs(first[:6] - 1).max() < 0.03 and first[-1] < 0.95
    word = made("forgetting")
    assert (word["law_survives"] >= word["bound_survives"] - 1e-12).all()
    assert word["law_survives"][1] == pytest.approx(word["bound_survives"][1])  # equal after one round
    assert np.array_equal(word["forgotten"], 1 - word["survives"])
    lines = made("regression", regime="accumulate")
    assert (lines["law_error"] <= lines["bound_error"]).all()
    assert made("regression")["law_error"][-1] > 4 * lines["bound_error"][-1]


def test_real_samples_hold_the_variance() -> None:
    held, alone = made("gaussian", share=0.3, generations=40), made("gaussian", generations=40)
    assert held["variance"][-1] > 0.8 and alone["variance"][-1] < 0.1
    assert np.abs(held["z_variance"]).max() < 4
    assert "deviation" not in held and "exceeds" not in held  # their laws are of the closed loop


def test_a_letter_wins_as_often_as_it_is_likely() -> None:
    found = made("discrete", generations=150)
    truth = 1 / np.arange(1, 7) / np.sum(1 / np.arange(1, 7))
    assert found["law_fixed"][-1] > 0.999 and found["law_first_wins"][-1] == pytest.approx(truth[0], abs=1e-3)
    assert found["law_survivors"][0] == pytest.approx(np.sum(1 - (1 - truth) ** 12))
    assert found["fixed"][-1] > 0.99 and found["survivors"][-1] < 1.01
    assert found["first_wins"][-1] == pytest.approx(truth[0], abs=4 * math.sqrt(truth[0] * (1 - truth[0]) / 4000))


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ({}, "process: name one; there are: gaussian, "),
        ({"process": "gausian"}, "process='gausian': no such process; did you mean 'gaussian'?"),
        ({"process": 3}, "process=3: no such process"),
        ({"process": "gaussian", "dimension": 3}, "dimension=3: the process gaussian does not take it; it takes"),
        ({"process": "gaussian", "documents": 2.5}, "documents=2.5: must be a whole number"),
        ({"process": "gaussian", "documents": True}, "documents=True: must be a whole number"),
        ({"process": "gaussian", "share": "x"}, "share='x': must be a number"),
        ({"process": "gaussian", "share": 2}, r"share=2.0: must lie in \[0, 1\]"),
        ({"process": "gaussian", "chains": 1}, "chains=1: must be 2 or more"),
        ({"process": "gaussian", "generations": -1}, "generations=-1: must be 0 or more"),
        ({"process": "regression", "regime": "keep"}, "regime='keep': must be one of replace, accumulate"),
        ({"process": "regression", "documents": 5}, "documents=5: least squares in 10 dimensions needs at least 12"),
        ({"process": "discrete", "categories": 1}, "categories=1: must be 2 or more"),
        ({"process": "forgetting", "count": 101}, "count=101: must lie between 1 and documents=100"),
    ],
)
def test_a_mistake_is_one_line(process: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        simulate(process, 1)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="seed=-1"):
        simulate({"process": "gaussian"}, -1)

"""docs/disagreements.md: its tables are what results/choices/ says, and what its sentences claim holds in them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from collapselab.metrics.intervals import mean_interval
from collapselab.store.seals import sealed_text

sys.path.insert(0, str(ROOT / "scripts"))
import choices_page

KEPT = ROOT / "results" / "choices"
WORDS, PAIRS = "tails/words/coverage_in_context_5_normalised", "diversity/words/distinct_2"


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    return pd.read_csv(KEPT / "metrics.csv")


def course(metrics: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    """(seeds, generations)."""
    chosen = metrics[(metrics["arm"] == arm) & (metrics["metric"] == metric)]
    return chosen.pivot(index="seed", columns="generation", values="value").to_numpy()


def ratio(metrics: pd.DataFrame, arm: str) -> np.ndarray:
    found = course(metrics, arm, "real/perplexity")
    return found[:, -1] / found[:, 0]


def test_the_page_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["choices_page.py", "--check"])
    assert choices_page.main() == 0, "run scripts/choices_page.py"
    text = choices_page.PAGE.read_text()
    assert [found[1] for found in choices_page.MARKED.findall(text)] == list(choices_page.TABLES)
    monkeypatch.setattr(choices_page, "PAGE", tmp_path / "disagreements.md")
    changed = re.sub(r"(\| \d\.\d)\d", r"\g<1>x", text, count=1)
    assert changed != text
    choices_page.PAGE.write_text(changed)
    assert choices_page.main() == 1
    monkeypatch.setattr(sys, "argv", ["choices_page.py"])
    assert choices_page.main() == 0 and choices_page.PAGE.read_text() == text


def test_a_number_of_the_page_follows_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "choices")
    monkeypatch.setattr(choices_page, "KEPT", tmp_path / "choices")
    for name, made in zip(("metrics", "metrics", "protocols", "tails"), choices_page.TABLES.values(), strict=True):
        before = made()
        assert before in choices_page.PAGE.read_text()
        table = pd.read_csv(tmp_path / "choices" / f"{name}.csv")
        table.iloc[:, -1] = np.where(table["generation"] == 4, table.iloc[:, -1] * 1.5, table.iloc[:, -1])
        table.to_csv(tmp_path / "choices" / f"{name}.csv", index=False)
        assert made() != before, name
        shutil.copy(KEPT / f"{name}.csv", tmp_path / "choices")


def test_the_page_names_every_arm_and_every_protocol(metrics: pd.DataFrame) -> None:
    assert set(metrics["arm"]) == set(choices_page.ARMS)
    assert set(pd.read_csv(KEPT / "protocols.csv")["protocol"]) == set(choices_page.PROTOCOLS)
    assert (metrics.groupby("arm")["seed"].nunique() == 3).all()


def test_the_baseline_of_protocols_is_the_run_itself(metrics: pd.DataFrame) -> None:
    table = pd.read_csv(KEPT / "protocols.csv")
    for arm in ("baseline", "continued"):
        own = table[(table["arm"] == arm) & (table["protocol"] == choices_page.OWN)]
        found = own.pivot(index="seed", columns="generation", values="perplexity").to_numpy()
        assert np.allclose(found, course(metrics, arm, "real/perplexity"), rtol=1e-5)


# --- what the sentences say ----------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float]:
    _, low, high = mean_interval(values)
    return low, high


def last(metrics: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    return course(metrics, arm, metric)[:, -1]


def test_going_on_costs_more_than_having_no_real_text_and_partly_on_real_text_too(metrics: pd.DataFrame) -> None:
    base, control = ratio(metrics, "baseline"), ratio(metrics, "control")
    assert interval(ratio(metrics, "closed") - base)[0] > 0
    assert interval(ratio(metrics, "continued") - ratio(metrics, "closed"))[0] > 0
    going_on = ratio(metrics, "continued_control")
    assert interval(going_on - control)[0] > 0 and 1.085 < going_on.mean() < 1.095
    assert abs(control.mean() - 1) < 0.01 and interval(base - control)[0] > 0


def test_new_weights_have_the_largest_ratio_and_lose_no_rare_words(metrics: pd.DataFrame) -> None:
    means = {arm: ratio(metrics, arm).mean() for arm in choices_page.ARMS}
    assert max(means, key=lambda arm: means[arm]) == "scratch"
    rare = course(metrics, "scratch", WORDS)
    assert rare.max() < 0.01 and (ratio(metrics, "scratch_control") < 1).all()


def test_fresh_and_reused_text_are_not_told_apart(metrics: pd.DataFrame) -> None:
    differences = [ratio(metrics, "reuse") - ratio(metrics, "baseline")]
    differences += [last(metrics, "reuse", metric) - last(metrics, "baseline", metric) for metric in (WORDS, PAIRS)]
    for difference in differences:
        low, high = interval(difference)
        assert low < 0 < high
    for arm in ("baseline", "reuse"):
        assert interval(last(metrics, arm, WORDS) - last(metrics, "control", WORDS))[1] < 0


def test_perplexity_does_not_tell_two_chains_apart_that_write_different_text(metrics: pd.DataFrame) -> None:
    gap = ratio(metrics, "continued") - ratio(metrics, "cold_0.9")
    for difference in (gap, last(metrics, "continued", WORDS) - last(metrics, "cold_0.9", WORDS)):
        low, high = interval(difference)
        assert low < 0 < high
    cold, warm = last(metrics, "cold_0.9", PAIRS), last(metrics, "continued", PAIRS)
    assert interval(warm - cold)[0] > 0 and 0.5 < cold.mean() / warm.mean() < 0.6


def test_protocols_move_perplexity_and_hardly_the_ratio() -> None:
    table = pd.read_csv(KEPT / "protocols.csv").pivot(
        index=["protocol", "arm", "seed"], columns="generation", values="perplexity"
    )
    first, ratios = table[0], table[4] / table[0]
    means = first.xs("baseline", level="arm").groupby("protocol").mean()
    assert 1.2 < means.max() / means.min() < 1.25
    by = ratios.groupby(["protocol", "arm"]).mean().unstack()
    assert ((by / by.loc[choices_page.OWN] - 1).abs() <= 0.01).all().all()
    assert (by["continued"] - by["baseline"]).min() > 0.2
    own = means[choices_page.OWN]
    assert abs(means["prefix bos"] / own - 1) < 0.01 and abs(means["precision bf16"] / own - 1) < 0.001


def lost(key: str) -> tuple[float, float]:
    """(since generation 0, in all): mean shares that a tail has lost."""
    table = pd.read_csv(KEPT / "tails.csv").query("metric == @key")
    table = table.pivot(index="seed", columns="generation", values="value")
    values = table.to_numpy()
    return float((1 - values[:, -1] / values[:, 0]).mean()), float((1 - values[:, -1]).mean())


def test_what_is_lost_depends_on_what_is_counted() -> None:
    words, pairs, tokens = (lost(f"tails/{unit}/coverage_5")[0] for unit in ("words", "bigrams", "tokens"))
    assert words > pairs > tokens > 0
    for unit in ("words", "bigrams", "tokens"):
        assert lost(f"tails/{unit}/tail_mass_5")[0] < lost(f"tails/{unit}/coverage_5")[0]
    for unit in ("words", "bigrams"):
        written, over_fresh = lost(f"tails/{unit}/coverage_1")[1], lost(f"tails/{unit}/coverage_1_normalised")[1]
        assert 1 - (1 - written) / (1 - over_fresh) > 0.8 * written  # as much fresh text misses most of them too
        assert lost(f"tails/{unit}/tail_mass_5")[1] < lost(f"tails/{unit}/coverage_5_normalised")[1]
    assert lost("tails/tokens/tail_mass_5")[1] > lost("tails/tokens/coverage_5_normalised")[1]


# --- what is kept of a run ------------------------------------------------------------------------------------------------


def test_scores_of_other_protocols_are_found_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = dict.fromkeys(choices_page.PARTS, "x") | {"stride": 128}
    for arm, strides in (("baseline", (128, 64)), ("reuse", (128,))):
        chain = tmp_path / "run" / f"arm={arm}" / "seed=1"
        for i, stride in enumerate(strides):
            place = chain / "gen_000" / (f"rescored/{i}" if i else "eval")
            rows = chain / f"rescored/{i}" if i else chain
            place.mkdir(parents=True)
            rows.mkdir(parents=True, exist_ok=True)
            (place / "eval.json").write_text(json.dumps({"protocol": own | {"stride": stride}}))
            row = {"schema": 1, "arm": arm, "seed": 1, "generation": 0, "real_share": 1.0, "protocol": "p", "time": {}}
            row["metrics"] = {"real/perplexity": 10.0 + i, "tails/words/coverage_5": 0.5}
            (rows / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (chain / "config.yaml").write_text(sealed_text(f"arm: {arm}\nseed: 1\n"))
    monkeypatch.setattr(choices_page, "KEPT", tmp_path)
    choices_page.keep(tmp_path / "run")
    table = pd.read_csv(tmp_path / "protocols.csv")
    assert table.to_numpy().tolist() == [["baseline", 1, "own", 0, 10.0], ["baseline", 1, "stride 64", 0, 11.0]]
    assert pd.read_csv(tmp_path / "tails.csv").to_numpy().tolist() == [[1, 0, "tails/words/coverage_5", 0.5]]

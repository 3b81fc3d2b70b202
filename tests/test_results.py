"""The committed tables of finished experiments hold what is said of them."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from conftest import ROOT

R = "truth/slot/diversity"


def laws(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / name / "theory.csv")


def metrics(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / name / "metrics.csv")


def within_bound(table: pd.DataFrame) -> bool:
    bound = (3 * table["se"]).clip(lower=0.02)
    return bool((table["difference"].abs() <= bound).all())


def test_a_tiny_transformer_follows_its_law_in_three_regimes_and_in_the_control() -> None:
    table = laws("planted").query("metric == @R")
    assert set(table["arm"]) == {"control", "none", "tenth", "geometric_0.9"}
    assert (table.groupby("arm")["generation"].max() >= 10).all() and (table["chains"] >= 5).all()
    assert within_bound(table)


@pytest.mark.parametrize(("name", "generations"), [("duel/exact", 60), ("duel/transformer", 40)])
def test_the_duel_ends_in_opposite_fates_each_by_its_own_law(name: str, generations: int) -> None:
    table = laws(name).query("metric == @R")
    assert (table.groupby("arm")["generation"].max() >= generations).all() and within_bound(table)
    shares = metrics(name).query("metric == 'real_share' and generation > 0")
    nominal = 1 / (shares["generation"] + 1)
    assert (shares["value"] - nominal).abs().groupby(shares["arm"]).mean().max() < 0.02
    last = table[table["generation"] == table["generation"].max()].set_index("arm")["measured"]
    assert last["accumulate_subsample"] - last["replace"] > 0.3
    kept = table[table["arm"] == "accumulate_subsample"].set_index("generation")["measured"]
    assert kept.iloc[-1] > kept.loc[10] - 0.05  # it has come to rest, while the other goes on falling


def test_pairs_of_tokens_die_out_by_the_survival_law() -> None:
    table = laws("bigram").query(
        "metric == 'tails/bigrams/coverage_1' and arm == 'closed' and generation in (0, 1, 4, 9)"
    )
    assert len(table) == 4 and (table["chains"] == 3).all()
    assert (table["difference"].abs() <= 0.01).all()
    q = [0.3679, 0.5315, 0.7319, 0.8418]
    assert table["law"].tolist() == pytest.approx([1 - x for x in q], abs=0.002)


def test_the_pages_say_which_command_made_them() -> None:
    everything = sorted((ROOT / "results").rglob("table.md"))
    verdicts = [page for page in everything if (page.parent / "verdict.json").is_file() or "earlier" in page.parts]
    pages = [page for page in everything if page not in verdicts]  # of verdicts see test_reproduce.py
    assert len(pages) == 7
    for page in pages:
        assert (page.parent / "experiment.yaml").is_file()
        if page.parent.name == "demo":
            assert "Made by `./scripts/demo.sh --seeds '[1,2,3]'`" in page.read_text()
            continue
        command = re.search(r"Made by `(collapselab experiment --config (\S+) --workers 2)`", page.read_text())
        assert command is not None and (ROOT / command.group(2)).is_file(), page

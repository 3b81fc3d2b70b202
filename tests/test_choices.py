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

sys.path.insert(0, str(ROOT / "scripts"))
import choices_page

KEPT = ROOT / "results" / "choices"


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
    assert choices_page.page(choices_page.PAGE.read_text()) == choices_page.PAGE.read_text()
    for name in ("metrics", "protocols", "tails"):
        before = choices_page.page(choices_page.PAGE.read_text())
        table = pd.read_csv(tmp_path / "choices" / f"{name}.csv")
        table.iloc[:, -1] = np.where(table["generation"] == 4, table.iloc[:, -1] * 1.5, table.iloc[:, -1])
        table.to_csv(tmp_path / "choices" / f"{name}.csv", index=False)
        assert choices_page.page(choices_page.PAGE.read_text()) != before, name


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
        (chain / "config.yaml").write_text(f"arm: {arm}\nseed: 1\n")
    monkeypatch.setattr(choices_page, "KEPT", tmp_path)
    choices_page.keep(tmp_path / "run")
    table = pd.read_csv(tmp_path / "protocols.csv")
    assert table.to_numpy().tolist() == [["baseline", 1, "own", 0, 10.0], ["baseline", 1, "stride 64", 0, 11.0]]
    assert pd.read_csv(tmp_path / "tails.csv").to_numpy().tolist() == [[1, 0, "tails/words/coverage_5", 0.5]]

"""Runs in a notebook: frames, text and figures from the files of a real run."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from helpers import samples_of, small_config, undrawn
from test_cli import REFERENCE, _timed
from untrusted_runs import change, files_of, reseal

import collapselab
from collapselab.chain import preflight
from collapselab.chain import run as chain
from collapselab.config import UserError
from collapselab.corpus.tokenizers import load_tokenizer
from collapselab.report.notebook import Results
from collapselab.report.pages import write_report
from collapselab.runtime.console import UNSAFE
from collapselab.sampling import shards
from collapselab.store.layout import Chain, read_metrics
from collapselab.store.seals import sealed_text

QUICK: dict[str, Any] = {"model__layers": 1, "model__width": 16, "evaluation__self_bleu_samples": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/regimes, two arms of which one lacks its second seed, and runs/demo, whose protocol differs; do not change them."""
    folder = tmp_path_factory.mktemp("here") / "runs"
    arms = {"replace": 0.0, "half": 0.5}
    for arm, seed in (("replace", 1), ("half", 1), ("replace", 2)):
        asked = {"runs_dir": str(folder), "name": "regimes", "arm": arm, "seed": seed, "mixing__start": arms[arm]}
        asked["mixing__tokens"] = 8192  # with rare words enough for a law
        chain.run(small_config(**QUICK, **asked), shares_generation_0=True)
    asked = {
        "seeds": [1, 2],
        "baseline": "replace",
        "arms": {arm: {"mixing.start": start} for arm, start in arms.items()},
    }
    (folder / "regimes" / "experiment.yaml").write_text(yaml.safe_dump(asked, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", 512)  # one batch of 16 sequences
        chain.run(
            small_config(
                **QUICK,
                runs_dir=str(folder),
                name="demo",
                generations=1,
                evaluation__tokens=768,
                sampling__batch_size=16,
            )
        )
    return folder


@pytest.fixture(scope="module")
def run(runs: Path) -> Results:
    return collapselab.load(runs / "regimes")


def test_importing_the_package_is_nothing_to_wait_for() -> None:
    """At most three times the CPU of some modules of the standard library."""
    pairs = [(_timed("-SEc", REFERENCE)[0], _timed("-c", "import collapselab; collapselab.load")[0]) for _ in range(3)]
    assert min(second for _, second in pairs) < 3 * min(first for first, _ in pairs), pairs
    code = "import sys, collapselab; collapselab.load; assert not {'pandas', 'plotly', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_block_of_the_page_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.S)
    known: dict[str, object] = {}
    for block in blocks:
        exec(block, known)
    assert len(blocks) > 6 and isinstance(known["last"], pd.DataFrame)
    latest, both = known["latest"], known["both"]
    assert isinstance(latest, pd.DataFrame) and isinstance(both, Results)
    of_arm = both.wide("real/perplexity").xs(("regimes/replace", 2), level=("arm", "generation"))["real/perplexity"]
    means = latest.reset_index().set_index("arm")["mean"]
    assert len(of_arm) == 2 and means["regimes/replace"] == pytest.approx(of_arm.mean())  # not the last seed's
    assert latest.index.get_level_values("protocol").nunique() == 2 and len(latest) == 3


def test_the_metrics_are_those_of_the_chains_one_by_one(runs: Path, run: Results) -> None:
    assert run.metrics.columns.tolist() == ["arm", "seed", "generation", "metric", "value"]
    table = run.metrics.set_index(["arm", "seed", "generation", "metric"])["value"]
    assert table.index.is_unique
    rows = {path: read_metrics(path) for path in (runs / "regimes").glob("arm=*/seed=*")}
    assert len(table) == sum(len(row["metrics"]) + 1 for found in rows.values() for row in found)
    for path, found in rows.items():
        arm, seed = path.parent.name.removeprefix("arm="), int(path.name.removeprefix("seed="))
        for row in found:
            for metric, value in row["metrics"].items():
                assert table[arm, seed, row["generation"], metric] == value
            assert run.wide()["real_share"][arm, seed, row["generation"]] == row["real_share"]
    assert run.metrics["arm"].unique().tolist() == ["replace", "half"]  # as the experiment has them


def test_wide_has_a_column_per_metric(run: Results) -> None:
    table = run.wide("real/perplexity", "real_share")
    assert table.columns.tolist() == ["real/perplexity", "real_share"] and table.shape == (9, 2)
    assert table.index.names == ["arm", "seed", "generation"]
    with pytest.raises(UserError, match="no chain has this metric"):
        run.wide("real/perplexities")


def test_the_frames_are_the_tables_of_the_report(runs: Path, run: Results) -> None:
    with undrawn():
        folder = write_report(runs / "regimes").parent
    for name in ("metrics", "summary", "changes", "reference", "ledger", "theory"):
        written = pd.read_parquet(folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(getattr(run, name), written.reset_index(drop=True), check_dtype=False, obj=name)
    assert (
        2 * preflight.REPORT / 3 < sum(path.stat().st_size for path in folder.iterdir()) < preflight.REPORT
    )  # as is estimated
    pairs = run.summary.query("arm == 'half' and metric == 'real/perplexity' and generation == 2")
    assert pairs["chains"].tolist() == [1] and pairs["pairs"].tolist() == [1]


def test_the_config_has_a_row_per_chain(run: Results) -> None:
    table = run.config.set_index(["arm", "seed"])
    assert table.index.tolist() == [("replace", 1), ("replace", 2), ("half", 1)]
    assert table["mixing.start"].tolist() == [0.0, 0.0, 0.5] and (table["training.block"] == 32).all()
    assert table["protocol"].nunique() == 1


def test_samples_are_the_text_that_lies_there(runs: Path, run: Results) -> None:
    place = Chain(runs / "regimes" / "arm=half" / "seed=1")
    rows = samples_of(place.stage(1, "samples")).reshape(-1, 32).tolist()
    texts = [
        UNSAFE.sub("\ufffd", text) for text in load_tokenizer(str(place.stage(1, "train"))).decode(rows)
    ]  # of the last one too: the budget is whole sequences
    found = run.samples(generation=1, arm="half", count=10**6)
    assert found["text"].tolist() == texts and found["sequence"].tolist() == list(range(len(rows)))
    assert run.samples(generation=1, arm="half", count=3)["text"].tolist() == texts[:3]
    last = run.samples(count=1)
    assert last["generation"].tolist() == [2, 2, 2] and last["arm"].tolist() == ["replace", "replace", "half"]
    assert run.samples(seed=2)["arm"].unique().tolist() == ["replace"]


def test_text_in_several_shards_is_read_as_far_as_it_is_asked_for(runs: Path) -> None:
    path = runs / "demo" / "arm=main" / "seed=1"
    stage = Chain(path).stage(0, "samples")
    assert len(list(stage.glob("tokens-*.bin"))) == 4
    rows = samples_of(stage).reshape(-1, 32).tolist()
    written = load_tokenizer(str(Chain(path).stage(0, "train"))).decode(rows)
    for count in (1, 16, 40):
        found = collapselab.load(path).samples(generation=0, count=count)["text"].tolist()
        assert found == [UNSAFE.sub("\ufffd", text) for text in written[:count]]


def test_figures_are_those_of_the_report_that_the_run_has_something_for(run: Results) -> None:
    from plotly import graph_objects

    from collapselab.report.charts import CHARTS

    assert {"likelihood", "diversity", "ledger"} <= set(run.figures) <= {name for name, *_ in CHARTS}
    for figure in run.figures.values():
        assert isinstance(figure, graph_objects.Figure) and figure.data
        assert figure.to_json()
    shown = {trace.name for trace in run.figures["likelihood"].data}
    assert any("replace" in name for name in shown) and any("half" in name for name in shown)


def test_runs_of_different_protocols_are_not_drawn_on_one_axis(runs: Path) -> None:
    both = collapselab.load(runs / "regimes", str(runs / "demo"))
    assert both.metrics["arm"].unique().tolist() == ["regimes/replace", "regimes/half", "demo/main"]
    assert both.config["protocol"].nunique() == 2 and both.summary["protocol"].nunique() == 2
    assert both.metrics.groupby("arm")["protocol"].nunique().eq(1).all() and both.reference["protocol"].nunique() == 2
    assert {"likelihood", "likelihood-b"} <= set(both.figures)
    names = [{trace.name for trace in both.figures[name].data} for name in ("likelihood", "likelihood-b")]
    assert not any("demo" in name for name in names[0]) and any("demo/main" in name for name in names[1])
    assert both.samples(generation=0, arm="demo/main", count=1).shape == (1, 5)
    assert "demo/main" in both._repr_html_() and "regimes/half" in both._repr_html_()


def test_a_notebook_shows_a_short_table(run: Results) -> None:
    shown = run._repr_html_()
    assert "<b>regimes</b>" in shown and "generation 2" in shown and "<td>perplexity</td>" in shown
    assert len(shown) < 6000 and repr(run) == "<Results of regimes: arms 2, chains 3, generations 0 to 2>"


def test_a_run_that_is_still_going_on_is_as_far_as_its_metrics(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "regimes", tmp_path / "regimes")
    for path in (tmp_path / "regimes").glob("arm=half/seed=1"):
        lines = (path / "metrics.jsonl").read_text().splitlines()
        (path / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1] + "\n")
        shutil.rmtree(path / "gen_002")
        (path / "gen_002" / ".train.partial").mkdir(parents=True)
    found = collapselab.load(tmp_path / "regimes")
    assert found.wide().groupby("arm").size().to_dict() == {"replace": 6, "half": 2}
    assert found.samples(count=1)["generation"].tolist() == [2, 2, 1]
    assert "generation 1" in found._repr_html_() and found.figures


def test_what_cannot_be_read_is_said_in_one_line(runs: Path, run: Results, tmp_path: Path) -> None:
    for call, words in (
        (lambda: collapselab.load(), "name a run"),
        (lambda: collapselab.load(tmp_path), "no run here"),
        (lambda: collapselab.load(None), "load(None): name a run by its path"),
        (lambda: collapselab.load(runs / "demo", 3), "load(3): name a run by its path"),
        (lambda: collapselab.load([runs / "demo"]), "several as load(first, second)"),
        (lambda: collapselab.load(""), "load(''): name a run by its path"),
        (lambda: collapselab.load("~nobody-of-that-name/runs"), "no run here"),
        (lambda: collapselab.load(runs / "demo", runs / "demo"), "the same run"),
        (lambda: run.samples(arm="thirds"), "arms replace, half; seeds 1, 2; generations 0 to 2"),
        (lambda: run.samples(generation=3), "no such text"),
        (lambda: run.samples(count=0), "1 or more"),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_damaged_text_is_said_in_one_line(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "demo", tmp_path / "demo")
    shard = tmp_path / "demo" / "arm=main" / "seed=1" / "gen_001" / "samples" / "tokens-00000.bin"
    for data in (shard.read_bytes()[:-2], b"\xff" * shard.stat().st_size):
        shard.write_bytes(data)
        with pytest.raises(UserError, match=r"samples.*not written by this lab"):
            collapselab.load(tmp_path / "demo").samples(count=10**6)


@pytest.mark.parametrize("seed", range(6))
def test_a_strangers_run_is_read_or_refused_in_one_line(seed: int, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "regimes", tmp_path / "regimes", ignore=shutil.ignore_patterns("report"))
    draw = random.Random(seed)
    by_name: dict[str, list[Path]] = {}
    for file in files_of(tmp_path / "regimes"):
        by_name.setdefault(file.name, []).append(file)
    change(tmp_path / "regimes" / draw.choice(by_name[draw.choice(sorted(by_name))]), draw)
    reseal(tmp_path / "regimes")
    try:
        found = collapselab.load(tmp_path / "regimes")
        for name in ("metrics", "summary", "changes", "theory", "reference", "ledger", "config", "figures"):
            assert len(getattr(found, name))
        assert UNSAFE.search(found._repr_html_() + "".join(found.samples()["text"])) is None
    except UserError as refused:
        assert "\n" not in str(refused)


def test_settings_with_half_characters_are_shown_as_a_sign(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "demo", tmp_path / "demo")
    path = tmp_path / "demo" / "arm=main" / "seed=1" / "config.yaml"
    path.write_text(sealed_text(path.read_text().partition("\n")[2] + '"odd \\ud800": "half \\udfff"\n'))
    assert collapselab.load(tmp_path / "demo").config["odd \ufffd"].tolist() == ["half \ufffd"]

"""Experiments: arms x seeds, generation 0 shared by digest, tables with intervals, old runs scored anew."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Lab
from helpers import small_config
from scipy import stats

from collapselab.chain import run
from collapselab.config import UserError, as_dict
from collapselab.experiment import stage_of
from collapselab.metrics.intervals import mean_interval, paired_difference
from collapselab.report import tables
from collapselab.rundir import STAGES, Chain, read_json, read_metrics

ARMS = {
    "replace": {"mixing.schedule": "constant", "mixing.start": 0.0},
    "accumulate": {"mixing": {"regime": "accumulate"}},
    "cold": {"mixing.schedule": "constant", "mixing.start": 0.0, "sampling.temperature": 0.8},
}


def asked(folder: Path, **changes: object) -> str:
    """An experiment file for the smallest chains, with generation 1 as the last."""
    config = as_dict(small_config(runs_dir=str(folder), generations=1, mixing__start=0.5))
    del config["seed"], config["arm"]
    tree = config | {"name": "exp", "seeds": [1, 2], "baseline": "replace", "arms": ARMS} | changes
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(path)


def content(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished experiment, made by the command line with two workers (do not change it)."""
    folder = tmp_path_factory.mktemp("experiment")
    subprocess.run(
        [sys.executable, "-m", "collapselab", "experiment", "--config", asked(folder), "--workers", "2"],
        check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return folder / "exp"


def test_every_arm_and_seed_is_a_chain(done: Path) -> None:
    for arm in ARMS:
        for seed in (1, 2):
            rows = read_metrics(done / f"arm={arm}" / f"seed={seed}")
            assert [(row["arm"], row["seed"], row["generation"]) for row in rows] == [(arm, seed, 0), (arm, seed, 1)]


def test_generation_0_is_trained_once_per_seed_and_shared_by_digest(done: Path) -> None:
    trained = [line for line in (done / "events.log").read_text().splitlines() if "gen_000/train published" in line]
    assert len(trained) == 2
    for seed in (1, 2):
        homes = {arm: Chain(done / f"arm={arm}" / f"seed={seed}") for arm in ARMS}
        assert len({home.stage(0, "train") for home in homes.values()}) == 1
        assert not any(home.generation(0).exists() for home in homes.values())
        # Colder samples are other samples: only the model is shared with that arm.
        assert homes["replace"].stage(0, "samples") == homes["accumulate"].stage(0, "samples")
        assert homes["replace"].stage(0, "samples") != homes["cold"].stage(0, "samples")
    assert homes["replace"].stage(0, "train").parts[-4] == read_json(homes["cold"].root / "shared.json")["train"]


def test_an_arm_equals_the_same_chain_run_alone_to_the_bit(done: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: sums over several threads differ in the last bits
    try:
        path, _ = run(
            small_config(
                runs_dir=str(tmp_path), generations=1, mixing__schedule="constant", mixing__start=0.0,
                sampling__temperature=0.8, seed=2,
            )
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    alone, shared = Chain(path), Chain(done / "arm=cold" / "seed=2")
    for g in (0, 1):
        for stage in STAGES:
            assert alone.digest_of(g, stage) == shared.digest_of(g, stage), (g, stage)
    assert [row["metrics"] for row in read_metrics(path)] == [row["metrics"] for row in read_metrics(shared.root)]


def test_what_is_done_is_skipped_arms_seeds_and_generations_can_be_added_and_a_failing_chain_is_named(
    done: Path, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "exp").rglob("manifest.json")}
    real = {"mixing.schedule": "constant", "mixing.start": 1.0}
    arms = {"replace": ARMS["replace"], "hot": {"training.lr": 1e9, "training.clip": 0}, "real": real}
    path = asked(tmp_path, arms=arms, seeds=[2, 3], generations=2)
    made = subprocess.run(
        [sys.executable, "-m", "collapselab", "experiment", "--config", path], capture_output=True, text=True
    )
    assert made.returncode == 2
    said = made.stderr.splitlines()[-1]
    assert said.startswith("collapselab: error: 2 of 6 chains did not finish: hot seed 2: training.lr=1000000000.0")
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "exp").rglob("manifest.json")}
    assert before.items() <= after.items()
    for arm in ("replace", "real"):
        for seed in (2, 3):
            assert len(read_metrics(tmp_path / "exp" / f"arm={arm}" / f"seed={seed}")) == 3
    assert len(read_metrics(tmp_path / "exp" / "arm=cold" / "seed=1")) == 2  # left as it was
    shared = {
        Chain(tmp_path / "exp" / f"arm={arm}" / "seed=2").stage(0, "train") for arm in ("replace", "real", "cold")
    }
    assert len(shared) == 1


def test_tables_hold_one_row_per_arm_seed_generation_and_metric(done: Path) -> None:
    table = pd.read_csv(done / "report" / "metrics.csv")
    assert list(table) == ["arm", "seed", "generation", "metric", "value"]
    pd.testing.assert_frame_equal(table, pd.read_parquet(done / "report" / "metrics.parquet"), check_dtype=False)
    assert not table.duplicated(["arm", "seed", "generation", "metric"]).any()
    for arm in ARMS:
        for seed in (1, 2):
            for row in read_metrics(done / f"arm={arm}" / f"seed={seed}"):
                here = table[(table.arm == arm) & (table.seed == seed) & (table.generation == row["generation"])]
                assert dict(zip(here.metric, here.value, strict=True)) == row["metrics"] | {
                    "real_share": row["real_share"]
                }


def test_summary_has_t_intervals_and_paired_differences(done: Path) -> None:
    table, summary = (pd.read_parquet(done / "report" / f"{name}.parquet") for name in ("metrics", "summary"))
    key = "real/nll_nats"
    wide = table[(table.metric == key) & (table.generation == 1)].pivot(index="seed", columns="arm", values="value")
    for arm in ARMS:
        row = summary[(summary.metric == key) & (summary.generation == 1) & (summary.arm == arm)].iloc[0]
        expected = stats.ttest_1samp(wide[arm], 0).confidence_interval(0.95)
        assert (row["chains"], row["mean"]) == (2, pytest.approx(wide[arm].mean()))
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
        if arm == "replace":
            assert row["pairs"] == 0 and math.isnan(row["difference"])
            continue
        pair = stats.ttest_rel(wide[arm], wide["replace"]).confidence_interval(0.95)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((pair.low, pair.high))


def test_one_chain_has_no_interval_and_the_report_says_so(tmp_path: Path, lab: Lab) -> None:
    assert math.isnan(mean_interval(np.array([3.0]))[1])
    assert paired_difference({1: 2.0}, {2: 1.0}) is None
    assert tables.with_interval(28.0123, math.nan) == "28.01"
    assert tables.with_interval(28.0123, 27.8899) == "28.01 ± 0.12"
    assert tables.with_interval(1326.0, 1176.0) == "1326 ± 150"
    run(small_config(runs_dir=str(tmp_path), generations=0))
    code, _, _ = lab("report", str(tmp_path / "test"))
    assert code == 0 and "One seed only (main)" in (tmp_path / "test" / "report" / "index.html").read_text()


def test_the_report_compares_arms_and_does_not_say_one_seed(done: Path) -> None:
    text = (done / "report" / "index.html").read_text()
    assert "Arms compared" in text and "minus replace" in text and "One seed only" not in text


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    covered = [low <= 5.0 <= high for _, low, high in map(mean_interval, draws)]
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_eval_scores_an_old_run_anew_and_touches_nothing_published(done: Path, tmp_path: Path, lab: Lab) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    root, before = tmp_path / "exp", content(tmp_path / "exp")
    chain = root / "arm=cold" / "seed=1"
    code, _, err = lab("eval", str(chain), "--evaluation.tokens", "256", "--evaluation.stride", "16")
    assert code == 0, err
    assert content(root).items() >= before.items()
    added = set(content(root)) - set(before)
    assert added and all("/rescored/" in name for name in added)
    (folder,) = (chain / "rescored").iterdir()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["generation"]) for row in rows] == [("cold", 0), ("cold", 1)]
    old = read_metrics(chain)
    assert rows[1]["protocol"] != old[1]["protocol"]
    assert rows[1]["metrics"]["real/nll_nats"] != old[1]["metrics"]["real/nll_nats"]
    assert rows[1]["metrics"]["diversity/words/distinct_2"] == old[1]["metrics"]["diversity/words/distinct_2"]
    written = {p: p.stat().st_mtime_ns for p in chain.rglob("rescored/*/manifest.json")}
    assert lab("eval", str(chain), "--evaluation.tokens", "256", "--evaluation.stride", "16")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in chain.rglob("rescored/*/manifest.json")} == written


def test_an_experiment_that_is_killed_continues(tmp_path: Path) -> None:
    path = asked(tmp_path, arms={"replace": ARMS["replace"]}, generations=4)
    command = [sys.executable, "-m", "collapselab", "experiment", "--config", path, "--workers", "1"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = tmp_path / "exp" / "arm=replace" / "seed=1"
    deadline = time.monotonic() + 120
    while stage_of(Chain(root), 0)[0] < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    reached = stage_of(Chain(root), 0)[0]
    assert 2 <= reached < 5
    before = {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}
    subprocess.run(command, check=True, capture_output=True)
    assert before.items() <= {p: p.stat().st_mtime_ns for p in root.rglob("manifest.json")}.items()
    assert [len(read_metrics(tmp_path / "exp" / "arm=replace" / f"seed={s}")) for s in (1, 2)] == [5, 5]


@pytest.mark.parametrize(
    ("changes", "line", "parts"),
    [
        ({"arms": {}}, [], ["arms", "give at least one"]),
        ({"seeds": []}, [], ["seeds=[]"]),
        ({"seeds": [1, 1]}, [], ["seeds=[1, 1]", "each once"]),
        ({"seed": 3}, [], ["seed:", "seeds: [1, 2, 3]"]),
        ({"baseline": "nobody"}, [], ["baseline='nobody'", "replace, accumulate, cold"]),
        ({"arms": {"a": {"mixing.ratoi": 0.5}}}, [], ["arms.a.mixing.ratoi", "did you mean 'mixing.ratio'?"]),
        ({"arms": {"a": {"seed": 5}}}, [], ["arms.a.seed", "the same for all arms"]),
        ({"arms": {"a": {"mixing.start": 3}}}, [], ["arms.a", "mixing.start=3.0"]),
        ({"arms": {"a": {"mixing.start": "x"}}}, [], ["arms.a", "mixing.start='x'", "a number"]),
        ({"arms": {"a": 5}}, [], ["arms.a=5", "keys and values"]),
        ({"arms": {"../x": {}}}, [], ["arms.../x", "arm='../x'"]),
        ({}, ["--mixing.start", "0.3"], ["--mixing.start", "arm replace sets it"]),
        ({}, ["--workers", "0"], ["--workers=0"]),
        ({}, ["--base", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
    ],
)  # fmt: skip
def test_a_mistake_in_an_experiment_is_one_line(
    tmp_path: Path, lab: Lab, changes: dict[str, object], line: list[str], parts: list[str]
) -> None:
    code, out, err = lab("experiment", "--config", asked(tmp_path, **changes), *line)
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith("collapselab: error: "), err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "exp").exists()


def test_a_strange_shared_file_leads_nowhere_else(done: Path, tmp_path: Path) -> None:
    chain = tmp_path / "arm=a" / "seed=1"
    chain.mkdir(parents=True)
    (chain / "shared.json").write_text(json.dumps({"train": "../../elsewhere"}))
    with pytest.raises(UserError, match="not written by this lab"):
        Chain(chain)


def test_base_settings_may_come_from_another_file(tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text("training: {lr: 0.004}\nmodel: {width: 64}\n")
    path = tmp_path / "configs" / "e.yaml"
    path.write_text("base: base.yaml\nmodel: {width: 32}\nseeds: [1]\narms: {a: {}}\n")
    code, out, _ = lab("experiment", "--config", str(path), "--print_config")
    found = yaml.safe_load(out)
    assert code == 0 and found["training"]["lr"] == 0.004 and found["model"]["width"] == 32

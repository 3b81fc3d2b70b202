"""Experiments: arms x seeds, generation 0 shared by digest, tables with intervals, old runs scored anew."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Lab
from helpers import STAGES, Forked, small_config
from scipy import stats

from collapselab.chain.run import run
from collapselab.cli.common import one_chain, print_table
from collapselab.cli.experiment import read_experiment
from collapselab.config import UserError, as_dict
from collapselab.metrics.intervals import differences, mean_interval, mean_intervals
from collapselab.report import pages, tables
from collapselab.report.results import write_results
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, read_metrics
from collapselab.store.seals import sealed_text

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
    """Digests of all files but the locks, which say who held them last."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "lock"]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a finished experiment, made by the command line with two workers (do not change it)."""
    folder = tmp_path_factory.mktemp("experiment")
    made = Forked("experiment", "--config", asked(folder), "--workers", "2", output=folder / "said.log")
    assert made.wait(240) == 0, made.said()
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
    arms = {
        "replace": ARMS["replace"],
        "hot": {"training.lr": 1e9, "training.clip": 0, "training.weight_decay": 0},
        "real": real,
    }
    path = asked(tmp_path, arms=arms, seeds=[2, 3], generations=2)
    made = Forked("experiment", "--config", path, output=tmp_path / "said.log")
    assert made.wait(240) == 2
    said = made.said().splitlines()[-1]
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
    assert differences({1: 2.0}, {2: 1.0}) == [] and differences({1: 2.0, 3: 4.0}, {3: 1.0, 1: 1.5}) == [0.5, 3.0]
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


def test_many_intervals_at_once_are_those_of_each_sample() -> None:
    draw = np.random.default_rng(1)
    samples = [draw.normal(5.0, 2.0, draw.integers(1, 8)).tolist() for _ in range(50)]
    for sample, (mean, low, high) in zip(samples, mean_intervals(samples), strict=True):
        assert mean == pytest.approx(np.mean(sample))
        expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95) if len(sample) > 1 else (math.nan, math.nan)
        assert (low, high) == pytest.approx(tuple(expected), nan_ok=True)


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


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Waits for something; returns whether it came."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def finished(root: Path) -> int:
    return Chain(root).at_work(0)[0]


def held(root: Path) -> bool:
    """Whether some process has the lock of a chain."""
    with (root / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_chain_that_went_further_counts_as_done_and_a_call_without_work_is_not_counted(
    done: Path, tmp_path: Path, lab: Lab, workers_at_once: None
) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    before = content(tmp_path / "exp" / "arm=replace")
    path = asked(tmp_path, arms={"replace": ARMS["replace"]}, generations=0)
    code, out, err = lab("experiment", "--config", path, "--workers", "1")
    assert code == 0 and "generation 1: mean over chains" in out, err
    after = content(tmp_path / "exp" / "arm=replace")
    assert {k: v for k, v in after.items() if "/gen_" in k} == {k: v for k, v in before.items() if "/gen_" in k}
    assert len(read_metrics(tmp_path / "exp" / "arm=replace" / "seed=2")) == 2
    first, second = read_json(tmp_path / "exp" / "timing.json")["calls"]
    # By seed: one training set and model and two samples, references and scores of generation 0, and generation 1 of three arms.
    assert (first["stages"], first["generations"]) == (2 * (2 + 6 + 12), 2 * (2 + 3)) and second["stages"] == 0
    page = write_results(tmp_path / "exp", tmp_path / "kept", "collapselab").read_text()
    assert f"It took {first['seconds']:,.0f} s in one call, 2 at a time" in page


def test_what_was_asked_is_kept_as_a_file_that_can_be_run_again(done: Path, lab: Lab) -> None:
    first, _ = read_experiment(["--config", str(done.parent / "experiment.yaml")])
    kept = str(done / "experiment.yaml")
    assert lab("experiment", "--config", kept, "--print_config")[0] == 0
    assert read_experiment(["--config", kept])[0] == first
    assert yaml.safe_load(Path(kept).read_text())["arms"]["accumulate"] == {"mixing.regime": "accumulate"}


def test_a_dry_run_says_what_each_arm_takes(tmp_path: Path, lab: Lab) -> None:
    code, out, _ = lab("experiment", "--config", asked(tmp_path), "--dry_run")
    assert code == 0 and out.startswith("6 chains: arms 3, seeds 2")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("arm ")] == list(ARMS)
    assert out.count("\nregime      accumulate;") == 1 and out.count("\ntime  ") == 3
    assert not (tmp_path / "exp").exists()


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
        ({"arms": {"a": {"mixing.start": 0.1, "mixing": {"start": 0.2}}}}, [], ["arms.a.mixing.start", "twice"]),
        ({}, ["--arm", "zz"], ["arm:", "an experiment has `arms`"]),
        ({"runs_dir": "/dev/null/x"}, [], ["runs_dir='/dev/null/x'", "cannot be written"]),
        ({"arms": {"../x": {}}}, [], ["arms.../x", "arm='../x'"]),
        ({}, ["--mixing.start", "0.3"], ["--mixing.start", "arm replace sets this key"]),
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


# --- reports ----------------------------------------------------------------------------------------------------------


def test_arms_are_compared_at_the_last_generation_that_every_chain_has(done: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    rows = tmp_path / "exp" / "arm=cold" / "seed=1" / "metrics.jsonl"
    rows.write_text(rows.read_text().splitlines()[0] + "\n")
    title, columns, found = pages.comparison(tmp_path / "exp")
    assert title.startswith("generation 0:")
    assert {row[columns.index("chains")] for row in found} == {"2"} and {row[1] for row in found} == set(ARMS)


def test_the_report_of_a_chain_is_that_of_its_whole_run(done: Path, tmp_path: Path, lab: Lab) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    before = (tmp_path / "exp" / "report" / "metrics.csv").read_bytes()
    assert lab("report", str(tmp_path / "exp" / "arm=cold" / "seed=1"))[0] == 0
    assert (tmp_path / "exp" / "report" / "metrics.csv").read_bytes() == before
    assert "Arms compared" in (tmp_path / "exp" / "report" / "index.html").read_text()


def test_what_an_earlier_report_left_and_this_one_has_not_is_removed(tmp_path: Path, lab: Lab) -> None:
    chain, (row,) = run(small_config(runs_dir=str(tmp_path), generations=0))
    row["metrics"] = {key: value for key, value in row["metrics"].items() if not key.startswith("theory/")}
    (chain / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "kept"
    (tmp_path / "test" / "report").mkdir(exist_ok=True)
    out.mkdir()
    stale = [
        out / "experiment.yaml",
        out / "theory.csv",
        out / "theory.png",
        tmp_path / "test" / "report" / "theory.csv",
    ]
    for path in [*stale, out / "notes.txt"]:
        path.write_text("old")
    assert lab("report", str(tmp_path / "test"), "--out", str(out))[0] == 0
    assert not any(path.exists() for path in stale)
    assert (out / "notes.txt").exists() and (out / "table.md").exists()


@pytest.mark.parametrize("broken", ["arms: [", "seeds: [1]\n", "arms: 5\nbaseline: a\n", "[]", "\xff"])
def test_a_broken_experiment_file_is_one_line(done: Path, tmp_path: Path, lab: Lab, broken: str) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    (tmp_path / "exp" / "experiment.yaml").write_bytes(broken.encode("latin-1"))
    code, _, err = lab("report", str(tmp_path / "exp"))
    assert code == 2 and err.count("\n") == 1 and f"{tmp_path}/exp/experiment.yaml: not written by this lab" in err


def test_where_a_report_cannot_be_written_or_read_is_one_line(done: Path, tmp_path: Path, lab: Lab) -> None:
    (tmp_path / "file").write_text("")
    for out in ("/proc/nope", str(tmp_path / "file")):
        code, _, err = lab("report", str(done), "--out", out)
        assert code == 2 and err.count("\n") == 1 and f"--out {out}: cannot be written" in err
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    shutil.rmtree(tmp_path / "exp" / "report")
    (tmp_path / "exp" / "report").write_text("")
    code, _, err = lab("report", str(tmp_path / "exp"))
    assert code == 2 and err.count("\n") == 1 and f"{tmp_path}/exp/report: cannot be written" in err
    (tmp_path / "exp" / "arm=cold" / "seed=1").rename(tmp_path / "exp" / "arm=cold" / "seed=abc")
    code, _, err = lab("report", str(tmp_path / "exp"))
    assert code == 2 and err.count("\n") == 1 and "arm=cold/seed=abc: a chain lies in arm=NAME/seed=NUMBER" in err


def test_a_table_that_goes_to_a_file_keeps_its_width(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [letter * 40 for letter in "abcd"]
    print_table("title", cells, [cells])
    assert " │ ".join(cells) in capsys.readouterr().out


# --- single stages of an experiment -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["gen_001/train/model.safetensors", "gen_001/samples/tokens-00000.bin", "gen_000/mixture"]
)
def test_a_damaged_stage_is_neither_scored_nor_sampled(done: Path, tmp_path: Path, lab: Lab, damage: str) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    chain = tmp_path / "exp" / "arm=cold" / "seed=1"
    g, name = damage.split("/")[:2]
    place = Chain(chain).stage(int(g[-1]), name)
    if damage.endswith("mixture"):
        shutil.rmtree(place)
    else:
        file = place / Path(damage).name
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    before = content(tmp_path / "exp")
    asked = [("eval", str(chain), "--evaluation.tokens", "256")]
    if name != "samples":
        asked.append(("sample", str(chain), "--out", str(tmp_path / "out")))
    for line in asked:
        code, out, err = lab(*line)
        assert (code, out) == (2, "") and err.count("\n") == 1, err
        assert f"{place}: missing, damaged" in err and "continue the run to rebuild it" in err
    assert content(tmp_path / "exp") == before and not (tmp_path / "out").exists()


def test_a_run_is_scored_by_one_process_at_a_time_and_within_its_text(done: Path, tmp_path: Path, lab: Lab) -> None:
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "exp")], check=True)
    chain, before = tmp_path / "exp" / "arm=cold" / "seed=1", content(tmp_path / "exp")
    code, _, err = lab("eval", str(chain), "--evaluation.embeddings", "5000")
    assert code == 2 and err.count("\n") == 1 and "evaluation.embeddings=5000: a generation writes" in err
    with (chain / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write('{"pid": 4242}')
        lock.flush()
        code, _, err = lab("eval", str(chain), "--evaluation.tokens", "256")
    assert code == 2 and err.count("\n") == 1 and "process 4242 has locked this chain" in err
    assert content(tmp_path / "exp") == before


def test_a_verb_for_one_chain_says_which_of_several_it_takes(done: Path, lab: Lab) -> None:
    first = done / "arm=replace" / "seed=1"  # the baseline
    code, _, err = lab("sample", str(done), "--show", "1")
    assert code == 0 and f"{done} holds 6 chains; taking {first}" in err
    code, out, err = lab("eval", str(Chain(first).stage(1, "train")), "--run", str(done))
    assert code == 0 and "real/nll_nats" in json.loads(out) and f"taking {first}" in err


def test_without_a_baseline_the_first_arm_and_the_least_seed_are_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arm, seed in (("b", 10), ("b", 2), ("a", 10), ("a", 3)):
        (tmp_path / f"arm={arm}" / f"seed={seed}").mkdir(parents=True)
        (tmp_path / f"arm={arm}" / f"seed={seed}" / "config.yaml").write_text(sealed_text(""))
    for asked_for, meant in (
        (None, "arm=a/seed=3"),
        ("b", "arm=b/seed=2"),
        ("'b'", "arm=b/seed=2"),
        ("z", "arm=a/seed=3"),
    ):
        if asked_for:
            (tmp_path / "experiment.yaml").write_text(f"seeds: [1]\nbaseline: {asked_for}\n")
        assert one_chain(str(tmp_path)) == tmp_path / meant
        assert f"holds 4 chains; taking {tmp_path / meant}; name another's folder" in capsys.readouterr().err

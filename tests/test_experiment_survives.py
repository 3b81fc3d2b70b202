"""Experiments whose processes are killed or interrupted, and chains that fail beside others."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import Forked, small_config
from test_experiment import ARMS, asked, finished, held, within

from collapselab.experiments import local
from collapselab.store.folders import read_json
from collapselab.store.layout import read_metrics


def test_an_experiment_that_is_killed_or_interrupted_continues(tmp_path: Path) -> None:
    path = asked(tmp_path, arms={"replace": ARMS["replace"]}, seeds=[1], generations=5)
    command = ["experiment", "--config", path, "--workers", "1"]
    root = tmp_path / "exp" / "arm=replace" / "seed=1"
    for wanted, sign, code in ((2, signal.SIGKILL, -9), (3, signal.SIGINT, 130)):
        first = Forked(*command, output=tmp_path / "said.log")
        assert within(120, lambda: finished(root) >= wanted)  # noqa: B023
        first.send_signal(sign)
        assert first.wait(30) == code
        assert wanted <= finished(root) < 6
        assert within(10, lambda: not held(root))  # its worker ends with it
        assert "Traceback" not in (tmp_path / "exp" / "workers.log").read_text()
    before = {p: p.stat().st_mtime_ns for p in root.glob("gen_*/*/manifest.json")}
    assert Forked(*command, output=tmp_path / "said.log").wait(120) == 0
    assert before.items() <= {p: p.stat().st_mtime_ns for p in root.glob("gen_*/*/manifest.json")}.items()
    assert len(read_metrics(root)) == 6
    interrupted, last = read_json(tmp_path / "exp" / "timing.json")["calls"]
    assert interrupted["stages"] >= 2 and last["generations"] >= 1 and last["seconds"] > 0


def test_what_befalls_one_chain_leaves_the_others_alone(tmp_path: Path) -> None:
    """Seed 1's process is killed, seed 2 has a broken file, seed 3 belongs to another process; seed 4 is finished. The
    processes begin as a user's do."""
    path = asked(tmp_path, arms={"replace": ARMS["replace"]}, seeds=[1, 2, 3, 4], generations=2)
    homes = [tmp_path / "exp" / "arm=replace" / f"seed={seed}" for seed in (1, 2, 3, 4)]
    for home in homes[1:3]:
        home.mkdir(parents=True)
    (homes[1] / "shared.json").write_text("[]")
    with (homes[2] / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write('{"pid": 4242}')
        lock.flush()
        command = [sys.executable, "-m", "collapselab", "experiment", "--config", path, "--workers", "1"]
        made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert within(120, lambda: finished(homes[0]) >= 1)
        os.kill(read_json(homes[0] / "lock")["pid"], signal.SIGKILL)
        out, err = made.communicate(timeout=120)
    assert made.returncode == 2 and "report: " in out
    said = next(line for line in err.splitlines() if line.startswith("collapselab: "))
    assert said.startswith(
        "collapselab: error: 2 of 4 chains did not finish: replace seed 1: its process was ended by signal 9"
    )
    assert "/seed=2/shared.json: not written by this lab" in said and "seed 3" not in said
    assert "replace seed 3: left to process 4242, which runs it" in err and "Traceback" not in err
    assert len(read_metrics(homes[3])) == 3
    (call,) = read_json(tmp_path / "exp" / "timing.json")["calls"]
    assert call["generations"] >= 4 and call["workers"] == 1


def test_ctrl_c_while_a_worker_begins_is_for_the_parent_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal sends it to all: a process that still imports would answer with a traceback."""
    worker = local.Worker(0, 1, [], tmp_path / "workers.log")
    worker.give(small_config(runs_dir=str(tmp_path), model__family="bigram", generations=0, device="cpu"))
    assert worker.process is not None and worker.process.pid is not None
    until, outcome = time.monotonic() + 60, None
    while outcome is None and time.monotonic() < until:
        with suppress(ProcessLookupError):
            os.kill(worker.process.pid, signal.SIGINT)
        time.sleep(0.005)
        outcome = worker.outcome()
    worker.ask_to_end()
    worker.end()
    assert outcome == ("done", "done") and "Traceback" not in capfd.readouterr().err
    assert "Traceback" not in (tmp_path / "workers.log").read_text()

"""SIGINT and SIGTERM end a run where it can go on from, and say how; a second one ends it at once."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import Lab
from helpers import Forked, left
from kill_again import CHAIN, exit_status, start

from collapselab.cli import main as cli
from collapselab.config import UserError
from collapselab.runtime import interrupts

ROOT = Path(__file__).parents[1]

LONGER = [*CHAIN, "--generations=1", "--training.epochs=4", "--training.checkpoint_steps=10"]
LONGER += ["--training.checkpoint_seconds=null"]


def in_a_file(folder: Path) -> list[str]:
    """The options of LONGER as a file of settings: a line that names them all would be cut."""
    tree: dict = {}
    for item in LONGER:
        key, value = item[2:].split("=", 1)
        section, _, name = key.replace("-", "_").rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = yaml.safe_load(value)
    (folder / "longer.yaml").write_text(yaml.safe_dump(tree))
    return ["--config", str(folder / "longer.yaml")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What four runs said and left that were asked to end in their second generation and then went on."""
    root = tmp_path_factory.mktemp("runs")
    home = ["--runs_dir", str(root), "--progress=false", *in_a_file(root)]
    assert exit_status(start(["run", "--name=whole", *home], root / "whole.log", True), 120) == 0
    wanted, found = left(root / "whole/arm=main/seed=1"), []
    for stage, signs in (("train", (2, 15)), ("samples", (15,)), ("eval", (2,))):
        for sign in map(signal.Signals, signs):
            name = f"{stage}-{sign.name}"
            chain = root / name / "arm=main/seed=1"
            one = Forked("run", f"--name={name}", *home, output=root / f"{name}.log")
            wait_for = "train.unfinished/0000000010" if stage == "train" else f".{stage}.partial"
            while not (chain / "gen_001" / wait_for).exists():
                assert one.poll() is None, one.said()
                time.sleep(0.001)
            one.send_signal(sign)
            code = one.wait(120)
            said = one.said().splitlines()[-1]
            kept = [p.name for p in chain.glob(f"gen_001/{stage}.unfinished/*")]
            again = shlex.split(said.split("to resume: ")[1])
            assert exit_status(start(again[1:], root / "again.log", True), 120) == 0
            found.append({"stage": stage, "sign": int(sign), "code": code, "said": said, "kept": kept, "again": again,
                          "log": one.said(), "equal": left(chain) == wanted})  # fmt: skip
    return found


def test_a_signal_ends_a_run_with_its_code_and_the_command_that_goes_on(stopped: list[dict]) -> None:
    assert len(stopped) == 4
    for one in stopped:
        assert one["code"] == 128 + one["sign"], one
        name = signal.Signals(one["sign"]).name
        assert one["said"].startswith(f"collapselab: stopped by {name}") and one["again"][:2] == ["collapselab", "run"]
        assert "Traceback" not in one["log"]


def test_the_step_at_hand_is_finished_and_kept(stopped: list[dict]) -> None:
    for one in stopped:
        if one["stage"] == "train":
            step = re.search(r"\(generation 1, training, after step (\d+) of 128\)", one["said"])
            assert step and max(one["kept"]) == f"{int(step[1]):010d}", one["said"]
            assert len(one["kept"]) <= 2


def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(stopped: list[dict]) -> None:
    assert all(one["equal"] for one in stopped)


def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    """In a training step of many seconds: the first signal waits for its end, the second does not."""
    command = ["run", "--runs_dir", str(tmp_path), "--corpus.tokenizer=bytes"]
    command += [
        "--training.batch_size=512",
        "--training.checkpoint_steps=1",
        "--training.block=128",
        "--mixing.tokens=262144",
        "--model.width=128",
    ]
    run = Forked(*command, output=tmp_path / "said.log")
    place = tmp_path / "main/arm=main/seed=1/gen_000/train.unfinished/0000000001"
    until = time.monotonic() + 120
    while not place.exists():
        assert run.poll() is None and time.monotonic() < until, run.said()
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    time.sleep(0.8)
    assert run.poll() is None, "the step should be longer"
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM and "stopped at once" in run.said()
    assert [step.name for step in place.parent.glob("0*")] == [place.name]  # the step was not finished


def test_an_experiment_stops_its_chains_in_checkpoints(tmp_path: Path) -> None:
    settings = {
        "name": "exp", "runs_dir": str(tmp_path), "seeds": [1, 2], "generations": 1, "progress": False,
        "corpus": {"tokenizer": "bytes"}, "arms": {"a": {"mixing.start": 0.0}},
        "training": {"epochs": 4000, "block": 32, "batch_size": 4, "checkpoint_steps": 1}, "mixing": {"tokens": 4096},
        "model": {"layers": 2, "width": 32, "heads": 2}, "evaluation": {"tokens": 1024},
    }  # fmt: skip
    (tmp_path / "exp.yaml").write_text(json.dumps(settings))
    command = ["experiment", "--config", str(tmp_path / "exp.yaml"), "--workers", "2"]
    run = Forked(*command, output=tmp_path / "said.log")
    until = time.monotonic() + 120
    kept = "exp/shared/*/seed=*/gen_000/train.unfinished"
    while len(list(tmp_path.glob(kept))) < 2:
        assert run.poll() is None and time.monotonic() < until, run.said()
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM
    said = run.said()
    assert shlex.split(said.split("to resume: ")[1])[:2] == ["collapselab", "experiment"] and "Traceback" not in said
    assert all(any(folder.glob("*/manifest.json")) for folder in tmp_path.glob(kept))
    assert "Traceback" not in (tmp_path / "exp" / "workers.log").read_text()


def test_a_signal_that_surfaces_as_another_error_is_a_signal(monkeypatch: pytest.MonkeyPatch, lab) -> None:
    """Libraries turn what is raised inside them into errors of their own; the signal is what happened."""

    def verb(arguments: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise UserError("file.bin: not written by this lab") from None
        return 0

    monkeypatch.setattr(cli, "handler", lambda name: verb)
    code, _, said = lab("corpus")
    assert code == 143 and said.startswith("collapselab: stopped by SIGTERM; to repeat: collapselab corpus"), said
    assert not interrupts.asked()  # a notebook may go on


def test_a_signal_while_an_object_is_removed_is_not_lost() -> None:
    """Python drops what is raised in `__del__`; the signal comes again."""
    script = """
import os, signal, sys, time
from collapselab.runtime import interrupts

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)

try:
    with interrupts.handled():
        it = Slow()
        del it
        time.sleep(20)
        print("nothing came")
except interrupts.Stopped as stopped:
    sys.exit(stopped.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 143 and "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.05, 0.07])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_three_signals_at_once_are_one(tmp_path: Path, gap: float, sign: signal.Signals) -> None:
    """Also while the last line is said: exit status 128 + the signal, and no traceback."""
    one = Forked("run", "--name=x", "--runs_dir", str(tmp_path), "--progress=false", *LONGER, output=tmp_path / "x.log")
    until = time.monotonic() + 60
    while not (tmp_path / "x" / "events.log").exists():
        assert one.poll() is None and time.monotonic() < until, one.said()
        time.sleep(0.002)
    for _ in range(3):
        if one.poll() is None:
            one.send_signal(sign)
        time.sleep(gap)
    code = one.wait(60)
    assert code in (128 + sign, -sign), one.said()  # a shell says the same of both
    assert "Traceback" not in one.said() and "Error" not in one.said(), one.said()


def test_signals_while_the_last_line_is_said_change_nothing(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    def stopped(arguments: list[str]) -> int:
        raise interrupts.Stopped(signal.SIGTERM)

    def slow(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)

    monkeypatch.setattr(cli, "handler", lambda name: stopped)
    monkeypatch.setattr(cli, "_report_stop", slow)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert lab("corpus")[0] == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

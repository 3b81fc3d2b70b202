"""The sweeps in configs/ give runs that this lab takes, each with a place of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Lab
from helpers import undrawn, wandb_files, wandb_records

from collapselab.chain.opening import chain_path
from collapselab.cli.options import Options, config_from
from collapselab.config import UserError, as_dict
from collapselab.config.values import flatten
from collapselab.store.layout import read_metrics

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def no_drawing() -> Iterator[None]:
    with undrawn():
        yield


def combinations(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """What a grid search asks for, one after another."""
    assert sweep["method"] == "grid"
    values = [held["values"] for held in sweep["parameters"].values()]
    return [dict(zip(sweep["parameters"], chosen, strict=True)) for chosen in itertools.product(*values)]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A function (sweep, settings) -> (command, environment): what wandb's own agent starts for them."""
    from wandb import wandb_agent

    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", Process(started))
    for key in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets these; put back afterwards
        monkeypatch.setenv(key, "")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))

    def start(sweep: dict[str, Any], settings: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        begun = wandb_agent.Agent(None, None, "sweep1")
        begun._sweep_command = list(sweep["command"])
        args = {key: {"value": value} for key, value in settings.items()}
        begun._command_run({"type": "run", "run_id": "run1", "program": sweep["program"], "args": args})
        return started.pop()

    return start


class Process:
    """In the place of wandb's process of a run: keeps what it was to start."""

    def __init__(self, started: list[tuple[list[str], dict[str, str]]]):
        self.started = started

    def __call__(self, command: list[str], env: dict[str, str], **_: Any) -> Process:
        self.started.append((command, env))
        return self


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_combination_is_accepted_and_has_a_place_of_its_own(path: Path, agent, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    options = Options("run", "")
    options.add_run_keys()
    places = set()
    asked = combinations(sweep)
    assert len(asked) >= 20
    for settings in asked:
        command, _ = agent(sweep, settings)
        at = command.index("run")
        assert command[:3] == ["/usr/bin/env", "accelerate", "launch"] and command[at - 2 : at] == ["-m", "collapselab"]
        _, config = options.parse_run(options.gather(command[at + 1 :]))
        found = flatten(as_dict(config))
        assert {key: found[key] for key in settings} == settings and config.tracking.wandb == "online"
        assert config.name == sweep["name"] == path.stem and config.tracking.project == sweep["project"]
        places.add(chain_path(config))
    assert (
        len(places) == len(asked) and len({place.parent for place in places}) == len(asked) / 3
    )  # arms of three seeds


TINY = ("--generations=1", "--mixing.tokens=1280", "--evaluation.tokens=512", "--evaluation.sample_tokens=512",
        "--evaluation.self_bleu_samples=0", "--evaluation.overlap=false", "--evaluation.reference_tokens=0",
        "--model.pretrained=null", "--model.start=scratch", "--model.layers=1", "--model.width=16", "--model.heads=2",
        "--corpus.tokenizer=bytes", "--training.block=32", "--sampling.batch_size=16", "--tracking.wandb=offline")  # fmt: skip


def is_of_the_sweep(runs: Path) -> None:
    """Whether the run that an agent started is the one that its sweep waits for."""
    path = runs / "real_share" / "arm=geometric_floor_0.0" / "seed=3"
    assert len(read_metrics(path)) == 2 and config_from(path / "config.yaml").arm == "geometric_floor_0.0"
    (file,) = wandb_files(path)
    (one,) = [record for record in wandb_records(file) if type(record).__name__ == "RunRecord"]
    assert (one.run_id, one.sweep_id, one.run_group) == ("run1", "sweep1", "real_share")
    assert one.job_type == "geometric_floor_0.0"


def test_a_run_that_an_agent_starts_is_the_one_that_its_sweep_waits_for(
    agent, tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the launcher, which takes fifteen seconds; the long form has it."""
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    command, environment = agent(sweep, combinations(sweep)[2])
    for key in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.setenv(key, environment[key])
    code, _, err = lab(*command[command.index("run") :], *TINY, f"--runs_dir={tmp_path}")
    assert code == 0, err
    is_of_the_sweep(tmp_path)


@pytest.mark.slow
def test_the_command_of_a_sweep_runs_as_an_agent_starts_it(agent, tmp_path: Path) -> None:
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    command, environment = agent(sweep, combinations(sweep)[2])
    environment |= {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command += [*TINY, f"--runs_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    is_of_the_sweep(tmp_path)


def test_a_name_is_filled_from_the_settings(lab) -> None:
    options = Options("run", "")
    options.add_run_keys()
    line = ["--arm=t{sampling.temperature}_{mixing.values}", "--name=s{seed}", "--seed=4", "--mixing.schedule=list"]
    _, config = options.parse_run(options.gather([*line, "--mixing.values=[0.5, 0.25]", "--generations=2"]))
    assert config.name == "s4" and config.arm == "t1.0__0.5__0.25_"
    line = ["--arm={mixing.schedule}_{deterministic}_{mixing.regime}_{training.lr}", "--training.lr=1e-5"]
    assert options.parse_run(options.gather(line))[1].arm == "null_false_replace_1e-05"  # as they are written in a file
    for wrong in ("{mixing.flor}", "{arm}", "{}", "{name}"):
        code, out, err = lab("run", f"--arm={wrong}")
        assert code == 2 and out == "" and f"{wrong} is not a setting" in err
    with pytest.raises(UserError, match="use 1 to 100 letters"):
        options.parse_run(options.gather(["--arm={seed"]))

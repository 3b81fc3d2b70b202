"""Rerun of an entry, compared with its criteria. `results` writes the verdict with its table, figure and settings.

NOT RUN   something is missing here, or chains did not finish; with the reason
NO POWER  a condition fails without which the criteria cannot tell anything
PASS      every criterion holds in the mean over seeds
FAIL      otherwise
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from collapselab.config import UserError
from collapselab.metrics.intervals import mean_interval
from collapselab.reproduce.courses import Measured, value_of
from collapselab.reproduce.entries import Criterion, Entry

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment
    from collapselab.report.files import ChainFiles

Word = Literal["PASS", "FAIL", "NO POWER", "NOT RUN"]


@dataclass(frozen=True)
class Assessment:
    """A criterion with its measured values."""

    criterion: Criterion
    values: list[float]
    """By seed."""
    mean: float
    low: float
    high: float
    """Ends of the 95 % t-interval over seeds; nan for a single seed."""
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """Verdict on a run of an entry."""

    entry: Entry
    word: Word
    seeds: list[int]
    reason: str = ""
    """Why it was not run, or failed regardless of the criteria."""
    unfinished: bool = False
    """The run was started and did not finish, although nothing was missing."""
    judged: list[Assessment] = field(default_factory=list)
    power: list[Assessment] = field(default_factory=list)
    """Conditions without which the criteria cannot tell anything."""
    measured: Measured | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Duration of all calls that computed part of it."""
    settings: str = ""
    """Resolved settings as YAML: a file for `collapselab experiment --config`, or the processes of a simulation."""


def reproduce(entry: Entry, asked: Experiment | None, seeds: list[int], workers: int | None) -> Verdict:
    """Run an entry, or resume it, and judge it.

    Args:
        asked: its experiment with these seeds; None for a simulation.
        workers: chains to run at once; None leaves it to `experiments.run`.
    """
    if why := missing(entry, asked):
        return Verdict(entry, "NOT RUN", seeds, why)
    if asked is None:
        started = time.perf_counter()
        measured, environment, settings = _simulated(entry, seeds)
        seconds = time.perf_counter() - started
    else:
        from collapselab.experiments.run import run
        from collapselab.store.chain_files import call_seconds

        ended = run(asked, workers)
        if failed := [f"{c.arm} seed {c.seed}: {message}" for c, (how, message) in ended if how != "done"]:
            hint = f" (to start over, remove {asked.root})" if any(how == "failed" for _, (how, _) in ended) else ""
            reason = f"{len(failed)} of {len(ended)} chains did not finish: {failed[0]}{hint}"
            return Verdict(entry, "NOT RUN", seeds, reason, unfinished=True)
        measured, environment = _read(entry, asked, seeds)
        settings = (asked.root / "experiment.yaml").read_text(encoding="utf-8")
        seconds = call_seconds(asked.root)
    judged, power = judge(entry, entry.criteria, measured), judge(entry, entry.power, measured)
    same = twins(measured, seeds)
    word = "FAIL" if same else word_of(judged, power)
    return Verdict(entry, word, seeds, same, False, judged, power, measured, environment, seconds, settings)


def word_of(judged: list[Assessment], power: list[Assessment]) -> Word:
    """Verdict that follows from criteria and conditions of power."""
    if not all(one.holds for one in power):
        return "NO POWER"
    return "PASS" if all(one.holds for one in judged) else "FAIL"


def twins(measured: Measured, seeds: list[int]) -> str:
    """Return a sentence naming two seeds with identical numbers; empty if all differ.

    Chains that are not independent have no interval, and their mean is that of one chain.
    """
    courses = [course for table in measured.arms.values() for course in table.values()]
    for one, other in itertools.combinations(range(len(seeds)), 2):
        if all(np.array_equal(values[one], values[other], equal_nan=True) for values in courses):
            return f"seeds {seeds[one]} and {seeds[other]} measured the very same numbers: their chains are not independent"
    return ""


def judge(entry: Entry, criteria: list[Criterion], measured: Measured) -> list[Assessment]:
    """Compute each criterion by seed, with the mean, its interval, and whether the mean is within bounds."""
    assessments = []
    for criterion in criteria:
        values = value_of(criterion.of, measured, f"{entry.path}: {criterion.says}")
        mean, low, high = mean_interval(values)
        assessments.append(Assessment(criterion, values.tolist(), mean, low, high, criterion.holds(mean)))
    return assessments


def missing(entry: Entry, asked: Experiment | None) -> str:
    """Return a sentence naming a missing GPU, corpus or weights; empty if nothing is missing.

    Raises UserError for invalid settings.
    """
    if asked is None:
        return ""
    from collapselab.chain.opening import open_corpus
    from collapselab.chain.preflight import check_lengths
    from collapselab.models import pretrained
    from collapselab.runtime.parallel import Processes

    config = next(iter(asked.arms.values()))
    processes = Processes(config.device, config.training.precision, config.deterministic)
    if entry.needs_gpu and processes.device.type != "cuda":
        return f"it needs a GPU, and the device here is {processes.device.type}"
    try:
        if config.model.pretrained is not None:
            pretrained.size_of(config.model.pretrained)
        open_corpus(config, processes)
    except UserError as error:
        return str(error)
    check_lengths(config)
    return ""


# --- what was measured --------------------------------------------------------------------------------------------------


def _simulated(entry: Entry, seeds: list[int]) -> tuple[Measured, dict[str, Any], str]:
    import yaml

    from collapselab.reproduce.processes import simulate
    from collapselab.runtime.parallel import environment

    assert entry.simulation is not None
    arms: dict[str, dict[str, np.ndarray]] = {}
    for arm, process in entry.simulation["arms"].items():
        runs = [simulate(process, seed) for seed in seeds]
        arms[arm] = {key: np.stack([run[key] for run in runs]) for key in runs[0]}
    settings = yaml.safe_dump({"simulation": entry.simulation, "seeds": seeds}, sort_keys=False)
    return Measured(arms, {}), environment(), settings


def _read(entry: Entry, asked: Experiment, seeds: list[int]) -> tuple[Measured, dict[str, Any]]:
    """Read the courses of the entry's quantities from the chains' files."""
    from collapselab.chain.opening import chain_path
    from collapselab.report.files import ChainFiles

    by_arm: dict[str, list[ChainFiles]] = {arm: [] for arm in asked.arms}
    for config in asked.chains():
        by_arm[config.arm].append(ChainFiles(chain_path(config)))
    last = next(iter(asked.arms.values())).generations
    arms = {arm: _courses(entry, chains, last) for arm, chains in by_arm.items()}
    some = next(iter(by_arm.values()))
    real = {
        name: np.array([[chain.reference["metrics"][key]] for chain in some])
        for name, key in entry.quantities.items()
        if all(key in chain.reference["metrics"] for chain in some)
    }
    return Measured(arms, real), some[0].environment


def _courses(entry: Entry, chains: list[ChainFiles], last: int) -> dict[str, np.ndarray]:
    """Courses over generations 0 .. `last`, nan where a generation lacks the quantity; without quantities that none has."""
    nan = float("nan")
    courses: dict[str, np.ndarray] = {}
    for name, key in entry.quantities.items():
        rows = [[row["metrics"] | {"real_share": row["real_share"]} for row in c.rows[: last + 1]] for c in chains]
        values = [[row.get(key, nan) for row in course] for course in rows]
        if np.isfinite(values).any():
            courses[name] = np.array(values)
    return courses

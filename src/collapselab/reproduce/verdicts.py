"""Published results, rerun: an entry is run, compared with its criteria, and its verdict written beside what it rests on.

missing?  ->  NOT RUN, with the reason
measured = the entry's experiment, or its simulation
verdict  = PASS where every criterion holds in the mean over seeds, else FAIL;
           NO POWER where a condition does not hold without which the criteria could not tell
results/NAME/ has table, plot, figures, settings, machine, date and command
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
class Judged:
    """A criterion with what was measured."""

    criterion: Criterion
    values: list[float]
    """By seed."""
    mean: float
    low: float
    high: float
    """Of the 95 % t-interval over seeds; nan for a single one."""
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """What a run of an entry came to."""

    entry: Entry
    word: Word
    seeds: list[int]
    reason: str = ""
    """Why it was not run, or is no PASS whatever the criteria say."""
    unfinished: bool = False
    """Whether it was begun and could not be finished, which is no matter of what is missing here."""
    judged: list[Judged] = field(default_factory=list)
    power: list[Judged] = field(default_factory=list)
    """What had to hold for the criteria to be able to tell."""
    measured: Measured | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """That it took, in all calls that made something of it."""
    settings: str = ""
    """The resolved settings, YAML: what `collapselab experiment --config` reads, or the processes of a simulation."""


def reproduce(entry: Entry, asked: Experiment | None, seeds: list[int], workers: int | None) -> Verdict:
    """Runs an entry, or goes on with what is there of it, and judges it.

    Args:
        asked: its experiment with these seeds; None for a simulation.
        workers: chains run at once; None leaves it to `experiments.run`.
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
        if failed := [f"{c.arm} seed {c.seed}: {said}" for c, (how, said) in ended if how != "done"]:
            anew = f" (to begin anew, remove {asked.root})" if any(how == "failed" for _, (how, _) in ended) else ""
            said = f"{len(failed)} of {len(ended)} chains did not finish: {failed[0]}{anew}"
            return Verdict(entry, "NOT RUN", seeds, said, unfinished=True)
        measured, environment = _read(entry, asked, seeds)
        settings = (asked.root / "experiment.yaml").read_text(encoding="utf-8")
        seconds = call_seconds(asked.root)
    judged, power = judge(entry, entry.criteria, measured), judge(entry, entry.power, measured)
    same = twins(measured, seeds)
    return Verdict(
        entry,
        "FAIL" if same else word_of(judged, power),
        seeds,
        same,
        judged=judged,
        power=power,
        measured=measured,
        environment=environment,
        seconds=seconds,
        settings=settings,
    )


def word_of(judged: list[Judged], power: list[Judged]) -> Word:
    """The verdict that criteria and conditions of power come to."""
    if not all(one.holds for one in power):
        return "NO POWER"
    return "PASS" if all(one.holds for one in judged) else "FAIL"


def twins(measured: Measured, seeds: list[int]) -> str:
    """Two seeds that measured the very same numbers, in words; empty where there are none. Chains that are not independent
    have no interval, and a mean over them is one chain's."""
    courses = [course for table in measured.arms.values() for course in table.values()]
    for one, other in itertools.combinations(range(len(seeds)), 2):
        if all(np.array_equal(values[one], values[other], equal_nan=True) for values in courses):
            return f"seeds {seeds[one]} and {seeds[other]} measured the very same numbers: their chains are not independent"
    return ""


def judge(entry: Entry, criteria: list[Criterion], measured: Measured) -> list[Judged]:
    """Each criterion: its value by seed, their mean with its interval, and whether the mean is in bounds."""
    found = []
    for criterion in criteria:
        values = value_of(criterion.of, measured, f"{entry.path}: {criterion.says}")
        mean, low, high = mean_interval(values)
        found.append(Judged(criterion, values.tolist(), mean, low, high, criterion.holds(mean)))
    return found


def missing(entry: Entry, asked: Experiment | None) -> str:
    """What an entry needs and is not here, in words: a GPU, a corpus, weights. Empty where nothing is missing.

    Raises UserError for settings that no run could have.
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
    """The courses of the entry's quantities, from the chains' files."""
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
    """Each quantity over generations 0 .. `last`; where a generation lacks it, nan. What no generation has is left out."""
    nan = float("nan")
    found: dict[str, np.ndarray] = {}
    for name, key in entry.quantities.items():
        rows = [
            [row["metrics"] | {"real_share": row["real_share"]} for row in chain.rows[: last + 1]] for chain in chains
        ]
        values = [[row.get(key, nan) for row in course] for course in rows]
        if np.isfinite(values).any():
            found[name] = np.array(values)
    return found

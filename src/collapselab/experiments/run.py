"""The chains of an experiment, run side by side by an executor."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from collapselab.config import RunConfig, UserError
from collapselab.experiments import local
from collapselab.experiments.experiment import Experiment, Outcome
from collapselab.store.chain_files import keep_call
from collapselab.store.layout import STAGES, Chain

POLL = 0.3  # seconds between looks at the chains' files


class Executor(Protocol):
    """What runs chains: processes of this machine (local.py)."""

    slots: int
    """Chains at a time."""

    def submit(self, job: int, config: RunConfig) -> None:
        """Start a chain; there are never more than `slots` at work."""

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Wait until a chain has ended, at most so long; return those that have, by the job they were submitted as."""

    def stop(self) -> None:
        """End what is at work, after the step at hand."""


def run(experiment: Experiment, count: int | None) -> list[tuple[RunConfig, Outcome]]:
    """Run every chain that is not finished, `count` at a time; return how each of them ended, in their order.

    Args:
        count: null means one per GPU, and on a CPU one for two cores.
    """
    experiment.save()
    chains = experiment.chains()
    count, gpus = places(chains, count)
    executor = local.LocalExecutor(count, gpus, experiment.root / "workers.log")
    before, started = _stages(chains), time.perf_counter()
    ended: dict[int, Outcome] = {}
    try:
        _follow(chains, executor, ended)
    finally:
        executor.stop()
        left = {index for index, (how, _) in ended.items() if how == "left"}
        ours = [chain for index, chain in enumerate(chains) if index not in left]
        made = [place for place, _ in _stages(ours).items() - before.items()]
        _record(experiment.root, round(time.perf_counter() - started, 1), count, made)
    return [(config, ended[index]) for index, config in enumerate(chains)]


def _follow(chains: list[RunConfig], executor: Executor, ended: dict[int, Outcome]) -> None:
    """Keep the executor busy until all chains have ended, and show where they are.

    Args:
        ended: takes how each chain ended, by its index.
    """
    from collapselab.experiments.screen import Screen

    waiting, busy = list(range(len(chains))), set[int]()
    with Screen(chains) as screen:
        while waiting or busy:
            while waiting and len(busy) < executor.slots:
                busy.add(index := waiting.pop(0))
                executor.submit(index, chains[index])
                screen.begin(index)
            for index, outcome in executor.wait(POLL):
                busy.remove(index)
                ended[index] = outcome
                screen.end(index, outcome)
            screen.look(busy)


def places(chains: list[RunConfig], asked: int | None) -> tuple[int, list[str]]:
    """How many chains run at a time, and the GPUs that they share: at most one each, for a chain takes most of the memory
    that it finds there. Says where that is less than was asked for, and where a GPU cannot be used."""
    from collapselab.runtime.parallel import unused_gpu

    gpus = [] if all(config.device == "cpu" for config in chains) else local.gpus()
    if any(config.device == "auto" for config in chains) and (note := unused_gpu()) is not None:
        print(note, file=sys.stderr)
    if gpus and asked is not None and asked > len(gpus):
        print(f"note: --workers={asked}: a worker per GPU, so {len(gpus)} at a time", file=sys.stderr)
        asked = len(gpus)
    return min(asked or len(gpus) or max(1, (os.cpu_count() or 1) // 2), len(chains)), gpus


# --- how long it took -------------------------------------------------------------------------------------------------


def _stages(chains: list[RunConfig]) -> dict[Path, int]:
    """The published stages of these chains, shared ones once, with the time of their manifests (ns)."""
    from collapselab.chain.opening import chain_path

    found: dict[Path, int] = {}
    for config in chains:
        with suppress(UserError, OSError):  # a damaged chain is named by the worker that gets it
            chain = Chain(chain_path(config))
            for g in range(config.generations + 1):
                for name in STAGES:
                    manifest = chain.stage(g, name) / "manifest.json"
                    if manifest.is_file():
                        found[manifest.parent] = manifest.stat().st_mtime_ns
    return found


def _record(root: Path, seconds: float, workers: int, made: list[Path]) -> None:
    """Adds a line to timing.json: what this call took, and the stages and whole generations that it made."""
    generations = sum(place.name == "eval" for place in made)
    call = {"seconds": seconds, "workers": workers, "date": time.strftime("%Y-%m-%d")}
    call |= {"stages": len(made), "generations": generations}
    with suppress(OSError):  # a full disk has been said already, by the chain that met it
        keep_call(root, call)

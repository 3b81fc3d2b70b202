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
from collapselab.store.layout import Chain

POLL = 0.3  # seconds between looks at the chains' files


class Executor(Protocol):
    """A runner of chains; `local` runs them in processes of this machine."""

    slots: int
    """Chains at a time."""

    def submit(self, job: int, config: RunConfig) -> None:
        """Start a chain; the caller never has more than `slots` running."""

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Wait until a chain ends, at most `seconds`; return (job, outcome) of the chains that ended."""

    def stop(self) -> None:
        """End all running chains after their current step."""


def run(experiment: Experiment, count: int | None) -> list[tuple[RunConfig, Outcome]]:
    """Run every unfinished chain, `count` at a time; return all chains in order with their outcomes.

    Args:
        count: None means one per GPU, or one per two CPU cores.
    """
    experiment.save()
    chains = experiment.chains()
    count, gpus = slots_and_gpus(chains, count)
    executor = local.LocalExecutor(count, gpus, experiment.root / "workers.log")
    before, started = _stages(chains), time.perf_counter()
    ended: dict[int, Outcome] = {}
    try:
        _follow(chains, executor, ended)
    finally:
        executor.stop()
        left = {index for index, (how, _) in ended.items() if how == "left"}
        ours = [chain for index, chain in enumerate(chains) if index not in left]
        new = [folder for folder, _ in _stages(ours).items() - before.items()]
        _record(experiment.root, round(time.perf_counter() - started, 1), count, new)
    return [(config, ended[index]) for index, config in enumerate(chains)]


def _follow(chains: list[RunConfig], executor: Executor, ended: dict[int, Outcome]) -> None:
    """Keep the executor busy until all chains have ended, and show their progress.

    Args:
        ended: filled with the outcome of each chain by its index.
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


def slots_and_gpus(chains: list[RunConfig], asked: int | None) -> tuple[int, list[str]]:
    """Decide how many chains run at a time and on which GPUs: one chain per GPU, because it takes most of its memory.

    Prints a note if that is fewer than `asked`, or if a GPU cannot be used.
    """
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
    """Find the published stages of these chains, shared ones once, with the times of their manifests in ns."""
    from collapselab.chain.opening import chain_path

    times: dict[Path, int] = {}
    for config in chains:
        with suppress(UserError, OSError):  # the worker that runs a damaged chain reports it
            chain = Chain(chain_path(config))
            for g in range(config.generations + 1):
                for name in chain.stages(g):
                    manifest = chain.stage(g, name) / "manifest.json"
                    if manifest.is_file():
                        times[manifest.parent] = manifest.stat().st_mtime_ns
    return times


def _record(root: Path, seconds: float, workers: int, stages: list[Path]) -> None:
    """Append this call to timing.json: its duration, and the stages and whole generations that it published."""
    generations = sum(stage.name == "eval" for stage in stages)
    call = {"seconds": seconds, "workers": workers, "date": time.strftime("%Y-%m-%d")}
    call |= {"stages": len(stages), "generations": generations}
    with suppress(OSError):  # the chain that filled the disk has reported it
        keep_call(root, call)

"""Arms x seeds: chains that differ in named settings, side by side, with generation 0 made once per seed.

Every chain is an ordinary run (`chain.run`) in a process of its own. An experiment has no state beside its chains: what is
done is skipped, what is missing is made, and arms, seeds and generations may be added later.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from collapselab.config import RunConfig, UserError, as_dict
from collapselab.console import inert
from collapselab.rundir import STAGES, Chain, write_json, write_text

POLL = 0.3  # seconds between looks at the chains' files


@dataclass(frozen=True)
class Experiment:
    """What is run: `arms` holds the settings of each arm, seed and arm name left to be filled in."""

    arms: dict[str, RunConfig]
    seeds: list[int]
    baseline: str | None
    """The arm that others are compared with."""

    @property
    def root(self) -> Path:
        config = next(iter(self.arms.values()))
        return Path(config.runs_dir) / config.name

    def chains(self) -> list[RunConfig]:
        """Arm by arm, so that the first chains of different seeds, which make generation 0, run side by side."""
        return [
            dataclasses.replace(config, arm=arm, seed=seed) for arm, config in self.arms.items() for seed in self.seeds
        ]

    def save(self) -> None:
        """Keeps what was asked for beside the chains, for the report and for whoever runs it again."""
        self.root.mkdir(parents=True, exist_ok=True)
        asked = {
            "baseline": self.baseline,
            "seeds": self.seeds,
            "arms": {arm: as_dict(config) for arm, config in self.arms.items()},
        }
        write_text(self.root / "experiment.yaml", yaml.safe_dump(asked, sort_keys=False))


def run(experiment: Experiment, workers: int | None) -> list[str]:
    """Runs every chain that is not finished, `workers` at a time; returns one line for each that failed.

    Args:
        workers: null means one per GPU, and on a CPU one for two cores.
    """
    experiment.save()
    chains, gpus = experiment.chains(), _gpus()
    count = min(workers or len(gpus) or max(1, (os.cpu_count() or 1) // 2), len(chains))
    context = multiprocessing.get_context("spawn")
    arguments = (count, context.Value("i", 0), gpus, str(experiment.root / "workers.log"), os.getpid())
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=arguments) as pool:
        waiting = {pool.submit(_run_chain, config): config for config in chains}
        started = time.perf_counter()
        try:
            failed = _follow(waiting)
            seconds = round(time.perf_counter() - started, 1)
            timing = {"seconds": seconds, "workers": count, "date": time.strftime("%Y-%m-%d"), "chains": len(chains)}
            write_json(experiment.root / "timing.json", timing)
            return failed
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible or [str(index) for index in range(torch.cuda.device_count())]


def _begin(workers: int, counter: Any, gpus: list[str], log: str, parent: int) -> None:
    """A worker's own share of cores and GPUs, set before torch is imported; what it says goes to a file."""
    with counter.get_lock():
        index = counter.value
        counter.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    if gpus and workers > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    from collapselab.parallel import end_with_parent

    end_with_parent(parent)


def _run_chain(config: RunConfig) -> None:
    from collapselab import chain

    chain.run(dataclasses.replace(config, progress=False), share=True)


# --- what a person sees -----------------------------------------------------------------------------------------------


def stage_of(chain: Chain, finished: int) -> tuple[int, str]:
    """(finished generations, the stage at work) from a chain's files alone, looking on from what was known."""
    while (chain.stage(finished, "eval") / "manifest.json").is_file():
        finished += 1
    for name in STAGES:
        if not (chain.stage(finished, name) / "manifest.json").is_file():
            return finished, name
    return finished, ""


def _follow(waiting: dict[Future[None], RunConfig]) -> list[str]:
    """One progress line per chain on a terminal, elsewhere one line as each ends; returns the lines of those that failed."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from collapselab.opening import chain_path

    console = Console(stderr=True)
    failed: dict[Future[None], str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[at]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        lines = {}
        for future, config in waiting.items():
            title = f"{config.arm} seed {config.seed}"
            lines[future] = progress.add_task(title, total=config.generations + 1, at="waits", start=False)
        done = dict.fromkeys(waiting, 0)
        left = set(waiting)
        while left:
            ended, left = wait(left, timeout=POLL)
            for future in [f for f in left if f.running()]:
                progress.start_task(lines[future])
                done[future], stage = stage_of(Chain(chain_path(waiting[future])), done[future])
                at = f"generation {done[future]} of {waiting[future].generations}: {stage or 'mixture'}"
                progress.update(lines[future], completed=done[future], at=at)
            for future in ended:
                config = waiting[future]
                said = _outcome(future, config)
                if said != "done":
                    failed[future] = f"{config.arm} seed {config.seed}: {said}"
                progress.update(lines[future], completed=config.generations + 1 if said == "done" else None, at=said)
                progress.stop_task(lines[future])
                if not console.is_terminal:
                    stamp = time.strftime("%H:%M:%S")
                    console.print(
                        inert(f"{stamp} {config.arm} seed {config.seed}: {said}"), markup=False, soft_wrap=True
                    )
    return [failed[future] for future in waiting if future in failed]


def _outcome(future: Future[None], config: RunConfig) -> str:
    error = future.exception()
    if error is None:
        return "done"
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, BrokenProcessPool):
        return "its process was ended from outside (out of memory?); the same command continues"
    log = Path(config.runs_dir) / config.name / "workers.log"
    return f"stopped by a fault in the lab, {type(error).__name__}: {' '.join(str(error).split())[:300]} (see {log})"

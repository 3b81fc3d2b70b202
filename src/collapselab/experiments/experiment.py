"""Arms x seeds: chains that differ in named settings, side by side, with generation 0 made once per seed.

Every chain is an ordinary run (`chain.run`) in a worker, a process that runs one chain after another and may die without
the others. An experiment has no state beside its chains: what is done is skipped, what is missing is made, and arms, seeds
and generations may be added later.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from collapselab.config import RunConfig, UserError, as_dict
from collapselab.config.identity import flatten
from collapselab.runtime import interrupts
from collapselab.runtime.console import inert
from collapselab.store.chain_files import keep_asked, keep_call
from collapselab.store.checks import refuse_strange
from collapselab.store.layout import STAGES, Chain, settled

POLL = 0.3  # seconds between looks at the chains' files
PATIENCE = 2.0  # seconds before a chain that is held is left to its holder
CONTEXT = multiprocessing.get_context("spawn")
"""How workers start: as a Python of their own, for a fork of a process that holds threads or a GPU cannot be relied on."""
LAST_STEP = 50.0  # seconds that a worker has to finish its step and write a checkpoint

Outcome = tuple[Literal["done", "left", "failed"], str]
"""How a chain ended, and that in words: made to its last generation, left to another process, or not finished."""


@dataclass(frozen=True)
class Experiment:
    """What is run: `arms` holds the settings of each arm, seed and arm name left to be filled in."""

    arms: dict[str, RunConfig]
    changes: dict[str, list[str]]
    """The keys, dotted, that each arm sets for itself; all others are common."""
    seeds: list[int]
    baseline: str | None
    """The arm that others are compared with."""

    @property
    def root(self) -> Path:
        config = next(iter(self.arms.values()))
        return settled(Path(config.runs_dir) / config.name)

    def chains(self) -> list[RunConfig]:
        """Arm by arm, so that the first chains of different seeds, which make generation 0, run side by side."""
        return [
            dataclasses.replace(config, arm=arm, seed=seed) for arm, config in self.arms.items() for seed in self.seeds
        ]

    def asked(self) -> dict[str, Any]:
        """What `experiment --config` reads: the common settings, all of them, and what each arm sets for itself."""
        flat = {arm: flatten(as_dict(config)) for arm, config in self.arms.items()}
        common: dict[str, Any] = {}
        for arm, settings in flat.items():
            for key, value in settings.items():
                section, _, name = key.rpartition(".")
                if key not in (*self.changes[arm], "arm", "seed"):
                    (common.setdefault(section, {}) if section else common)[name] = value
        arms = {arm: {key: settings[key] for key in self.changes[arm]} for arm, settings in flat.items()}
        return common | {"seeds": self.seeds, "baseline": self.baseline, "arms": arms}

    def save(self) -> None:
        """Keeps what was asked for beside the chains, for the report and for whoever runs it again; says where what was
        kept before is damaged or gone. Raises UserError where nothing can be written."""
        refuse_strange(self.root, self.root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for line in keep_asked(self.root, self.asked()):
                print(inert(line), file=sys.stderr)
        except OSError as error:
            where = next(iter(self.arms.values())).runs_dir
            raise UserError(
                f"runs_dir={where!r}: cannot be written ({error.strerror}); choose another folder"
            ) from None


def run(experiment: Experiment, count: int | None) -> list[tuple[RunConfig, Outcome]]:
    """Runs every chain that is not finished, `count` at a time; returns how each of them ended, in their order.

    Args:
        count: null means one per GPU, and on a CPU one for two cores.
    """
    experiment.save()
    chains = experiment.chains()
    count, gpus = places(chains, count)
    workers = [_Worker(slot, count, gpus, experiment.root / "workers.log") for slot in range(count)]
    before, started = _stages(chains), time.perf_counter()
    ended: dict[int, Outcome] = {}
    try:
        _follow(chains, workers, ended)
    finally:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end()
        left = {index for index, (how, _) in ended.items() if how == "left"}
        ours = [chain for index, chain in enumerate(chains) if index not in left]
        made = [place for place, _ in _stages(ours).items() - before.items()]
        _record(experiment.root, round(time.perf_counter() - started, 1), count, made)
    return [(config, ended[index]) for index, config in enumerate(chains)]


def places(chains: list[RunConfig], asked: int | None) -> tuple[int, list[str]]:
    """How many chains run at a time, and the GPUs that they share: at most one each, for a chain takes most of the memory
    that it finds there. Says where that is less than was asked for, and where a GPU cannot be used."""
    from collapselab.runtime.parallel import unused_gpu

    gpus = [] if all(config.device == "cpu" for config in chains) else _gpus()
    if any(config.device == "auto" for config in chains) and (note := unused_gpu()) is not None:
        print(note, file=sys.stderr)
    if gpus and asked is not None and asked > len(gpus):
        print(f"note: --workers={asked}: a worker per GPU, so {len(gpus)} at a time", file=sys.stderr)
        asked = len(gpus)
    return min(asked or len(gpus) or max(1, (os.cpu_count() or 1) // 2), len(chains)), gpus


def as_far(config: RunConfig) -> RunConfig:
    """The settings of a chain, to its own last generation where that lies beyond the one that is asked for: it is done.

    Where the shares depend on the number of generations, a longer chain is another one, and stays so.
    """
    from collapselab.chain.opening import chain_path

    reached = max(Chain(chain_path(config)).finished(), default=0)
    if reached <= config.generations or config.mixing.uses_horizon:
        return config
    return dataclasses.replace(config, generations=reached)


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


# --- workers ----------------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process that runs chains, one after another, for importing torch and the lab takes longer than a small chain. When
    it dies, the chain that it ran is lost to it, and the next one gets a new process."""

    slot: int
    """Its number among the `count` workers: they share cores and GPUs by it."""
    count: int
    gpus: list[str]
    log: Path
    process: BaseProcess | None = None
    pipe: Connection | None = None
    at_work: bool = False

    def give(self, config: RunConfig) -> None:
        """Has it run a chain, in the process that it has or in a new one."""
        self.at_work = True
        if self.pipe is None or self.process is None or not self.process.is_alive():
            self.pipe, theirs = CONTEXT.Pipe()
            arguments = (theirs, self.slot, self.count, self.gpus, str(self.log), os.getpid())
            self.process = CONTEXT.Process(target=_work, args=arguments)
            resource_tracker.ensure_running()  # where `start` does so, it lets signals through
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, until `_work` ignores it
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        with suppress(OSError):  # it died in between: `outcome` says so
            self.pipe.send(config)

    def outcome(self) -> Outcome | None:
        """How its chain ended; None while it runs."""
        assert self.pipe is not None and self.process is not None
        alive = self.process.is_alive()
        said: Outcome | None = None
        with suppress(EOFError, OSError):
            if self.pipe.poll():
                alive = False  # unless it says something, it has closed its end
                said = self.pipe.recv()
        if said is None and not alive:
            self.process.join(5)
            code = self.process.exitcode
            by = f"by signal {-code} (out of memory?)" if code is not None and code < 0 else f"with code {code}"
            said = "failed", f"its process was ended {by}, see {self.log}; the same command continues"
        self.at_work = said is None
        return said

    def ask_to_end(self) -> None:
        """Has the process end: where it runs a chain, after the step at hand."""
        if self.pipe is not None and self.process is not None:
            self.pipe.close()
            if self.at_work:
                self.process.terminate()

    def end(self) -> None:
        """Waits until the process has ended, for a while."""
        if self.process is not None:
            self.process.join(LAST_STEP)
            if self.process.is_alive():
                self.process.kill()


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    found = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:found] if visible else [str(index) for index in range(found)]


def _work(pipe: Connection, slot: int, workers: int, gpus: list[str], log: str, parent: int) -> None:
    """Runs the chains that are sent, in a worker's own share of cores and GPUs, set before torch is imported; what it says
    goes to a file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    if gpus and workers > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    from tqdm import tqdm

    from collapselab.runtime.parallel import end_with_parent

    end_with_parent(parent)
    tqdm.set_lock(threading.RLock())  # its own is for several processes, and would be missed when this one is ended
    with suppress(EOFError, OSError), interrupts.handled():  # there is nothing more to do
        try:
            while True:
                said = _run_chain(pipe.recv(), log)
                interrupts.check()  # what a library made of a signal is no failure
                pipe.send(said)
        except interrupts.Stopped as stopped:
            sys.exit(stopped.code)


def _run_chain(config: RunConfig, log: str, *, again: bool = True) -> Outcome:
    from collapselab.chain import run as chain
    from collapselab.store.lock import HeldError

    try:
        chain.run(dataclasses.replace(as_far(config), progress=False), share=True)
    except HeldError as held:
        if again:  # a process that was killed holds its locks for a moment yet
            time.sleep(PATIENCE)
            return _run_chain(config, log, again=False)
        return "left", f"left to process {held.process}, which runs it"
    except UserError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split())[:300]
        return "failed", f"stopped by a fault in the lab, {type(error).__name__}: {said} (see {log})"
    return "done", "done"


# --- what a person sees -----------------------------------------------------------------------------------------------


def _follow(chains: list[RunConfig], workers: list[_Worker], ended: dict[int, Outcome]) -> None:
    """Gives the chains to the workers until all have ended. A terminal shows one progress line per chain, anything else
    one line as each ends.

    Args:
        ended: takes how each chain ended, by its index.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[at]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        titles = [f"{config.arm} seed {config.seed}" for config in chains]
        totals = [config.generations + 1 for config in chains]
        lines = [progress.add_task(t, total=n, at="waits", start=False) for t, n in zip(titles, totals, strict=True)]
        waiting, busy, seen = list(range(len(chains))), dict[int, _Worker](), [0] * len(chains)
        while waiting or busy:
            for worker in workers:
                if waiting and not worker.at_work:
                    busy[index := waiting.pop(0)] = worker
                    worker.give(chains[index])
                    progress.start_task(lines[index])
            wait([worker.pipe for worker in busy.values() if worker.pipe is not None], POLL)
            for index, worker in list(busy.items()):
                outcome = worker.outcome()
                if outcome is None:
                    seen[index], at = _at(chains[index], seen[index])
                    progress.update(lines[index], completed=seen[index], at=at)
                    continue
                del busy[index]
                ended[index] = outcome
                how, said = outcome
                progress.update(lines[index], completed=totals[index] if how == "done" else None, at=inert(said))
                progress.stop_task(lines[index])
                if not console.is_terminal:
                    stamp = time.strftime("%H:%M:%S")
                    console.print(inert(f"{stamp} {titles[index]}: {said}"), markup=False, soft_wrap=True)


def _at(config: RunConfig, finished: int) -> tuple[int, str]:
    """(finished generations, where the chain is in words), looking on from what was known."""
    from collapselab.chain.opening import chain_path

    try:
        finished, stage = Chain(chain_path(config)).at_work(finished)
    except (UserError, OSError):  # a damaged chain: the worker that has it says so
        return finished, "at work"
    return finished, f"generation {finished} of {config.generations}: {stage}"

"""Chains in processes of this machine: workers that run one chain after another and may die without the others."""

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

from collapselab.config import RunConfig, UserError, plugins
from collapselab.experiments.experiment import Outcome, as_far
from collapselab.runtime import interrupts

PATIENCE = 2.0  # seconds to wait for a chain that is locked by another process
CONTEXT = multiprocessing.get_context("spawn")
"""How workers start: as a Python of their own, for a fork of a process that holds threads or a GPU cannot be relied on."""
LAST_STEP = 50.0  # seconds that a worker has to finish its step and write a checkpoint


class LocalExecutor:
    """Workers on this machine, each with its share of the cores and of the GPUs.

    Args:
        slots: chains at a time. gpus: their names, for CUDA_VISIBLE_DEVICES. log: takes what workers print.
    """

    def __init__(self, slots: int, gpus: list[str], log: Path):
        self.slots = slots
        self.workers = [Worker(slot, slots, gpus, log) for slot in range(slots)]
        self.jobs: dict[int, Worker] = {}

    def submit(self, job: int, config: RunConfig) -> None:
        """Start a chain on an idle worker."""
        self.jobs[job] = next(worker for worker in self.workers if not worker.at_work)
        self.jobs[job].give(config)

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Wait until a chain has ended, at most so long; return those that have."""
        wait([worker.pipe for worker in self.jobs.values() if worker.pipe is not None], seconds)
        found = [(job, worker.outcome()) for job, worker in self.jobs.items()]
        ended = [(job, outcome) for job, outcome in found if outcome is not None]
        for job, _ in ended:
            del self.jobs[job]
        return ended

    def stop(self) -> None:
        """End all workers: those at work after the step at hand."""
        for worker in self.workers:
            worker.ask_to_end()
        for worker in self.workers:
            worker.end()


@dataclass
class Worker:
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
            arguments = (theirs, self.slot, self.count, self.gpus, str(self.log), os.getpid(), list(plugins.LOADED))
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


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    found = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:found] if visible else [str(index) for index in range(found)]


def _work(pipe: Connection, slot: int, workers: int, gpus: list[str], log: str, parent: int, files: list[str]) -> None:
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
                said = _run_chain(pipe.recv(), log, files)
                interrupts.check()  # what a library made of a signal is no failure
                pipe.send(said)
        except interrupts.Stopped as stopped:
            sys.exit(stopped.code)


def _run_chain(config: RunConfig, log: str, files: list[str], *, again: bool = True) -> Outcome:
    from collapselab.chain import run as chain
    from collapselab.store.lock import HeldError

    try:
        plugins.load(files)
        plugins.check_loaded(config.plugins)
        chain.run(dataclasses.replace(as_far(config), progress=False), shares_generation_0=True)
    except HeldError as held:
        if again:  # a process that was killed holds its locks for a moment yet
            time.sleep(PATIENCE)
            return _run_chain(config, log, files, again=False)
        return "left", f"left to process {held.process}, which runs it"
    except UserError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        if fault := plugins.fault(error):
            return "failed", fault
        said = " ".join(str(error).split())[:300]
        return "failed", f"stopped by a fault in the lab, {type(error).__name__}: {said} (see {log})"
    return "done", "done"

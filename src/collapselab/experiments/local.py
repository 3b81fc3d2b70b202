"""Worker processes on this machine: each runs one chain after another and may die without taking others along."""

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
from collapselab.experiments.experiment import Outcome, keep_finished
from collapselab.runtime import interrupts

PATIENCE = 2.0  # seconds to wait for a chain that is locked by another process
CONTEXT = multiprocessing.get_context("spawn")
"""Workers are spawned: forking a process that holds threads or a GPU is unreliable."""
LAST_STEP = 50.0  # seconds for a worker to finish its step and write a checkpoint


class LocalExecutor:
    """Workers on this machine, each with a share of the cores and GPUs.

    Args:
        slots: chains at a time. gpus: names for CUDA_VISIBLE_DEVICES. log: file for the workers' output.
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
        """Wait until a chain ends, at most `seconds`; return the chains that ended."""
        wait([worker.pipe for worker in self.jobs.values() if worker.pipe is not None], seconds)
        ended = [(job, outcome) for job, worker in self.jobs.items() if (outcome := worker.outcome()) is not None]
        for job, _ in ended:
            del self.jobs[job]
        return ended

    def stop(self) -> None:
        """End all workers; a running chain finishes its current step first."""
        for worker in self.workers:
            worker.ask_to_end()
        for worker in self.workers:
            worker.end()


@dataclass
class Worker:
    """A process that runs one chain after another: importing torch takes longer than a small chain.

    If it dies, its chain has failed, and the next chain gets a new process.
    """

    slot: int
    """Its number among `count` workers, which decides its share of cores and GPUs."""
    count: int
    gpus: list[str]
    log: Path
    process: BaseProcess | None = None
    pipe: Connection | None = None
    at_work: bool = False

    def give(self, config: RunConfig) -> None:
        """Send a chain to the worker's process, starting one if none is alive."""
        self.at_work = True
        if self.pipe is None or self.process is None or not self.process.is_alive():
            self.pipe, child_end = CONTEXT.Pipe()
            arguments = (child_end, self.slot, self.count, self.gpus, str(self.log), os.getpid(), list(plugins.LOADED))
            self.process = CONTEXT.Process(target=_work, args=arguments)
            resource_tracker.ensure_running()  # if `start` does it, signals get through
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, until `_work` ignores it
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            child_end.close()
        with suppress(OSError):  # the worker died; `outcome` reports it
            self.pipe.send(config)

    def outcome(self) -> Outcome | None:
        """Outcome of the current chain; None while it runs."""
        assert self.pipe is not None and self.process is not None
        alive = self.process.is_alive()
        outcome: Outcome | None = None
        with suppress(EOFError, OSError):
            if self.pipe.poll():
                alive = False  # without a message, the other end is closed
                outcome = self.pipe.recv()
        if outcome is None and not alive:
            self.process.join(5)
            code = self.process.exitcode
            by = f"by signal {-code} (out of memory?)" if code is not None and code < 0 else f"with code {code}"
            outcome = "failed", f"its process was ended {by}, see {self.log}; the same command resumes it"
        self.at_work = outcome is None
        return outcome

    def ask_to_end(self) -> None:
        """Ask the process to end; a running chain finishes its current step first."""
        if self.pipe is not None and self.process is not None:
            self.pipe.close()
            if self.at_work:
                self.process.terminate()

    def end(self) -> None:
        """Wait for the process to end; kill it after LAST_STEP seconds."""
        if self.process is not None:
            self.process.join(LAST_STEP)
            if self.process.is_alive():
                self.process.kill()


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[:count] if visible else [str(index) for index in range(count)]


def _work(pipe: Connection, slot: int, workers: int, gpus: list[str], log: str, parent: int, files: list[str]) -> None:
    """Run the chains sent through `pipe`, with output going to `log`. Cores and GPUs are set before torch is imported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it and ends this process
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
    tqdm.set_lock(
        threading.RLock()
    )  # tqdm's default is a multiprocessing lock, which leaks when this process is killed
    with suppress(EOFError, OSError), interrupts.handled():  # the parent closed the pipe: no more chains
        try:
            while True:
                outcome = _run_chain(pipe.recv(), log, files)
                interrupts.check()  # an error that a library raised because of a signal is no failure
                pipe.send(outcome)
        except interrupts.Stopped as stopped:
            sys.exit(stopped.code)


def _run_chain(config: RunConfig, log: str, files: list[str], *, again: bool = True) -> Outcome:
    from collapselab.chain import run as chain
    from collapselab.store.lock import HeldError

    try:
        plugins.load(files)
        plugins.check_loaded(config.plugins)
        chain.run(dataclasses.replace(keep_finished(config), progress=False), shares_generation_0=True)
    except HeldError as held:
        if again:  # a killed process holds its locks a moment longer
            time.sleep(PATIENCE)
            return _run_chain(config, log, files, again=False)
        return "left", f"left to process {held.process}, which runs it"
    except UserError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        if fault := plugins.fault(error):
            return "failed", fault
        message = " ".join(str(error).split())[:300]
        return "failed", f"stopped by a fault in the lab, {type(error).__name__}: {message} (see {log})"
    return "done", "done"

"""Batches computed side by side on a CPU: each by one thread, in a forked process if the system can fork.

A step of a small model is a hundred operations of a few microseconds. Dividing each between threads costs more than it gains,
and Python threads wait for each other between any two (figures in docs/log.md). A forked process shares the weights and never
waits.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from collapselab.config import UserError
from collapselab.runtime.parallel import end_with_parent


def side_by_side(
    write: Callable[[int], np.ndarray], indices: list[int], device: torch.device
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, write(index)) as they finish, on a CPU as many at a time as torch has threads, which does not change the
    text."""
    if device.type != "cpu":
        yield from ((index, write(index)) for index in indices)
        return
    threads = torch.get_num_threads()
    workers = min(threads, len(indices))
    torch.set_num_threads(1)
    try:
        if workers < 2 or multiprocessing.current_process().daemon:  # a daemon cannot have children
            yield from ((index, write(index)) for index in indices)
        elif sys.platform == "linux":
            yield from _forked(write, indices, workers)
        else:  # system libraries elsewhere are not fork-safe
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from zip(indices, pool.map(write, indices), strict=True)
    finally:
        torch.set_num_threads(threads)


def _forked(write: Callable[[int], np.ndarray], indices: list[int], workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Fork workers that only write to a pipe and end with their parent."""
    context = multiprocessing.get_context("fork")
    sys.stdout.flush()
    sys.stderr.flush()
    running: list[Any] = []
    owed: dict[Any, int] = {}  # results still expected from each pipe
    try:
        for worker in range(workers):
            reader, writer = context.Pipe(duplex=False)
            mine = indices[worker::workers]
            process = context.Process(target=_work, args=(write, mine, writer, os.getpid()), daemon=True)
            process.start()
            writer.close()
            running.append(process)
            owed[reader] = len(mine)
        while owed:
            ready: list[Any] = wait(list(owed))
            for reader in ready:
                try:
                    index, result = reader.recv()
                except (EOFError, OSError):
                    raise UserError(
                        "sampling: a worker process was killed; if memory was short, lower sampling.batch_size"
                    ) from None
                if isinstance(result, BaseException):
                    raise result
                owed[reader] -= 1
                if not owed[reader]:
                    del owed[reader]
                yield index, result
    finally:
        for process in running:
            process.terminate()
            process.join()


def _work(write: Callable[[int], np.ndarray], indices: list[int], writer: Connection, parent: int) -> None:
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    for index in indices:
        try:
            result: Any = write(index)
        except (UserError, torch.OutOfMemoryError) as error:
            result = error
        except Exception:  # not every exception can be pickled
            result = RuntimeError(f"in a sampling process: {traceback.format_exc()}")
        try:
            writer.send((index, result))
        except OSError:  # the parent is gone; the system ends this process too
            return

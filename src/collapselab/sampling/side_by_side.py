"""Batches computed side by side on a CPU: each by one thread, in a process of its own where the system can fork.

For models this small a step is a hundred operations of some microseconds. Dividing each of them between threads costs more
than it brings, and Python threads wait for each other between any two (docs/log.md has the figures). A forked process
shares the weights and waits for nobody.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch


def side_by_side(
    write: Callable[[int], np.ndarray], indices: list[int], device: torch.device, bar: Any, tokens: int
) -> dict[int, np.ndarray]:
    """{index: write(index)}, on a CPU as many at a time as torch has threads. What is written does not depend on that.

    Args:
        bar: a progress bar, moved on by `tokens` for each index.
    """
    done: dict[int, np.ndarray] = {}
    for index, rows in _results(write, indices, device):
        done[index] = rows
        bar.update(tokens)
    return done


def _results(
    write: Callable[[int], np.ndarray], indices: list[int], device: torch.device
) -> Iterator[tuple[int, np.ndarray]]:
    if device.type != "cpu":
        yield from ((index, write(index)) for index in indices)
        return
    threads = torch.get_num_threads()
    workers = min(threads, len(indices))
    torch.set_num_threads(1)
    try:
        if workers < 2:
            yield from ((index, write(index)) for index in indices)
        elif sys.platform == "linux":
            yield from _forked(write, indices, workers)
        else:  # a fork is not safe with the system libraries of other systems
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from zip(indices, pool.map(write, indices), strict=True)
    finally:
        torch.set_num_threads(threads)


def _forked(write: Callable[[int], np.ndarray], indices: list[int], workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Forks workers that only ever write to a pipe: where their reader dies, they end at their next result."""
    context = multiprocessing.get_context("fork")
    sys.stdout.flush()
    sys.stderr.flush()
    running: list[Any] = []
    readers: list[Any] = []
    try:
        for worker in range(workers):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(write, indices[worker::workers], reader, writer), daemon=True)
            process.start()
            writer.close()
            running.append(process)
            readers.append(reader)
        left = len(indices)
        while readers:
            ready: list[Any] = wait(readers)
            for reader in ready:
                try:
                    index, result = reader.recv()
                except EOFError:  # this worker has nothing more to say
                    readers.remove(reader)
                    continue
                if isinstance(result, BaseException):
                    raise result
                left -= 1
                yield index, result
        if left:
            for process in running:
                process.join()
            codes = [process.exitcode for process in running]
            raise RuntimeError(f"a sampling process ended early (exit codes {codes}); was it short of memory?")
    finally:
        for process in running:
            process.terminate()
            process.join()


def _work(write: Callable[[int], np.ndarray], indices: list[int], reader: Connection, writer: Connection) -> None:
    reader.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        for index in indices:
            try:
                result: Any = write(index)
            except Exception as error:
                result = error
            writer.send((index, result))
    except BrokenPipeError:
        os._exit(1)

"""Batches in forked processes: all of them, in any number of processes, and an end when something goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from collapselab.config import UserError
from collapselab.sampling.side_by_side import side_by_side

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere batches run on threads, not in forked processes")


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param  # put back, whatever happened
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_every_index_is_written_once(threads: int) -> None:
    numbers = lambda i: np.array([i, os.getpid(), torch.get_num_threads()])  # noqa: E731
    pairs = list(side_by_side(numbers, list(range(7)), CPU))
    found = dict(pairs)
    assert len(pairs) == 7
    assert sorted(found) == list(range(7)) and all(found[i][0] == i for i in found)
    assert {int(rows[2]) for rows in found.values()} == {1}
    if sys.platform == "linux":
        workers = {int(rows[1]) for rows in found.values()}
        assert len(workers) == threads and (os.getpid() in workers) == (threads == 1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_an_error_of_a_batch_is_the_callers_error(threads: int) -> None:
    def write(index: int) -> np.ndarray:
        if index == 3:
            raise torch.OutOfMemoryError("no room for batch 3")
        return np.zeros(1)

    with pytest.raises(torch.OutOfMemoryError, match="no room for batch 3"):
        dict(side_by_side(write, list(range(6)), CPU))
    assert not multiprocessing.active_children()


@LINUX
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_an_error_that_cannot_be_sent_comes_as_text(threads: int) -> None:
    class OddError(Exception):
        def __reduce__(self):
            raise TypeError("not through a pipe")

    def write(index: int) -> np.ndarray:
        raise OddError("what went wrong")

    with pytest.raises(RuntimeError, match=r"(?s)in a sampling process.*OddError: what went wrong"):
        dict(side_by_side(write, [0, 1], CPU))


@LINUX
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_worker_that_is_killed_is_noticed(threads: int) -> None:
    parent = os.getpid()

    def write(index: int) -> np.ndarray:
        if index == 2 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is short
        time.sleep(0.3)
        return np.zeros(1)

    came = []
    with pytest.raises(
        UserError, match=r"a worker process was killed; if memory was short, lower sampling\.batch_size"
    ):
        for index, _ in side_by_side(write, list(range(100)), CPU):
            came.append(index)
    assert len(came) < 40  # not when the other worker's fifty are done
    assert not multiprocessing.active_children()


@LINUX
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path, how: signal.Signals) -> None:
    script = """
import os, sys, time, numpy as np, torch
from collapselab.sampling.side_by_side import side_by_side
torch.set_num_threads(2)
def write(index):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(300)
    return np.zeros(100_000)
dict(side_by_side(write, list(range(1000)), torch.device("cpu")))
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    parent.send_signal(how)
    stopped = time.monotonic()
    said = parent.communicate(timeout=30)[1]
    assert said.count("Traceback") <= 1  # the parent's own at most; workers are silent
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < stopped + 60, "a worker lives on until its batch is done"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

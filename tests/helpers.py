"""Small real things that several test files use."""

from __future__ import annotations

import builtins
import ctypes
import functools
import gc
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from kill_again import exit_status, left, own_bars  # noqa: F401 - `left` is for tests that compare

from collapselab.cli.main import main
from collapselab.config import RunConfig
from collapselab.config.keys import from_tree
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.rows import generated_places, real_places, rows_at
from collapselab.experiments import local
from collapselab.mixing.sets import read_samples
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.layout import Chain

SMALL: dict[str, Any] = {
    "model": {"layers": 2, "width": 32, "heads": 2},
    "training": {"block": 32, "batch_size": 8, "lr": 3e-3},
    "mixing": {"tokens": 2048, "start": 0.5, "ratio": 0.5},
    "sampling": {"batch_size": 64},
    "evaluation": {"tokens": 1024, "overlap": False},  # which reads all of the training text for each text of a second
    "corpus": {"tokenizer": "bytes"},
}


STAGES = Chain(Path("nowhere")).stages(1)  # of a generation that no judge looks at


def small_config(**changes: Any) -> RunConfig:
    """A chain of a second or two. Nested keys by double underscore: training__lr=1e-2."""
    tree: dict[str, Any] = {name: dict(section) for name, section in SMALL.items()}
    tree |= {"name": "test", "generations": 2, "progress": False}
    for key, value in changes.items():
        *within, name = key.split("__")
        functools.reduce(lambda part, section: part.setdefault(section, {}), within, tree)[name] = value
    return from_tree(RunConfig, tree)


def quiet() -> Console:
    return Console(speaks=False)


def one_process() -> Processes:
    return Processes("cpu", "fp32")


@contextmanager
def undrawn() -> Iterator[None]:
    """Reports have their figures arranged and written, but empty: drawing takes half of a report's time. Tests of what a
    figure shows are without this."""
    from collapselab.report import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", lambda figure: b"")
        yield


def cpu_units(work: Callable[[], object]) -> float:
    """CPU time of `work`, of all threads of this process, in units of fixed work that is done before and after it (some 0.04 s).
    Hosts differ by two and more from minute to minute, and what else runs there is in every second of the wall's clock."""

    def cpu(call: Callable[[], object]) -> float:
        began = time.process_time()
        call()
        return time.process_time() - began

    def fixed() -> int:
        return sum(i * i % 7 for i in range(500_000))

    before, taken = min(cpu(fixed), cpu(fixed)), cpu(work)
    return taken / max(before, min(cpu(fixed), cpu(fixed)))


def samples_of(folder: Path, dtype: str = "<u2") -> np.ndarray:
    return np.concatenate([np.fromfile(p, dtype) for p in sorted(folder.glob("tokens-*.bin"))])


def wandb_records(file: Path) -> Iterator[Any]:
    """Records of wandb's offline file: protobuf, framed like a LevelDB log after a 7-byte head.

    A record lies in one fragment (type 1) or in first, middle and last ones (2, 3, 4); a fragment has a head of 7
    bytes (checksum, length, type) and never crosses a block of 32 KiB.
    """
    from wandb.proto import wandb_internal_pb2 as pb

    data, place, held = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(held)
            held = b""
            yield getattr(record, record.WhichOneof("record_type"))


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """History rows of wandb's offline file; a table's facts are keys of their own, as in samples/path."""
    return [wandb_items(r.item) for r in wandb_records(file) if type(r).__name__ == "HistoryRecord"]


def wandb_items(items: Any) -> dict[str, Any]:
    """{key: value} of a record's items; nested keys by slashes."""
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def wandb_files(chain: Path) -> list[Path]:
    """wandb's offline files of a chain, the oldest first."""
    return sorted(chain.glob("wandb/offline-run-*/run-*.wandb"))


# --- faults ------------------------------------------------------------------------------------------------------------


CALLS = ("fsync", "replace", "mkdir", "unlink", "rmdir")
"""What the lab asks of the file system besides writing; pathlib, shutil and tempfile call these too."""


def fragile_config(folder: Path, **changes: Any) -> RunConfig:
    """A chain of half a second that does everything a long one does: checkpoints within training and sampling, weights
    that are pruned, generations that start from the one before."""
    small = {
        "model__layers": 1, "model__width": 16, "model__start": "previous", "model__dropout": 0.1, "retain": "last",
        "training__checkpoint_steps": 2, "training__checkpoint_seconds": 1e-9, "mixing__tokens": 1280,
        "sampling__batch_size": 16,
        "evaluation__tokens": 512, "evaluation__sample_tokens": 512, "evaluation__self_bleu_samples": 0,
    }  # fmt: skip
    return small_config(runs_dir=str(folder), **(small | changes))


class Watched:
    """Calls `before` and `after` around every call that changes something below `root`.

    Args:
        before, after: take (name of the call, path). What `before` raises is what the call fails with.
    """

    def __init__(self, root: Path, before: Callable[[str, str], None], after: Callable[[str, str], None] | None = None):
        self.root, self.before, self.after = str(root), before, after or (lambda name, path: None)
        self.system = {name: getattr(os, name) for name in CALLS}
        self.open = io.open

    def __enter__(self) -> Watched:
        for name in CALLS:
            setattr(os, name, functools.partial(self._call, name))
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in self.system.items():
            setattr(os, name, call)
        io.open = builtins.open = self.open

    def _call(self, name: str, place: Any, *more: Any, **named: Any) -> Any:
        path = self._path(place, named.get("dir_fd"))
        if not path.startswith(self.root):
            return self.system[name](place, *more, **named)
        self.before(name, path)
        found = self.system[name](place, *more, **named)
        self.after(name, path)
        return found

    def _path(self, place: Any, folder: int | None = None) -> str:
        of = "/proc/self/fd/{}".format
        if isinstance(place, int):
            return str(Path(of(place)).readlink())
        return os.fspath(place) if folder is None else str(Path(of(folder)).readlink() / place)

    def _opened(
        self, place: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *more: Any, **named: Any
    ) -> Any:
        writes = not isinstance(place, int) and not set(mode).isdisjoint("wax+")
        if not writes or not os.fspath(place).startswith(self.root):
            return self.open(place, mode, buffering, encoding, *more, **named)
        path, watched = os.fspath(place), self
        self.before("open", path)

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                watched.before("write", path)
                return super().write(data)

        raw = File(path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8")


def alone() -> None:
    """To be called first in a process that was forked from a test's: the threads of libraries are not there in it."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    own_bars()


class Forked:
    """A command line in a process forked from the test's, which has imported the lab: starting Python takes longer than most
    runs do. With this the interface of subprocess.Popen, as far as tests use it. Workers of an experiment are forked too.

    Args:
        output: file that stdout and stderr are added to.
        call: takes the arguments and returns the exit code.
        environment: variables of the process.
    """

    def __init__(self, *arguments: str, output: Path, call: Callable[[list[str]], int] = main, **environment: str):
        self.output, self.returncode = output, None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._work(list(arguments), call, environment)

    def _work(self, arguments: list[str], call: Callable[[list[str]], int], environment: dict[str, str]) -> None:
        code = 1
        try:
            alone()
            os.setsid()
            os.environ.update(environment)
            to_file(self.output)
            AcceleratorState._reset_state(reset_partial_state=True)  # of the processes that the test was launched as
            local.CONTEXT = Forking()
            code = call(arguments)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = exit_status(self.pid, 0)
        return self.returncode

    def wait(self, seconds: float) -> int:
        """The exit status; where it still runs after so long it is ended, and the test fails."""
        if self.returncode is None:
            self.returncode = waited_for(self.pid, seconds)
        assert self.returncode is not None, f"no end after {seconds} s: {self.said()[-3000:]}"
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> str:
        return self.output.read_text()


def to_file(output: Path) -> None:
    """Sends what this process prints to the end of a file."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


class Forking(ForkContext):
    """For `local.CONTEXT`: workers begin at once, forked from a process that has imported the lab."""

    class Process(ForkProcess):
        def run(self) -> None:
            for other in gc.get_objects():  # the ends of the parent's pipes: held here, they would never say its end
                if isinstance(other, Connection) and other is not self._args[0] and not other.closed:
                    other.close()
            alone()
            to_file(Path(self._args[4]))
            super().run()


def waited_for(child: int, seconds: float) -> int | None:
    """The exit status of a forked process; None where it was still running after so long, and was ended."""
    status = exit_status(child, seconds)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return status


def on_a_disk(size: str, place: Path, work: Callable[[Callable[[str], None]], None]) -> str:
    """Runs `work` in a forked process that alone sees a file system of `size` at `place`; nothing stays mounted. Returns
    what went wrong, with its traceback; empty where nothing did, and "skip: ..." where the system does not allow it.

    Args:
        work: takes a function that gives the file system another size.
    """
    place.mkdir(parents=True, exist_ok=True)
    told = place.with_suffix(".told")
    told.write_text("")
    child = os.fork()
    if not child:
        try:
            alone()
            _mounted(size, place)
            work(lambda bigger: _mount(bigger, place, 32))  # MS_REMOUNT
        except PermissionError as error:
            told.write_text(f"skip: {error}")
        except BaseException:
            told.write_text(traceback.format_exc())
        finally:
            os._exit(0)
    assert waited_for(child, 120) == 0
    return told.read_text()


def _mounted(size: str, place: Path) -> None:
    system = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_user, private = 0x20000, 0x10000000, 0x44000  # CLONE_NEWNS, CLONE_NEWUSER, MS_REC | MS_PRIVATE
    user = os.getuid()
    if system.unshare(new_mounts):
        if system.unshare(new_mounts | new_user):
            raise PermissionError(f"no mounts of one's own here ({os.strerror(ctypes.get_errno())})")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    if system.mount(b"none", b"/", None, private, None):
        raise PermissionError("mounts cannot be made private here")
    _mount(size, place, 0)


def _mount(size: str, place: Path, flags: int) -> None:
    system = ctypes.CDLL(None, use_errno=True)
    if system.mount(b"none", os.fsencode(place), b"tmpfs", flags, f"size={size}".encode()):
        raise PermissionError(f"no file system of one's own here ({os.strerror(ctypes.get_errno())})")


# --- rows of text -----------------------------------------------------------------------------------------------------


def generated_rows(folder: Path, count: int) -> list[np.ndarray]:
    """The first `count` generated tokens of a samples folder, one array per sequence, prompts left out."""
    return rows_at(read_samples(folder), generated_places(folder, count))


def real_rows(config: RunConfig, corpus: Corpus, count: int) -> list[np.ndarray]:
    """`count` tokens of held-out text, one array per piece (see `real_places`)."""
    return rows_at(corpus.split(config.evaluation.split).ids, real_places(config, corpus, count))

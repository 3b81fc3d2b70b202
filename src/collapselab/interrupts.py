"""What SIGINT and SIGTERM do. The first one ends a run: at once where nothing is lost by it, and inside `finishing` after
the step at hand, which is kept in a checkpoint. A second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

ONE_EVENT = 0.5  # seconds: a launcher passes on what the terminal has sent to its processes already


class Stopped(KeyboardInterrupt):
    """The run was asked to end and has kept what it had. `code` is the exit status, 128 + the signal's number."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(number, where)
        self.number, self.where = number, where

    @property
    def code(self) -> int:
        return 128 + self.number


@dataclass
class _State:
    asked: int = 0
    """The number of the first signal; 0 while there was none."""
    at: float = 0.0
    finishing: int = 0


_state = _State()


def asked() -> int:
    """The signal that asked this process to end; 0 while none has."""
    return _state.asked


def check() -> None:
    """Raises Stopped where this process has been asked to end."""
    if _state.asked:
        raise Stopped(_state.asked)


@contextmanager
def finishing() -> Iterator[None]:
    """Inside the block a first signal is only noted: the block asks `asked` after each step, keeps what it has and raises
    Stopped."""
    _state.finishing += 1
    try:
        yield
    finally:
        _state.finishing -= 1


@contextmanager
def handled() -> Iterator[None]:
    """Takes SIGINT and SIGTERM over for the block; in a thread other than the main one the system's handlers stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.asked = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # whoever started the process wants it to go on
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.asked and now - _state.at > ONE_EVENT:
        os.write(2, b"collapselab: stopped at once; the last checkpoint is kept\n")
        os._exit(128 + number)
    first = not _state.asked
    if first:
        _state.asked, _state.at = number, now
    if first and not _state.finishing:
        raise Stopped(number)

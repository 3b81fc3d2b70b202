"""SIGINT and SIGTERM: the first ends a run at once, or inside `finishing` after the current step, which is checkpointed; a
second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

ONE_EVENT = 0.5  # seconds within which two signals count as one: a key pressed twice by mistake
LAUNCHED = 5.0  # the same under a launcher, which forwards signals that the terminal has already sent to all
LAUNCHERS = (
    ("WORLD_SIZE", "RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
"""Variables of launchers for the number of processes and the rank, in the order in which accelerate reads them."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run, which has saved its state. `code` is the exit status, 128 + the signal's number."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(number, where)
        self.number, self.where = number, where

    @property
    def code(self) -> int:
        return 128 + self.number


@dataclass
class _State:
    asked: int = 0
    """Number of the first signal; 0 before it."""
    finishing: int = 0
    again: bool = False
    """True if Stopped was raised where Python drops exceptions and must be raised once more."""


_state = _State()


def asked() -> int:
    """Return the number of the signal that asked this process to end; 0 if none has."""
    return _state.asked


def check() -> None:
    """Raise Stopped if a signal has asked this process to end."""
    if _state.asked:
        raise Stopped(_state.asked)


@contextmanager
def finishing() -> Iterator[None]:
    """Only note a first signal inside the block, which calls `asked` after each step, saves its state and raises Stopped."""
    _state.finishing += 1
    try:
        yield
    finally:
        _state.finishing -= 1


@contextmanager
def handled() -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside the block; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.asked = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    dropped = sys.unraisablehook
    sys.unraisablehook = lambda what: _once_more() if what.exc_type is Stopped else dropped(what)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # the parent process wants it ignored
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = dropped
        signal.set_wakeup_fd(wakeup)
        _state.asked, _state.again = 0, False  # later work of the process was not asked to end
        theirs.close()  # ends the thread, which closes its own


@contextmanager
def over() -> Iterator[None]:
    """Ignore further signals while the last line is printed: the process ends with the first one's status."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    first = not _state.asked or _state.again
    _state.asked, _state.again = _state.asked or number, False
    if first and not _state.finishing:
        raise Stopped(_state.asked)


def _once_more() -> None:
    """Send the signal again: Python drops an exception that is raised while an object is being removed."""
    _state.again = True
    main, number = threading.main_thread().ident, _state.asked
    if main is not None:
        threading.Timer(0.05, signal.pthread_kill, (main, number)).start()


def _watch(numbers: socket.socket) -> None:
    """End the process at a second signal, even if the main thread is in a long computation, which delays Python's handlers."""
    first, apart = 0.0, ONE_EVENT if os.environ.get("WORLD_SIZE", "1") in ("", "0", "1") else LAUNCHED
    with numbers:
        while number := numbers.recv(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > apart:
                os.write(2, b"collapselab: stopped at once; the last checkpoint is kept\n")
                os._exit(128 + number[0])

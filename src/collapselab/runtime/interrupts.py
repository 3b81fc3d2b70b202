"""What SIGINT and SIGTERM do. The first one ends a run: at once where nothing is lost by it, and inside `finishing` after
the step at hand, which is kept in a checkpoint. A second one ends the process at once.
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

ONE_EVENT = 0.5  # seconds within which two signals are one: a key that was pressed twice by mistake
LAUNCHED = 5.0  # the same under a launcher, which passes on what the terminal has sent to all already
LAUNCHERS = (
    ("WORLD_SIZE", "RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
"""What launchers say of the number of processes and of which one this is, in the order in which accelerate reads them."""


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
    finishing: int = 0
    again: bool = False
    """Whether Stopped was raised where Python drops exceptions, and is to be raised once more."""


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
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ours,), daemon=True).start()
    dropped = sys.unraisablehook
    sys.unraisablehook = lambda what: _once_more() if what.exc_type is Stopped else dropped(what)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # whoever started the process wants it to go on
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = dropped
        signal.set_wakeup_fd(wakeup)
        _state.asked, _state.again = 0, False  # what the process does next was not asked to end
        theirs.close()  # ends the thread, which closes its own


@contextmanager
def over() -> Iterator[None]:
    """Signals that come while the last line is said change nothing: the process ends as the first one asked."""
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
    """A signal may come while an object is being removed: what is raised there is dropped. It is sent once more."""
    _state.again = True
    main, number = threading.main_thread().ident, _state.asked
    if main is not None:
        threading.Timer(0.05, signal.pthread_kill, (main, number)).start()


def _watch(numbers: socket.socket) -> None:
    """Ends the process at a second signal, also while the main thread is in a long computation that Python's own handlers
    wait for."""
    first, apart = 0.0, ONE_EVENT if os.environ.get("WORLD_SIZE", "1") in ("", "0", "1") else LAUNCHED
    with numbers:
        while number := numbers.recv(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > apart:
                os.write(2, b"collapselab: stopped at once; the last checkpoint is kept\n")
                os._exit(128 + number[0])

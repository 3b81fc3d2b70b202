"""One writer: a folder and a file in it that a process holds locked as long as it writes; the file says who does.

The locks are the system's (flock) and end with the process. A file can be removed under its holder, a folder that holds
something cannot: where the file system locks folders, nobody else gets in. What the file says is for people: it is emptied
when the lock is given back, so words in a file that nobody holds are those of a process that died.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from collapselab.config import UserError
from collapselab.runtime.console import inert
from collapselab.store.seals import plain_bytes

DYING = 5.0  # seconds that the children of a dead process may hold what they inherited
GRACE = 0.3  # seconds for a process that is just ending, or has taken the lock and not said so yet
POLL = 0.05
LONGEST = 200  # characters of a command that are kept
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
NO_FOLDER_LOCKS = (
    *NO_LOCKS,
    errno.EBADF,
    errno.EINVAL,
    errno.EISDIR,
    errno.EACCES,
)  # NFS locks what is open for writing


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the file says."""

    pid: int | None = None
    """None where the file says nothing that can be read."""
    host: str = ""
    started: str = ""
    command: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        on = f" on {self.host}" if self.host else ""
        since = f" since {self.started}" if self.started else ""
        return f"process {self.pid}{on}{since}" + (f" ({self.command})" if self.command else "")

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended: on this machine, and gone or a zombie."""
        if self.pid is None or self.host != socket.gethostname() or not Path("/proc/self/stat").exists():
            return False
        try:
            # The name of a program, in parentheses, may hold anything; the state follows the last one.
            state = Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX"


class HeldError(UserError):
    """Another process runs, or scores, this chain."""

    def __init__(self, chain: Path, holder: Holder):
        super().__init__(chain, holder)
        self.chain, self.holder = chain, holder

    @property
    def process(self) -> str:
        return "unknown" if self.holder.pid is None else str(self.holder.pid)

    def __str__(self) -> str:
        return f"{self.chain}: {self.holder} has this chain; wait for it or stop it"


@dataclass
class Lock:
    """A lock that this process has."""

    path: Path
    handle: int
    folder: int | None
    """Descriptor of the folder, locked too; None where the file system cannot do that."""
    before: Holder | None
    """A process that died with it."""

    @property
    def line(self) -> str | None:
        """What is to be said of who had it before."""
        if self.before is None:
            return None
        who = "a process" if self.before.pid is None else str(self.before)
        runs = self.before.pid is not None and not self.before.ended
        gone = "which does not hold it (on another machine, or this is a copy)" if runs else "which no longer runs"
        return f"{self.path}: took over the lock of {who}, {gone}"

    @property
    def is_lost(self) -> bool:
        """Whether it keeps nobody away any more: the folder was moved or removed, or the file was and is all there is."""
        try:
            if self.folder is not None and not os.path.samestat(os.fstat(self.folder), self.path.parent.stat()):
                return True
            return not os.path.samestat(os.fstat(self.handle), self.path.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return self.folder is None or not self.path.parent.is_dir()

    def release(self) -> None:
        """Gives it back, also where a child still has the descriptors that it inherited."""
        _mine.remove(self)
        with suppress(OSError):  # a full or vanished disk: the lock ends with the descriptor all the same
            os.ftruncate(self.handle, 0)
        for handle in (self.handle, self.folder):
            if handle is not None:
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)


_mine: list[Lock] = []


def check_held() -> None:
    """Raises UserError where a lock that this process has taken no longer keeps others away. To be called before anything
    is published."""
    for lock in _mine:
        if lock.is_lost:
            raise UserError(
                f"{lock.path.parent}: was moved or removed, or lost its lock, while this process ran it; stopped, with "
                "nothing written there since; the same command goes on"
            )


def holder(path: Path) -> Holder | None:
    """Who has a lock, as its file says and without touching it; a process that died is said here too. None where nobody
    has it. Raises OSError."""
    data = plain_bytes(path)
    return None if data is None else _read(data[:4096])


def take(path: Path) -> Lock:
    """Takes a lock, or raises HeldError soon; waits a little longer for the children of a process that has died.

    Raises OSError where the file cannot be written, UserError where the file system has no locks."""
    began = time.monotonic()
    while True:
        found = _try(path)
        if isinstance(found, Lock):
            _say(found.handle)
            _mine.append(found)
            return found
        before = found
        if time.monotonic() - began >= (DYING if before is not None and before.ended else GRACE):
            raise HeldError(path.parent, before or Holder())
        time.sleep(POLL)


@contextmanager
def waiting(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Holds a lock, waiting for it where another process has it.

    Args:
        tell: takes a line: who is waited for, or who died with it.
    """
    told = False
    while True:
        try:
            lock = take(path)
            break
        except HeldError as held:
            if not told:
                tell(f"waits for {held.holder}, which makes generation 0")
            told = True
            time.sleep(POLL)
    try:
        if lock.line:
            tell(lock.line)
        yield
    finally:
        lock.release()


def _try(path: Path) -> Lock | Holder | None:
    """The lock; where another process has it, what its file says."""
    with ExitStack() as undo:
        folder: int | None = None
        try:
            folder = _locked(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in NO_FOLDER_LOCKS:
                raise
        else:
            if folder is None:
                return holder(path)
            undo.callback(os.close, folder)
        try:
            handle = _locked(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"{path}: this file system has no locks ({error.strerror}), so that two processes could write at once; "
                "choose a runs_dir on another one"
            ) from None
        if handle is None:  # by one that cannot lock the folder
            return holder(path)
        undo.pop_all()
        return Lock(path, handle, folder, _read(os.pread(handle, 4096, 0)))


def _locked(path: Path, flags: int) -> int | None:
    """A descriptor of a file or folder that holds the system's lock of it; None where another one has it. Raises OSError."""
    while True:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o644)
        mine = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # a refused start may have removed it in between
                mine = os.path.samestat(os.fstat(handle), path.stat())
            if mine:
                return handle
        except BlockingIOError:
            return None
        finally:
            if not mine:
                os.close(handle)


def _say(handle: int) -> None:
    program = Path(sys.argv[0]).name.replace("__main__.py", "collapselab")
    command = inert(" ".join(" ".join([program, *sys.argv[1:]]).split()))[:LONGEST]
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    holder = Holder(os.getpid(), socket.gethostname(), started, command)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(holder)).encode() + b"\n", 0)


def _read(data: bytes) -> Holder | None:
    """What a lock file says: None where it is empty, nobody in particular where it is torn or strange."""
    if not data.strip():
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return Holder()
    if not isinstance(found, dict) or type(found.get("pid")) is not int:
        return Holder()
    words = (" ".join(inert(str(found.get(key, ""))).split())[:LONGEST] for key in ("host", "started", "command"))
    return Holder(found["pid"], *words)

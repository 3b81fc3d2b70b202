"""Exclusive locks of a chain: a writing process locks its folder and a file in it, which names the holder.

The locks are the system's (flock) and end with the process. A file can be removed while it is locked, a folder with content
cannot, so both are locked if the file system allows it. The file's content is for people; it is emptied on release, so
content in an unlocked file is that of a process that died.
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

DYING = 5.0  # seconds that children of a dead process may hold inherited locks
GRACE = 0.3  # seconds for a process that is just ending, or has not written its name yet
POLL = 0.05
LONGEST = 200  # characters of a command line to keep
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
NO_FOLDER_LOCKS = (*NO_LOCKS, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.EACCES)  # NFS: only files open for writing


@dataclass(frozen=True)
class Holder:
    """Holder of a lock, as its file names it."""

    pid: int | None = None
    """None if the file is unreadable."""
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
        """True if the process ran on this machine and is gone or a zombie."""
        if self.pid is None or self.host != socket.gethostname() or not Path("/proc/self/stat").exists():
            return False
        try:
            # The program's name, in parentheses, may contain anything; the state follows the last parenthesis.
            state = Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX"


class HeldError(UserError):
    """Error: another process runs or scores this chain."""

    def __init__(self, chain: Path, holder: Holder):
        super().__init__(chain, holder)
        self.chain, self.holder = chain, holder

    @property
    def process(self) -> str:
        return "unknown" if self.holder.pid is None else str(self.holder.pid)

    def __str__(self) -> str:
        return f"{self.chain}: {self.holder} has locked this chain; wait for it or stop it"


@dataclass
class Lock:
    """A lock held by this process."""

    path: Path
    handle: int
    folder: int | None
    """Descriptor of the folder, also locked; None if the file system cannot lock folders."""
    before: Holder | None
    """Previous holder, which died without releasing it."""

    @property
    def line(self) -> str | None:
        """Log line about a stale lock, if it was one."""
        if self.before is None:
            return None
        who = "a process" if self.before.pid is None else str(self.before)
        may_run = self.before.pid is not None and not self.before.ended
        state = "which does not hold it (on another machine, or this is a copy)" if may_run else "which no longer runs"
        return f"{self.path}: took over the lock of {who}, {state}"

    @property
    def is_lost(self) -> bool:
        """True if it no longer excludes others: the folder, or the file if only that is locked, was moved or removed."""
        try:
            if self.folder is not None and not os.path.samestat(os.fstat(self.folder), self.path.parent.stat()):
                return True
            return not os.path.samestat(os.fstat(self.handle), self.path.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return self.folder is None or not self.path.parent.is_dir()

    def release(self) -> None:
        """Release the lock, even if a child still has inherited descriptors."""
        _mine.remove(self)
        with suppress(OSError):  # a full or vanished disk: the lock still ends with the descriptor
            os.ftruncate(self.handle, 0)
        for handle in (self.handle, self.folder):
            if handle is not None:
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)


_mine: list[Lock] = []


def check_held() -> None:
    """Refuse to continue without exclusive access: raise UserError if a lock of this process is lost. Call before publishing."""
    for lock in _mine:
        if lock.is_lost:
            raise UserError(
                f"{lock.path.parent}: was moved or removed, or lost its lock, while this process ran it; stopped, with "
                "nothing written there since; the same command resumes"
            )


def holder(path: Path) -> Holder | None:
    """Read the holder of a lock, alive or dead, from its file; None if the file is empty. Raises OSError."""
    data = plain_bytes(path)
    return None if data is None else _read(data[:4096])


def try_lock(path: Path) -> Lock:
    """Take a lock, or raise HeldError after a short wait, which is longer for children of a process that has died.

    Raises OSError if the file cannot be written, UserError if the file system has no locks."""
    began = time.monotonic()
    while True:
        result = _try(path)
        if isinstance(result, Lock):
            _write_holder(result.handle)
            _mine.append(result)
            return result
        if time.monotonic() - began >= (DYING if result is not None and result.ended else GRACE):
            raise HeldError(path.parent, result or Holder())
        time.sleep(POLL)


@contextmanager
def wait_for_lock(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, waiting while another process has it; `log` takes a line about that process or a stale lock."""
    is_logged = False
    while True:
        try:
            lock = try_lock(path)
            break
        except HeldError as error:
            if not is_logged:
                log(f"queued: waiting for {error.holder}, which is making generation 0")
            is_logged = True
            time.sleep(POLL)
    try:
        if lock.line:
            log(lock.line)
        yield
    finally:
        lock.release()


def _try(path: Path) -> Lock | Holder | None:
    """Take a lock; if another process has it, return the holder that its file names."""
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
                f"{path}: this file system has no locks ({error.strerror}), so two processes could write at once; "
                "choose a runs_dir on another one"
            ) from None
        if handle is None:  # by a process that cannot lock the folder
            return holder(path)
        undo.pop_all()
        return Lock(path, handle, folder, _read(os.pread(handle, 4096, 0)))


def _locked(path: Path, flags: int) -> int | None:
    """Open and lock a file or folder; return its descriptor, or None if another process has the lock. Raises OSError."""
    while True:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o644)
        mine = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # a refused start may have removed it meanwhile
                mine = os.path.samestat(os.fstat(handle), path.stat())
            if mine:
                return handle
        except BlockingIOError:
            return None
        finally:
            if not mine:
                os.close(handle)


def _write_holder(handle: int) -> None:
    program = Path(sys.argv[0]).name.replace("__main__.py", "collapselab")
    command = inert(" ".join(" ".join([program, *sys.argv[1:]]).split()))[:LONGEST]
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    holder = Holder(os.getpid(), socket.gethostname(), started, command)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(holder)).encode() + b"\n", 0)


def _read(data: bytes) -> Holder | None:
    """Parse a lock file: None if empty, an anonymous Holder if the content is corrupt."""
    if not data.strip():
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return Holder()
    if not isinstance(record, dict) or type(record.get("pid")) is not int:
        return Holder()
    words = (" ".join(inert(str(record.get(key, ""))).split())[:LONGEST] for key in ("host", "started", "command"))
    return Holder(record["pid"], *words)

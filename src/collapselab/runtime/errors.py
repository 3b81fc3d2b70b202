"""One-line errors for failures of the operating system and of peer processes."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.config import UserError, first_line
from collapselab.runtime import interrupts

if TYPE_CHECKING:
    from collapselab.runtime.parallel import Processes

FULL = (errno.ENOSPC, errno.EDQUOT)
OUTPUT = Path("standard output")
KEPT = "published stages are intact, and the same command resumes from them"


@contextmanager
def one_line_errors(where: Path, processes: Processes) -> Iterator[None]:
    """Convert errors of the system and of peer processes inside the block into UserErrors; `where`: folder of the run."""
    try:
        yield
    except OSError as error:
        raise UserError(of_disk(where, error)) from error
    except RuntimeError as error:
        if "deterministic" in str(error):  # no deterministic kernel, or cuBLAS is configured otherwise
            raise UserError(
                f"deterministic=True: torch refuses an operation ({first_line(error)[:120]}); set it to false; {KEPT}"
            ) from error
        if processes.world == 1 or not _of_a_peer(error):
            raise
        interrupts.check()  # a launcher ends all processes: report the signal instead
        raise UserError(f"another process of this run is gone ({first_line(error)[:120]}); {KEPT}") from error


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Re-raise OS errors hidden in the exceptions of Rust libraries (safetensors, tokenizers)."""
    try:
        yield
    except Exception as error:  # tokenizers raises no narrower class
        match = re.search(r"\(os error (\d+)\)", str(error))
        if match is None or isinstance(error, OSError):
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1]))) from error


def of_disk(where: Path, error: OSError) -> str:
    """Message for an error of the file system; `where`: the path written to, or OUTPUT, which may be on any disk."""
    if where == OUTPUT:
        return f"{where}: {error.strerror or first_line(error)}; free space there, or redirect it; the run's files are intact"
    existing = where
    while not os.path.lexists(existing):
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if error.errno in FULL:
        return f"{where}: the disk is full ({free / 1e6:,.0f} MB free); free some, or set retain=last; {KEPT}"
    path = error.filename if isinstance(error.filename, (str, os.PathLike)) else where
    return f"{os.fspath(path)}: {error.strerror or first_line(error)}; fix that; {KEPT}"


def _of_a_peer(error: RuntimeError) -> bool:
    """Return True if a collective failed because a peer is gone (gloo's errors have no class of their own)."""
    import torch

    text = str(error).lower()
    lost = any(sign in text for sign in ("gloo", "nccl", "connection closed by peer", "connection reset by peer"))
    return isinstance(error, torch.distributed.DistError) or lost

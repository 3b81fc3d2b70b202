"""What befalls a run from outside, in one line: a full disk, a folder that cannot be written, a process that is gone."""

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
KEPT = "what is published is whole, and the same command goes on from there"


@contextmanager
def in_words(where: Path, processes: Processes) -> Iterator[None]:
    """Turns the system's errors inside the block into UserErrors.

    Args:
        where: the folder that is written to.
    """
    try:
        yield
    except OSError as error:
        raise UserError(of_disk(where, error)) from error
    except RuntimeError as error:
        if "deterministic" in str(error):  # torch has only another way to compute it, or cuBLAS was told otherwise
            raise UserError(
                f"deterministic=True: torch refuses an operation ({first_line(error)[:120]}); set it to false; {KEPT}"
            ) from error
        if processes.world == 1 or not _of_a_peer(error):
            raise
        interrupts.check()  # a launcher ends all processes: then it was that
        raise UserError(f"another process of this run is gone ({first_line(error)[:120]}); {KEPT}") from error


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raises what the system told a library written in Rust (safetensors, tokenizers) as the OSError that it was."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing more special
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, OSError):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def of_disk(where: Path, error: OSError) -> str:
    """One line for an error of the file system.

    Args:
        where: what was written to; OUTPUT is no file of a run, and may be on any disk.
    """
    if where == OUTPUT:
        return f"{where}: {error.strerror or first_line(error)}; free some room there, or send it elsewhere; files are whole"
    found = where
    while not os.path.lexists(found):
        found = found.parent
    free = shutil.disk_usage(found).free
    if error.errno in FULL:
        return f"{where}: the disk is full ({free / 1e6:,.0f} MB free); free some, or set retain=last; {KEPT}"
    named = error.filename if isinstance(error.filename, (str, os.PathLike)) else where
    return f"{os.fspath(named)}: {error.strerror or first_line(error)}; mend that; {KEPT}"


def _of_a_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process no longer answers (gloo's errors have no class of their own)."""
    import torch

    text = str(error).lower()
    lost = any(sign in text for sign in ("gloo", "nccl", "connection closed by peer", "connection reset by peer"))
    return isinstance(error, torch.distributed.DistError) or lost

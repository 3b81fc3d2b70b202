"""What fits into this machine's memory, said before it is asked for: a machine that swaps, or ends a process that takes too
much, gives no line."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from collapselab.config import UserError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container, new and old


def memory_here() -> int:
    """Bytes that this process may take at most: of the machine, its container and `ulimit -v`, the least."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else "max"
        found += [int(text)] if text.isdecimal() else []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    found += [limit] if limit != resource.RLIM_INFINITY else []
    return min(found)


def on_gpu() -> bool:
    """Whether this process computes on a GPU: known once the device is chosen. A machine may have one that this run leaves
    alone, and to ask for it would take memory there."""
    return bool(torch.cuda.is_initialized())


def check_memory(needed: int, key: str, value: object, what: str, *, on_device: bool = False) -> None:
    """Raises UserError where `needed` bytes are more than there are here; `on_device`: here or on its GPU."""
    here = memory_here()
    if on_device and on_gpu():
        here = max(here, torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    if needed > here:
        raise UserError(
            f"{key}={value!r}: {what} would take {-(-needed // 10**9):,} GB of memory, here are {here / 1e9:,.1f}; "
            "make it smaller"
        )

"""Refuse allocations that cannot fit, because swapping and the OOM killer leave no message."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from collapselab.config import UserError

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container: cgroup v2, v1


def memory_here() -> int:
    """Bytes that this process may use: the least of the machine's, its container's and `ulimit -v`."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, LIMITS):
        text = path.read_text().strip() if path.is_file() else "max"
        limits += [int(text)] if text.isdecimal() else []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    limits += [limit] if limit != resource.RLIM_INFINITY else []
    return min(limits)


def on_gpu() -> bool:
    """Return True if this process computes on a GPU (valid once the device is chosen). Querying an unused GPU would take
    memory there."""
    return bool(torch.cuda.is_initialized())


def check_memory(needed: int, key: str, value: object, what: str, *, on_device: bool = False) -> None:
    """Refuse to use `needed` bytes if there are fewer; `on_device`: of the machine or its GPU, the larger. Raises UserError."""
    here = memory_here()
    if on_device and on_gpu():
        here = max(here, torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    if needed > here:
        raise UserError(
            f"{key}={value!r}: {what} would need {-(-needed // 10**9):,} GB of memory, but only {here / 1e9:,.1f} GB are "
            "available; reduce it"
        )

"""Processes and devices. The only module that imports accelerate."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from torch.distributed.rendezvous import rendezvous

from collapselab.config import UserError, first_line
from collapselab.runtime import interrupts

T = TypeVar("T")

warnings.filterwarnings("ignore", message="CUDA initialization: ")  # `unused_gpu` says it in one line
warnings.filterwarnings(
    "ignore", message="TensorFloat32 tensor cores"
)  # a hint of the compiler's: fp32 means fp32 here
PATIENCE = 300.0  # seconds for all processes of a launch to be there: machines of a cluster start at different times
QUIET = 5.0  # seconds of that without a word


class Processes:
    """What the stages need of the processes that `accelerate launch` started (or of the only one there is)."""

    def __init__(
        self, device: Literal["auto", "cpu", "cuda"] = "auto", precision: str = "auto", deterministic: bool = False
    ):
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device='cuda': torch sees no CUDA device here; set device=cpu or auto")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        chosen = ("fp32" if on_cpu else "bf16") if precision == "auto" else precision
        self.precision: str = chosen
        self.store = _met(on_cpu)  # kept: process 0 serves the others with it
        # Others wait for process 0 while it tokenises or counts: longer than the ten minutes that NCCL would wait.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
        strict_arithmetic(deterministic and not on_cpu)
        self.unused_gpu = unused_gpu() if device == "auto" else None
        """A note where `auto` came to mean the CPU although a GPU might be expected."""
        self.halvings = 0  # of evaluation's batches, and of its rows of logits at a time, where memory ran out
        # The stages cast for themselves (training.py): accelerate's patched forward would keep weights alive.
        try:
            self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[patience])
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"accelerate: the processes cannot be set up ({first_line(error)}); check its options and variables"
            ) from error
        self.device: torch.device = self.accelerator.device
        if (
            self.device.type == "cuda"
        ):  # the sampler asks for the peak of this chain's training, not of an earlier chain's
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def alone_by_mistake(self) -> bool:
        """Whether `accelerate launch --cpu --num_processes N` was asked for N > 1 and started one: it sets the address
        of a process group but, without an MPI host file, no group (accelerate 1.15)."""
        launched = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
        return launched and self.world == 1 and "RANK" not in os.environ

    @property
    def facts(self) -> dict[str, Any]:
        """How this process computes, for environment.json."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "processes": self.world,
            "threads": torch.get_num_threads(),
        }

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def broadcast(self, value: T) -> T:
        """Process 0's value, on every process."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, by rank, on every process."""
        return [value] if self.world == 1 else list(gather_object([value]))

    def check_stop_signal(self) -> None:
        """Raises Stopped on every process where a signal has asked any of them to end."""
        asked = max(self.all_gather(interrupts.asked()))
        if asked:
            raise interrupts.Stopped(asked)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum over processes, in rank order so that it is the same everywhere."""
        total: np.ndarray = np.sum(np.stack(self.all_gather(array)), axis=0)
        return total

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Process 0 runs the block, then the others do; an error of process 0 reaches all instead of a hang."""
        if self.is_main:
            error: UserError | None = None
            try:
                yield
            except UserError as caught:
                error = caught
            self.broadcast(error)
            if error is not None:
                raise error
        else:
            failed = self.broadcast(None)
            if failed is not None:
                raise failed
            yield


def strict_arithmetic(on: bool) -> None:
    """Has CUDA compute the same bits each time, or no longer: a worker runs chains with other settings one after another."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    # An error and not a warning: told only to warn, torch keeps the backward pass of attention that adds in any order.
    torch.use_deterministic_algorithms(on)
    # Memory that is read before it is written would be a fault anywhere; to fill it costs a launch for every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = not on  # type: ignore[attr-defined]


def unused_gpu() -> str | None:
    """What to say where torch can use no GPU although one seems to be here, or torch was built for one; else None."""
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden on purpose
        return None
    driver = any(Path("/dev").glob("nvidia*")) or Path("/dev/dxg").exists()  # the second under Windows
    if torch.version.cuda is not None:
        why = "its driver may be too old, see nvidia-smi" if driver else "no NVIDIA driver is here"
        said = f"torch {torch.__version__} was built for CUDA {torch.version.cuda} and sees no usable GPU ({why})"
    elif driver:
        said = f"an NVIDIA driver is here, but torch {torch.__version__} was built for CPUs alone"
    else:
        return None
    return f"note: {said}: computing on the CPU; --device cpu leaves this line out"


def _met(on_cpu: bool) -> Any:
    """Waits until all processes of a launch are there, where a signal ends the wait at once; returns what they meet at.

    Raises UserError where they are not within PATIENCE: variables of a launcher may be left in a shell without one."""
    world = next((int(os.environ[name]) for name, _ in interrupts.LAUNCHERS if name in os.environ), 1)
    if world == 1 or "MASTER_ADDR" not in os.environ or torch.distributed.is_initialized():
        return None
    if not on_cpu and "LOCAL_RANK" not in os.environ:  # accelerate takes no notice then
        return None
    rank = next((int(os.environ[name]) for _, name in interrupts.LAUNCHERS if name in os.environ), 0)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher started this very process
        end_with_parent(os.getppid(), signal.SIGTERM)
    os.environ.setdefault("MASTER_PORT", "29500")  # as accelerate does
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    found: list[Any] = []

    def meet() -> None:
        try:
            wait = timedelta(seconds=PATIENCE)
            store = next(rendezvous("env://", rank, world, timeout=wait))[0]
            count = f"collapselab-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
            if store.add(count, 1) % world == 0:
                store.set(f"{count}-met", "")
            store.wait([f"{count}-met"], wait)
            found.append(store)
        except Exception as error:  # its own thread's, to be raised in the main one
            found.append(error)

    threading.Thread(target=meet, daemon=True).start()
    started, told = time.monotonic(), False
    while not found and time.monotonic() - started < PATIENCE:
        time.sleep(0.01)
        if not told and time.monotonic() - started > QUIET:
            told = True
            left = "where nobody launched any, unset RANK, WORLD_SIZE and MASTER_ADDR"
            print(f"process {rank} waits for {world} processes at {place[:60]}; {left}", file=sys.stderr, flush=True)
    if not found or isinstance(found[0], Exception):
        said = f" ({first_line(found[0])[:60]})" if found else ""
        os.environ.pop("RANK", None)  # each says it: there may be no process 0
        raise UserError(
            f"WORLD_SIZE={world}: not all of these processes came to MASTER_ADDR={place[:60]} within {PATIENCE:g} s{said}; "
            "unset RANK, WORLD_SIZE and MASTER_ADDR, or start with accelerate launch"
        )
    return found[0]


def end_with_parent(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Has the system end this process with the one that started it (Linux): no orphan holds a chain's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, how)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def clock(work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 1) -> list[float]:
    """Seconds of each repeat, warm-up left out; on a GPU from queue empty to queue empty."""
    seconds = []
    for turn in range(warm_up + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - started)
    return seconds


def environment() -> dict[str, Any]:
    """What the figures of a run were made with; written beside them and never part of a digest."""
    import platform

    import accelerate
    import transformers

    from collapselab import __version__

    return {
        "collapselab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        # Only where the run computes there: the question itself takes memory of the card (memory.on_gpu).
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
    }


OUT_OF_MEMORY = (
    " out of memory.", "CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory",
    "STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
)  # fmt: skip
"""What torch's own errors say, and those of CUDA's libraries where they could not allocate: cuBLAS makes its handle, and
cuDNN its workspace, when they are first used."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small for what was asked: a smaller batch may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    )

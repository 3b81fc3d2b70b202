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

warnings.filterwarnings("ignore", message="CUDA initialization: ")  # `unused_gpu` logs it in one line
warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # a compiler hint: fp32 means fp32 here
PATIENCE = 300.0  # seconds to wait for all processes of a launch: machines of a cluster start at different times
QUIET = 5.0  # seconds before a line about the wait


class Processes:
    """The processes that `accelerate launch` started, or the only one: device, precision and collectives."""

    def __init__(
        self, device: Literal["auto", "cpu", "cuda"] = "auto", precision: str = "auto", deterministic: bool = False
    ):
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device='cuda': torch sees no CUDA device here; set device=cpu or auto")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        self.precision: str = ("fp32" if on_cpu else "bf16") if precision == "auto" else precision
        self.store = _rendezvous(on_cpu)  # kept: process 0 serves the others with it
        # Others wait for process 0 while it tokenises or counts, longer than NCCL's default of ten minutes.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
        strict_arithmetic(deterministic and not on_cpu)
        self.unused_gpu = unused_gpu() if device == "auto" else None
        """Note for the log if `auto` chose the CPU although a GPU might be expected."""
        self.halvings = 0  # of evaluation's batches and rows of logits after running out of memory
        # The stages cast themselves (mixed_precision="no"): accelerate's patched forward would keep weights alive.
        try:
            self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[patience])
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"accelerate: the processes cannot be set up ({first_line(error)}); check its options and variables"
            ) from error
        self.device: torch.device = self.accelerator.device
        if self.device.type == "cuda":  # the sampler reads the peak of this chain's training, not of an earlier chain's
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def alone_by_mistake(self) -> bool:
        """True if `accelerate launch --cpu --num_processes N` with N > 1 started only one process: without an MPI host file
        it sets the address of a process group but makes none (accelerate 1.15)."""
        launched = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
        return launched and self.world == 1 and "RANK" not in os.environ

    @property
    def facts(self) -> dict[str, Any]:
        """Facts on how this process computes, for environment.json."""
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
        """Return process 0's value on every process."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]

    def all_gather(self, value: T) -> list[T]:
        """Return every process's value, by rank, on every process."""
        return [value] if self.world == 1 else list(gather_object([value]))

    def check_stop_signal(self) -> None:
        """Raise Stopped on every process if a signal has asked any of them to end."""
        asked = max(self.all_gather(interrupts.asked()))
        if asked:
            raise interrupts.Stopped(asked)

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum an array over processes, in rank order so that the result is the same everywhere."""
        total: np.ndarray = np.sum(np.stack(self.all_gather(array)), axis=0)
        return total

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block on process 0 first, then on the others; a UserError of process 0 is raised on all."""
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
    """Switch deterministic CUDA arithmetic on or off: a worker runs chains with different settings in turn."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    # An error, not a warning: with warn_only torch keeps the attention backward pass that adds in any order.
    torch.use_deterministic_algorithms(on)
    # Reading uninitialised memory would be a bug anyway, and filling it costs a kernel launch per tensor.
    torch.utils.deterministic.fill_uninitialized_memory = not on  # type: ignore[attr-defined]


def unused_gpu() -> str | None:
    """Note for the log if torch cannot use a GPU although one seems present or torch was built for one; else None."""
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden on purpose
        return None
    driver = any(Path("/dev").glob("nvidia*")) or Path("/dev/dxg").exists()  # the second under Windows
    if torch.version.cuda is not None:
        why = "its driver may be too old, see nvidia-smi" if driver else "no NVIDIA driver is here"
        reason = f"torch {torch.__version__} was built for CUDA {torch.version.cuda} and sees no usable GPU ({why})"
    elif driver:
        reason = f"an NVIDIA driver is here, but torch {torch.__version__} was built for CPUs alone"
    else:
        return None
    return f"note: {reason}: computing on the CPU; --device cpu silences this note"


def _rendezvous(on_cpu: bool) -> Any:
    """Wait for all processes of a launch, interruptible by a signal; return their store, or None for a single process.

    Raises UserError after PATIENCE seconds: a launcher's variables may be left over in the shell."""
    world = next((int(os.environ[name]) for name, _ in interrupts.LAUNCHERS if name in os.environ), 1)
    if world == 1 or "MASTER_ADDR" not in os.environ or torch.distributed.is_initialized():
        return None
    if not on_cpu and "LOCAL_RANK" not in os.environ:  # accelerate ignores the launch then
        return None
    rank = next((int(os.environ[name]) for _, name in interrupts.LAUNCHERS if name in os.environ), 0)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher started this very process
        end_with_parent(os.getppid(), signal.SIGTERM)
    os.environ.setdefault("MASTER_PORT", "29500")  # as accelerate does
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    result: list[Any] = []

    def meet() -> None:
        try:
            wait = timedelta(seconds=PATIENCE)
            store = next(rendezvous("env://", rank, world, timeout=wait))[0]
            count = f"collapselab-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
            if store.add(count, 1) % world == 0:
                store.set(f"{count}-met", "")
            store.wait([f"{count}-met"], wait)
            result.append(store)
        except Exception as error:  # reported by the main thread
            result.append(error)

    threading.Thread(target=meet, daemon=True).start()
    started, is_logged = time.monotonic(), False
    while not result and time.monotonic() - started < PATIENCE:
        time.sleep(0.01)
        if not is_logged and time.monotonic() - started > QUIET:
            is_logged = True
            remedy = "if you did not launch any, unset RANK, WORLD_SIZE and MASTER_ADDR"
            print(f"process {rank} waits for {world} processes at {place[:60]}; {remedy}", file=sys.stderr, flush=True)
    if not result or isinstance(result[0], Exception):
        reason = f" ({first_line(result[0])[:60]})" if result else ""
        os.environ.pop("RANK", None)  # so that every process prints the error: there may be no process 0
        raise UserError(
            f"WORLD_SIZE={world}: not all of these processes reached MASTER_ADDR={place[:60]} within {PATIENCE:g} s{reason}; "
            "unset RANK, WORLD_SIZE and MASTER_ADDR, or start with accelerate launch"
        )
    return result[0]


def end_with_parent(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """End this process when its parent ends (Linux), so that no orphan holds a chain's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, how)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def clock(work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 1) -> list[float]:
    """Seconds of each repeat without the warm-up; on a GPU from empty queue to empty queue."""
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
    """Versions and machine that a run's numbers were computed with; never part of a digest."""
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
        # Only if the run computes there: the query itself takes GPU memory (memory.on_gpu).
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
    }


OUT_OF_MEMORY = (
    " out of memory.", "CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory",
    "STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
)  # fmt: skip
"""Messages of torch and of CUDA's libraries after a failed allocation: cuBLAS makes its handle, and cuDNN its workspace,
when first used."""


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error reports too little memory, so that a smaller batch may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    )

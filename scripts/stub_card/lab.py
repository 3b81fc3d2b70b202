"""python -m lab VERB ...: run the lab on the stub card, whose kernels compute nothing.

Plausible numbers replace meaningless ones that would end a run (losses, drawn tokens, weights). Everything else is the lab's own
code, and on a CPU nothing is replaced. STUB_COMPILED=1 prints compilations and reasons for recompiling at the end.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

REPLACED: dict[str, Callable[[Any], Any]] = {}
"""Functions that make a replacement from the original, by its place "module:name"."""


def replaces(*places: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a replacement, which is called like each original, with the original before the arguments."""

    def register(substitute: Callable[..., Any]) -> Callable[..., Any]:
        for place in places:
            REPLACED[place] = lambda original: functools.wraps(original)(functools.partial(substitute, original))
        return substitute

    return register


def locate(place: str) -> tuple[Any, str]:
    """Return (owner, name) of "module:name". Raise AttributeError if it has moved."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    getattr(owner, name)
    return owner, name


def install() -> None:
    """Install all replacements in this process."""
    for place, substitute in REPLACED.items():
        owner, name = locate(place)
        replacement = substitute(getattr(owner, name))
        # A partial is not a method: it would not receive its object.
        setattr(owner, name, _method(replacement) if isinstance(owner, type) else replacement)


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *arguments, **named: call(self, *arguments, **named)


@replaces("torch:isfinite")
def isfinite(original: Any, tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones(1, dtype=torch.bool) if tensor.is_cuda else original(tensor)


@replaces("collapselab.learning.log:Log.look")
def look(original: Any, log: Any, *flags: bool) -> list[bool]:
    """Read from the device as the original does; the resulting rows hold 1."""
    if log.processes.device.type == "cpu":
        return original(log, *flags)  # type: ignore[no-any-return]
    owner, name = locate("collapselab.learning.log:_check_finite")
    check, before = getattr(owner, name), len(log.rows)
    setattr(owner, name, lambda *_: None)
    try:
        original(log, *flags)
    finally:
        setattr(owner, name, check)
    for row in log.rows[before:]:
        row |= {"loss": 1.0, "grad_norm": 1.0}
    log.last = 1.0
    return [bool(flag) for flag in flags]


@replaces("collapselab.learning.trainer:Trainer.train")
def train(original: Any, trainer: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
    """Leave weights like those of a new network, for later stages."""
    facts: dict[str, Any] = original(trainer, *arguments, **named)
    generator = torch.Generator().manual_seed(1)
    for weight in trainer.model.net.parameters() if trainer.processes.device.type == "cuda" else ():
        weight.data.copy_((0.02 * torch.randn(weight.shape, generator=generator)).to(weight.dtype))
    return facts


@replaces("collapselab.evaluation.real_text:_losses")
def losses(original: Any, model: Any, ids: torch.Tensor, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    nll, right = original(model, ids, *arguments)
    if ids.is_cuda:
        nll = 2 + np.random.default_rng(0).random(nll.shape, np.float32)
    return nll, right


@replaces("collapselab.sampling.engine:Engine.write")
def engine_write(
    original: Any, engine: Any, prompts: np.ndarray, key: int, first: int, watch: Any = None, repeats: int = 1
) -> torch.Tensor:
    written: torch.Tensor = original(engine, prompts, key, first, watch, repeats)
    if written.is_cuda:
        drawn = np.random.default_rng([key, first]).integers(engine.shape.vocab, size=tuple(written.shape))
        written = torch.from_numpy(drawn).to(written.device)
    return written


@replaces("collapselab.sampling.plain:write_batch", "collapselab.sampling.plain:beam_batch")
def plain_write(original: Any, model: Any, *arguments: Any, **named: Any) -> np.ndarray:
    written: np.ndarray = original(model, *arguments, **named)
    if any(isinstance(given, torch.device) and given.type == "cuda" for given in (*arguments, *named.values())):
        written = np.random.default_rng(1).integers(model.vocab, size=written.shape)
    return written


@replaces("transformers.generation.utils:GenerationMixin._has_unfinished_sequences")
def unfinished(original: Any, net: Any, *arguments: Any, device: torch.device, **named: Any) -> bool:
    """Let `generate` continue to the requested length: the tensor that it would ask holds no result."""
    if device.type == "cpu":
        return bool(original(net, *arguments, device=device, **named))
    caller: Any = sys._getframe()
    while "generation_config" not in caller.f_locals or "input_ids" not in caller.f_locals:
        caller = caller.f_back
    return bool(caller.f_locals["input_ids"].shape[1] < caller.f_locals["generation_config"].max_length)


def print_counts() -> None:
    """Print the requests to the card on stderr."""
    card = ctypes.CDLL("libcudart.so.13")
    counts = {name: getattr(card, f"stub_{name}") for name in ("launches", "replays", "waits", "last_nodes")}
    for call in counts.values():
        call.restype = ctypes.c_ulonglong
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    print("STUB CARD:", {name: call() for name, call in counts.items()} | {"peak": peak}, file=sys.stderr)
    if os.environ.get("STUB_COMPILED"):
        from torch._dynamo.utils import counters

        shown = ("stats", "frames", "graph_break", "recompiles", "unimplemented")
        print("STUB CARD: compiled", {key: dict(counters[key]) for key in shown if key in counters}, file=sys.stderr)


if __name__ == "__main__":
    install()
    atexit.register(print_counts)
    from collapselab.cli.main import main

    sys.exit(main())

"""Small real things that several test files use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import RunConfig
from collapselab.console import Console
from collapselab.parallel import Processes

SMALL: dict[str, Any] = {
    "model": {"layers": 2, "width": 32, "heads": 2},
    "training": {"block": 32, "batch_size": 8, "lr": 3e-3},
    "mixing": {"tokens": 2048, "start": 0.5, "ratio": 0.5},
    "sampling": {"batch_size": 16},
    "evaluation": {"tokens": 1024},
    "corpus": {"tokenizer": "bytes"},
}


def small_config(**changes: Any) -> RunConfig:
    """A chain of a second or two. Nested keys by double underscore: training__lr=1e-2."""
    tree: dict[str, Any] = {name: dict(section) for name, section in SMALL.items()}
    tree |= {"name": "test", "generations": 2, "progress": False}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[key] = value
    fields = {f.name: f for f in dataclasses.fields(RunConfig)}
    made = {k: fields[k].default_factory(**v) if isinstance(v, dict) else v for k, v in tree.items()}  # type: ignore[misc]
    return RunConfig(**made)


def quiet() -> Console:
    return Console(speaks=False)


def one_process() -> Processes:
    return Processes("cpu", "fp32")


def samples_of(folder: Path, dtype: str = "<u2") -> np.ndarray:
    return np.concatenate([np.fromfile(p, dtype) for p in sorted(folder.glob("tokens-*.bin"))])

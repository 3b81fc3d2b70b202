"""Small real things that several test files use."""

from __future__ import annotations

import dataclasses
import json
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


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """History rows of wandb's offline file: protobuf records, framed like a LevelDB log after a 7-byte head.

    A record lies in one fragment (type 1) or in first, middle and last ones (2, 3, 4); a fragment has a head of 7
    bytes (checksum, length, type) and never crosses a block of 32 KiB.
    """
    from wandb.proto import wandb_internal_pb2 as pb

    data, place, held, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(held)
            held = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def wandb_files(chain: Path) -> list[Path]:
    """wandb's offline files of a chain, the oldest first."""
    return sorted(chain.glob("wandb/offline-run-*/run-*.wandb"))

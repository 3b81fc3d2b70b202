"""Unfinished text of a generation: batches in memory, saved in parts from time to time, and joined to shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.store.folders import read_json, write_bytes, write_json
from collapselab.store.unfinished import Unfinished

SHARD_TOKENS = 1 << 22


class Batches:
    """Batches of equal shape (rows, length), by number. A part of `unfinished` holds some in rows.bin, and their numbers in
    batches.json."""

    def __init__(self, unfinished: Unfinished, shape: tuple[int, int], dtype: np.dtype[Any]):
        self.unfinished, self.shape, self.dtype = unfinished, shape, dtype
        self.made_as = {"batch": str(shape[0])}  # a text has one batch size
        self.rows: dict[int, np.ndarray] = {}
        """Batches not yet on disk."""

    def kept(self) -> tuple[dict[int, np.ndarray], list[str]]:
        """Return the batches in valid parts, as memory maps, and messages about the invalid ones."""
        parts, messages = self.unfinished.parts(self.made_as)
        batches: dict[int, np.ndarray] = {}
        for folder in parts.values():
            numbers = read_json(folder / "batches.json")
            rows = np.memmap(folder / "rows.bin", self.dtype, "r", shape=(len(numbers), *self.shape))
            batches.update(zip(numbers, rows, strict=True))
        return batches, messages

    def add(self, number: int, rows: np.ndarray, seconds: float | None) -> None:
        """Add a batch; write a part if those in memory are large, or after so many seconds."""
        self.rows[number] = rows
        if len(self.rows) * self.shape[0] * self.shape[1] >= SHARD_TOKENS or self.unfinished.due(seconds):
            self.keep()

    def keep(self) -> None:
        """Write the batches in memory as a part, named by the least number in it."""
        if self.rows:
            numbers = sorted(self.rows)
            with self.unfinished.write(numbers[0], self.made_as) as out:
                write_bytes(out / "rows.bin", np.stack([self.rows[i] for i in numbers]).data)
                write_json(out / "batches.json", numbers)
            self.rows = {}

    def shards(self, count: int) -> Iterator[np.ndarray]:
        """Yield all rows in order, (rows, length), about SHARD_TOKENS tokens at a time, from parts and memory."""
        everything = self.kept()[0] | self.rows
        at_once = max(1, SHARD_TOKENS // (self.shape[0] * self.shape[1]))
        for start in range(0, count, at_once):
            yield np.concatenate([everything[i] for i in range(start, min(start + at_once, count))])


def write_shard(rows: np.ndarray, tokens: int, number: int, out: Path) -> str:
    """Write the first `tokens` tokens of some rows; return the file's name."""
    name = f"tokens-{number:05d}.bin"
    write_bytes(out / name, np.ascontiguousarray(rows).reshape(-1)[:tokens].data)
    return name

"""Partial results of a stage: numbered parts from which it resumes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collapselab.store.folders import examine, publishing

COST_SHARE = 0.05  # largest share of time spent on checkpoints


class Unfinished:
    """Partial results of a stage: numbered parts next to its place, each complete under a manifest.

    Args:
        place: of the stage. inputs: digests of its inputs; parts made from other inputs are ignored.
    """

    def __init__(self, place: Path, inputs: dict[str, str]):
        self.folder = place.with_name(f"{place.name}.unfinished")
        self.inputs = inputs
        self.at = time.monotonic()  # when the last part was written or the stage began
        self.cost = 0.0  # seconds to write that part

    def parts(self, more: dict[str, str] | None = None) -> tuple[dict[int, Path], list[str]]:
        """List the valid parts: ({number: folder}, ascending; messages about damaged parts, which are removed lest they
        count among the parts to keep).

        Args:
            more: digests of further inputs of the parts.
        """
        valid, messages = {}, []
        for path in sorted(self.folder.glob("[0-9]*")):
            manifest, flaw = examine(path)
            if manifest is None:
                messages.append(f"{path}: {flaw}; not used, removed")
                shutil.rmtree(path)
            elif manifest["inputs"] == self.inputs | (more or {}):
                valid[int(path.name)] = path
        return valid, messages

    def due(self, seconds: float | None) -> bool:
        """Return True if `seconds`, and twenty times the cost of the last part, have passed since it."""
        return seconds is not None and time.monotonic() - self.at >= max(seconds, self.cost / COST_SHARE)

    @contextmanager
    def write(self, number: int, more: dict[str, str] | None = None, *, keep: int | None = None) -> Iterator[Path]:
        """Publish a part; `keep`: largest number of parts kept, this one included (the lowest numbers are removed)."""
        started = time.monotonic()
        place = self.folder / f"{number:010d}"
        others = [path for path in sorted(self.folder.glob("[0-9]*")) if path != place]
        for path in others[: max(0, len(others) - keep + 1)] if keep is not None else []:
            shutil.rmtree(path)
        with publishing(place, inputs=self.inputs | (more or {})) as out:
            yield out
        self.at = time.monotonic()
        self.cost = self.at - started

    def clear(self) -> None:
        """Remove all parts: the stage is published, or starts again."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

"""What a stage has made before it is published: numbered parts, so that it resumes in its middle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collapselab.store.folders import examine, publishing

COST_SHARE = 0.05  # of the time that may go into checkpoints


class Unfinished:
    """What a stage has made before it is published: numbered parts beside its place, each whole under a manifest.

    Args:
        place: of the stage. inputs: what it is made from; parts that were made from something else do not exist.
    """

    def __init__(self, place: Path, inputs: dict[str, str]):
        self.folder = place.with_name(f"{place.name}.unfinished")
        self.inputs = inputs
        self.at = time.monotonic()  # when the last part was written, or the stage begun
        self.cost = 0.0  # seconds that this took

    def parts(self, more: dict[str, str] | None = None) -> tuple[dict[int, Path], list[str]]:
        """({number: folder} of the valid parts, ascending; what was wrong with others, in words). Those are removed: they
        would count among the parts that may be kept.

        Args:
            more: what else the parts must be made from.
        """
        found, wrong = {}, []
        for path in sorted(self.folder.glob("[0-9]*")):
            manifest, flaw = examine(path)
            if manifest is None:
                wrong.append(f"{path}: {flaw}; not used, removed")
                shutil.rmtree(path)
            elif manifest["inputs"] == self.inputs | (more or {}):
                found[int(path.name)] = path
        return found, wrong

    def due(self, seconds: float | None) -> bool:
        """Whether `seconds` have passed since the last part, and twenty times what writing it took."""
        return seconds is not None and time.monotonic() - self.at >= max(seconds, self.cost / COST_SHARE)

    @contextmanager
    def write(self, number: int, more: dict[str, str] | None = None, *, keep: int | None = None) -> Iterator[Path]:
        """Publishes a part.

        Args:
            keep: parts that may lie there at a time, this one among them; the lowest numbers go first.
        """
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
        """Removes all parts: the stage is published, or was begun anew."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

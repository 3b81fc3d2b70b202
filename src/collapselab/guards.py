"""What a stranger's run or model is held to: content that this lab never wrote is one line that names the file, and no link
or pipe in it leads to other places."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collapselab.config import UserError, first_line
from collapselab.identity import flatten

METRIC = re.compile(
    r"[A-Za-z][A-Za-z0-9_./<>+-]{0,199}"
)  # begins with a letter: a spreadsheet takes `=...` for a formula
LARGEST = 1e150  # of a number that is drawn: its square is finite yet; the perplexity of a loss of 345 nats
MOST_PARTS = 1024  # layers or experts: ten times what large models have, and built in seconds
BROKEN = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, MemoryError)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """For the few lines that take a published file's content to pieces: what they stumble over is a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)}); restore it") from None
    except BROKEN as error:
        said = f"{type(error).__name__}: {first_line(error)}"[:200]
        raise UserError(f"{path}: not written by this lab ({said}); remove its folder to have it made again") from None


def whole(value: Any, least: int = 0, most: int = 2**53) -> int:
    """A whole number within [least, most]. Raises ValueError for anything else, true and false included."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number of {least} or more")
    return value


def number(value: Any) -> float:
    """A number that can be drawn. Raises ValueError for anything else."""
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)


def text(value: Any) -> str:
    """Raises ValueError for what is no text."""
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is not text")
    return value


def metrics(table: Any) -> dict[str, float]:
    """Numbers by names that mean nothing to a spreadsheet or a path. Raises ValueError for anything else."""
    if not isinstance(table, dict) or not all(METRIC.fullmatch(name) for name in table):
        raise ValueError("metrics have plain names, as in real/loss")
    return {name: number(value) for name, value in table.items()}


def no_way_out(run: Path) -> None:
    """Raises UserError where a run directory holds a link that leads out of it, or a pipe or device: what is read or written
    there would be something else. The directory itself may be a link."""
    home = Path(os.path.realpath(run))
    for folder, names, files in os.walk(home):
        for name in [*names, *files]:
            path = Path(folder, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # of another chain of this run, which is at work
                continue
            if stat.S_ISLNK(mode) and not Path(os.path.realpath(path)).is_relative_to(home):
                raise UserError(f"{path}: a link that leads out of the run; put what it names in its place")
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path}: not a file or a folder; remove it")


def implausible(folder: Path) -> str:
    """What a config.json asks for that no model needs and that must not be tried: code from elsewhere, in the place of
    attention, or more parts than could be built in minutes. Empty where it may be loaded."""
    try:
        tree = flatten(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""  # said by the library
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for key, value in tree.items():
        if key.endswith("_implementation") and "/" in str(value):
            return f"config.json, {key}: code from elsewhere is not run"
        most = MOST_PARTS if re.search(r"(layers?|experts)$", key) else size if key == "entries" else None
        if most is not None and isinstance(value, int) and value > most:
            return f"config.json, {key}: more than {most}"
    return ""

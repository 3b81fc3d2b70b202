"""What a person sees while a chain runs: one bar per stage, one line per event, and the same lines in a file."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Control characters (but tab and newline) and marks that reorder text: harmless in a file, not on a terminal.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def inert(text: str) -> str:
    """Text that a terminal or a log shows but does not obey."""
    return UNSAFE.sub("\ufffd", text)


class Console:
    """Speaks for one process; a silent console (other ranks) says and writes nothing."""

    def __init__(self, *, speaks: bool = True, bars: bool = True, log: Path | None = None):
        self.speaks = speaks
        self.bars = bars and speaks and sys.stderr.isatty()
        self.log = log if speaks else None

    def say(self, text: str) -> None:
        """One line to the terminal and, with the time, to events.log."""
        if not self.speaks:
            return
        tqdm.write(inert(text), file=sys.stderr)
        self.record(text)

    def record(self, text: str) -> None:
        """One line to events.log alone."""
        if self.log is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            with suppress(OSError), self.log.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{stamp} {line}\n" for line in inert(text).splitlines())

    def bar(self, title: str, total: int) -> Any:
        """A progress bar in tokens; shows the rate and the time left."""
        return tqdm(
            total=total,
            desc=title,
            unit="tok",
            unit_scale=True,
            leave=False,
            disable=not self.bars,
            file=sys.stderr,
            dynamic_ncols=True,
        )

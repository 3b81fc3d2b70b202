"""What a person sees while a chain runs: one bar per stage, one line per event, and the same in files, for who looks on."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Control characters (but tab and newline) and marks that reorder text: harmless in a file, not on a terminal.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def inert(text: str) -> str:
    """Text that a terminal or a log shows but does not obey."""
    return UNSAFE.sub("\ufffd", text)


LONGEST = 300  # characters of a line that says something
LONG_PART = re.compile(
    r"""  (?<!\w)(['"])(?:(?!\1|\\).|\\.){60,}\1(?!\w)  # a value in quotes
        | \((?:[^()]|\([^()]*\)){60,}\)                 # what a library said
        | \[[^]]{60,}\] | \{[^}]{60,}\}                 # a list, a mapping
        | [^\s'"]{61,}                                  # a path, a name""",
    re.VERBOSE,
)


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text as one inert line. Where it is too long, its long values are cut in the middle, the longest ones first; then the
    line itself is, whose beginning names the key and whose end the remedy."""
    line = cut(inert(" ".join(text.split())), 20 * longest)
    while len(line) > longest and (parts := [found[0] for found in LONG_PART.finditer(line)]):
        part = max(parts, key=len)
        line = line.replace(part, cut(part, max(60, len(part) - (len(line) - longest))))
    return cut(line, longest, longest // 3)


def cut(text: str, longest: int, begin: int | None = None) -> str:
    """Text of at most `longest` characters, what is over left out of its middle."""
    if len(text) <= longest:
        return text
    begin = longest // 2 if begin is None else begin
    return f"{text[:begin]}…{text[len(text) - (longest - begin - 1) :]}"


PROGRESS = "progress.json"  # in a chain's folder while a bar runs; what `collapselab watch` reads
FIRST_NOTE = 0.5  # seconds that a bar runs before it writes there: a stage that is over by then costs no file
EVERY_NOTE = 1.0
AT_ONCE = 0.02
RATE_OVER = 30  # notes that the rate is taken over


class Console:
    """Speaks for one process; a silent console (other ranks) says and writes nothing.

    Args:
        progress: where bars keep how far they are, also where they are not shown.
    """

    def __init__(
        self, *, speaks: bool = True, bars: bool = True, log: Path | None = None, progress: Path | None = None
    ):
        self.speaks = speaks
        self.bars = bars and speaks and sys.stderr.isatty()
        self.log = log if speaks else None
        self.progress = progress if speaks else None
        if self.progress is not None:
            _remove(self.progress)  # of a process that was killed

    def say(self, text: str) -> None:
        """One line to the terminal and, with the time, to events.log."""
        if not self.speaks:
            return
        tqdm.write(one_line(text), file=sys.stderr)
        self.record(text)

    def record(self, text: str) -> None:
        """One line to events.log alone."""
        if self.log is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            with suppress(OSError), self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{stamp} {one_line(text)}\n")

    def bar(self, title: str, total: int) -> Bar:
        """A progress bar in tokens; shows the rate and the time left."""
        shown = tqdm(
            total=total,
            desc=title,
            unit="tok",
            unit_scale=True,
            leave=False,
            disable=not self.bars,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        return Bar(shown, title, total, self.progress)


class Bar:
    """A bar on the terminal and, once a second, in a file: {title, total and done (tokens), rate (tokens per second) or
    null, began and at (Unix time), pid}. The file is a view for others, gone with the bar: that it cannot be written is no
    error, and it is not flushed to the disk."""

    def __init__(self, shown: Any, title: str, total: int, path: Path | None):
        self.shown, self.title, self.total, self.path = shown, title, total, path
        self.done, self.noted = 0, False
        self.began, self.opened = time.time(), time.monotonic()
        self.due = self.opened + FIRST_NOTE
        self.marks: deque[tuple[float, int]] = deque(maxlen=RATE_OVER)  # (seconds, tokens done by then)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.shown.close()
        if self.path is not None and self.noted:
            _remove(self.path)

    def update(self, tokens: int) -> None:
        self.shown.update(tokens)
        if self.path is None:
            return
        self.done += tokens
        now = time.monotonic()
        if not self.marks:  # an update at once tells what is there from an earlier start
            self.marks.append((now, self.done) if now - self.opened < AT_ONCE else (self.opened, 0))
        if now >= self.due:
            self.due = now + EVERY_NOTE
            self._note(self.path, now)

    def note(self, words: str) -> None:
        """Words behind the bar on the terminal."""
        self.shown.set_postfix_str(words)

    def _note(self, path: Path, now: float) -> None:
        since, before = self.marks[0]
        self.marks.append((now, self.done))
        said = {"title": self.title, "done": self.done, "total": self.total, "began": self.began, "at": time.time()}
        said |= {"rate": (self.done - before) / (now - since) if now > since else None, "pid": os.getpid()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.noted = True
        with suppress(OSError):
            temporary.write_text(json.dumps(said), encoding="utf-8")
            temporary.replace(path)


def _remove(path: Path) -> None:
    for left in (path, *path.parent.glob(f".{path.name}.*.tmp")):
        with suppress(OSError):
            if left.exists():
                left.unlink()

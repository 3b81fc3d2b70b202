"""Terminal output of a chain: one bar per stage and one line per event, mirrored to files for `watch`."""

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
    """Replace control characters so that text cannot drive a terminal."""
    return UNSAFE.sub("\ufffd", text)


LONGEST = 300  # characters of a logged line
LONG_PART = re.compile(
    r"""  (?<!\w)(['"])(?:(?!\1|\\).|\\.){60,}\1(?!\w)  # a value in quotes
        | \((?:[^()]|\([^()]*\)){60,}\)                 # a library's message
        | \[[^]]{60,}\] | \{[^}]{60,}\}                 # a list, a mapping
        | [^\s'"]{61,}                                  # a path, a name""",
    re.VERBOSE,
)


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return text as one inert line. If too long, its long values are cut in the middle, the longest first; then the line
    itself, whose beginning names the key and whose end the remedy."""
    line = cut(inert(" ".join(text.split())), 20 * longest)
    while len(line) > longest and (parts := [match[0] for match in LONG_PART.finditer(line)]):
        part = max(parts, key=len)
        line = line.replace(part, cut(part, max(60, len(part) - (len(line) - longest))))
    return cut(line, longest, longest // 3)


def cut(text: str, longest: int, begin: int | None = None) -> str:
    """Shorten text to `longest` characters by leaving out its middle."""
    if len(text) <= longest:
        return text
    begin = longest // 2 if begin is None else begin
    return f"{text[:begin]}…{text[len(text) - (longest - begin - 1) :]}"


PROGRESS = "progress.json"  # in a chain's folder while a bar runs; read by `collapselab watch`
FIRST_NOTE = 0.5  # seconds before a bar first writes there: shorter stages cost no file
EVERY_NOTE = 1.0
AT_ONCE = 0.02
RATE_OVER = 30  # notes over which the rate is averaged


class Console:
    """Terminal and log of one process; a silent console (other ranks) prints and writes nothing.

    Args:
        progress: file in which bars note their progress, shown or not.
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
        """Write one line to the terminal and, with the time, to events.log."""
        if not self.speaks:
            return
        tqdm.write(one_line(text), file=sys.stderr)
        self.record(text)

    def record(self, text: str) -> None:
        """Write one line to events.log only."""
        if self.log is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            with suppress(OSError), self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{stamp} {one_line(text)}\n")

    def bar(self, title: str, total: int) -> Bar:
        """Progress bar in tokens, with rate and time left."""
        shown = tqdm(
            total=total, desc=title, unit="tok", unit_scale=True, leave=False, disable=not self.bars, file=sys.stderr,
            dynamic_ncols=True,
        )  # fmt: skip
        return Bar(shown, title, total, self.progress)


class Bar:
    """A bar on the terminal and, once a second, in a file: {title, total and done (tokens), rate (tokens per second) or
    null, began and at (Unix time), pid}. The file is removed with the bar; failures to write it are ignored, and it is not
    flushed to disk."""

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
        if not self.marks:  # an immediate update counts tokens of an earlier start
            self.marks.append((now, self.done) if now - self.opened < AT_ONCE else (self.opened, 0))
        if now >= self.due:
            self.due = now + EVERY_NOTE
            self._note(self.path, now)

    def note(self, words: str) -> None:
        """Show words behind the bar on the terminal."""
        self.shown.set_postfix_str(words)

    def _note(self, path: Path, now: float) -> None:
        since, before = self.marks[0]
        self.marks.append((now, self.done))
        state = {"title": self.title, "done": self.done, "total": self.total, "began": self.began, "at": time.time()}
        state |= {"rate": (self.done - before) / (now - since) if now > since else None, "pid": os.getpid()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.noted = True
        with suppress(OSError):
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(path)


def _remove(path: Path) -> None:
    for left in (path, *path.parent.glob(f".{path.name}.*.tmp")):
        with suppress(OSError):
            if left.exists():
                left.unlink()

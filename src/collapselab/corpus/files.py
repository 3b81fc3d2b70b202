"""Which files a corpus is made of: each found once, in a fixed order, what is passed over counted by reason, and known by
what is in them."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from collapselab.config import UserError, digest
from collapselab.store.folders import sha256_of, write_text

MAGIC = re.compile(r"[*?\[]")
RECENT = 2 * 10**9  # nanoseconds: a file that was changed so lately may change again under the same time stamp
SHOWN = 100  # names of files in a listing, and of those passed over for one reason
Skipped = dict[str, list[str]]  # reason: names


def cache_root() -> Path:
    """COLLAPSELAB_CACHE, or collapselab in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("COLLAPSELAB_CACHE") or Path(base) / "collapselab")


# --- finding ----------------------------------------------------------------------------------------------------------


def matching(pattern: str, skipped: Skipped) -> list[Path]:
    """Files that a pattern names, in the order of their names; links are followed, no folder is entered twice. What exists
    under the very name is meant itself, and so is a part of a path with [ in it."""
    whole = Path(os.path.expanduser(pattern))  # noqa: PTH111 - of an unknown user it is left as it is
    if os.path.lexists(whole):
        return _plain([whole], skipped)
    anchor = Path(whole.anchor) if whole.anchor else Path()
    parts = [part for part in whole.parts if part != whole.anchor]
    parts = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if (part, after) != ("**", "**")]
    return _met(anchor, parts, skipped)


def inside(folder: Path, skipped: Skipped, pattern: str = "*") -> list[Path]:
    """Files of a folder, as `matching`; `**` for those of its folders too."""
    return _met(folder, [pattern], skipped)


def _met(folder: Path, parts: list[str], skipped: Skipped) -> list[Path]:
    found, entered, links = set[Path](), set[tuple[int, int, int]](), [(folder, parts)]
    while links:  # what lies behind links comes last: a file is named by its own place where that is met
        found |= set(_walk(*links.pop(0), skipped, entered, links))
    for reason, names in skipped.items():  # a pattern may come by twice
        skipped[reason] = sorted(set(names))
    return _plain(sorted(found, key=str), skipped)


def _walk(
    folder: Path,
    parts: list[str],
    skipped: Skipped,
    entered: set[tuple[int, int, int]],
    links: list[tuple[Path, list[str]]],
) -> Iterator[Path]:
    head, rest = parts[0], parts[1:]
    if not MAGIC.search(head) or (
        head.strip("*") and os.path.lexists(folder / head)
    ):  # what is there by this very name
        path = folder / head
        if not rest and os.path.lexists(path):
            yield path
        elif rest and os.path.isdir(path):  # noqa: PTH112
            yield from _walk(path, rest, skipped, entered, links)
        return
    try:
        found = folder.stat()
        key = found.st_dev, found.st_ino, len(parts)
        entries = [] if key in entered else sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return
    except OSError as error:
        raise UserError(f"corpus.source: {folder}: cannot be listed ({error.strerror}); make it readable") from None
    if key in entered:
        if folder.is_symlink():
            skipped["folder that a link leads to again"].append(str(folder))
        return
    entered.add(key)
    for entry in entries:
        path = folder / entry.name
        enters = (head == "**" or bool(rest)) and os.path.isdir(path)  # noqa: PTH112 - raises nothing
        if head != "**" and not fnmatchcase(entry.name, head):
            continue
        if reason := _left_by_tools(entry.name, head):
            if enters or head != "**" or not rest:
                skipped[reason].append(str(path))
        elif enters and entry.is_symlink():
            links.append((path, parts if head == "**" else rest))
        elif enters:
            yield from _walk(path, parts if head == "**" else rest, skipped, entered, links)
        elif not rest:
            yield path
    if head == "**" and rest:
        yield from _walk(folder, rest, skipped, entered, links)


def _left_by_tools(name: str, pattern: str) -> str:
    """Why a file that a wildcard meets is no text that somebody put there; empty for what is."""
    if name.startswith(".") and not pattern.startswith("."):
        return "hidden"
    if (name.startswith("~$") and not pattern.startswith("~$")) or (name.endswith("~") and not pattern.endswith("~")):
        return "left by an editor"
    return ""


def _plain(paths: list[Path], skipped: Skipped) -> list[Path]:
    """The regular files among some paths."""
    kept = []
    for path in paths:
        try:
            mode = path.stat().st_mode
        except PermissionError as error:
            raise UserError(f"corpus.source: {path}: cannot be read ({error.strerror}); make it readable") from None
        except (OSError, ValueError):
            skipped["link that leads nowhere"].append(str(path))
            continue
        if stat.S_ISREG(mode):
            kept.append(path)
        else:
            skipped["folder" if stat.S_ISDIR(mode) else "pipe, socket or device"].append(str(path))
    return kept


def once(named: dict[Path, Any], skipped: Skipped) -> dict[Path, Any]:
    """Files without those that are another one under a second name, by link, and for the same split."""
    met: set[tuple[int, int, Any]] = set()
    kept = {}
    for path, split in named.items():
        found = path.stat()
        key = found.st_dev, found.st_ino, split
        if key in met:
            skipped["the same file again"].append(str(path))
        else:
            kept[path] = split
        met.add(key)
    return kept


def counted(skipped: Skipped) -> dict[str, dict[str, Any]]:
    """What was passed over, for records: how many by reason, and the first names."""
    return {reason: {"count": len(names), "names": names[:SHOWN]} for reason, names in skipped.items()}


def in_words(found: dict[str, dict[str, Any]]) -> str:
    """What was passed over, for a line: `hidden (2, as .a.txt), folder (1, as b)`."""
    parts = [f"{reason} ({part['count']:,}, as {Path(part['names'][0]).name[:40]})" for reason, part in found.items()]
    return f"passed over: {', '.join(parts)}"


# --- contents ---------------------------------------------------------------------------------------------------------


class Digests:
    """SHA-256 of files, kept in the cache: a file is read again unless its inode, size and both of its times are as they
    were (nobody can set the time of change, ctime)."""

    def __init__(self) -> None:
        self.path = cache_root() / ".digests.json"
        self.known: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            held = json.loads(self.path.read_text(encoding="utf-8"))
            self.known = held if isinstance(held, dict) else {}
        self.new: dict[str, Any] = {}

    def of(self, path: Path) -> str:
        """Raises UserError where it cannot be read, or is changed meanwhile."""
        name, state = str(path.absolute()), _state(path)
        held = self.new.get(name) or self.known.get(name)
        if isinstance(held, list) and held[:-1] == state and isinstance(held[-1], str):
            return held[-1]
        try:
            found = sha256_of(path)
        except OSError as error:
            raise UserError(f"corpus.source: {path}: cannot be read ({error.strerror}); make it readable") from None
        if _state(path) != state:
            raise UserError(f"corpus.source: {path}: changes while it is read; wait until it is written")
        if max(state[-2:]) < time.time_ns() - RECENT:
            self.new[name] = [*state, found]
        return found

    def keep(self) -> None:
        """Writes what is new; without it, files are read again next time."""
        if self.new:
            with suppress(OSError):
                write_text(self.path, json.dumps({k: v for k, v in self.known.items() if Path(k).exists()} | self.new))


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def listing(paths: list[Path], digests: list[str], skipped: Skipped) -> dict[str, Any]:
    """What a corpus is read from, for records: files, bytes and a digest of all, and what was passed over."""
    return {
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "digest": digest(digests),
        "names": [str(path) for path in paths[:SHOWN]],
        "skipped": counted(skipped),
    }


def no_skips() -> Skipped:
    return defaultdict(list)

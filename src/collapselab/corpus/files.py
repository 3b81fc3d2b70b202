"""Files of a corpus: found once each, in a fixed order, skipped ones counted by reason, all identified by content."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from collapselab.config import UserError, digest
from collapselab.config.values import home
from collapselab.store.folders import sha256_of, write_text

MAGIC = re.compile(r"[*?\[]")
RECENT = 2 * 10**9  # nanoseconds: a file changed more recently may change again under the same time stamp
SHOWN = 100  # names in a listing of files, and of files skipped for one reason
Skipped = dict[str, list[str]]  # reason: names


def cache_root() -> Path:
    """Return COLLAPSELAB_CACHE, or collapselab in the user's cache directory."""
    if own := os.environ.get("COLLAPSELAB_CACHE"):
        return Path(home("COLLAPSELAB_CACHE", own))
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(home("XDG_CACHE_HOME", base)) if base else Path.home() / ".cache") / "collapselab"


# --- finding ----------------------------------------------------------------------------------------------------------


def match_files(pattern: str, skipped: Skipped) -> list[Path]:
    """Files that match a pattern, sorted by name; links are followed, and no folder is entered twice. A path, or a part of
    one, that exists literally (a name with [ in it) is taken literally."""
    whole = Path(os.path.expanduser(pattern))  # noqa: PTH111 - leaves the name of an unknown user as it is
    if os.path.lexists(whole):
        return _plain([whole], skipped)
    anchor = Path(whole.anchor) if whole.anchor else Path()
    parts = [part for part in whole.parts if part != whole.anchor]
    parts = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if (part, after) != ("**", "**")]
    return match_parts(anchor, parts, skipped)


def match_parts(folder: Path, parts: list[str], skipped: Skipped) -> list[Path]:
    """Files below a folder that match the parts of a pattern, as `match_files`."""
    paths, entered, links = set[Path](), set[tuple[int, int, int]](), [(folder, parts)]
    while links:  # links come last, so that a file is named by its own path where the pattern matches that
        paths |= set(_walk(*links.pop(0), skipped, entered, links))
    for reason, names in skipped.items():  # a pattern may reach a file twice
        skipped[reason] = sorted(set(names))
    return _plain(sorted(paths, key=str), skipped)


def _walk(
    folder: Path,
    parts: list[str],
    skipped: Skipped,
    entered: set[tuple[int, int, int]],
    links: list[tuple[Path, list[str]]],
) -> Iterator[Path]:
    head, rest = parts[0], parts[1:]
    if not MAGIC.search(head) or (head.strip("*") and os.path.lexists(folder / head)):  # a literal name
        path = folder / head
        if not rest and os.path.lexists(path):
            yield path
        elif rest and os.path.isdir(path):  # noqa: PTH112
            yield from _walk(path, rest, skipped, entered, links)
        return
    try:
        status = folder.stat()
        key = status.st_dev, status.st_ino, len(parts)
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
    """Reason to skip a file that a wildcard matches: hidden, or an editor's backup; empty for any other."""
    if name.startswith(".") and not pattern.startswith("."):
        return "hidden"
    if (name.startswith("~$") and not pattern.startswith("~$")) or (name.endswith("~") and not pattern.endswith("~")):
        return "left by an editor"
    return ""


def _plain(paths: list[Path], skipped: Skipped) -> list[Path]:
    kept = []  # regular files
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


def without_duplicates(splits: dict[Path, Any], skipped: Skipped) -> dict[Path, Any]:
    """Files with their splits, without second names (links) of a file that is already in the same split."""
    kept: dict[tuple[int, int, Any], Path] = {}
    for path, split in splits.items():
        status = path.stat()
        if kept.setdefault((status.st_dev, status.st_ino, split), path) != path:
            skipped["the same file again"].append(str(path))
    return {path: splits[path] for path in kept.values()}


def count_skipped(skipped: Skipped) -> dict[str, dict[str, Any]]:
    """Count the skipped files by reason, with the first names, for records."""
    return {reason: {"count": len(names), "names": names[:SHOWN]} for reason, names in skipped.items()}


def describe_skipped(counts: dict[str, dict[str, Any]]) -> str:
    """Skipped files in one line, as in `skipped: hidden (2, as .a.txt), folder (1, as b)`."""
    parts = [f"{reason} ({part['count']:,}, as {Path(part['names'][0]).name[:40]})" for reason, part in counts.items()]
    return f"skipped: {', '.join(parts)}"


# --- contents ---------------------------------------------------------------------------------------------------------


class Digests:
    """SHA-256 of files, cached on disk: a file is read again unless its inode, size, mtime and ctime (which nobody can set)
    are unchanged."""

    def __init__(self) -> None:
        self.path = cache_root() / ".digests.json"
        self.old: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.old = content if isinstance(content, dict) else {}
        self.new: dict[str, Any] = {}

    def of(self, path: Path) -> str:
        """Return the digest of a file. Raises UserError if it cannot be read, or changes meanwhile."""
        name, state = str(path.absolute()), _state(path)
        record = self.new.get(name) or self.old.get(name)
        if isinstance(record, list) and record[:-1] == state and isinstance(record[-1], str):
            return record[-1]
        try:
            sha256 = sha256_of(path)
        except OSError as error:
            raise UserError(f"corpus.source: {path}: cannot be read ({error.strerror}); make it readable") from None
        if _state(path) != state:
            raise UserError(f"corpus.source: {path}: changed while it was read; wait until it is written")
        if max(state[-2:]) < time.time_ns() - RECENT:
            self.new[name] = [*state, sha256]
        return sha256

    def save(self) -> None:
        if self.new:
            with suppress(OSError):  # without the file, the next start reads everything again
                write_text(self.path, json.dumps({k: v for k, v in self.old.items() if Path(k).exists()} | self.new))


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def listing(paths: list[Path], digests: list[str], skipped: Skipped) -> dict[str, Any]:
    """Record of what a corpus is read from: files, bytes, one digest of all, and the skipped files."""
    return {
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "digest": digest(digests),
        "names": [str(path) for path in paths[:SHOWN]],
        "skipped": count_skipped(skipped),
    }

"""Plugins: the user's own files that add regimes, schedules, metrics or families to the records of the package.

A plugin is code: `--plugin FILE.py` on a command line loads it, and nothing else does. A chain and a file of settings hold a
record of it, name and SHA-256, which is compared with what is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from collapselab.config.values import UserError, check, first_line, home

T = TypeVar("T")
LOADED: dict[str, dict[str, str]] = {}
"""Name and SHA-256 of the loaded plugins, by path."""


class Records(dict[str, T]):
    """Records of one kind by name, to which plugins add.

    Args:
        own: records of the package. names: pattern that added names must match.
    """

    every: ClassVar[dict[str, Records[Any]]] = {}

    def __init__(self, kind: str, own: dict[str, T], *, names: str = "[a-z][a-z0-9_]*"):
        super().__init__(own)
        self.kind, self.own, self.names = kind, frozenset(own), names
        self.owner: tuple[Any, str] | None = None
        self.every[kind] = self

    def __setitem__(self, name: str, record: T) -> None:
        if name in self or re.fullmatch(self.names, name) is None:
            raise UserError(
                f"{self.kind} {name!r}: the name is taken or invalid; choose an unused one that matches {self.names}"
            )
        super().__setitem__(name, record)
        self.offer(self.owner)

    def reset(self) -> None:
        """Remove what plugins have added."""
        for name in self.keys() - self.own:
            del self[name]
        self.offer(self.owner)

    def offer(self, owner: tuple[Any, str] | None) -> None:
        """Make the names the choices of a setting, (class, key): what checks, help and docs/configuration.md read."""
        self.owner = owner
        if owner is not None:
            keys = owner[0].__annotations__
            keys[owner[1]] = f"Literal{json.dumps([*self])}" + " | None" * keys[owner[1]].endswith("| None")


class _Source(SourceFileLoader):
    """Execute the bytes that the digest is of, never cached bytecode."""

    def __init__(self, name: str, path: str):
        super().__init__(name, path)
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(errno.EINVAL, "not a file")
        self.data = Path(path).read_bytes()

    def get_data(self, path: Any) -> bytes:
        return self.data

    def path_stats(self, path: Any) -> Any:
        raise OSError


def named(arguments: list[str]) -> list[str]:
    """Files that a command line names with --plugin."""
    paths = [item.partition("=")[2] for item in arguments if item.startswith("--plugin=")]
    return paths + [after for item, after in pairwise(arguments) if item == "--plugin"]


def load(paths: Sequence[str]) -> None:
    """Execute plugins, replacing those loaded before. Raises UserError."""
    LOADED.clear()
    for records in Records.every.values():
        records.reset()
    for path in (home("--plugin", path) for path in paths):
        check(Path(path).name not in {one["name"] for one in LOADED.values()}, "--plugin", path, "give each name once")
        try:
            loader = _Source(f"collapselab_plugin_{Path(path).stem}", path)
            LOADED[path] = {"name": Path(path).name, "digest": hashlib.sha256(loader.data).hexdigest()}
            spec = importlib.util.spec_from_loader(loader.name, loader)
            sys.modules[loader.name] = module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(fault(error) or f"--plugin {path}: {reason}; name a Python file") from None


def fault(error: BaseException) -> str:
    """One-line message for an exception raised in a plugin; empty for any other exception."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    path, line = next(((path, line) for path, line in reversed(lines) if path in LOADED), ("", 0))
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return path and f"--plugin {path}, line {line}: {kind}{first_line(error)}; change the file"


def check_records(found: Any) -> list[dict[str, str]]:
    """Return the records that a file of settings holds. Raises UserError if they are not records."""
    for one in found if isinstance(found, list) else [found]:
        holds = isinstance(one, dict) and one.keys() == {"name", "digest"} and set(map(type, one.values())) == {str}
        check(
            holds and bool(re.fullmatch("[0-9a-f]{64}", one["digest"])),
            "plugins",
            found,
            "must be records {name, digest}, as a chain has them; to load one give --plugin",
        )
    return list(found)


def check_loaded(found: Any, *, changed: bool = False) -> list[dict[str, str]]:
    """Return the records of the loaded plugins. Raises UserError if one that a chain or file records is not loaded, or is another
    file, unless it may have `changed`."""
    mine = {one["name"]: one["digest"] for one in LOADED.values()}
    for one in check_records(found):
        name, digest = one["name"], one["digest"]
        if name not in mine:
            raise UserError(
                f"plugins: made with {name} (sha256 {digest[:12]}), which is not loaded; add --plugin {name}"
            )
        remedy = f"does not match the recorded {digest[:12]}; give the original file, or fork with this one"
        check(changed or mine[name] == digest, f"--plugin {name}: sha256", mine[name][:12], remedy)
    return sorted(LOADED.values(), key=lambda one: one["name"])

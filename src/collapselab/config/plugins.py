"""Plugins: files of the user that add a regime, a schedule or a metric to the records of the package.

A plugin is code: it is loaded for `--plugin FILE.py` on a command line and for nothing else. A chain and a file of settings
hold a record of it, its name and the SHA-256 of its bytes, which loads nothing and is compared with what is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from collapselab.config.values import UserError, check, first_line, home

T = TypeVar("T")
LOADED: dict[str, dict[str, str]] = {}
"""The records of the plugins of this process, by the path that the command line has."""


class Records(dict[str, T]):
    """Records by name, to which plugins add.

    Args:
        kind: what one of them is. own: those of the package. names: the pattern of the names of others. owner, key: the setting
            whose choices they are, if any: help, files of settings and docs/configuration.md read its annotation.
    """

    every: ClassVar[list[Records[Any]]] = []

    def __init__(self, kind: str, own: dict[str, T], names: str = "[a-z][a-z0-9_]*", owner: Any = None, key: str = ""):
        super().__init__(own)
        self.kind, self.own, self.names, self.owner, self.key = kind, frozenset(own), names, owner, key
        self.every.append(self)
        self._offer()

    def __setitem__(self, name: str, record: T) -> None:
        if name in self or re.fullmatch(self.names, name) is None:
            raise UserError(f"{self.kind} {name!r}: take another name, one that is free and matches {self.names}")
        super().__setitem__(name, record)
        self._offer()

    def reset(self) -> None:
        """Remove what plugins have added."""
        for name in self.keys() - self.own:
            del self[name]
        self._offer()

    def _offer(self) -> None:
        if self.owner is not None:
            null = " | None" if self.owner.__annotations__[self.key].endswith("| None") else ""
            self.owner.__annotations__[self.key] = f"Literal[{', '.join(map(repr, self))}]{null}"


class _Source(importlib.abc.SourceLoader):
    """Executes the bytes whose digest is recorded: no cached bytecode, no second reading of the file."""

    def __init__(self, path: str, data: bytes):
        self.path, self.data = path, data

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        return self.data


def named(arguments: list[str]) -> list[str]:
    """The files that a command line names with --plugin."""
    paths = [item.partition("=")[2] for item in arguments if item.startswith("--plugin=")]
    return paths + [after for item, after in pairwise(arguments) if item == "--plugin"]


def load(paths: Sequence[str]) -> None:
    """Execute plugins in the place of those that were loaded before. Raises UserError."""
    LOADED.clear()
    for records in Records.every:
        records.reset()
    for path in (home("--plugin", path) for path in paths):
        name = Path(path).name
        try:
            data = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or first_line(error)
            raise UserError(f"--plugin {path}: cannot be read ({said}); name a Python file") from None
        if name in (one["name"] for one in LOADED.values()):
            raise UserError(
                f"--plugin {path}: another plugin is called {name} too; give each file once, by its own name"
            )
        LOADED[path] = {"name": name, "digest": hashlib.sha256(data).hexdigest()}
        spec = importlib.util.spec_from_loader(f"collapselab_plugin_{Path(path).stem}", loader := _Source(path, data))
        assert spec is not None
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        try:
            loader.exec_module(module)
        except Exception as error:
            raise UserError(fault(error) or f"--plugin {path}: {first_line(error)}") from None


def fault(error: BaseException) -> str:
    """An exception that came out of a plugin, in one line; empty where it came from elsewhere."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    path, line = next(((path, line) for path, line in reversed(lines) if path in LOADED), ("", 0))
    return path and f"--plugin {path}, line {line}: {type(error).__name__}: {first_line(error)}; mend the file"


def records() -> list[dict[str, str]]:
    """What a chain records of the plugins of this process."""
    return sorted(LOADED.values(), key=lambda one: one["name"])


def check_records(found: Any) -> list[dict[str, str]]:
    """A list of records, as a stranger's file may have it or not. Raises UserError."""
    remedy = "is a record that the lab writes, a list of {name, digest}; leave it as it is, plugins come by --plugin"
    check(isinstance(found, list), "plugins", found, remedy)
    for one in found:
        holds = isinstance(one, dict) and one.keys() == {"name", "digest"} and set(map(type, one.values())) == {str}
        check(holds and bool(re.fullmatch("[0-9a-f]{64}", one["digest"])), "plugins", found, remedy)
    return list(found)


def check_loaded(found: Any) -> list[dict[str, str]]:
    """The records of this process. Raises UserError where those of a chain or a file have a plugin that is not among them."""
    mine = {one["name"]: one["digest"] for one in records()}
    for one in check_records(found):
        name, digest = one["name"], one["digest"]
        if name not in mine:
            raise UserError(
                f"plugins: made with {name} (sha256 {digest[:12]}), which is not loaded; add --plugin {name}"
            )
        if mine[name] != digest:
            raise UserError(
                f"--plugin {name}: its sha256 is {mine[name][:12]}, {digest[:12]} is recorded; give the file as it was, or take "
                "another name for a new run"
            )
    return records()

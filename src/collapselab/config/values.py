"""Errors for wrong values, and values in canonical form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """An error that the user can fix: one line that names key, value and remedy. The command line exits with code 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check(holds: bool, key: str, value: object, remedy: str) -> None:
    """Raise UserError if `holds` is false."""
    if not holds:
        raise UserError(f"{key}={value!r}: {remedy}")


def needs(settings: object, section: str) -> Callable[[bool, str, str], None]:
    """Return `check` for the keys of a section, whose values it looks up itself."""
    return lambda holds, key, remedy: check(holds, f"{section}.{key}", getattr(settings, key), remedy)


# A password before a host, a token in a query, and tokens with well-known prefixes.
SECRET = re.compile(
    r"//[^/\s]*@|^hub:[^/\s:@]+:[^/\s@]+@|[?&;#][\w-]*(?i:token|key|secret|sig|auth|pass|cred)[\w-]*=|"
    r"\b(hf_|gh[pousr]_|github_pat_)[A-Za-z0-9_]{30,}|\bAKIA[A-Z0-9]{16}\b"
)


def check_no_secret(key: str, value: str | None) -> None:
    """Raise UserError, without the value, if a name holds a password or token, which must not be written or shown."""
    if value is not None and SECRET.search(value):
        raise UserError(
            f"{key}: holds a password or token, which a run would write to its files; leave it out "
            "(the hub takes HF_TOKEN from the environment)"
        )


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, ready for YAML or JSON, without an empty list of plugins."""
    return {key: value for key, value in dataclasses.asdict(config).items() if value or key != "plugins"}


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


TEMPORARY_HOME = f"{tempfile.gettempdir()}/collapselab-home-"
"""Prefix of the folder that libraries get as a home if the user has none, as in a container."""


def home(key: str, path: str) -> str:
    """Expand `~` or `~name` at the start of a path. Raises UserError if there is no such home directory."""
    if not path.startswith("~"):
        return path
    try:
        if path.split("/")[0] == "~" and os.environ.get("HOME", "").startswith(TEMPORARY_HOME):
            raise RuntimeError
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UserError(
            f"{key}={path!r}: {path.split('/')[0]} has no known home directory; write the path out"
        ) from None


MAPPINGS = ("corpus.gym.options",)
"""Keys whose values are mappings."""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree: {"a": {"b": 1}} becomes {"a.b": 1}; values of MAPPINGS stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, dict) and name not in MAPPINGS
        flat.update(flatten(value, f"{name}.") if inner else {name: value})
    return flat

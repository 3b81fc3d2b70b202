"""Flags of a setting, on the line that declares it: what it decides, whether a fork may change it, since when it exists."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeVar, overload

T = TypeVar("T")
Decides = Literal["set", "later sets", "model", "samples", "judged", "scores", "text", "files", "nothing"]
"""First thing that another value changes; everything made from it changes as well. `set` is generation 0's training set,
`text` the prepared corpus, whose digest represents the key, `files` the number and names of a chain's files."""


@overload
def setting(default: type[T], *, decides: Decides, fork: bool = ..., since: str | None = ...) -> T: ...
@overload
def setting(default: T, *, decides: Decides, fork: bool = ..., since: str | None = ...) -> T: ...
def setting(default: Any, *, decides: Decides, fork: bool = False, since: str | None = None) -> Any:
    """Declare a key with its flags, or a section with the flags of all its keys that have no `setting` of their own.

    Args:
        default: the value, or the class that makes it (`list`, a section). fork: a fork may change the key. since: the
            version, as in "0.2", that added the key after runs existed: at its default it is not part of shared digests.
    """
    flags = {"decides": decides, "fork": fork, "since": since}
    return dataclasses.field(**{"default_factory" if isinstance(default, type) else "default": default}, metadata=flags)


def flags_of(config: Any, prefix: str = "", head: Any = None) -> dict[str, Any]:
    """Collect the flags of every key in a class of settings, by dotted key: those of its line, else of its section."""
    every: dict[str, Any] = {}
    for part in dataclasses.fields(config):
        key, flags, inner = f"{prefix}{part.name}", part.metadata or head, part.default_factory
        every |= flags_of(inner, f"{key}.", flags) if dataclasses.is_dataclass(inner) else {key: flags}
    return every

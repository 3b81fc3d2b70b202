"""What a setting decides, whether a fork may change it and since when it exists, on the line that declares it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeVar, overload

T = TypeVar("T")
Decides = Literal["set", "later sets", "model", "samples", "scores", "text", "files", "nothing"]
"""What another value changes first; all that is made from it changes as well. `set` is generation 0's training set, `text`
the prepared corpus, whose digest stands for the key, `files` which files a chain has and how they are called."""


@overload
def setting(default: type[T], *, decides: Decides, fork: bool = ..., since: str | None = ...) -> T: ...
@overload
def setting(default: T, *, decides: Decides, fork: bool = ..., since: str | None = ...) -> T: ...
def setting(default: Any, *, decides: Decides, fork: bool = False, since: str | None = None) -> Any:
    """Declare a key with its flags, or a section with the flags of all its keys that have no `setting` of their own.

    Args:
        default: the value, or the class that makes it (`list`, a section). fork: whether a fork may change it. since: the
            version, as in "0.2", that added it where there were runs: at its default it is no part of a shared digest.
    """
    flags = {"decides": decides, "fork": fork, "since": since}
    return dataclasses.field(**{"default_factory" if isinstance(default, type) else "default": default}, metadata=flags)


def flags_of(made: Any, prefix: str = "", head: Any = None) -> dict[str, Any]:
    """The flags of every key in a class of settings, dotted: those of its line, else those of its section."""
    found: dict[str, Any] = {}
    for part in dataclasses.fields(made):
        key, flags, inner = f"{prefix}{part.name}", part.metadata or head, part.default_factory
        found |= flags_of(inner, f"{key}.", flags) if dataclasses.is_dataclass(inner) else {key: flags}
    return found

"""Seals: small files that no manifest covers carry the digest of the rest of their content, so that damage is found. A
chain's identity is kept twice, in `identity.json` and `identity.copy.json`."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapselab.config import UserError, digest

TEXT_SEAL = "# Written by the lab. SHA-256 of the lines below: "


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of all its other keys as `seal`."""
    return value | {"seal": digest({key: held for key, held in value.items() if key != "seal"})}


def parse(text: str) -> Any:
    """JSON in the strict sense. Raises ValueError for NaN and Infinity, which this lab never writes, and for whole numbers
    of thousands of digits; RecursionError for depths that nothing needs."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def json_text(value: Any) -> str:
    """How JSON is written: one way, so that a file is compared by its bytes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def unsealed(data: bytes | None) -> dict[str, Any] | None:
    """The object in a sealed JSON file, without its seal; None where there is none, or not as it was written."""
    value = parsed(data)
    try:
        if not isinstance(value, dict) or sealed(value) != value or json_text(value).encode() != data:
            return None
    except (ValueError, RecursionError):  # NaN, Infinity, 1e999: a seal that someone else has made
        return None
    return {key: held for key, held in value.items() if key != "seal"}


def sealed_text(text: str) -> str:
    """A text under a comment line with its digest (YAML)."""
    return f"{TEXT_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def text_holds(data: bytes | None) -> bool:
    """Whether the content of a file is a sealed text as it was written."""
    below = (data or b"").partition(b"\n")[2]
    return data is not None and data.partition(b"\n")[0] == f"{TEXT_SEAL}{hashlib.sha256(below).hexdigest()}".encode()


def plain_bytes(path: Path) -> bytes | None:
    """Content of a regular file; None where there is nothing, or a link, a pipe or a device. Raises OSError."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def parsed(data: bytes | None) -> Any:
    """JSON; None where it is broken or not there."""
    try:
        return json.loads((data or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        return None


IDENTITY, COPY = "identity.json", "identity.copy.json"


@dataclass(frozen=True)
class Recorded:
    """What a chain's folder says of what the chain is."""

    facts: dict[str, Any]
    """config (flat), corpus (digest); `shared`, digests by stage, in an experiment; `fork`: parent, name, at, batch, changed,
    path."""
    wrong: dict[str, str]
    """The one of the two files that is to be written again, and what is wrong with it."""


def recorded(root: Path) -> Recorded | None:
    """What a chain is, from either of the two files; None where there is neither.

    Raises UserError where none of them holds, or has a seal, or one cannot be read."""
    found: dict[str, dict[str, Any] | None] = {}
    said: dict[str, str] = {}
    for name in (IDENTITY, COPY):
        try:
            data = plain_bytes(root / name)
        except OSError as error:
            raise UserError(f"{root / name}: cannot be read ({error.strerror}); make it readable") from None
        value = unsealed(data)
        found[name] = value if value is not None and _is_identity(value) else None
        if found[name] is None:
            said[name] = "gone" if data is None else "damaged"
    first, second = found[IDENTITY], found[COPY]
    if first is not None and second is not None and first != second:  # stopped between the two writes
        said[COPY] = "older"
    facts = first or second
    if facts is not None:
        return Recorded(facts, said)
    if said == {IDENTITY: "gone", COPY: "gone"}:
        return None
    value = parsed(plain_bytes(root / IDENTITY))
    if said[COPY] == "gone" and isinstance(value, dict) and "seal" not in value:
        raise UserError(f"{root / IDENTITY}: not in this lab's format (no seal); make the run again under another name")
    names = " and ".join(f"{name} is {how}" for name, how in said.items())
    raise UserError(
        f"{root / IDENTITY}: {names}, so what chain this is cannot be told; put one of them back from a copy, or use "
        "another name (nothing was changed)"
    )


def _is_identity(value: dict[str, Any]) -> bool:
    shared, fork = value.get("shared", {}), value.get("fork", {"at": 0, "path": "", "changed": []})
    return (
        isinstance(value.get("config"), dict)
        and isinstance(value.get("corpus"), str)
        and isinstance(shared, dict)
        and isinstance(fork, dict)
        and isinstance(fork.get("at"), int)
        and isinstance(fork.get("path"), str)
        and isinstance(fork.get("changed"), list)
    )

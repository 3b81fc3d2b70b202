"""Seals: small files without a manifest carry a digest of the rest of their content, which reveals damage. A chain's
identity is kept twice, in `identity.json` and `identity.copy.json`."""

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
    """Add to a JSON object the digest of its other keys as `seal`."""
    return value | {"seal": digest({key: held for key, held in value.items() if key != "seal"})}


def parse(text: str) -> Any:
    """Parse strict JSON. Raises ValueError for NaN and Infinity, which this lab never writes, and for integers of thousands
    of digits; RecursionError for excessive nesting."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not a JSON number")

    return json.loads(text, parse_constant=refuse)


def json_text(value: Any) -> str:
    """Format JSON in a unique way, so that files can be compared by their bytes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def unsealed(data: bytes | None) -> dict[str, Any] | None:
    """Return the object of a sealed JSON file without its seal; None if the file is missing or damaged."""
    value = parsed(data)
    try:
        if not isinstance(value, dict) or sealed(value) != value or json_text(value).encode() != data:
            return None
    except (ValueError, RecursionError):  # NaN, Infinity, 1e999: not sealed by this lab
        return None
    return {key: held for key, held in value.items() if key != "seal"}


def sealed_text(text: str) -> str:
    """Put a comment line with its digest above a text (YAML)."""
    return f"{TEXT_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def text_holds(data: bytes | None) -> bool:
    """Return True if the content of a file is an undamaged sealed text."""
    below = (data or b"").partition(b"\n")[2]
    return data is not None and data.partition(b"\n")[0] == f"{TEXT_SEAL}{hashlib.sha256(below).hexdigest()}".encode()


def plain_bytes(path: Path) -> bytes | None:
    """Read a regular file; None if it is missing, a link, a pipe or a device. Raises OSError."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def parsed(data: bytes | None) -> Any:
    """Parse JSON; None if it is invalid or missing."""
    try:
        return json.loads((data or b"").decode("utf-8"))
    except (ValueError, RecursionError):
        return None


IDENTITY, COPY = "identity.json", "identity.copy.json"


@dataclass(frozen=True)
class Recorded:
    """Recorded identity of a chain."""

    facts: dict[str, Any]
    """config (flat), corpus (digest); `shared`, digests by stage, in an experiment; `fork`: parent, name, at, batch, changed,
    path."""
    wrong: dict[str, str]
    """The one of the two files that must be rewritten, and its flaw."""


def recorded(root: Path) -> Recorded | None:
    """Read the identity of a chain from either of its two files; None if both are missing.

    Raises UserError if neither is valid, or one cannot be read."""
    identities: dict[str, dict[str, Any] | None] = {}
    flaws: dict[str, str] = {}
    for name in (IDENTITY, COPY):
        try:
            data = plain_bytes(root / name)
        except OSError as error:
            raise UserError(f"{root / name}: cannot be read ({error.strerror}); make it readable") from None
        value = unsealed(data)
        identities[name] = value if value is not None and _is_identity(value) else None
        if identities[name] is None:
            flaws[name] = "missing" if data is None else "damaged"
    first, second = identities[IDENTITY], identities[COPY]
    if first is not None and second is not None and first != second:  # stopped between the two writes
        flaws[COPY] = "older"
    facts = first or second
    if facts is not None:
        return Recorded(facts, flaws)
    if flaws == {IDENTITY: "missing", COPY: "missing"}:
        return None
    value = parsed(plain_bytes(root / IDENTITY))
    if flaws[COPY] == "missing" and isinstance(value, dict) and "seal" not in value:
        raise UserError(f"{root / IDENTITY}: not in this lab's format (no seal); repeat the run under another name")
    names = " and ".join(f"{name} is {how}" for name, how in flaws.items())
    raise UserError(
        f"{root / IDENTITY}: {names}, so the chain cannot be identified; restore one of them from a copy, or use "
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

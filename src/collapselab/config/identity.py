"""What makes a chain this chain and no other: the keys that decide its text and its numbers, and how they are kept.

Small files that no manifest covers carry a seal, the digest of the rest of their content: damage is found also where it
leaves them readable. A chain's identity is kept twice, in `identity.json` and `identity.copy.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapselab.config import RunConfig, UserError, as_dict, digest

# Where a run lives, how it is watched and what is kept of it: no part of what a chain is. (What `corpus.shared_passages` does to
# the text is in the corpus digest.)
HARMLESS = (
    *("name", "arm", "runs_dir", "data_dir", "progress", "retain", "generations", "tracking.wandb", "tracking.project"),
    *("training.checkpoint_seconds", "training.checkpoint_steps", "corpus.shared_passages"),
)
OF_LATER_SETS = ("sampling.source",)  # of `sampling`, but nothing that generation 0 is or writes


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def filled(name: str, settings: dict[str, Any]) -> str:
    """A name in which each `{key}` is replaced by the value of that setting: what starts runs from a table of settings
    (a sweep) gives each a name of its own. Values are written as in YAML (null, true); characters that no name has become
    `_`. Raises UserError for what is no key.

    Args:
        settings: flat.
    """

    def value(found: re.Match[str]) -> str:
        key = found[1]
        if key not in settings or key in ("name", "arm"):
            raise UserError(f"{name!r}: {{{key}}} is no setting; write a key as in {{mixing.start}}")
        held = settings[key]
        return re.sub(r"[^A-Za-z0-9._=+-]", "_", held if isinstance(held, str) else json.dumps(held))

    return re.sub(r"\{([^{}]*)\}", value, name)


def identity(config: RunConfig) -> dict[str, Any]:
    """The keys that make a chain what it is, flat; `generations` counts only where the schedule uses it."""
    flat = {key: value for key, value in flatten(as_dict(config)).items() if key not in HARMLESS}
    if config.mixing.uses_horizon:
        flat["generations"] = config.generations
    return flat


def drift(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of two identities that differ, with both values; a list of shares may grow at its end. A key that one of them
    lacks has the value that is the default now."""
    changed = {}
    defaults = flatten(as_dict(RunConfig()))
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, defaults.get(key)), new.get(key, defaults.get(key))
        if key == "generations" and (key not in old or key not in new):
            continue  # it counts on one side alone: by its schedule, which is named
        if key == "mixing.values" and isinstance(before, list) and list(after or [])[: len(before)] == before:
            continue
        if before != after:
            changed[key] = (before, after)
    return changed


def shared_digests(mine: dict[str, Any], corpus: str) -> dict[str, str]:
    """Which stages of generation 0 two chains of one seed have in common: those with equal digests.

    Its training set and model do not depend on later mixtures, nor on how samples are written or scored.

    Args:
        mine: the identity of a chain, as it is recorded. corpus: its digest.
    """
    of_model = {k: v for k, v in mine.items() if k.split(".")[0] in ("corpus", "model", "training")}
    of_model |= {k: mine[k] for k in ("mixing.tokens", "mixing.unit", "device", "deterministic")} | {"text": corpus}
    if mine["model.start"] != "scratch" or mine["model.pretrained"] is None:
        of_model["model.start"] = "base"  # generation 0 has no weights before it
    of_text = of_model | {k: v for k, v in mine.items() if k.startswith("sampling.") and k not in OF_LATER_SETS}
    of_scores = of_text | {k: v for k, v in mine.items() if k.startswith("evaluation.")}
    model, text, scores = (digest(part)[:32] for part in (of_model, of_text, of_scores))
    return {"mixture": model, "train": model, "samples": text, "reference": scores, "eval": scores}


# --- seals ------------------------------------------------------------------------------------------------------------

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


# --- what is recorded of a chain --------------------------------------------------------------------------------------

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

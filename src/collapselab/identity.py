"""What makes a chain this chain and no other: the keys that decide its text and its numbers."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig, as_dict

# Where a run lives and how it is watched: no part of what a chain is.
HARMLESS = ("name", "arm", "runs_dir", "data_dir", "progress", "generations", "tracking")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def identity(config: RunConfig) -> dict[str, Any]:
    """The keys that make a chain what it is, flat; `generations` counts only where the schedule uses it."""
    flat = flatten({k: v for k, v in as_dict(config).items() if k not in HARMLESS})
    if config.mixing.uses_horizon:
        flat["generations"] = config.generations
    return flat


def drift(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of two identities that differ, with both values; a list of shares may grow at its end."""
    changed = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if key == "mixing.values" and isinstance(before, list) and list(after or [])[: len(before)] == before:
            continue
        if before != after:
            changed[key] = (before, after)
    return changed

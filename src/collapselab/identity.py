"""What makes a chain this chain and no other: the keys that decide its text and its numbers."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig, as_dict, digest

# Where a run lives, how it is watched and what is kept of it: no part of what a chain is.
HARMLESS = (
    *("name", "arm", "runs_dir", "data_dir", "progress", "retain", "generations", "tracking.wandb", "tracking.project"),
    *("training.checkpoint_seconds", "training.checkpoint_steps"),
)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def identity(config: RunConfig) -> dict[str, Any]:
    """The keys that make a chain what it is, flat; `generations` counts only where the schedule uses it."""
    flat = {key: value for key, value in flatten(as_dict(config)).items() if key not in HARMLESS}
    if config.mixing.uses_horizon:
        flat["generations"] = config.generations
    return flat


def drift(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of two identities that differ, with both values; a list of shares may grow at its end. A key that an older
    version did not write had the value that is the default now."""
    changed = {}
    defaults = flatten(as_dict(RunConfig()))
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, defaults.get(key)), new.get(key, defaults.get(key))
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
    of_text = of_model | {k: v for k, v in mine.items() if k.startswith("sampling.")}
    of_scores = of_text | {k: v for k, v in mine.items() if k.startswith("evaluation.")}
    model, text, scores = (digest(part)[:32] for part in (of_model, of_text, of_scores))
    return {"mixture": model, "train": model, "samples": text, "reference": scores, "eval": scores}

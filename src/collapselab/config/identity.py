"""What makes a chain this chain and no other: the keys that decide its text and its numbers."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig, as_dict, digest
from collapselab.config.values import flatten

# Where a run lives, how it is watched and what is kept of it: no part of what a chain is. (What `corpus.shared_passages` does to
# the text is in the corpus digest.)
HARMLESS = (
    *("name", "arm", "runs_dir", "data_dir", "progress", "retain", "generations", "tracking.wandb", "tracking.project"),
    *("training.checkpoint_seconds", "training.checkpoint_steps", "corpus.shared_passages"),
)
OF_LATER_SETS = ("sampling.source",)  # of `sampling`, but nothing that generation 0 is or writes


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
    """Digests of what generation 0 gives (set, model, text, scores): two chains of one seed have those in common that are
    equal.

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
    return {"set": model, "model": model, "text": text, "scores": scores}


# --- seals ------------------------------------------------------------------------------------------------------------


# --- what is recorded of a chain --------------------------------------------------------------------------------------

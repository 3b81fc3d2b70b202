"""What makes a chain this chain and no other: the keys that decide its text and its numbers."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig, as_dict, digest
from collapselab.config.settings import Decides, flags_of
from collapselab.config.values import flatten

FLAGS = flags_of(RunConfig)
DEFAULTS: dict[str, Any] = {"plugins": []} | flatten(as_dict(RunConfig()))
# How models write, in the order in which messages name the keys: read by laws, and no difference between control and arm.
OF_WRITING = tuple(f"sampling.{k}" for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "beams"))


def deciding(*what: Decides) -> tuple[str, ...]:
    """Keys that decide one of these."""
    return tuple(key for key, flags in FLAGS.items() if flags["decides"] in what)


HARMLESS = deciding("text", "files", "nothing")  # no part of what a chain is, or part of it by the digest of its text
FORK_MAY_CHANGE = tuple(key for key, flags in FLAGS.items() if flags["fork"])


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
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, DEFAULTS.get(key)), new.get(key, DEFAULTS.get(key))
        if key == "generations" and (key not in old or key not in new):
            continue  # it counts on one side alone: by its schedule, which is named
        if key == "mixing.values" and isinstance(before, list) and list(after or [])[: len(before)] == before:
            continue
        if before != after:
            changed[key] = (before, after)
    return changed


def shared_digests(mine: dict[str, Any], corpus: str) -> dict[str, str]:
    """Digests of what generation 0 gives (set, model, text, scores): chains of one seed share what has equal ones.

    Args:
        mine: the identity of a chain, as it is recorded. corpus: its digest.
    """

    def subset(*what: Decides) -> dict[str, Any]:
        keys = [key for key in deciding(*what) if key in mine and key != "seed"]  # seeds have folders of their own
        return {key: mine[key] for key in keys if FLAGS[key]["since"] is None or mine[key] != DEFAULTS[key]}

    of_model = subset("set", "model") | {"text": corpus}
    if mine["model.start"] != "scratch" or mine["model.pretrained"] is None:
        of_model["model.start"] = "base"  # generation 0 has no weights before it
    of_text = of_model | subset("samples")
    of_scores = of_text | subset("scores")
    model, text, scores = (digest(part)[:32] for part in (of_model, of_text, of_scores))
    return {"set": model, "model": model, "text": text, "scores": scores}

"""Identity of a chain: the keys that decide its text and its numbers."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig, as_dict, digest
from collapselab.config.settings import Decides, flags_of
from collapselab.config.values import flatten

FLAGS = flags_of(RunConfig)
DEFAULTS: dict[str, Any] = {"plugins": []} | flatten(as_dict(RunConfig()))
# Sampling rule, keys in the order of messages: laws read it, and a control may differ from its arm in it.
SAMPLING_RULE = tuple(
    f"sampling.{k}" for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "beams")
)


def deciding(*what: Decides) -> tuple[str, ...]:
    return tuple(key for key, flags in FLAGS.items() if flags["decides"] in what)


HARMLESS = deciding("text", "files", "nothing")  # not part of a chain's identity, unless by the digest of its text
FORK_MAY_CHANGE = tuple(key for key, flags in FLAGS.items() if flags["fork"])


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the keys that identify a chain, flat: later keys (`since`) only at another value than their default, so that
    older chains keep the identity they have; `generations` only if the schedule uses it."""
    flat = {key: value for key, value in flatten(as_dict(config)).items() if key not in HARMLESS}
    flat = {key: value for key, value in flat.items() if FLAGS[key]["since"] is None or value != DEFAULTS[key]}
    if config.mixing.uses_horizon:
        flat["generations"] = config.generations
    return flat


def drift(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two identities differ, with both values; a list of shares may grow at its end. A key that one
    of them lacks has its present default."""
    changed = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, DEFAULTS.get(key)), new.get(key, DEFAULTS.get(key))
        if key == "generations" and (key not in old or key not in new):
            continue  # one side alone has it, for its schedule, which differs too
        if key == "mixing.values" and isinstance(before, list) and list(after or [])[: len(before)] == before:
            continue
        if before != after:
            changed[key] = (before, after)
    return changed


def shared_digests(mine: dict[str, Any], corpus: str) -> dict[str, str]:
    """Digests of generation 0's results (set, model, text, scores), which chains of one seed share if they are equal.

    Args:
        mine: the recorded identity of a chain. corpus: the digest of its corpus.
    """

    def subset(*what: Decides) -> dict[str, Any]:
        keys = [key for key in deciding(*what) if key in mine and key != "seed"]  # each seed has its own folder
        return {key: mine[key] for key in keys if FLAGS[key]["since"] is None or mine[key] != DEFAULTS[key]}

    of_model = subset("set", "model") | {"text": corpus}
    if mine["model.start"] != "scratch" or mine["model.pretrained"] is None:
        of_model["model.start"] = "base"  # generation 0 has no previous weights
    of_text = of_model | subset("samples")
    of_scores = of_text | subset("judged", "scores")
    model, text, scores = (digest(part)[:32] for part in (of_model, of_text, of_scores))
    return {"set": model, "model": model, "text": text, "scores": scores}

"""A chain's and an experiment's own files, which no manifest covers: compared with how they were written at every start.

What a chain is stands in its identity alone, sealed and twice; `shared.json` and `fork.json` repeat parts of it for
readers. Each file that is not as it was written is named in a line and written again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from collapselab.config import RunConfig, as_dict
from collapselab.store.checks import number, reading, whole
from collapselab.store.folders import manifest_of, sha256_of, write_json, write_text
from collapselab.store.layout import Chain, batch_of, keep_batch
from collapselab.store.seals import (
    COPY,
    IDENTITY,
    Recorded,
    json_text,
    parsed,
    plain_bytes,
    sealed,
    sealed_text,
    text_holds,
    unsealed,
)
from collapselab.store.yaml_files import dump_yaml

# What the last bits of a number depend on; `cuda`, the name of a card, only where it computes.
COMPARED = ("torch", "device", "precision", "processes", "threads", "machine", "cpus", "cuda")


def keep(
    chain: Chain, known: Recorded | None, facts: dict[str, Any], config: RunConfig, environment: dict[str, Any]
) -> list[str]:
    """Writes the chain's own files, identity last: while it is missing the chain has not begun.

    Args:
        known: what was recorded before; None for a new chain. facts: what the chain is now.
        environment: how this process computes, the corpus's facts and the note on a pretrained start.

    Returns what is to be said: files that were damaged or gone, and what differs from the machine of before.
    """
    for left in chain.root.glob(".*.[0-9]*.tmp"):  # of a process that was killed while it wrote
        left.unlink()
    wrong = known.wrong if known is not None else {}
    said = [f"{chain.root / name}: {how}; written again from the other copy" for name, how in wrong.items()]
    has_begun = known is not None
    for name in ("shared", "fork"):
        said += _derived(chain.root / f"{name}.json", facts.get(name), has_begun)
    said += _batch(chain, facts)
    path = chain.root / "config.yaml"
    before = plain_bytes(path)
    if has_begun and not text_holds(before):
        said.append(
            f"{path}: {'gone' if before is None else 'damaged, or edited'}; written again from the settings given"
        )
    _renew(path, before, sealed_text(dump_yaml(as_dict(config))))
    said += _environment(chain, environment, has_begun)
    if known is None or wrong or known.facts != facts:
        for name in (IDENTITY, COPY):
            write_json(chain.root / name, sealed(facts))
    return said


def _renew(path: Path, before: bytes | None, text: str) -> None:
    if before != text.encode():
        write_text(path, text)


def _derived(path: Path, wanted: dict[str, Any] | None, has_begun: bool) -> list[str]:
    """Writes a file that repeats a part of the identity, or removes it where there is nothing to repeat."""
    data = plain_bytes(path)
    if data == (None if wanted is None else json_text(wanted).encode()):
        return []
    if wanted is None:
        path.unlink()
        return [f"{path}: not of this chain; removed"]
    write_json(path, wanted)
    return [f"{path}: {'gone' if data is None else 'damaged'}; written again from {IDENTITY}"] if has_begun else []


def _batch(chain: Chain, facts: dict[str, Any]) -> list[str]:
    """Remakes batch.json where it is damaged or gone, from the last text that the chain wrote by it."""
    path = chain.batch_file
    if batch_of(path) is not None:
        return []
    data, used = plain_bytes(path), used_batch(chain, facts)
    if data is None and used is None:  # nothing was chosen yet
        return []
    if used is not None:
        keep_batch(path, used)
        how = "gone" if data is None else "damaged"
        return [f"{path}: {how}; written again: batches of {used} sequences, as in the samples that are there"]
    path.unlink()
    return [f"{path}: damaged; a batch size is chosen anew"]


def used_batch(chain: Chain, facts: dict[str, Any]) -> int | None:
    """Sequences side by side in the last published samples; a fork's were its own, or those that it inherited."""
    fork = facts.get("fork")
    first = fork["at"] + 1 if fork else 0
    for g in range(len(chain.finished()), first - 1, -1):  # from samples that are not scored yet
        folder = chain.stage(g, "samples")
        manifest = manifest_of(folder, check="nothing")
        with suppress(OSError, KeyError, TypeError, ValueError):
            if manifest is not None and sha256_of(folder / "meta.json") == manifest["files"]["meta.json"]["sha256"]:
                return int(parsed(plain_bytes(folder / "meta.json"))["batch_size"])
    return fork.get("batch") if fork else None


def _environment(chain: Chain, now: dict[str, Any], has_begun: bool) -> list[str]:
    """Writes environment.json; says what differs from the last start, and keeps what that was in `earlier`."""
    path = chain.root / "environment.json"
    data = plain_bytes(path)
    before = unsealed(data)
    if before is None:
        write_json(path, sealed(now))
        lost = f"{path}: {'gone' if data is None else 'damaged'}; written anew, without the machines of earlier starts"
        return [lost] if has_begun else []
    earlier = found if isinstance(found := before.get("earlier"), list) else []
    changed = [
        f"{key} was {before[key]}, is {now[key]}"
        for key in COMPARED
        if key in before and before[key] != now[key] and (key != "cuda" or now["device"] == "cuda")
    ]
    if changed:
        facts = {key: value for key, value in before.items() if key not in ("earlier", "corpus", "note")}
        earlier = [*earlier, facts | {"generations": chain.finished()}]
    _renew(path, data, json_text(sealed(now | ({"earlier": earlier} if earlier else {}))))
    ends = "what is made from here on may differ in the last bits from an uninterrupted run"
    return [f"note: {', '.join(changed)}: {ends}"] if changed else []


# --- an experiment ----------------------------------------------------------------------------------------------------


def keep_asked(root: Path, tree: dict[str, Any]) -> list[str]:
    """Writes experiment.yaml, and timing.json where there is none; returns what is to be said of damaged ones."""
    asked, timing = root / "experiment.yaml", root / "timing.json"
    before, calls = plain_bytes(asked), _calls(timing)
    said = []
    if before is None and calls is not None:
        said.append(f"{asked}: gone; written again from the settings given")
    if before is not None and not text_holds(before):
        said.append(f"{asked}: damaged, or edited; written again from the settings given")
    if calls is None:  # written before the other, so that it is missed where it is gone
        if timing.exists() or before is not None:
            said.append(f"{timing}: {'damaged' if timing.exists() else 'gone'}; begun anew")
        write_json(timing, sealed({"calls": []}))
    write_text(asked, sealed_text(dump_yaml(tree)))
    return said


def keep_call(root: Path, call: dict[str, Any]) -> None:
    """Adds a line to timing.json."""
    path = root / "timing.json"
    write_json(path, sealed({"calls": [*(_calls(path) or []), call]}))


def call_seconds(root: Path) -> float:
    """Seconds of all calls of an experiment that made something; 0 where timing.json does not say."""
    path = root / "timing.json"
    with reading(path):
        return sum(number(call["seconds"]) for call in _calls(path) or [] if whole(call["stages"]))


def _calls(path: Path) -> list[Any] | None:
    """What timing.json holds; None where it is damaged or not there."""
    calls = (unsealed(plain_bytes(path)) or {}).get("calls")
    return calls if isinstance(calls, list) else None

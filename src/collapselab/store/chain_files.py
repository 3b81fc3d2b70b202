"""Files of a chain and an experiment that no manifest covers: checked at every start, and repaired with a log line.

Only the identity, sealed and kept twice, defines a chain; `shared.json` and `fork.json` repeat parts of it for readers.
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

# Facts that the last bits of a number depend on; `cuda`, the name of a GPU, only if it is used.
COMPARED = ("torch", "device", "precision", "processes", "threads", "machine", "cpus", "cuda")


def keep(
    chain: Chain, record: Recorded | None, facts: dict[str, Any], config: RunConfig, environment: dict[str, Any]
) -> list[str]:
    """Write the chain's own files, identity.json last: a chain exists only once it does.

    Args:
        record: identity recorded before; None for a new chain. facts: identity now.
        environment: how this process computes, the corpus's facts and the note on a pretrained start.

    Returns log messages about repaired files and a changed environment.
    """
    for temporary in chain.root.glob(".*.[0-9]*.tmp"):  # of a process killed while writing
        temporary.unlink()
    wrong = record.wrong if record is not None else {}
    messages = [f"{chain.root / name}: {how}; restored from the other copy" for name, how in wrong.items()]
    has_begun = record is not None
    for name in ("shared", "fork"):
        messages += _derived(chain.root / f"{name}.json", facts.get(name), has_begun)
    messages += _batch(chain, facts)
    path = chain.root / "config.yaml"
    before = plain_bytes(path)
    if has_begun and not text_holds(before):
        messages.append(
            f"{path}: {'missing' if before is None else 'damaged or edited'}; rewritten from the given settings"
        )
    _renew(path, before, sealed_text(dump_yaml(as_dict(config))))
    messages += _environment(chain, environment, has_begun)
    if record is None or wrong or record.facts != facts:
        for name in (IDENTITY, COPY):
            write_json(chain.root / name, sealed(facts))
    return messages


def _renew(path: Path, before: bytes | None, text: str) -> None:
    if before != text.encode():
        write_text(path, text)


def _derived(path: Path, part: dict[str, Any] | None, has_begun: bool) -> list[str]:
    """Write a file that repeats a part of the identity, or remove it if there is no such part."""
    data = plain_bytes(path)
    if data == (None if part is None else json_text(part).encode()):
        return []
    if part is None:
        path.unlink()
        return [f"{path}: not of this chain; removed"]
    write_json(path, part)
    return [f"{path}: {'missing' if data is None else 'damaged'}; restored from {IDENTITY}"] if has_begun else []


def _batch(chain: Chain, facts: dict[str, Any]) -> list[str]:
    """Restore a damaged or missing batch.json from the chain's last samples."""
    path = chain.batch_file
    if batch_of(path) is not None:
        return []
    data, used = plain_bytes(path), used_batch(chain, facts)
    if data is None and used is None:  # nothing was chosen yet
        return []
    if used is not None:
        keep_batch(path, used)
        how = "missing" if data is None else "damaged"
        return [f"{path}: {how}; restored: batches of {used} sequences, as in the existing samples"]
    path.unlink()
    return [f"{path}: damaged; a new batch size is chosen"]


def used_batch(chain: Chain, facts: dict[str, Any]) -> int | None:
    """Batch size of the last published samples, or the one that a fork inherited; None if there is neither."""
    fork = facts.get("fork")
    first = fork["at"] + 1 if fork else 0
    for g in range(len(chain.finished()), first - 1, -1):  # samples may not be scored yet
        folder = chain.stage(g, "samples")
        manifest = manifest_of(folder, check="nothing")
        with suppress(OSError, KeyError, TypeError, ValueError):
            if manifest is not None and sha256_of(folder / "meta.json") == manifest["files"]["meta.json"]["sha256"]:
                return int(parsed(plain_bytes(folder / "meta.json"))["batch_size"])
    return fork.get("batch") if fork else None


def _environment(chain: Chain, now: dict[str, Any], has_begun: bool) -> list[str]:
    """Write environment.json; report changes since the last start, and keep earlier environments in `earlier`."""
    path = chain.root / "environment.json"
    data = plain_bytes(path)
    before = unsealed(data)
    if before is None:
        write_json(path, sealed(now))
        lost = f"{path}: {'missing' if data is None else 'damaged'}; rewritten without the machines of earlier starts"
        return [lost] if has_begun else []
    earlier = before["earlier"] if isinstance(before.get("earlier"), list) else []
    changed = [
        f"{key} was {before[key]}, is {now[key]}"
        for key in COMPARED
        if key in before and before[key] != now[key] and (key != "cuda" or now["device"] == "cuda")
    ]
    if changed:
        facts = {key: value for key, value in before.items() if key not in ("earlier", "corpus", "note")}
        earlier = [*earlier, facts | {"generations": chain.finished()}]
    _renew(path, data, json_text(sealed(now | ({"earlier": earlier} if earlier else {}))))
    effect = "results from here on may differ in the last bits from an uninterrupted run"
    return [f"note: {', '.join(changed)}: {effect}"] if changed else []


# --- an experiment ----------------------------------------------------------------------------------------------------


def keep_experiment(root: Path, tree: dict[str, Any]) -> list[str]:
    """Write experiment.yaml, and timing.json if it is missing; return log messages about damaged ones."""
    settings, timing = root / "experiment.yaml", root / "timing.json"
    before, calls = plain_bytes(settings), _calls(timing)
    messages = []
    if before is None and calls is not None:
        messages.append(f"{settings}: missing; rewritten from the given settings")
    if before is not None and not text_holds(before):
        messages.append(f"{settings}: damaged or edited; rewritten from the given settings")
    if calls is None:  # written first, so that its loss is noticed
        if timing.exists() or before is not None:
            messages.append(f"{timing}: {'damaged' if timing.exists() else 'missing'}; started again")
        write_json(timing, sealed({"calls": []}))
    write_text(settings, sealed_text(dump_yaml(tree)))
    return messages


def keep_call(root: Path, call: dict[str, Any]) -> None:
    """Append a call to timing.json."""
    path = root / "timing.json"
    write_json(path, sealed({"calls": [*(_calls(path) or []), call]}))


def call_seconds(root: Path) -> float:
    """Seconds of all calls of an experiment that made a stage; 0 without a valid timing.json."""
    path = root / "timing.json"
    with reading(path):
        return sum(number(call["seconds"]) for call in _calls(path) or [] if whole(call["stages"]))


def _calls(path: Path) -> list[Any] | None:
    """Read the calls in timing.json; None if it is damaged or missing."""
    calls = (unsealed(plain_bytes(path)) or {}).get("calls")
    return calls if isinstance(calls, list) else None

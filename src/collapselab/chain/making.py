"""Making stages that are missing, damaged or out of date; retraining pruned weights that a stage needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from collapselab.chain.session import Session
from collapselab.chain.stages import STAGES, Ref, Stage
from collapselab.config import UserError
from collapselab.store import folders
from collapselab.store.layout import Chain, parent_of
from collapselab.store.lock import check_held
from collapselab.store.unfinished import Unfinished


def inputs_of(s: Session, g: int, name: str) -> dict[str, str]:
    """Digests of the inputs of a stage."""
    reads = STAGES[name].reads(s, g)
    return {key: r if isinstance(r, str) else s.chain.digest_of(r.generation, r.stage) for key, r in reads.items()}


def make(s: Session, g: int, name: str) -> bool:
    """Make and publish a stage unless an up-to-date one exists; return True if it was made."""
    s.processes.check_stop_signal()
    place, inputs = s.place(g, name), inputs_of(s, g, name)
    manifest, flaw = folders.examine(place) if s.processes.is_main else (None, "")
    if s.processes.broadcast(manifest is not None and manifest["inputs"] == inputs):
        if s.processes.is_main:  # a killed process may have left parts
            Unfinished(place, inputs).clear()
        return False
    if not manifest and not flaw and _was_made(s, g, name):
        flaw = "is missing"
    with s.processes.main_first():
        check_held()
        inherited = s.processes.is_main and _restored_from_parent(s, g, name, inputs, flaw)
    if s.processes.broadcast(inherited):
        return True
    if manifest or flaw:
        s.console.say(f"{place}: {flaw or 'its inputs have changed'}; rebuilt")
    _restore_weights(s, g, name)
    _publish(s, g, STAGES[name], place, inputs)
    s.console.record(f"{place} published")
    return True


def _publish(s: Session, g: int, stage: Stage, place: Path, inputs: dict[str, str]) -> None:
    """Run a stage on all processes; process 0 publishes the result."""
    unfinished = Unfinished(place, inputs)
    if s.processes.is_main:
        with folders.publishing(place, inputs=inputs) as out:
            stage.make(s, g, out, unfinished)
            check_held()
        unfinished.clear()
    else:
        stage.make(s, g, Path(os.devnull), unfinished)
    s.processes.barrier()


def _was_made(s: Session, g: int, name: str) -> bool:
    """Return True if a missing stage was once published: a later one still exists."""
    names = s.chain.stages(g)
    later = [s.chain.stage(g, other) for other in names[names.index(name) + 1 :]]
    return s.scores is None and any(place.exists() for place in [*later, s.chain.generation(g + 1)])


def _restored_from_parent(s: Session, g: int, name: str, inputs: dict[str, str], flaw: str) -> bool:
    """Restore a damaged stage that a fork inherited from its parent (the fork's own settings would make a different one);
    return True if restored. Raises UserError if the parent no longer has it."""
    origin = s.chain.root / "fork.json"
    if not flaw or s.scores or not origin.is_file() or g > (fork := folders.read_json(origin))["at"]:
        return False
    place, source = s.place(g, name), Chain(parent_of(s.chain.root, fork)).stage(g, name)
    manifest = folders.manifest_of(source)
    if manifest is None or manifest["inputs"] != inputs:
        raise UserError(
            f"{place}: {flaw}; the fork inherited it: restore the original content of {source}, or fork again"
        )
    s.console.say(f"{place}: {flaw}; restored from {source}")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place, symlinks=True)
    return True


# --- pruned weights -------------------------------------------------------------------------------------------------------


def prune(s: Session, generation: int) -> None:
    """Remove weights of the generations between 0 and a finished one, as `retain` says."""
    if not s.processes.is_main or s.config.retain == "all":
        return
    if generation == s.config.generations > 0 and s.config.retain == "ends":
        folders.amend(s.chain.stage(generation, "train"), end=True)
    for g in range(1, generation):
        place = s.chain.stage(g, "train")
        manifest = folders.manifest_of(place, check="nothing") or {"files": {}}
        keeps = s.config.retain == "ends" and manifest.get("end")
        weights = [name for name in manifest["files"] if name.endswith(".safetensors")]
        if not keeps and any((place / name).exists() for name in weights):
            folders.prune(place, weights)
            s.console.record(f"{place}: weights pruned (retain={s.config.retain})")


def _restore_weights(s: Session, g: int, name: str) -> None:
    """Retrain pruned weights that a stage reads, bit-identically.

    Raises UserError if the result differs, as it may on a GPU without deterministic=true."""
    read = [r.generation for r in STAGES[name].reads(s, g).values() if isinstance(r, Ref) and r.stage == "train"]
    at = max(read, default=0)
    place = s.chain.stage(at, "train")
    manifest = folders.manifest_of(place, check="nothing") if at > 0 else None
    if manifest is None or not manifest.get("pruned"):
        return
    s.console.say(f"{place}: its weights were pruned and are needed; retraining them")
    _restore_weights(s, at, "train")
    again = place.with_name("train.again")
    _publish(s, at, STAGES["train"], again, inputs_of(s, at, "train"))
    prune(s, at)  # weights that were needed only for this retraining
    with s.processes.main_first():
        if s.processes.is_main:
            _put_back(again, place, manifest)


def _put_back(again: Path, place: Path, manifest: dict[str, Any]) -> None:
    """Move retrained weights to the stage that they were pruned from."""
    files = folders.read_json(again / "manifest.json")["files"]
    if any(files.get(file) != manifest["files"][file] for file in manifest["pruned"]):
        shutil.rmtree(again)
        raise UserError(
            f"{place}: its weights were pruned, and training does not give the same ones again here; "
            f"remove {place.parent} and all later generations to rebuild them, or fork"
        )
    for file in manifest["pruned"]:
        (again / file).replace(place / file)
    folders.amend(place, pruned=[])
    shutil.rmtree(again)

"""Opening a chain: its corpus, its lock, the check of its identity, and what a fork inherits."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from collapselab.chain.preflight import Preflight
from collapselab.config import RunConfig, UserError, digest
from collapselab.config.families import FAMILIES
from collapselab.config.identity import FORK_MAY_CHANGE, drift, identity, shared_digests
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.models import network
from collapselab.runtime.console import PROGRESS, Console
from collapselab.runtime.errors import FULL, of_disk
from collapselab.runtime.parallel import Processes, environment
from collapselab.store import layout
from collapselab.store.chain_files import keep, used_batch
from collapselab.store.checks import refuse_links
from collapselab.store.layout import Chain
from collapselab.store.lock import Lock, try_lock, wait_for_lock
from collapselab.store.seals import Recorded, recorded

BATCH_DEPENDS_ON = ("device", "deterministic", "sampling.precision", "sampling.beams", "sampling.batch_size")
# Order of the changed keys of a fork in identity.json, by prefix: the last prefix that fits counts.
ORDER = (
    *("mixing.", "mixing.replaced", "mixing.added", "sampling.", "sampling.prompt_from", "sampling.beams"),
    *("sampling.batch_size", "sampling.precision", "training.", "model.", "model.dropout"),
    *("device", "deterministic", "generations", "plugins"),
)
LISTED = sorted(FORK_MAY_CHANGE, key=lambda key: [key.startswith(head) for head in reversed(ORDER)])


def chain_path(config: RunConfig) -> Path:
    return layout.settled(Path(config.runs_dir) / config.name) / f"arm={config.arm}" / f"seed={config.seed}"


def open_corpus(config: RunConfig, processes: Processes) -> Corpus:
    """Tokenised corpus of a chain; process 0 makes it if it is not in the cache."""
    pretrained = config.model.pretrained
    own = pretrained is not None and config.corpus.tokenizer in (None, "model")
    with processes.main_first():
        return prepare(
            config.corpus,
            data_dir=config.data_dir,
            model_tokenizer=network.pretrained_tokenizer(pretrained) if own and pretrained else None,
            block=max(config.training.block, config.evaluation.context or 2),
        )


@contextmanager
def opening_chain(checked: Preflight, processes: Processes, shares_generation_0: bool = False) -> Iterator[Console]:
    """Create a chain, or check that an existing one is the same, and hold its lock. Other processes wait for process 0.

    Args:
        shares_generation_0: a new chain takes generation 0 from the run's shared folders.
    """
    chain, config = checked.chain, checked.config
    root = layout.run_root(chain.root)
    if not processes.is_main:
        failed = processes.broadcast(None)
        if failed is not None:
            raise failed
        chain.use_shared(processes.broadcast({}))
        yield Console(speaks=False)
        return
    ours = False  # this call made the folder and holds it, so it may remove it again
    error: UserError | None = None
    messages: list[str] = []
    with ExitStack() as hold:
        try:
            is_new = not chain.root.exists()
            chain.root.mkdir(parents=True, exist_ok=True)
            refuse_links(chain.root, root)
            lock = try_lock(chain.root / "lock")
            hold.callback(lock.release)
            ours = is_new
            messages = [lock.line] if lock.line else []
            messages += _check_identity(checked, processes, shares_generation_0)
            with (root / "events.log").open("a"):
                pass
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = _opening_error(caught, chain, config)
        processes.broadcast(error)
        if error is not None:
            if ours:  # a refused run leaves no trace
                shutil.rmtree(chain.root, ignore_errors=True)
                for folder in (chain.root.parent, root):
                    with suppress(OSError):
                        folder.rmdir()
            raise error
        processes.broadcast({name: place.parent.name for name, place in chain.shared.items()})
        console = Console(bars=config.progress, log=root / "events.log", progress=chain.root / PROGRESS)
        done = chain.finished()
        at = f"resumes after generation {done[-1]}" if done else "starts"
        messages.append(f"{chain.root}: {at}; to generation {config.generations}; log in {root / 'events.log'}")
        for line in [*messages, *_notes(checked, processes)]:
            console.say(line)
        yield console


def _opening_error(error: OSError, chain: Chain, config: RunConfig) -> UserError:
    """One-line error for what the system refused when a chain was opened."""
    if error.errno in FULL:
        return UserError(of_disk(chain.root, error))
    where = error.filename2 or error.filename or chain.root
    return UserError(
        f"{where}: cannot be read or written ({error.strerror or error}); fix that, or choose "
        f"another folder than runs_dir={config.runs_dir!r}"
    )


def _notes(checked: Preflight, processes: Processes) -> list[str]:
    """List notes on the processes and the pretrained model, logged at every start."""
    alone = (
        "note: accelerate started one process (--cpu starts more only with an MPI host file); "
        "for two on this CPU: accelerate launch --multi_gpu --num_processes 2 ..."
    )
    notes = [alone if processes.alone_by_mistake else "", processes.unused_gpu or "", checked.note]
    return [note for note in notes if note]


@contextmanager
def lock_chain(chain: Chain, processes: Processes) -> Iterator[None]:
    """Hold the lock of an existing chain, as a run does. Raises UserError if another process has it."""
    lock: Lock | None = None
    error: UserError | None = None
    if processes.is_main:
        try:
            lock = try_lock(chain.root / "lock")
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = UserError(f"{chain.root}: cannot be written ({caught.strerror}); score a copy of the run")
    error = processes.broadcast(error)
    try:
        if error is not None:
            raise error
        if lock is not None and lock.line:
            Console().say(lock.line)
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def lock_shared(chain: Chain, processes: Processes, console: Console) -> Iterator[None]:
    """Wait for and hold the locks of a chain's shared folders, so that one chain at a time makes generation 0."""
    with ExitStack() as locks:
        for folder in sorted(set(chain.shared.values())) if processes.is_main else []:
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(wait_for_lock(folder / "lock", lambda line: console.say(f"{chain.root}: {line}")))
        yield


def check_start(checked: Preflight, processes: Processes) -> tuple[Recorded | None, dict[str, Any]]:
    """Refuse settings or a fork with which the chain cannot begin or resume; write nothing. Return the record of a chain that
    exists, and the identity that the settings ask for."""
    chain, config, corpus, fork = checked.chain, checked.config, checked.corpus, checked.fork
    # What "auto" means on this machine is part of the identity: a GPU does not resume what a CPU began.
    mine = identity(config) | {"device": processes.device.type, "training.precision": processes.precision}
    record = recorded(chain.root)
    if record is not None:
        changed = drift(record.facts["config"], mine)
        if changed and not (changed.keys() == {"plugins"} and _unused_plugins(chain, config, record)):
            raise UserError(
                f"{chain.root}: the chain has another configuration ({_listed(changed)}); use another name, or --fork"
            )
        if record.facts["corpus"] != corpus.digest:
            raise UserError(
                f"{chain.root}: the text or tokenizer of {config.corpus.source} changed since the start; use another name"
            )
        if max(chain.finished(), default=0) > config.generations:
            last = max(chain.finished())
            raise UserError(f"generations={config.generations}: the chain has reached {last}; ask for {last} or more")
        if fork is not None and record.facts.get("fork", {}).get("at") != fork[1]:
            raise UserError(f"--at {fork[1]}: {chain.root} exists and was not forked there; give the fork another name")
    elif _has_work(chain, fork[1] if fork else -1):
        raise UserError(f"{chain.root}: has generations but no identity.json; restore it or use another name")
    elif fork is not None:
        if fork[1] > config.generations:
            raise UserError(f"--at {fork[1]}: the fork ends at generations={config.generations}; raise it")
        _check_fork(mine, corpus, *fork)
    return record, mine


def _check_identity(checked: Preflight, processes: Processes, shares_generation_0: bool) -> list[str]:
    """Begin a chain, or check that it is the same one; write its own files and return log messages about them."""
    chain, config, corpus, fork = checked.chain, checked.config, checked.corpus, checked.fork
    record, mine = check_start(checked, processes)
    facts: dict[str, Any] = {"config": mine, "corpus": corpus.digest}
    if record is not None:
        facts = record.facts | {"config": mine}
        chain.use_shared(facts.get("shared", {}))
    elif fork is not None:
        facts["fork"] = _copy_fork(chain, mine, corpus, *fork)
    elif shares_generation_0 or chain.shared:  # an interrupted start may have left a shared.json of other settings
        digests = shared_digests(mine, corpus.digest)
        facts["shared"] = {name: digests[gives] for name, gives in layout.GIVES.items() if gives in digests}
        chain.use_shared(facts["shared"])
    now = environment() | {"machine": platform.machine()} | processes.facts
    now |= {"corpus": corpus.facts, "note": checked.note}
    return keep(chain, record, facts, config, now)


def _unused_plugins(chain: Chain, config: RunConfig, record: Recorded) -> bool:
    """Return True if no plugin has decided anything of a chain yet: it has generation 0's samples at most, of a family of the
    package, and shares nothing. Then a plugin may still be mended."""
    of_package = config.model.pretrained is not None or config.model.family in FAMILIES.own
    decided = [chain.generation(1), *(chain.stage(0, name) for name in ("judged", "eval", "reference"))]
    return of_package and not record.facts.get("shared") and not any(folder.exists() for folder in decided)


def _has_work(chain: Chain, copied: int) -> bool:
    """Return True if a folder without an identity has more than an interrupted fork leaves (generations 0 to `copied`)."""
    own = {chain.generation(g) for g in range(copied + 1)}
    return (chain.root / "metrics.jsonl").exists() or bool(set(chain.root.glob("gen_*")) - own)


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {before!r}, is {after!r}" for key, (before, after) in changed.items())


def inherits_batch(parent: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Return True if a fork inherits the parent's sampling batch, so that compared arms sample alike: not if the batch was
    chosen for another device, precision or way of sampling, or the fork sets its own."""
    return all(parent.get(key) == mine.get(key) for key in BATCH_DEPENDS_ON)


def _check_fork(mine: dict[str, Any], corpus: Corpus, parent: Path, at: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parent's identity and the keys that differ from it. Raises UserError if the configuration `mine` cannot
    continue from its generation `at`."""
    record = recorded(parent)
    if record is None:
        raise UserError(f"--fork {parent}: has no identity.json; restore it, or fork another chain")
    changed = drift(record.facts["config"], mine)
    if fixed := {k: v for k, v in changed.items() if k not in FORK_MAY_CHANGE}:
        raise UserError(f"--fork {parent}: these keys must stay as they were: {_listed(fixed)}")
    if changed.get("sampling.source", ("",))[0] == "real":
        raise UserError(
            f"--fork {parent}: an all-real control, whose text would count as unused again; keep sampling.source=real, or "
            "fork the arm that it controls"
        )
    if record.facts["corpus"] != corpus.digest:
        raise UserError(f"--fork {parent}: it has another corpus; use the same text and tokenizer")
    source = Chain(parent)
    if source.judged != layout.is_judged(mine):
        raise UserError(
            f"--fork {parent}: its samples are {'' if source.judged else 'not '}judged, those of the fork must be too; keep "
            "sampling.source and judging.judges"
        )
    if at < 0 or at not in source.finished():
        raise UserError(f"--at {at}: {parent} has finished generations {source.finished()}; choose one of them")
    if mine["model.start"] == "previous":
        source.need_weights([at], f"--at {at}")
    return record.facts, changed


def _copy_fork(chain: Chain, mine: dict[str, Any], corpus: Corpus, parent: Path, at: int) -> dict[str, Any]:
    """Copy generations 0 .. at of the parent, if the new configuration can continue from them. Return the identity's record
    of the fork."""
    facts, changed = _check_fork(mine, corpus, parent, at)
    source = Chain(parent)
    copied = [(g, name) for g in range(at + 1) for name in source.stages(g)]
    for stage in copied:
        shutil.copytree(source.stage(*stage), chain.stage(*stage), dirs_exist_ok=True, symlinks=True)
    batch = None
    if inherits_batch(facts["config"], mine):
        batch = layout.batch_of(source.batch_file) or used_batch(source, facts)
    if batch is not None:
        layout.keep_batch(chain.batch_file, batch)
    before = facts.get("fork", {"changed": []})["changed"]  # of a parent that is a fork itself
    every = [key for key in LISTED if key in changed or key in before]
    fork = {"parent": digest(facts["config"]), "name": str(parent), "at": at, "batch": batch}
    # The relative path stays valid in other working directories, and if both chains are moved together.
    return fork | {"changed": every, "path": os.path.relpath(parent.resolve(), chain.root.resolve())}

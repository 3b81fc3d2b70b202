"""Opening a chain: its text, whether it is the same chain as before, what a fork takes along, and who holds it."""

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
from collapselab.config.identity import FORK_MAY_CHANGE, drift, identity, shared_digests
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.models import network
from collapselab.runtime.console import PROGRESS, Console
from collapselab.runtime.errors import FULL, of_disk
from collapselab.runtime.parallel import Processes, environment
from collapselab.store import layout
from collapselab.store.chain_files import keep, used_batch
from collapselab.store.checks import refuse_strange
from collapselab.store.layout import Chain
from collapselab.store.lock import Lock, take, waiting
from collapselab.store.seals import recorded

BATCH_DEPENDS_ON = ("device", "deterministic", "sampling.precision", "sampling.beams", "sampling.batch_size")
# The order in which identity.json lists what a fork changed, by how keys begin: of these that fit, the last counts.
ORDER = (
    *("mixing.", "mixing.replaced", "mixing.added", "sampling.", "sampling.prompt_from", "sampling.beams"),
    *("sampling.batch_size", "sampling.precision", "training.", "model.", "model.dropout"),
    *("device", "deterministic", "generations", "plugins"),
)
LISTED = sorted(FORK_MAY_CHANGE, key=lambda key: [key.startswith(head) for head in reversed(ORDER)])


def chain_path(config: RunConfig) -> Path:
    return layout.settled(Path(config.runs_dir) / config.name) / f"arm={config.arm}" / f"seed={config.seed}"


def open_corpus(config: RunConfig, processes: Processes) -> Corpus:
    """The tokenised corpus; made by process 0 where the cache does not hold it."""
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
def opened(checked: Preflight, processes: Processes, shares_generation_0: bool = False) -> Iterator[Console]:
    """Holds the chain's lock; creates it, or checks that it is the same chain. Other processes wait for process 0.

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
    ours = False  # whether this call made the folder and holds it, and so may remove it again
    error: UserError | None = None
    said: list[str] = []
    with ExitStack() as hold:
        try:
            is_new = not chain.root.exists()
            chain.root.mkdir(parents=True, exist_ok=True)
            refuse_strange(chain.root, root)
            lock = take(chain.root / "lock")
            hold.callback(lock.release)
            ours = is_new
            said = [lock.line] if lock.line else []
            said += _check_identity(checked, processes, shares_generation_0)
            with (root / "events.log").open("a"):
                pass
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = _of_system(caught, chain, config)
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
        at = f"continues after generation {done[-1]}" if done else "starts"
        said.append(f"{chain.root}: {at}; to generation {config.generations}; details in {root / 'events.log'}")
        for line in [*said, *_notes(checked, processes)]:
            console.say(line)
        yield console


def _of_system(error: OSError, chain: Chain, config: RunConfig) -> UserError:
    """What the system refused when a chain was opened, in one line."""
    if error.errno in FULL:
        return UserError(of_disk(chain.root, error))
    where = error.filename2 or error.filename or chain.root
    return UserError(
        f"{where}: cannot be read or written ({error.strerror or error}); mend it, or choose "
        f"another folder than runs_dir={config.runs_dir!r}"
    )


def _notes(checked: Preflight, processes: Processes) -> list[str]:
    """What a start notes of its processes and its base model."""
    alone = (
        "note: accelerate started one process (--cpu has no others without an MPI host file); "
        "for two on this CPU: accelerate launch --multi_gpu --num_processes 2 ..."
    )
    notes = [alone if processes.alone_by_mistake else "", processes.unused_gpu or "", checked.note]
    return [note for note in notes if note]


@contextmanager
def held(chain: Chain, processes: Processes) -> Iterator[None]:
    """Holds the lock of a chain that exists, as a run does. Raises UserError where another process has it."""
    lock: Lock | None = None
    error: UserError | None = None
    if processes.is_main:
        try:
            lock = take(chain.root / "lock")
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
def alone_in_shared(chain: Chain, processes: Processes, console: Console) -> Iterator[None]:
    """Holds the locks of the shared folders of this chain, so that one chain at a time makes generation 0; waits for
    them. The others find it made."""
    with ExitStack() as held:
        for folder in sorted(set(chain.shared.values())) if processes.is_main else []:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(waiting(folder / "lock", lambda line: console.say(f"{chain.root}: {line}")))
        yield


def _check_identity(checked: Preflight, processes: Processes, shares_generation_0: bool) -> list[str]:
    """Begins a chain, or finds that it is the same one, and writes its own files; returns what is to be said of them."""
    chain, config, corpus, fork = checked.chain, checked.config, checked.corpus, checked.fork
    # What "auto" means on this machine is part of what a chain is: a GPU does not go on from where a CPU stopped.
    mine = identity(config) | {"device": processes.device.type, "training.precision": processes.precision}
    facts: dict[str, Any] = {"config": mine, "corpus": corpus.digest}
    known = recorded(chain.root)
    if known is not None:
        facts = known.facts | {"config": mine}
        changed = drift(known.facts["config"], mine)
        if changed:
            raise UserError(
                f"{chain.root}: another configuration began this chain ({_listed(changed)}); use another name, or --fork"
            )
        if known.facts["corpus"] != corpus.digest:
            raise UserError(
                f"{chain.root}: the text or tokenizer of {config.corpus.source} changed since the start; use another name"
            )
        if max(chain.finished(), default=0) > config.generations:
            last = max(chain.finished())
            raise UserError(f"generations={config.generations}: the chain has reached {last}; ask for {last} or more")
        if fork is not None and facts.get("fork", {}).get("at") != fork[1]:
            raise UserError(f"--at {fork[1]}: {chain.root} exists and was not forked there; give the fork another name")
        chain.use_shared(facts.get("shared", {}))
    elif _has_work(chain, fork[1] if fork else -1):
        raise UserError(f"{chain.root}: has generations but no identity.json; restore it or use another name")
    elif fork is not None:
        if fork[1] > config.generations:
            raise UserError(f"--at {fork[1]}: the fork ends at generations={config.generations}; raise it")
        facts["fork"] = _copy_fork(chain, mine, corpus, *fork)
    elif (
        shares_generation_0 or chain.shared
    ):  # a start that was stopped early may have left a shared.json of other settings
        digests = shared_digests(mine, corpus.digest)
        facts["shared"] = {name: digests[gives] for name, gives in layout.GIVES.items()}
        chain.use_shared(facts["shared"])
    now = environment() | {"machine": platform.machine()} | processes.facts
    now |= {"corpus": corpus.facts, "note": checked.note}
    return keep(chain, known, facts, config, now)


def _has_work(chain: Chain, copied: int) -> bool:
    """Whether a folder without an identity has more than what a fork that was stopped early leaves: generations 0 to
    `copied`."""
    own = {chain.generation(g) for g in range(copied + 1)}
    return (chain.root / "metrics.jsonl").exists() or bool(set(chain.root.glob("gen_*")) - own)


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {before!r}, is {after!r}" for key, (before, after) in changed.items())


def inherits_batch(theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether a fork takes the recorded sampling batch along, so that arms that are compared write alike: not where it
    was chosen for another device, precision or way of sampling, or the fork sets its own."""
    return all(theirs.get(key) == mine.get(key) for key in BATCH_DEPENDS_ON)


def _copy_fork(chain: Chain, mine: dict[str, Any], corpus: Corpus, parent: Path, at: int) -> dict[str, Any]:
    """Copies generations 0 .. at of another chain, whole, and checks that the new configuration can go on from them.
    Returns what is recorded of the fork."""
    known = recorded(parent)
    if known is None:
        raise UserError(f"--fork {parent}: has no identity.json; restore it, or fork another chain")
    changed = drift(known.facts["config"], mine)
    if fixed := {k: v for k, v in changed.items() if k not in FORK_MAY_CHANGE}:
        raise UserError(f"--fork {parent}: these keys must stay as they were: {_listed(fixed)}")
    if changed.get("sampling.source", ("",))[0] == "real":
        raise UserError(
            f"--fork {parent}: an all-real control, whose text would count as unused again; keep sampling.source=real, or "
            "fork the arm that it controls"
        )
    if known.facts["corpus"] != corpus.digest:
        raise UserError(f"--fork {parent}: its corpus is not this one; use the same text and tokenizer")
    theirs = Chain(parent)
    if at < 0 or at not in theirs.finished():
        raise UserError(f"--at {at}: {parent} has finished generations {theirs.finished()}; choose one of them")
    if mine["model.start"] == "previous":
        theirs.need_weights([at], f"--at {at}")
    copied = [(g, name) for g in range(at + 1) for name in layout.STAGES] + [(0, name) for name in layout.ONCE]
    for place, here in [(theirs.stage(*stage), chain.stage(*stage)) for stage in copied]:
        shutil.copytree(place, here, dirs_exist_ok=True, symlinks=True)
    batch = None
    if inherits_batch(known.facts["config"], mine):
        batch = layout.batch_of(theirs.batch_file) or used_batch(theirs, known.facts)
    if batch is not None:
        layout.keep_batch(chain.batch_file, batch)
    before = known.facts.get("fork", {"changed": []})["changed"]  # of a parent that is a fork itself
    every = [key for key in LISTED if key in changed or key in before]
    made = {"parent": digest(known.facts["config"]), "name": str(parent), "at": at, "batch": batch}
    # Seen from the fork too: it holds in other working directories, and where both have moved.
    return made | {"changed": every, "path": os.path.relpath(parent.resolve(), chain.root.resolve())}

"""Opening a chain: its text, whether it is the same chain as before, what a fork takes along, and who holds it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from collapselab import modeling, rundir
from collapselab.config import RunConfig, UserError, as_dict, digest
from collapselab.console import Console
from collapselab.corpus import Corpus, prepare
from collapselab.identity import drift, identity, shared_digests
from collapselab.parallel import Processes, environment
from collapselab.rundir import Chain

# What a fork may change. Everything else decides what blocks, samples or numbers mean, and stays as it was.
FORK_MAY_CHANGE = (
    *(f"mixing.{k}" for k in ("regime", "schedule", "start", "ratio", "end", "power", "values", "floor", "real")),
    *(f"sampling.{k}" for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "prompt_from")),
    *(f"sampling.{k}" for k in ("beams", "batch_size", "precision")),
    *(f"training.{k}" for k in ("batch_size", "accumulation", "epochs", "tokens", "lr", "schedule", "min_lr_ratio")),
    *(f"training.{k}" for k in ("warmup_steps", "weight_decay", "beta1", "beta2", "eps", "clip", "loss_on_last")),
    *(f"training.{k}" for k in ("precision", "compile", "attention", "gradient_checkpointing")),
    *("model.start", "model.dropout", "device", "deterministic", "generations"),
)


class HeldError(UserError):
    """Another process runs, or scores, this chain."""

    def __init__(self, chain: Path, process: str):
        super().__init__(chain, process)
        self.chain, self.process = chain, process

    def __str__(self) -> str:
        return f"{self.chain}: process {self.process} is running this chain; wait for it or stop it"


def chain_path(config: RunConfig) -> Path:
    return Path(config.runs_dir) / config.name / f"arm={config.arm}" / f"seed={config.seed}"


def mixed_so_far(chain: Chain, fork: tuple[Path, int] | None) -> tuple[list[float], int]:
    """(real shares of the training sets that exist, real blocks used): of the chain, or of what a fork will copy."""
    source, last = chain, 10**9
    if not (chain.root / "identity.json").is_file() and fork is not None:
        source, last = Chain(fork[0]), fork[1]
    shares: list[float] = []
    used = 0
    while len(shares) <= last:
        facts = rundir.read_published(source.stage(len(shares), "mixture"), "mixture.json")
        if facts is None:
            break
        shares.append(facts["real_share"]["realised"])
        used = facts["real_blocks_used"]
    return shares, used


def open_corpus(config: RunConfig, processes: Processes) -> Corpus:
    """The tokenised corpus; made by process 0 where the cache does not hold it."""
    pretrained = config.model.pretrained
    own = pretrained is not None and config.corpus.tokenizer in (None, "model")
    with processes.main_first():
        return prepare(
            config.corpus,
            data_dir=config.data_dir,
            model_tokenizer=modeling.pretrained_tokenizer(pretrained) if own and pretrained else None,
            block=max(config.training.block, config.evaluation.context or 2),
        )


def check_lengths(config: RunConfig) -> None:
    """A pretrained model must be able to read what it is given. Raises UserError before anything is written."""
    if config.model.pretrained is None:
        return
    longest = modeling.longest_of(config.model.pretrained)
    context = config.evaluation.context or config.training.block
    asked = {
        "training.block": config.training.block,
        "sampling.length": config.sequence_length,
        "evaluation.context": context,
    }
    for key, value in asked.items():
        if longest is not None and value > longest:
            raise UserError(f"{key}={value}: {config.model.pretrained} reads at most {longest} tokens; lower it")


@contextmanager
def opened(
    chain: Chain,
    config: RunConfig,
    corpus: Corpus,
    processes: Processes,
    fork: tuple[Path, int] | None,
    share: bool = False,
) -> Iterator[Console]:
    """Holds the chain's lock; creates it, or checks that it is the same chain. Other processes wait for process 0.

    Args:
        share: a new chain takes generation 0 from the run's shared folders.
    """
    root = rundir.run_root(chain.root)
    if not processes.is_main:
        failed = processes.share(None)
        if failed is not None:
            raise failed
        chain.share(processes.share({}))
        yield Console(speaks=False)
        return
    lock = None
    ours = False  # whether this call made the folder and holds it, and so may remove it again
    error: UserError | None = None
    try:
        is_new = not chain.root.exists()
        chain.root.mkdir(parents=True, exist_ok=True)
        lock = (chain.root / "lock").open("a+")
        _take(lock, chain)
        ours = is_new
        _check_identity(chain, config, corpus, processes, fork, share)
    except UserError as caught:
        error = caught
    except OSError as caught:
        error = UserError(f"runs_dir={config.runs_dir!r}: cannot be written ({caught.strerror}); choose another folder")
    processes.share(error)
    if error is not None:
        if ours:  # a refused run leaves no trace
            shutil.rmtree(chain.root, ignore_errors=True)
            for folder in (chain.root.parent, root):
                with suppress(OSError):
                    folder.rmdir()
        if lock is not None:
            lock.close()
        raise error
    processes.share(_shared(chain))
    console = Console(bars=config.progress, log=root / "events.log")
    done = chain.finished()
    at = f"continues after generation {done[-1]}" if done else "starts"
    console.say(f"{chain.root}: {at}; to generation {config.generations}; details in {root / 'events.log'}")
    if processes.alone_by_mistake:
        console.say(
            "note: accelerate started one process (--cpu has no others without an MPI host file); "
            "for two on this CPU: accelerate launch --multi_gpu --num_processes 2 ..."
        )
    if pretrained_note(config, corpus):
        console.say(pretrained_note(config, corpus))
    try:
        yield console
    finally:
        if lock is not None:
            lock.close()


@contextmanager
def held(chain: Chain, processes: Processes) -> Iterator[None]:
    """Holds the lock of a chain that exists, as a run does. Raises UserError where another process has it."""
    lock = None
    error: UserError | None = None
    if processes.is_main:
        try:
            lock = (chain.root / "lock").open("a+")
            _take(lock, chain)
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = UserError(f"{chain.root}: cannot be written ({caught.strerror}); score a copy of the run")
    error = processes.share(error)
    try:
        if error is not None:
            raise error
        yield
    finally:
        if lock is not None:
            lock.close()


def _shared(chain: Chain) -> dict[str, str]:
    return rundir.read_json(chain.root / "shared.json") if chain.shared else {}


@contextmanager
def alone_in_shared(chain: Chain, processes: Processes, console: Console) -> Iterator[None]:
    """Holds the locks of the shared folders of this chain, so that one chain at a time makes generation 0; waits for
    them. The others find it made."""
    with ExitStack() as held:
        for folder in sorted(set(chain.shared.values())) if processes.is_main else []:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / "lock").open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.say(f"{chain.root}: waits for another chain of this seed, which makes generation 0")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _take(lock: Any, chain: Chain) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise HeldError(chain.root, lock.read().strip()) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _check_identity(
    chain: Chain,
    config: RunConfig,
    corpus: Corpus,
    processes: Processes,
    fork: tuple[Path, int] | None,
    share: bool,
) -> None:
    # What "auto" means on this machine is part of what a chain is: a GPU does not go on from where a CPU stopped.
    mine = identity(config) | {"device": processes.device.type, "training.precision": processes.precision}
    note = pretrained_note(config, corpus)
    saved = chain.root / "identity.json"
    if saved.is_file():
        known = rundir.read_json(saved)
        changed = drift(known["config"], mine)
        if changed:
            listed = "; ".join(f"{key} was {a!r}, is {b!r}" for key, (a, b) in changed.items())
            raise UserError(
                f"{chain.root}: another configuration began this chain ({listed}); use another name, or --fork"
            )
        if known["corpus"] != corpus.digest:
            raise UserError(
                f"{chain.root}: the text or tokenizer of {config.corpus.source} changed since the start; use another name"
            )
        if max(chain.finished(), default=0) > config.generations:
            last = max(chain.finished())
            raise UserError(f"generations={config.generations}: the chain has reached {last}; ask for {last} or more")
        if fork is not None and rundir.read_json(chain.root / "fork.json").get("at") != fork[1]:
            raise UserError(f"--at {fork[1]}: {chain.root} exists and was not forked there; give the fork another name")
    elif fork is not None:
        if fork[1] > config.generations:
            raise UserError(f"--at {fork[1]}: the fork ends at generations={config.generations}; raise it")
        _copy_fork(chain, mine, corpus, *fork)
    elif chain.generation(0).exists():
        raise UserError(f"{chain.root}: has generations but no identity.json; restore it or use another name")
    elif share:
        chain.share(shared_digests(mine, corpus.digest))
        rundir.write_json(chain.root / "shared.json", shared_digests(mine, corpus.digest))
    rundir.write_json(saved, {"config": mine, "corpus": corpus.digest})
    rundir.write_text(chain.root / "config.yaml", yaml.safe_dump(as_dict(config), sort_keys=False))
    rundir.write_json(
        chain.root / "environment.json", environment() | processes.facts | {"corpus": corpus.facts, "note": note}
    )


def inherited_batch(parent: Path, theirs: dict[str, Any], mine: dict[str, Any]) -> Path | None:
    """The recorded sampling batch that a fork takes along, so that arms that are compared write alike; None where it was
    chosen for another device, precision or way of sampling, or the fork sets its own."""
    decides = ("device", "deterministic", "sampling.precision", "sampling.beams", "sampling.batch_size")
    same = all(theirs.get(key) == mine.get(key) for key in decides)
    recorded = Chain(parent).batch_file
    return recorded if same and recorded.is_file() else None


def _copy_fork(chain: Chain, mine: dict[str, Any], corpus: Corpus, parent: Path, at: int) -> None:
    """Copies generations 0 .. at of another chain, whole, and checks that the new configuration can go on from them."""
    known = rundir.read_json(parent / "identity.json")
    changed = {k: v for k, v in drift(known["config"], mine).items() if k not in FORK_MAY_CHANGE}
    if changed:
        listed = "; ".join(f"{key} was {a!r}, is {b!r}" for key, (a, b) in changed.items())
        raise UserError(f"--fork {parent}: these keys must stay as they were: {listed}")
    if known["corpus"] != corpus.digest:
        raise UserError(f"--fork {parent}: its corpus is not this one; use the same text and tokenizer")
    if at < 0 or at not in Chain(parent).finished():
        raise UserError(f"--at {at}: {parent} has finished generations {Chain(parent).finished()}; choose one of them")
    theirs = Chain(parent)
    if mine["model.start"] == "previous":
        theirs.need_weights([at], f"--at {at}")
    for g in range(at + 1):
        for name in rundir.STAGES:
            shutil.copytree(theirs.stage(g, name), chain.stage(g, name), dirs_exist_ok=True)
    shutil.copytree(theirs.stage(0, "reference"), chain.stage(0, "reference"), dirs_exist_ok=True)
    if (batch := inherited_batch(parent, known["config"], mine)) is not None:
        shutil.copy(batch, chain.root)
    rundir.write_json(chain.root / "fork.json", {"parent": digest(known["config"]), "name": str(parent), "at": at})


def pretrained_note(config: RunConfig, corpus: Corpus) -> str:
    """What a reader must know about a pretrained start; empty where it does not apply."""
    if config.model.pretrained is None:
        return ""
    if modeling.trained_on(config.model.pretrained) == corpus.digest:
        return "note: the pretrained model was trained by this lab on this corpus's training split, not on the held-out text"
    return "note: the pretrained model may have seen the held-out text; its perplexity can look better than on new text"

"""Where a run stands, from its files alone, while it runs or afterwards. Nothing is written or locked here.

A file may vanish or be replaced between two looks, and may be a stranger's: what cannot be read of a chain stands in the
chain's line and stops nothing.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from collapselab.config import UserError
from collapselab.runtime.console import PROGRESS
from collapselab.store.checks import BROKEN, number, reading, refuse_links, text, whole
from collapselab.store.layout import STAGES, Chain, NoRunError, find_chains, read_metrics, run_root, settled
from collapselab.store.lock import Holder, holder
from collapselab.store.seals import parse, plain_bytes

RUNNING, WAITING, FINISHED = "running", "waiting", "finished"
STOPPED, DIED, NOT_BEGUN, DAMAGED = "stopped", "process died", "not begun", "unreadable"
TAIL_BYTES = 1 << 14  # of events.log
CLOCKS_DIFFER = 5.0  # seconds
MOST_CHAINS = 10_000  # that an experiment.yaml may ask for


@dataclass(frozen=True)
class Progress:
    """What the bar of a stage says (`console.Bar`)."""

    title: str
    done: int
    total: int
    """Tokens."""
    rate: float | None
    """Tokens per second."""
    at: float
    """Unix time of this."""
    pid: int

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    def left(self, now: float) -> float | None:
        """Seconds until the bar is full."""
        if not self.rate or self.rate < 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate - max(0.0, now - self.at))


@dataclass(frozen=True)
class ChainView:
    """Where a chain stands."""

    arm: str
    seed: str
    path: Path
    state: str = NOT_BEGUN
    said: str = ""
    """Which process has it, or what is wrong with which file."""
    last: int | None = None
    """The last generation that is asked for."""
    finished: int = 0
    """Generations that are finished."""
    stage: str = ""
    """The stage at work, or that is next."""
    bar: Progress | None = None
    """Of the stage at work, or where it was when its process died."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: float | None = None
    """Seconds until the chain's end, by what its last generation took."""


@dataclass(frozen=True)
class RunView:
    root: Path
    chains: list[ChainView]
    events: list[str]
    touched: float
    """Unix time at which an experiment was begun, or any chain last said something; 0 where nothing tells."""

    @property
    def at_work(self) -> bool:
        return any(chain.state in (RUNNING, WAITING) for chain in self.chains)

    @property
    def complete(self) -> bool:
        return all(chain.state == FINISHED for chain in self.chains)


class Watcher:
    """Looks at a run, again and again. Raises UserError where there is none, or one with strange things in it.

    Args:
        run: a run directory, or a chain of it.
    """

    def __init__(self, run: Path):
        self.run = settled(run)
        self.root = run_root(self.run)
        refuse_links(self.root, self.root)
        asked = self.run.absolute() == self.root
        if not (asked and (self.root / "experiment.yaml").is_file()):
            try:
                find_chains(run)
            except NoRunError:
                raise UserError(f"{run}: no run here, or it has not begun yet; name the directory of a run") from None
        self.known: dict[Path, tuple[tuple[int, int], list[dict[str, Any]]]] = {}

    def look(self) -> RunView:
        """Where everything stands now."""
        now = time.time()
        only = self.run.name.startswith("seed=")
        paths = [self.run] if only else sorted(self.root.glob("arm=*/seed=*"), key=_in_order)
        chains = {path: self._chain(path, now) for path in paths if path.is_dir() and not _is_link(path)}
        asked = [] if only else _asked(self.root)
        order = list(dict.fromkeys(path for path, _ in asked))
        for path, last in asked:
            if path not in chains:
                chains[path] = replace(_named(path), last=last, stage=STAGES[0])
        views = [chains.pop(path) for path in order] + list(chains.values())
        if any(view.state == RUNNING for view in views):
            views = [replace(v, state=WAITING, said="its turn") if v.state == NOT_BEGUN else v for v in views]
        return RunView(self.root, views, _events(self.root / "events.log"), _touched(self.root))

    def _chain(self, path: Path, now: float) -> ChainView:
        view = _named(path)
        try:
            with reading(path):
                return self._stands(view, now)
        except UserError as error:
            return replace(view, state=DAMAGED, said=" ".join(str(error).split()))

    def _stands(self, view: ChainView, now: float) -> ChainView:
        chain = Chain(view.path)
        last = _last(view.path)
        finished, stage = chain.at_work(0)
        who = holder(view.path / "lock")
        rows = self._rows(view.path)  # after the rest: a chain that nobody had any more has written them all
        done = last is not None and finished > last
        state, said = (FINISHED if done else STOPPED), ""
        if who is not None and who.pid is not None:
            state, said = (DIED if has_ended(who) else RUNNING), str(replace(who, command=""))
        if state == RUNNING and finished == 0 and (other := _makes_first(chain, who)):
            state, said = WAITING, f"generation 0, which {other} makes"
        lacking = last is not None and len(rows) <= last
        if done and state == DIED and not lacking:
            state, said = FINISHED, ""
        if state == FINISHED and lacking:
            raise UserError(f"metrics.jsonl has {len(rows)} of {finished} rows; continue the run to have it made again")
        bar = _progress(view.path / PROGRESS)
        if bar is not None and (who is None or who.pid != bar.pid or state not in (RUNNING, DIED)):
            bar = None  # of an earlier process
        view = replace(view, state=state, said=said, last=last, finished=finished, bar=bar, rows=rows)
        view = replace(view, stage="" if done else stage)
        return replace(view, left=_left(view, chain, now)) if state == RUNNING and not done else view

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, read again only where it was written anew; none where there is none."""
        try:
            found = (path / "metrics.jsonl").stat()
        except FileNotFoundError:
            return []
        version = (found.st_mtime_ns, found.st_size)
        if path not in self.known or self.known[path][0] != version:
            self.known[path] = version, read_metrics(path)
        return self.known[path][1]


def _in_order(path: Path) -> tuple[str, int, str]:
    seed = path.name.removeprefix("seed=")
    return path.parent.name, int(seed) if re.fullmatch("[0-9]{1,18}", seed) else 0, seed


def _is_link(path: Path) -> bool:
    return path.is_symlink() or path.parent.is_symlink()


def _named(path: Path) -> ChainView:
    whole_path = path.absolute()
    return ChainView(whole_path.parent.name.removeprefix("arm="), whole_path.name.removeprefix("seed="), path)


def _last(path: Path) -> int | None:
    """`generations` of a chain's settings. One line is looked for: no reader of YAML meets a stranger's file once a second."""
    found = re.search(rb"^generations: ([0-9]{1,6})$", plain_bytes(path / "config.yaml") or b"", re.MULTILINE)
    return int(found[1]) if found else None


def _asked(root: Path) -> list[tuple[Path, int | None]]:
    """(chain, its last generation) of every chain that an experiment asks for; none where there is no experiment, or one
    that cannot be read."""
    with suppress(OSError, yaml.YAMLError, *BROKEN):
        data = plain_bytes(root / "experiment.yaml")
        if data is None or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, yaml.SafeLoader)):
            return []
        tree = yaml.safe_load(data)
        seeds = [whole(seed) for seed in tree["seeds"]]
        if len(tree["arms"]) * len(seeds) > MOST_CHAINS:
            return []
        made: list[tuple[Path, int | None]] = []
        for arm, settings in tree["arms"].items():
            last = (settings or {}).get("generations", tree.get("generations"))
            if "/" not in text(arm):
                made += [(root / f"arm={arm}" / f"seed={seed}", whole(last)) for seed in seeds]
        return made
    return []


def has_ended(who: Holder) -> bool:
    """Whether a process is known to be gone: also where its number went to one that began after the lock was taken."""
    if who.ended:
        return True
    if who.host != socket.gethostname():
        return False
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    with suppress(ValueError, OverflowError, psutil.Error):
        took = datetime.strptime(who.started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
        return bool(psutil.Process(who.pid).create_time() > took + CLOCKS_DIFFER)
    return False


def _makes_first(chain: Chain, who: Holder | None) -> str:
    """The other process that makes generation 0, which this chain shares; empty where there is none."""
    for folder in set(chain.shared.values()):
        other = holder(folder / "lock")
        if other is not None and who is not None and other.pid not in (None, who.pid) and not has_ended(other):
            return f"process {other.pid}"
    return ""


def _progress(path: Path) -> Progress | None:
    """What a bar says; None where there is none, or it is damaged."""
    with suppress(OSError, *BROKEN):
        if (data := plain_bytes(path)) is not None:
            found = parse(data.decode("utf-8"))
            rate = found["rate"]
            return Progress(
                title=text(found["title"]),
                done=whole(found["done"]),
                total=whole(found["total"]),
                rate=None if rate is None else number(rate),
                at=number(found["at"]),
                pid=whole(found["pid"]),
            )
    return None


def _left(view: ChainView, chain: Chain, now: float) -> float | None:
    """Seconds that a chain has left, if each stage takes what it took in the last generation; None before there is one.

    A generation of its own, not generation 0, where there is one: a pretrained start or a shared one took other times."""
    if not view.rows or view.last is None:
        return None
    with reading(view.path / "metrics.jsonl"):
        took = {name: number(view.rows[-1]["time"].get(f"{name}_seconds", 0.0)) for name in STAGES}
    at = STAGES.index(view.stage)
    of_bar = view.bar.left(now) if view.bar is not None else None
    begun = chain.stage(view.finished, STAGES[at - 1]) if at else chain.stage(view.finished - 1, STAGES[-1])
    with suppress(OSError):
        spent = now - (begun / "manifest.json").stat().st_mtime
        here = max(of_bar or 0.0, took[view.stage] - spent, 0.0)
        later = sum(took[name] for name in STAGES[at + 1 :])
        return here + later + (view.last - view.finished) * sum(took.values())
    return None


def _events(path: Path) -> list[str]:
    """The last lines of events.log."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return stream.read(TAIL_BYTES).decode("utf-8", errors="replace").splitlines()[-20:]
    return []


def _touched(root: Path) -> float:
    found = [0.0]
    for name in ("experiment.yaml", "workers.log", "events.log"):
        with suppress(OSError):
            found.append((root / name).stat().st_mtime)
    return max(found)

"""State of a run, read from its files while it runs or afterwards. Nothing is written or locked.

Files may vanish or change between two looks, and are untrusted: what cannot be read is reported in the chain's line and stops
nothing.
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
from collapselab.store.layout import GIVES, Chain, NoRunError, find_chains, in_order, read_metrics, run_root, settled
from collapselab.store.lock import Holder, holder
from collapselab.store.seals import parse, plain_bytes

RUNNING, WAITING, FINISHED = "running", "waiting", "finished"
STOPPED, DIED, NOT_BEGUN, DAMAGED = "stopped", "process died", "not begun", "unreadable"
TAIL_BYTES = 1 << 14  # of events.log
CLOCKS_DIFFER = 5.0  # seconds
MOST_CHAINS = 10_000  # of an experiment.yaml


@dataclass(frozen=True)
class Progress:
    """Progress bar of a stage (`console.Bar`)."""

    title: str
    done: int
    total: int
    """Tokens."""
    rate: float | None
    """Tokens per second."""
    at: float
    """Unix time of the record."""
    pid: int

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    def left(self, now: float) -> float | None:
        """Return the seconds until the bar is full; None without a rate."""
        if not self.rate or self.rate < 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate - max(0.0, now - self.at))


@dataclass(frozen=True)
class ChainView:
    """State of a chain."""

    arm: str
    seed: str
    path: Path
    state: str = NOT_BEGUN
    said: str = ""
    """Process that holds the lock, or the damaged file."""
    last: int | None = None
    """Last generation of its settings."""
    finished: int = 0
    """Number of finished generations."""
    stage: str = ""
    """The current stage, or the next one."""
    bar: Progress | None = None
    """Of the current stage, or of the stage in which its process died."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: float | None = None
    """Seconds until the chain ends, estimated from its last generation."""


@dataclass(frozen=True)
class RunView:
    root: Path
    chains: list[ChainView]
    events: list[str]
    touched: float
    """Unix time of the experiment's start or the last event of a chain, whichever is later; 0 if unknown."""

    @property
    def at_work(self) -> bool:
        return any(chain.state in (RUNNING, WAITING) for chain in self.chains)

    @property
    def complete(self) -> bool:
        return all(chain.state == FINISHED for chain in self.chains)


class Watcher:
    """Repeated reader of the state of a run, or of one of its chains. Raises UserError if it is no run, or holds links."""

    def __init__(self, run: Path):
        self.run = settled(run)
        self.root = run_root(self.run)
        refuse_links(self.root, self.root)
        whole_run = self.run.absolute() == self.root
        if not (whole_run and (self.root / "experiment.yaml").is_file()):
            try:
                find_chains(run)
            except NoRunError:
                raise UserError(f"{run}: no run here, or it has not started yet; name the directory of a run") from None
        self.cache: dict[Path, tuple[tuple[int, int], list[dict[str, Any]]]] = {}  # by chain: version and rows

    def look(self) -> RunView:
        """Read the current state of all chains."""
        now = time.time()
        only = self.run.name.startswith("seed=")
        paths = [self.run] if only else sorted(self.root.glob("arm=*/seed=*"), key=in_order)
        paths = [path for path in paths if path.is_dir() and not (path.is_symlink() or path.parent.is_symlink())]
        chains = {path: self._chain(path, now) for path in paths}
        planned = [] if only else _planned(self.root)
        order = list(dict.fromkeys(path for path, _ in planned))
        for path, last in planned:
            if path not in chains:
                chains[path] = replace(_named(path), last=last, stage=next(iter(GIVES)))
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
        rows = self._rows(view.path)  # read last: a chain that no process held has written them all
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
            raise UserError(f"metrics.jsonl has {len(rows)} of {finished} rows; continue the run to rebuild it")
        bar = _progress(view.path / PROGRESS)
        if bar is not None and (who is None or who.pid != bar.pid or state not in (RUNNING, DIED)):
            bar = None  # of an earlier process
        view = replace(view, state=state, said=said, last=last, finished=finished, bar=bar, rows=rows)
        view = replace(view, stage="" if done else stage)
        return replace(view, left=_left(view, chain, now)) if state == RUNNING and not done else view

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, read again only if the file has changed; none without a file."""
        try:
            stat = (path / "metrics.jsonl").stat()
        except FileNotFoundError:
            return []
        version = (stat.st_mtime_ns, stat.st_size)
        if path not in self.cache or self.cache[path][0] != version:
            self.cache[path] = version, read_metrics(path)
        return self.cache[path][1]


def _named(path: Path) -> ChainView:
    whole_path = path.absolute()
    return ChainView(whole_path.parent.name.removeprefix("arm="), whole_path.name.removeprefix("seed="), path)


def _last(path: Path) -> int | None:
    """Return `generations` of a chain's settings, by searching for the line: avoids parsing untrusted YAML every second."""
    line = re.search(rb"^generations: ([0-9]{1,6})$", plain_bytes(path / "config.yaml") or b"", re.MULTILINE)
    return int(line[1]) if line else None


def _planned(root: Path) -> list[tuple[Path, int | None]]:
    """Return (chain, its last generation) of every chain of an experiment; none without a readable experiment."""
    with suppress(OSError, yaml.YAMLError, *BROKEN):
        data = plain_bytes(root / "experiment.yaml")
        if data is None or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, yaml.SafeLoader)):
            return []
        tree = yaml.safe_load(data)
        seeds = [whole(seed) for seed in tree["seeds"]]
        if len(tree["arms"]) * len(seeds) > MOST_CHAINS:
            return []
        chains: list[tuple[Path, int | None]] = []
        for arm, settings in tree["arms"].items():
            last = (settings or {}).get("generations", tree.get("generations"))
            if "/" not in text(arm):
                chains += [(root / f"arm={arm}" / f"seed={seed}", whole(last)) for seed in seeds]
        return chains
    return []


def has_ended(who: Holder) -> bool:
    """Return True if a process is known to be gone, even if its number belongs to a newer one."""
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
    """Name the other process that makes the generation 0 of this chain; empty if there is none."""
    for folder in set(chain.shared.values()):
        other = holder(folder / "lock")
        if other is not None and who is not None and other.pid not in (None, who.pid) and not has_ended(other):
            return f"process {other.pid}"
    return ""


def _progress(path: Path) -> Progress | None:
    """Read a progress bar; None if it is missing or damaged."""
    with suppress(OSError, *BROKEN):
        if (data := plain_bytes(path)) is not None:
            record = parse(data.decode("utf-8"))
            rate = None if record["rate"] is None else number(record["rate"])
            done, total, pid = (whole(record[name]) for name in ("done", "total", "pid"))
            return Progress(text(record["title"]), done, total, rate, number(record["at"]), pid)
    return None


def _left(view: ChainView, chain: Chain, now: float) -> float | None:
    """Estimate the seconds a chain has left from the stage times of its last generation; None before there is one."""
    if not view.rows or view.last is None:
        return None
    with reading(view.path / "metrics.jsonl"):
        stages = chain.stages(1)
        took = {name: number(view.rows[-1]["time"].get(f"{name}_seconds", 0.0)) for name in stages}
    at = stages.index(view.stage)
    of_bar = view.bar.left(now) if view.bar is not None else None
    begun = chain.stage(view.finished, stages[at - 1]) if at else chain.stage(view.finished - 1, stages[-1])
    with suppress(OSError):
        spent = now - (begun / "manifest.json").stat().st_mtime
        here = max(of_bar or 0.0, took[view.stage] - spent, 0.0)
        later = sum(took[name] for name in stages[at + 1 :])
        return here + later + (view.last - view.finished) * sum(took.values())
    return None


def _events(path: Path) -> list[str]:
    """Return the last lines of events.log."""
    with suppress(OSError):
        if path.is_symlink() or not path.is_file():
            return []
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return stream.read(TAIL_BYTES).decode("utf-8", errors="replace").splitlines()[-20:]
    return []


def _touched(root: Path) -> float:
    times = [0.0]
    for name in ("experiment.yaml", "workers.log", "events.log"):
        with suppress(OSError):
            times.append((root / name).stat().st_mtime)
    return max(times)

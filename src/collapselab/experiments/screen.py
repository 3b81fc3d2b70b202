"""What a terminal shows of an experiment: a progress line per chain; elsewhere a line as each ends."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from collapselab.chain.opening import chain_path
from collapselab.config import RunConfig, UserError
from collapselab.experiments.experiment import Outcome
from collapselab.runtime.console import inert
from collapselab.store.layout import Chain


class Screen:
    """Progress of the chains of an experiment, from their files. A context manager."""

    def __init__(self, chains: list[RunConfig]):
        self.chains, self.seen = chains, [0] * len(chains)
        self.titles = [f"{config.arm} seed {config.seed}" for config in chains]
        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.fields[at]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        totals = [config.generations + 1 for config in chains]
        self.lines = [
            self.progress.add_task(title, total=total, at="waits", start=False)
            for title, total in zip(self.titles, totals, strict=True)
        ]

    def __enter__(self) -> Screen:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, index: int) -> None:
        """Show that a chain has started."""
        self.progress.start_task(self.lines[index])

    def end(self, index: int, outcome: Outcome) -> None:
        """Show how a chain ended."""
        how, words = outcome
        total = self.chains[index].generations + 1
        self.progress.update(self.lines[index], completed=total if how == "done" else None, at=inert(words))
        self.progress.stop_task(self.lines[index])
        if not self.console.is_terminal:
            stamp = time.strftime("%H:%M:%S")
            self.console.print(inert(f"{stamp} {self.titles[index]}: {words}"), markup=False, soft_wrap=True)

    def look(self, running: Iterable[int]) -> None:
        """Show where these chains are."""
        for index in running:
            self.seen[index], at = _at(self.chains[index], self.seen[index])
            self.progress.update(self.lines[index], completed=self.seen[index], at=at)


def _at(config: RunConfig, finished: int) -> tuple[int, str]:
    """(finished generations, where the chain is in words), looking on from what was known."""

    try:
        finished, stage = Chain(chain_path(config)).at_work(finished)
    except (UserError, OSError):  # a damaged chain: the worker that has it says so
        return finished, "at work"
    return finished, f"generation {finished} of {config.generations}: {stage}"

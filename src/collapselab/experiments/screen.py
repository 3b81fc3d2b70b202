"""Terminal output of an experiment: a progress bar per chain; without a terminal, a line as each chain ends."""

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
    """Progress of an experiment's chains, read from their files. A context manager."""

    def __init__(self, chains: list[RunConfig]):
        self.chains, self.seen = chains, [0] * len(chains)
        self.titles = [f"{config.arm} seed {config.seed}" for config in chains]
        self.console = Console(stderr=True)
        description, place = TextColumn("{task.description}"), TextColumn("{task.fields[at]}")
        columns = description, BarColumn(20), place, TimeElapsedColumn()
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
        """Show the outcome of a chain."""
        how, words = outcome
        total = self.chains[index].generations + 1
        self.progress.update(self.lines[index], completed=total if how == "done" else None, at=inert(words))
        self.progress.stop_task(self.lines[index])
        if not self.console.is_terminal:
            stamp = time.strftime("%H:%M:%S")
            self.console.print(inert(f"{stamp} {self.titles[index]}: {words}"), markup=False, soft_wrap=True)

    def look(self, running: Iterable[int]) -> None:
        """Update the progress of the running chains."""
        for index in running:
            self.seen[index], at = _at(self.chains[index], self.seen[index])
            self.progress.update(self.lines[index], completed=self.seen[index], at=at)


def _at(config: RunConfig, finished: int) -> tuple[int, str]:
    """(finished generations, progress in words) of a chain, given a lower bound on the former."""
    try:
        finished, stage = Chain(chain_path(config)).at_work(finished)
    except (UserError, OSError):  # the worker that runs a damaged chain reports it
        return finished, "at work"
    return finished, f"generation {finished} of {config.generations}: {stage}"

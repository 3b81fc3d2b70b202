"""An experiment: arms x seeds, chains that differ in named settings, with generation 0 made once per seed.

Every chain is an ordinary run, and an experiment has no state of its own: finished chains are skipped, unfinished ones are
resumed, and arms, seeds and generations may be added later.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from collapselab.config import RunConfig, UserError, as_dict
from collapselab.config.values import flatten
from collapselab.runtime.console import inert
from collapselab.store.chain_files import keep_experiment
from collapselab.store.checks import refuse_links
from collapselab.store.layout import Chain, settled

Outcome = tuple[Literal["done", "left", "failed"], str]
"""(status, message) of a chain: finished, left to another process that holds its lock, or failed."""


@dataclass(frozen=True)
class Experiment:
    """The arms with their settings, and the seeds that each is run with; `chains` fills in seed and arm name."""

    arms: dict[str, RunConfig]
    changes: dict[str, list[str]]
    """The dotted keys that each arm sets itself; all others are common."""
    seeds: list[int]
    baseline: str | None
    """The arm that others are compared with."""

    @property
    def root(self) -> Path:
        config = next(iter(self.arms.values()))
        return settled(Path(config.runs_dir) / config.name)

    def chains(self) -> list[RunConfig]:
        """Return the settings of every chain, arm by arm, so that chains that make a shared generation 0 start first."""
        return [
            dataclasses.replace(config, arm=arm, seed=seed) for arm, config in self.arms.items() for seed in self.seeds
        ]

    def asked(self) -> dict[str, Any]:
        """Return the tree that `experiment --config` reads: all common settings, and those of each arm."""
        flat = {arm: flatten(as_dict(config)) for arm, config in self.arms.items()}
        common: dict[str, Any] = {}
        for arm, settings in flat.items():
            for key, value in settings.items():
                section, _, name = key.rpartition(".")
                if key not in (*self.changes[arm], "arm", "seed"):
                    (common.setdefault(section, {}) if section else common)[name] = value
        arms = {arm: {key: settings[key] for key in self.changes[arm]} for arm, settings in flat.items()}
        return common | {"seeds": self.seeds, "baseline": self.baseline, "arms": arms}

    def save(self) -> None:
        """Write experiment.yaml beside the chains, for the report and for reruns; print a line if the old one was damaged.

        Raises UserError if the folder cannot be written.
        """
        refuse_links(self.root, self.root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for line in keep_experiment(self.root, self.asked()):
                print(inert(line), file=sys.stderr)
        except OSError as error:
            where = next(iter(self.arms.values())).runs_dir
            raise UserError(
                f"runs_dir={where!r}: cannot be written ({error.strerror}); choose another folder"
            ) from None


def keep_finished(config: RunConfig) -> RunConfig:
    """Raise `generations` to those that the chain has finished, so that a longer chain counts as done.

    A chain whose real shares depend on the number of generations is another chain when it is longer, and stays unchanged.
    """
    from collapselab.chain.opening import chain_path

    reached = max(Chain(chain_path(config)).finished(), default=0)
    if reached <= config.generations or config.mixing.uses_horizon:
        return config
    return dataclasses.replace(config, generations=reached)

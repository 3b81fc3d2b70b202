"""An experiment: arms x seeds, chains that differ in named settings, with generation 0 made once per seed.

Every chain is an ordinary run. An experiment has no state beside its chains: what is done is skipped, what is missing is
made, and arms, seeds and generations may be added later.
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
"""How a chain ended, and that in words: made to its last generation, left to another process, or not finished."""


@dataclass(frozen=True)
class Experiment:
    """What is run: `arms` holds the settings of each arm, seed and arm name left to be filled in."""

    arms: dict[str, RunConfig]
    changes: dict[str, list[str]]
    """The keys, dotted, that each arm sets for itself; all others are common."""
    seeds: list[int]
    baseline: str | None
    """The arm that others are compared with."""

    @property
    def root(self) -> Path:
        config = next(iter(self.arms.values()))
        return settled(Path(config.runs_dir) / config.name)

    def chains(self) -> list[RunConfig]:
        """Arm by arm, so that the first chains of different seeds, which make generation 0, run side by side."""
        return [
            dataclasses.replace(config, arm=arm, seed=seed) for arm, config in self.arms.items() for seed in self.seeds
        ]

    def asked(self) -> dict[str, Any]:
        """What `experiment --config` reads: the common settings, all of them, and what each arm sets for itself."""
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
        """Keeps what was asked for beside the chains, for the report and for whoever runs it again; says where what was
        kept before is damaged or gone. Raises UserError where nothing can be written."""
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


def as_far(config: RunConfig) -> RunConfig:
    """The settings of a chain, to its own last generation where that lies beyond the one that is asked for: it is done.

    Where the shares depend on the number of generations, a longer chain is another one, and stays so.
    """
    from collapselab.chain.opening import chain_path

    reached = max(Chain(chain_path(config)).finished(), default=0)
    if reached <= config.generations or config.mixing.uses_horizon:
        return config
    return dataclasses.replace(config, generations=reached)

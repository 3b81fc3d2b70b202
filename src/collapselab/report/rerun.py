"""The commands that make a run again, for pasting where it was made."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from collapselab.config.identity import DEFAULTS
from collapselab.report.files import ChainFiles, Opened, flat_settings
from collapselab.report.overlay import grouped_by
from collapselab.report.protocols import NO_REASON, shown
from collapselab.store.checks import reading, text, whole
from collapselab.store.layout import run_root
from collapselab.store.seals import recorded

MOST = 12  # commands that a page lists
MACHINE = ("collapselab", "commit", "python", "torch", "transformers", "accelerate", "numpy", "platform", "device", "cuda",
           "precision", "cpus", "threads", "processes")  # fmt: skip


def runs(found: Opened) -> list[dict[str, Any]]:
    """For each run: its name, the folder that the commands are seen from, the commands, what is to be said of them, a file
    that they name with its text, the seeds and the machines."""
    made = []
    for run, chains in grouped_by(found.chains, lambda chain: str(chain.run)).items():
        asked = found.asked.get(run)
        commands, said = _experiment(chains[0]) if asked else _chains(chains)
        made.append(
            {
                "name": run, "commands": commands[:MOST], "more": max(0, len(commands) - MOST), "said": said,
                "folder": _folder(chains[0]).parts[0],
                "file": "experiment.yaml" if asked else f"{chains[0].path.parent.name}/{chains[0].path.name}/config.yaml",
                "text": asked or chains[0].config,
                "seeds": ", ".join(str(seed) for seed in sorted({chain.seed for chain in chains})),
                "machine": _machines(chains),
            }
        )  # fmt: skip
    return made


def _folder(chain: ChainFiles) -> Path:
    """The folder of runs as its config.yaml names it; where it has moved, or was named from the root of the disk, its own
    name alone."""
    there, named = run_root(chain.path).resolve().parent, chain.settings.get("runs_dir")
    asked = Path(named) if isinstance(named, str) and named else Path("/")
    if asked.is_absolute() or ".." in asked.parts or not asked.parts or there.parts[-len(asked.parts) :] != asked.parts:
        return Path(there.name or ".")
    return asked


def _again(chain: ChainFiles) -> list[str]:
    """Another name, no longer than names may be, and the plugins."""
    plugins = [word for one in chain.plugins for word in ("--plugin", one["name"])]
    return ["--name", f"{chain.run[:94]}_again", *plugins]


def _experiment(chain: ChainFiles) -> tuple[list[str], list[str]]:
    root = _folder(chain) / chain.run
    return [shlex.join(["collapselab", "experiment", "--config", f"{root}/experiment.yaml", *_again(chain)])], []


def _chains(chains: list[ChainFiles]) -> tuple[list[str], list[str]]:
    """A command per chain, and a sentence for each that was forked."""
    commands, said = [], []
    for chain in chains:
        place = _folder(chain) / chain.run / chain.path.parent.name / chain.path.name
        line = ["collapselab", "run"]
        if (fork := _fork(chain.path)) is not None:
            parent, at = _parent(chain, fork[0]), fork[1]
            line += ["--fork", parent, "--at", str(at)]
            said.append(
                f"{chain.name} was forked: generations 0 to {at} are those of {parent}.{_differs(chain, fork[0])}"
            )
        commands.append(shlex.join([*line, "--config", f"{place}/config.yaml", *_again(chain)]))
    return commands, said


def _fork(path: Path) -> tuple[str, int] | None:
    """(parent, the last generation taken from it) of a chain that was forked."""
    known = recorded(path)
    fork = known.facts.get("fork") if known is not None else None
    if fork is None:
        return None
    with reading(path / "identity.json"):
        return text(fork["name"]), whole(fork["at"])


def _beside(chain: ChainFiles, parent: str) -> Path | None:
    """The parent of a fork where it lies in the same folder of runs."""
    parts = Path(parent).parts[-3:]
    place = run_root(chain.path).resolve().parent.joinpath(*parts)
    return place if len(parts) == 3 and ".." not in parts and (place / "config.yaml").is_file() else None


def _parent(chain: ChainFiles, parent: str) -> str:
    return parent if _beside(chain, parent) is None else str(_folder(chain).joinpath(*Path(parent).parts[-3:]))


def _differs(chain: ChainFiles, parent: str) -> str:
    """What a fork changed, where its parent is still there."""
    place = _beside(chain, parent)
    if place is None:
        return ""
    try:
        theirs = flat_settings((place / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    before, after = DEFAULTS | theirs, DEFAULTS | chain.settings
    changed = [key for key in after if key not in NO_REASON and before.get(key) != after[key]]
    told = ", ".join(f"{key} (was {shown(before.get(key))}, is {shown(after[key])})" for key in changed[:MOST])
    return f" Settings that differ from there: {told}." if told else " No setting differs from there."


def _machines(chains: list[ChainFiles]) -> list[tuple[str, str]]:
    """(what, values) of the environments of the chains."""
    out = []
    for key in MACHINE:
        values = dict.fromkeys(str(c.environment[key])[:200] for c in chains if c.environment.get(key) is not None)
        if values:
            out.append((key, " / ".join(values)))
    return out

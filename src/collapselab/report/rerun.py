"""Commands that rerun a run, to be pasted where it was run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from collapselab.config.identity import DEFAULTS
from collapselab.report.files import ChainFiles, RunFiles, flat_settings
from collapselab.report.overlay import grouped_by
from collapselab.report.protocols import NO_REASON, shown
from collapselab.store.checks import reading, text, whole
from collapselab.store.layout import run_root
from collapselab.store.seals import recorded

MOST = 12  # commands that a page lists
MACHINE = ("collapselab", "commit", "python", "torch", "transformers", "accelerate", "numpy", "platform", "device", "cuda",
           "precision", "cpus", "threads", "processes")  # fmt: skip


def runs(run_files: RunFiles) -> list[dict[str, Any]]:
    """Describe how to rerun each run: its name, the commands and the folder they start from, remarks on them, a settings
    file that they name with its text, the seeds and the machines."""
    rows = []
    for run, chains in grouped_by(run_files.chains, lambda chain: str(chain.run)).items():
        asked = run_files.asked.get(run)
        commands, remarks = _experiment(chains[0]) if asked else _chains(chains)
        rows.append(
            {
                "name": run, "commands": commands[:MOST], "more": max(0, len(commands) - MOST), "remarks": remarks,
                "folder": _folder(chains[0]).parts[0],
                "file": "experiment.yaml" if asked else f"{chains[0].path.parent.name}/{chains[0].path.name}/config.yaml",
                "text": asked or chains[0].config,
                "seeds": ", ".join(str(seed) for seed in sorted({chain.seed for chain in chains})),
                "machine": _machines(chains),
            }
        )  # fmt: skip
    return rows


def _folder(chain: ChainFiles) -> Path:
    """Return runs_dir as config.yaml names it, or only its last part if it has moved or is absolute."""
    there, named = run_root(chain.path).resolve().parent, chain.settings.get("runs_dir")
    asked = Path(named) if isinstance(named, str) and named else Path("/")
    if asked.is_absolute() or ".." in asked.parts or not asked.parts or there.parts[-len(asked.parts) :] != asked.parts:
        return Path(there.name or ".")
    return asked


def _options(chain: ChainFiles) -> list[str]:
    """Options of a rerun: a new name, within the limit for names, and the plugins."""
    plugins = [word for one in chain.plugins for word in ("--plugin", one["name"])]
    return ["--name", f"{chain.run[:94]}_again", *plugins]


def _experiment(chain: ChainFiles) -> tuple[list[str], list[str]]:
    root = _folder(chain) / chain.run
    return [shlex.join(["collapselab", "experiment", "--config", f"{root}/experiment.yaml", *_options(chain)])], []


def _chains(chains: list[ChainFiles]) -> tuple[list[str], list[str]]:
    """Return a command per chain, and a sentence per forked chain."""
    commands, remarks = [], []
    for chain in chains:
        place = _folder(chain) / chain.run / chain.path.parent.name / chain.path.name
        line = ["collapselab", "run"]
        if (fork := _fork(chain.path)) is not None:
            parent, at = fork
            if _beside(chain, parent) is not None:
                parent = str(_folder(chain).joinpath(*Path(parent).parts[-3:]))
            line += ["--fork", parent, "--at", str(at)]
            remarks.append(
                f"{chain.name} was forked: generations 0 to {at} are those of {parent}.{_differs(chain, fork[0])}"
            )
        commands.append(shlex.join([*line, "--config", f"{place}/config.yaml", *_options(chain)]))
    return commands, remarks


def _fork(path: Path) -> tuple[str, int] | None:
    """(parent, last generation taken from it) of a forked chain; None for others."""
    record = recorded(path)
    fork = record.facts.get("fork") if record is not None else None
    if fork is None:
        return None
    with reading(path / "identity.json"):
        return text(fork["name"]), whole(fork["at"])


def _beside(chain: ChainFiles, parent: str) -> Path | None:
    """Folder of a fork's parent if it lies in the same runs_dir."""
    parts = Path(parent).parts[-3:]
    place = run_root(chain.path).resolve().parent.joinpath(*parts)
    return place if len(parts) == 3 and ".." not in parts and (place / "config.yaml").is_file() else None


def _differs(chain: ChainFiles, parent: str) -> str:
    """Describe the settings that a fork changed; empty if its parent is gone."""
    place = _beside(chain, parent)
    if place is None:
        return ""
    try:
        parents = flat_settings((place / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    before, after = DEFAULTS | parents, DEFAULTS | chain.settings
    changed = [key for key in after if key not in NO_REASON and before.get(key) != after[key]]
    rows = ", ".join(f"{key} (was {shown(before.get(key))}, is {shown(after[key])})" for key in changed[:MOST])
    return f" Settings that differ from its parent: {rows}." if rows else " No setting differs from its parent."


def _machines(chains: list[ChainFiles]) -> list[tuple[str, str]]:
    """(fact, values) of the chains' environments."""
    environments = [chain.environment for chain in chains]
    values = {key: dict.fromkeys(str(e[key])[:200] for e in environments if e.get(key) is not None) for key in MACHINE}
    return [(key, " / ".join(found)) for key, found in values.items() if found]

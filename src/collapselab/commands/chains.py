"""Verbs that make chains: run, experiment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.commands import last, make_options, quiet
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.experiment import Experiment


def run(arguments: list[str]) -> int:
    options = make_options("run")
    options.add_run_keys()
    options.add_switch("dry_run", "say what the run will take, and stop")
    options.add("fork", str | None, None, "start a new arm from this run or chain directory", line_only=True)
    options.add("at", int | None, None, "last generation to take from --fork", line_only=True)
    gathered = options.gather(arguments)
    parent = last("fork", gathered)
    if parent is not None:  # a fork begins with its parent's settings
        from collapselab.rundir import find_chains

        chains = find_chains(Path(parent))
        if len(chains) > 1:
            raise UserError(f"--fork {parent}: holds {len(chains)} chains; name one of them, as {chains[0]}")
        if last("name", gathered) is None:
            raise UserError(f"--name: give the fork of {parent} a name of its own")
        gathered = options.gather(["--config", str(chains[0] / "config.yaml"), *gathered])
    from collapselab.options import run_config

    parsed = options.parse(gathered)
    config = run_config(parsed)
    if (parent is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    quiet()
    if parsed.dry_run:
        from collapselab import plan
        from collapselab.console import inert

        found = plan.plan(config, (chains[0], parsed.at) if parent is not None else None)
        if os.environ.get("RANK", "0") == "0":
            print(inert("\n".join(plan.lines(config, found))))
        return 0
    from collapselab import chain

    path, rows = chain.run(config, (chains[0], parsed.at) if parent is not None else None)
    if rows:  # only process 0 has them
        _show(path)
    return 0


def _show(chain: Path) -> None:
    """The table at the end of a run, and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab import report
    from collapselab.rundir import run_root

    page = report.write_report(run_root(chain))
    table = Table(title=Text(str(chain)))
    columns, rows = report.table_rows(report.ChainFiles(chain))
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(f"report: {page}")


def read_experiment(arguments: list[str]) -> tuple[Experiment, int | None]:
    """What a command line and its YAML files ask for, and how many workers."""
    options = make_options("experiment")
    options.add_run_keys()
    options.add("arms", dict, {}, "what each arm changes: {name: {key: value, ...}, ...}; in the YAML file")
    options.add("seeds", list[int], [], "seeds of the chains of each arm, as in [1, 2, 3]")
    options.add("baseline", str | None, None, "the arm that the others are compared with; null means the first")
    options.add("base", str | None, None, "YAML file with settings for all arms, seen from the file that names it")
    options.add("workers", int | None, None, "chains run at once; null means one per GPU, on a CPU one for two cores")
    gathered = options.gather(arguments)
    base = last("base", gathered)
    if base is not None:
        folder = options.origin["base"].parent if "base" in options.origin else Path()
        gathered = options.gather(["--config", str(folder / base), *arguments])
    parsed = options.parse(gathered)
    from collapselab.options import arms_of

    if not parsed.arms:
        raise UserError("arms: give at least one, as in arms: {replace: {mixing.start: 0.0}}")
    if not parsed.seeds or len(set(parsed.seeds)) < len(parsed.seeds):
        raise UserError(f"seeds={parsed.seeds}: give at least one seed, each once, as in seeds: [1, 2, 3]")
    if any(item.startswith("--seed=") for item in gathered):
        raise UserError("seed: an experiment has `seeds`, as in seeds: [1, 2, 3]")
    if parsed.workers is not None and parsed.workers < 1:
        raise UserError(f"--workers={parsed.workers}: must be 1 or more")

    arms = arms_of(options, gathered, parsed.arms)
    baseline = parsed.baseline or next(iter(arms))
    if baseline not in arms:
        raise UserError(f"baseline={baseline!r}: no such arm; arms are {', '.join(arms)}")
    from collapselab.experiment import Experiment

    return Experiment(arms, parsed.seeds, baseline), parsed.workers


def run_experiment(arguments: list[str]) -> int:
    asked, workers = read_experiment(arguments)
    from collapselab import experiment

    quiet()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("accelerate launch: an experiment starts processes of its own; run it without, with --workers")
    failed = experiment.run(asked, workers)
    if len(failed) < len(asked.chains()):
        _compare(asked.root)
    if failed:
        raise UserError(f"{len(failed)} of {len(asked.chains())} chains did not finish: {'; '.join(failed)}")
    return 0


def _compare(root: Path) -> None:
    """The table at the end of an experiment, and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab import report

    page = report.write_report(root)
    title, columns, rows = report.comparison(root)
    table = Table(title=Text(title))
    for column in columns:
        table.add_column(column, justify="left" if column in ("metric", "arm") else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    print(f"report: {page}")

"""Verbs that make chains: run, experiment."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapselab.commands import check_given, last, make_options, print_table, quiet
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.experiment import Experiment
    from collapselab.options import Options


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
    parsed, config = options.parse_run(_where_it_is(options, gathered))
    if (parent is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    check_given(config)
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


def _where_it_is(options: Options, gathered: list[str]) -> list[str]:
    """The options with `runs_dir`, `name` and `arm` from a run's own file as they are now: the run may have been moved, or
    is named from another working directory than it was begun in. What stands on the command line counts as it is."""
    from collapselab.rundir import keys_of_place, settled

    said = dict(item[2:].split("=", 1) for item in gathered if item.startswith("--") and "=" in item)
    for key in [key for key in ("runs_dir", "name", "arm") if key in options.origin]:
        now = keys_of_place(options.origin[key]).get(key, said[key])
        same = key == "runs_dir" and settled(Path(now)).absolute() == settled(Path(said[key])).absolute()
        if now != said[key] and not same:
            gathered = [f"--{key}={now}" if item.startswith(f"--{key}=") else item for item in gathered]
    return gathered


def _show(chain: Path) -> None:
    """The table at the end of a run, and where the report is."""
    from collapselab import report
    from collapselab.rundir import run_root

    page = report.write_report(run_root(chain))
    print_table(str(chain), *report.table_rows(report.ChainFiles(chain)))
    print(f"report: {page}")


def read_experiment(arguments: list[str]) -> tuple[Experiment, Any]:
    """What a command line and its YAML files ask for; and the options, with `workers` and `dry_run`."""
    options = make_options("experiment")
    options.add_run_keys()
    options.add_switch("dry_run", "say for each arm what a chain of it will take, and stop")
    options.add("arms", dict, {}, "what each arm changes: {name: {key: value, ...}, ...}; in the YAML file")
    options.add("seeds", list[int], [], "seeds of the chains of each arm, as in [1, 2, 3]")
    options.add("baseline", str | None, None, "the arm that the others are compared with; null means the first")
    options.add("base", str | None, None, "YAML file with settings for all arms, seen from the file that names it")
    options.add("paper", dict, {}, "of a gallery entry: what was published, and what must show; `reproduce` reads it")
    options.add("workers", int | None, None, "chains run at once; null means one per GPU, on a CPU one for two cores")
    gathered = options.gather(arguments)
    base = last("base", gathered)
    if base is not None:
        folder = options.origin["base"].parent if "base" in options.origin else Path()
        gathered = options.gather(["--config", str(folder / base), *arguments])
    line = _where_it_is(options, gathered)
    from collapselab.options import arms_of, run_config, without_printing

    gathered = without_printing(line)
    parsed = options.parse(gathered)

    if len(gathered) < len(line):  # what cannot work is refused here too
        arms_of(options, gathered, parsed.arms) if parsed.arms else run_config(parsed)
        options.parse(line)  # prints, and exits
    if not parsed.arms:
        raise UserError("arms: give at least one, as in arms: {replace: {mixing.start: 0.0}}")
    if not parsed.seeds or len(set(parsed.seeds)) < len(parsed.seeds):
        raise UserError(f"seeds={parsed.seeds}: give at least one seed, each once, as in seeds: [1, 2, 3]")
    if any(item.startswith("--seed=") for item in gathered):
        raise UserError("seed: an experiment has `seeds`, as in seeds: [1, 2, 3]")
    if any(item.startswith("--arm=") for item in gathered):
        raise UserError("arm: an experiment has `arms`, as in arms: {replace: {mixing.start: 0.0}}")
    if parsed.workers is not None and parsed.workers < 1:
        raise UserError(f"--workers={parsed.workers}: must be 1 or more")

    arms, changes = arms_of(options, gathered, parsed.arms)
    for seed in parsed.seeds:
        dataclasses.replace(next(iter(arms.values())), seed=seed)
    baseline = parsed.baseline or next(iter(arms))
    if baseline not in arms:
        raise UserError(f"baseline={baseline!r}: no such arm; arms are {', '.join(arms)}")
    from collapselab.experiment import Experiment

    return Experiment(arms, changes, parsed.seeds, baseline), parsed


def run_experiment(arguments: list[str]) -> int:
    asked, parsed = read_experiment(arguments)
    for config in asked.arms.values():
        check_given(config)
    from collapselab import experiment

    quiet()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("accelerate launch: an experiment starts processes of its own; run it without, with --workers")
    if parsed.dry_run:
        _plan(asked)
        return 0
    ended = experiment.run(asked, parsed.workers)
    failed = [f"{config.arm} seed {config.seed}: {said}" for config, (how, said) in ended if how == "failed"]
    wrong = [f"{len(failed)} of {len(ended)} chains did not finish: {'; '.join(failed)}"] if failed else []
    try:
        if len(failed) < len(ended):
            _compare(asked)
    except UserError as error:
        if any(how == "done" for _, (how, _) in ended):
            wrong.append(f"no report: {error}")
        else:  # what other processes run has nothing finished yet
            print(f"no report yet: {error}")
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def _plan(asked: Experiment) -> None:
    """What each arm will take, one seed of it."""
    from collapselab import plan
    from collapselab.console import inert
    from collapselab.experiment import as_far

    arms, seeds = len(asked.arms), len(asked.seeds)
    print(
        f"{arms * seeds} chains: arms {arms}, seeds {seeds}. Below, for each arm, its first seed alone; arms that have the"
    )
    print("same generation 0 make it once per seed.")
    for config in asked.chains()[::seeds]:
        config = as_far(config)
        print(inert("\n".join([f"\narm         {config.arm}", *plan.lines(config, plan.plan(config))])))


def _compare(asked: Experiment) -> None:
    """The table at the end of an experiment, and where the report is."""
    from collapselab import report, tracking

    page = report.write_report(asked.root)
    title, columns, rows = report.comparison(asked.root)
    print_table(title, columns, rows, left=("metric", "arm"))
    print(f"report: {page}")
    tracking.send_report(asked.chains()[0], asked.root, page, columns, rows)

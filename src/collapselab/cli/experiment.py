"""Run arms x seeds: chains that differ in named settings, compared with intervals."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapselab.cli.common import check_paths, last_value, make_options, print_table, quiet, with_present_place
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.experiments.experiment import Experiment


def main(arguments: list[str]) -> int:
    asked, parsed = read_experiment(arguments)
    for config in asked.arms.values():
        check_paths(config)
    from collapselab.experiments.run import run

    quiet()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("accelerate launch: an experiment starts its own processes; run it directly, with --workers")
    if parsed.dry_run:
        _plan(asked)
        return 0
    ended = run(asked, parsed.workers)
    failed = [f"{config.arm} seed {config.seed}: {message}" for config, (how, message) in ended if how == "failed"]
    wrong = [f"{len(failed)} of {len(ended)} chains did not finish: {'; '.join(failed)}"] if failed else []
    try:
        if len(failed) < len(ended):
            _compare(asked)
    except UserError as error:
        if any(how == "done" for _, (how, _) in ended):
            wrong.append(f"no report: {error}")
        else:  # chains of other processes have finished nothing yet
            print(f"no report yet: {error}")
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def read_experiment(arguments: list[str]) -> tuple[Experiment, Any]:
    """Read an experiment from a command line and its YAML files; return it, and the options with `workers` and `dry_run`."""
    options = make_options("experiment")
    options.add_run_keys()
    options.add_switch("dry_run", "print what a chain of each arm needs, and stop")
    options.add("arms", dict, {}, "changes of each arm, in the YAML file: {name: {key: value, ...}, ...}")
    options.add("seeds", list[int], [], "seeds of the chains of each arm, as in [1, 2, 3]")
    options.add("baseline", str | None, None, "arm that the others are compared with; null means the first")
    options.add("base", str | None, None, "YAML file with settings for all arms, relative to the file that names it")
    options.add("paper", dict, {}, "published result and criteria of a paper, which `reproduce` reads")
    options.add(
        "workers", int | None, None, "chains run at once; null means one per GPU, or one per two cores of a CPU"
    )
    gathered = options.gather(arguments)
    base = last_value("base", gathered)
    if base is not None:
        folder = options.origin["base"].parent if "base" in options.origin else Path()
        gathered = options.gather(["--config", str(folder / base), *arguments])
    line = with_present_place(options, gathered)
    from collapselab.cli.options import arms_of, run_config, without_printing

    gathered = without_printing(line)
    parsed = options.parse(gathered)

    if len(gathered) < len(line):  # --print-config refuses values that cannot work, too
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
    from collapselab.experiments.experiment import Experiment

    return Experiment(arms, changes, parsed.seeds, baseline), parsed


def _plan(asked: Experiment) -> None:
    """Print what the first seed of each arm needs."""
    from collapselab.chain import plan
    from collapselab.experiments.experiment import keep_finished
    from collapselab.runtime.console import inert

    arms, seeds = len(asked.arms), len(asked.seeds)
    print(
        f"{arms * seeds} chains: arms {arms}, seeds {seeds}. Below is the first seed of each arm by itself; arms with the"
    )
    print("same generation 0 share it for each seed.")
    for config in asked.chains()[::seeds]:
        config = keep_finished(config)
        print(inert("\n".join([f"\narm         {config.arm}", *plan.lines(plan.plan(config))])))


def _compare(asked: Experiment) -> None:
    """Print the table at the end of an experiment, and write and send the report."""
    from collapselab import tracking
    from collapselab.report import pages

    page = pages.write_report(asked.root)
    title, columns, rows = pages.comparison(asked.root)
    print_table(title, columns, rows, left=("metric", "arm"))
    print(f"report: {page}")
    tracking.send_report(asked.chains()[0], asked.root, page, columns, rows)

"""Verbs that read what is there: report, sync, corpus."""

from __future__ import annotations

from pathlib import Path

from collapselab.commands import RUN_HELP, make_options
from collapselab.config import UserError


def report(arguments: list[str]) -> int:
    options = make_options("report")
    options.add_positional("run", f"{RUN_HELP}; of several, one report compares them")
    options.add("out", str | None, None, "also keep tables and figures, without weights and texts, in this folder")
    options.add("command", str | None, None, "with --out: the command that made the run, to stand on the page")
    gathered = options.gather(arguments)
    runs = [item for item in gathered if not item.startswith("--")]
    parsed = options.parse([*runs[:1], *(item for item in gathered if item.startswith("--"))])
    from collapselab.console import inert
    from collapselab.report import write_comparison, write_report
    from collapselab.report.results import write_results

    if len(runs) > 1:
        for key in ("out", "command"):
            if getattr(parsed, key) is not None:
                raise UserError(f"--{key}: keeps the tables of one run; leave it out, or name a single run")
        print(inert(f"report: {write_comparison([Path(run) for run in runs])}"))
        return 0
    print(inert(f"report: {write_report(Path(parsed.run))}"))
    if parsed.out is not None:
        command = parsed.command or f"collapselab run or experiment, into {parsed.run}"
        print(inert(f"kept: {write_results(Path(parsed.run), Path(parsed.out), command)}"))
    return 0


def sync(arguments: list[str]) -> int:
    options = make_options("sync")
    options.add_positional("run", RUN_HELP)
    options.add("wandb", str, "online", "where to replay the rows to: online or offline")
    parsed = options.parse(options.gather(arguments))
    if parsed.wandb not in ("online", "offline"):
        raise UserError(f"wandb={parsed.wandb!r}: must be online or offline")
    from collapselab.console import Console, inert
    from collapselab.options import config_from
    from collapselab.rundir import find_chains
    from collapselab.tracking import replay

    for chain in find_chains(Path(parsed.run)):
        count = replay(config_from(chain / "config.yaml"), chain, Console(), parsed.wandb)
        print(inert(f"{chain}: {count} generations sent"))
    return 0


def corpus(arguments: list[str]) -> int:
    options = make_options("corpus")
    options.add("clear", str | None, None, "remove: `all`, or the beginning of a digest")
    parsed = options.parse(options.gather(arguments))
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from collapselab.console import inert
    from collapselab.corpus import cache_root, cached, clear

    if parsed.clear is not None:
        for name in clear(parsed.clear):
            print(inert(f"removed {name}"))
        return 0
    table = Table(title=Text(f"tokenised text in {cache_root()}"))
    for column in ("digest", "source", "tokenizer", "tokens", "MB"):
        table.add_column(column)
    for row in cached():
        cells = (row["digest"], row["source"], row["tokenizer"], f"{row['tokens']:,}", f"{row['bytes'] / 1e6:.1f}")
        table.add_row(*(Text(inert(cell)) for cell in cells))
    Console().print(table)
    return 0

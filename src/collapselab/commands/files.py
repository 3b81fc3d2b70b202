"""Verbs that read what is there: report, sync, corpus."""

from __future__ import annotations

import json
from pathlib import Path

from collapselab.commands import RUN_HELP, make_options
from collapselab.config import UserError


def report(arguments: list[str]) -> int:
    options = make_options("report")
    options.add_positional("run", f"{RUN_HELP}; of several, one report compares them", nargs="+")
    options.add("out", str | None, None, "also keep tables and figures, without weights and texts, in this folder")
    options.add("command", str | None, None, "with --out: the command that made the run, to stand on the page")
    parsed = options.parse(options.gather(arguments))
    runs = [Path(run) for run in parsed.run]
    from collapselab.console import inert
    from collapselab.rundir import find_chains

    for run in runs:
        find_chains(run)  # before the libraries that draw are imported
    from collapselab.report import write_comparison, write_report
    from collapselab.report.results import write_results

    if len(runs) > 1:
        for key in ("out", "command"):
            if getattr(parsed, key) is not None:
                raise UserError(f"--{key}: keeps the tables of one run; leave it out, or name a single run")
        print(inert(f"report: {write_comparison(runs)}"))
        return 0
    print(inert(f"report: {write_report(runs[0])}"))
    if parsed.out is not None:
        command = parsed.command or f"collapselab run or experiment, into {runs[0]}"
        print(inert(f"kept: {write_results(runs[0], Path(parsed.out), command)}"))
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
    from collapselab.rundir import find_chains, settled
    from collapselab.tracking import replay

    for chain in find_chains(Path(parsed.run)):
        config = config_from(chain / "config.yaml")
        count = replay(config, chain, Console(), parsed.wandb)
        print(inert(f"{chain}: {count} generations sent"))
    root = settled(Path(parsed.run))
    page = root / "report" / "index.html"
    if (root / "experiment.yaml").is_file() and page.is_file():
        from collapselab.report import comparison
        from collapselab.tracking import send_report

        _, columns, rows = comparison(root)
        send_report(config, root, page, columns, rows, parsed.wandb)
    return 0


def corpus(arguments: list[str]) -> int:
    options = make_options("corpus")
    options.add("clear", str | None, None, "remove: `all`, or the beginning of a digest")
    options.add("show", str | None, None, "list what was read: the beginning of a digest, or a corpus.source")
    options.add(
        "data_dir", str | None, None, "with --show: folder of named local corpora; null means $COLLAPSELAB_DATA"
    )
    parsed = options.parse(options.gather(arguments))
    if parsed.show is not None:
        from collapselab.console import inert
        from collapselab.corpus import show

        for found in show(parsed.show, parsed.data_dir):
            print(inert(json.dumps(found, indent=1, ensure_ascii=False)))
        return 0
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

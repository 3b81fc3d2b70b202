"""Run a chain: train, sample, and train again on the samples; continues where it stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.cli.common import check_given, last, make_options, print_table, quiet, where_it_is
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.runtime.console import Console


def main(arguments: list[str]) -> int:
    options = make_options("run")
    options.add_run_keys()
    options.add_switch("dry_run", "say what the run will take, and stop")
    options.add("fork", str | None, None, "start a new arm from this run or chain directory", line_only=True)
    options.add("at", int | None, None, "last generation to take from --fork", line_only=True)
    gathered = options.gather(arguments)
    parent = last("fork", gathered)
    if parent is not None:  # a fork begins with its parent's settings
        from collapselab.store.layout import find_chains

        chains = find_chains(Path(parent))
        if len(chains) > 1:
            raise UserError(f"--fork {parent}: holds {len(chains)} chains; name one of them, as {chains[0]}")
        if last("name", gathered) is None:
            raise UserError(f"--name: give the fork of {parent} a name of its own")
        gathered = options.gather(["--config", str(chains[0] / "config.yaml"), *gathered])
    parsed, config = options.parse_run(where_it_is(options, gathered))
    if (parent is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    check_given(config)
    quiet()
    if parsed.dry_run:
        from collapselab.chain import plan
        from collapselab.runtime.console import inert

        found = plan.plan(config, (chains[0], parsed.at) if parent is not None else None)
        if os.environ.get("RANK", "0") == "0":
            print(inert("\n".join(plan.lines(found))))
        return 0
    from collapselab.chain.run import run

    parent_at = (chains[0], parsed.at) if parent is not None else None
    path, rows = run(config, parent_at, make_report=_attempt_report)
    if rows:  # only process 0 has them
        _show(path)
    return 0


def _attempt_report(chain: Path, console: Console) -> Path | None:
    from collapselab.report.pages import attempt_report  # pandas and matplotlib come with it

    return attempt_report(chain, console)


def _show(chain: Path) -> None:
    """The table at the end of a run, and where the report is."""
    from collapselab.report import files, pages
    from collapselab.store.layout import run_root

    page = pages.write_report(run_root(chain))
    print_table(str(chain), *pages.table_rows(files.ChainFiles(chain)))
    print(f"report: {page}")

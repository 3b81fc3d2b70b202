"""Run a chain: train, sample, and retrain on the samples; resume where it stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from collapselab.cli.common import check_paths, last_value, make_options, print_table, quiet, with_present_place
from collapselab.config import UserError

if TYPE_CHECKING:
    from collapselab.runtime.console import Console


def main(arguments: list[str]) -> int:
    options = make_options("run")
    options.add_run_keys()
    options.add_switch("dry_run", "print what the run needs, and stop")
    options.add("fork", str | None, None, "run or chain directory to start a new arm from", line_only=True)
    options.add("at", int | None, None, "last generation to take from --fork", line_only=True)
    gathered = options.gather(arguments)
    parent = last_value("fork", gathered)
    if parent is not None:  # a fork starts with its parent's settings
        from collapselab.store.layout import find_chains

        chains = find_chains(Path(parent))
        if len(chains) > 1:
            raise UserError(f"--fork {parent}: holds {len(chains)} chains; name one of them, as {chains[0]}")
        if last_value("name", gathered) is None:
            raise UserError(f"--name: give the fork of {parent} its own name")
        gathered = options.gather(["--config", str(chains[0] / "config.yaml"), *gathered])
    parsed, config = options.parse_run(with_present_place(options, gathered))
    if (parent is None) != (parsed.at is None):
        raise UserError("--fork and --at go together: --fork RUN --at GENERATION")
    check_paths(config)
    quiet()
    parent_at = (chains[0], parsed.at) if parent is not None else None
    if parsed.dry_run:
        from collapselab.chain import plan
        from collapselab.runtime.console import inert

        needs = plan.plan(config, parent_at)
        if os.environ.get("RANK", "0") == "0":
            print(inert("\n".join(plan.lines(needs))))
        return 0
    from collapselab.chain.run import run

    path, rows = run(config, parent_at, make_report=_attempt_report)
    if rows:  # process 0 alone has them
        _show(path)
    return 0


def _attempt_report(chain: Path, console: Console) -> Path | None:
    from collapselab.report.pages import attempt_report  # pandas and matplotlib come with it

    return attempt_report(chain, console)


def _show(chain: Path) -> None:
    """Print the table at the end of a run, and write the report."""
    from collapselab.report import files, pages
    from collapselab.store.layout import run_root

    page = pages.write_report(run_root(chain))
    print_table(str(chain), *pages.table_rows(files.ChainFiles(chain)))
    print(f"report: {page}")

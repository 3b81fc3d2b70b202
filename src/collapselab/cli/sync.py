"""Replay a run's metrics.jsonl to wandb."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import RUN_HELP, make_options
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("sync")
    options.add_positional("run", RUN_HELP)
    options.add("wandb", str, "online", "where to replay the rows to: online or offline")
    parsed = options.parse(options.gather(arguments))
    if parsed.wandb not in ("online", "offline"):
        raise UserError(f"wandb={parsed.wandb!r}: must be online or offline")
    from collapselab.cli.options import config_from
    from collapselab.runtime.console import Console, inert
    from collapselab.store.layout import find_chains, settled
    from collapselab.tracking import replay

    for chain in find_chains(Path(parsed.run)):
        config = config_from(chain / "config.yaml")
        count = replay(config, chain, Console(), parsed.wandb)
        print(inert(f"{chain}: {count} generations sent"))
    root = settled(Path(parsed.run))
    page = root / "report" / "index.html"
    if (root / "experiment.yaml").is_file() and page.is_file():
        from collapselab.report.pages import comparison
        from collapselab.tracking import send_report

        _, columns, rows = comparison(root)
        send_report(config, root, page, columns, rows, parsed.wandb)
    return 0

"""Make the report of a run, or one that compares several: index.html, PNGs, CSV."""

from __future__ import annotations

from pathlib import Path

from collapselab.cli.common import RUN_HELP, make_options
from collapselab.config import UserError


def main(arguments: list[str]) -> int:
    options = make_options("report")
    options.add_positional("run", f"{RUN_HELP}; one report compares several", nargs="+")
    options.add("out", str | None, None, "folder to keep tables and figures in as well, without weights and texts")
    options.add("command", str | None, None, "with --out: the command that made the run, to show on the page")
    parsed = options.parse(options.gather(arguments))
    runs = [Path(run) for run in parsed.run]
    from collapselab.config.plugins import check_loaded
    from collapselab.runtime.console import inert
    from collapselab.store.checks import reading
    from collapselab.store.layout import find_chains, run_root

    chains = [chain for run in runs for chain in find_chains(run_root(find_chains(run)[0]))]
    from collapselab.report.files import flat_settings  # torch comes with it

    for settings in (chain / "config.yaml" for chain in chains):  # before the drawing libraries are imported
        with reading(settings):
            check_loaded(flat_settings(settings.read_text(encoding="utf-8")).get("plugins", []))
    from collapselab.report.pages import write_comparison, write_report
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

"""The report of a run or an experiment, or of several compared, made from their files alone: index.html, with figures and
tables beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from collapselab.config import UserError, digest
from collapselab.report import figures, overlay, page, series, tables
from collapselab.report.controls import controls
from collapselab.report.files import ChainFiles, Opened, open_run, open_runs, opened
from collapselab.report.protocols import Group, grouped
from collapselab.runtime.console import Console
from collapselab.store.folders import alone_in, write_bytes, write_text
from collapselab.store.layout import run_root

LONGEST_NAME = 120  # of the folder of a comparison; most file systems take 255 bytes


def page_of(run: Path) -> Path:
    """Where the page of a run lies."""
    return run_root(run) / "report" / "index.html"


def write_report(run: Path) -> Path:
    """Makes report/ of a run anew; returns the path of index.html. Raises UserError where no generation is finished, or
    where nothing can be written.

    Args:
        run: the run directory, or a chain of it, which stands for the whole run.
    """
    found = opened(run)
    return _written(found, run_root(found.chains[0].path) / "report")


def write_comparison(runs: list[Path]) -> Path:
    """One report of several runs, in compared/A+B beside the first; returns the path of index.html. Raises UserError as
    `write_report` does, and for a run that is given twice."""
    found = open_runs(runs)
    names = list(dict.fromkeys(chain.run for chain in found.chains))
    name = "+".join(names)
    if len(name.encode()) > LONGEST_NAME:
        name = f"{names[0][:60]}+{len(names) - 1}-{digest(names)[:12]}"
    return _written(found, run_root(found.chains[0].path).parent / "compared" / name)


def attempt_report(run: Path, console: Console) -> Path | None:
    """Makes the report for a tracker to take along; returns the path of index.html. A chain is finished without one too: what
    goes wrong is said in a line."""
    try:
        return write_report(run)
    except UserError as error:
        console.say(f"note: no report ({error})")
        return None


def _written(found: Opened, out: Path) -> Path:
    try:
        out.mkdir(parents=out.parent.name == "compared", exist_ok=True)
        with alone_in(out):
            return _publish(found, out)
    except OSError as error:
        from collapselab.runtime.errors import FULL, of_disk  # torch comes with it

        if error.errno in FULL:
            raise UserError(of_disk(out, error)) from None
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); remove what is in the way, or make it writable"
        ) from None


def _publish(found: Opened, out: Path) -> Path:
    groups = grouped(found.chains)
    parts = {group.label: tables_of(group, found.baseline) for group in groups}
    made = {
        "metrics": under_protocols(tables.tidy, groups),
        "reference": under_protocols(tables.reference, groups),
        "ledger": tables.ledger(found.chains),
        "distribution": tables.distribution(found.chains),
        **{name: pd.concat([part[name] for part in parts.values()]) for name in ("summary", "changes", "theory")},
    }
    for name, table in made.items():
        if len(table):
            tables.publish(table, out / name)
        else:
            remove(out, f"{name}.csv", f"{name}.parquet")
    drawn = draw_figures(groups, out, [name for name, *_ in figures.FIGURES])
    files = {"tables": [f"{name}.csv" for name, table in made.items() if len(table)], "figures": drawn}
    write_text(out / "index.html", page.render(found, groups, parts, files))
    return out / "index.html"


def under_protocols(make: Callable[[list[ChainFiles]], pd.DataFrame], groups: list[Group]) -> pd.DataFrame:
    """A table of all chains; where they have several protocols, with that of each line in a last column `protocol`."""
    if len(groups) == 1:
        return make(groups[0].chains)
    parts = [make(group.chains).assign(protocol=group.digest[:12]) for group in groups]
    return pd.concat(parts, ignore_index=True)


def tables_of(group: Group, baseline: str | None) -> dict[str, Any]:
    """The tables of one protocol: summary, changes and theory, each line with the protocol that it belongs to."""
    tidy = tables.tidy(group.chains)
    paired = {arm: control.arm for arm, control in controls(group.chains).items()}
    made = {
        "summary": tables.summary(tidy, baseline, paired),
        "changes": tables.changes(tidy, controls=paired),
        "theory": overlay.agreement(group.chains),
    }
    return {name: table.assign(protocol=group.digest[:12]) for name, table in made.items()}


def draw_figures(groups: list[Group], out: Path, names: list[str]) -> list[str]:
    """Writes the named figures of every protocol as PNGs and removes those of an earlier report that this one has not;
    returns the names of the files."""
    made = []
    for group in groups:
        for name, draw in figures.FIGURES:
            png = draw(group.chains) if name in names else None
            if png is not None:
                made.append(f"{name}{group.suffix}.png")
                write_bytes(out / made[-1], png)
    for file in out.glob("*.png"):
        if re.fullmatch(rf"({'|'.join(names)})(-[a-z]\d*)?\.png", file.name) and file.name not in made:
            file.unlink(missing_ok=True)
    return made


def remove(folder: Path, *names: str) -> None:
    """Files of an earlier report that this one has nothing for."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def headline(chains: list[ChainFiles]) -> dict[str, str]:
    """The headline metrics that some chain has, by name."""
    return series.headline(series.keys_of(chain) for chain in chains)


def table_rows(chain: ChainFiles) -> tuple[list[str], list[list[str]]]:
    """The summary table as text, columns and rows: a row per generation, then real text at the same budget."""
    shown = headline([chain])
    out = []
    for row in chain.rows:
        cells = [str(row["generation"]), f"{row['real_share']:.3f}"]
        out.append(cells + [_cell(row["metrics"], key) for key in shown.values()])
    reference = chain.reference["metrics"]
    out.append(["real text", ""] + [_cell(reference, key) for key in shown.values()])
    return ["generation", "real share", *shown], out


def _cell(metrics: dict[str, float], key: str) -> str:
    return f"{metrics[key]:.4g}" if key in metrics else "–"


def comparison(run: Path) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) that compare the arms of a run at the last generation that all of their chains have. Arms of
    different protocols are compared with those of their own alone, at a generation of their own."""
    return compare(*open_run(run))


def compare(chains: list[ChainFiles], baseline: str | None) -> tuple[str, list[str], list[list[str]]]:
    """The same for chains that are open."""
    groups = grouped(chains)
    summaries = [tables_of(group, baseline)["summary"] for group in groups]
    lasts = [tables.last_of_all(group.chains) for group in groups]
    found = [tables.compared(summary, baseline, last) for summary, last in zip(summaries, lasts, strict=True)]
    title, columns, _ = max(found, key=lambda one: len(one[1]))
    if len(groups) > 1:
        title += f"; {len(groups)} protocols, whose numbers do not compare: see the report"
        if len(set(lasts)) > 1:
            each = ", ".join(f"{last} ({group.label})" for last, group in zip(lasts, groups, strict=True))
            title = f"generations {each}:{title.partition(':')[2]}"
    return title, columns, [row + ["–"] * (len(columns) - len(row)) for *_, rows in found for row in rows]

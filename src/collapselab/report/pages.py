"""Reports of a run, or of several runs compared, from their files alone: index.html beside figures and tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from collapselab.config import UserError, digest
from collapselab.report import figures, overlay, page, series, tables
from collapselab.report.controls import controls
from collapselab.report.files import ChainFiles, RunFiles, open_run, open_runs
from collapselab.report.protocols import Group, grouped
from collapselab.runtime.console import Console
from collapselab.store.folders import alone_in, write_bytes, write_text
from collapselab.store.layout import run_root

LONGEST_NAME = 120  # bytes of a comparison's folder name; most file systems allow 255


def write_report(run: Path) -> Path:
    """Rewrite the report of a run, given by its directory or a chain's; return the path of index.html.

    Raises UserError if no generation is finished, or if the folder cannot be written.
    """
    run_files = open_run(run)
    return _write(run_files, run_root(run_files.chains[0].path) / "report")


def write_comparison(runs: list[Path]) -> Path:
    """Write one report of several runs to compared/A+B beside the first; return the path of index.html.

    Raises UserError as `write_report` does, and for a run given twice.
    """
    run_files = open_runs(runs)
    names = list(dict.fromkeys(chain.run for chain in run_files.chains))
    name = "+".join(names)
    if len(name.encode()) > LONGEST_NAME:
        name = f"{names[0][:60]}+{len(names) - 1}-{digest(names)[:12]}"
    return _write(run_files, run_root(run_files.chains[0].path).parent / "compared" / name)


def attempt_report(run: Path, console: Console) -> Path | None:
    """Write the report for a tracker to upload; return the path of index.html, or log one line and return None if it fails."""
    try:
        return write_report(run)
    except UserError as error:
        console.say(f"note: no report ({error})")
        return None


def _write(run_files: RunFiles, out: Path) -> Path:
    try:
        out.mkdir(parents=out.parent.name == "compared", exist_ok=True)
        with alone_in(out):
            return _publish(run_files, out)
    except OSError as error:
        from collapselab.runtime.errors import FULL, of_disk  # torch comes with it

        if error.errno in FULL:
            raise UserError(of_disk(out, error)) from None
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); remove what is in the way, or make it writable"
        ) from None


def _publish(run_files: RunFiles, out: Path) -> Path:
    groups = grouped(run_files.chains)
    parts = {group.label: tables_of(group, run_files.baseline) for group in groups}
    by_name = {
        "metrics": under_protocols(tables.tidy, groups),
        "reference": under_protocols(tables.reference, groups),
        "ledger": tables.ledger(run_files.chains),
        "distribution": tables.distribution(run_files.chains),
        **{name: pd.concat([part[name] for part in parts.values()]) for name in ("summary", "changes", "theory")},
    }
    for name, table in by_name.items():
        if len(table):
            tables.publish(table, out / name)
        else:
            remove(out, f"{name}.csv", f"{name}.parquet")
    drawn = draw_figures(groups, out, [name for name, *_ in figures.FIGURES])
    files = {"tables": [f"{name}.csv" for name, table in by_name.items() if len(table)], "figures": drawn}
    write_text(out / "index.html", page.render(run_files, groups, parts, files))
    return out / "index.html"


def under_protocols(make: Callable[[list[ChainFiles]], pd.DataFrame], groups: list[Group]) -> pd.DataFrame:
    """Build a table of all chains; with several protocols, a last column `protocol` has that of each line."""
    if len(groups) == 1:
        return make(groups[0].chains)
    parts = [make(group.chains).assign(protocol=group.digest[:12]) for group in groups]
    return pd.concat(parts, ignore_index=True)


def tables_of(group: Group, baseline: str | None) -> dict[str, Any]:
    """Build the tables summary, changes and theory of one protocol, with a column `protocol`."""
    tidy = tables.tidy(group.chains)
    paired = {arm: control.arm for arm, control in controls(group.chains).items()}
    by_name = {
        "summary": tables.summary(tidy, baseline, paired),
        "changes": tables.changes(tidy, controls=paired),
        "theory": overlay.agreement(group.chains),
    }
    return {name: table.assign(protocol=group.digest[:12]) for name, table in by_name.items()}


def draw_figures(groups: list[Group], out: Path, names: list[str]) -> list[str]:
    """Write the named figures of every protocol as PNGs and remove stale ones; return the file names."""
    files = []
    for group in groups:
        for name, draw in figures.FIGURES:
            png = draw(group.chains) if name in names else None
            if png is not None:
                files.append(f"{name}{group.suffix}.png")
                write_bytes(out / files[-1], png)
    for file in out.glob("*.png"):
        if re.fullmatch(rf"({'|'.join(names)})(-[a-z]\d*)?\.png", file.name) and file.name not in files:
            file.unlink(missing_ok=True)
    return files


def remove(folder: Path, *names: str) -> None:
    """Remove files of an earlier report that this one does not have."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def headline(chains: list[ChainFiles]) -> dict[str, str]:
    """Headline metrics that some chain has, by name."""
    return series.headline(series.keys_of(chain) for chain in chains)


def table_rows(chain: ChainFiles) -> tuple[list[str], list[list[str]]]:
    """(columns, rows) of a chain's summary as text: a row per generation, then real text at the same budget."""
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
    """Compare the arms of a run, as `compare` does."""
    run_files = open_run(run)
    return compare(run_files.chains, run_files.baseline)


def compare(chains: list[ChainFiles], baseline: str | None) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) comparing arms at the last generation that all of their chains have.

    Each protocol is compared separately, at a generation of its own.
    """
    groups = grouped(chains)
    summaries = [tables_of(group, baseline)["summary"] for group in groups]
    lasts = [tables.last_of_all(group.chains) for group in groups]
    parts = [tables.compared(summary, baseline, last) for summary, last in zip(summaries, lasts, strict=True)]
    title, columns, _ = max(parts, key=lambda one: len(one[1]))
    if len(groups) > 1:
        title += f"; {len(groups)} protocols, whose numbers do not compare: see the report"
        if len(set(lasts)) > 1:
            each = ", ".join(f"{last} ({group.label})" for last, group in zip(lasts, groups, strict=True))
            title = f"generations {each}:{title.partition(':')[2]}"
    return title, columns, [row + ["–"] * (len(columns) - len(row)) for *_, rows in parts for row in rows]

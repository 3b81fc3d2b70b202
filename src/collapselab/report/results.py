"""Results of an experiment to keep in a repository: tables and figures, without weights and texts."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from collapselab.config import UserError
from collapselab.report import overlay, series, tables
from collapselab.report.files import RunFiles, open_run
from collapselab.report.pages import compare, draw_figures, headline, remove
from collapselab.report.protocols import grouped
from collapselab.runtime.console import inert
from collapselab.store.checks import number, reading, text, whole
from collapselab.store.folders import alone_in, manifest_of, read_json, write_bytes, write_text
from collapselab.store.layout import run_root

KEPT = ("python", "torch", "transformers", "collapselab", "numpy", "device", "precision", "threads", "cuda")
FIGURES = ("likelihood", "tails", "theory")
OF_TASKS = ("truth/task/", "theory/truth/task/", "theory/tables/", "task/", "judge/")  # scores of answers and of judges


def write_results(run: Path, out: Path, command: str) -> Path:
    """Write table.md, metrics.csv (headline metrics, those with a law, of tasks and of judges), theory.csv, figures and
    experiment.yaml into `out`; return the path of table.md.

    Stale files of an earlier call are removed. Raises UserError if `out` cannot be written.

    Args:
        command: the command that made the run, for table.md.
    """
    run_files = open_run(run)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone_in(out):
            return _write(run_files, out, command)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); choose another folder") from None


def _write(run_files: RunFiles, out: Path, command: str) -> Path:
    chains = run_files.chains
    root = run_root(chains[0].path)
    laws, metrics = overlay.agreement(chains), tables.tidy(chains)
    shown = [*headline(chains).values(), *series.tails(chains), *overlay.TITLES, "real_share"]
    kept = metrics[metrics["metric"].isin(shown) | metrics["metric"].str.startswith(OF_TASKS)]
    write_bytes(out / "metrics.csv", kept.to_csv(index=False, float_format="%.6g").encode())
    if len(laws):
        write_bytes(out / "theory.csv", laws.to_csv(index=False, float_format="%.6g").encode())
    else:
        remove(out, "theory.csv")
    draw_figures(grouped(chains), out, list(FIGURES))
    if (root / "experiment.yaml").is_file():
        shutil.copy(root / "experiment.yaml", out / "experiment.yaml")
    else:
        remove(out, "experiment.yaml")
    environment = {key: chains[0].environment.get(key) for key in KEPT}
    stages = {
        chain.chain.stage(row["generation"], s) for chain in chains for row in chain.rows for s in chain.chain.stages(1)
    }
    seconds = sum(_seconds(place) for place in stages)
    title, columns, rows = compare(chains, run_files.baseline)
    parts = [
        f"# {_plain(root.name)}",
        f"Made by `{inert(command)}`.",
        f"{len(chains)} chains: " + ", ".join(f"{arm} ({len(m)} seeds)" for arm, m in overlay.by_arm(chains).items()),
        f"Computing time of all stages together: {seconds:,.0f} s.{_wall(root)}",
        "Machine: " + ", ".join(f"{key} {_plain(value)}" for key, value in environment.items() if value is not None),
        f"## At {title}",
        tables.markdown(columns, rows, rule="|---"),
    ]
    if len(laws):
        parts += ["## Beside exact theory", _law_table(laws)]
    write_text(out / "table.md", "\n\n".join(parts) + "\n")
    return out / "table.md"


def _seconds(place: Path) -> float:
    manifest = manifest_of(place, check="nothing")
    with reading(place / "manifest.json"):
        return number(manifest["time"]["seconds"]) if manifest else 0.0


def _wall(root: Path) -> str:
    if not (root / "timing.json").is_file():
        return ""
    timing = read_json(root / "timing.json")
    with reading(root / "timing.json"):
        used = [call for call in timing["calls"] if whole(call["stages"])]
        calls = [(number(call["seconds"]), whole(call["workers"]), _plain(text(call["date"]))) for call in used]
    if not calls:
        return ""
    seconds, workers = sum(seconds for seconds, *_ in calls), sorted({workers for _, workers, _ in calls})
    times = "one call" if len(calls) == 1 else f"{len(calls)} calls"
    return f" It took {seconds:,.0f} s in {times}, {' or '.join(map(str, workers))} at a time, {calls[-1][-1]}."


def _plain(value: Any) -> str:
    """Shorten a value for Markdown, without control characters or markup."""
    return html.escape(inert(" ".join(str(value)[:100].split())))


def _law_table(laws: pd.DataFrame) -> str:
    """Tables of the largest difference per metric and arm, and of every generation of the first metric."""
    shown = laws.copy()
    for column in ("measured", "law", "difference", "se"):
        shown[column] = shown[column].map(lambda value: f"{value:.4f}")
    shown["holds"] = shown["holds"].map({True: "yes", False: "NO"}).fillna("–")
    worst = laws.assign(size=laws["difference"].abs()).groupby(["metric", "arm"], sort=False)["size"].idxmax()
    every = shown.set_index("metric").loc[[laws["metric"].iloc[0]]].reset_index()
    largest, others = (tables.markdown(part, part.to_numpy(), rule="|---") for part in (shown.loc[worst], every))
    return (
        "Largest difference of each arm (holds: within max(3 s.e., .02)):\n\n"
        f"{largest}\n\nEvery generation:\n\n{others}"
    )

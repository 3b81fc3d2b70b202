"""Files of a verdict: results/NAME/ with verdict.json, table.md, figure.png, metrics.csv and the settings.

scripts/papers_page.py generates docs/papers.md from these files and the entries alone.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collapselab.config import UserError
from collapselab.config.values import flatten
from collapselab.report import tables
from collapselab.reproduce.courses import Measured
from collapselab.reproduce.entries import Entry
from collapselab.reproduce.verdicts import Assessment, Verdict
from collapselab.runtime.console import inert
from collapselab.store.folders import alone_in, read_json, write_bytes, write_json, write_text
from collapselab.store.yaml_files import load_yaml

SCHEMA = 1
LAW = "law_"  # law_x is the value of x expected by theory
READ = (
    "Ours: mean over seeds ± half of the 95 % interval. Narrowly: a bound lies within that interval, and other seeds may turn "
    "it. Published: a line of the table of what was published, or computed by us from its lines."
)
KEPT = ("python", "torch", "transformers", "collapselab", "numpy", "device", "precision", "threads", "cpus", "cuda")


def place_of(out: Path, verdict: Verdict) -> Path:
    """Folder of a verdict: the entry's own, or a subfolder named by the seeds if these are not the entry's."""
    place = out / verdict.entry.name
    return place if verdict.seeds == verdict.entry.seeds else place / f"seeds={'-'.join(map(str, verdict.seeds))}"


def write(verdict: Verdict, out: Path, command: str, workers: int | None) -> Path:
    """Write a verdict and return its folder. A NOT RUN does not replace an earlier measurement.

    Raises UserError if the folder cannot be written.
    """
    place = place_of(out, verdict)
    if verdict.word == "NOT RUN" and (old := read(place)) is not None and old["verdict"] != "NOT RUN":
        return place
    kept = record(verdict, command, workers)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with alone_in(place):
            if verdict.measured is not None:
                table = tidy(verdict.measured, verdict.entry)
                write_bytes(place / "metrics.csv", table.to_csv(index=False, float_format="%.6g").encode())
                write_bytes(place / "figure.png", _figure(verdict.entry, verdict.measured))
                name = "experiment.yaml" if verdict.entry.simulation is None else "simulation.yaml"
                write_text(place / name, verdict.settings)
            write_text(place / "table.md", page(verdict.entry, kept))
            write_json(place / "verdict.json", kept)  # last: its readers rely on the other files
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); choose another folder") from None
    return place


def read(place: Path) -> dict[str, Any] | None:
    """Read the verdict.json of a folder; None if there is none. Raises UserError if it is damaged."""
    path = place / "verdict.json"
    if not path.is_file():
        return None
    verdict = read_json(path)
    if not isinstance(verdict, dict) or verdict.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a verdict of this version; run the entry again")
    return verdict


def record(verdict: Verdict, command: str, workers: int | None) -> dict[str, Any]:
    """Content of verdict.json: numbers with six digits, nan as null."""
    environment = {key: verdict.environment[key] for key in KEPT if verdict.environment.get(key) is not None}
    return {
        "schema": SCHEMA,
        "entry": verdict.entry.name,
        "entry_digest": verdict.entry.digest,
        "verdict": verdict.word,
        "reason": verdict.reason,
        "criteria": [_judged(one) for one in verdict.judged],
        **({"power": [_judged(one) for one in verdict.power]} if verdict.power else {}),
        "seeds": verdict.seeds,
        "workers": workers,
        "seconds": round(verdict.seconds, 1),
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "environment": environment,
    }


def _judged(one: Assessment) -> dict[str, Any]:
    keys = ("says", "of", "at_least", "at_most", "bound", "published")
    numbers: dict[str, Any] = {key: _six(getattr(one, key)) for key in ("mean", "low", "high")}
    numbers |= {"by_seed": [_six(value) for value in one.values], "holds": one.holds}
    return {key: getattr(one.criterion, key) for key in keys} | numbers


def _six(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def tidy(measured: Measured, entry: Entry) -> pd.DataFrame:
    """Table of the quantities that criteria and figure use, one value per row.

    Columns arm, quantity, chain (from 0, in the order of the seeds), generation (none for real text), value.
    """
    used = set(re.findall(r"\w+\.\w+", " ".join(one.of for one in (*entry.criteria, *entry.power))))
    rows: list[tuple[str, str, int, int | None, float]] = []
    for arm, quantities in measured.arms.items():
        for name, course in quantities.items():
            if f"{arm}.{name}" not in used and name.removeprefix(LAW) not in entry.plot and name not in entry.plot:
                continue
            for (chain, g), value in np.ndenumerate(course):
                rows.append((arm, name, chain, g, value))
    for name, values in measured.real.items():
        rows += [("real", name, chain, None, value) for chain, value in enumerate(values[:, 0])]
    table = pd.DataFrame(rows, columns=["arm", "quantity", "chain", "generation", "value"])
    return table.astype({"generation": "Int64"})


def _figure(entry: Entry, measured: Measured) -> bytes:
    from collapselab.reproduce.figure import draw

    def arrays(quantity: str) -> dict[str, np.ndarray]:
        return {arm: courses[quantity] for arm, courses in measured.arms.items() if quantity in courses}

    panels = {quantity: arrays(quantity) for quantity in entry.plot}
    real = {quantity: float(measured.real[quantity].mean()) for quantity in entry.plot if quantity in measured.real}
    panels = {quantity: arms for quantity, arms in panels.items() if arms}
    laws = {quantity: arrays(f"{LAW}{quantity}") for quantity in entry.plot}
    real = {quantity: value for quantity, value in real.items() if np.isfinite(value)}
    return draw(panels, laws, real, entry.quantities, controls_of(entry))


def controls_of(entry: Entry) -> list[str]:
    """Arms of an entry that are all-real controls."""
    arms = load_yaml(entry.path).get("arms") or {}
    return [arm for arm, changes in arms.items() if flatten(changes or {}).get("sampling.source") == "real"]


# --- in words -----------------------------------------------------------------------------------------------------------


def page(entry: Entry, kept: dict[str, Any]) -> str:
    """Content of table.md: the verdict, its numbers, and how they were computed."""
    verdict = f"Verdict: **{kept['verdict']}**" + (f": {inert(kept['reason'])}." if kept["reason"] else ".")
    made = f"Made on {kept['date']}; rerun it with `{inert(kept['command'])}`"
    parts = [f"# {entry.title}", f"{entry.cite}. {verdict}"]
    if kept["criteria"]:
        seeds = f"{len(kept['seeds'])} seeds ({', '.join(map(str, kept['seeds']))})"
        workers = f", {kept['workers']} chains at a time" if kept["workers"] else ""
        machine = ", ".join(f"{key} {value}" for key, value in kept["environment"].items())
        parts += [
            f"{made}: {seeds}, {kept['seconds']:,.0f} s{workers}. Machine: {machine}.",
            *criteria_tables(kept),
            f"{READ} A criterion holds where the mean lies within its bounds.",
            "![What was measured](figure.png)",
        ]
    else:
        parts += [f"{made}.", markdown(["what must show", "bound"], [[c.says, c.bound] for c in entry.criteria])]
    parts += ["## Published", published_table(entry), *prose(entry)]
    return "\n\n".join(parts) + "\n"


def prose(entry: Entry) -> list[str]:
    """Paragraphs on the paper's setting, open choices, the small form, differences and changes."""
    parts = [f"**Their setting.** {entry.protocol}", f"**What it leaves open, and what we chose.** {entry.open}"]
    parts += [f"**The small form.** {entry.small}"] if entry.small else []
    parts += [f"**What differs.** {entry.differs}"] if entry.differs else []
    if entry.changed:
        parts += ["**Changes after results had been seen.**", "\n".join(f"- {one}" for one in entry.changed)]
    return parts


def published_table(entry: Entry) -> str:
    return markdown(["published", "value", "source"], [[p.what, p.value, p.source] for p in entry.published])


def criteria_tables(kept: dict[str, Any]) -> list[str]:
    """Tables of the criteria and, if there are any, of the conditions of power."""
    heads = {"criteria": "what must show", "power": "what the criteria need to be able to tell"}
    tables = []
    for key in [key for key in heads if kept.get(key)]:
        rows = [[one["says"], one["published"] or "–", ours(one), one["bound"], holds(one)] for one in kept[key]]
        tables.append(markdown([heads[key], "published", "ours", "bound", "holds"], rows))
    return tables


def holds(one: dict[str, Any]) -> str:
    """`yes` or `no`; `narrowly` if the interval crosses a bound, so that other seeds may turn it."""
    word = "yes" if one["holds"] else "**no**"
    low, high, ends = one["low"], one["high"], [one["at_least"], one["at_most"]]
    close = low is not None and low < high and any(end is not None and low < end < high for end in ends)
    return f"{word}, narrowly" if close else word


def ours(one: dict[str, Any]) -> str:
    """`0.412 ± 0.023`: the mean over seeds and half of its 95 % interval."""
    from collapselab.metrics.intervals import with_interval

    if one["mean"] is None:
        return "no value"
    return with_interval(one["mean"], float("nan") if one["low"] is None else one["low"])


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table, with its cells escaped."""
    return tables.markdown(columns, [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows])

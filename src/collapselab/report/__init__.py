"""The report of a run, made from its files alone: index.html with the curves, PNGs and a CSV beside it."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import jinja2

from collapselab.config import UserError
from collapselab.metrics import HEADLINE
from collapselab.report import figures
from collapselab.rundir import find_chains, read_json, read_metrics, run_root, write_bytes, write_text

COLUMNS = ("generation", "real share", *HEADLINE)


class ChainFiles:
    """What a report needs of one chain."""

    def __init__(self, path: Path):
        self.path = path
        self.name = f"{path.parent.name.removeprefix('arm=')}, {path.name.replace('=', ' ')}"
        self.rows = read_metrics(path)
        self.reference: dict[str, Any] = read_json(path / "reference" / "eval.json")
        self.config = (path / "config.yaml").read_text(encoding="utf-8")
        note = read_json(path / "environment.json").get("note", "")
        self.note = note.removeprefix("note: ").capitalize()
        self.protocol = read_json(path / "gen_000" / "eval" / "eval.json")["protocol"]

    def generation(self, g: int, *parts: str) -> Any:
        return read_json(self.path.joinpath(f"gen_{g:03d}", *parts))

    @property
    def ledgers(self) -> list[dict[str, dict[str, int]]]:
        return [self.generation(row["generation"], "mixture", "mixture.json")["tokens"] for row in self.rows]

    @property
    def examples(self) -> list[tuple[int, list[str]]]:
        return [(row["generation"], self.generation(row["generation"], "eval", "examples.json")) for row in self.rows]


def table_rows(chain: ChainFiles) -> list[list[str]]:
    """The summary table as text: a row per generation, then real text at the same budget."""
    out = []
    for row in chain.rows:
        cells = [str(row["generation"]), f"{row['real_share']:.3f}"]
        out.append(cells + [_cell(row["metrics"], key) for key in HEADLINE.values()])
    reference = chain.reference["metrics"]
    out.append(["real text", ""] + [_cell(reference, key) for key in HEADLINE.values()])
    return out


def _cell(metrics: dict[str, float], key: str) -> str:
    return f"{metrics[key]:.4g}" if key in metrics else "–"


def write_report(run: Path) -> Path:
    """Makes report/ of a run anew; returns the path of index.html. Raises UserError where no generation is finished."""
    started = find_chains(run)
    chains = [ChainFiles(path) for path in started if (path / "gen_000" / "eval" / "manifest.json").is_file()]
    if not chains:
        raise UserError(f"{run}: no generation is finished yet; continue the run first")
    out = run_root(chains[0].path) / "report"
    out.mkdir(exist_ok=True)
    images = []
    for name, title, caption, draw in figures.FIGURES:
        png = draw(chains)
        write_bytes(out / f"{name}.png", png)
        images.append({"title": title, "caption": caption, "data": base64.b64encode(png).decode()})
    write_text(out / "metrics.csv", tidy_csv(chains))
    environment = jinja2.Environment(loader=jinja2.PackageLoader("collapselab.report", "."), autoescape=True)
    page = environment.get_template("page.html.jinja").render(
        name=run_root(chains[0].path).name,
        chains=[
            {
                "name": chain.name,
                "table": table_rows(chain),
                "examples": chain.examples,
                "protocol": sorted(chain.protocol.items()),
                "config": chain.config,
                "note": chain.note,
            }
            for chain in chains
        ],
        columns=COLUMNS,
        images=images,
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def tidy_csv(chains: list[ChainFiles]) -> str:
    """One row per chain, generation, metric and value; real text stands as generation `real`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "generation", "real_share", "metric", "value"])
    for chain in chains:
        for row in chain.rows:
            for key, value in sorted(row["metrics"].items()):
                writer.writerow([row["arm"], row["seed"], row["generation"], row["real_share"], key, repr(value)])
        for key, value in sorted(chain.reference["metrics"].items()):
            first = chain.rows[0]
            writer.writerow([first["arm"], first["seed"], "real", "", key, repr(value)])
    return text.getvalue()

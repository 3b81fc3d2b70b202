"""The report of a run or an experiment, made from its files alone: index.html with the curves, PNGs and tables beside it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from collapselab.config import UserError
from collapselab.metrics import HEADLINE
from collapselab.report import figures, overlay, tables
from collapselab.rundir import Chain, find_chains, read_json, read_metrics, run_root, write_bytes, write_text


class ChainFiles:
    """What a report needs of one chain."""

    def __init__(self, path: Path):
        named = re.fullmatch(r"arm=(.+)/seed=(\d+)", f"{path.parent.name}/{path.name}")
        if named is None:
            raise UserError(
                f"{path}: a chain lies in arm=NAME/seed=NUMBER; give the folder its name back, or remove it"
            )
        self.path, self.chain = path, Chain(path)
        self.arm, self.seed = named[1], int(named[2])
        self.name = f"{self.arm}, seed {self.seed}"
        self.rows = read_metrics(path)
        self.reference: dict[str, Any] = read_json(self.chain.stage(0, "reference") / "eval.json")
        self.config = (path / "config.yaml").read_text(encoding="utf-8")
        note = self.environment.get("note", "")
        self.note = note.removeprefix("note: ").capitalize()
        self.protocol = self.generation(0, "eval", "eval.json")["protocol"]

    @property
    def environment(self) -> dict[str, Any]:
        return dict(read_json(self.path / "environment.json"))

    def generation(self, g: int, stage: str, file: str) -> Any:
        return read_json(self.chain.stage(g, stage) / file)

    @property
    def ledgers(self) -> list[dict[str, dict[str, int]]]:
        return [self.generation(row["generation"], "mixture", "mixture.json")["tokens"] for row in self.rows]

    @property
    def examples(self) -> list[tuple[int, list[str]]]:
        return [(row["generation"], self.generation(row["generation"], "eval", "examples.json")) for row in self.rows]


def headline(chains: list[ChainFiles]) -> dict[str, str]:
    """The headline metrics that some chain has, by name."""
    has = {key for chain in chains for row in chain.rows for key in row["metrics"]}
    return {name: key for name, key in HEADLINE.items() if key in has}


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


def open_run(run: Path) -> tuple[list[ChainFiles], str | None]:
    """The chains of a run that have a finished generation, in the order of the experiment's arms, and the baseline arm.

    Args:
        run: the run directory, or a chain of it, which stands for the whole run.

    Raises UserError where no generation is finished.
    """
    root = run_root(find_chains(run)[0])
    chains = [
        ChainFiles(path) for path in find_chains(root) if (path / "metrics.jsonl").is_file() and read_metrics(path)
    ]
    if not chains:
        raise UserError(f"{run}: no generation is finished yet; continue the run first")
    order, baseline = _asked(root / "experiment.yaml")
    order += sorted({chain.arm for chain in chains} - set(order))
    return sorted(chains, key=lambda chain: (order.index(chain.arm), chain.seed)), baseline


def _asked(path: Path) -> tuple[list[str], str | None]:
    """(arms in their order, baseline) of an experiment; nothing where there is none. Raises UserError for a broken file."""
    if not path.is_file():
        return [], None
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        arms, baseline = list(map(str, tree["arms"].keys())), tree["baseline"]
    except (OSError, ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not written by this lab (it needs arms and baseline); run the experiment again to have it rewritten"
        ) from None
    return arms, None if baseline is None else str(baseline)


def write_report(run: Path) -> Path:
    """Makes report/ of a run anew; returns the path of index.html. Raises UserError where no generation is finished, or
    where nothing can be written."""
    chains, baseline = open_run(run)
    out = run_root(chains[0].path) / "report"
    try:
        return _publish(chains, baseline, out)
    except OSError as error:
        from collapselab.faults import FULL, of_disk  # torch comes with it

        if error.errno in FULL:
            raise UserError(of_disk(out, error)) from None
        raise UserError(f"{out}: cannot be written ({error.strerror}); remove what is in the way") from None


def _publish(chains: list[ChainFiles], baseline: str | None, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    metrics = tables.tidy(chains)
    summary = tables.summary(metrics, baseline)
    laws = overlay.agreement(chains)
    for name, table in (("metrics", metrics), ("reference", tables.reference(chains)), ("summary", summary)):
        tables.publish(table, out / name)
    if len(laws):
        tables.publish(laws, out / "theory")
    else:
        remove(out, "theory.csv", "theory.parquet")
    images = []
    for name, title, caption, draw in figures.FIGURES:
        png = draw(chains)
        if png is None:
            remove(out, f"{name}.png")
            continue
        write_bytes(out / f"{name}.png", png)
        images.append({"title": title, "caption": caption, "data": base64.b64encode(png).decode()})
    title, columns, rows = compared(summary, baseline, last_of_all(chains))
    environment = jinja2.Environment(loader=jinja2.PackageLoader("collapselab.report", "."), autoescape=True)
    page = environment.get_template("page.html.jinja").render(
        name=run_root(chains[0].path).name,
        comparison={"title": title, "columns": columns, "rows": rows} if len(chains) > 1 else None,
        single=sorted({chain.arm for chain in chains if sum(c.arm == chain.arm for c in chains) == 1}),
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
        images=images,
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def remove(folder: Path, *names: str) -> None:
    """Files of an earlier report that this one has nothing for."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def comparison(run: Path) -> tuple[str, list[str], list[list[str]]]:
    """(title, columns, rows) that compare the arms of a run at the last generation that all of their chains have."""
    chains, baseline = open_run(run)
    return compared(tables.summary(tables.tidy(chains), baseline), baseline, last_of_all(chains))


def last_of_all(chains: list[ChainFiles]) -> int:
    """The last generation that every chain has."""
    return min(len(chain.rows) for chain in chains) - 1


def compared(summary: pd.DataFrame, baseline: str | None, last: int) -> tuple[str, list[str], list[list[str]]]:
    """One row per headline metric and arm: chains, mean and half-width of the 95 % interval, and the same of the
    difference to the baseline.

    Args:
        last: the generation at which they are compared.
    """
    baseline = baseline if summary["arm"].nunique() > 1 else None
    at_last = summary[summary["generation"] == last].set_index(["metric", "arm"])
    columns = ["metric", "arm", "chains", "mean"] + ([f"minus {baseline}"] if baseline is not None else [])
    rows = []
    for name, key in HEADLINE.items():
        for arm in dict.fromkeys(summary["arm"]):
            if (key, arm) not in at_last.index:
                continue
            found = at_last.loc[(key, arm)]
            cells = [name, str(arm), str(int(found["chains"])), tables.with_interval(found["mean"], found["low"])]
            if baseline is not None:
                pairs = bool(found["pairs"])
                cells.append(tables.with_interval(found["difference"], found["difference_low"]) if pairs else "–")
            rows.append(cells)
    return f"generation {last}: mean over chains ± half of the 95 % interval", columns, rows

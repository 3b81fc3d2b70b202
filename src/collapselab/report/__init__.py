"""The report of a run or an experiment, made from its files alone: index.html with the curves, PNGs and tables beside it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from collapselab.config import RunConfig, UserError
from collapselab.console import inert
from collapselab.folders import read_json, write_bytes, write_text
from collapselab.guards import metrics, number, reading, text, whole
from collapselab.metrics import HEADLINE
from collapselab.mixing import read_mixture
from collapselab.report import figures, overlay, tables
from collapselab.rundir import Chain, find_chains, read_metrics, run_root


class ChainFiles:
    """What a report needs of one chain. Raises UserError that names the file which this lab cannot have written."""

    def __init__(self, path: Path):
        named = re.fullmatch(r"arm=(.+)/seed=(\d+)", f"{path.parent.name}/{path.name}")
        if named is None:
            raise UserError(
                f"{path}: a chain lies in arm=NAME/seed=NUMBER; give the folder its name back, or remove it"
            )
        self.path, self.chain = path, Chain(path)
        self.arm, self.seed = named[1], int(named[2])
        try:
            RunConfig(
                arm=self.arm, seed=self.seed
            )  # the rule for names: one that begins with = is a formula in a table
        except UserError as error:
            raise UserError(f"{path}: {error}; give the folder such a name") from None
        self.name = f"{self.arm}, seed {self.seed}"
        rows = read_metrics(path)
        with reading(path / "metrics.jsonl"):
            self.rows = [_row(row, generation) for generation, row in enumerate(rows)]
        scores = self.chain.stage(0, "reference") / "eval.json"
        found = read_json(scores)
        with reading(scores):
            self.reference: dict[str, Any] = {"metrics": metrics(found["metrics"])}
        with reading(path / "config.yaml"):
            self.config = (path / "config.yaml").read_text(encoding="utf-8")
        environment = read_json(path / "environment.json")
        with reading(path / "environment.json"):
            self.environment = {text(key): value for key, value in environment.items()}
            self.note = text(environment.get("note", "")).removeprefix("note: ").capitalize()
        scores = self.chain.stage(0, "eval") / "eval.json"
        found = read_json(scores) if rows else {"protocol": {}, "sums": {}}
        with reading(scores):
            self.protocol = {text(key): _short(value) for key, value in found["protocol"].items()}
            by_frequency = found["sums"].get("real/nll_by_frequency", {})
            self.scored = {text(bucket): number(sums["tokens"]) for bucket, sums in by_frequency.items()}
        self.ledgers = [read_mixture(self.chain.stage(g, "mixture"))["tokens"] for g in range(len(rows))]
        self.examples = [(g, _examples(self.chain.stage(g, "eval") / "examples.json")) for g in range(len(rows))]


def _row(row: dict[str, Any], generation: int) -> dict[str, Any]:
    """A line of metrics.jsonl as far as a report uses it. Raises what `reading` turns into an error."""
    if whole(row["generation"]) != generation:
        raise ValueError(f"line {generation + 1} is about generation {row['generation']}")
    return {
        "generation": generation,
        "real_share": number(row["real_share"]),
        "metrics": metrics(row["metrics"]),
    }


def _examples(path: Path) -> list[str]:
    found = read_json(path)
    with reading(path):
        return [text(one) for one in found]


def _short(value: Any) -> Any:
    """A value of the protocol, which is a number or a few words."""
    return value if isinstance(value, int | float | str | None) else json.dumps(value)


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
        asked = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(asked, yaml.SafeLoader)):
            raise ValueError("a few lines of references to references can stand for more than fits in memory")
        tree = yaml.safe_load(asked)
        arms, baseline = list(map(text, tree["arms"].keys())), tree["baseline"]
        if baseline is not None:
            text(baseline)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not written by this lab (it needs arms and baseline); run the experiment again to have it rewritten"
        ) from None
    return arms, baseline


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
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); remove what is in the way, or make it writable"
        ) from None


def _publish(chains: list[ChainFiles], baseline: str | None, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    tidy = tables.tidy(chains)
    summary = tables.summary(tidy, baseline)
    laws = overlay.agreement(chains)
    for name, table in (("metrics", tidy), ("reference", tables.reference(chains)), ("summary", summary)):
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
    loader = jinja2.PackageLoader("collapselab.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, finalize=_shown)
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


def _shown(value: Any) -> Any:
    """What every expression of the page passes through, before it is escaped: marks that reorder text, control characters
    and half characters, which no encoder takes, are shown as one sign."""
    return inert(value) if isinstance(value, str) else value


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

"""Finished runs as pandas frames and plotly figures, for notebooks: `collapselab.load("runs/demo")`."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from collapselab.config import UserError
from collapselab.mixing.sets import read_meta
from collapselab.report import tables
from collapselab.report.files import ChainFiles, RunFiles, open_run, open_runs
from collapselab.report.pages import tables_of, under_protocols
from collapselab.report.protocols import grouped
from collapselab.runtime.console import inert
from collapselab.store.checks import reading
from collapselab.store.folders import sha256_of

PLACE = ["arm", "seed", "generation"]


@dataclass(frozen=True, eq=False)
class Results:
    """One run, or several to compare, as of loading. Arms of several runs are named RUN/ARM.

    Frames: `metrics`, `summary`, `changes`, `theory`, `reference`, `ledger`, `config`, and by call `wide()` and
    `samples()`, with the columns of the report's CSV files.
    Figures: `figures`, by their names in the report.
    """

    name: str
    _files: RunFiles = field(repr=False)

    @property
    def _chains(self) -> list[ChainFiles]:
        return self._files.chains

    @cached_property
    def _parts(self) -> dict[str, pd.DataFrame]:
        """Tables that compare chains, each line with its protocol."""
        parts = [tables_of(group, self._files.baseline) for group in grouped(self._chains)]
        return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Columns arm, seed, generation, metric, value; `real_share` is the real share of a training set. With several
        protocols, the last column is `protocol`."""
        return under_protocols(tables.tidy, grouped(self._chains))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over the chains of an arm with 95 % intervals, and paired differences to the baseline arm."""
        return self._parts["summary"]

    @cached_property
    def changes(self) -> pd.DataFrame:
        """Change of each metric since generation 0, with 95 % intervals over the chains of an arm."""
        return self._parts["changes"]

    @cached_property
    def theory(self) -> pd.DataFrame:
        """Measured and expected values of every metric with a law."""
        return self._parts["theory"]

    @cached_property
    def reference(self) -> pd.DataFrame:
        """Scores of fresh real text at the same budget: columns arm, seed, metric, value, and with several protocols
        `protocol`."""
        return under_protocols(tables.reference, grouped(self._chains))

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """Tokens of each training set by source: columns arm, seed, generation, source, and the tokens in the set, shown
        (all epochs) and in the loss."""
        return tables.ledger(self._chains)

    @cached_property
    def config(self) -> pd.DataFrame:
        """A row per chain and a column per dotted key; numbers compare only within one `protocol`."""
        rows = []
        for group in grouped(self._chains):
            for chain in group.chains:
                keys = {inert(k): inert(v) if isinstance(v, str) else v for k, v in chain.settings.items()}
                place: dict[str, Any] = {"arm": chain.arm, "seed": chain.seed, "protocol": group.digest[:12]}
                rows.append(place | keys | place)
        return pd.DataFrame(rows)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """Figures of the report as plotly's `Figure` by name. Each protocol has its own; the second one's names end with
        -b."""
        from plotly import graph_objects  # type: ignore[import-untyped]

        from collapselab.report.charts import CHARTS

        specs = {f"{name}{g.suffix}": draw(g.chains) for g in grouped(self._chains) for name, _, _, draw in CHARTS}
        return {name: graph_objects.Figure(spec) for name, spec in specs.items() if spec is not None}

    def wide(self, *metrics: str) -> pd.DataFrame:
        """Table with a row per arm, seed and generation (the index) and a column per metric; by default all metrics.

        Raises UserError for a metric that no chain has.
        """
        rows = [
            {"arm": chain.arm, "seed": chain.seed} | row | row["metrics"]
            for chain in self._chains
            for row in chain.rows
        ]
        table = pd.DataFrame(rows).drop(columns="metrics").set_index(PLACE)
        if wrong := [name for name in metrics if name not in table]:
            raise UserError(f"wide({wrong[0]!r}): no chain has this metric; .metrics['metric'].unique() lists them")
        return table[list(metrics)] if metrics else table

    def samples(
        self, generation: int | None = None, arm: str | None = None, seed: int | None = None, count: int = 5
    ) -> pd.DataFrame:
        """Table of samples: columns arm, seed, generation, sequence (its number) and text, prompt included.

        Control characters and marks that reorder text are replaced; `collapselab export` has the tokens.

        Args:
            generation: by default the last finished one of each chain; chains without it are left out.
            arm, seed: select chains.
            count: number of sequences of each chain, from the first.

        Raises UserError if there is no such chain or generation, or its files are not in the lab's format.
        """
        if type(count) is not int or count < 1:
            raise UserError(f"samples(count={count!r}): must be a whole number of 1 or more")
        chains = [c for c in self._chains if arm in (None, c.arm) and seed in (None, c.seed)]
        pairs = [(chain, len(chain.rows) - 1 if generation is None else generation) for chain in chains]
        pairs = [(chain, g) for chain, g in pairs if 0 <= g < len(chain.rows)]
        if not pairs:
            arms = ", ".join(dict.fromkeys(chain.arm for chain in self._chains))
            seeds = ", ".join(dict.fromkeys(str(chain.seed) for chain in self._chains))
            raise UserError(
                f"samples(generation={generation}, arm={arm!r}, seed={seed}): no such text; there are arms {arms}; "
                f"seeds {seeds}; generations 0 to {self._last}"
            )
        from collapselab.corpus.tokenizers import Tokenizer, load_tokenizer  # imports transformers

        tokenizers: dict[str, Tokenizer] = {}
        rows = []
        for chain, g in pairs:
            train = chain.chain.stage(g, "train")
            with reading(train):
                digest = sha256_of(train / "tokenizer.json")
            if digest not in tokenizers:
                tokenizers[digest] = load_tokenizer(str(train), key=f"samples(generation={g})")
            texts = tokenizers[digest].decode(_first(chain.chain.stage(g, "samples"), count))
            rows += [(chain.arm, chain.seed, g, number, inert(text)) for number, text in enumerate(texts)]
        return pd.DataFrame(rows, columns=[*PLACE, "sequence", "text"])

    def __repr__(self) -> str:
        arms = len({chain.arm for chain in self._chains})
        return (
            f"<Results of {inert(self.name)}: arms {arms}, chains {len(self._chains)}, generations 0 to {self._last}>"
        )

    def _repr_html_(self) -> str:
        """HTML for notebooks: the arms compared at the last generation that all chains have."""
        parts = [f"<p><b>{html.escape(self.name)}</b></p>"]
        for group in grouped(self._chains):
            summary = self.summary[self.summary["protocol"] == group.digest[:12]]
            title, columns, rows = tables.compared(summary, self._files.baseline, tables.last_of_all(group.chains))
            parts.append(f"<p>{html.escape(title)}</p>{pd.DataFrame(rows, columns=columns).to_html(index=False)}")
        return inert("".join(parts))

    @property
    def _last(self) -> int:
        return max(len(chain.rows) for chain in self._chains) - 1


def load(*runs: str | Path) -> Results:
    """Load one run, or several to compare; of a run in progress, the finished generations.

    Args:
        runs: run directories; a chain's directory means its whole run.

    Raises UserError if there is no run or no finished generation, or a file is not in the lab's format.
    """
    if not runs:
        raise UserError('load(): name a run, as in load("runs/demo")')
    for run in runs:
        if not isinstance(run, str | os.PathLike) or not os.fspath(run):
            raise UserError(
                f'load({run!r}): name a run by its path, as in load("runs/demo"); several as load(first, second)'
            )
    paths = [Path(os.path.expanduser(run)) for run in runs]  # noqa: PTH111 - leaves an unknown ~user as it is
    files = open_run(paths[0]) if len(paths) == 1 else open_runs(paths)
    return Results(files.name, files)


def _first(folder: Path, count: int) -> list[list[int]]:
    """Read only the first sequences of a samples folder."""
    meta = read_meta(folder)
    left, parts = min(count * meta["length"], meta["tokens"]), []
    with reading(folder):
        for name in meta["shards"]:
            parts.append(np.fromfile(folder / name, meta["dtype"], left))
            left -= len(parts[-1])
            if not left:
                break
        flat = np.concatenate(parts)
        if left or flat.max() >= meta["vocab"]:
            raise ValueError(f"{left} tokens are missing, or one is not below {meta['vocab']}")
    return [flat[start : start + meta["length"]].tolist() for start in range(0, len(flat), meta["length"])]

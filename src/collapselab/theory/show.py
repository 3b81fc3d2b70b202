"""Output of a law on the terminal, as JSON, or as a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from collapselab.config import UserError
from collapselab.theory.laws import LAWS, find, used
from collapselab.theory.parameters import LawParameters
from collapselab.theory.table import Table

FIGURES = (".png", ".svg")


def show(
    name: str | None,
    given: list[str],
    parameters: LawParameters,
    in_json: bool,
    figure: Path | None,
    chains: int | None,
    seed: int,
) -> None:
    """Evaluate a law and print its table or one JSON document, or write a figure.

    Args:
        given: names of the options given; those that the law does not depend on are refused.
        chains: number of chains to simulate, with torch; None simulates none.

    Raises:
        UserError: an unknown law, or options that do not fit it or each other.
    """
    law = find(name, given)
    if in_json and figure:
        raise UserError("--json and --plot: give one of them")
    if figure:
        _check_figure(figure)
    if chains is not None and chains < 2:
        raise UserError(f"--simulate={chains}: must be 2 or more; a standard error needs two chains")
    if seed < 0:
        raise UserError(f"seed={seed}: must be 0 or more")
    table = LAWS[law].table(parameters)
    if chains is not None:
        from collapselab.theory import check  # imports torch

        table = check.simulated(law, parameters, table, chains, seed)
    result = document(law, parameters, table)
    if in_json:
        print(json.dumps(result, allow_nan=False))
    elif figure:
        from collapselab.theory import plot  # imports matplotlib

        plot.draw(result, figure)
        print(f"figure: {figure}")
    else:
        _print(result)


def document(name: str, parameters: LawParameters, table: Table) -> dict[str, Any]:
    """Return an evaluated law with its parameters as JSON; numbers that are not finite become null."""
    law = LAWS[name]
    first = 1 if table.index == "agents" else 0
    rows = len(next(iter(table.columns.values())))
    return {
        "law": name,
        "says": law.says,
        "assumes": law.assumes,
        "source": law.source,
        "parameters": {key: getattr(parameters, key) for key in used(name)},
        "index": table.index,
        "columns": {
            table.index: list(range(first, first + rows)),
            **{key: [_number(v) for v in values] for key, values in table.columns.items()},
        },
        "facts": {key: _number(value) for key, value in table.facts.items()},
    }


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _print(result: dict[str, Any]) -> None:
    print(f"{result['law']}: {result['says']}\nassumes: {result['assumes']}\nsource: {result['source']}")
    grid = Grid()
    for column in result["columns"]:
        grid.add_column(column, justify="right")
    for row in zip(*result["columns"].values(), strict=True):
        grid.add_row(str(row[0]), *(_cell(value) for value in row[1:]))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fit into
        console.width = max(console.width, 16 * len(result["columns"]))
    console.print(grid)
    for key, value in result["facts"].items():
        print(f"{key}: {_cell(value)}")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def listing() -> None:
    """Print all laws, one line each."""
    wide = max(len(name) for name in LAWS)
    for name, law in LAWS.items():
        print(f"  {name:<{wide}}  {law.says}")


def _check_figure(path: Path) -> None:
    """Refuse a file that a figure cannot be written to, before anything is computed."""
    if path.suffix not in FIGURES:
        raise UserError(f"--plot {path}: must end with {' or '.join(FIGURES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: no such folder; create {path.parent} first")

"""A law on the terminal, as JSON, or as a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from collapselab.config import UserError
from collapselab.theory.laws import LAWS, Table, used
from collapselab.theory.parameters import Parameters

FIGURES = (".png", ".svg")


def document(name: str, parameters: Parameters, table: Table) -> dict[str, Any]:
    """Everything about one evaluated law, ready for JSON; what is not a finite number is null."""
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


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, allow_nan=False)


def on_terminal(found: dict[str, Any]) -> None:
    print(f"{found['law']}: {found['says']}\nassumes: {found['assumes']}\nsource: {found['source']}")
    grid = Grid()
    for column in found["columns"]:
        grid.add_column(column, justify="right")
    for row in zip(*found["columns"].values(), strict=True):
        grid.add_row(str(row[0]), *(_cell(value) for value in row[1:]))
    Console().print(grid)
    for key, value in found["facts"].items():
        print(f"{key}: {_cell(value)}")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def listing() -> None:
    """All laws, one line each."""
    wide = max(len(name) for name in LAWS)
    for name, law in LAWS.items():
        print(f"  {name:<{wide}}  {law.says}")


def check_figure(path: Path) -> None:
    """Raises UserError for a file that a figure cannot be written to, before anything is computed."""
    if path.suffix not in FIGURES:
        raise UserError(f"--plot {path}: must end with {' or '.join(FIGURES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot {path}: no such folder; make {path.parent} first")

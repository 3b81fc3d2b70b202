"""The numbers of a report as tables: one row per arm, seed, generation and metric; means with intervals over chains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from collapselab.folders import write_bytes
from collapselab.metrics.intervals import mean_interval, paired_difference

if TYPE_CHECKING:
    from collapselab.report import ChainFiles

TIDY = ["arm", "seed", "generation", "metric", "value"]


def tidy(chains: list[ChainFiles]) -> pd.DataFrame:
    """Columns arm, seed, generation, metric, value. The real share of a training set is the metric `real_share`."""
    rows = [
        (chain.arm, chain.seed, row["generation"], key, value)
        for chain in chains
        for row in chain.rows
        for key, value in [("real_share", row["real_share"]), *sorted(row["metrics"].items())]
    ]
    return pd.DataFrame(rows, columns=TIDY)


def reference(chains: list[ChainFiles]) -> pd.DataFrame:
    """What fresh real text scores at the same budget, by arm and seed: columns arm, seed, metric, value."""
    rows = [
        (chain.arm, chain.seed, key, value)
        for chain in chains
        for key, value in sorted(chain.reference["metrics"].items())
    ]
    return pd.DataFrame(rows, columns=[c for c in TIDY if c != "generation"])


def summary(table: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Means over the chains of an arm with 95 % t-intervals, and paired differences to the baseline arm.

    Columns arm, generation, metric, chains, mean, low, high, pairs, difference, difference_low, difference_high. With a
    single chain the ends of an interval are empty; the baseline arm has no difference.
    """
    found: dict[tuple[str, int, str], dict[int, float]] = {}
    for arm, seed, generation, metric, value in table.itertuples(index=False):
        found.setdefault((arm, generation, metric), {})[seed] = value
    rows: list[dict[str, Any]] = []
    for (arm, generation, metric), by_seed in found.items():
        mean, low, high = mean_interval(np.array(list(by_seed.values())))
        row = {"arm": arm, "generation": generation, "metric": metric, "chains": len(by_seed)}
        row |= {"mean": mean, "low": low, "high": high}
        other = found.get((baseline, generation, metric)) if baseline is not None and arm != baseline else None
        pairs = paired_difference(by_seed, other) if other else None
        names = ("pairs", "difference", "difference_low", "difference_high")
        rows.append(row | dict(zip(names, pairs or (0, math.nan, math.nan, math.nan), strict=True)))
    return pd.DataFrame(rows)


def publish(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV and as Parquet, beside each other. Values keep every digit."""
    write_bytes(path.with_suffix(".csv"), table.to_csv(index=False).encode())
    write_bytes(path.with_suffix(".parquet"), table.to_parquet(index=False))


def with_interval(mean: float, low: float) -> str:
    """`28.01 ± 0.12`: two digits of the half-width and as many of the mean; the mean alone where there is one chain."""
    if math.isnan(low) or mean == low:
        return np.format_float_positional(mean, precision=4, unique=False, fractional=False, trim="-")
    decimals = max(0, 1 - math.floor(math.log10(mean - low)))
    return f"{mean:.{decimals}f} ± {mean - low:.{decimals}f}"

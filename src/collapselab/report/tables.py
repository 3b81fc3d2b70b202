"""The numbers of a report as tables: one row per arm, seed, generation and metric; means with intervals over chains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from collapselab.folders import write_bytes
from collapselab.metrics import HEADLINE
from collapselab.metrics.intervals import differences, mean_intervals, with_interval
from collapselab.metrics.likelihood import HISTOGRAM_STEP

if TYPE_CHECKING:
    from collapselab.report.files import ChainFiles

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


SUMMARY = ["arm", "generation", "metric", "chains", "mean", "low", "high"]
SUMMARY += ["pairs", "difference", "difference_low", "difference_high"]


def summary(table: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Means over the chains of an arm with 95 % t-intervals, and paired differences to the baseline arm.

    Columns arm, generation, metric, chains, mean, low, high, pairs, difference, difference_low, difference_high. With a
    single chain the ends of an interval are empty; the baseline arm has no difference.
    """
    found: dict[tuple[str, int, str], dict[int, float]] = {}
    for arm, seed, generation, metric, value in _lines(table):
        found.setdefault((arm, generation, metric), {})[seed] = value
    gaps = [
        differences(by_seed, found.get((baseline, generation, metric), {})) if baseline not in (None, arm) else []
        for (arm, generation, metric), by_seed in found.items()
    ]
    intervals = mean_intervals([list(by_seed.values()) for by_seed in found.values()])
    rows = [
        (*key, len(by_seed), *interval, len(gap), *difference)
        for (key, by_seed), interval, gap, difference in zip(
            found.items(), intervals, gaps, mean_intervals(gaps), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=SUMMARY)


def _lines(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The lines of a table; a tenth of the time of `itertuples`, where text is kept by Arrow."""
    return zip(*(table[column].to_list() for column in table), strict=True)


CHANGES = ["arm", "metric", "generation", "chains", "change", "low", "high"]


def changes(table: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """What each metric has changed by since generation 0 of the same chain, up to generation `last`, or to the last one that
    every chain of its arm has: columns arm, metric, generation, chains, change (mean), low, high (95 % t-interval over chains)."""
    found: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    lengths: dict[str, dict[int, int]] = {}
    for arm, seed, generation, metric, value in _lines(table):
        found.setdefault((arm, metric), {}).setdefault(seed, {})[generation] = value
        lengths.setdefault(arm, {})[seed] = max(generation, lengths.get(arm, {}).get(seed, 0))
    gaps: dict[tuple[str, str, int], list[float]] = {}
    for (arm, metric), by_seed in found.items():
        end = min(lengths[arm].values()) if last is None else last
        known = [course[end] - course[0] for course in by_seed.values() if 0 in course and end in course]
        if known and end:
            gaps[arm, metric, end] = known
    intervals = mean_intervals(list(gaps.values()))
    rows = [(*key, len(known), *interval) for (key, known), interval in zip(gaps.items(), intervals, strict=True)]
    return pd.DataFrame(rows, columns=CHANGES)


SHOWN = ["arm", "seed", "generation", "source", "set", "shown", "loss"]


def ledger(chains: list[ChainFiles]) -> pd.DataFrame:
    """Tokens of each training set by source: in the set, shown to the optimiser, in its loss."""
    rows = [
        (chain.arm, chain.seed, g, source, entry["set"], entry["shown"], entry["loss"])
        for chain in chains
        for g, one in enumerate(chain.ledgers)
        for source, entry in one.items()
    ]
    return pd.DataFrame(rows, columns=SHOWN)


SPREAD = ["arm", "seed", "generation", "from_nats", "samples"]


def distribution(chains: list[ChainFiles]) -> pd.DataFrame:
    """Samples by their mean loss under generation 0's model: how many from `from_nats` on, up to the next line (0.25 nats).
    Real text has no generation. Empty where old scores lack it."""
    rows: list[tuple[str, int, int | None, float, int]] = []
    for chain in chains:
        courses = [*enumerate(chain.histograms), (None, chain.reference["histogram"])]
        for g, histogram in courses:
            rows += [(chain.arm, chain.seed, g, i * HISTOGRAM_STEP, n) for i, n in enumerate(histogram or []) if n]
    return pd.DataFrame(rows, columns=SPREAD).astype({"generation": "Int64"})


def publish(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV and as Parquet, beside each other. Values keep every digit."""
    write_bytes(path.with_suffix(".csv"), table.to_csv(index=False).encode())
    write_bytes(path.with_suffix(".parquet"), table.to_parquet(index=False))


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
            cells = [name, str(arm), str(int(found["chains"])), with_interval(found["mean"], found["low"])]
            if baseline is not None:
                pairs = bool(found["pairs"])
                cells.append(with_interval(found["difference"], found["difference_low"]) if pairs else "–")
            rows.append(cells)
    return f"generation {last}: mean over chains ± half of the 95 % interval", columns, rows

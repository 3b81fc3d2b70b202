"""What happened, in sentences with the numbers in them. The numbers are those of summary.csv and changes.csv."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from collapselab.report.files import ChainFiles, Opened
from collapselab.report.overlay import TITLES, by_arm
from collapselab.report.series import real_value
from collapselab.report.tables import last_of_all, with_interval

# In the order of the sentences; the first that all arms have is the one that the arms are ranked by.
SAID = {
    "truth/slot/diversity": "the diversity of what is written in the slot (1 is the truth's)",
    "real/perplexity": "perplexity on held-out real text (lower is better)",
    "real/impossible": "the share of held-out real tokens that get no probability at all",
    "tails/words/coverage_5_normalised": "the coverage of rare words (1 is fresh real text)",
    "diversity/words/distinct_2": "distinct-2 of the samples",
}
SHORT = {
    "truth/slot/diversity": "slot diversity",
    "real/perplexity": "perplexity",
    "real/impossible": "share without probability",
    "tails/words/coverage_5_normalised": "rare-word coverage",
    "diversity/words/distinct_2": "distinct-2",
}
HAS_REAL = ("diversity/words/distinct_2",)  # whose value for real text is no matter of definition
LAWS = ("truth/slot/diversity", "tails/words/coverage_1", "tails/bigrams/coverage_1", "real/next_token_entropy")
LONGEST_NOTE = 300  # characters; this lab's own are shorter
MINUS = "\N{MINUS SIGN}"


class Numbers:
    """Look-ups in the tables of one protocol."""

    def __init__(self, summary: pd.DataFrame, changes: pd.DataFrame, laws: pd.DataFrame):
        self.at = {(row.arm, row.generation, row.metric): row for row in summary.itertuples(index=False)}
        self.change = {(row.arm, row.metric): row for row in changes.itertuples(index=False)}
        self.laws = {(row.arm, row.generation, row.metric): row for row in laws.itertuples(index=False)}

    def value(self, arm: str, generation: int, metric: str) -> str:
        row = self.at[arm, generation, metric]
        return with_interval(row.mean, row.low)


def signed(mean: float, low: float) -> str:
    """`+10.0 ± 0.3`, with a minus sign that is as wide as the plus."""
    said = with_interval(mean, low)
    return f"{MINUS}{said[1:]}" if said.startswith("-") else f"+{said}"


def seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def verdict(chains: list[ChainFiles], numbers: Numbers) -> str:
    """The first sentence of a report: by how much the first metric changed, in the arms that changed most and least."""
    arms = by_arm(chains)
    key = next((key for key in SAID if all((arm, key) in numbers.change for arm in arms)), None)
    if key is None:
        return "No arm has two finished generations yet: there is no change to speak of."
    order = sorted(arms, key=lambda arm: abs(numbers.change[arm, key].change), reverse=True)
    if len(order) == 1:
        return f"{_capital(_course(order[0], key, numbers))}{_over(numbers.change[order[0], key])}."
    most, least = order[0], order[-1]
    how = {arm: _how(numbers.change[arm, key]) for arm in arms}
    same = next(iter(how.values())) if len(set(how.values())) == 1 else None
    begins = f"{_capital(SAID[key])} {same} in every arm: most" if same else f"{_capital(SAID[key])} changed most"
    over = _over(numbers.change[most, key])
    return f"{begins} in {most}, {_ends(most, key, numbers)}; least in {least}, {_ends(least, key, numbers)}{over}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _how(row: Any) -> str:
    """The verb of a change; only a 95 % interval that leaves out zero tells one from none."""
    if not math.isnan(row.low) and row.low <= 0 <= row.high:
        return "did not change measurably"
    return "rose" if row.change > 0 else "fell" if row.change < 0 else "stayed"


def _ends(arm: str, key: str, numbers: Numbers) -> str:
    """`from 28.01 ± 0.12 to 38.0 ± 0.4 (change +10.0 ± 0.3, +36 %)`"""
    row = numbers.change[arm, key]
    first, change = numbers.at[arm, 0, key], signed(row.change, row.low)
    share = 100 * row.change / first.mean if first.mean else math.nan
    per_cent = "" if math.isnan(share) else f", {share:+.{0 if abs(share) >= 1 else 1}f} %".replace("-", MINUS)
    last = numbers.value(arm, row.generation, key)
    return f"from {numbers.value(arm, 0, key)} to {last} (change {change}{per_cent})"


def _course(arm: str, key: str, numbers: Numbers) -> str:
    row = numbers.change[arm, key]
    how = _how(row)
    if how == "stayed":
        return f"{SAID[key]} stayed at {numbers.value(arm, 0, key)}"
    return f"{SAID[key]} {how}{',' if ' ' in how else ''} {_ends(arm, key, numbers)}"


def _over(row: Any) -> str:
    return f" over generations 0 to {row.generation}"


def _is_none(arm: str, key: str, numbers: Numbers) -> bool:
    """Whether a metric is 0 from the beginning to the end, which is nothing to tell."""
    row = numbers.change[arm, key]
    return bool(numbers.at[arm, 0, key].mean == 0 and row.change == 0)


def of_arm(arm: str, members: list[ChainFiles], numbers: Numbers, baseline: str | None, last: int) -> list[str]:
    """The sentences of one arm: its course, real text beside it, theory, and the difference to the baseline.

    Args:
        last: the generation at which arms are compared.
    """
    said: list[str] = []
    for key in SAID:
        if (arm, key) in numbers.change:
            if _is_none(arm, key, numbers):
                continue
            real = real_value(members, key) if key in HAS_REAL else None
            beside = "" if real is None else f"; real text has {with_interval(real, math.nan)}"
            over = "" if said else _over(numbers.change[arm, key])
            said.append(f"{_capital(_course(arm, key, numbers))}{over}{beside}.")
        elif (arm, 0, key) in numbers.at:
            said.append(f"{_capital(SAID[key])} is {numbers.value(arm, 0, key)} at generation 0.")
    law = _law(arm, min(len(chain.rows) for chain in members) - 1, numbers)
    said += [law] if law else []
    differences = _differences(arm, numbers, baseline, last)
    return said + ([differences] if differences else [])


def _law(arm: str, last: int, numbers: Numbers) -> str:
    """What exact theory expected of the last generation."""
    for key in LAWS:
        row = numbers.laws.get((arm, last, key))
        if row is None:
            continue
        error = "" if math.isnan(row.se) else f" (standard error {row.se:.2g})"
        values = ", ".join(with_interval(value, math.nan) for value in (row.measured, row.law))
        measured, law = values.split(", ")
        gap = f"{row.difference:+.4f}".replace("-", MINUS)
        verdicts = {True: "; theory holds within max(3 standard errors, .02)", False: "; theory does NOT hold here"}
        told = verdicts.get(row.holds, "; the law is of a learner that memorises, which a network is not")
        return f"Exact theory expected {law} for {TITLES[key]}, measured {measured}: {gap}{error}{told}."
    return ""


def _differences(arm: str, numbers: Numbers, baseline: str | None, last: int) -> str:
    if baseline is None or arm == baseline:
        return ""
    found = {key: row for key in SHORT if (row := numbers.at.get((arm, last, key))) is not None and row.pairs}
    if not found:
        return ""
    pairs = min(row.pairs for row in found.values())
    said = ", ".join(f"{SHORT[k]} {signed(row.difference, row.difference_low)}" for k, row in found.items())
    how = f"{pairs} pairs by seed" if pairs > 1 else "one pair: no interval"
    return f"Against {baseline} at generation {last} ({how}): {said}."


def notes(found: Opened) -> list[str]:
    """What a reader must know before a claim: seeds that lack, chains that have not finished, what a model may have seen."""
    said = []
    alone = [arm for arm, members in by_arm(found.chains).items() if len(members) == 1]
    if alone:
        said.append(f"One seed only ({', '.join(alone)}): no interval can be given; run more seeds before a claim.")
    short = [f"{c.name} (generation {len(c.rows) - 1} of {c.planned})" for c in found.chains if _unfinished(c)]
    if short:
        said.append(f"Not finished: {', '.join(short)}. The same command goes on with them.")
    if found.waiting:
        said.append(f"Without a finished generation: {', '.join(found.waiting)}.")
    ends = {len(chain.rows) for chain in found.chains}
    if len(ends) > 1:
        said.append(f"Arms are compared at generation {last_of_all(found.chains)}, the last one that every chain has.")
    told: dict[str, list[str]] = {}
    for chain in found.chains:
        if chain.note:
            told.setdefault(chain.note[:LONGEST_NOTE], []).append(chain.name)
    for note, names in told.items():
        said.append(f"{note}." if len(names) == len(found.chains) else f"{note} ({', '.join(names)}).")
    return said


def _unfinished(chain: ChainFiles) -> bool:
    return chain.planned is not None and len(chain.rows) <= chain.planned


def about(found: Opened) -> str:
    """What the report is about, in one line."""
    arms = by_arm(found.chains)
    counts = sorted(len(members) for members in arms.values())
    same = counts[0] == counts[-1]
    per_arm = f"with {seeds(counts[0])}" if same else f"with {counts[0]} to {counts[-1]} seeds"
    last = max(len(chain.rows) for chain in found.chains) - 1
    many = f"{len(arms)} arms {per_arm}{' each' if same else ''}" if len(arms) > 1 else f"one arm {per_arm}"
    spans = f"generations 0 to {last}" if last else "generation 0 alone"
    return f"{_capital(many)}; {spans}. Each generation is a language model trained on text of which the one before wrote a part."

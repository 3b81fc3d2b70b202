"""What happened, in sentences with the numbers in them. The numbers are those of summary.csv and changes.csv."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

from collapselab.metrics import HEADLINE
from collapselab.metrics.intervals import with_interval
from collapselab.report.files import ChainFiles, Opened
from collapselab.report.overlay import TITLES, by_arm
from collapselab.report.protocols import Group
from collapselab.report.series import real_value
from collapselab.report.tables import last_of_all

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
ASKED = {"real_share", *HEADLINE.values(), *SAID, *LAWS}  # of a hundred metrics
LONGEST_NOTE = 300  # characters; this lab's own are shorter
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


class Numbers:
    """Look-ups in the tables of one protocol."""

    def __init__(self, summary: pd.DataFrame, changes: pd.DataFrame, laws: pd.DataFrame):
        asked = summary[summary["metric"].isin(ASKED)]
        self.at = {(row.arm, row.generation, row.metric): row for row in asked.itertuples(index=False)}
        self.change = {(row.arm, row.metric): row for row in changes.itertuples(index=False)}
        self.laws = {(row.arm, row.generation, row.metric): row for row in laws.itertuples(index=False)}

    def value(self, arm: str, generation: int, metric: str) -> str:
        row = self.at[arm, generation, metric]
        return with_interval(row.mean, row.low)


def signed(mean: float, low: float) -> str:
    """`+10.0 ± 0.3`"""
    said = with_interval(mean, low)
    return said if said.startswith("-") else f"+{said}"


def typeset(text: str) -> str:
    """Numbers as books print them: a minus as wide as the plus, and what belongs together on one line."""
    text = re.sub(r"(?<![\w.)\]+-])-(?=\.?\d)", MINUS, text)
    return text.replace(" ± ", f"{NO_BREAK}±{NO_BREAK}").replace(" %", f"{NO_BREAK}%")


def seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def verdict(chains: list[ChainFiles], numbers: Numbers) -> str:
    """The first sentence of a report: by how much the first metric changed up to the last generation that every chain has,
    in the arms that changed most and least.

    Args:
        numbers: their changes are those up to that generation.
    """
    arms = by_arm(chains)
    key = next((key for key in SAID if all((arm, key) in numbers.change for arm in arms)), None)
    if key is None:
        every = len(arms) > 1 and any(len(chain.rows) > 1 for chain in chains)
        return f"{'Not every' if every else 'No'} arm has two finished generations yet: there is no change to speak of."
    if len(arms) == 1:
        (arm,) = arms
        return f"{_capital(_course(arm, key, numbers))}{_over(numbers.change[arm, key])}."
    rows = {arm: numbers.change[arm, key] for arm in arms}
    ways = {how: [arm for arm in arms if _how(rows[arm]) == how] for how in (*MOVES, *STILL)}
    ways = {how: names for how, names in ways.items() if names}
    over = _over(rows[next(iter(arms))])
    if len(ways) == 1:
        (how,) = ways
        order = sorted(arms, key=lambda arm: abs(rows[arm].change), reverse=True)
        told = f"{_capital(SAID[key])} {how} in every arm{over}"
        if how in STILL:
            return f"{told}: {'; '.join(f'{arm}, {_ends(arm, key, numbers)}' for arm in order[:2])}."
        most, least = (f"{arm}, {_ends(arm, key, numbers)}" for arm in (order[0], order[-1]))
        return f"{told}: most in {most}; least in {least}."
    said = _listed([f"{how} in {_some(names, len(arms))}" for how, names in ways.items()])
    ends = []
    for how, names in ways.items():
        if how in MOVES:
            most = max(names, key=lambda arm: abs(rows[arm].change))
            verb = f"it {how.removesuffix(' (one seed)')}{' most' if len(names) > 1 else ''}"
            ends.append(f"{verb} in {most}, {_ends(most, key, numbers)}")
    return f"{_capital(SAID[key])} {said}{over}{': ' if ends else ''}{'; '.join(ends)}."


def _some(names: list[str], of: int) -> str:
    return _listed(names) if len(names) <= 3 else f"{len(names)} of {of} arms"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# What a change may be called. Only a 95 % interval that leaves out zero tells one from none; with one seed there is none.
MOVES = ("rose", "fell", "went up (one seed)", "went down (one seed)")
STILL = ("stayed where it was", "did not change measurably")


def _how(row: Any) -> str:
    if row.change == 0 and (math.isnan(row.low) or row.low == row.high):
        return STILL[0]
    if math.isnan(row.low):
        return MOVES[2] if row.change > 0 else MOVES[3]
    if row.low <= 0 <= row.high:
        return STILL[1]
    return MOVES[0] if row.change > 0 else MOVES[1]


def _ends(arm: str, key: str, numbers: Numbers) -> str:
    """`from 28.01 ± 0.12 to 38.0 ± 0.4 (change +10.0 ± 0.3, +36 %)`"""
    row = numbers.change[arm, key]
    first, change = numbers.at[arm, 0, key], signed(row.change, row.low)
    share = 100 * row.change / first.mean if first.mean else math.nan
    per_cent = "" if math.isnan(share) else f", {share:+.{0 if abs(share) >= 1 else 1}f} %"
    last = numbers.value(arm, row.generation, key)
    return f"from {numbers.value(arm, 0, key)} to {last} (change {change}{per_cent})"


def _course(arm: str, key: str, numbers: Numbers) -> str:
    row = numbers.change[arm, key]
    how = _how(row)
    if how == STILL[0]:
        return f"{SAID[key]} stayed at {numbers.value(arm, 0, key)}"
    if math.isnan(row.low):
        ends = _ends(arm, key, numbers).removeprefix("from ")
        return f"{SAID[key]} went from {ends.replace(')', '; one seed: no interval)')}"
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
            row = numbers.change[arm, key]
            over = "" if said and row.generation == last else _over(row)
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
        measured, law = (with_interval(value, math.nan) for value in (row.measured, row.law))
        gap = f"{row.difference:+.4f}"
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


def notes(found: Opened, groups: list[Group]) -> list[str]:
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
    for group in groups:
        if len({len(chain.rows) for chain in group.chains}) > 1:
            under = f" under protocol {group.label}" if len(groups) > 1 else ""
            last = last_of_all(group.chains)
            said.append(f"Arms{under} are compared at generation {last}, the last one that every chain has.")
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

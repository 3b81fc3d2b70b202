"""Sentences of the report, with numbers from summary.csv and changes.csv."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

from collapselab.metrics import HEADLINE, SCORES
from collapselab.metrics.intervals import with_interval
from collapselab.report.controls import Control
from collapselab.report.effects import against, effects, per_cent, signed, uncontrolled
from collapselab.report.files import ChainFiles, RunFiles
from collapselab.report.overlay import TITLES, by_arm
from collapselab.report.protocols import Group
from collapselab.report.series import ANY_TAIL, COMPANIONS, TAIL_HEADLINES, real_level
from collapselab.report.tables import last_of_all

OF_WORDS, OF_TOKENS, _ = TAIL_HEADLINES
# In the order of the sentences; arms are ranked by the first metric that all of them have.
SAID = {
    "truth/slot/diversity": "the diversity of what is written in the slot (1 is the truth's)",
    OF_WORDS: "the coverage of rare words in context (1 is unseen real text)",
    OF_TOKENS: "the coverage of rare tokens in context (1 is unseen real text)",
    "real/perplexity": "perplexity on held-out real text (lower is better)",
    "real/impossible": "the share of held-out real tokens that get no probability at all",
    ANY_TAIL: "the coverage of rare words anywhere (1 is unseen real text; noise raises it)",
    "diversity/words/distinct_2": "distinct-2 of the samples",
}
SHORT = {
    "truth/slot/diversity": "slot diversity",
    OF_WORDS: "rare-word coverage in context",
    OF_TOKENS: "rare-token coverage in context",
    "real/perplexity": "perplexity",
    "real/impossible": "share without probability",
    ANY_TAIL: "rare-word coverage anywhere",
    "diversity/words/distinct_2": "distinct-2",
}
BESIDE = {OF_WORDS: COMPANIONS["words"], OF_TOKENS: COMPANIONS["tokens"]}
HAS_REAL = ("diversity/words/distinct_2",)  # real text's value is measured, not 1 by definition
LAWS = ("truth/slot/diversity", "tails/words/coverage_1", "tails/bigrams/coverage_1", "real/next_token_entropy")
OF_COUNTS = "tails/bigrams/coverage_1"  # its law is an equality only for a table of counts
ASKED = {"real_share", *HEADLINE.values(), *SCORES.values(), *SAID, *LAWS}.union(
    *BESIDE.values()
)  # of about a hundred metrics
LONGEST_NOTE = 300  # characters; this lab's own are shorter
MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


class Numbers:
    """Look-up of the tables of one protocol: `change` up to each arm's last generation, `common` up to that of all chains."""

    def __init__(
        self, summary: pd.DataFrame, changes: pd.DataFrame, laws: pd.DataFrame, common: pd.DataFrame | None = None
    ):
        asked = summary[summary["metric"].isin(ASKED)]
        self.at = {(row.arm, row.generation, row.metric): row for row in asked.itertuples(index=False)}
        self.change = {(row.arm, row.metric): row for row in changes.itertuples(index=False)}
        self.common = self.change
        if common is not None:
            self.common = {(row.arm, row.metric): row for row in common.itertuples(index=False)}
        self.control = dict(zip(summary["arm"], summary["control"], strict=True))
        self.laws = {(row.arm, row.generation, row.metric): row for row in laws.itertuples(index=False)}

    def value(self, arm: str, generation: int, metric: str) -> str:
        row = self.at[arm, generation, metric]
        return with_interval(row.mean, row.low)


def typeset(text: str) -> str:
    """Set numbers as in print: a true minus sign, and no line break inside `a ± b` or before `%`."""
    text = re.sub(r"(?<![\w.)\]+-])-(?=\.?\d)", MINUS, text)
    return text.replace(" ± ", f"{NO_BREAK}±{NO_BREAK}").replace(" %", f"{NO_BREAK}%")


def seeds(count: int) -> str:
    return f"{count} seeds" if count > 1 else "one seed"


def verdict(chains: list[ChainFiles], numbers: Numbers) -> str:
    """Open a report: the change of the first metric up to the last generation that every chain has, in the arms that changed
    most and least, and the part of it that their control does not share."""
    every_arm = by_arm(chains)
    arms = {arm: members for arm, members in every_arm.items() if not members[0].is_control} or every_arm
    keys = [key for key in SAID if all((arm, key) in numbers.common for arm in arms)]
    worth = [key for key in keys if not all(_is_none(numbers.common[arm, key], numbers) for arm in arms)]
    key = next(iter([*worth, *keys]), None)
    if key is None:
        every = len(arms) > 1 and any(len(chain.rows) > 1 for chain in chains)
        return (
            f"{'Not every' if every else 'No'} arm has two finished generations yet, so there is no change to report."
        )
    if len(arms) == 1:
        (arm,) = arms
        row = numbers.common[arm, key]
        return f"{_capital(_course(row, numbers))}{_over(row)}.{against(row, numbers)}"
    rows = {arm: numbers.common[arm, key] for arm in arms}
    beside = effects(rows, numbers)
    ways = {how: [arm for arm in arms if _how(rows[arm]) == how] for how in (*MOVES, *STILL)}
    ways = {how: names for how, names in ways.items() if names}
    over = _over(rows[next(iter(arms))])
    if len(ways) == 1:
        (how,) = ways
        order = sorted(arms, key=lambda arm: abs(rows[arm].change), reverse=True)
        sentence = f"{_capital(SAID[key])} {how} in every arm{over}"
        if how in STILL:
            return f"{sentence}: {'; '.join(f'{arm}, {_ends(rows[arm], numbers)}' for arm in order[:2])}.{beside}"
        most, least = (f"{arm}, {_ends(rows[arm], numbers)}" for arm in (order[0], order[-1]))
        return f"{sentence}: most in {most}; least in {least}.{beside}"
    some = [_listed(names) if len(names) <= 3 else f"{len(names)} of {len(arms)} arms" for names in ways.values()]
    counts = _listed([f"{how} in {names}" for how, names in zip(ways, some, strict=True)])
    ends = []
    for how, names in ways.items():
        if how in MOVES:
            most = max(names, key=lambda arm: abs(rows[arm].change))
            verb = f"it {how.removesuffix(' (one seed)')}{' most' if len(names) > 1 else ''}"
            ends.append(f"{verb} in {most}, {_ends(rows[most], numbers)}")
    return f"{_capital(SAID[key])} {counts}{over}{': ' if ends else ''}{'; '.join(ends)}.{beside}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Verbs for a change. It is measurable only if its 95 % interval excludes zero; one seed has no interval.
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


def _ends(row: Any, numbers: Numbers) -> str:
    """`from 28.01 ± 0.12 to 38.0 ± 0.4 (change +10.0 ± 0.3, +36 %)`"""
    first, change = numbers.at[row.arm, 0, row.metric], signed(row.change, row.low)
    share = row.change / first.mean if first.mean else math.nan
    relative = "" if math.isnan(share) else f", {per_cent(share)}"
    ends = (numbers.value(row.arm, g, row.metric) for g in (0, row.generation))
    return f"from {' to '.join(ends)} (change {change}{relative})"


def _course(row: Any, numbers: Numbers) -> str:
    how, name = _how(row), SAID[row.metric]
    if how == STILL[0]:
        return f"{name} stayed at {numbers.value(row.arm, 0, row.metric)}"
    if math.isnan(row.low):
        ends = _ends(row, numbers).removeprefix("from ")
        return f"{name} went from {ends.replace(')', '; one seed: no interval)')}"
    return f"{name} {how}{',' if ' ' in how else ''} {_ends(row, numbers)}"


def _over(row: Any) -> str:
    return f" over generations 0 to {row.generation}"


def _is_none(row: Any, numbers: Numbers) -> bool:
    """Return True for a metric that is 0 from beginning to end and needs no sentence."""
    return bool(numbers.at[row.arm, 0, row.metric].mean == 0 and row.change == 0)


def of_arm(arm: str, members: list[ChainFiles], numbers: Numbers, baseline: str | None, last: int) -> list[str]:
    """Sentences on one arm: its course beside its control and real text, theory, and the difference to the baseline.

    Args:
        last: the generation at which arms are compared.
    """
    sentences: list[str] = []
    tail = next((key for key in BESIDE if (arm, 0, key) in numbers.at), None)
    for key in SAID:
        if key in TAIL_HEADLINES and key != (tail or ANY_TAIL):
            continue
        if (arm, key) in numbers.change:
            row = numbers.change[arm, key]
            if _is_none(row, numbers):
                continue
            over = "" if sentences and row.generation == last else _over(row)
            beside = against(numbers.common[arm, key], numbers) if (arm, key) in numbers.common else ""
            sentences.append(f"{_capital(_course(row, numbers))}{over}{_beside(members, key)}.{beside}")
            if key == tail:
                sentences += _companions(row, numbers)
        elif (arm, 0, key) in numbers.at:
            sentences.append(f"{_capital(SAID[key])} is {numbers.value(arm, 0, key)} at generation 0.")
    law = _law(arm, min(len(chain.rows) for chain in members) - 1, numbers)
    sentences += [law] if law else []
    if members[0].is_control:
        return [
            "All-real control: its models are trained on fresh real text in the place of samples, so no change here is collapse.",
            *sentences,
        ]
    differences = _differences(arm, numbers, baseline, last)
    return sentences + ([differences] if differences else [])


def _beside(members: list[ChainFiles], key: str) -> str:
    """Real text's value and scatter, if it is measured or its scatter is known."""
    real = real_level(members, key)
    if real is None or (key not in HAS_REAL and math.isnan(real.low)):
        return ""
    value = f"; real text has {with_interval(real.value, math.nan)}" if key in HAS_REAL else "; real text"
    if math.isnan(real.low):
        return value
    joint, verb = (", equal draws of it", "scatter") if key in HAS_REAL else (" itself", "scatters")
    return f"{value}{joint} {verb} from {real.low:.3g} to {real.high:.3g}"


def _companions(row: Any, numbers: Numbers) -> list[str]:
    """Describe the metrics to read beside the coverage in context."""
    parts = []
    for key, title in BESIDE[row.metric].items():
        ends = [numbers.at.get((row.arm, g, key)) for g in (0, row.generation)]
        values = [with_interval(end.mean, end.low) for end in ends if end is not None]
        if len(values) == len(ends):
            parts.append(f"{title} from {' to '.join(values)}")
    return [f"Beside it: {'; '.join(parts)}. Triples and mass as a ratio to real text."] if parts else []


def _law(arm: str, last: int, numbers: Numbers) -> str:
    """Compare the last generation with its law; empty if no metric has one."""
    for key in LAWS:
        row = numbers.laws.get((arm, last, key))
        if row is None:
            continue
        error = "" if math.isnan(row.se) else f" (standard error {row.se:.2g})"
        measured, law = (with_interval(value, math.nan) for value in (row.measured, row.law))
        gap = f"{row.difference:+.4f}"
        verdicts = {True: "; theory holds within max(3 standard errors, .02)", False: "; theory does NOT hold here"}
        gaps = "; this prediction assumes exact memorisation; networks generalise, so expect a gap"
        ending = verdicts.get(row.holds, gaps)
        who = " in a table of counts, which is no network" if key == OF_COUNTS and row.holds is not None else ""
        return f"Exact theory expected {law} for {TITLES[key]}, measured {measured}{who}: {gap}{error}{ending}."
    return ""


def _differences(arm: str, numbers: Numbers, baseline: str | None, last: int) -> str:
    if baseline in (None, arm, numbers.control.get(arm)):
        return ""
    tail = next((key for key in TAIL_HEADLINES if (arm, last, key) in numbers.at), None)
    shown = [key for key in SHORT if key not in TAIL_HEADLINES or key == tail]
    rows = {key: row for key in shown if (row := numbers.at.get((arm, last, key))) is not None and row.pairs}
    if not rows:
        return ""
    pairs = min(row.pairs for row in rows.values())
    differences = ", ".join(f"{SHORT[k]} {signed(row.difference, row.difference_low)}" for k, row in rows.items())
    how = f"{pairs} pairs by seed" if pairs > 1 else "one pair: no interval"
    return f"Against {baseline} at generation {last} ({how}): {differences}."


def notes(run_files: RunFiles, groups: list[Group], paired: dict[str, dict[str, Control]]) -> list[str]:
    """Caveats that a reader must know: arms without a control, single seeds, unfinished chains, text a model may have seen.

    Args:
        paired: the control of each arm that has one, by the label of each group.
    """
    sentences = uncontrolled(groups, paired)
    alone = [arm for arm, members in by_arm(run_files.chains).items() if len(members) == 1]
    if alone:
        sentences.append(
            f"One seed only ({', '.join(alone)}): no interval can be given; run more seeds before a claim."
        )
    unfinished = [chain for chain in run_files.chains if len(chain.rows) <= (chain.planned or 0)]
    short = [f"{c.name} (generation {len(c.rows) - 1} of {c.planned})" for c in unfinished]
    if short:
        sentences.append(f"Not finished: {', '.join(short)}. The same command resumes them.")
    if run_files.waiting:
        sentences.append(f"Without a finished generation: {', '.join(run_files.waiting)}.")
    for group in groups:
        if len({len(chain.rows) for chain in group.chains}) > 1:
            under = f" under protocol {group.label}" if len(groups) > 1 else ""
            last = last_of_all(group.chains)
            sentences.append(f"Arms{under} are compared at generation {last}, the last one that every chain has.")
    by_note: dict[str, list[str]] = {}
    for chain in run_files.chains:
        if chain.note:
            by_note.setdefault(chain.note[:LONGEST_NOTE], []).append(chain.name)
    for note, names in by_note.items():
        sentences.append(f"{note}." if len(names) == len(run_files.chains) else f"{note} ({', '.join(names)}).")
    return sentences


def about(run_files: RunFiles) -> str:
    """Subject of the report in one line."""
    arms = by_arm(run_files.chains)
    counts = sorted(len(members) for members in arms.values())
    same = counts[0] == counts[-1]
    per_arm = f"with {seeds(counts[0])}" if same else f"with {counts[0]} to {counts[-1]} seeds"
    last = max(len(chain.rows) for chain in run_files.chains) - 1
    many = f"{len(arms)} arms {per_arm}{' each' if same else ''}" if len(arms) > 1 else f"one arm {per_arm}"
    spans = f"generations 0 to {last}" if last else "generation 0 alone"
    return f"{_capital(many)}; {spans}. Each generation is trained partly on text written by the previous one."

"""Sentences on an arm and its control: their difference, and the part of the change that they share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from collapselab.metrics.intervals import with_interval
from collapselab.report.controls import Control
from collapselab.report.overlay import by_arm
from collapselab.report.protocols import Group

if TYPE_CHECKING:
    from collapselab.report.words import Numbers

MANY = 10  # from here on, `10 times as much` instead of per cent
MOST_KEYS = 6  # differing settings that a note names


def signed(mean: float, low: float) -> str:
    """`+10.0 ± 0.3`"""
    value = with_interval(mean, low)
    return value if value.startswith("-") else f"+{value}"


def per_cent(share: float) -> str:
    """`+31 %`, or `12 times as much`."""
    if share >= MANY - 1:
        return f"{1 + share:.0f} times as much"
    share = share or 0.0  # no -0
    return f"{100 * share:+.{0 if abs(share) >= 0.01 else 1}f} %"


def the_control(name: str) -> str:
    """Name a control: `the control`, or `the control NAME`."""
    return "the control" if name == "control" else f"the control {name}"


def against(row: Any, numbers: Numbers) -> str:
    """Describe an arm minus its control, and their changes; empty if they share no seed.

    Args:
        row: the arm's change up to that generation.
    """
    effect = _effect(row, numbers)
    if not effect or not row.loop_pairs:
        return ""
    share = (
        f", {100 * row.loop / row.change:.0f} % of the change" if row.change and 0 < row.loop / row.change <= 1 else ""
    )
    sure = ""
    if math.isnan(row.loop_low):
        sure = " (one pair: no interval)"
    elif row.loop_low <= 0 <= row.loop_high:
        sure, share = ", not measurably different from none", ""
    return (
        f" Against {the_control(row.control)} at generation {row.generation}: {effect}. The control itself changed by "
        f"{row.control_change:+.2g}; the loop's part is {signed(row.loop, row.loop_low)}{share}{sure}."
    )


def effects(rows: dict[str, Any], numbers: Numbers) -> str:
    """Describe the arms that differ most and least from their control; empty if none has one.

    Args:
        rows: the change of each arm in one metric, up to a generation that all of them have.
    """
    texts = {arm: effect for arm, row in rows.items() if (effect := _effect(row, numbers))}
    if not texts:
        return ""
    size = {arm: abs(numbers.at[arm, rows[arm].generation, rows[arm].metric].effect) for arm in texts}
    order = sorted(texts, key=size.__getitem__, reverse=True)
    most, least = order[0], order[-1]
    named = dict.fromkeys(rows[arm].control for arm in texts)
    whose = the_control(next(iter(named))) if len(named) == 1 else "their controls"
    ends = (
        f"{most} {texts[most]}"
        if len(texts) == 1
        else f"most in {most}, {texts[most]}; least in {least}, {texts[least]}"
    )
    return f" Against {whose} at generation {rows[most].generation}: {ends}."


def _effect(row: Any, numbers: Numbers) -> str:
    """`+9.1 ± 0.4 (+31 %)`; the per cent are of the control's value."""
    summary = numbers.at.get((row.arm, row.generation, row.metric))
    if summary is None or not summary.control_pairs:
        return ""
    share = "" if math.isnan(summary.effect_share) else f" ({per_cent(summary.effect_share)})"
    return f"{signed(summary.effect, summary.effect_low)}{share}"


def uncontrolled(groups: list[Group], paired: dict[str, dict[str, Control]]) -> list[str]:
    """Sentences on arms without a control, and on those whose control differs in more than the source of its text.

    Args:
        paired: the control of each arm that has one, by the label of each group.
    """
    sentences: list[str] = []
    without: list[str] = []
    any_control = False
    for group in groups:
        arms = by_arm(group.chains)
        any_control |= any(members[0].is_control for members in arms.values())
        without += [a for a, members in arms.items() if not members[0].is_control and a not in paired[group.label]]
        for arm, control in paired[group.label].items():
            pair = f"{arm} and {the_control(control.arm)}"
            if control.differs:
                keys = ", ".join(control.differs[:MOST_KEYS]) + (", ..." if len(control.differs) > MOST_KEYS else "")
                sentences.append(f"{pair} differ in more than where their text comes from: {keys}.")
            if not {c.seed for c in arms[arm]} & {c.seed for c in arms[control.arm]}:
                sentences.append(f"{pair} have no seed in common, so nothing can be paired.")
    if without and not any_control:
        sentences.append(
            "No arm here is a control, so it cannot be told what part of a change is collapse: add an arm of real text alone, "
            "control: {sampling.source: real}, to the file of the experiment and run collapselab experiment again."
        )
    elif without:
        sentences.append(f"Without a control of the same settings, or a single one to share: {', '.join(without)}.")
    return sentences

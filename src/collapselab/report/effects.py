"""An arm beside its control, in sentences: the difference, and what of the arm's change is the control's too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from collapselab.metrics.intervals import with_interval
from collapselab.report.controls import Control
from collapselab.report.overlay import by_arm
from collapselab.report.protocols import Group

if TYPE_CHECKING:
    from collapselab.report.words import Numbers

MANY = 10  # times as much: per cent of so many say little
MOST_KEYS = 6  # settings in which an arm and its control differ, that a note names


def signed(mean: float, low: float) -> str:
    """`+10.0 ± 0.3`"""
    said = with_interval(mean, low)
    return said if said.startswith("-") else f"+{said}"


def per_cent(share: float) -> str:
    """`+31 %`; of what has become many times as much, how many times."""
    if share >= MANY - 1:
        return f"{1 + share:.0f} times as much"
    share = share or 0.0  # no minus before nothing
    return f"{100 * share:+.{0 if abs(share) >= 0.01 else 1}f} %"


def the_control(name: str) -> str:
    """A control by its arm's name."""
    return "the control" if name == "control" else f"the control {name}"


def against(row: Any, numbers: Numbers) -> str:
    """An arm minus its control at a generation, and the arm's change minus the control's; nothing where no seed has both.

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
    """The arms that differ most and least from their control, in a sentence; nothing where none has one.

    Args:
        rows: the change of each arm in one metric, up to a generation that all of them have.
    """
    told = {arm: effect for arm, row in rows.items() if (effect := _effect(row, numbers))}
    if not told:
        return ""
    size = {arm: abs(numbers.at[arm, rows[arm].generation, rows[arm].metric].effect) for arm in told}
    order = sorted(told, key=size.__getitem__, reverse=True)
    most, least = order[0], order[-1]
    named = dict.fromkeys(rows[arm].control for arm in told)
    whose = the_control(next(iter(named))) if len(named) == 1 else "their controls"
    ends = (
        f"{most} {told[most]}" if len(told) == 1 else f"most in {most}, {told[most]}; least in {least}, {told[least]}"
    )
    return f" Against {whose} at generation {rows[most].generation}: {ends}."


def _effect(row: Any, numbers: Numbers) -> str:
    """`+9.1 ± 0.4 (+31 %)`, the second in parts of the control's value."""
    found = numbers.at.get((row.arm, row.generation, row.metric))
    if found is None or not found.control_pairs:
        return ""
    share = "" if math.isnan(found.effect_share) else f" ({per_cent(found.effect_share)})"
    return f"{signed(found.effect, found.effect_low)}{share}"


def uncontrolled(groups: list[Group], paired: dict[str, dict[str, Control]]) -> list[str]:
    """Sentences about arms without a control, and about those whose control differs in more than where its text comes from.

    Args:
        paired: the control of each arm that has one, by the label of each group.
    """
    said: list[str] = []
    without: list[str] = []
    there = False
    for group in groups:
        arms = by_arm(group.chains)
        there |= any(members[0].is_control for members in arms.values())
        without += [a for a, members in arms.items() if not members[0].is_control and a not in paired[group.label]]
        for arm, control in paired[group.label].items():
            pair = f"{arm} and {the_control(control.arm)}"
            if control.differs:
                keys = ", ".join(control.differs[:MOST_KEYS]) + (", ..." if len(control.differs) > MOST_KEYS else "")
                said.append(f"{pair} differ in more than where their text comes from: {keys}.")
            if not {c.seed for c in arms[arm]} & {c.seed for c in arms[control.arm]}:
                said.append(f"{pair} have no seed in common, so nothing can be paired.")
    if without and not there:
        said.append(
            "No arm here is a control, so it cannot be told what part of a change is collapse: add an arm of real text alone, "
            "control: {sampling.source: real}, to the file of the experiment and run collapselab experiment again."
        )
    elif without:
        said.append(f"Without a control of the same settings, or a single one to share: {', '.join(without)}.")
    return said

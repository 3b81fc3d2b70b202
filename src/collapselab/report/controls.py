"""Which arm is the control of which. A control's models are trained on fresh real text in the place of samples
(`sampling.source: real`): whatever changes in it as well is no collapse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from collapselab.config.identity import DEFAULTS, HARMLESS, SAMPLING_RULE
from collapselab.mixing.regimes import REGIMES
from collapselab.report.files import ChainFiles
from collapselab.report.overlay import by_arm

IGNORED = {*HARMLESS, "seed", "sampling.source", "sampling.precision", "sampling.batch_size"}


@dataclass(frozen=True)
class Control:
    """The control of an arm."""

    arm: str
    differs: tuple[str, ...]
    """Settings in which it differs from the arm besides where text comes from."""


def controls(chains: list[ChainFiles]) -> dict[str, Control]:
    """The control of each arm that has one: that with the arm's own settings; else with those that are not about how models
    write; else the only one of its run, or of all runs, or the only one of these whose training sets grow like the arm's.

    Args:
        chains: of one protocol.
    """
    arms = {arm: members[0] for arm, members in by_arm(chains).items()}
    of_real_text = [arm for arm, chain in arms.items() if chain.is_control]
    found = {}
    for arm, chain in arms.items():
        if arm in of_real_text:
            continue
        near = [other for other in of_real_text if arms[other].run == chain.run] or of_real_text
        gaps = {other: _differing(chain, arms[other]) for other in [*near, *of_real_text]}
        own = [other for other, gap in gaps.items() if not gap]
        own = own or [other for other, gap in gaps.items() if set(SAMPLING_RULE).issuperset(gap)]
        if not own and len(near) > 1:
            near = [other for other in near if _growth(arms[other]) == _growth(chain)]
        if own or len(near) == 1:
            chosen = min(own or near, key=lambda other: len(gaps[other]))
            found[arm] = Control(chosen, gaps[chosen])
    return found


def grey_first(arms: dict[str, Any]) -> dict[str, Any]:
    """Arms in the order in which their curves are drawn: controls first, so that they lie beneath the others."""
    return dict(sorted(arms.items(), key=lambda arm: not arm[1][0].is_control))


def _growth(chain: ChainFiles) -> str:
    """The regime of a chain whose training sets grow; empty for one whose sets stay as large as they were."""
    regime = str(chain.settings.get("mixing.regime", ""))
    return regime if regime in REGIMES and REGIMES[regime].grows else ""


def _differing(one: ChainFiles, other: ChainFiles) -> tuple[str, ...]:
    mine, theirs = DEFAULTS | one.settings, DEFAULTS | other.settings
    keys = sorted((mine.keys() | theirs.keys()) - IGNORED)
    return tuple(key for key in keys if mine.get(key) != theirs.get(key))

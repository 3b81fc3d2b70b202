"""Pairing of arms with their controls. A control's models are trained on fresh real text in the place of samples
(`sampling.source: real`), so a change that it shares is not collapse."""

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
    """Settings in which it differs from the arm, besides the source of text."""


def controls(chains: list[ChainFiles]) -> dict[str, Control]:
    """Find the control of each arm that has one.

    The first of: a control with the arm's settings; one that differs only in how models write; the only control of the run,
    or of all runs; the only one of these whose training sets grow like the arm's.

    Args:
        chains: of one protocol.
    """
    arms = {arm: members[0] for arm, members in by_arm(chains).items()}
    of_real_text = [arm for arm, chain in arms.items() if chain.is_control]
    pairs = {}
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
            pairs[arm] = Control(chosen, gaps[chosen])
    return pairs


def grey_first(arms: dict[str, Any]) -> dict[str, Any]:
    """Sort arms for drawing: controls first, so that they lie below the others."""
    return dict(sorted(arms.items(), key=lambda arm: not arm[1][0].is_control))


def _growth(chain: ChainFiles) -> str:
    """Regime of a chain whose training sets grow; empty if their size is constant."""
    regime = str(chain.settings.get("mixing.regime", ""))
    return regime if regime in REGIMES and REGIMES[regime].grows else ""


def _differing(one: ChainFiles, other: ChainFiles) -> tuple[str, ...]:
    first, second = DEFAULTS | one.settings, DEFAULTS | other.settings
    keys = sorted((first.keys() | second.keys()) - IGNORED)
    return tuple(key for key in keys if first.get(key) != second.get(key))

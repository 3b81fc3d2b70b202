"""Laws beside measured curves.

For every metric m with a law, `theory/m` is the value that the law of this chain's own pipeline expects, `theory/m_se` the
standard error of the difference within the chain, `theory/bias/m` the course without sampling noise (temperature and
truncation alone), and `theory/tables/m` that of tables which learn from finite sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

TRUTH = "truth/slot/diversity"  # 1 for the truth, which real text approaches as training sets grow
# Metrics with a law, in the order in which they are drawn.
TITLES = {
    TRUTH: "Simpson diversity of the slot, r = E[H]/H*",
    "truth/slot/drift": "drift from the truth, E|p - p*|²/H*",
    "truth/slot/survivors": "slot values that survive",
    "tails/bigrams/coverage_1": "pairs of tokens seen once, still written",
    "tails/words/coverage_1": "words seen once, still written",
    "tails/words/coverage_5": "words seen five times or less, still written",
    "real/next_token_entropy": "entropy of the next token (nats)",
    "truth/task/p_correct": "probability of a correct answer",
    "truth/task/p_hack": "probability of the hack",
}
# Lines beside a measured curve: prefix of their metric, dash (of matplotlib, of plotly), name.
LAW_LINES = (
    ("theory/", "-", "solid", "the law"),
    ("theory/bias/", ":", "dot", "bias alone"),
    ("theory/tables/", "--", "dash", "tables, finite sets"),
)


def overlaid(chains: list[Any]) -> list[str]:
    """Metrics for which some chain has a law or a bias line."""
    has = {key for chain in chains for row in chain.rows for key in row["metrics"]}
    return [key for key in TITLES if key in has and has & {f"{prefix}{key}" for prefix, *_ in LAW_LINES}]


def by_generation(chains: list[Any], key: str) -> dict[int, np.ndarray]:
    """Return {generation: values (chains,)} of the chains of one arm."""
    values_of: dict[int, list[float]] = {}
    for chain in chains:
        for row in chain.rows:
            if key in row["metrics"]:
                values_of.setdefault(row["generation"], []).append(row["metrics"][key])
    return {g: np.array(values) for g, values in sorted(values_of.items())}


def residuals(chains: list[Any], key: str) -> list[tuple[int, int, float, float, float]]:
    """Return (generation, chains, measured, expected, standard error of their difference) for the chains of one arm.

    The standard error is the one over chains, and at least the one within chains, because that over few chains may be small
    by chance. With one chain it is the one within (nan if it has none).
    """
    measured, expected = by_generation(chains, key), by_generation(chains, f"theory/{key}")
    within = by_generation(chains, f"theory/{key}_se")
    out = []
    for g in sorted(measured.keys() & expected.keys()):
        if len(measured[g]) != len(expected[g]):
            continue
        gaps = measured[g] - expected[g]
        inside = within.get(g)
        se = math.nan if inside is None else math.sqrt(float((inside**2).mean()) / len(inside))
        if len(gaps) > 1:
            se = float(np.nanmax([gaps.std(ddof=1) / math.sqrt(len(gaps)), se]))
        out.append((g, len(gaps), float(measured[g].mean()), float(expected[g].mean()), se))
    return out


AGREEMENT = ["metric", "arm", "generation", "chains", "measured", "law", "difference", "se", "holds"]
# Metrics between 0 and 1 whose law is an equality for a learner of the model's own tokens. (Words are made of several.)
OF_ANSWERS = ("truth/task/p_correct", "truth/task/p_hack")
EXACT = (TRUTH, "truth/slot/drift", "tails/bigrams/coverage_1", *OF_ANSWERS)
POWER = 0.01  # largest standard error with which a comparison of answers with their law tells anything
BOUND = 0.02  # difference allowed between a trained network and an exact learner's law, if above 3 standard errors


def agreement(chains: list[Any]) -> pd.DataFrame:
    """Compare measured with expected for every arm, generation and metric with a law.

    Columns metric, arm, generation, chains, measured, law, difference, se (standard error of the difference) and holds:
    |difference| <= max(3 se, 0.02) if the law is an equality, else empty; of answers also where se is above POWER or unknown.
    """
    rows = []
    for key in overlaid(chains):
        for arm, members in by_arm(chains).items():
            for g, count, measured, law, se in residuals(members, key):
                gap = measured - law
                bound = max(3 * (0.0 if math.isnan(se) else se), BOUND)
                tells = _judged(key, members) and (key not in OF_ANSWERS or se <= POWER)
                holds = abs(gap) <= bound if tells else None
                rows.append((key, arm, g, count, measured, law, gap, se, holds))
    return pd.DataFrame(rows, columns=AGREEMENT)


def _judged(key: str, chains: list[Any]) -> bool:
    """Return True if the law is an equality for these chains.

    A survival law is one only for a table of counts (the only learner that gives probability 0), and only without later real
    text, as in a control: what that brings back is an estimate.
    """
    rows = [row for chain in chains for row in chain.rows]
    if key not in EXACT or not key.startswith("tails/"):
        return key in EXACT
    fresh = chains[0].is_control or any(row["real_share"] > 0 for row in rows if row["generation"])
    return any("real/impossible" in row["metrics"] for row in rows) and not fresh


def by_arm(chains: list[Any]) -> dict[str, list[Any]]:
    """Group chains by arm, in the order of the report."""
    return grouped_by(chains, lambda chain: str(chain.arm))


def grouped_by(chains: list[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Group chains by a key, keeping their order."""
    groups: dict[str, list[Any]] = {}
    for chain in chains:
        groups.setdefault(key(chain), []).append(chain)
    return groups

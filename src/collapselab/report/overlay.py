"""Theory beside the measured curves: for every metric m of metrics.jsonl that has a law, `theory/m` is what the law of
this chain's own pipeline expects, `theory/m_se` the standard error of the difference within the chain, and
`theory/bias/m` the course without sampling noise (temperature and truncation alone)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

TRUTH = "truth/slot/diversity"  # of which the truth has 1: what real text alone tends to as training sets grow
# Metrics with a law, in the order in which they are drawn.
TITLES = {
    TRUTH: "Simpson diversity of the slot, r = E[H]/H*",
    "truth/slot/drift": "drift from the truth, E|p - p*|²/H*",
    "truth/slot/survivors": "slot values that survive",
    "tails/bigrams/coverage_1": "pairs of tokens seen once, still written",
    "tails/words/coverage_1": "words seen once, still written",
    "tails/words/coverage_5": "words seen five times or less, still written",
    "real/next_token_entropy": "entropy of the next token (nats)",
}


def overlaid(chains: list[Any]) -> list[str]:
    """The metrics that some chain has a law or a bias line for."""
    has = {key for chain in chains for row in chain.rows for key in row["metrics"]}
    return [key for key in TITLES if key in has and has & {f"theory/{key}", f"theory/bias/{key}"}]


def by_generation(chains: list[Any], key: str) -> dict[int, np.ndarray]:
    """{generation: (chains,) values} of the chains of one arm."""
    found: dict[int, list[float]] = {}
    for chain in chains:
        for row in chain.rows:
            if key in row["metrics"]:
                found.setdefault(row["generation"], []).append(row["metrics"][key])
    return {g: np.array(values) for g, values in sorted(found.items())}


def residuals(chains: list[Any], key: str) -> list[tuple[int, int, float, float, float]]:
    """(generation, chains, measured, expected, standard error of their difference) for the chains of one arm.

    The standard error is over chains, and not below what the errors within the chains make of it: of a few chains it may
    be small by chance. With one chain it is the one within the chain (nan where it has none).
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
EXACT = (TRUTH, "truth/slot/drift", "tails/bigrams/coverage_1")
BOUND = 0.02  # of a share: what a trained network may differ from the law of an exact learner, beside 3 standard errors


def agreement(chains: list[Any]) -> pd.DataFrame:
    """Measured against expected for every arm, generation and metric that has a law.

    Columns metric, arm, generation, chains, measured, law, difference, se (standard error of the difference) and holds:
    whether |difference| <= max(3 se, 0.02), where the law is an equality; empty elsewhere.
    """
    rows = []
    for key in overlaid(chains):
        for arm, members in by_arm(chains).items():
            for g, count, measured, law, se in residuals(members, key):
                gap = measured - law
                bound = max(3 * (0.0 if math.isnan(se) else se), BOUND)
                holds = abs(gap) <= bound if _judged(key, members) else None
                rows.append((key, arm, g, count, measured, law, gap, se, holds))
    return pd.DataFrame(rows, columns=AGREEMENT)


def _judged(key: str, chains: list[Any]) -> bool:
    """Whether the law is an equality for these chains. A survival law is one for a table of counts alone (the only learner
    that calls anything impossible), and not where real text comes in later, as in a control: how much it brings back is an
    estimate."""
    rows = [row for chain in chains for row in chain.rows]
    if key not in EXACT or not key.startswith("tails/"):
        return key in EXACT
    fresh = chains[0].is_control or any(row["real_share"] > 0 for row in rows if row["generation"])
    return any("real/impossible" in row["metrics"] for row in rows) and not fresh


def by_arm(chains: list[Any]) -> dict[str, list[Any]]:
    """The chains of each arm, in the order of the report."""
    return grouped_by(chains, lambda chain: str(chain.arm))


def grouped_by(chains: list[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """The chains by what `key` says of each, in the order in which they come."""
    found: dict[str, list[Any]] = {}
    for chain in chains:
        found.setdefault(key(chain), []).append(chain)
    return found

"""Verdicts can fail: the lab is broken in named ways, and the verdict of the entry that each concerns turns (mutations.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from by_chance import DIVERSITY, DOCUMENTS, TOWNS, chain
from conftest import ROOT
from mutations import MUTATIONS, Mutation, copy_of, verdict

FAST = [mutation for mutation in MUTATIONS if mutation.fast]


def named(mutation: Mutation) -> str:
    return mutation.name.replace(" ", "_")


def test_the_list_is_long_enough_and_its_changes_can_be_made(tmp_path: Path) -> None:
    """What the code no longer says is found here, and not by a mutation that changes nothing."""
    assert len(MUTATIONS) >= 12 and len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for number, mutation in enumerate(MUTATIONS):
        copied = copy_of(mutation, tmp_path / str(number))
        for name, _, _ in mutation.changes:
            compile((copied / "collapselab" / name).read_text(), name, "exec")


@pytest.mark.parametrize("mutation", FAST, ids=named)
def test_a_broken_lab_does_not_pass(mutation: Mutation, tmp_path: Path) -> None:
    word, said = verdict(mutation, tmp_path, broken=True)
    assert word == "FAIL", said


@pytest.mark.parametrize("mutation", {m.setting: m for m in FAST}.values(), ids=named)
def test_and_unbroken_it_does(mutation: Mutation, tmp_path: Path) -> None:
    word, said = verdict(mutation, tmp_path, broken=False)
    assert word == "PASS", said


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if not m.fast], ids=named)
def test_every_other_mutation_turns_its_verdict(mutation: Mutation, tmp_path: Path) -> None:
    word, said = verdict(mutation, tmp_path, broken=True)
    assert word == "FAIL", said


@pytest.mark.slow
@pytest.mark.parametrize("mutation", {m.setting: m for m in MUTATIONS if not m.fast}.values(), ids=named)
def test_and_unbroken_its_entry_passes(mutation: Mutation, tmp_path: Path) -> None:
    word, said = verdict(mutation, tmp_path, broken=False)
    assert word == "PASS", said


# --- where the bounds come from -------------------------------------------------------------------------------------------


def bounds(entry: str, of: str) -> tuple[float, float, int]:
    """The bounds of a criterion, and the entry's number of seeds."""
    tree = yaml.safe_load((ROOT / "configs" / "papers" / f"{entry}.yaml").read_text())
    one = next(one for one in tree["paper"]["criteria"] if one["of"] == of)
    return one["at_least"], one["at_most"], len(tree["seeds"])


@pytest.mark.parametrize(
    ("entry", "of", "regime", "share"),
    [
        ("fixed_share", "none.r[24]", "replace", 0.0),
        ("fixed_share", "mean(one_in_ten.r[12:])", "replace", 0.1),
        ("fixed_share", "mean(three_in_ten.r[12:])", "replace", 0.3),
        ("kazdan", "replace.error[-1]", "replace", 0.0),
        ("kazdan", "accumulate_subsample.error[-1]", "accumulate_subsample", 0.0),
        ("kazdan", "accumulate.error[-1]", "accumulate", 0.0),
        ("kazdan", "control.error[-1]", "replace", 1.0),
    ],
)
def test_bounds_are_the_law_and_four_standard_errors(entry: str, of: str, regime: str, share: float) -> None:
    """Of the whole experiment by chance, whose own scatter over twelve runs is allowed for."""
    low, high, seeds = bounds(entry, of)
    runs = [chain(regime, share, 24 if entry == "fixed_share" else 12, seed) for seed in range(900, 912)]
    pick = {"none.r[24]": lambda r, d: r[24]}.get(
        of, (lambda r, d: r[12:].mean()) if "mean" in of else lambda r, d: d[-1]
    )
    values = np.array([pick(r, d) for r, d in runs])
    middle, half = (low + high) / 2, (high - low) / 2
    spread = half * np.sqrt(seeds) / 4  # of a chain, as the bounds have it
    assert abs(values.mean() - middle) < 4 * spread / np.sqrt(len(values)), (values.mean(), middle)
    assert 0.4 < values.std(ddof=1) / spread < 1.9, (values.std(ddof=1), spread)


def test_what_stands_by_chance_is_the_law_of_equal_towns() -> None:
    """With about ten documents in a town, a generation of real text has r near the mean of 1 - 1/n."""
    r, drift = chain("replace", 1.0, 3, 1)
    counts = np.random.default_rng(1).poisson(DOCUMENTS / TOWNS, 100_000)
    law = (1 - 1 / counts[counts > 0]).mean()
    assert r.mean() == pytest.approx(law, abs=0.006) and (r + drift).mean() == pytest.approx(1, abs=0.006)
    assert 0.9 < DIVERSITY < 1

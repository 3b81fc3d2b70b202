"""The all-real control: real text in place of every sample, through the same stages and budgets (`sampling.source`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import one_process, small_config

from collapselab.chain import run
from collapselab.chain.opening import open_corpus
from collapselab.chain.preflight import check_supply
from collapselab.config import CorpusConfig, RunConfig, UserError
from collapselab.config.corpus import PlantedConfig
from collapselab.config.identity import identity, shared_digests
from collapselab.mixing.regimes import REGIMES
from collapselab.mixing.sets import read_blocks, read_mixture, real_order
from collapselab.mixing.sources import REAL
from collapselab.store.layout import Chain, read_metrics

GENERATIONS = 3
OWN = {"replace": {"mixing__start": 0.25, "mixing__ratio": 0.5}, "incremental": {"mixing__replaced": 0.5}}


def planted(folder: Path, **changes: Any) -> RunConfig:
    """The exact learner on the planted language."""
    keys: dict[str, Any] = {
        "runs_dir": str(folder), "generations": GENERATIONS, "model__family": "bigram", "model__start": "scratch",
        "training__block": 13, "mixing__tokens": 160 * 13, "mixing__unit": "documents",
        "sampling__prompt": "real_prefix", "sampling__prompt_tokens": 3,
    }  # fmt: skip
    config = small_config(**keys | changes)
    return dataclasses.replace(
        config, corpus=CorpusConfig(source="planted", documents=2000, planted=PlantedConfig(contexts=8, values=16))
    )


def control_of(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, arm="control", sampling=dataclasses.replace(config.sampling, source="real"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.mark.parametrize("regime", REGIMES)
def test_every_block_is_real_and_none_stands_for_two(runs: Path, regime: str) -> None:
    config = planted(runs, name=regime, generations=GENERATIONS, mixing__regime=regime, **OWN.get(regime, {}))
    control = control_of(config)
    roots = [run.run(one)[0] for one in (config, control)]
    corpus = open_corpus(config, one_process())
    block = config.training.block
    order = real_order(config, len(corpus.train.ids) // block)
    stood_for: dict[int, tuple[int, int]] = {}
    for g in range(GENERATIONS + 1):
        (theirs, _), (mine, streams) = (read_blocks(Chain(root), g, corpus.train, block) for root in roots)
        assert (mine[:, 0] < 0).all() and all(stream is corpus.train.ids for stream in streams.values())
        # The same sets but for who wrote them: real blocks are the treatment's own, one real block stands for each sample.
        was_real = theirs[:, 0] == REAL
        assert (mine[was_real] == theirs[was_real]).all() and len(mine) == len(theirs)
        assert len(np.unique(mine[:, 1])) == len(mine)
        for (source, place), ours in zip(theirs[~was_real].tolist(), mine[~was_real].tolist(), strict=True):
            assert ours[0] == -2 - source
            assert stood_for.setdefault(ours[1], (source, place)) == (source, place)
        ledgers = [read_mixture(Chain(root).stage(g, "mixture"))["tokens"] for root in roots]
        written = {s: sum(e["set"] for name, e in ledger.items() if name.startswith(s)) for ledger in ledgers[1:] for s in
                   ("control_", "generation_", "prompt_")}  # fmt: skip
        assert written == {"control_": block * int((~was_real).sum()), "generation_": 0, "prompt_": 0}
        assert ledgers[0].get("real") == ledgers[1].get("real")
    shown = set(order[: read_mixture(Chain(roots[1]).stage(GENERATIONS, "mixture"))["real_blocks_used"]].tolist())
    assert stood_for and not shown & stood_for.keys()
    for g in range(GENERATIONS + 1):  # its models' own text is measured, and is another one from generation 1 on
        digests = [Chain(root).digest_of(g, "samples") for root in roots]
        assert (digests[0] == digests[1]) == (g == 0)


def test_generation_0_is_shared_with_the_arm_that_it_controls() -> None:
    config = RunConfig()
    mine, theirs = identity(control_of(config)), identity(config)
    assert mine != theirs and shared_digests(mine, "c") == shared_digests(theirs, "c")


def test_exact_learner_of_real_text_keeps_to_the_law_of_a_real_share_of_one(runs: Path) -> None:
    seeds = range(8)
    gaps = []
    for seed in seeds:
        config = planted(runs, name="law", generations=4, seed=seed, mixing__start=0.0, mixing__schedule="constant")
        rows = read_metrics(run.run(control_of(config))[0])
        law = [row["metrics"]["theory/truth/slot/diversity"] for row in rows]
        assert np.ptp(law) < 0.01  # every set is of the same size, and real
        gaps.append([row["metrics"]["truth/slot/diversity"] - x for row, x in zip(rows, law, strict=True)])
    later = np.array(gaps)[:, 1:].mean(1)
    assert abs(later.mean()) < 3 * later.std(ddof=1) / np.sqrt(len(later)) + 1e-3


def test_the_line_of_a_generation_tells_a_control_from_a_closed_loop(tmp_path: Path) -> None:
    config = planted(tmp_path, generations=1, mixing__schedule="constant", mixing__start=0.0)
    for one, shares in (
        (config, "real share 0.000 distinct"),
        (control_of(config), "real share 0.000 + control text distinct"),
    ):
        run.run(one)
        assert f"generation 1: {shares}" in (tmp_path / one.name / "events.log").read_text()


def test_too_little_real_text_is_said_before_the_start(tmp_path: Path) -> None:
    config = control_of(planted(tmp_path, generations=50))
    with pytest.raises(
        UserError, match=r"sampling.source='real': .* reaches generation (\d+); set generations=\1 for this arm"
    ):
        run.run(config)
    assert not (tmp_path / config.name).exists()


def test_what_stands_for_samples_is_counted(tmp_path: Path) -> None:
    config = planted(tmp_path)
    needs = [check_supply(one, available=2000) * config.training.block for one in (config, control_of(config))]
    assert needs[1] - needs[0] == GENERATIONS * (config.mixing.tokens or 0)


@pytest.mark.parametrize("regime", ["replace", "accumulate", "incremental"])
def test_generation_0_is_the_same_whichever_arm_makes_it(tmp_path: Path, regime: str) -> None:
    """Its scores, laws among them, depend on nothing that arms which share it may differ in."""
    found = []
    for order in ("forth", "back"):
        config = planted(tmp_path, name=order, generations=1, mixing__regime=regime, sampling__temperature=0.8)
        arms = [config, control_of(config)]
        for one in arms if order == "forth" else reversed(arms):
            run.run(one, shares_generation_0=True)
        found.append([Chain(tmp_path / order / f"arm={one.arm}" / "seed=1").digest_of(0, "eval") for one in arms])
    assert found[0] == found[1] and len(set(found[0])) == 1


def test_a_control_is_not_forked_to_a_loop(tmp_path: Path) -> None:
    """What stood for samples would count as text never shown."""
    config = planted(tmp_path, generations=1)
    control, _ = run.run(control_of(config))
    with pytest.raises(UserError, match="an all-real control, whose text would count as unused again"):
        run.run(dataclasses.replace(config, name="forked"), (control, 1))
    loop, _ = run.run(config)
    forked, _ = run.run(dataclasses.replace(control_of(config), name="forked", generations=2), (loop, 1))
    assert read_mixture(Chain(forked).stage(2, "mixture"))["tokens"].keys() <= {"real", "control_0", "control_1"}

"""Theory beside the curves: the law of the pipeline that was really run, in metrics.jsonl, the tables and the report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import small_config

from collapselab.chain import run as chain
from collapselab.config import CorpusConfig, RunConfig
from collapselab.config.corpus import PlantedConfig
from collapselab.evaluation.expected import law_of, why_no_law, why_no_slot_law, why_no_tail_law
from collapselab.metrics.richness import rate_law
from collapselab.mixing.regimes import REGIMES, Inputs, Law, Regime, blocks_of
from collapselab.mixing.sources import REAL
from collapselab.report import overlay
from collapselab.report.pages import ChainFiles, write_report
from collapselab.report.results import write_results
from collapselab.store.folders import read_json
from collapselab.store.layout import Chain, read_metrics
from collapselab.store.seals import COPY, IDENTITY, json_text, sealed
from collapselab.theory.sharpening import bias_only
from collapselab.theory.tails import lost

SLOT = "truth/slot/"


def planted(folder: Path, **changes: Any) -> RunConfig:
    """The exact learner on the planted language: 128 towns, about 20 documents each."""
    keys: dict[str, Any] = {
        "runs_dir": str(folder), "generations": 6, "model__family": "bigram", "model__start": "scratch",
        "training__block": 13, "mixing__tokens": 2560 * 13, "mixing__unit": "documents", "mixing__start": 0.0,
        "sampling__prompt": "real_prefix", "sampling__prompt_tokens": 3,
    }  # fmt: skip
    config = small_config(**keys | changes)
    return dataclasses.replace(
        config, corpus=CorpusConfig(source="planted", documents=16000, planted=PlantedConfig(contexts=128, values=16))
    )


def found(path: Path, generation: int) -> dict[str, float]:
    return read_metrics(path)[generation]["metrics"]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed loop (no real text) of the exact learner; do not change it."""
    return chain.run(planted(tmp_path_factory.mktemp("closed"), mixing__schedule="constant"))[0]


def documents(path: Path, generation: int) -> np.ndarray:
    sums = read_json(path / f"gen_{generation:03d}" / "eval" / "eval.json")["sums"]
    return np.array(sums["truth/slot"]["documents"])


def test_without_real_text_the_law_is_a_power_of_each_towns_own_size(closed: Path) -> None:
    sizes = documents(closed, 0)
    assert len(set(sizes.tolist())) > 3  # towns are drawn, so their sizes differ
    for g in range(7):
        assert (documents(closed, g) == sizes).all()  # prompts keep them
        assert found(closed, g)[f"theory/{SLOT}diversity"] == pytest.approx(np.mean((1 - 1 / sizes) ** (g + 1)))
        assert found(closed, g)[f"theory/{SLOT}drift"] == pytest.approx(1 - np.mean((1 - 1 / sizes) ** (g + 1)))


@pytest.mark.parametrize(
    "changes",
    [
        {"mixing__schedule": "constant"},
        {"mixing__schedule": "constant", "mixing__start": 0.2},
        {"mixing__schedule": "constant", "mixing__start": 0.2, "mixing__real": "reuse"},
        {"mixing__schedule": "harmonic"},
        {"mixing__regime": "accumulate"},
        {"mixing__regime": "accumulate_subsample"},
        {"mixing__regime": "keep_real"},
    ],
    ids=["closed", "fresh", "reuse", "harmonic", "accumulate", "subsample", "keep_real"],
)
def test_the_exact_learner_stays_within_four_standard_errors_of_its_own_law(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """128 towns are 128 replicates; the laws of the other regimes are further away than that by the last generation."""
    path, rows = chain.run(planted(tmp_path, **changes))
    for row in rows:
        metrics = row["metrics"]
        for name in ("diversity", "drift", "survivors"):
            gap = metrics[SLOT + name] - metrics[f"theory/{SLOT}{name}"]
            assert abs(gap) <= 4 * metrics[f"theory/{SLOT}{name}_se"] + 1e-9, (row["generation"], name)
    closed = np.mean((1 - 1 / documents(path, 0)) ** 7)
    if changes != {"mixing__schedule": "constant"}:
        last = rows[-1]["metrics"]
        assert last[f"theory/{SLOT}diversity"] - closed > 4 * last[f"theory/{SLOT}diversity_se"]


def test_a_colder_sampler_has_a_bias_line_of_its_own(tmp_path: Path, closed: Path) -> None:
    _, rows = chain.run(planted(tmp_path, mixing__schedule="constant", sampling__temperature=0.8, generations=3))
    law = 1 / np.arange(1, 17)
    for g, row in enumerate(rows):
        p = (law / law.sum()) ** ((1 / 0.8) ** g)
        p /= p.sum()
        truth = 1 - ((law / law.sum()) ** 2).sum()
        assert row["metrics"][f"theory/bias/{SLOT}diversity"] == pytest.approx((1 - (p**2).sum()) / truth)
    last = rows[-1]["metrics"]
    # Noise alone would leave much more than is there; with the bias, less is expected than noise says.
    assert last[f"{SLOT}diversity"] < last[f"theory/{SLOT}diversity"] - 4 * last[f"theory/{SLOT}diversity_se"]
    assert last[f"theory/bias/{SLOT}diversity"] < last[f"theory/{SLOT}diversity"]
    assert not any(key.startswith("theory/bias/") for key in found(closed, 3))


@pytest.fixture(scope="module")
def natural(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The exact learner on speeches, a closed loop down to the prompts."""
    folder = tmp_path_factory.mktemp("natural")
    config = small_config(
        runs_dir=str(folder), generations=3, model__family="bigram", model__start="scratch", mixing__start=0.0,
        mixing__schedule="constant", mixing__tokens=1 << 16, training__block=128, sampling__prompt_from="previous",
        corpus__tokenizer="bpe", corpus__vocab_size=2048,
    )  # fmt: skip
    return chain.run(config)[1]


def test_rare_pairs_of_an_exact_learner_follow_the_survival_law(natural: list[dict[str, Any]]) -> None:
    for row in natural:
        metrics = row["metrics"]
        for k in (1, 5, 20):
            key = f"tails/bigrams/coverage_{k}"
            assert abs(metrics[key] - metrics[f"theory/{key}"]) <= 4 * metrics[f"theory/{key}_se"], (
                row["generation"],
                k,
            )
    q = lost(4)  # written text is a little shorter than the training set: prompts are no text of the model
    expected = [row["metrics"]["theory/tails/bigrams/coverage_1"] for row in natural]
    assert expected == pytest.approx(1 - q, abs=0.01) and expected[0] < 1 - q[0]


def test_fresh_real_text_brings_rare_pairs_back_as_often_as_estimated(tmp_path: Path) -> None:
    """What is estimated is the law of rates: a misfit of .015 is the price, where the rate's mean alone is .04 off."""
    config = small_config(
        runs_dir=str(tmp_path), generations=3, model__family="bigram", model__start="scratch", mixing__start=0.5,
        mixing__schedule="constant", mixing__tokens=1 << 16, training__block=128, sampling__prompt_from="previous",
        corpus__tokenizer="bpe", corpus__vocab_size=2048,
    )  # fmt: skip
    path, rows = chain.run(config)
    key = "tails/bigrams/coverage_1"
    for row in rows:
        assert row["metrics"][key] == pytest.approx(row["metrics"][f"theory/{key}"], abs=0.015), row["generation"]
    assert (
        overlay.agreement([ChainFiles(path)]).query("metric == @key")["holds"].isna().all()
    )  # an estimate: no verdict


def test_rates_of_a_known_gamma_law_are_recovered() -> None:
    draw = np.random.default_rng(0)
    rates = draw.gamma(0.3, 4.0, size=200_000)  # prior of shape .3 and scale 4: the posterior's is 4 / (1 + 4)
    first, second = (draw.poisson(rates) for _ in "ab")
    offset, scale = rate_law(first)
    assert (offset, scale) == (pytest.approx(0.3, abs=0.05), pytest.approx(0.8, abs=0.01))
    for c in (1, 3):
        absent = (second[first == c] == 0).mean()
        assert absent == pytest.approx((1 + scale) ** -(c + offset), abs=0.01)
    assert rate_law(np.array([1, 1, 5])) == (0.0, 1.0)


def test_a_control_whose_sets_grow_has_no_law_where_its_sets_are_shown_in_part(tmp_path: Path) -> None:
    shown = {"sampling__source": "real", "training__tokens": 2560 * 13}
    for regime, known in (("replace", True), ("accumulate", False), ("keep_real", False), ("expanding", False)):
        assert (why_no_law(planted(tmp_path, mixing__regime=regime, **shown)) == "") == known, regime


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampling__repetition_penalty": 1.3}, "repetition penalty or beams"),
        ({"training__tokens": 1280 * 13}, "training.tokens"),
        ({"sampling__prompt_tokens": 6}, "more than 3 tokens"),
        ({"training__loss_on_last": 4}, "loss_on_last"),
        *(({"mixing__regime": r}, f"mixing.regime={r} has none") for r in ("balanced", "incremental", "expanding")),
    ],
)
def test_a_pipeline_without_a_law_says_so_and_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], why: str
) -> None:
    _, rows = chain.run(planted(tmp_path, generations=1, **changes))
    assert not any(key.startswith("theory/truth") for key in rows[1]["metrics"])  # generation 0 is mixed by no regime
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at", "changes", "told"),
    [
        (2, {"mixing__regime": "accumulate"}, "mixing.regime"),
        (0, {"mixing__regime": "accumulate"}, ""),  # nothing was mixed before
        (2, {"mixing__schedule": "constant", "mixing__start": 0.5}, ""),  # shares are read as they were mixed
        (0, {"mixing__schedule": "constant", "sampling__temperature": 0.9}, "sampling.temperature"),
        (2, {"mixing__schedule": "constant", "mixing__real": "reuse"}, "mixing.real"),
    ],
)
def test_a_fork_that_changes_what_a_law_reads_has_none(
    closed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, changes: dict[str, Any], told: str
) -> None:
    config = planted(tmp_path, generations=at + 2, **changes)
    path, rows = chain.run(config, (closed, at))
    for row in rows:
        has = any(key.startswith(f"theory/{SLOT}") for key in row["metrics"])
        assert has == (row["generation"] <= at or not told), row["generation"]
    said = capsys.readouterr().err
    assert said.count("no theoretical prediction") == bool(told)
    assert (f": its fork changed {told}\n" in said) == bool(told)
    if told == "sampling.temperature":  # of a fork of that fork, which changes nothing more, there is none either
        again = dataclasses.replace(config, name="again", generations=3)
        assert not any(key.startswith("theory/") for key in chain.run(again, (path, 1))[1][-1]["metrics"])


def test_a_fork_whose_record_is_strange_has_no_law(
    closed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"generations": 1, "mixing__schedule": "constant"}
    path, rows = chain.run(planted(tmp_path, **keys), (closed, 0))
    assert f"theory/{SLOT}diversity" in rows[1]["metrics"]
    for name in (IDENTITY, COPY):
        facts = read_json(path / name)
        facts["fork"]["changed"] = [{}, 1, "sampling.temperature"]
        (path / name).write_text(json_text(sealed(facts)))
    _, rows = chain.run(planted(tmp_path, name="again", **keys), (path, 0))
    assert f"theory/{SLOT}diversity" not in rows[1]["metrics"]
    assert "its fork changed" in capsys.readouterr().err


def test_only_equal_parts_are_sharpened(tmp_path: Path) -> None:
    keys = {"mixing__regime": "expanding", "sampling__temperature": 0.5, "generations": 1}
    _, rows = chain.run(small_config(runs_dir=str(tmp_path), **keys))
    assert not any(key.startswith("theory/bias/") for key in rows[1]["metrics"])
    with pytest.raises(ValueError, match="regime 'expanding'"):
        bias_only(np.array([0.5, 0.5]), [1.0, 0.5], temperature=0.5, regime="expanding")


def test_a_set_larger_than_what_is_written_has_no_law_of_survival() -> None:
    config = planted(Path("runs"), mixing__regime="keep_real")
    assert not why_no_slot_law(config) and "keep_real" in why_no_tail_law(small_config(mixing__regime="keep_real"))
    assert law_of(config) == ("replace", True)
    assert law_of(planted(Path("runs"), mixing__real="reuse")) == ("replace", True)
    assert law_of(planted(Path("runs"), mixing__regime="accumulate")) == ("accumulate", False)


def test_truncated_cross_entropy_has_no_law() -> None:
    def slot(below: float) -> str:
        return why_no_slot_law(planted(Path(), training__loss_below=below, model__family="gpt2"))

    def tail(below: float) -> str:
        return why_no_tail_law(small_config(training__loss_below=below))

    assert "loss_below" in slot(0.99) and "loss_below" in tail(0.99)
    assert slot(1.0) == tail(1.0) == ""  # leaves nothing out


def test_a_town_that_once_had_no_documents_counts_on_both_sides_alike(tmp_path: Path) -> None:
    """Three documents per town: towns die out, and their models are no learners of anything."""
    path, rows = chain.run(
        planted(tmp_path, mixing__tokens=384 * 13, mixing__regime="accumulate_subsample", generations=5)
    )
    assert any((documents(path, g) == 0).any() for g in range(6))
    for row in rows:
        metrics = row["metrics"]
        gap = metrics[f"{SLOT}diversity"] - metrics[f"theory/{SLOT}diversity"]
        assert abs(gap) <= 4 * metrics[f"theory/{SLOT}diversity_se"], row["generation"]


def test_bias_in_a_pool_is_the_mean_of_what_was_written(tmp_path: Path) -> None:
    p = np.array([0.5, 0.3, 0.2])
    pooled = bias_only(p, [1.0, 0.5, 0.3], temperature=0.5, regime="accumulate")
    colder = p**2 / (p**2).sum()
    assert pooled[1] == pytest.approx((p + colder) / 2)
    coldest = pooled[1] ** 2 / (pooled[1] ** 2).sum()
    assert pooled[2] == pytest.approx((p + colder + coldest) / 3)
    _, rows = chain.run(
        planted(tmp_path, mixing__regime="accumulate", sampling__temperature=0.7, generations=2, mixing__schedule=None)
    )
    last = rows[-1]["metrics"]
    assert last[f"theory/bias/{SLOT}diversity"] < last[f"theory/{SLOT}diversity"]


def test_a_networks_bias_line_begins_at_its_own_entropy(tmp_path: Path) -> None:
    cold, rows = chain.run(
        small_config(runs_dir=str(tmp_path), generations=1, sampling__temperature=0.5, mixing__tokens=16384)
    )
    key = "real/next_token_entropy"
    assert rows[0]["metrics"][f"theory/bias/{key}"] == pytest.approx(rows[0]["metrics"][key], rel=1e-5)
    assert rows[1]["metrics"][f"theory/bias/{key}"] < rows[0]["metrics"][key]
    assert "theory/tails/words/coverage_5" in rows[1]["metrics"]
    assert Chain(cold).finished() == [0, 1]


def test_what_no_law_covers_has_none(tmp_path: Path) -> None:
    _, rows = chain.run(
        small_config(
            runs_dir=str(tmp_path), generations=0, sampling__prompt="real_prefix", sampling__prompt_tokens=16,
            sampling__repetition_penalty=1.2, sampling__temperature=0.5,
        )
    )  # fmt: skip
    assert not any(key.startswith("theory/") for key in rows[0]["metrics"])


# --- tables and report ------------------------------------------------------------------------------------------------


class Fake:
    """What the tables read of a chain."""

    def __init__(self, arm: str, values: list[tuple[float, float, float]], key: str = SLOT + "diversity"):
        self.arm = arm
        self.rows = [
            {"generation": g, "real_share": 0.0, "metrics": {key: m, f"theory/{key}": law, f"theory/{key}_se": se}}
            for g, (m, law, se) in enumerate(values)
        ]


def test_agreement_takes_its_standard_error_over_chains_or_within_the_only_one() -> None:
    several = [Fake("a", [(0.95, 0.94, 0.01)]), Fake("a", [(0.90, 0.94, 0.01)]), Fake("a", [(0.94, 0.91, 0.01)])]
    row = overlay.agreement(several).iloc[0]
    gaps = np.array([0.01, -0.04, 0.03])
    assert (row["chains"], row["difference"]) == (3, pytest.approx(0.0))
    assert row["se"] == pytest.approx(gaps.std(ddof=1) / math.sqrt(3)) and row["holds"]
    lucky = overlay.agreement([Fake("a", [(0.90, 0.94, 0.03)]), Fake("a", [(0.901, 0.941, 0.04)])]).iloc[0]
    assert lucky["se"] == pytest.approx(0.05 / 2)  # two chains may agree by chance: not below the errors within them
    alone = overlay.agreement([Fake("a", [(0.90, 0.94, 0.01), (0.90, 0.94, 0.02)])])
    assert alone["se"].tolist() == [0.01, 0.02]
    assert alone["holds"].tolist() == [False, True]  # .04 beside 3 x .01 and 3 x .02
    assert overlay.agreement([Fake("a", [(0.921, 0.94, 0.0)])])["holds"].tolist() == [True]  # within .02


def test_a_law_of_answers_is_compared_only_where_the_comparison_has_power() -> None:
    key = "truth/task/p_correct"
    some = [Fake("a", [(0.5, 0.51, 0.001), (0.5, 0.55, 0.001), (0.5, 0.9, 0.02), (0.5, 0.5, math.nan)], key)]
    assert overlay.agreement(some)["holds"].tolist() == [True, False, None, None]


def test_the_report_draws_the_laws_and_keeps_them_as_a_table(closed: Path, tmp_path: Path) -> None:
    run = closed.parents[1]
    text = write_report(run).read_text()
    assert "Beside exact theory" in text and (run / "report" / "theory.png").stat().st_size > 20_000
    page = write_results(run, tmp_path / "kept", "the command")
    assert "the command" in page.read_text() and "truth/slot/diversity" in page.read_text()
    assert {p.name for p in (tmp_path / "kept").iterdir()} >= {"table.md", "theory.csv", "metrics.csv", "theory.png"}
    lines = (tmp_path / "kept" / "theory.csv").read_text().splitlines()
    assert lines[0].split(",") == overlay.AGREEMENT and len(lines) > 3 * 7


@pytest.mark.parametrize("temperature", [1.0, 0.9])
@pytest.mark.parametrize("text", ["planted", "sotu"])
def test_a_regime_that_no_law_is_derived_for_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, temperature: float
) -> None:
    """Written by the recipe of docs/architecture.md: a record in REGIMES."""

    def latest(inputs: Inputs) -> np.ndarray:
        """Half of generation 0's real blocks, and as many of the newest ones."""
        half = inputs.size // 2
        return np.concatenate([blocks_of(REAL, inputs.real_order[:half]), inputs.pool(inputs.generation - 1)[:half]])

    monkeypatch.setitem(REGIMES, "latest", Regime(latest, Law(none="mixing.regime=latest has none")))
    changes = {"generations": 2, "mixing__regime": "latest", "sampling__temperature": temperature}
    if text == "planted":
        config = planted(tmp_path, **changes, mixing__tokens=256 * 13)
    else:
        config = small_config(runs_dir=str(tmp_path), model__family="bigram", **changes)
    path, rows = chain.run(config)
    assert len(rows) == 3 and [row["real_share"] for row in rows] == [1, 0.5, 0.5]
    assert not [key for row in rows[1:] for key in row["metrics"] if key.startswith("theory/")]
    assert "mixing.regime=latest has none" in capsys.readouterr().err
    write_report(path)


def test_every_regime_names_its_law_or_says_why_there_is_none() -> None:
    laws = {name: regime.law for name, regime in REGIMES.items()}
    theirs = {"replace", "accumulate", "accumulate_subsample"}
    assert {name for name, law in laws.items() if not law.none} == {*theirs, "keep_real"}
    assert {law.regime for law in laws.values() if not law.none} == theirs
    assert {name for name, law in laws.items() if law.regime and law.none} == {"balanced"}  # sharpened alone

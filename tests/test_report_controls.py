"""Controls in the report: the control of each arm, the effects stated against it, and how it is drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers import small_config, undrawn
from report_runs import fabricate

from collapselab.chain.run import run
from collapselab.cli.experiment import read_experiment
from collapselab.config import as_dict
from collapselab.config.values import flatten
from collapselab.metrics.tails import LEAST_TYPES
from collapselab.report import charts, colours, figures, files, overlay, page, pages, protocols, series, tables, words
from collapselab.report.controls import Control, controls
from collapselab.report.effects import per_cent, uncontrolled
from collapselab.reproduce.figure import draw
from collapselab.store.folders import read_json, write_json
from collapselab.store.layout import Chain, read_metrics

PERPLEXITY, (OF_WORDS, OF_TOKENS, PLAIN) = "real/perplexity", series.TAIL_HEADLINES
REAL = {"sampling.source": "real"}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of one generation beside generation 0."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("real")), generations=1, mixing__tokens=8192)
    return run(config)[0]


def arm(name: str, run: str = "run", seeds: tuple[int, ...] = (1,), **settings: Any) -> list[Any]:
    flat = {key.replace("__", "."): value for key, value in settings.items()}
    is_control = flat.get("sampling.source") == "real"
    return [SimpleNamespace(arm=name, run=run, seed=s, settings=flat, is_control=is_control) for s in seeds]


# --- which arm has which -----------------------------------------------------------------------------------------------


def test_a_control_is_that_of_the_arm_with_its_own_settings() -> None:
    """How its models write comes after how they are trained; what is no reason for a number makes no other arm."""
    chains = [
        *arm("closed"),
        *arm("cold", sampling__temperature=0.5, sampling__top_k=9, sampling__batch_size=7, sampling__precision="bf16"),
        *arm("kept", mixing__regime="accumulate", retain="last", training__checkpoint_steps=3),
        *arm("real_hot", sampling__source="real", sampling__temperature=2.0),
        *arm("real", sampling__source="real", sampling__batch_size=5, generations=9),
        *arm("real_kept", mixing__regime="accumulate", sampling__source="real", sampling__min_p=0.1),
    ]
    found = controls(chains)
    assert found["closed"] == Control("real", ())
    assert found["cold"] == Control("real_hot", ("sampling.temperature", "sampling.top_k"))
    assert found["kept"] == Control("real_kept", ("sampling.min_p",))


def test_a_single_control_is_shared_and_what_differs_is_named() -> None:
    chains = [
        *arm("closed"),
        *arm("kept", mixing__regime="accumulate", mixing__start=0.5),
        *arm("real", **dict_of(REAL)),
    ]
    found = controls(chains)
    assert found["closed"] == Control("real", ())
    assert found["kept"] == Control("real", ("mixing.regime", "mixing.start"))
    (said,) = uncontrolled([group(chains)], {"A": found})
    assert (
        said
        == "kept and the control real differ in more than where their text comes from: mixing.regime, mixing.start."
    )


def test_of_two_controls_none_is_guessed_and_every_run_has_its_own_first() -> None:
    two = [
        *arm("x", mixing__start=0.5),
        *arm("a", **dict_of(REAL), seed=0),
        *arm("b", sampling__source="real", mixing__start=0.1),
    ]
    assert controls(two) == {}
    assert uncontrolled([group(two)], {"A": {}}) == [
        "Without a control of the same settings, or a single one to share: x."
    ]
    runs = [
        *arm("one/x", "one"), *arm("one/real", "one", **dict_of(REAL)),
        *arm("two/x", "two"), *arm("two/real", "two", **dict_of(REAL)),
        *arm("three/x", "three"),
    ]  # fmt: skip
    assert {name: control.arm for name, control in controls(runs).items()} == {
        "one/x": "one/real", "two/x": "two/real", "three/x": "one/real",
    }  # fmt: skip


def test_a_change_without_a_control_is_said_to_have_none_and_how_to_add_one() -> None:
    (said,) = uncontrolled([group(arm("closed"))], {"A": {}})
    assert "cannot be told what part of a change is collapse" in said and len(said) < 300
    assert "control: {sampling.source: real}" in said and "collapselab experiment" in said
    assert uncontrolled([group(arm("real", **dict_of(REAL)))], {"A": {}}) == []


def test_seeds_that_cannot_be_paired_are_said() -> None:
    chains = [*arm("closed", seeds=(1, 2)), *arm("real", seeds=(3,), **dict_of(REAL))]
    assert uncontrolled([group(chains)], {"A": controls(chains)}) == [
        "closed and the control real have no seed in common, so nothing can be paired."
    ]


def dict_of(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in settings.items()}


def group(chains: list[Any]) -> protocols.Group:
    return protocols.Group("A", "", {}, chains)


# --- numbers -----------------------------------------------------------------------------------------------------------


def course(arm: str, seed: int, values: list[float]) -> list[tuple[str, int, int, str, float]]:
    return [(arm, seed, g, PERPLEXITY, value) for g, value in enumerate(values)]


def test_effects_are_paired_by_seed_and_the_loops_part_is_the_change_less_the_controls() -> None:
    from scipy import stats

    closed, control = (
        {1: [10.0, 14.0], 2: [11.0, 15.5], 3: [12.0, 15.0]},
        {1: [10.0, 11.0], 2: [11.0, 11.5], 4: [9.0, 9.0]},
    )
    rows = [
        row
        for name, by_seed in (("closed", closed), ("control", control))
        for s, v in by_seed.items()
        for row in course(name, s, v)
    ]
    tidy = pd.DataFrame(rows, columns=tables.TIDY)
    summary = tables.summary(tidy, None, {"closed": "control"}).set_index(["arm", "generation"])
    found = summary.loc["closed", 1]
    expected = stats.ttest_rel([14.0, 15.5], [11.0, 11.5]).confidence_interval(0.95)
    assert (found["control"], found["control_pairs"], found["effect"]) == ("control", 2, 3.5)
    assert (found["effect_low"], found["effect_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found["effect_share"] == pytest.approx(3.5 / 11.25)
    assert summary.loc["control", 1]["control_pairs"] == 0 and pd.isna(summary.loc["control", 1]["effect"])
    change = tables.changes(tidy, controls={"closed": "control"}).set_index("arm").loc["closed"]
    assert (change["chains"], change["change"]) == (3, pytest.approx((4 + 4.5 + 3) / 3))
    assert (change["loop_pairs"], change["control_change"], change["loop"]) == (2, 0.75, 3.5)
    expected = stats.ttest_rel([4.0, 4.5], [1.0, 0.5]).confidence_interval(0.95)
    assert (change["loop_low"], change["loop_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_shares_are_short_and_of_many_times_no_per_cent() -> None:
    assert [per_cent(share) for share in (-0.39, 0.004, 8.9, 19.04)] == [
        "-39 %",
        "+0.4 %",
        "+890 %",
        "20 times as much",
    ]


def test_without_controls_the_tables_have_empty_columns() -> None:
    tidy = pd.DataFrame(course("closed", 1, [1.0, 2.0]), columns=tables.TIDY)
    assert tables.summary(tidy, None)["effect"].isna().all() and tables.changes(tidy)["loop"].isna().all()
    assert tables.compared(tables.summary(tidy, None), None, 1)[1] == ["metric", "arm", "chains", "mean"]


# --- a run with a control ------------------------------------------------------------------------------------------------


def with_metrics(
    chain: Path, courses: dict[str, list[float]], band: dict[str, tuple[float, float]] | None = None
) -> None:
    """Adds metrics to the lines of a chain, and their scatter on real text (whose value is 1) to its reference."""
    rows = read_metrics(chain)
    for g, row in enumerate(rows):
        row["metrics"] |= {key: values[g] for key, values in courses.items()}
    Chain(chain).write_metrics(rows)
    if band is not None:
        path = Chain(chain).stage(0, "reference") / "eval.json"
        found = read_json(path)
        path.unlink()  # a link to the real chain's
        entries = {key: {"mean": 1.0, "low": low, "high": high, "draws": 20} for key, (low, high) in band.items()}
        write_json(path, found | {"metrics": found["metrics"] | dict.fromkeys(band, 1.0), "band": entries})


COURSES = {  # by arm and seed: coverage in context, perplexity
    "closed": {1: ([0.70, 0.50], [28.0, 38.0]), 2: ([0.72, 0.50], [28.5, 38.1])},
    "control": {1: ([0.71, 0.69], [28.0, 29.0]), 2: ([0.70, 0.68], [28.5, 29.6])},
}


@pytest.fixture(scope="module")
def pair(real: Path, tmp_path_factory: pytest.TempPathFactory) -> files.RunFiles:
    """An experiment of a closed loop and its control, two seeds each."""
    folder = tmp_path_factory.mktemp("pair") / "pair"
    fabricate(real, folder, list(COURSES), 2, 1, drop=("tails/words/coverage_",))
    for name, by_seed in COURSES.items():
        for seed, (coverage, perplexity) in by_seed.items():
            made = {OF_WORDS: coverage, PERPLEXITY: perplexity, "tails/words/known_triples_normalised": [0.9, 0.7]}
            with_metrics(folder / f"arm={name}" / f"seed={seed}", made, {OF_WORDS: (0.96, 1.04)})
    return as_control(files.open_run(folder))


def as_control(found: files.RunFiles) -> files.RunFiles:
    """The same with the arm `control` as one."""
    for chain in found.chains:
        chain.settings |= REAL if chain.arm == "control" else {}
    files._give_places(found.chains)
    return found


def rendered(found: files.RunFiles) -> str:
    groups = protocols.grouped(found.chains)
    parts = {one.label: pages.tables_of(one, found.baseline) for one in groups}
    return page.render(found, groups, parts, {"tables": [], "figures": []})


def test_the_first_sentence_states_the_change_and_its_control(pair: files.RunFiles) -> None:
    said = " ".join(rendered(pair).split())
    first = said.split('class="verdict">')[1].split("</p>")[0].replace("\xa0", " ")
    assert first.startswith("The coverage of rare words in context (1 is unseen real text) fell from 0.71")
    assert "Against the control at generation 1: −0.185 ± 0.064 (−27 %)." in first
    assert "The control itself changed by −0.02; the loop&#39;s part is −0.19 ± 0.13, 90 % of the change." in first
    assert "Against the control at generation 1: +8.80 ± 3.81" not in first  # of perplexity: in the arm's sentences
    assert "no control" not in said and "cannot be told what part" not in said


def test_every_sentence_of_an_arm_states_its_effect_and_names_the_companions(pair: files.RunFiles) -> None:
    said = arm_sentences(pair, "closed")
    assert sum("Against the control at generation 1" in one for one in said) >= 2
    (beside,) = [one for one in said if one.startswith("Beside it")]
    assert (
        "triples of words that real text knows from 0.9 to 0.7" in beside
        and "mass of words seen 5 times or less" in beside
    )
    assert "real text itself scatters from 0.96 to 1.04" in said[0]
    control = arm_sentences(pair, "control")
    assert control[0].startswith("All-real control") and not any("Against" in one for one in control)


def arm_sentences(found: files.RunFiles, arm: str) -> list[str]:
    (one,) = protocols.grouped(found.chains)
    parts = pages.tables_of(one, found.baseline)
    numbers = words.Numbers(parts["summary"], parts["changes"], parts["theory"])
    return words.of_arm(arm, overlay.by_arm(found.chains)[arm], numbers, found.baseline, 1)


def test_the_control_is_grey_with_its_band_and_takes_no_arms_colour(pair: files.RunFiles) -> None:
    places = {chain.arm: chain.place for chain in pair.chains}
    assert places == {"closed": 0, "control": -1}
    for draw_chart in (charts.likelihood, charts.tails, charts.diversity):
        spec = draw_chart(pair.chains)
        assert spec is not None
        by_group: dict[str, list[Any]] = {}
        for trace in spec["data"]:
            by_group.setdefault(trace["legendgroup"], []).append(trace)
        control = by_group["control (all real text, 2 seeds)"]
        assert {trace["line"]["color"] for trace in control if "color" in trace["line"]} == {colours.NEUTRAL}
        assert {trace["fillcolor"] for trace in control if "fillcolor" in trace} == {colours.faint(-1, 0.16)}
        closed = [trace["line"]["color"] for trace in by_group["closed (2 seeds)"] if "color" in trace["line"]]
        assert set(closed) == {colours.PALETTE[0]}
        assert spec["data"][0]["legendgroup"].startswith("control")  # beneath the others
    ridges = charts.distribution(pair.chains)
    assert ridges is not None and colours.NEUTRAL in json.dumps(ridges["data"])
    arms = {one["name"]: (one["colour"], one["control"]) for one in data_of(rendered(pair))["arms"]}
    assert arms == {"closed": (colours.PALETTE[0], False), "control": (colours.NEUTRAL, True)}


def data_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    )
    return found


def test_real_text_is_drawn_with_its_scatter(pair: files.RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = charts.tails(pair.chains)
    assert spec is not None
    strips = [trace for trace in spec["data"] if trace["name"] == "real text, same budget: scatter"]
    assert [trace["y"] for trace in strips] == [[1.04, 1.04, 0.96, 0.96]]
    rows = spec["layout"]["meta"]["table"]["rows"]
    assert ["words seen 5 times or less, in context", "real text", *["1 [0.96, 1.04]"] * 2] in rows
    kept: list[Any] = []
    monkeypatch.setattr(figures, "png", lambda figure: kept.append(figure) or b"")
    assert figures.tails(pair.chains) == b""
    axis = kept[0].axes[0]
    labels = axis.get_legend_handles_labels()[1]
    assert labels == ["control (all real text; 2 seeds)", "closed (2 seeds)", "real text, same budget"]
    assert [line.get_color() for line in axis.lines] == [colours.NEUTRAL, colours.PALETTE[0], colours.NEUTRAL]
    assert len(axis.patches) == 1  # the strip


def test_tables_and_table_md_have_the_effects(pair: files.RunFiles, tmp_path: Path) -> None:
    title, columns, rows = pages.compare(pair.chains, "closed")
    assert columns == ["metric", "arm", "chains", "mean", "minus control"] and "generation 1" in title
    at = {(row[0], row[1]): row[4] for row in rows}
    assert at["rare words", "closed"] == "-0.185 ± 0.064" and at["rare words", "control"] == "–"
    assert pages.compare(pair.chains, "control")[1][4:] == ["minus control"]  # said once
    with undrawn():
        pages._publish(pair, tmp_path)
    changes = pd.read_csv(tmp_path / "changes.csv").set_index(["arm", "metric"])
    assert changes.loc[("closed", OF_WORDS), "loop"] == pytest.approx(-0.19)
    summary = pd.read_csv(tmp_path / "summary.csv").set_index(["arm", "metric", "generation"])
    assert summary.loc[("closed", OF_WORDS, 1), "effect"] == pytest.approx(-0.185)
    assert list(summary.columns[-7:]) == [
        "control",
        "control_pairs",
        "effect",
        "effect_low",
        "effect_high",
        "effect_share",
        "protocol",
    ]


def test_what_cannot_be_told_from_no_effect_is_called_so_and_one_pair_has_no_interval(
    real: Path, tmp_path: Path
) -> None:
    folder = fabricate(real, tmp_path / "same", ["closed", "control"], 2, 1)
    for name, at_1 in (("closed", (30.0, 31.0)), ("control", (30.5, 30.6))):
        for seed in (1, 2):
            with_metrics(folder / f"arm={name}" / f"seed={seed}", {PERPLEXITY: [28.0, at_1[seed - 1]]})
    found = as_control(files.open_run(folder))
    (said,) = [one for one in arm_sentences(found, "closed") if one.startswith("Perplexity")]
    assert "not measurably different from none" in said and "% of the change" not in said
    alone = files.RunFiles("same", [c for c in found.chains if c.seed == 1], None, [], {})
    (said,) = [one for one in arm_sentences(alone, "closed") if one.startswith("Perplexity")]
    assert "the loop's part is -0.5 (one pair: no interval)" in said


def test_a_band_that_this_lab_never_writes_is_refused(real: Path, tmp_path: Path) -> None:
    folder = fabricate(real, tmp_path / "run", ["main"], 1, 0)
    path = folder / "arm=main" / "seed=1" / "reference" / "eval.json"
    found = read_json(path)
    for band in ({OF_WORDS: {"low": 2.0, "high": 1.0}}, {OF_WORDS: {"low": "a", "high": 1.0}}, [1], {OF_WORDS: 3}):
        path.unlink()
        write_json(path, found | {"band": band})
        with pytest.raises(files.UserError, match="not written by this lab"):
            files.open_run(folder)


# --- the tail measure ------------------------------------------------------------------------------------------------------


def test_the_headline_is_coverage_in_context_of_words_else_of_tokens_else_the_plain_one_by_its_name() -> None:
    names = [
        series.headline([{PERPLEXITY, *tails}]) for tails in ({OF_WORDS, OF_TOKENS, PLAIN}, {OF_TOKENS, PLAIN}, {PLAIN})
    ]
    assert names == [
        {"perplexity": PERPLEXITY, "rare words": OF_WORDS},
        {"perplexity": PERPLEXITY, "rare tokens": OF_TOKENS},
        {"perplexity": PERPLEXITY, "rare words anywhere": PLAIN},
    ]
    assert series.headline([{PERPLEXITY, *series.COMPANIONS["words"]}]) == {"perplexity": PERPLEXITY}  # beside nothing
    both = series.headline([{OF_WORDS, PLAIN}, {PLAIN}])  # an arm that has no other is not left out
    assert list(both.values()) == [OF_WORDS, PLAIN]


def test_a_run_without_coverage_in_context_shows_the_plain_one_with_its_warning(real: Path, tmp_path: Path) -> None:
    folder = fabricate(
        real, tmp_path / "plain", ["main"], 2, 1, drop=(OF_WORDS[:31], "tails/tokens/", "tails/words/known")
    )
    found = files.open_run(folder)
    text = " ".join(rendered(found).split())
    assert "rare words anywhere (1 is unseen real text; noise raises it)" in text
    assert "Coverage in context of main: not measured." in text
    assert set(series.tails(found.chains)) == set(series.ANYWHERE)


def test_word_tails_with_too_few_types_are_in_no_sentence_chart_or_table(real: Path, tmp_path: Path) -> None:
    """From 3 of 12 words no coverage follows."""
    folder = fabricate(real, tmp_path / "thin", ["main"], 1, 1)
    chain = folder / "arm=main" / "seed=1"
    for g in (0, 1):
        path = Chain(chain).stage(g, "eval") / "eval.json"
        found = read_json(path)
        for name, part in found["sums"]["tails/words"].items():
            part["types"] = {"1": 3.0, "5": 12.0, "20": float(LEAST_TYPES)}.get(name, part["types"])
        write_json(path, found)
    with_metrics(chain, {PLAIN: [0.0, 0.25], OF_WORDS: [0.0, 0.25], "theory/tails/words/coverage_5": [0.1, 0.1]})
    found = files.open_run(folder)
    has = series.keys_of(found.chains[0])
    assert {"tails/words/coverage_20_normalised", "tails/words/tail_mass_20"} <= has
    assert not has & {
        PLAIN,
        OF_WORDS,
        "tails/words/coverage_1",
        "tails/words/tail_mass_5",
        "theory/tails/words/coverage_5",
    }
    text = " ".join(rendered(found).split())
    assert "overage of rare words in context (" not in text and "0.25" not in tables.tidy(found.chains).to_csv()
    assert "too few in generation 0&#39;s text" in text and "3 of at most 1, 12 of at most 5; least 200" in text


# --- the heat map ------------------------------------------------------------------------------------------------------------


def heat(tokens: dict[str, float], losses: list[dict[str, list[float]]]) -> list[Any]:
    """Chains with these losses by bucket and generation, over so many tokens of a bucket."""
    return [
        SimpleNamespace(
            arm="main", scored=tokens, is_control=False,
            rows=[
                {"generation": g, "metrics": {f"real/nll_by_frequency/{b}": course[g] for b, course in one.items()}}
                for g in (0, 1)
            ],
        )
        for one in losses
    ]  # fmt: skip


def test_a_row_of_the_heat_map_with_too_few_tokens_is_white_and_others_have_counts_and_intervals() -> None:
    """44 of 65,024 tokens with +1.57 are not to be the strongest colour of a chart."""
    from scipy import stats

    rising = [{"0": [3.0, 4.57], ">500": [2.0, 2.1]}, {"0": [3.0, 4.6], ">500": [2.0, 2.3]}]
    spec = charts.frequency(heat({"0": 44.0, ">500": 64_980.0}, rising))
    assert spec is not None
    (trace,) = spec["data"]
    assert trace["z"][0] == [None, None] and trace["z"][1] == pytest.approx([0.0, 0.2])
    assert spec["layout"]["coloraxis"]["cmax"] == pytest.approx(0.2)
    remarks = [note["text"] for note in spec["layout"]["annotations"]]
    assert "too few tokens (44)" in remarks
    half = 0.2 - stats.ttest_1samp([0.1, 0.3], 0).confidence_interval(0.95).low
    assert trace["customdata"][1][1] == [pytest.approx(2.2), 64_980.0, f"+0.200 ± {half:.3f}"]
    rows = spec["layout"]["meta"]["table"]["rows"]
    assert rows[0] == ["main", "0", "44", "too few", "too few"] and f"+0.200 ± {half:.3f}" in rows[1][-1]
    assert "1.57" not in json.dumps(spec)
    assert charts.frequency(heat({"0": 44.0}, rising)) is None
    (one,) = charts.frequency(heat({"0": 200.0}, rising[:1]))["data"]  # type: ignore[index]
    assert one["customdata"][0][1][2] == "+1.570"  # one chain: no interval


# --- theory ------------------------------------------------------------------------------------------------------------------


def planted(arm: str, values: list[float], law: list[float], is_control: bool) -> Any:
    rows = [
        {"generation": g, "real_share": float(g == 0),
         "metrics": {overlay.TRUTH: v, f"theory/{overlay.TRUTH}": e, f"theory/{overlay.TRUTH}_se": 0.001}}
        for g, (v, e) in enumerate(zip(values, law, strict=True))
    ]  # fmt: skip
    return SimpleNamespace(arm=arm, seed=1, rows=rows, is_control=is_control, place=-1 if is_control else 0)


def test_on_the_planted_language_the_control_stands_beside_its_law_and_the_truth() -> None:
    chains = [
        planted("closed", [0.99, 0.981, 0.97], [0.99, 0.9801, 0.9703], False),
        planted("control", [0.99, 0.9902, 0.9899], [0.99] * 3, True),
    ]
    spec = charts.theory(chains)
    assert spec is not None
    levels = [trace for trace in spec["data"] if trace["name"] == "the truth, r = 1"]
    assert [trace["y"] for trace in levels] == [[1.0, 1.0]]
    grey = [trace for trace in spec["data"] if trace["name"].startswith("control")]
    assert grey and all(colours.NEUTRAL in json.dumps(trace) for trace in grey)
    found = overlay.agreement(chains).set_index(["arm", "generation"])
    assert found.loc[("control", 2), "difference"] == pytest.approx(-0.0001) and found.loc[("control", 2), "holds"]


def test_the_survival_law_of_a_control_is_an_estimate_and_not_judged() -> None:
    key = "tails/bigrams/coverage_1"
    row = {"real_share": 0.0, "metrics": {key: 0.4, f"theory/{key}": 0.5, "real/impossible": 0.1}}
    for is_control in (False, True):
        chains = [SimpleNamespace(arm="a", rows=[row | {"generation": g} for g in (0, 1)], is_control=is_control)]
        holds = overlay.agreement(chains)["holds"].tolist()
        assert holds == ([None] * 2 if is_control else [False] * 2)


def test_rare_pairs_that_die_out_are_said_to_be_those_of_a_table_of_counts() -> None:
    key = "tails/bigrams/coverage_1"
    row = SimpleNamespace(se=0.01, measured=0.4, law=0.41, difference=-0.01, holds=True)
    numbers: Any = SimpleNamespace(laws={("a", 3, key): row})
    assert "in a table of counts, which is no network" in words._law("a", 3, numbers)
    row.holds = None
    said = words._law("a", 3, numbers)
    assert "table of counts" not in said and "networks generalise, so expect a gap" in said


# --- the ledger ----------------------------------------------------------------------------------------------------------------


def test_real_text_in_the_place_of_samples_is_no_mans_text_and_no_real_share() -> None:
    def shown(tokens: float) -> dict[str, float]:
        return {"set": tokens, "shown": tokens, "loss": tokens}

    ledgers = [{"real": shown(100.0)}, {"real": shown(25.0), "control_0": shown(75.0)}]
    chain = SimpleNamespace(arm="control", seed=1, ledgers=ledgers, rows=[{}, {}], is_control=True, place=-1)
    spec = charts.ledger([chain])
    assert spec is not None
    (trace,) = [trace for trace in spec["data"] if trace["name"] == "control: real text in the place of samples"]
    assert trace["y"] == [0.0, 75.0] and trace["marker"]["color"] not in colours.PALETTE
    assert "control, generation 1: 25.0% of 100, and 75.0% in the place of samples" in spec["layout"]["meta"]["alt"]


# --- colours and pictures ------------------------------------------------------------------------------------------------------


def test_controls_are_told_apart_by_marker_and_dash_and_from_real_text() -> None:
    marks = [colours.mark(-1 - i) for i in range(5)]
    assert len(set(marks)) == 5 and not any(dash == "dash" for _, dash in marks)  # as real text is drawn
    assert {colours.colour(-1 - i) for i in range(5)} == {colours.NEUTRAL}
    assert figures.look(-1) == {"color": colours.NEUTRAL, "marker": "o", "linestyle": "-"}


def test_the_picture_of_an_entry_has_its_control_in_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapselab.reproduce import figure as gallery

    kept: list[Any] = []
    monkeypatch.setattr(gallery, "png", lambda figure: kept.append(figure) or b"")
    courses = np.array([[1.0, 2.0], [1.1, 2.1]])
    draw({"nll": {"closed": courses, "real": courses - 1}}, {}, {}, {}, {"real"})
    shades = {line.get_label(): line.get_color() for line in kept[0].axes[0].lines}
    assert shades == {"real": colours.NEUTRAL, "closed": colours.PALETTE[0]}
    assert not math.isnan(kept[0].axes[0].lines[0].get_ydata()[0])


def test_every_arm_of_the_regimes_has_its_control() -> None:
    """Of several controls the one whose training sets grow like the arm's, as configs/experiments/regimes.yaml has them."""
    asked, _ = read_experiment(["--config", str(ROOT / "configs" / "experiments" / "regimes.yaml")])
    chains = [
        SimpleNamespace(arm=arm, run="r", settings=flatten(as_dict(one)), is_control=one.sampling.source == "real")
        for arm, one in asked.arms.items()
    ]
    found = controls(chains)  # type: ignore[arg-type]
    others = [arm for arm in asked.arms if not arm.startswith("control")]
    assert {arm: control.arm for arm, control in found.items()} == {
        arm: "control_accumulate" if arm == "accumulate" else "control" for arm in others
    }

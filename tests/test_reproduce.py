"""The gallery: entries can be run and judged, verdicts are what was measured, and the page says what the verdicts say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, Lab
from helpers import small_config

sys.path.insert(0, str(ROOT / "scripts"))
import papers_page

from collapselab.chain.run import run
from collapselab.config import UserError
from collapselab.config.schedules import real_share
from collapselab.reproduce import entries, results
from collapselab.reproduce.courses import Measured, value_of
from collapselab.reproduce.entries import Criterion, Entry

pytestmark = pytest.mark.usefixtures("workers_at_once")
PAPERS = ROOT / "configs" / "papers"
NAMES = entries.names(PAPERS)
TWO_CORES = {
    *("tail_survival", "gaussian", "regression", "fixed_share", "gerstgrasser", "kazdan", "briesch", "gambetta"),
    *("shabgahi", "guo", "discrete_chain"),
}


def kept_of(name: str) -> list[Path]:
    """Folders in results/ with a verdict of an entry: its own, and those of other seeds."""
    return sorted(path.parent for path in (ROOT / "results" / name).rglob("verdict.json"))


KEPT = [place for name in NAMES for place in kept_of(name)]


def read_back(place: Path) -> Measured:
    """What was measured, from metrics.csv."""
    table = pd.read_csv(place / "metrics.csv")
    arms: dict[str, dict[str, np.ndarray]] = {}
    for (arm, name), part in table[table["arm"] != "real"].groupby(["arm", "quantity"]):
        arms.setdefault(arm, {})[name] = part.pivot(index="chain", columns="generation", values="value").to_numpy()
    real = {name: part["value"].to_numpy()[:, None] for name, part in table[table["arm"] == "real"].groupby("quantity")}
    return Measured(arms, real)


# --- what is committed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_can_be_run_as_the_experiment_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from collapselab.cli.experiment import read_experiment

    monkeypatch.chdir(ROOT)
    entry = entries.read(PAPERS, name)
    assert len(entry.seeds) >= 3 and all(item.source.strip() for item in entry.published)
    assert entry.minutes is None or entry.minutes <= (10 if "control" in entry.path.read_text() else 6)
    if entry.simulation is None:
        asked, _ = read_experiment(["--config", str(entry.path)])
        assert asked.seeds == entry.seeds


@pytest.mark.parametrize(
    "path", sorted([*PAPERS.glob("*.yaml"), *(ROOT / "configs" / "experiments").glob("*.yaml")]), ids=lambda p: p.stem
)
def test_every_experiment_has_a_chain_of_real_text_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collapselab.cli.experiment import read_experiment

    monkeypatch.chdir(ROOT)
    if path.parent == PAPERS and entries.read(PAPERS, path.stem).simulation is not None:
        return  # numbers, beside exact laws
    arms = read_experiment(["--config", str(path)])[0].arms.values()
    if all(arm.mixing.tokens is None for arm in arms):
        return  # generation 0 shows all the real text that there is
    assert any(arm.sampling.source == "real" or real_share(arm.mixing, 1, arm.generations) == 1 for arm in arms)


def test_entries_that_were_never_run_ask_for_what_a_chain_measures(tmp_path: Path) -> None:
    """A key that is mistyped would show after hours on a GPU. Those of the others are held to what their runs measured."""
    _, rows = run(small_config(runs_dir=str(tmp_path), generations=1, model__layers=1, mixing__tokens=1024))
    for entry in (entries.read(PAPERS, name) for name in NAMES):
        if entry.needs_gpu:
            assert set(entry.quantities.values()) <= rows[1]["metrics"].keys(), entry.name


def test_the_gallery_has_what_was_asked_for() -> None:
    assert set(NAMES) >= TWO_CORES | {"drayson_gpt2", "drayson_smollm2", "shumailov", "gerstgrasser_9m"}
    assert not any(entries.read(PAPERS, name).needs_gpu for name in TWO_CORES)
    for name in NAMES:
        found = results.read(ROOT / "results" / name)
        assert found is not None, f"{name}: run it, and commit results/{name}"
        if entries.read(PAPERS, name).minutes is not None:  # of two idle cores: what a shared host took says nothing
            assert found["verdict"] in ("PASS", "FAIL", "NO POWER"), name


@pytest.mark.parametrize("place", KEPT, ids=lambda place: str(place.relative_to(ROOT / "results")))
def test_a_kept_verdict_is_what_its_own_numbers_say(place: Path) -> None:
    """Of the present entry, too: a criterion that was changed after the run is found here."""
    found = results.read(place)
    assert found is not None
    entry = entries.read(PAPERS, found["entry"])
    assert found["entry_digest"] == entry.digest, f"{entry.name} has changed since it was run: run it again"
    assert (place / "table.md").read_text() == results.page(entry, found)
    assert (
        found["command"].startswith(f"collapselab reproduce {entry.name}")
        and found["date"]
        and found["environment"] is not None
    )
    if found["verdict"] == "NOT RUN":
        assert found["reason"] and not found["criteria"]
        return
    assert found["environment"]["torch"] and found["seconds"] > 0
    assert found["verdict"] == "PASS" or entry.differs, f"{entry.name}: say what differs (paper.differs)"
    measured = read_back(place)
    assert [one["of"] for one in found["criteria"]] == [criterion.of for criterion in entry.criteria]
    for one, criterion in zip(found["criteria"], entry.criteria, strict=True):
        values = value_of(criterion.of, measured, entry.name)
        scale = max(abs(course[np.isfinite(course)]).max() for arm in measured.arms.values() for course in arm.values())
        assert values == pytest.approx(one["by_seed"], rel=1e-3, abs=1e-4 * min(1.0, scale))
        assert one["mean"] == pytest.approx(np.mean(one["by_seed"]), rel=1e-4, abs=1e-9)
        assert one["holds"] == criterion.holds(one["mean"])
    for one, criterion in zip(found.get("power", []), entry.power, strict=True):
        assert one["of"] == criterion.of and one["holds"] == criterion.holds(one["mean"])
    word = "PASS" if all(one["holds"] for one in found["criteria"]) else "FAIL"
    assert found["verdict"] == (word if all(one["holds"] for one in found.get("power", [])) else "NO POWER")
    assert (place / "figure.png").stat().st_size > 5000
    settings = yaml.safe_load((place / ("simulation.yaml" if entry.simulation else "experiment.yaml")).read_text())
    assert settings["seeds"] == found["seeds"]


def test_the_page_is_made_from_entries_and_verdicts() -> None:
    assert papers_page.PAGE.read_text(encoding="utf-8") == papers_page.page(), "run scripts/papers_page.py"
    for name in NAMES:
        found = results.read(ROOT / "results" / name)
        for one in found["criteria"] if found else []:
            assert results.ours(one) in papers_page.PAGE.read_text(encoding="utf-8")


# --- criteria -----------------------------------------------------------------------------------------------------------

MEASURED = Measured(
    {
        "a": {"x": np.array([[1.0, 2.0, 3.0, 5.0], [2.0, 2.0, 2.0, 2.0]])},
        "b": {"x": np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, np.nan]])},
    },
    {"x": np.array([[10.0], [20.0]])},
)


@pytest.mark.parametrize(
    "expression",
    [
        "a.x[4]",
        "a.y[0]",
        "c.x[0]",
        "a.x",
        "a.x[0:2]",
        "a.x[",
        "1",
        "open('x')",
        "a.x.values",
        "().__class__",
        "2 ** 10 ** 9",
    ],
)
def test_what_cannot_be_computed_is_one_line(expression: str) -> None:
    with pytest.raises(UserError, match=r"here: .*cannot be computed|here: .*one number for each seed") as told:
        value_of(expression, MEASURED, "here")
    assert "\n" not in str(told.value)


def test_bounds_include_their_ends_and_no_number_holds_nowhere() -> None:
    both = Criterion(says="s", of="o", at_least=0.0, at_most=1.0)
    assert [both.holds(v) for v in (-0.1, 0.0, 1.0, 1.1, float("nan"))] == [False, True, True, False, False]
    assert Criterion(says="s", of="o", at_most=1.0).holds(-9) and not Criterion(says="s", of="o", at_least=1.0).holds(
        0.9
    )
    assert not Criterion(says="s", of="b", at_least=-9).holds(float(value_of("b.x[3]", MEASURED, "here").mean()))


# --- the verb -------------------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [1, 2],
    "generations": 1,
    "corpus": {"source": "planted", "documents": 400},
    "model": {"family": "bigram"},
    "training": {"block": 13},
    "mixing": {"tokens": 1300, "unit": "documents"},
    "sampling": {"prompt": "real_prefix", "prompt_tokens": 3},
    "evaluation": {"tokens": 260, "self_bleu_samples": 0, "overlap": False, "reference_tokens": 0},
    "arms": {"closed": {"mixing.schedule": "constant", "mixing.start": 0.0}},
    "paper": {
        "title": "Diversity falls",
        "cite": "Nobody 2026",
        "protocol": "none",
        "open": "nothing",
        "minutes": 0.1,
        "published": [{"what": "fall", "value": ".01", "source": "made up for this test"}],
        "quantities": {"r": "truth/slot/diversity", "law_r": "theory/truth/slot/diversity"},
        "plot": ["r"],
        "criteria": [{"says": "it falls", "of": "closed.r[1] - closed.r[0]", "at_most": 0.0, "published": ".01"}],
    },
}


def entry_file(folder: Path, **paper: Any) -> Path:
    """Writes TINY with other keys of its section `paper`; None leaves a key out."""
    folder.mkdir(exist_ok=True)
    section = {key: value for key, value in (TINY["paper"] | paper).items() if value is not None}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"paper": section}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the tiny entry, made once: what differs between the tests is how they are judged."""
    return tmp_path_factory.mktemp("gallery") / "runs"


def test_an_entry_runs_and_its_verdict_is_kept(lab: Lab, runs: Path, tmp_path: Path) -> None:
    papers, out = entry_file(tmp_path / "papers"), tmp_path / "results"
    line = ("reproduce", "tiny", "--papers", str(papers), "--out", str(out), "--runs_dir", str(runs), "--workers", "1")
    code, said, err = lab(*line)
    assert code == 0, err
    assert "tiny: PASS" in said and "it falls" in said
    found = results.read(out / "tiny")
    assert found is not None and found["verdict"] == "PASS" and found["command"] == "collapselab reproduce tiny"
    assert found["criteria"][0]["mean"] < 0 and len(found["criteria"][0]["by_seed"]) == 2
    assert {path.name for path in (out / "tiny").iterdir()} == {
        *("verdict.json", "table.md", "figure.png", "metrics.csv", "experiment.yaml"),
    }
    assert read_back(out / "tiny").arms["closed"]["r"].shape == (2, 2)
    assert yaml.safe_load((out / "tiny" / "experiment.yaml").read_text())["arms"].keys() == {"closed"}

    # What cannot be run does not replace what was measured.
    entry_file(papers, needs="gpu", gpu_hours=1, minutes=None)
    code, said, _ = lab(*line, "--device", "cpu")
    assert code == 0 and "NOT RUN (it needs a GPU" in said
    assert (results.read(out / "tiny") or {})["verdict"] == "PASS"
    entry_file(papers, criteria=[{"says": "it halves", "of": "closed.r[1] / closed.r[0]", "at_most": 0.5}])
    code, said, _ = lab("reproduce", "--list", "--papers", str(papers), "--out", str(out))
    assert code == 0 and "PASS (the entry has changed since)" in said


def test_without_power_there_is_no_verdict_either_way(lab: Lab, runs: Path, tmp_path: Path) -> None:
    needs = [{"says": "it has fallen at all", "of": "closed.r[0] - closed.r[1]", "at_least": 0.9}]
    papers, out = entry_file(tmp_path / "papers", power=needs), tmp_path / "results"
    line = ("reproduce", "tiny", "--papers", str(papers), "--out", str(out), "--runs_dir", str(runs), "--workers", "1")
    code, said, err = lab(*line)
    assert code == 0 and "tiny: NO POWER, kept in" in said and "it has fallen at all" in said, err
    found = results.read(out / "tiny")
    assert found is not None and found["verdict"] == "NO POWER" and [one["holds"] for one in found["power"]] == [False]
    assert "what the criteria need to be able to tell" in (out / "tiny" / "table.md").read_text()
    assert "**NO POWER**" in papers_page.page(papers, out)
    assert entries.read(papers, "tiny").digest != entries.read(entry_file(tmp_path / "others"), "tiny").digest
    with pytest.raises(UserError, match=r"paper\.power: give a list"):
        entries.read(entry_file(tmp_path / "papers", power=[]), "tiny")
    with pytest.raises(UserError, match="it has fallen at all: 'open' cannot be computed"):
        entries.read(entry_file(tmp_path / "papers", power=[needs[0] | {"of": "open"}]), "tiny")


def test_seeds_that_measure_the_same_are_no_pass() -> None:
    from collapselab.reproduce.verdicts import twins

    one, other = np.array([[1.0, np.nan], [1.0, 3.0], [1.0, np.nan]]), np.array([[5.0, 6.0], [5.0, 6.0], [5.0, 6.0]])
    assert not twins(Measured({"a": {"x": one[:2], "share": other[:2]}}, {}), [7, 8])
    same = Measured({"a": {"x": one, "share": other}}, {})
    assert twins(same, [7, 8, 9]).startswith("seeds 7 and 9 measured the very same numbers")


ONE_SIDED = {
    ("gaussian", "largest(unbiased.exceeds[184:] - unbiased.bound_exceeds[184:])"): "a published bound",
    ("regression", "largest(accumulate.error[:] - accumulate.bound_error[:])"): "a published bound",
    ("discrete_chain", "smallest(seen_4.survives[2:] - seen_4.bound_survives[2:])"): "a published bound",
    ("discrete_chain", "smallest(seen_16.survives[10:] - seen_16.bound_survives[10:])"): "a published bound",
    ("kazdan", "replace.error[-1] - accumulate_subsample.error[-1]"): "an order; each is held to its law too",
    ("kazdan", "accumulate_subsample.error[-1] - accumulate.error[-1]"): "an order; each is held to its law too",
    ("tail_survival", "closed.seen_20[2] - closed.seen_1[2]"): "an order; each is held to its law too",
    ("drayson_smollm2", "smallest(fully_synthetic.ppl[1:] - fully_synthetic.ppl[:9])"): "a direction",
    ("shumailov", "no_real.typical[3] - no_real.typical[0]"): "a direction",
    ("shumailov", "no_real.worst[3] - no_real.worst[0]"): "a direction",
}


@pytest.mark.parametrize("name", NAMES)
def test_criteria_have_bounds_on_both_sides(name: str) -> None:
    """But for distances, whose other side is 0, and what is listed with its reason."""
    for one in entries.read(PAPERS, name).criteria:
        distance = one.of.startswith(("abs(", "largest(abs(")) and one.at_most is not None
        both = one.at_least is not None and one.at_most is not None
        assert both or distance or (name, one.of) in ONE_SIDED, one


def test_a_criterion_that_is_missed_is_kept_and_other_seeds_have_a_folder(lab: Lab, runs: Path, tmp_path: Path) -> None:
    halves = {"says": "it halves", "of": "closed.r[1] / closed.r[0]", "at_most": 0.5}
    papers, out = entry_file(tmp_path / "papers", criteria=[*TINY["paper"]["criteria"], halves]), tmp_path / "results"
    line = ("reproduce", "--all", "--papers", str(papers), "--out", str(out), "--runs_dir", str(runs), "--workers", "1")
    code, said, err = lab(*line, "--seeds", "[3]")
    assert code == 1 and "tiny: FAIL" in said and "collapselab: error" not in err
    assert not (out / "tiny" / "verdict.json").exists()
    found = json.loads((out / "tiny" / "seeds=3" / "verdict.json").read_text())
    assert found["seeds"] == [3] and found["command"] == "collapselab reproduce tiny --seeds '[3]'"
    assert found["verdict"] == "FAIL" and [one["holds"] for one in found["criteria"]] == [True, False]
    assert found["criteria"][0]["low"] is None  # one seed has no interval
    assert "**no**" in (out / "tiny" / "seeds=3" / "table.md").read_text()
    page = papers_page.page(papers, out)
    assert "With seeds 3: **FAIL** ([table](../results/tiny/seeds=3/table.md))" in page and "| **NOT RUN** |" in page


def test_what_cannot_be_finished_is_no_verdict_and_others_have_their_turn(lab: Lab, runs: Path, tmp_path: Path) -> None:
    """Other settings than those in runs/, an unknown process, and an entry that can be run; the table is of this call."""
    papers, out = entry_file(tmp_path / "papers"), tmp_path / "results"
    if not (runs / "tiny").exists():  # where this test is run alone
        lab("reproduce", "tiny", "--papers", str(papers), "--out", str(out), "--runs_dir", str(runs), "--workers", "1")
    paper = TINY["paper"] | {"quantities": {}}
    wrong = {"name": "awry", "seeds": [1], "simulation": {"arms": {"closed": {"process": "gausian"}}}, "paper": paper}
    right = wrong | {
        "name": "right",
        "simulation": {"arms": {"closed": {"process": "gaussian", "generations": 3, "chains": 50}}},
    }
    right["paper"] = paper | {
        "plot": ["variance"],
        "criteria": [{"says": "v", "of": "closed.variance[0]", "at_most": 9}],
    }
    for entry in (wrong, right):
        (papers / f"{entry['name']}.yaml").write_text(yaml.safe_dump(entry))
    other = TINY | {"mixing": TINY["mixing"] | {"tokens": 1313}}
    (papers / "tiny.yaml").write_text(yaml.safe_dump(other))
    line = ("reproduce", "awry", "tiny", "right", "--papers", str(papers), "--out", str(out), "--runs_dir", str(runs))
    code, said, err = lab(*line, "--workers", "1")
    assert code == 1 and "collapselab: error" not in err
    assert "awry: NOT RUN (process='gausian': no such process; did you mean 'gaussian'" in said
    assert "tiny: NOT RUN (2 of 2 chains did not finish: " in said and f"to start over, remove {runs / 'tiny'}" in said
    assert "right: PASS, kept in" in said and said.rstrip().splitlines()[-2].split("│")[4].strip() == "PASS"
    assert (results.read(out / "right") or {})["verdict"] == "PASS"


def test_a_change_of_the_base_settings_is_a_change_of_the_entry(tmp_path: Path) -> None:
    papers = entry_file(tmp_path / "papers")
    (papers / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"base": "../base.yaml"}))
    (tmp_path / "base.yaml").write_text("seed: 1\n")
    before = entries.read(papers, "tiny").digest
    (tmp_path / "base.yaml").write_text("seed: 1\nmodel: {layers: 3}\n")
    assert entries.read(papers, "tiny").digest != before


def test_absent_text_is_said_and_not_an_error(lab: Lab, tmp_path: Path) -> None:
    papers, out = tmp_path / "papers", tmp_path / "results"
    papers.mkdir()
    other = {key: value for key, value in TINY.items() if key != "corpus"} | {"corpus": {"source": "books"}}
    other |= {"mixing": {"tokens": 1300}, "sampling": {"prompt": "first_token"}}
    (papers / "tiny.yaml").write_text(yaml.safe_dump(other))
    line = ("reproduce", "tiny", "--papers", str(papers), "--out", str(out), "--runs_dir", str(tmp_path))
    code, said, _ = lab(*line)
    assert code == 0 and "tiny: NOT RUN (corpus.source='books'" in said
    found = results.read(out / "tiny")
    assert found is not None and found["verdict"] == "NOT RUN" and "data-dir" in found["reason"]
    assert "it falls" in (out / "tiny" / "table.md").read_text()
    weights = {"pretrained": "nobody/has-this-model"}  # and no network, or no such name on the hub
    (papers / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"model": weights}))
    code, said, _ = lab(*line)
    assert code == 0 and "tiny: NOT RUN (model.pretrained='nobody/has-this-model'" in said


def test_what_was_changed_and_what_is_close_is_said(tmp_path: Path) -> None:
    entry = entries.read(entry_file(tmp_path, changed=["two seeds,\n then three", "a bound"]), "tiny")
    assert entry.changed == ["two seeds, then three", "a bound"]
    assert results.prose(entry)[-1] == "- two seeds, then three\n- a bound"
    one: dict[str, Any] = {"low": 0.1, "high": 0.3, "holds": True, "at_least": 0.0, "at_most": None}
    for changes, said in (
        ({}, "yes"),
        ({"at_least": 0.15}, "yes, narrowly"),
        ({"at_most": 0.15, "holds": False}, "**no**, narrowly"),
        ({"at_most": 0.05, "holds": False}, "**no**"),
        ({"low": None, "high": None, "at_least": 0.15}, "yes"),
    ):
        assert results.holds(one | changes) == said


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("paper.published: .*source is missing", {"published": [{"what": "a", "value": "1"}]}),
    ("paper.published: give a list", {"published": []}),
    ("paper.changed: give a list", {"changed": "a bound"}),
    ("paper.titel: no such key; did you mean 'title'", {"titel": "x"}),
    ("paper.title: must be text; write a line or more", {"title": None}),
    ("give at_least, at_most, or both", {"criteria": [{"says": "a", "of": "closed.r[0]"}]}),
    ("at_most='small': must be a number", {"criteria": [{"says": "a", "of": "closed.r[0]", "at_most": "small"}]}),
    ("'closed.r\\[2\\]' cannot be computed", {"criteria": [{"says": "a", "of": "closed.r[2]", "at_most": 0}]}),
    ("'open.r\\[0\\]' cannot be computed", {"criteria": [{"says": "a", "of": "open.r[0]", "at_most": 0}]}),
    ("paper.plot: s: no such quantity", {"plot": ["s"]}),
    ("paper.minutes: give the minutes", {"minutes": None}),
    ("paper.minutes: give the minutes", {"needs": "gpu"}),
    ("paper.quantities.R=", {"quantities": {"R": "truth/slot/diversity"}}),
    ("paper.quantities: give short names", {"quantities": ["r"]}),
    ("paper.minutes='four': must be a number", {"minutes": "four"}),
    ("at_most=nan: must be a number", {"criteria": [{"says": "a", "of": "closed.r[0]", "at_most": float("nan")}]}),
    ("paper.differs: must be text; write a line or more", {"differs": 3}),
]


@pytest.mark.parametrize(("message", "paper"), WRONG)
def test_a_wrong_entry_is_one_line(message: str, paper: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as told:
        entries.read(entry_file(tmp_path / "papers", **paper), "tiny")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["reproduce", "--all", "gaussian"], "name one or more entries, or give --all"),
        (["reproduce", "gaussian", "--seeds", "[1, 1]"], "--seeds=[1, 1]: give one or more, each once"),
        (["reproduce", "gaussian", "--workers", "0"], "--workers=0: must be 1 or more"),
    ],
)
def test_a_wrong_command_is_one_line(line: list[str], message: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code, _, err = lab(*line)
    assert code == 2 and message in err and err.count("\n") == 1


def test_prose_does_not_change_what_was_judged(tmp_path: Path) -> None:
    def digest(**paper: Any) -> str:
        entry: Entry = entries.read(entry_file(tmp_path / "papers", **paper), "tiny")
        return entry.digest

    assert digest() == digest(title="Another", open="something")
    looser = [{"says": "it falls", "of": "closed.r[1] - closed.r[0]", "at_most": 0.5}]
    assert digest() != digest(criteria=looser)


def test_the_picture_of_an_entry_has_its_controls_in_grey() -> None:
    folder = ROOT / "configs" / "papers"
    found = {name: results.controls_of(entries.read(folder, name)) for name in ("kazdan", "guo", "gaussian")}
    assert found == {"kazdan": ["control", "control_accumulate"], "guo": ["control"], "gaussian": []}

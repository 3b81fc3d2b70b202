"""Judges: what they are asked and may answer, what is kept, and a judged chain recounted from its files."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import yaml
from conftest import ROOT, Lab
from helpers import undrawn
from kill_again import import_lab, kill_chains, quick_folder
from test_launch import at_once
from transformers import AutoTokenizer

from collapselab.chain import plan
from collapselab.cli.options import config_from
from collapselab.config import JudgingConfig, RunConfig, UserError, plugins
from collapselab.config.keys import from_tree
from collapselab.evaluation import expected
from collapselab.judging import judges
from collapselab.judging.curation import KEEPS, draws
from collapselab.judging.episodes import Episodes, Reader
from collapselab.judging.examples import examples
from collapselab.judging.judges import committee, majority, scores_of
from collapselab.judging.noise import noisy
from collapselab.languages import language_of
from collapselab.metrics import SCORES
from collapselab.mixing.sets import read_blocks, read_meta, read_samples
from collapselab.models import network
from collapselab.report import series
from collapselab.report.charts import CHARTS
from collapselab.report.files import open_run
from collapselab.report.results import write_results
from collapselab.seeds import generator
from collapselab.store.layout import Chain, read_metrics
from collapselab.tasks.tasks import task_of
from collapselab.theory.finite import learned_tables

QUICK = ("--evaluation.overlap=false", "--evaluation.self_bleu_samples=0")
SMOKE = (
    "run",
    f"--config={ROOT}/configs/planted_smoke.yaml",
    "--progress=false",
    "--generations=2",
    "--judging.second=64",
)


@pytest.fixture(autouse=True)
def no_plugins_left() -> Any:
    with undrawn():
        yield
    plugins.load([])


def episodes(ids: list[list[int]], head: int = 1, first: int = 0) -> Episodes:
    return Episodes.of(np.array(ids), head, first)


def reader(generation: int = 1, **judging: Any) -> Any:
    config = from_tree(RunConfig, {"judging": judging})
    return SimpleNamespace(config=config, generation=generation, stream="sample", earlier=[], opening=None, task=None)


def line(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2 and "Traceback" not in err, (code, err)
    last = err.splitlines()[-1]
    assert len(last) <= 300
    return last.removeprefix("collapselab: error: ")


# --- what a judge may answer ---------------------------------------------------------------------------------------------


def stubborn() -> None:
    while True:
        try:
            time.sleep(30)
        except Exception:
            continue


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda e, r: 1 / 0, "judge 'strange' failed \\(division by zero\\)"),
        (lambda e, r: None, "judge 'strange' returned NoneType; it must return 3 numbers, nan where it abstains"),
        (lambda e, r: "true", "judge 'strange' returned str"),
        (lambda e, r: ["true"] * 3, r"judge 'strange' returned <U4 of shape \(3,\)"),
        (lambda e, r: [0.1, 0.2], r"judge 'strange' returned float64 of shape \(2,\); it must return 3 numbers"),
        (lambda e, r: [0.1, 2, 0.3], "judge 'strange' returned 2; with judging.keep=threshold scores lie in"),
        (lambda e, r: [0.1, np.inf, 0.3], "judge 'strange' returned inf"),
        (lambda e, r: [np.nan, np.nan, 0.3], "judge 'strange' abstained on 67% of 3 sequences"),
        (lambda e, r: sys.exit(0), "judge 'strange' failed"),
        (lambda e, r: [[1], [1, 2], 3], "judge 'strange' failed"),
        (lambda e, r: e.ids.__setitem__((0, 0), 9), "judge 'strange' failed .assignment destination is read-only"),
        (lambda e, r: stubborn(), "judging.seconds=0.2: judge 'strange' has not answered"),
        (lambda e, r: time.sleep(30), "judging.seconds=0.2: judge 'strange' has not answered"),
    ],
)  # fmt: skip
def test_a_judge_that_answers_badly_is_no_verdict(monkeypatch: pytest.MonkeyPatch, answer: Any, said: str) -> None:
    monkeypatch.setitem(judges.JUDGES, "strange", answer)
    with pytest.raises(UserError, match=said) as caught:
        scores_of("strange", episodes([[1, 2]] * 3), reader(judges=["strange"], seconds=0.2))
    assert "\n" not in str(caught.value)


def test_abstentions_are_no_score_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judges.JUDGES, "shy", lambda e, r: np.array([0.9, np.nan, 0.2]))
    found = scores_of("shy", episodes([[1, 2]] * 3), reader(judges=["shy"]))
    assert np.isnan(found[1]) and found[0] == 0.9
    assert KEEPS["threshold"](found, 3, JudgingConfig(threshold=0.0), generator(1, 1, "x")).tolist() == [0, 2]


def test_committees_by_hand() -> None:
    nan = np.nan
    votes = {
        "a": np.array([0.9, 0.4, nan, nan]),
        "b": np.array([0.5, 0.6, 0.3, nan]),
        "c": np.array([0.1, 0.7, 0.9, nan]),
    }
    mean, most, least = (committee(votes, rule, 0.5) for rule in ("mean", "majority", "all"))
    assert mean[:3] == pytest.approx([0.5, 1.7 / 3, 0.6]) and np.isnan(mean[3])
    assert most[:3] == pytest.approx([2 / 3, 2 / 3, 0.5]) and np.isnan(most[3])
    assert least[:3] == pytest.approx([0.1, 0.4, 0.3]) and np.isnan(least[3])
    assert (committee({"a": votes["b"]}, None, 0.5)[:3] == votes["b"][:3]).all()


def test_a_vote_is_not_won_by_a_place() -> None:
    ids = [[7, 1], [7, 2], [7, 1], [8, 3], [8, 4], [9, 5]]
    assert reader().task is None
    found = majority(episodes(ids), reader())
    assert found.tolist() == [1, 0, 1, 0.5, 0.5, 1]
    task = SimpleNamespace(truth=lambda e: (np.array([-1, -1, 1, 0, 0, 2]), ["", "", "7", "8", "8", "9"]), task="any")
    assert majority(episodes([[7, i] for i in range(6)]), task).tolist() == [0, 0, 0, 1, 1, 0]
    order = np.array([5, 3, 1, 0, 4, 2])
    assert majority(episodes([ids[i] for i in order]), reader()).tolist() == found[order].tolist()


# --- what is kept ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_by_hand() -> None:
    scores, draw = np.array([0.2, 0.9, np.nan, 0.9, 0.5, 0.1]), generator(1, 1, "x")
    assert KEEPS["threshold"](scores, 2, JudgingConfig(threshold=0.5), draw).tolist() == [1, 3]
    assert KEEPS["threshold"](scores, 4, JudgingConfig(threshold=0.5), draw).tolist() == [1, 3, 4]
    half = JudgingConfig(keep="top_share", share=0.5)
    assert KEEPS["top_share"](scores, 3, half, draw).tolist() == [1, 3, 4]
    assert KEEPS["top_share"](scores, 1, half, draw).tolist() == [1]  # of equal ones the first
    assert KEEPS["top_share"](scores, 4, half, draw).tolist() == []  # needs eight
    most, third = JudgingConfig(keep="top_share", share=0.75), JudgingConfig(keep="top_share", share=1 / 3)
    assert KEEPS["top_share"](np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.9]), 3, most, draw).tolist() == [1, 2, 3]  # of four
    assert KEEPS["top_share"](np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9]), 2, third, draw).tolist() == [
        4,
        5,
    ]  # of six
    drawn = KEEPS["resample"](np.array([0.25, np.nan, 0.0, 0.75]), 40_000, JudgingConfig(keep="resample"), draw)
    shares = np.bincount(drawn, minlength=4) / 40_000
    assert shares[[1, 2]].tolist() == [0, 0] and abs(shares[3] - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 40_000)  # odds 1 : 9


# --- errors ----------------------------------------------------------------------------------------------------------------


def accepted(
    classes: np.ndarray, answers: list[str], heads: np.ndarray | None = None, generation: int = 1, **judging: Any
) -> Any:
    heads = np.arange(len(classes)) if heads is None else heads
    read = episodes(np.column_stack([heads, heads]).tolist())
    return noisy("answer", classes == 1, classes, answers, read, reader(generation, judges=["answer"], **judging))


def test_rates_are_those_that_are_asked_for() -> None:
    classes = np.tile([0, 1, 2, -1], 5000).astype(np.int8)
    found = accepted(classes, ["1"] * 20_000, tpr=0.8, fpr=0.3)
    for kind, rate in ((1, 0.8), (0, 0.3), (2, 0.3), (-1, 0.3)):
        assert abs(found[classes == kind].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 5000)
    assert (accepted(classes, ["1"] * 20_000) == (classes == 1)).all()  # without errors exact
    other = accepted(classes, ["1"] * 20_000, generation=2, tpr=0.8, fpr=0.3)
    assert 0.3 < (other != found).mean() < 0.5  # other random numbers in another generation


def test_patterns_of_errors() -> None:
    classes, answers = np.tile([0, 2, 0, 1], 2000).astype(np.int8), ["10", "7", "20", "15"] * 2000
    by_class = accepted(classes, answers, errors=[{"when": {"class": "hack"}, "fpr": 1.0}])
    assert (by_class == (classes > 0)).all()
    ends = accepted(classes, answers, errors=[{"when": {"last_digit": 0}, "fpr": 1.0}])
    assert (ends == np.isin(answers, ["10", "20", "15"])).all()
    one = accepted(
        classes, answers, errors=[{"when": {"answer": 20}, "fpr": 1.0}, {"when": {"answer": "15"}, "tpr": 0.0}]
    )
    assert (one == np.isin(answers, ["20"])).all()
    unread = [{"when": {"class": "unreadable"}, "fpr": 1.0}, {"when": {"class": "correct"}, "tpr": 0.0}]
    assert accepted(np.array([0, 1, 2, -1] * 50), ["1"] * 200, errors=unread).tolist() == [0, 0, 0, 1] * 50
    short = accepted(classes, answers, errors=[{"when": {"length": [1, 1]}, "fpr": 1.0}])
    assert (short == np.isin(answers, ["7", "15"])).all()
    later = [{"fpr": 1.0, "from": 2, "until": 3}]
    assert [accepted(classes, answers, errors=later, generation=g).mean() for g in (1, 2, 3, 4)] == [0.25, 1, 1, 0.25]


def test_errors_by_prompt_are_the_same_for_a_prompt_whenever_it_comes() -> None:
    heads, classes = np.repeat(np.arange(400), 5), np.zeros(2000, np.int8)
    share = [{"when": {"prompt_share": 0.25}, "fpr": 1.0}]
    found = accepted(classes, ["1"] * 2000, heads, errors=share)
    assert ((by := found.reshape(400, 5)) == by[:, :1]).all() and abs(by[:, 0].mean() - 0.25) < 4 * np.sqrt(
        0.25 * 0.75 / 400
    )
    assert (accepted(classes, ["1"] * 2000, heads[::-1], 7, errors=share)[::-1] == found).all()


def test_shares_of_the_prompts_are_nested_or_independent_by_their_salt() -> None:
    n, classes = 4000, np.zeros(4000, np.int8)

    def of(share: float, **salt: int) -> np.ndarray:
        errors = [{"when": {"prompt_share": share, **salt}, "fpr": 1.0}]
        return np.asarray(accepted(classes, ["1"] * n, errors=errors)) > 0

    quarter, half = of(0.25), of(0.5)
    assert not (quarter & ~half).any() and (of(0.25, salt=0) == quarter).all()
    assert np.flatnonzero(quarter[:40]).tolist() == [0, 1, 8, 14, 19, 26, 27, 35, 36, 39]  # as before there were salts
    other = of(0.25, salt=1)
    all_three = other & of(0.5, salt=2) & half
    assert not (other & ~of(0.5, salt=1)).any()  # nested within a salt
    for both, p in ((quarter & other, 1 / 16), (half & other, 1 / 8), (all_three, 1 / 16), (other, 1 / 4)):
        assert abs(both.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    assert of(0.0, salt=3).sum() == 0 and of(1.0, salt=3).all()


def test_a_share_of_the_answers_to_a_prompt_is_always_accepted() -> None:
    """By prompt and answer: one answer has one verdict to a prompt, and others to other prompts."""
    heads, answers = [group for group in range(200) for _ in range(20)], [str(i % 10) for i in range(4000)]
    found = accepted(np.zeros(4000, np.int8), answers, heads, errors=[{"when": {"answer_share": 0.3}, "fpr": 1.0}])
    by = np.asarray(found).reshape(200, 2, 10)
    assert (by[:, 0] == by[:, 1]).all() and abs(by[:, 0].mean() - 0.3) < 4 * np.sqrt(0.21 / 2000)
    assert 0 < by[:, 0, 3].mean() < 1 and by[:, 0].any(1).mean() > 0.9
    salted = [{"when": {"answer_share": 0.3, "salt": 1}, "fpr": 1.0}]
    assert (np.asarray(accepted(np.zeros(4000, np.int8), answers, heads, errors=salted)) != found).any()


def test_errors_by_the_difficulty_of_a_problem() -> None:
    sums = [
        "1 9 + 0 1 = 9 . . .",
        "1 9 + 8 1 = 9 . . .",
        "1 1 + 1 1 = 9 . . .",
        "1 1 + 1 1 = 2 2 . .",
        "1 1 + = 9 . . .",
    ]

    class Sums(Reader):  # carries: 1, 2, 0, 0, and no problem
        def texts(self, episodes: Episodes) -> list[str]:
            return sums

    for between, wanted in (([0, 0], [0, 0, 1, 0, 0]), ([1, 2], [1, 1, 0, 1, 0]), ([0, 9], [1, 1, 1, 0, 0])):
        errors = [{"when": {"difficulty": between}, "fpr": 1.0, "tpr": 0.0}]
        keys = {"corpus": {"source": "addition"}, "mixing": {"unit": "documents"}, "sampling": {"prompt": "bos"}}
        config = from_tree(RunConfig, {**keys, "judging": {"judges": ["answer"], "errors": errors}})
        read = Sums(SimpleNamespace(config=config, corpus=None), 1)
        assert judges.answer(episodes([[i, i] for i in range(5)]), read).tolist() == wanted, between


# --- a judged chain ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from collapselab.cli.main import main

    runs = tmp_path_factory.mktemp("judged")
    with undrawn():
        asked = ("--judging.judges=[valid]", "--judging.tpr=0.7", "--judging.fpr=0.2", "--mixing.regime=accumulate")
        assert main([*SMOKE, f"--runs-dir={runs}", *asked]) == 0
    return runs / "planted_smoke" / "arm=main" / "seed=1"


def test_a_judged_chain_recounted_from_its_files(judged: Path) -> None:
    chain, settings = Chain(judged), json.loads((judged / "identity.json").read_text())["config"]
    language = language_of(
        from_tree(RunConfig, {"corpus": {"source": "planted", "planted": {"contexts": 4, "values": 16}}}).corpus
    )
    assert chain.judged and chain.text == "judged" and settings["judging.judges"] == ["valid"]
    words = AutoTokenizer.from_pretrained(judged / "gen_000" / "train")
    for g, row in enumerate(read_metrics(judged)):
        folder, drawn = judged / f"gen_{g:03d}" / "judged", read_samples(judged / f"gen_{g:03d}" / "samples")
        numbers, scores = np.fromfile(folder / "numbers.bin", "<i8"), np.fromfile(folder / "scores.bin", "<f8")
        meta, facts = read_meta(folder), json.loads((folder / "judged.json").read_text())
        kept, rows = read_samples(folder).reshape(-1, 13), np.asarray(drawn).reshape(-1, 13)
        assert len(numbers) == len(kept) == len(rows) == meta["sequences"] == facts["sequences"]
        assert (scores[numbers] >= 0.5).all() and (numbers == np.flatnonzero(scores >= 0.5)[: len(rows)]).all()
        own = numbers < len(rows)
        assert own.any() and not own.all() and (kept[own] == rows[numbers[own]]).all()
        assert facts["drawn"] == len(scores) == 2 * len(rows) and row["metrics"]["judge/drawn"] == 2
        assert language is not None
        texts = words.batch_decode(rows[:, 1:])
        right = np.isfinite(language.log_probabilities(texts))  # type: ignore[union-attr]
        mine = scores[: len(rows)] >= 0.5
        tpr, fpr = mine[right].mean(), mine[~right].mean()
        assert row["metrics"]["judge/tpr"] == pytest.approx(tpr) and row["metrics"]["judge/fpr"] == pytest.approx(fpr)
        assert row["metrics"]["judge/j"] == pytest.approx(tpr - fpr)
        assert "judge/second/tpr" in row["metrics"] and "judge/tpr_low" not in row["metrics"]


def test_a_line_has_the_intervals_of_judges_beside_its_metrics(judged: Path, lab: Lab, tmp_path: Path) -> None:
    """Those of eval.json, in metrics.jsonl, rebuilt and scored again; a line of an earlier version has none and is read."""
    rows = read_metrics(judged)
    for g, row in enumerate(rows):
        sums = json.loads((judged / f"gen_{g:03d}/eval/eval.json").read_text())["sums"]
        for prefix in ("judge", "judge/second"):
            found = {k.removeprefix(f"{prefix}/"): v for k, v in row["intervals"].items() if k.startswith(f"{prefix}/")}
            saved = {key: tuple(pair) for key, pair in sums[f"{prefix}/calibration"]["intervals"].items()}
            assert {"tpr", "fpr", "j", "accepted"} <= saved.keys() and saved.items() <= found.items()
        for key, (low, high) in row["intervals"].items():
            assert low <= row["metrics"][key] <= high, key
        assert row["intervals"]["judge/tpr"][0] < row["metrics"]["judge/tpr"] < row["intervals"]["judge/tpr"][1]
    shutil.copytree(judged.parents[2], tmp_path / "runs")
    chain = tmp_path / "runs" / "planted_smoke" / "arm=main" / "seed=1"
    (chain / "metrics.jsonl").unlink()
    code, _, err = lab("run", f"--config={chain}/config.yaml", f"--runs-dir={tmp_path}/runs")
    assert code == 0 and "metrics.jsonl is missing; rebuilt" in err and read_metrics(chain) == rows
    assert lab("eval", str(chain), "--evaluation.tokens=256")[0] == 0
    (again,) = chain.glob("rescored/*/metrics.jsonl")
    assert [json.loads(one)["intervals"] for one in again.open()] == [
        {key: list(pair) for key, pair in row["intervals"].items()} for row in rows
    ]
    line_of = [json.loads(one) for one in (chain / "metrics.jsonl").open()]
    del line_of[1]["intervals"]
    (chain / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in line_of))
    read = series.curve(open_run(chain).chains, "judge/tpr")
    assert [math.isnan(point.low) for point in read] == [False, True, False]
    for wrong in ({"judge/tpr": [0.5, 0.4]}, {"judge/tpr": [0.5]}, {"judge/other": [0.1, 0.2]}, [0.1, 0.2]):
        line_of[1]["intervals"] = wrong
        (chain / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in line_of))
        assert "metrics.jsonl: not written by this lab" in line(lab("report", str(chain)))


def test_a_single_chains_intervals_are_drawn_and_those_over_seeds_stay(judged: Path) -> None:
    (chain,) = open_run(judged).chains
    draw = {name: draw for name, _, _, draw in CHARTS}["judges"]
    spec = draw([chain])
    assert spec is not None and go.Figure(spec).data
    titles = [note["text"] for note in spec["layout"]["annotations"]]
    assert {"wrong answers accepted (no hacks)", "other sequences accepted (FPR)"} <= {*titles}
    axis = str(titles.index("correct sequences accepted (TPR)") + 1)
    band, curve = [trace for trace in spec["data"] if trace["yaxis"] == f"y{axis}"]
    ends = [row["intervals"]["judge/tpr"] for row in chain.rows]
    assert band["y"] == [high for _, high in ends] + [low for low, _ in reversed(ends)] and len(curve["y"]) == 3
    low, high = ends[0]
    assert (
        f"[{low:.4g}, {high:.4g}]"
        in spec["layout"]["meta"]["table"]["rows"][titles.index("correct sequences accepted (TPR)")][2]
    )
    for point in series.curve([chain, chain], "judge/tpr"):  # two equal seeds
        assert point.low == point.mean == point.high and point.chains == 2
    assert all(math.isnan(point.low) for point in series.curve([chain], "real/perplexity"))


def test_examples_of_each_verdict_are_samples_with_their_scores(judged: Path) -> None:
    words = AutoTokenizer.from_pretrained(judged / "gen_000" / "train")
    for g in range(3):
        folder, rows = (
            judged / f"gen_{g:03d}" / "judged",
            read_samples(judged / f"gen_{g:03d}" / "samples").reshape(-1, 13),
        )
        scores = np.fromfile(folder / "scores.bin", "<f8")[: len(rows)]
        sums = json.loads((folder / "judged.json").read_text())["calibration"]["samples"]
        groups = {
            (one["verdict"], one["class"]): one for one in json.loads((folder / "examples.json").read_text())["groups"]
        }
        assert sum(one["count"] for one in groups.values()) == len(rows)
        for kind in ("correct", "wrong"):
            part = sums[f"accepted/{kind}"]
            counts = [groups[verdict, kind]["count"] for verdict in ("accepted", "rejected")]
            assert counts == [part["count"], part["samples"] - part["count"]]
        for (verdict, _), one in groups.items():
            assert len({example["number"] for example in one["examples"]}) == min(3, one["count"])
            for example in one["examples"]:
                row = rows[example["number"]]
                assert example["prompt"] + example["text"] == words.decode(row[1:].tolist())
                assert example["prompt"] == words.decode(row[1:3].tolist())
                assert example["score"] == scores[example["number"]] == float(verdict == "accepted")


def test_examples_of_what_nobody_judged_have_no_score() -> None:
    class Decoder:
        def texts(self, read: Episodes) -> list[str]:
            return ["".join(map(chr, row)) for row in read.ids.tolist()]

    ids = [[97, 98 + i] for i in range(20)]
    scores = np.array([np.nan, 0.2, 0.7, 0.9] * 5)
    classes = np.array([1, 1, 1, 2] * 5, np.int8)
    found = examples(Decoder(), episodes(ids), scores, scores > 0.5, classes)["groups"]  # type: ignore[arg-type]
    names = [(one["verdict"], one["class"], one["count"]) for one in found]
    assert names == [
        ("accepted", "correct", 5),
        ("accepted", "hack", 5),
        ("rejected", "correct", 5),
        ("abstained", "correct", 5),
    ]
    assert [one["number"] for one in found[3]["examples"]] == [0, 8, 16]  # evenly spaced
    assert found[3]["examples"][1] == {"number": 8, "prompt": "a", "text": "j", "score": None}
    plain = examples(Decoder(), episodes(ids), scores, scores > 0.5, None)["groups"]  # type: ignore[arg-type]
    assert [(one["verdict"], one["class"], one["count"]) for one in plain] == [
        ("accepted", None, 10), ("rejected", None, 5), ("abstained", None, 5)
    ]  # fmt: skip


def test_later_sets_receive_what_was_kept_and_nothing_else(judged: Path) -> None:
    chain = Chain(judged)
    blocks = np.fromfile(judged / "gen_002" / "mixture" / "blocks.bin", "<i8").reshape(-1, 2)
    assert set(blocks[:, 0].tolist()) == {-1, 0, 1}
    train = SimpleNamespace(ids=np.zeros(10**6, np.int64))
    _, streams = read_blocks(chain, 2, train, 13)  # type: ignore[arg-type]
    for g in (0, 1):
        assert (streams[g] == read_samples(judged / f"gen_{g:03d}" / "judged")).all()
    facts = json.loads((judged / "gen_002" / "mixture" / "mixture.json").read_text())
    digests = [json.loads((judged / f"gen_{g:03d}/judged/manifest.json").read_text())["digest"] for g in (0, 1)]
    assert [facts["sources"][f"generation_{g}"] for g in (0, 1)] == digests


def test_a_lost_folder_of_judged_text_is_made_again_and_never_taken_for_unjudged(
    judged: Path, lab: Lab, tmp_path: Path
) -> None:
    shutil.copytree(judged.parents[2], tmp_path / "runs", symlinks=True)
    chain = tmp_path / "runs" / "planted_smoke" / "arm=main" / "seed=1"
    before = (chain / "gen_001/judged/tokens-00000.bin").read_bytes()
    shutil.rmtree(chain / "gen_001" / "judged")
    code, _, err = lab("run", f"--config={chain}/config.yaml", f"--runs-dir={tmp_path}/runs")
    assert (
        code == 0
        and "judged: is missing; rebuilt" in err
        and (chain / "gen_001/judged/tokens-00000.bin").read_bytes() == before
    )


def test_a_fork_goes_on_with_judged_text_alone(judged: Path, lab: Lab, tmp_path: Path) -> None:
    asked = ("run", f"--fork={judged}", "--at=1", "--name=b", f"--runs-dir={tmp_path}", "--generations=2")
    said = line(lab(*asked, "--sampling.source=real"))
    assert "its samples are judged, those of the fork must be too" in said
    code, _, err = lab(*asked, "--judging.fpr=0.5")
    assert code == 0, err
    fork = tmp_path / "b" / "arm=main" / "seed=1"
    assert (fork / "gen_001/judged/manifest.json").read_bytes() == (
        judged / "gen_001/judged/manifest.json"
    ).read_bytes()


def test_another_model_in_the_judges_folder_judges_again(judged: Path, lab: Lab, tmp_path: Path) -> None:
    """And a fork may name another one: what it inherited stays as its parent's judged it."""
    model = shutil.copytree(judged / "gen_000" / "train", tmp_path / "judge")
    asked = (*SMOKE, f"--runs-dir={tmp_path}", "--judging.second=0", "--judging.judges=[likelihood]", "--generations=1")
    asked += ("--judging.keep=top_share", f"--judging.model={model}")
    assert lab(*asked)[0] == 0
    chain = tmp_path / "planted_smoke" / "arm=main" / "seed=1"
    files = [chain / f"gen_00{g}" / "judged" / "manifest.json" for g in (0, 1)]
    before = [file.read_bytes() for file in files]
    code, _, err = lab(*asked)
    assert code == 0 and "rebuilt" not in err and before == [file.read_bytes() for file in files]
    shutil.copytree(judged / "gen_002" / "train", model, dirs_exist_ok=True)
    for g in (0, 1):
        fork = ("run", f"--fork={chain}", f"--at={g}", f"--name=at{g}", f"--runs-dir={tmp_path}", "--generations=1")
        code, _, err = lab(*fork, f"--judging.model={judged / 'gen_001' / 'train'}")
        assert code == 0 and "rebuilt" not in err, err
        inherited = tmp_path / f"at{g}" / "arm=main" / "seed=1" / f"gen_00{g}" / "judged" / "manifest.json"
        assert inherited.read_bytes() == before[g]
    code, _, err = lab(*asked)
    assert code == 0 and err.count("judged: its inputs have changed; rebuilt") == 2, err
    digests = [json.loads(one)["digest"] for one in (*before, *(file.read_bytes() for file in files))]
    assert len(set(digests)) == 4
    shutil.rmtree(model)
    assert line(lab(*asked)).startswith(f"judging.model='{model}': no such folder or file")


def test_without_judges_nothing_of_them_is_on_disk(lab: Lab, tmp_path: Path) -> None:
    code, _, err = lab(*SMOKE, f"--runs-dir={tmp_path}", "--generations=1")
    assert code == 0, err
    chain = tmp_path / "planted_smoke" / "arm=main" / "seed=1"
    assert not list(chain.rglob("judged*")) and not any(
        k.startswith("judge") for row in read_metrics(chain) for k in row["metrics"]
    )


def test_what_nothing_passes_ends_in_one_line_and_can_be_gone_on_with(lab: Lab, tmp_path: Path) -> None:
    asked = (*SMOKE, f"--runs-dir={tmp_path}", "--judging.judges=[random]", "--generations=1", "--judging.second=0")
    said = line(lab(*asked, "--judging.threshold=0.99", "--judging.most=3"))
    assert re.search(r"judging.most=3: of 1,200 sequences \d+ passed, 400 are needed; raise it", said)
    chain = tmp_path / "planted_smoke" / "arm=main" / "seed=1"
    assert (chain / "gen_000/samples/manifest.json").is_file()
    assert len(list(chain.glob("gen_000/judged.unfinished/0*"))) == 3
    wider = (*asked[:-2], "--generations=0", "--judging.second=0", "--judging.threshold=0.99", "--judging.most=300")
    for more in ((), ("--name=again",)):
        code, _, err = lab(*wider, *more)
        assert code == 0, err
    other = tmp_path / "again" / "arm=main" / "seed=1"
    for name in ("tokens-00000.bin", "numbers.bin", "scores.bin"):  # what the first start had judged is taken up
        assert (chain / "gen_000/judged" / name).read_bytes() == (other / "gen_000/judged" / name).read_bytes()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--judging.fpr=0.2",), "valid: at least 400 and at most 25,600 (judging.most=64) sequences drawn for 400 that are kept"),
        (("--judging.most=3", "--judging.second=0"), "valid: at least 400 and at most 1,200 (judging.most=3) sequences drawn for"),
        (("--judging.keep=top_share", "--judging.share=0.3"), "valid: 1,600 sequences drawn for 400 that are kept; 64 more to"),
        (("--judging.keep=edit", "--judging.judges=[]"), "all 400 sequences of a generation are kept, and sure tokens"),
        (("--judging.judges=[]",), ""),
    ],
)  # fmt: skip
def test_a_dry_run_says_what_judges_look_at(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], said: str
) -> None:
    # A stated speed: on a fast machine the least and the most round to the same second.
    monkeypatch.setattr(plan, "_measure", lambda *_: {"sample": 1000.0, "eval": 1000.0})
    dry = (*SMOKE, f"--runs-dir={tmp_path}", "--judging.judges=[valid]", *asked)
    code, out, err = lab(*dry, "--dry-run")
    assert code == 0, err
    lines = dict(re.split(" +", one, maxsplit=1) for one in out.splitlines() if one)
    assert said in lines.get("judging", "") and ("judging" in lines) == bool(said)
    assert (" to " in lines["time"]) == ("at most" in said) and ("beside the judges' own" in lines["time"]) == bool(
        said
    )


def test_the_least_and_the_most_that_are_drawn() -> None:
    """Rounds are whole: what `top_share` chooses from is drawn to the end of a round."""
    assert draws(JudgingConfig(judges=["random"], most=5), 10) == (10, 50)
    for share, rounds in ((1.0, 1), (0.5, 2), (1 / 3, 3), (0.3, 4), (0.95, 2)):
        settings = JudgingConfig(judges=["random"], keep="top_share", share=share)
        assert draws(settings, 10) == (10 * rounds, 10 * rounds)
        for some in range(1, rounds + 1):
            kept = KEEPS["top_share"](np.zeros(10 * some), 10, settings, generator(1, 1, "x"))
            assert len(kept) == (10 if some == rounds else 0)


def test_edited_text_differs_only_where_the_model_was_sure(lab: Lab, tmp_path: Path) -> None:
    asked = ("--judging.keep=edit", "--judging.threshold=0.9", "--generations=0")
    code, _, err = lab(*SMOKE, f"--runs-dir={tmp_path}", *asked)
    assert code == 0, err
    folder = tmp_path / "planted_smoke" / "arm=main" / "seed=1" / "gen_000"
    before, after = (read_samples(folder / name).reshape(-1, 13).astype(np.int64) for name in ("samples", "judged"))
    model = network.load(str(folder / "train"))
    with torch.inference_mode():
        logits = model.logits(torch.from_numpy(before))[:, :-1].double()
    p = logits.softmax(-1).gather(2, torch.from_numpy(before)[:, 1:, None])[..., 0].numpy()
    sure, differ = (p >= 0.9)[:, 2:], (before != after)[:, 3:]  # after the prompt
    assert (before[:, :3] == after[:, :3]).all() and differ.any() and not differ[~sure].any()
    facts = json.loads((folder / "judged" / "judged.json").read_text())
    assert abs(facts["edited"] - sure.sum()) <= 1  # a probability at the threshold may be rounded to either side
    stays = logits.softmax(-1).max(-1).values.numpy()[:, 2:][sure]  # of a sure token: about its own probability
    assert abs(differ[sure].mean() - (1 - stays.mean())) < 4 * np.sqrt(0.1 / sure.sum())


def test_a_detector_tells_text_of_another_kind_and_not_of_its_own(tmp_path: Path) -> None:
    """Cross-fitted: on draws from the same distribution it is right half of the time, however well it fits."""
    words = [f"w{i}" for i in range(50)]
    draw = np.random.default_rng(1)

    class Decoder:
        def decode(self, rows: list[list[int]]) -> list[str]:
            return [" ".join(words[i] for i in row) for row in rows]

    def asked(written: np.ndarray) -> np.ndarray:
        config = from_tree(RunConfig, {"judging": {"judges": ["detector"]}})
        corpus = SimpleNamespace(tokenizer=Decoder(), train=SimpleNamespace(ids=draw.integers(0, 50, 40_000)))
        session = SimpleNamespace(config=config, corpus=corpus)
        read = Reader(session, 1)
        return scores_of("detector", Episodes.of(written, 0, 0), read)

    same = asked(draw.integers(0, 50, (600, 20)))
    other = asked(draw.integers(0, 25, (600, 20)))
    assert abs(same.mean() - 0.5) < 0.05 and other.mean() < 0.2


TASK = (
    *(
        "run",
        "--name=task",
        "--corpus.source=modular",
        "--corpus.documents=2000",
        "--training.block=7",
        "--mixing.tokens=7000",
    ),
    *(
        "--mixing.unit=documents",
        "--model.layers=1",
        "--model.width=16",
        "--model.heads=2",
        "--sampling.prompt=real_prefix",
    ),
    *("--sampling.prompt_tokens=5", "--evaluation.tokens=512", "--evaluation.overlap=false", "--progress=false"),
    *("--evaluation.self_bleu_samples=0", "--training.epochs=1", "--mixing.schedule=constant", "--mixing.start=0.5"),
    *("--sampling.repeats=4", "--generations=1", "--judging.second=64"),
)


def test_a_task_has_groups_of_answers_and_an_exact_judge(lab: Lab, tmp_path: Path) -> None:
    code, out, err = lab(
        *TASK, f"--runs-dir={tmp_path}", "--judging.judges=[answer]", "--judging.fpr=0.25", "--judging.tpr=0.75"
    )
    assert code == 0, err
    chain = tmp_path / "task" / "arm=main" / "seed=1"
    page = (tmp_path / "task" / "report" / "index.html").read_text()
    main_scores_are_shown(read_metrics(chain), err, out, page)
    rows = read_samples(chain / "gen_001" / "samples").reshape(-1, 7)
    assert (rows[:, :5].reshape(-1, 4, 5) == rows[::4, None, :5]).all()  # four to a prompt
    metrics = read_metrics(chain)[1]["metrics"]
    assert metrics["task/pass_at_1"] <= metrics["task/pass_at_4"] and metrics["task/pass_at_1"] == pytest.approx(
        metrics["truth/task/correct"], abs=0.02
    )
    counts = json.loads((chain / "gen_001/judged/judged.json").read_text())["calibration"]["second"]["accepted"]
    assert counts["samples"] == 64 and 0.1 < metrics["judge/second/accepted"] < 0.5
    intervals = read_metrics(chain)[1]["intervals"]
    saved = json.loads((chain / "gen_001/eval/eval.json").read_text())["sums"]["task/intervals"]
    assert {f"task/{key}": tuple(pair) for key, pair in saved.items()}.items() <= intervals.items()
    (drawn,) = open_run(chain).chains
    fan = {name: draw for name, _, _, draw in CHARTS}["fan"]([drawn])
    assert fan is not None
    bands = [trace["y"] for trace in fan["data"] if trace.get("fill") == "toself"]
    ends = [intervals[f"task/pass_at_{k}"] for k in (1, 2, 4)]
    assert len(bands) == 2 and bands[1] == [high for _, high in ends] + [low for low, _ in reversed(ends)]


def main_scores_are_shown(rows: list[dict[str, Any]], err: str, out: str, page: str) -> None:
    """Each generation's line, the table at the end and that of the report have the main scores of the task and the judges."""
    lines = [one for one in err.splitlines() if one.startswith("generation ")]
    head = [cell.strip() for cell in next(one for one in out.splitlines() if "real share" in one).split("┃")]
    cells = [[cell.strip() for cell in one.split("│")] for one in out.splitlines() if one.startswith("│")]
    for row, said, shown in zip(rows, lines, cells[:-1], strict=True):  # the last line is real text
        for name, key in SCORES.items():
            value = f"{row['metrics'][key]:.4g}"
            assert f" {name} {value} " in said and shown[head.index(name)] == value, (name, said)
            if key.startswith("judge/"):
                assert f"<td>{value}</td>" in page, name


def test_the_law_of_answers_by_hand() -> None:
    """One problem: odds of correct against wrong grow by TPR/FPR in each generation, pulled back by the real share."""
    settings = JudgingConfig(
        judges=["answer"], tpr=0.8, fpr=0.2, errors=[{"when": {"class": "hack"}, "fpr": 1.0, "from": 1}]
    )
    assert expected.acceptance(settings, 0).tolist() == [0.2, 0.8, 0.2, 0.2]
    assert expected.acceptance(settings, 1).tolist() == [0.2, 0.8, 1.0, 0.2]
    assert expected.acceptance(JudgingConfig(), 3).tolist() == [1, 1, 1, 1]
    for threshold in (0, 1e-9, 0.5, 1):  # verdicts are 0 and 1
        settings = JudgingConfig(judges=["answer"], tpr=0.8, fpr=0.2, threshold=threshold)
        verdicts = np.array([0.0, 1.0])
        kept = KEEPS["threshold"](verdicts, 2, settings, generator(1, 1, "x")).tolist()
        assert kept == ([1] if threshold else [0, 1])
        law = [0.2, 0.8, 0.2, 0.2] if threshold else [1, 1, 1, 1]
        assert expected.acceptance(settings, 1).tolist() == law


@pytest.mark.parametrize("kind", ["wrong", "correct", "hack", "unreadable"])
@pytest.mark.parametrize("rates", [{"fpr": 1.0}, {"tpr": 0.0}, {"fpr": 1.0, "tpr": 0.0, "from": 2}])
def test_the_law_accepts_what_the_judge_accepts(kind: str, rates: dict[str, Any]) -> None:
    """With rates of 0 and 1, class by class; and no law stands beside errors by anything else."""
    errors = [{"when": {"class": kind}, **rates}]
    classes = np.array([0, 1, 2, -1], np.int8)
    for generation in (1, 2):
        found = accepted(classes, ["1"] * 4, generation=generation, errors=errors)
        law = expected.acceptance(JudgingConfig(judges=["answer"], errors=errors), generation)
        assert law.tolist() == found.tolist()
    keys = {"corpus": {"source": "addition"}, "mixing": {"unit": "documents"}, "sampling": {"prompt": "bos"}}

    def why(when: dict[str, Any]) -> str:
        judging = {"judges": ["answer"], "errors": [{"when": when, **rates}]}
        return expected.why_no_answer_law(from_tree(RunConfig, {**keys, "judging": judging}))

    assert why({"class": kind}) == ""
    for other in ({"difficulty": [0, 1]}, {"prompt_share": 0.5}, {"prompt_share": 1, "salt": 2}, {"length": [1, 1]}):
        assert "no law covers patterns other than by class" in why(other) and why({"class": kind, **other})


def test_answers_have_a_law_beside_them(lab: Lab, tmp_path: Path) -> None:
    """Recomputed from what the files say, with a fixed real share of a half."""
    asked = ("--judging.judges=[answer]", "--judging.fpr=0.25", "--judging.tpr=0.75", "--mixing.schedule=constant")
    code, _, err = lab(*TASK, f"--runs-dir={tmp_path}", *asked, "--generations=2")
    assert code == 0 and "no theoretical prediction" not in err, err
    chain = tmp_path / "task" / "arm=main" / "seed=1"
    p = np.array(json.loads((chain / "gen_000/eval/eval.json").read_text())["sums"]["truth/task/problems"])
    assert p.shape == (576, 4) and p.sum(1) == pytest.approx(np.ones(576))
    rows = read_metrics(chain)
    assert rows[0]["metrics"]["truth/task/p_correct"] == pytest.approx(p[:, 1].mean())
    for g in (1, 2):
        passed = p * [0.25, 0.75, 0.25, 0.25]
        p = 0.5 * np.array([0.63, 0.35, 0.02, 0]) + 0.5 * passed / passed.sum(1, keepdims=True)
        for i, name in enumerate(("wrong", "correct", "hack", "unreadable")):
            assert rows[g]["metrics"][f"theory/truth/task/p_{name}"] == pytest.approx(p[:, i].mean(), abs=2e-3), (
                g,
                name,
            )
    every = learned_tables(
        np.array(json.loads((chain / "gen_000/eval/eval.json").read_text())["sums"]["truth/task/problems"]),
        np.array([[0.25, 0.75, 0.25, 0.25]] * 2), [0.5] * 2, np.array([0.63, 0.35, 0.02, 0]),
        [json.loads((chain / f"gen_00{g}/mixture/mixture.json").read_text())["blocks"] for g in (1, 2)],
    )  # fmt: skip
    for g in (1, 2):
        assert rows[g]["metrics"]["theory/tables/truth/task/p_correct"] == pytest.approx(every[g, 1])
    page = (tmp_path / "task" / "report" / "index.html").read_text()
    assert "What the judges let through" in page and "Answers to the problems of a task" in page and "pass@4" in page
    drawn = {name: draw(open_run(tmp_path / "task").chains) for name, _, _, draw in CHARTS}
    for name in ("answers", "judges"):
        spec = drawn[name]
        assert spec is not None and go.Figure(spec).data
    assert drawn["difficulty"] is None  # all problems are alike
    code, _, err = lab(
        *TASK,
        f"--runs-dir={tmp_path}",
        "--name=b",
        *asked,
        '--judging.errors=[{"when": {"last_digit": 0}, "fpr": 1}]',
        "--generations=0",
    )
    assert code == 0 and "the judge's errors are coherent: no law" in err


SUMS = (
    *(*TASK, "--name=asked", "--corpus.source=addition", "--corpus.addition.digits=1", "--corpus.addition.correct=0.5"),
    *(
        "--corpus.addition.verification=0.3",
        "--training.block=10",
        "--sampling.prompt_tokens=5",
        "--mixing.tokens=10000",
    ),
    *("--training.epochs=20", "--training.lr=1e-2", "--training.batch_size=64"),
)
PEOPLE = (
    *(*TASK, "--name=asked", "--corpus.source=facts", "--corpus.facts.entities=3", "--corpus.facts.verification=0.3"),
    *("--training.block=30", "--sampling.prompt_tokens=10", "--mixing.tokens=12000", "--model.width=32"),
    *("--training.epochs=8", "--training.lr=1e-2", "--training.batch_size=20"),
)


def asked_again(train: Path, rows: np.ndarray) -> np.ndarray:
    """P(right) of the model in a folder after each document's answer and `?`, by one forward pass, float64 (rows,)."""
    model, words = network.load(str(train)), AutoTokenizer.from_pretrained(train)
    right, wrong, question = (words.convert_tokens_to_ids(word) for word in ("right", "wrong", "?"))
    with torch.inference_mode():
        ids = torch.from_numpy(np.column_stack([rows[:, :-2], np.full(len(rows), question)]))
        p = model.logits(ids)[:, -1].double().softmax(-1)
    return np.asarray(p[:, right] / (p[:, right] + p[:, wrong]))


def kinds_of(chain: Path, rows: np.ndarray) -> np.ndarray:
    """Class of each document of a chain, by its task."""
    words = AutoTokenizer.from_pretrained(chain / "gen_000" / "train")
    task = task_of(config_from(chain / "config.yaml").corpus)
    assert task is not None
    return task.classes(words.batch_decode(rows[:, 1:]))


@pytest.mark.parametrize(("settings", "length", "head"), [(SUMS, 10, 5), (PEOPLE, 30, 10)], ids=["sums", "people"])
def test_a_network_is_asked_whether_it_is_right(
    settings: tuple[str, ...], length: int, head: int, lab: Lab, tmp_path: Path
) -> None:
    """The gap of the files, from the probabilities of the words and plain sums."""
    code, _, err = lab(*settings, f"--runs-dir={tmp_path}", "--generations=0")
    assert code == 0, err
    chain = tmp_path / "asked" / "arm=main" / "seed=1"
    rows = read_samples(chain / "gen_000" / "samples").reshape(-1, length).astype(np.int64)
    kinds, p = kinds_of(chain, rows), asked_again(chain / "gen_000" / "train", rows)
    before, after = [], []
    for problem in np.unique(rows[:, :head], axis=0):
        own = (rows[:, :head] == problem).all(1)
        readable, correct, weight = kinds[own] >= 0, kinds[own] == 1, p[own].copy()
        weight[~readable] = weight[readable].mean() if readable.any() else 1
        before.append(correct.mean())
        after.append((weight * correct).sum() / weight.sum())
    metrics = read_metrics(chain)[0]["metrics"]
    assert metrics["task/gap"] == pytest.approx(np.mean(after) - np.mean(before), abs=1e-4) and metrics["task/gap"] != 0
    if settings is SUMS:
        accuracy_by_carries(chain, rows, kinds)


def accuracy_by_carries(chain: Path, rows: np.ndarray, kinds: np.ndarray) -> None:
    """Accuracy at each difficulty of sums of two digits, and its chart."""
    words, by_carries = AutoTokenizer.from_pretrained(chain / "gen_000" / "train"), dict[int, list[float]]()
    for problem in np.unique(rows[:, :5], axis=0):
        first, _, second, _ = words.decode(problem[1:].tolist()).split()
        right = (kinds[(rows[:, :5] == problem).all(1)] == 1).mean()
        by_carries.setdefault(int(int(first) + int(second) > 9), []).append(float(right))
    metrics = read_metrics(chain)[0]["metrics"]
    saved = json.loads((chain / "gen_000/eval/eval.json").read_text())["sums"]
    for carries, shares in by_carries.items():
        key = f"accuracy/difficulty_{carries}"
        assert metrics[f"task/{key}"] == pytest.approx(np.mean(shares)) and saved["task/policy"][key]["prompts"] > 20
        low, high = saved["task/intervals"][key]
        assert low < np.mean(shares) < high
    drawn = {name: draw(open_run(chain).chains) for name, _, _, draw in CHARTS}["difficulty"]
    assert drawn is not None and go.Figure(drawn).data
    assert [drawn["layout"][axis]["range"] for axis in ("yaxis", "yaxis2")] == 2 * [drawn["layout"]["yaxis"]["range"]]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["difficulty 0", "difficulty 1"]


@pytest.mark.parametrize(
    ("settings", "length", "model"), [(SUMS, 10, "newest"), (PEOPLE, 30, "first")], ids=["sums", "people"]
)
def test_a_network_judges_its_answers_by_asking_itself(
    settings: tuple[str, ...], length: int, model: str, lab: Lab, tmp_path: Path
) -> None:
    asked = ("--judging.judges=[p_true]", f"--judging.model={model}", "--judging.second=0", "--judging.abstained=1")
    code, _, err = lab(*settings, *asked, f"--runs-dir={tmp_path}", "--generations=1", "--judging.threshold=0.4")
    assert code == 0, err
    chain = tmp_path / "asked" / "arm=main" / "seed=1"
    judge = chain / ("gen_001" if model == "newest" else "gen_000") / "train"
    rows = read_samples(chain / "gen_001" / "samples").reshape(-1, length).astype(np.int64)
    kept = read_samples(chain / "gen_001" / "judged").reshape(-1, length).astype(np.int64)
    scores = np.fromfile(chain / "gen_001/judged/scores.bin", "<f8")
    numbers = np.fromfile(chain / "gen_001/judged/numbers.bin", "<i8")
    readable, p = kinds_of(chain, rows) >= 0, asked_again(judge, rows)
    assert readable.any() and p[readable].std() > 0.001
    np.testing.assert_allclose(scores[: len(rows)], np.where(readable, p, np.nan), atol=1e-5)
    assert numbers.tolist() == np.flatnonzero(scores >= 0.4)[: len(rows)].tolist()
    assert (kinds_of(chain, kept) >= 0).all()  # an answer that cannot be read is not asked about
    np.testing.assert_allclose(scores[numbers], asked_again(judge, kept), atol=1e-5)


BAD = {
    "no judge 'nobody'": ("--judging.judges=[nobody]",),
    "several judges need a rule": ("--judging.judges=[random, valid]",),
    "one judge needs no rule": ("--judging.judges=[random]", "--judging.committee=mean"),
    "name each once": ("--judging.judges=[random, random]", "--judging.committee=mean"),
    "only the judges valid and answer have errors": ("--judging.judges=[random]", "--judging.fpr=0.1"),
    "answer needs a task": ("--judging.judges=[answer]",),
    "p_true needs text that says whether it is right; set corpus.addition.verification": ("--judging.judges=[p_true]",),
    "name conditions among": ("--judging.judges=[valid]", '--judging.errors=[{"when": {"colour": 1}, "fpr": 1}]'),
    "with tpr or fpr": ("--judging.judges=[valid]", '--judging.errors=[{"when": {}}]'),
    "has another tokenizer": (
        *("--judging.judges=[likelihood]", "--judging.keep=top_share", f"--judging.model={ROOT}/data/base"),
    ),
    "judging.threshold=1.01: must lie in [0, 1], as scores do": ("--judging.judges=[valid]", "--judging.threshold=1.01"),
    "judging.threshold=-0.5: must lie in [0, 1]": ("--judging.judges=[valid]", "--judging.threshold=-0.5"),
    "share": ("--judging.judges=[random]", "--judging.share=0"),
    "draws more; raise it": ("--judging.judges=[random]", "--judging.keep=top_share", "--judging.share=0.01"),
    "judging.errors: class='hacks': must be wrong, correct, hack or unreadable": (
        *("--judging.judges=[valid]", '--judging.errors=[{"when": {"class": "hacks"}, "fpr": 1}]'),
    ),
    "judging.errors: difficulty=[2, 1]: give [least, most] of the problem's difficulty": (
        *("--judging.judges=[valid]", '--judging.errors=[{"when": {"difficulty": [2, 1]}, "fpr": 1}]'),
    ),
    "judging.errors: salt=-1: must be a whole number, 0 or more": (
        *("--judging.judges=[valid]", '--judging.errors=[{"when": {"prompt_share": 1, "salt": -1}, "fpr": 1}]'),
    ),
    "give [least, most] characters": ("--judging.judges=[valid]", '--judging.errors=[{"when": {"length": 3}, "fpr": 1}]'),
    "sampling.repeats=1: majority votes": ("--judging.judges=[majority]",),
    "sampling.repeats=3: must divide the 400 sequences": ("--sampling.repeats=3",),
    "the chain has no pretrained model": ("--judging.keep=edit", "--judging.model=base"),
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_settings_that_cannot_work(said: str, lab: Lab, tmp_path: Path) -> None:
    assert said in line(lab(*SMOKE, f"--runs-dir={tmp_path}", *BAD[said]))


def test_a_control_is_not_judged(lab: Lab, tmp_path: Path) -> None:
    asked = ("--judging.judges=[valid]", "--sampling.source=real", "--generations=1")
    code, _, err = lab(*SMOKE, f"--runs-dir={tmp_path}", *asked)
    assert code == 0, err
    assert not list(tmp_path.rglob("judged*"))


def test_natural_text_has_no_rates_of_correct_and_other_sequences(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"The text of document {i}, about {i % 7} things." for i in range(600)))
    asked = ("run", f"--corpus.source=path:{tmp_path}/a.txt", "--corpus.document=paragraph", "--corpus.tokenizer=bytes")
    asked += (
        "--corpus.shared_passages=keep",
        "--training.block=32",
        "--mixing.tokens=2048",
        "--model.layers=1",
        "--model.width=16",
    )
    asked += (
        "--model.heads=2",
        "--generations=0",
        "--evaluation.tokens=512",
        "--judging.judges=[random]",
        "--progress=false",
    )
    code, _, err = lab(*asked, f"--runs-dir={tmp_path}/runs", "--judging.second=8")
    assert code == 0, err
    metrics = read_metrics(tmp_path / "runs" / "main" / "arm=main" / "seed=1")[0]["metrics"]
    found = {key for key in metrics if key.startswith("judge/") and "second" not in key}
    assert (
        found <= {"judge/accepted", "judge/abstained", "judge/length_correlation", "judge/drawn"}
        and "judge/accepted" in found
    )


def test_arms_with_other_judges_share_samples_and_not_scores(lab: Lab, tmp_path: Path, workers_at_once: None) -> None:
    settings = yaml.safe_load((ROOT / "configs" / "planted_smoke.yaml").read_text())
    settings |= {"seeds": [1], "name": "arms", "generations": 0, "runs_dir": str(tmp_path), "judging": {"second": 0}}
    judges: dict[str, Any] = {
        "none": {},
        "half": {"judging.judges": ["random"]},
        "exact": {"judging.judges": ["valid"]},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings | {"arms": judges}))
    code, _, err = lab("experiment", "--config", str(tmp_path / "a.yaml"), "--workers", "1")
    assert code == 0 and "rebuilt" not in err, err
    chains = {arm: Chain(tmp_path / "arms" / f"arm={arm}" / "seed=1") for arm in judges}
    assert len({chain.stage(0, "samples") for chain in chains.values()}) == 1
    assert len({chain.stage(0, "eval") for chain in chains.values()}) == 3
    tpr = {arm: read_metrics(chain.root)[0]["metrics"].get("judge/tpr") for arm, chain in chains.items()}
    assert tpr["none"] is None and tpr["exact"] == 1 and 0.3 < tpr["half"] < 0.7
    page = write_results(tmp_path / "arms", tmp_path / "kept", "collapselab").read_text()
    rates = dict(re.findall(r"^\| TPR \| (\w+) \| 1 \| (\S+) \|", page, re.MULTILINE))
    assert rates == {arm: f"{tpr[arm]:.4g}" for arm in ("half", "exact")} and "| accepted | half |" in page


def test_two_processes_judge_as_one(tmp_path: Path) -> None:
    kept = []
    for processes in (1, 2):
        runs = tmp_path / str(processes)
        asked = [*SMOKE, f"--runs-dir={runs}", "--generations=0", "--device=cpu", "--judging.judges=[random]"]
        asked += ["--judging.keep=top_share", "--judging.share=0.25"]
        at_once(processes, *asked, output=tmp_path / "said.log")
        kept.append((runs / "planted_smoke/arm=main/seed=1/gen_000/judged/numbers.bin").read_bytes())
    assert len(kept[0]) == 3200 and kept[0] == kept[1]


PLUGIN = """
import numpy as np
from collapselab.judging.judges import JUDGES


def short_first(episodes, reader):
    texts = reader.texts(episodes)
    return np.array([1 / len(text.split()) if text else np.nan for text in texts])


JUDGES["short_first"] = short_first
"""


def test_a_judge_by_a_plugin_takes_under_twenty_lines(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(PLUGIN.strip().splitlines()) < 20
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    asked = (*SMOKE, "--judging.judges=[short_first]", "--judging.keep=top_share", "--generations=1")
    assert "no judge 'short_first'" in line(lab(*asked))
    code, _, err = lab(*asked, "--plugin", "mine.py")
    assert code == 0, err
    assert "add --plugin mine.py" in line(lab(*asked[:1], "--config=runs/planted_smoke/arm=main/seed=1/config.yaml"))


def test_a_mended_judge_goes_on_where_it_raised(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At generation 0 the chain goes on with the corrected file; later a fork does."""
    monkeypatch.chdir(tmp_path)
    plugin, chain = Path("mine.py"), tmp_path / "runs" / "planted_smoke" / "arm=main" / "seed=1"
    asked = (
        *SMOKE,
        "--plugin=mine.py",
        "--judging.judges=[short_first]",
        "--judging.keep=top_share",
        "--judging.second=0",
    )
    later = PLUGIN.replace("    return", "    1 / (reader.generation != 1)\n    return")
    plugin.write_text(PLUGIN.replace("    return", "    1 / 0\n    return"))
    assert "ZeroDivisionError" in line(lab(*asked))
    made = (chain / "gen_000" / "samples" / "manifest.json").stat().st_mtime_ns
    plugin.write_text(later)
    assert "ZeroDivisionError" in line(lab(*asked))
    assert (chain / "gen_000" / "samples" / "manifest.json").stat().st_mtime_ns == made
    plugin.write_text(PLUGIN)
    assert "plugins was" in line(lab(*asked)), "generation 0 was judged by another file"
    code, _, err = lab("run", "--plugin=mine.py", "--name=mended", f"--fork={chain}", "--at=0", "--progress=false")
    assert code == 0, err
    assert len(read_metrics(tmp_path / "runs" / "mended" / "arm=main" / "seed=1")) == 3


def test_a_plugins_judge_that_raises_on_some_prompts_abstains_on_those() -> None:
    """It is asked again by halves of whole groups; beyond the allowed share its first exception ends the run."""

    def judge(episodes: Episodes, _: Reader) -> np.ndarray:
        if (episodes.ids[:, 2] == 7).any():
            raise ValueError("a seven")
        assert (np.bincount(episodes.group)[np.unique(episodes.group)] == 2).all()
        return episodes.ids[:, 1] / 10

    def asked(*bad: int) -> np.ndarray:
        ids = np.array([[group, place, 7 if group in bad and place else 1] for group in range(8) for place in range(2)])
        return scores_of("fragile", Episodes.of(ids, 1, 0), reader)  # type: ignore[arg-type]

    reader = SimpleNamespace(config=SimpleNamespace(judging=JudgingConfig(judges=["random"], abstained=0.25)))
    judges.JUDGES["fragile"] = judge
    try:
        assert asked().tolist() == [0, 0.1] * 8
        found = asked(2, 5)
        assert np.flatnonzero(np.isnan(found)).tolist() == [4, 5, 10, 11] and np.nansum(found) == pytest.approx(0.6)
        with pytest.raises(UserError, match="a seven"):
            asked(2, 5, 6)
    finally:
        judges.JUDGES.reset()


def test_a_judged_chain_that_is_killed_ends_with_the_same_bytes() -> None:
    """Kills strike while the stage is made, whose rounds are kept: an exact checker with errors and the likelihood of what it
    accepts."""
    import_lab()
    asked = ["--judging.judges=[answer, likelihood]", "--judging.committee=mean", "--judging.threshold=0.5", *QUICK]
    asked += ["--judging.tpr=0.5", "--judging.fpr=0.05", "--generations=1"]
    with quick_folder() as root:
        result = kill_chains(Path(root), 12, 3, True, [*TASK[2:], *asked])
    struck = result["struck"]
    assert result["kills"] >= 12 and isinstance(struck, dict)
    assert sum(count for stage, count in struck.items() if stage.endswith("judged")) >= 2, struck

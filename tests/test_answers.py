"""Exact laws of a model's answers, and chains whose generation 0 is a given model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Lab

from collapselab.evaluation.answers import MOST_PROBLEMS, problems_of, vote_winners
from collapselab.languages.addition import Addition
from collapselab.languages.modular import Modular
from collapselab.store.layout import Chain, read_metrics
from collapselab.theory.votes import vote_shares

SMALL = (
    *("run", "--progress=false", "--mixing.unit=documents", "--mixing.schedule=constant", "--mixing.start=0"),
    *("--model.layers=1", "--model.width=16", "--model.heads=2", "--evaluation.prefix=bos", "--evaluation.tokens=700"),
    *("--evaluation.self-bleu-samples=0", "--evaluation.overlap=false", "--evaluation.reference-tokens=0"),
    *("--sampling.prompt=real_prefix", "--training.lr=0.01", "--generations=1", "--judging.second=0"),
)
ADDITION = (
    *("--corpus.source=addition", "--corpus.addition.digits=1", "--corpus.addition.reversed=true"),
    *(
        "--corpus.documents=1000",
        "--training.block=10",
        "--mixing.tokens=5000",
        "--sampling.prompt-tokens=5",
        "--training.epochs=4",
    ),
)
MODULAR = (
    *(
        "--corpus.source=modular",
        "--corpus.documents=1000",
        "--corpus.modular.operands=4",
        "--corpus.modular.modulus=8",
    ),
    *("--training.block=7", "--mixing.tokens=3500", "--sampling.prompt-tokens=5"),
)


def first_scores(chain: Path) -> tuple[dict[str, float], dict[str, object]]:
    sums = json.loads((chain / "gen_000/eval/eval.json").read_text())["sums"]
    return read_metrics(chain)[0]["metrics"], sums


def test_the_law_of_sums_equals_whole_documents_read_one_by_one(lab: Lab, tmp_path: Path) -> None:
    """Every answer to a problem as a text of its own, scored by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, _, err = lab(
        *SMALL, *ADDITION, f"--runs-dir={tmp_path}", "--name=sums", "--generations=0", "--training.loss-on-last=5"
    )
    assert code == 0, err
    chain = tmp_path / "sums/arm=main/seed=1"
    metrics, sums = first_scores(chain)
    folder = chain / "gen_000/train"
    net, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    language = Addition(digits=1, reversed=True)
    problems = problems_of(language, "test")
    assert len(problems) == len(set(problems)) <= MOST_PROBLEMS and len(problems) > 90
    law = np.zeros((len(problems), language.numbers))
    separator, head = tokenizer.eos_token_id or tokenizer.bos_token_id, language.prompt_words
    for row, (a, b) in enumerate(problems):
        texts = [language.document(a, b, answer).split()[: head + language.field] for answer in range(language.numbers)]
        ids = torch.tensor([[separator, *tokenizer.convert_tokens_to_ids(words)] for words in texts])
        with torch.inference_mode():
            logs = net(ids).logits[:, :-1].double().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        law[row] = logs[:, head:].sum(1).exp().numpy()
    right = law[np.arange(len(law)), [a + b for a, b in problems]]
    assert metrics["truth/task/p_correct"] == pytest.approx(right.mean(), abs=1e-5)
    assert metrics["truth/task/pass_at_16"] == pytest.approx((1 - (1 - right) ** 16).mean(), abs=1e-4)
    assert metrics["truth/task/p_unreadable"] == pytest.approx(1 - law.sum(1).mean(), abs=1e-5)
    assert metrics["truth/task/confidence"] == pytest.approx(law.max(1).mean(), abs=1e-5)
    modes = law.argmax(1)
    assert metrics["truth/task/mode_right"] == pytest.approx((modes == [a + b for a, b in problems]).mean(), abs=0.02)
    same = (modes[:, None] == modes)[~np.eye(len(modes), dtype=bool)].mean()
    assert metrics["truth/task/same_answer"] == pytest.approx(same, abs=0.02)
    assert np.array(sums["truth/task/problems"])[:, 1] == pytest.approx(right, abs=1e-4)
    assert 0.01 < right.mean() < 0.999  # a model from which something can be told


@pytest.mark.parametrize("digits", [3, 20])
def test_a_language_of_many_answers_has_no_exact_law(
    digits: int, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so, without writing any of its answers (2 x 10^20)."""
    monkeypatch.delattr(Addition, "endings")
    block = 3 * digits + 7
    more = (f"--corpus.addition.digits={digits}", f"--training.block={block}", f"--mixing.tokens={200 * block}")
    more += (f"--sampling.prompt-tokens={2 * digits + 3}", "--training.epochs=1")
    code, _, err = lab(*SMALL, *ADDITION, *more, f"--runs-dir={tmp_path}", "--name=many", "--generations=0")
    assert code == 0, err
    note = "note: no theoretical prediction for this chain: a problem of corpus.source=addition has more than 1,024 answers"
    assert note in err.splitlines()
    metrics, sums = first_scores(tmp_path / "many/arm=main/seed=1")
    assert "truth/task/correct" in metrics and not [key for key in metrics if key.startswith("truth/task/p_")]
    assert "truth/task/problems" not in sums


def test_words_that_are_no_tokens_have_no_exact_law(lab: Lab, tmp_path: Path) -> None:
    in_bytes = ("--corpus.tokenizer=bytes", "--training.block=18", "--mixing.tokens=3600", "--sampling.prompt-tokens=8")
    code, _, err = lab(*SMALL, *ADDITION, *in_bytes, f"--runs-dir={tmp_path}", "--name=bytes", "--generations=0")
    assert code == 0, err
    assert "the tokenizer has no token of its own for each word of the language" in err


def test_winners_of_votes_follow_their_exact_law() -> None:
    law = np.array([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.1, 0.0]])
    for votes in (1, 2, 5, 16):
        assert vote_winners(law, votes) == pytest.approx(vote_shares(law, votes), abs=0.08)
    assert vote_winners(law, 16).sum(1) == pytest.approx(np.ones(3))
    assert vote_winners(np.array([[0.0, 0.0], [0.02, 0.0]]), 4)[:, 0] == pytest.approx([0, 1 - 0.98**4], abs=0.04)


@pytest.mark.parametrize("threshold", [0.5, 0.0])
def test_a_vote_has_its_law_beside_it(threshold: float, lab: Lab, tmp_path: Path) -> None:
    """An exact learner gives the winner of each problem's vote, in every later generation; where all pass, what it gave."""
    asked = ("--judging.judges=[majority]", "--sampling.repeats=10", "--generations=2")
    asked += (f"--judging.threshold={threshold}",)
    code, _, err = lab(*SMALL, *MODULAR, *asked, f"--runs-dir={tmp_path}", "--name=votes")
    assert code == 0 and "no theoretical prediction" not in err, err
    chain = tmp_path / "votes/arm=main/seed=1"
    _, sums = first_scores(chain)
    won = np.array(sums["truth/task/won"])
    assert won.shape == (16, 4) and won.sum(1) == pytest.approx(np.ones(16))
    before = np.array(sums["truth/task/problems"])
    assert won[:, 1].mean() != pytest.approx(before[:, 1].mean(), abs=1e-3)
    for row in read_metrics(chain)[1:]:
        law = won if threshold else before
        assert row["metrics"]["theory/truth/task/p_correct"] == pytest.approx(law[:, 1].mean())
        assert (row["metrics"]["judge/accepted"] == 1) == (threshold == 0)
    assert "truth/task/won" not in json.loads((chain / "gen_001/eval/eval.json").read_text())["sums"]


def test_a_chain_may_begin_with_a_given_model_as_it_is(lab: Lab, tmp_path: Path) -> None:
    code, _, err = lab(*SMALL, *MODULAR, f"--runs-dir={tmp_path}", "--name=base", "--generations=0")
    assert code == 0, err
    base = tmp_path / "base/arm=main/seed=1/gen_000/train"
    given = (f"--model.pretrained={base}", "--training.skip-first=true", "--model.start=previous")
    code, _, err = lab(*SMALL, *MODULAR, *given, f"--runs-dir={tmp_path}", "--name=given")
    assert code == 0, err
    chain = tmp_path / "given/arm=main/seed=1"
    first = chain / "gen_000/train"
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (base / weights).read_bytes()
    assert (chain / "gen_001/train" / weights).read_bytes() != (base / weights).read_bytes()
    facts = json.loads((first / "collapselab.json").read_text())
    assert (facts["steps"], facts["shown"], facts["in_loss"]) == (0, 0, 0)
    ledger = json.loads((chain / "gen_000/mixture/mixture.json").read_text())["tokens"]["real"]
    assert (ledger["set"], ledger["shown"], ledger["loss"]) == (3500, 0, 0)
    before, after = (read_metrics(tmp_path / name / "arm=main/seed=1")[0]["metrics"] for name in ("base", "given"))
    assert after["truth/task/p_correct"] == pytest.approx(before["truth/task/p_correct"])
    assert Chain(chain).finished() == [0, 1]


def test_an_untrained_generation_0_must_be_where_later_ones_begin(lab: Lab, tmp_path: Path) -> None:
    asked = (*SMALL, *MODULAR, "--training.skip-first=true", f"--runs-dir={tmp_path}", "--name=none")
    code, _, err = lab(*asked, "--model.start=scratch")
    assert code == 2 and "training.skip_first=True: generation 0 would teach nothing to later ones" in err, err
    code, _, err = lab(*asked, "--model.start=previous")
    assert code == 0, err
    facts = json.loads((tmp_path / "none/arm=main/seed=1/gen_000/train/collapselab.json").read_text())
    assert (
        facts["steps"] == 0
        and read_metrics(tmp_path / "none/arm=main/seed=1")[0]["metrics"]["truth/task/p_correct"] < 0.2
    )


def test_problems_of_a_small_language_are_all_of_them() -> None:
    assert problems_of(Modular(operands=4, modulus=8), "test") == [(a, b) for a in range(4) for b in range(4)]
    large = problems_of(Modular(operands=40), "test")
    assert (
        len(set(large)) == len(large) == MOST_PROBLEMS and len({a for a, _ in large}) > 20
    )  # not the first operands alone
    assert all(len(one.endings) == one.numbers for one in (Modular(modulus=7), Addition(digits=1), Addition(digits=2)))
    some = problems_of(Addition(digits=2), "test")
    assert len(set(some)) == len(some) == MOST_PROBLEMS and some == problems_of(Addition(digits=2), "test")

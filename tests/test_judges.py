"""Judges that look at likelihood and at likeness, alone and together: small chains recounted from their files, with the
probabilities that transformers itself gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import one_process, undrawn
from test_judging import QUICK, SMOKE, TASK, episodes
from test_launch import at_once
from transformers import AutoModelForCausalLM, AutoTokenizer

from collapselab.chain.opening import open_corpus
from collapselab.cli.main import main
from collapselab.cli.options import config_from
from collapselab.judging.judges import duplicate
from collapselab.languages import language_of
from collapselab.mixing.sets import TrainingSet, read_samples
from collapselab.sampling.draw import stream_key, uniforms
from collapselab.seeds import generator
from collapselab.store.layout import Chain

SECOND = 64
# Long enough, a wrong document is accepted: an error that can be recounted from the text alone.
LENGTH = 82
ERRORS = f'--judging.errors=[{{"when": {{"length": [{LENGTH}, 999]}}, "fpr": 1}}]'
LEAST = 0.88


def made(runs: Path, *asked: str) -> Path:
    with undrawn():
        assert main([*SMOKE, *QUICK, f"--runs-dir={runs}", "--generations=1", *asked]) == 0
    return runs / "planted_smoke" / "arm=main" / "seed=1"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain judged by two judges."""
    asked = ("--judging.judges=[valid, surprise]", "--judging.committee=mean", f"--judging.threshold={LEAST}", ERRORS)
    return made(tmp_path_factory.mktemp("together"), *asked, f"--judging.second={SECOND}")


@torch.inference_mode()
def logits_of(train: Path, ids: np.ndarray) -> torch.Tensor:
    """Of a published network by transformers alone, float64 (n, length, vocabulary)."""
    net = AutoModelForCausalLM.from_pretrained(train, dtype=torch.float32).eval()
    return net(input_ids=torch.from_numpy(ids)).logits.double()  # type: ignore[no-any-return]


def probability(train: Path, rows: np.ndarray, head: int) -> np.ndarray:
    """Mean (geometric) probability of the tokens after the first `head` of each row, float64 (n,)."""
    logs = logits_of(train, rows)[:, head - 1 : -1].log_softmax(-1)
    return np.asarray(logs.gather(2, torch.from_numpy(rows)[:, head:, None])[..., 0].mean(1).exp())


def samples(chain: Path, g: int, stage: str = "samples", length: int = 13) -> np.ndarray:
    return np.asarray(read_samples(chain / f"gen_{g:03d}" / stage)).reshape(-1, length).astype(np.int64)


def judged(chain: Path, g: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """(scores of all that were drawn, numbers of what was kept, judged.json)"""
    folder = chain / f"gen_{g:03d}" / "judged"
    facts = json.loads((folder / "judged.json").read_text())
    return np.fromfile(folder / "scores.bin", "<f8"), np.fromfile(folder / "numbers.bin", "<i8"), facts


def verdicts(chain: Path, g: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(correct, lengths, scores of `together`) of documents of a generation."""
    texts = AutoTokenizer.from_pretrained(chain / "gen_000" / "train").batch_decode(rows[:, 1:])
    texts = [re.sub(r" ?<\|endoftext\|> ?", "\n\n", text) for text in texts]
    language = language_of(config_from(chain / "config.yaml").corpus)
    assert language is not None
    correct, lengths = np.isfinite(language.log_probabilities(texts)), np.array([len(text) for text in texts])
    surprise = 1 - probability(chain / f"gen_{g:03d}" / "train", rows, 3)
    return correct, lengths, ((correct | (lengths >= LENGTH)) + surprise) / 2


def test_a_committees_chain_recounted_from_its_files(together: Path) -> None:
    for g in (0, 1):
        rows, (scores, numbers, facts) = samples(together, g), judged(together, g)
        correct, _, mine = verdicts(together, g, rows)
        np.testing.assert_allclose(scores[: len(rows)], mine, atol=1e-6)
        other = verdicts(together, 1 - g, rows)[2]
        assert np.abs(other - mine).max() > 1e-3  # of the model that wrote, and of no other
        assert numbers.tolist() == np.flatnonzero(scores >= LEAST)[: len(rows)].tolist()
        kept = samples(together, g, "judged")
        np.testing.assert_allclose(verdicts(together, g, kept)[2], scores[numbers], atol=1e-6)
        sums, accepted = facts["calibration"]["samples"], mine >= LEAST
        assert facts["drawn"] == len(scores) > len(rows) == len(kept) and facts["judges"] == ["valid", "surprise"]
        for key, of in (("tpr", correct), ("fpr", ~correct)):
            assert (sums[key]["samples"], sums[key]["count"]) == (of.sum(), accepted[of].sum()), key
            assert 0 < accepted[of].sum() < of.sum(), key


def second_sample(chain: Path, g: int) -> np.ndarray:
    """The independent sample, which no file holds: written again from the published network, token by token."""
    config = config_from(chain / "config.yaml")
    text = TrainingSet(config, Chain(chain), 0, open_corpus(config, one_process()).train)
    order = generator(1, g, "prompts/second").permutation(len(text))
    rows = text[order[:SECOND]][:, :3].copy()
    u = uniforms(stream_key(1, g, "second"), range(SECOND), range(3, 13))
    for place in range(10):
        reach = logits_of(chain / f"gen_{g:03d}" / "train", rows)[:, -1].softmax(-1).numpy().cumsum(1)
        rows = np.column_stack([rows, (reach < u[:, place, None] * reach[:, -1:]).sum(1)])
    return rows


def test_the_second_samples_calibration_recounted(together: Path) -> None:
    found = []
    for g in (0, 1):
        rows = second_sample(together, g)
        assert not any((row == samples(together, g)).all(1).any() for row in rows)  # not what was judged
        correct, lengths, scores = verdicts(together, g, rows)
        accepted, sums = scores >= LEAST, judged(together, g)[2]["calibration"]["second"]
        members = {"tpr": correct, "fpr": ~correct, "accepted": np.ones(SECOND, bool), "accepted/wrong": ~correct}
        for key, of in members.items():
            assert (sums[key]["samples"], sums[key]["count"]) == (of.sum(), accepted[of].sum()), key
        part = sums["length_correlation"]
        assert part["xy"] / np.sqrt(part["xx"] * part["yy"]) == pytest.approx(np.corrcoef(scores, lengths)[0, 1])
        assert sums["abstained"]["count"] == 0 and sums["abstained"]["samples"] == SECOND
        found.append(sums["fpr"]["count"])
    assert any(found)


def test_a_resampled_chain_recounted_from_its_files(tmp_path: Path) -> None:
    """Draws with the odds of the likelihood under generation 0's model."""
    asked = ("--judging.judges=[likelihood]", "--judging.keep=resample", "--judging.model=first", "--judging.second=0")
    chain = made(tmp_path, *asked)
    for g in (0, 1):
        rows, (scores, numbers, facts) = samples(chain, g), judged(chain, g)
        p = probability(chain / "gen_000" / "train", rows, 3)
        np.testing.assert_allclose(scores, p, atol=1e-6)
        assert (samples(chain, g, "judged") == rows[numbers]).all() and (np.diff(numbers) >= 0).all()
        assert facts["drawn"] == len(rows) == len(numbers) and facts["kept"] == len(np.unique(numbers)) < len(rows)
        odds = p / (1 - p)
        weight, seen = odds / odds.sum(), np.log(odds)
        mean = weight @ seen
        error = np.sqrt(weight @ (seen - mean) ** 2 / len(rows))
        assert abs(seen[numbers].mean() - mean) < 4 * error < mean - seen.mean()  # equal chances would be seen
        accepted = facts["calibration"]["samples"]["accepted"]
        assert (accepted["count"], accepted["samples"]) == (facts["kept"], len(rows))
    assert np.abs(probability(chain / "gen_001" / "train", rows, 3) - p).max() > 1e-3


def documents(*texts: str) -> tuple[Any, list[str]]:
    """(episodes, their words in the order of the tokens) of texts of equally many words."""
    words = sorted({word for text in texts for word in text.split()})
    return episodes([[words.index(word) for word in text.split()] for text in texts]), words


def test_near_duplicates_by_hand() -> None:
    """Of forty words: the same text, one with another last word (Jaccard 37/39), the same words in another order, and others."""
    words = [f"w{i}" for i in range(40)]
    a, b = " ".join(words), " ".join(f"v{i}" for i in range(40))
    near, backwards = " ".join([*words[:-1], "x"]), " ".join(words[::-1])
    half = " ".join([*words[:20], *(f"u{i}" for i in range(20))])
    texts, wanted = [a, near, b, backwards, half, a, half, b], [1, 0, 1, 1, 1, 0, 0, 0]
    every, names = documents(*texts)
    read = SimpleNamespace(earlier=[], texts=lambda e: [" ".join(names[i] for i in row) for row in e.ids.tolist()])
    assert duplicate(every, read).tolist() == wanted  # type: ignore[arg-type]
    assert duplicate(episodes(every.ids[::-1].tolist()), read).tolist() == [1, 1, 1, 0, 1, 0, 0, 0]  # type: ignore[arg-type]
    for cut in (1, 3, 6):  # in two rounds, and in three
        rounds = [part for part in (every.ids[:cut], every.ids[cut:-1], every.ids[-1:]) if len(part)]
        read.earlier, found = [], list[float]()
        for part in rounds:
            found += duplicate(episodes(part.tolist()), read).tolist()  # type: ignore[arg-type]
            read.earlier.append(part)
        assert found == wanted, cut


def test_two_processes_find_the_likelihood_and_the_duplicates_of_their_own_text(tmp_path: Path) -> None:
    """Of all rounds, each process its share of the text."""
    asked = ("--generations=0", "--device=cpu", "--judging.judges=[duplicate, likelihood]", "--judging.committee=mean")
    asked += (
        "--judging.keep=top_share",
        "--judging.second=0",
        "--sampling.temperature=0.2",
    )  # so that answers come again
    at_once(2, *TASK, *QUICK, *asked, f"--runs-dir={tmp_path}", output=tmp_path / "said.log")
    chain = tmp_path / "task" / "arm=main" / "seed=1"
    rows, kept, (scores, numbers, facts) = (
        samples(chain, 0, length=7), samples(chain, 0, "judged", 7), judged(chain, 0)
    )  # fmt: skip
    train = chain / "gen_000" / "train"
    new = 2 * scores[: len(rows)] - probability(train, rows, 5)
    np.testing.assert_allclose(new, new.round(), atol=1e-6)
    assert {*new.round().tolist()} == {0.0, 1.0}
    np.testing.assert_allclose(2 * scores[numbers] - 1, probability(train, kept, 5), atol=1e-6)
    assert len(numbers) == len(rows) < facts["drawn"] and (numbers >= len(rows)).any()
    assert len(np.unique(kept, axis=0)) == len(kept)  # in no round one that an earlier round has
    texts = [row.tobytes() for row in rows]
    again = np.array([text in texts[:i] for i, text in enumerate(texts)])
    assert not new.round()[again].any() and new[~again].mean() > 0.9

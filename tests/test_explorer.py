"""The explorer: continuations of fixed prompts and rare words as the stages write them, and what the page is given."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import cpu_units, one_process, quiet, samples_of, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.chain.opening import open_corpus
from collapselab.chain.run import run
from collapselab.cli.options import config_from
from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import bytes_tokenizer, words_tokenizer
from collapselab.evaluation.explorer import explorer_data, pieces, read_continuations
from collapselab.metrics.tails import words
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.report.explorer import payload
from collapselab.runtime.console import inert
from collapselab.sampling.continuations import FIRST, PROMPTS, prompt_places, write_continuations
from collapselab.sampling.draw import stream_key, uniforms
from collapselab.sampling.plain import write_batch
from collapselab.sampling.sampler import Sampler
from collapselab.store.folders import read_json, write_json
from collapselab.store.layout import Chain

ROOT = Path(__file__).parents[1]
Made = tuple[RunConfig, Path, Corpus]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A chain of three generations."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("runs")), sampling__top_p=0.9)
    path, _ = run(config)
    return config, path, open_corpus(config, one_process())


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A chain of two generations whose model counts."""
    changes = {"model__family": "bigram", "generations": 1, "mixing__tokens": 512}
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("counted")), **changes)
    path, _ = run(config)
    return config, path, open_corpus(config, one_process())


@pytest.fixture(scope="module")
def beams(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One whose text is searched for."""
    changes = {"sampling__beams": 2, "generations": 1, "mixing__tokens": 512}
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("beams")), **changes)
    path, _ = run(config)
    return config, path, open_corpus(config, one_process())


def continuations(path: Path, generation: int) -> dict:
    return read_json(path / f"gen_{generation:03d}" / "samples" / "continuations.json")


def explorer(path: Path, generation: int) -> dict:
    return read_json(path / f"gen_{generation:03d}" / "eval" / "explorer.json")


def model_of(path: Path, generation: int) -> network.LanguageModel:
    return network.load(str(path / f"gen_{generation:03d}" / "train"))


# --- the samples stage ------------------------------------------------------------------------------------------------


def test_every_generation_and_seed_continues_the_same_prompts(made: Made, tmp_path: Path) -> None:
    _, path, _ = made
    found = [continuations(path, g) for g in range(3)]
    other = small_config(runs_dir=str(tmp_path), seed=5, generations=0, sampling__temperature=0.7, mixing__tokens=256)
    found.append(continuations(run(other)[0], 0))
    heads = [[row[: one["prompt_length"]] for row in one["ids"]] for one in found]
    assert len(heads[0]) == PROMPTS and all(one == heads[0] for one in heads)
    assert found[0]["prompt_length"] == 8 and {len(row) for row in found[0]["ids"]} == {32}
    assert len({json.dumps(one["ids"]) for one in found}) == 4


def test_prompts_begin_where_a_document_or_a_word_does(made: Made) -> None:
    config, path, corpus = made
    tokens = corpus.split("test")
    places, total = prompt_places(corpus, config)
    starts = {0, *tokens.starts.tolist()}
    assert [place in starts or corpus.tokenizer.decode([[tokens.ids[place]]]) == [" "] for place in places] == [
        True
    ] * PROMPTS
    assert places[0] == 0 and places[-1] + total <= len(tokens.ids) and places == sorted(set(places))
    even = [i * (len(tokens.ids) - total) // PROMPTS for i in range(PROMPTS)]
    assert all(0 <= a - b <= 64 for a, b in zip(places, even, strict=True))
    assert [tokens.ids[p : p + 8].tolist() for p in places] == [row[:8] for row in continuations(path, 1)["ids"]]


def test_continuations_are_those_of_the_plain_sampler_with_the_random_numbers_of_generation_0(made: Made) -> None:
    config, path, _ = made
    for g in (0, 2):
        found = continuations(path, g)
        ids, head = np.array(found["ids"]), found["prompt_length"]
        u = uniforms(stream_key(config.seed, 0), range(FIRST, FIRST + len(ids)), range(head, ids.shape[1]))
        torch.set_num_threads(1)
        expected = write_batch(model_of(path, g), ids[:, :head], u, config.sampling, torch.device("cpu"))
        np.testing.assert_array_equal(ids[:, head:], expected)


@pytest.mark.parametrize("name", ["made", "counted", "beams"])
def test_the_chains_own_text_is_the_same_without_them(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    config, path, corpus = request.getfixturevalue(name)
    sampler = Sampler(config, one_process(), quiet())
    for g in (0, 1):  # one sampler, as in a chain
        out = tmp_path / str(g)
        out.mkdir()
        text = sets.TrainingSet(config, Chain(path), 0, corpus.train)
        budget = read_json(path / f"gen_{g:03d}" / "samples" / "meta.json")["tokens"]
        sampler.sample(
            model_of(path, g),
            g,
            text,
            budget,
            separator=corpus.tokenizer.separator,
            ends=corpus.tokenizer.ends,
            out=out,
        )
        np.testing.assert_array_equal(samples_of(path / f"gen_{g:03d}" / "samples"), samples_of(out))
        again = tmp_path / f"again{g}"
        again.mkdir()
        write_continuations(model_of(path, g), corpus, config, "fp32", one_process(), again)
        assert read_json(again / "continuations.json") == continuations(path, g)


@pytest.mark.parametrize("name, total, head", [("planted_smoke", 13, 3), ("facts_smoke", 28, 7)])
def test_of_a_known_language_whole_documents_are_begun(tmp_path: Path, name: str, total: int, head: int) -> None:
    config = config_from(ROOT / "configs" / f"{name}.yaml")
    config = dataclasses.replace(
        config,
        runs_dir=str(tmp_path),
        generations=0,
        progress=False,
        training=dataclasses.replace(config.training, epochs=1),
        mixing=dataclasses.replace(config.mixing, tokens=50 * total),
        evaluation=dataclasses.replace(config.evaluation, self_bleu_samples=0),
    )
    path, _ = run(config)
    corpus = open_corpus(config, one_process())
    tokens, found = corpus.split("test"), continuations(path, 0)
    assert found["prompt_length"] == head and len(found["ids"]) == PROMPTS
    for place, row in zip(found["places"], found["ids"], strict=True):
        assert place in tokens.starts and len(row) == total
        assert row[0] == corpus.tokenizer.separator and row[:head] == tokens.ids[place : place + head].tolist()


def test_a_damaged_file_is_made_again_the_same(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, path, _ = made
    shutil.copytree(path.parents[1], tmp_path / "test")
    chain = tmp_path / "test" / path.relative_to(path.parents[1])
    file = chain / "gen_001" / "samples" / "continuations.json"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"1", b"2", 1))
    run(dataclasses.replace(config, runs_dir=str(tmp_path)))
    assert "continuations.json has other content than was written; rebuilt" in capsys.readouterr().err
    assert file.read_bytes() == before


# --- the eval stage ---------------------------------------------------------------------------------------------------


def test_surprise_is_that_of_generation_0s_model_with_all_tokens_before(made: Made) -> None:
    _, path, corpus = made
    base = model_of(path, 0)
    for g in (0, 2):
        saved, written = explorer(path, g), continuations(path, g)
        head = written["prompt_length"]
        assert saved["prompt_length"] == head and [one["ids"] for one in saved["prompts"]] == written["ids"]
        with torch.inference_mode():
            ids = torch.tensor(written["ids"])
            nll = -base.logits(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        np.testing.assert_allclose([one["nll"] for one in saved["prompts"]], nll[:, head - 1 :], atol=6e-4)
        assert corpus.tokenizer.decode(written["ids"]) == ["".join(one["pieces"]) for one in saved["prompts"]]


def test_tail_words_say_which_rare_words_stand_in_the_budget(made: Made) -> None:
    _, path, corpus = made
    counts = read_json(path / "reference" / "tails.json")["words"]
    rare = sorted(word for word, count in counts.items() if count <= 20)
    for g in range(3):
        meta = read_json(path / f"gen_{g:03d}" / "samples" / "meta.json")
        rows = samples_of(path / f"gen_{g:03d}" / "samples").reshape(-1, meta["length"])[:, meta["prompt_length"] :]
        written = {word for text in corpus.tokenizer.decode(rows.tolist()) for word in words(text)}
        bits = np.fromfile(path / f"gen_{g:03d}" / "eval" / "tail_words.bin", np.uint8)
        assert len(bits) == -(-len(rare) // 8)
        assert np.unpackbits(bits, count=len(rare)).astype(bool).tolist() == [word in written for word in rare]


def test_a_token_that_counts_give_no_probability_has_no_surprise(counted: Made, tmp_path: Path) -> None:
    config, path, corpus = counted
    found = explorer(path, 0)
    assert all(value is not None and value >= 0 for one in found["prompts"] for value in one["nll"])
    saved = continuations(path, 0)
    saved["ids"] = [[*row[:-1], 0] for row in saved["ids"]]  # NUL, which no speech has
    write_json(tmp_path / "continuations.json", saved)
    continued = read_continuations(tmp_path, 257)
    shown = explorer_data(continued, model_of(path, 0), corpus.tokenizer, config, one_process(), quiet())
    assert [one["nll"][-1] for one in shown["prompts"]] == [None] * PROMPTS
    assert all(one["pieces"][-1].endswith("\0") for one in shown["prompts"])


@pytest.mark.parametrize(
    "content",
    [[], {"ids": []}, {"ids": [[]], "prompt_length": 1}, {"ids": [[1, 2, 3]]}, {"ids": [[1, 2], [1]], "prompt_length": 1},
     {"ids": [[1, 2]], "prompt_length": 2}, {"ids": [[1, 2]], "prompt_length": 0}, {"ids": [[1, 999]], "prompt_length": 1},
     {"ids": [[1, -1]], "prompt_length": 1}, {"ids": [[1, True]], "prompt_length": 1}, {"ids": "ab", "prompt_length": 1},
     {"ids": [[1, 2]] * 2000, "prompt_length": 1}],
)  # fmt: skip
def test_strange_continuations_are_one_line_that_names_the_file(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "continuations.json", content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "continuations.json"))):
        read_continuations(tmp_path, 257)


# --- text token by token ----------------------------------------------------------------------------------------------

BYTES, WORDS = bytes_tokenizer(), words_tokenizer(["In", "Elmford", ".", "ä"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 256), min_size=1, max_size=24), st.text(max_size=8))
def test_pieces_join_to_exactly_the_decoded_text(ids: list[int], more: str) -> None:
    row = [*ids, *BYTES.encode([more])[0][0]]
    ((*found,),) = pieces(BYTES, [row])
    assert len(found) == len(row) and ["".join(found)] == BYTES.decode([row])
    known = [token % 5 for token in ids]
    ((*found,),) = pieces(WORDS, [known])
    assert len(found) == len(known) and ["".join(found)] == WORDS.decode([known])


def test_half_a_character_stands_with_the_token_that_completes_it() -> None:
    ids = BYTES.encode(["aé€b"])[0][0]
    assert pieces(BYTES, [ids, ids[:2]]) == [["a", "", "é", "", "", "€", "b"], ["a", "\ufffd"]]


# --- what the page is given -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Files:
    """As much of a chain as the explorer asks for."""

    arm: str
    seed: int
    chain: Chain
    rows: list[dict]
    digest: str = "one"
    protocol: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)


def published(folder: Path, arm: str, seed: int, generations: int, *, rare: int = 3, tokens: int = 4) -> Files:
    """A chain of which only the explorer's files are there: token t of generation g is " t", its surprise g + t / 100. Rare
    word i (seen i + 1 times) is written by generations 0 .. i."""
    chain = Chain(folder / f"arm={arm}" / f"seed={seed}")
    names = [f"word{i:05d}" for i in range(rare)]
    known = {name: 1 + i % 20 for i, name in enumerate(names)} | {"the": 99}
    counts = {str(t): t for t in range(1, tokens + 1)}
    (reference := chain.stage(0, "reference")).mkdir(parents=True)
    write_json(reference / "tails.json", {"words": known, "tokens": counts, "fresh_words": {}, "fresh_tokens": {}})
    for g in range(generations):
        (place := chain.stage(g, "eval")).mkdir(parents=True)
        prompts = [
            {
                "ids": [7, *range(tokens)],
                "pieces": [f"Prompt {p}", *(f" {t}" for t in range(tokens))],
                "nll": [g + t / 100 for t in range(tokens)],
            }
            for p in range(2)
        ]
        write_json(place / "explorer.json", {"prompt_length": 1, "prompts": prompts})
        np.packbits(np.arange(rare) >= g).tofile(place / "tail_words.bin")
    return Files(arm, seed, chain, [{}] * generations)


def only_group(chains: list[Files]) -> dict:
    found = payload(chains)  # type: ignore[arg-type]
    assert found is not None and len(found["groups"]) == 1
    return found["groups"][0]


def test_payload_of_a_real_chain_is_what_its_files_say(made: Made) -> None:
    from collapselab.report.pages import open_run

    _, path, _ = made
    every = json.loads(json.dumps(payload(open_run(path).chains)))
    (found,), text, counts = every["groups"], every["vocabulary"]["text"], every["vocabulary"]["count"]
    assert found["generations"] == [0, 1, 2] and found["notes"] == [] and len(found["arms"]) == 1
    arm = found["arms"][0]
    assert (arm["name"], arm["seed"], arm["generations"]) == ("main", 1, 3)
    real = read_json(path / "reference" / "tails.json")["tokens"]
    for g in range(3):
        for p, one in enumerate(explorer(path, g)["prompts"]):
            places, surprises, (tokens,) = arm["cells"][p][str(g)]
            head = explorer(path, g)["prompt_length"]
            assert found["prompts"][p] == inert("".join(one["pieces"][:head]))
            assert "".join(text[place] for place in places) == inert("".join(one["pieces"][head:]))
            assert tokens == len(one["nll"])
            assert sum(surprises) == pytest.approx(100 * sum(one["nll"]), abs=len(surprises))
            if all(one["pieces"]):  # no character in two tokens
                assert [counts[place] for place in places] == [real.get(str(i), 0) for i in one["ids"][head:]]
    tails = found["tails"]
    words_20 = {w: c for w, c in read_json(path / "reference" / "tails.json")["words"].items() if c <= 20}
    assert dict(zip(tails["words"], tails["counts"], strict=True)) == words_20 and tails["total"] == len(words_20)
    assert sum(tails["arms"][0]["histogram"]) == len(words_20) and set(tails["arms"][0]["of"]) == {1}
    bits = np.fromfile(path / "gen_002" / "eval" / "tail_words.bin", np.uint8)
    assert sum(tails["arms"][0]["seeds"]) == tails["arms"][0]["histogram"][-1] == np.unpackbits(bits).sum()


def test_last_written_is_of_the_first_seed_and_how_many_still_write_of_all(tmp_path: Path) -> None:
    chains = [
        published(tmp_path, "a", 1, 3, rare=5),
        published(tmp_path, "a", 2, 4, rare=4),
        published(tmp_path, "b", 1, 1),
    ]
    np.packbits([0, 0, 0, 0]).tofile(chains[1].chain.stage(2, "eval") / "tail_words.bin")
    found = only_group(chains)
    assert found["generations"] == [0, 1, 2]
    a, b = found["tails"]["arms"]
    assert found["tails"]["words"] == [f"word0000{i}" for i in range(5)] and found["tails"]["counts"] == [1, 2, 3, 4, 5]
    assert a["last"] == [0, 1, 2, 2, 2] and a["histogram"] == [0, 1, 1, 3]
    assert a["at"] == 2 and a["seeds"] == [0, 0, 1, 1, 1] and a["of"] == [2, 2, 2, 2, 1]
    assert b["last"] == [0, 0, 0, None, None] and b["histogram"] == [0, 3] and b["at"] == 0
    assert [arm["cells"][0].keys() for arm in found["arms"]] == [{0, 1, 2}, {0}]


def test_arms_of_two_protocols_share_neither_prompts_nor_words_nor_the_slider(tmp_path: Path) -> None:
    chains = [published(tmp_path, "a", 1, 3), published(tmp_path, "b", 1, 2, rare=5), published(tmp_path, "c", 1, 2)]
    chains[1].digest, chains[2].settings = "another", {"model.width": 999}
    found = payload(chains)  # type: ignore[arg-type]
    assert found is not None
    first, second = found["groups"]
    assert [[arm["name"] for arm in group["arms"]] for group in found["groups"]] == [["a", "c"], ["b"]]
    assert (first["label"], first["generations"], len(first["tails"]["words"])) == ("A", [0, 1, 2], 3)
    assert (second["label"], second["generations"], len(second["tails"]["words"])) == ("B", [0, 1], 5)
    assert [arm["base"] for arm in first["arms"]] == [0, 1]  # c's generation 0 is another model
    alike = only_group([published(tmp_path, "d", 1, 1), published(tmp_path, "e", 1, 1), published(tmp_path, "f", 2, 1)])
    assert [arm["base"] for arm in alike["arms"]] == [0, 0, 1]  # f's has another seed


def test_a_character_of_several_tokens_is_one_token_with_their_surprises_summed(tmp_path: Path) -> None:
    chain = published(tmp_path, "a", 1, 1, tokens=5)
    rows = [{"ids": [9, 1, 2, 3, 4], "pieces": ["go ", "", "é", "x", ""], "nll": [1.0, 0.5, None, 2.0]}]
    write_json(chain.chain.stage(0, "eval") / "explorer.json", {"prompt_length": 1, "prompts": rows})
    found = payload([chain])  # type: ignore[list-item]
    assert found is not None
    places, surprises, tokens = found["groups"][0]["arms"][0]["cells"][0][0]
    assert [found["vocabulary"]["text"][p] for p in places] == ["é", "x", ""]
    assert [found["vocabulary"]["count"][p] for p in places] == [1, 3, 4] and surprises == [150, -1, 200]
    assert tokens == [4]


def test_a_page_is_bounded_and_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = published(tmp_path, "a", 1, 9, rare=100)
    assert only_group([chain])["notes"] == []
    monkeypatch.setattr("collapselab.report.explorer.MOST_WORDS", 30)
    for most, generations, prompts in ((24, [0, 4, 8], 2), (8, [0, 8], 1), (1, [0, 8], 0)):
        monkeypatch.setattr("collapselab.report.explorer.MOST_TOKENS", most)
        found = only_group([chain])
        assert found["generations"] == generations and len(found["prompts"]) == prompts
        cells = [cell for arm in found["arms"] for prompt in arm["cells"] for cell in prompt.values()]
        assert sum(len(places) for places, *_ in cells) <= most
        assert f"{len(generations)} of 9 generations" in found["notes"][0]
        assert found["tails"]["total"] == 100 and sum(found["tails"]["arms"][0]["histogram"]) == 100
        counts = found["tails"]["counts"]
        assert len(counts) == 30 == len(set(found["tails"]["words"])) and set(counts) == set(range(1, 21))
    shorter = published(tmp_path, "b", 1, 6)
    assert 5 in only_group([chain, shorter])["generations"]  # where a page opens


def test_text_of_the_page_is_inert_and_short(tmp_path: Path) -> None:
    chain = published(tmp_path, "a", 1, 1)
    file = chain.chain.stage(0, "eval") / "explorer.json"
    saved = read_json(file)
    saved["prompts"][0]["pieces"] = ["\x1b[2J" + "p" * 10**6, "\u202e" + "x" * 10**6, "<script>", "\ud800", "é"]
    write_json(file, saved)
    file = chain.chain.stage(0, "reference") / "tails.json"
    saved = read_json(file)
    saved["words"] = {"\x00" + "w" * 10**6: 1, "\u2066b": 2, "c": 3}
    write_json(file, saved)
    found = payload([chain])  # type: ignore[list-item]
    page = json.dumps(found, ensure_ascii=False)
    assert len(page) < 3000 and page == inert(page)


def judged(chain: Files, generations: int, text: str = "text") -> Files:
    """Give a chain judges, and the examples of the samples that they judged."""
    chain.chain.judged = True
    for g in range(generations):
        (place := chain.chain.stage(g, "judged")).mkdir(parents=True)
        examples = [{"number": i, "prompt": "asked", "text": f" {text}", "score": [0.5, None][i]} for i in (0, 1)]
        write_json(
            place / "examples.json",
            {"groups": [{"verdict": "accepted", "class": "hack", "count": 7 + g, "examples": examples}]},
        )
    return chain


def test_judged_samples_are_those_of_each_arms_first_seed(tmp_path: Path) -> None:
    chains = [judged(published(tmp_path, "a", seed, 3), 3, f"seed {seed}") for seed in (1, 2)]
    found = only_group([*chains, published(tmp_path, "b", 1, 3)])["judged"]
    shown = [[0.5, "asked", " seed 1"], [None, "asked", " seed 1"]]
    assert found == [
        {"generations": [0, 1, 2], "cells": [[["accepted", "hack", 7 + g, shown]] for g in range(3)]},
        None,
    ]
    before = judged(published(tmp_path, "c", 1, 2), 1)  # generation 1 was judged when there were no examples
    assert only_group([before])["judged"][0]["generations"] == [0]
    plain = judged(published(tmp_path, "d", 1, 1), 1)
    plain.chain.judged = False  # whether a chain is judged stands in its identity
    assert only_group([plain])["judged"] == [None]


def test_judged_samples_are_inert_bounded_and_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = [judged(published(tmp_path, arm, 1, 9), 9, "\x1b[2J\u202e" + "x" * 10**4) for arm in ("a", "b")]
    found = only_group(chains)
    (score, prompt, text), _ = found["judged"][0]["cells"][0][0][3]
    assert score == 0.5 and prompt == "asked" and len(text) == 601 and text == inert(text) and found["notes"] == []
    for most, generations, notes in ((12_000, [[0, 3, 5, 8], [0, 3, 5, 8]], 2), (3_000, [[0, 8], None], 2)):
        monkeypatch.setattr("collapselab.report.explorer.MOST_CHARACTERS", most)
        found = only_group(chains)
        assert [one and one["generations"] for one in found["judged"]] == generations and len(found["notes"]) == notes
        assert sum(len(e[2]) for one in found["judged"] if one for cell in one["cells"] for e in cell[0][3]) <= most
    assert found["notes"] == [
        "Judged samples of a: 2 of 9 generations, evenly spaced; the page has room for 3,000 characters.",
        "Judged samples of b are left out: the page has room for 3,000 characters.",
    ]


@pytest.mark.parametrize(
    "change",
    [{"verdict": "<b>"}, {"class": "clever"}, {"count": -1}, {"count": "7"}, {"examples": [{}]}, {"examples": "ab"},
     {"examples": [{"prompt": "", "text": "", "score": "1"}]}, {"examples": [{"prompt": 1, "text": "", "score": 1}]},
     {"examples": [{"prompt": "", "text": "", "score": 1e300}]}, {"examples": [{"prompt": "", "text": "", "score": 1}] * 99}],
)  # fmt: skip
def test_strange_judged_samples_are_one_line_that_names_the_file(tmp_path: Path, change: dict[str, Any]) -> None:
    chain = judged(published(tmp_path, "a", 1, 1), 1)
    file = chain.chain.stage(0, "judged") / "examples.json"
    groups = read_json(file)["groups"]
    for wrong in ({"groups": [groups[0] | change]}, {"groups": groups * 99}, {}, []):
        file.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=re.escape(str(file))):
            payload([chain])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "name, change",
    [
        ("explorer.json", lambda saved: saved | {"prompt_length": 0}),
        ("explorer.json", lambda saved: saved | {"prompt_length": 9}),
        ("explorer.json", lambda saved: saved | {"prompts": saved["prompts"] * 99}),
        ("explorer.json", lambda saved: {}),
        ("explorer.json", lambda saved: saved | {"prompts": [{"ids": [1], "pieces": ["a"], "nll": ["<b>"]}]}),
        ("explorer.json", lambda saved: saved | {"prompts": [{"ids": [1, -1], "pieces": ["a", "b"], "nll": [1]}]}),
        ("explorer.json", lambda saved: saved | {"prompts": [{"ids": [1, 1], "pieces": ["a", 5], "nll": [1]}]}),
        ("explorer.json", lambda saved: saved | {"prompts": [{"ids": [1, 1], "pieces": ["a", "b"], "nll": [1e300]}]}),
        ("tails.json", lambda saved: saved | {"words": {"a": -1}}),
        ("tails.json", lambda saved: saved | {"tokens": {"1": "many"}}),
        ("tails.json", lambda saved: saved | {"words": {"a": 1, "b": 1, **{f"c{i}": 1 for i in range(9)}}}),
    ],
)
def test_strange_values_are_one_line_that_names_the_file(tmp_path: Path, name: str, change) -> None:
    chain = published(tmp_path, "a", 1, 1)
    file = chain.chain.stage(0, "reference" if name == "tails.json" else "eval") / name
    file.write_text(json.dumps(change(read_json(file))))
    with pytest.raises(UserError, match=r"tails\.json|tail_words\.bin" if name == "tails.json" else name):
        payload([chain])  # type: ignore[list-item]


def test_twelve_arms_and_twenty_generations_of_30_000_rare_words_take_seconds_and_megabytes(tmp_path: Path) -> None:
    """As large as a page gets, of which more seeds take no more: 12 x 2 chains share nothing. test_report.py has five."""
    template = published(tmp_path, "arm00", 1, 21, rare=30_000, tokens=80)
    chains = [template]
    for arm in range(12):
        for seed in (1, 2):
            if (arm, seed) != (0, 1):
                place = tmp_path / f"arm=arm{arm:02d}" / f"seed={seed}"
                shutil.copytree(template.chain.root, place, copy_function=os.link)
                chains.append(Files(f"arm{arm:02d}", seed, Chain(place), [{}] * 21))
    chains.sort(key=lambda one: (one.arm, one.seed))
    made: list[Any] = []
    assert cpu_units(lambda: made.append(payload(chains))) < 120  # type: ignore[arg-type]
    (found,) = made
    assert found is not None
    group = found["groups"][0]
    assert len(group["arms"]) == 12 and len(group["generations"]) == 21
    assert len(group["tails"]["words"]) == 5000 and len(json.dumps(found, separators=(",", ":"))) < 4e6

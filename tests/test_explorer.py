"""The explorer: continuations of fixed prompts and rare words as the stages write them, and what the page is given."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, samples_of, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab import mixing, modeling, sampling
from collapselab.chain import run
from collapselab.config import RunConfig, UserError
from collapselab.corpus import Corpus
from collapselab.corpus.tokenizers import bytes_tokenizer, words_tokenizer
from collapselab.evaluation.explorer import explored, pieces, read_continuations
from collapselab.folders import manifest_of, publishing, read_json, write_json
from collapselab.metrics.tails import words
from collapselab.opening import open_corpus
from collapselab.options import config_from
from collapselab.rundir import Chain
from collapselab.sampling.continuations import FIRST, PROMPTS, prompt_places, write_continuations
from collapselab.sampling.draw import stream_key, uniforms
from collapselab.sampling.plain import write_batch
from collapselab.standalone import rescore

ROOT = Path(__file__).parents[1]
Made = tuple[RunConfig, Path, Corpus]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A chain of three generations."""
    config = small_config(runs_dir=str(tmp_path_factory.mktemp("runs")), sampling__top_p=0.9)
    path, _ = run(config)
    return config, path, open_corpus(config, one_process())


def continuations(path: Path, generation: int) -> dict:
    return read_json(path / f"gen_{generation:03d}" / "samples" / "continuations.json")


def explorer(path: Path, generation: int) -> dict:
    return read_json(path / f"gen_{generation:03d}" / "eval" / "explorer.json")


def model_of(path: Path, generation: int) -> modeling.LanguageModel:
    return modeling.load(str(path / f"gen_{generation:03d}" / "train"))


# --- the samples stage ------------------------------------------------------------------------------------------------


def test_every_generation_and_seed_continues_the_same_prompts(made: Made, tmp_path: Path) -> None:
    _, path, _ = made
    found = [continuations(path, g) for g in range(3)]
    other = small_config(runs_dir=str(tmp_path), seed=5, generations=0, sampling__temperature=0.7)
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


@pytest.mark.parametrize("changes", [{}, {"model__family": "bigram"}, {"sampling__beams": 2}])
def test_the_chains_own_text_is_the_same_without_them(tmp_path: Path, changes: dict) -> None:
    config = small_config(runs_dir=str(tmp_path / "runs"), generations=1, **changes)
    path, _ = run(config)
    corpus = open_corpus(config, one_process())
    sampler = sampling.Sampler(config, one_process(), quiet())
    for g in (0, 1):  # one sampler, as in a chain
        out = tmp_path / str(g)
        out.mkdir()
        text = mixing.TrainingSet(config, Chain(path), 0, corpus.train)
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
        mixing=dataclasses.replace(config.mixing, tokens=100 * total),
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
    assert "continuations.json has other content than was written; made again" in capsys.readouterr().err
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
        tails = read_json(path / f"gen_{g:03d}" / "eval" / "eval.json")["sums"]["tails/words"]
        assert (tails["20"]["types"], tails["20"]["seen"]) == (len(rare), np.unpackbits(bits).sum())


def test_a_token_that_counts_give_no_probability_has_no_surprise(tmp_path: Path) -> None:
    path, _ = run(small_config(runs_dir=str(tmp_path), model__family="bigram", generations=1, mixing__start=0.5))
    found = explorer(path, 0)
    assert all(value is not None and value >= 0 for one in found["prompts"] for value in one["nll"])
    file = path / "gen_000" / "samples" / "continuations.json"
    saved = read_json(file)
    saved["ids"] = [[*row[:-1], 0] for row in saved["ids"]]  # NUL, which no speech has
    write_json(file, saved)
    config = small_config(runs_dir=str(tmp_path), model__family="bigram")
    continued = read_continuations(file.parent, 257)
    assert continued is not None
    tokenizer = open_corpus(config, one_process()).tokenizer
    shown = explored(continued, model_of(path, 0), tokenizer, config, one_process(), quiet())
    assert [one["nll"][-1] for one in shown["prompts"]] == [None] * PROMPTS
    assert all(one["pieces"][-1].endswith("\0") for one in shown["prompts"])


def test_samples_of_an_earlier_version_are_scored_without_it(made: Made, tmp_path: Path) -> None:
    config, path, _ = made
    shutil.copytree(path.parents[1], tmp_path / "test")
    chain = Chain(tmp_path / "test" / path.relative_to(path.parents[1]))
    old = chain.stage(2, "samples")
    manifest = manifest_of(old)
    assert manifest is not None
    kept = {file.name: file.read_bytes() for file in old.iterdir() if file.name.startswith(("tokens", "meta"))}
    with publishing(old, inputs=manifest["inputs"]) as out:
        for name, data in kept.items():
            (out / name).write_bytes(data)
    shutil.rmtree(chain.stage(2, "eval"))
    config = dataclasses.replace(config, runs_dir=str(tmp_path))
    _, rows = run(config)
    names = {file.name for file in chain.stage(2, "eval").iterdir()}
    assert "tail_words.bin" in names and "explorer.json" not in names and len(rows) == 3
    scores, again = rescore(config, chain.root)
    assert [row["metrics"] for row in again] == [row["metrics"] for row in rows]
    assert (chain.rescored(1, scores, "eval") / "explorer.json").is_file()
    assert not (chain.rescored(2, scores, "eval") / "explorer.json").exists()


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

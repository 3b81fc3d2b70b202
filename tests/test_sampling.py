"""The draw, the truncations, and a sampler whose text does not depend on how the work is divided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import one_process, quiet, samples_of, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from collapselab.config import ModelConfig, SamplingConfig
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.sampling import shards
from collapselab.sampling.draw import draw, philox, stream_key, truncated, uniforms
from collapselab.sampling.engine import Engine
from collapselab.sampling.plain import write_batch
from collapselab.sampling.prompts import Prompts
from collapselab.sampling.sampler import Sampler
from collapselab.sampling.weights import Weights
from collapselab.seeds import generator
from collapselab.store.folders import read_json

NONE = torch.zeros(1, 0, dtype=torch.long)


def tiny(family: str = "gpt2", vocab: int = 61, seed: int = 0, pad: int = 64, context: int = 48):
    config = ModelConfig(family=family, layers=2, width=32, heads=2, context=context, pad_vocabulary=pad)
    return network.new(config, vocab=vocab, separator=vocab - 1, block=context, seed=seed)


def write(model, prompts, new: int, options: dict | None = None, sampler: str = "engine", key: int = 1) -> np.ndarray:
    """`new` tokens after each prompt, by the engine or by the plain sampler: the same randomness for both."""
    config, device, read = SamplingConfig(**options or {}), torch.device("cpu"), prompts.shape[1]
    if sampler == "engine":
        weights = Weights(model, read + new, device, torch.float32)
        return Engine(weights, len(prompts), config, kernels=False).write(prompts, key, 0).numpy()
    return write_batch(model, prompts, uniforms(key, range(len(prompts)), range(read, read + new)), config, device)


BOTH = pytest.mark.parametrize("sampler", ["engine", "plain"])


def run(model, config, budget: int, out, text=None, console=None):
    out.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(config, one_process(), console or quiet())
    sampler.sample(model, 1, text, budget, separator=model.vocab - 1, ends=[model.vocab - 1], out=out)
    return samples_of(out), read_json(out / "meta.json")


class Text:
    """A training set of blocks whose tokens are their place in the text."""

    block = 32

    def __init__(self, rows: int = 4, vocab: int = 60):
        self.rows = (np.arange(rows * 32) % vocab).reshape(rows, 32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


# --- the draw -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0.7}])
def test_draws_follow_the_softmax(options: dict) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(3)) * 1.5
    kept = truncated(logits[None], NONE, SamplingConfig(**options))[0]
    p = kept.double().softmax(0).numpy()
    n = 60_000
    u = torch.from_numpy(uniforms(5, range(1), range(n))[0])
    counts = np.bincount(draw(kept.expand(n, -1), u).numpy(), minlength=12)
    assert (counts[p == 0] == 0).all() and (p == 0).any() == bool(options.keys() & {"top_k", "top_p", "min_p"})
    assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-4


def test_rare_events_get_their_due() -> None:
    """An event of probability 3e-8 is drawn by exactly the u that should draw it: checked at the edges of its slice,
    where a float32 sum or a float32 uniform would lose it."""
    rare = 3e-8
    logits = torch.tensor([[np.log(1 - 2 * rare), np.log(rare), np.log(rare)]], dtype=torch.float32)
    p = logits.float().softmax(1).double()[0]
    edge = float(p[0] / p.sum())
    inside = torch.tensor([edge + rare * f for f in (0.01, 0.5, 0.99)], dtype=torch.float64)
    assert draw(logits.expand(3, -1), inside).tolist() == [1, 1, 1]
    beyond = torch.tensor([edge + rare * f for f in (1.01, 1.5, 1.99)], dtype=torch.float64)
    assert draw(logits.expand(3, -1), beyond).tolist() == [2, 2, 2]
    # and the uniforms are fine enough: of 2^53 levels, not of 2^24
    u = uniforms(1, range(4), range(50_000))
    assert np.unique(u % 2**-24).size > 190_000


def test_impossible_tokens_are_never_drawn_even_at_the_ends() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    u = torch.tensor([0.0, 0.5, 1.0 - 2**-53, 1.0], dtype=torch.float64)
    assert set(draw(logits.expand(4, -1), u).tolist()) == {1, 3}


def test_streams_depend_on_the_sequence_alone() -> None:
    key = stream_key(1, 2)
    whole = uniforms(key, range(10), range(7))
    assert (uniforms(key, range(4, 6), range(7)) == whole[4:6]).all()
    assert (uniforms(key, range(10), range(2, 5)) == whole[:, 2:5]).all()
    other = uniforms(stream_key(1, 3), range(10), range(7))
    assert not (other == whole).any() and np.unique(whole).size == 70


def test_philox_is_the_published_one() -> None:
    """Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds)."""
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    known = [
        (0, [0] * 4, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (2**64 - 1, [0xFFFFFFFF] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (0x299F31D0_A4093822, pi, [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for key, counter, words in known:
        assert philox(key, np.array([counter], np.uint32))[0].tolist() == words


# --- truncations, against transformers' own ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"temperature": 0.6}, TemperatureLogitsWarper(0.6)),
        ({"top_k": 7}, TopKLogitsWarper(7)),
        ({"top_p": 0.9}, TopPLogitsWarper(0.9)),
        ({"top_p": 0.05}, TopPLogitsWarper(0.05)),
        ({"min_p": 0.2}, MinPLogitsWarper(0.2)),
        ({"repetition_penalty": 1.7}, RepetitionPenaltyLogitsProcessor(1.7)),
    ],
)
def test_truncations_agree_with_transformers(options: dict, theirs) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 40, generator=generator) * 2
    seen = torch.randint(40, (6, 9), generator=generator)
    ours = truncated(logits, seen, SamplingConfig(**options))
    expected = theirs(seen, logits.clone())
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.allclose(ours.softmax(1), expected.softmax(1), atol=1e-6)


def test_all_truncations_together_in_transformers_order() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(2)) * 2
    seen = torch.randint(40, (5, 9), generator=torch.Generator().manual_seed(3))
    expected = logits.clone()
    for step in (
        RepetitionPenaltyLogitsProcessor(1.2), TemperatureLogitsWarper(0.8), TopKLogitsWarper(20),
        TopPLogitsWarper(0.9), MinPLogitsWarper(0.05),
    ):  # fmt: skip
        expected = step(seen, expected)
    config = SamplingConfig(repetition_penalty=1.2, temperature=0.8, top_k=20, top_p=0.9, min_p=0.05)
    assert torch.allclose(truncated(logits, seen, config).softmax(1), expected.softmax(1), atol=1e-6)


# --- the sampler --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_tokens_are_those_of_a_full_pass_and_of_transformers(family: str, sampler: str) -> None:
    model = tiny(family)
    prompts = np.random.default_rng(0).integers(0, 61, (5, 4))
    written = write(model, prompts, 20, {"top_k": 1}, sampler)
    full = torch.from_numpy(np.concatenate([prompts, written], 1))
    with torch.inference_mode():
        assert (model.logits(full)[:, 3:-1].argmax(-1).numpy() == written).all()
    theirs = tiny(family, pad=1).net.generate(
        torch.from_numpy(prompts), max_new_tokens=20, min_new_tokens=20, do_sample=False, eos_token_id=None
    )
    assert (theirs[:, 4:].numpy() == written).all()


@BOTH
def test_mean_log_probability_is_minus_the_mean_entropy(sampler: str) -> None:
    model = tiny()
    prompts = np.random.default_rng(1).integers(0, 61, (256, 2))
    written = write(model, prompts, 24, sampler=sampler, key=4)
    full = torch.from_numpy(np.concatenate([prompts, written], 1))
    with torch.inference_mode():
        logp = model.logits(full)[:, 1:-1].double().log_softmax(-1)
    score = logp.gather(-1, full[:, 2:, None]).squeeze(-1) + -(logp.exp() * logp).sum(-1)
    assert abs(float(score.mean())) < 3 * float(score.std()) / np.sqrt(score.numel())


@BOTH
def test_padding_is_never_sampled(sampler: str) -> None:
    model = tiny(vocab=61)  # padded to 64: rows of zeros, whose logits 0 beat the negative ones below
    with torch.no_grad():
        model.net.get_input_embeddings().weight[:61] -= 0.5
    written = write(model, np.zeros((64, 1), np.int64), 40, sampler=sampler)
    assert model.net.get_input_embeddings().weight.shape[0] == 64 and written.max() < 61


def test_text_does_not_depend_on_threads_or_on_how_much_is_written(tmp_path) -> None:
    config = small_config(sampling__batch_size=8, sampling__length=24, sampling__prompt="bos")
    before = torch.get_num_threads()
    texts = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        texts.append(run(tiny(), config, 24 * 30, tmp_path / str(threads))[0])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert (texts[0] == texts[1]).all() and (texts[0] == texts[2]).all()
    shorter = run(tiny(), config, 24 * 11 + 5, tmp_path / "short")[0]
    assert (shorter == texts[0][: len(shorter)]).all()


@pytest.mark.parametrize("budget", [24 * 8, 24 * 8 + 1, 24 * 9 - 1, 100])
@pytest.mark.parametrize("prompt", ["bos", "first_token", "real_prefix"])
def test_the_budget_is_exact(tmp_path, budget: int, prompt: str) -> None:
    config = small_config(
        sampling__batch_size=4, sampling__length=24, sampling__prompt=prompt, sampling__prompt_tokens=6
    )  # fmt: skip
    flat, meta = run(tiny(), config, budget, tmp_path, Text())
    head = {"bos": 0, "first_token": 1, "real_prefix": 6}[prompt]
    assert len(flat) == meta["tokens"] == budget
    assert meta["generated"] == sum(i % 24 >= head for i in range(budget))


def test_shards_are_cut_at_whole_tiles_and_hold_the_same_text(tmp_path, monkeypatch) -> None:
    config = small_config(sampling__batch_size=4, sampling__length=24, sampling__prompt="bos")
    whole, _ = run(tiny(), config, 24 * 18, tmp_path / "one")
    monkeypatch.setattr(shards, "SHARD_TOKENS", 24 * 4 * 2)
    parts, meta = run(tiny(), config, 24 * 18, tmp_path / "many")
    assert len(meta["shards"]) == 3 and (parts == whole).all()


def test_prompts_come_from_the_text_and_each_block_is_used_once_per_pass() -> None:
    config = small_config(sampling__prompt="real_prefix", sampling__prompt_tokens=5)
    text = Text(rows=6)
    prompts = Prompts(config, 2).rows(text, 0, 15, 60)
    heads = {tuple(row[:5]) for row in text.rows.tolist()}
    rows = [tuple(p) for p in prompts.tolist()]
    assert set(rows[:6]) == heads and set(rows[6:12]) == heads and set(rows[12:]) <= heads
    single = Prompts(small_config(sampling__prompt="first_token"), 2).rows(text, 0, 4000, 60)
    counts, expected = np.bincount(single[:, 0], minlength=60), np.bincount(text.rows.ravel(), minlength=60)
    assert stats.chisquare(counts, 4000 * expected / expected.sum()).pvalue > 1e-4


def all_at_once(config, text, sequences: int, stream: str) -> np.ndarray:
    """Prompts of the first sequences, drawn in one go."""
    repeats = config.sampling.repeats
    draw, count = generator(config.seed, 3, stream), -(-sequences // repeats)
    if config.sampling.prompt == "first_token":
        rows, places = draw.integers([len(text), text.block], size=(count, 2)).T
        heads = text.rows[rows, places][:, None]
    else:
        heads = text.rows[np.concatenate([draw.permutation(len(text)) for _ in range(count)])[:count], :6]
    return heads.repeat(repeats, 0)[:sequences]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["first_token", "real_prefix"]),
    st.integers(1, 4),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 40)), min_size=1, max_size=6),
)
def test_prompts_are_drawn_from_where_the_last_ones_ended(prompt, repeats, second, asked) -> None:
    config = small_config(sampling__prompt=prompt, sampling__prompt_tokens=6, sampling__repeats=repeats)
    stream, text = "second" if second else "sample", Text(rows=7)
    whole, prompts = (
        all_at_once(config, text, 120, "prompts/second" if second else "prompts"),
        Prompts(config, 3, stream),
    )
    for first, count in asked:  # also back to earlier ones
        assert prompts.rows(text, first, count, 60).tolist() == whole[first : first + count].tolist()


@pytest.mark.parametrize("prompt", ["first_token", "real_prefix"])
def test_a_later_round_reads_no_prompts_of_earlier_ones(prompt: str) -> None:
    class Counted(Text):
        read = 0

        def __getitem__(self, index):
            Counted.read += len(index)
            return super().__getitem__(index)

    config = small_config(
        sampling__batch_size=8, sampling__prompt=prompt, sampling__prompt_tokens=6, sampling__length=8
    )
    sampler, text, model = Sampler(config, one_process(), quiet()), Counted(rows=6), tiny()
    rounds = [sampler.more(model, 1, text, first, 20, separator=60) for first in range(0, 100, 20)]
    drawn = sampler.prompts[1, "sample", 6]
    assert Counted.read == 5 * 24 and drawn.first == 80 and len(drawn.drawn) <= 24 + 6
    whole = Sampler(config, one_process(), quiet()).more(model, 1, text, 0, 100, separator=60)
    head = config.prompt_length
    assert (np.concatenate(rounds)[:, :head] == whole[:, :head]).all()
    again = Sampler(config, one_process(), quiet())
    assert (again.more(model, 1, text, 60, 20, separator=60) == rounds[3]).all()  # of a process that was killed


@pytest.mark.parametrize("prompt", ["bos", "first_token", "real_prefix"])
def test_prompts_are_those_of_the_sequence_whatever_is_written_with_it(tmp_path, prompt: str) -> None:
    """The number of a sequence decides, not how many there are or how many lie side by side."""
    length, texts = 24, []
    for batch, sequences in ((4, 21), (8, 21), (16, 21), (8, 13)):
        config = small_config(
            sampling__batch_size=batch, sampling__length=length, sampling__prompt=prompt, sampling__prompt_tokens=6
        )
        out = tmp_path / f"{batch} {sequences}"
        texts.append(run(tiny(), config, sequences * length, out, Text(rows=6))[0].reshape(sequences, length))
    head = {"bos": 0, "first_token": 1, "real_prefix": 6}[prompt]
    for text in texts[1:]:
        assert (text[:, :head] == texts[0][: len(text), :head]).all()
        same = (text == texts[0][: len(text)]).all(1).mean()  # the last bits of a product depend on its rows
        assert same > 0.9


def test_end_of_text_does_not_end_a_sequence_and_degenerate_output_is_said(tmp_path, capsys) -> None:
    model = tiny(vocab=61)
    with torch.no_grad():  # a model that writes nothing but end-of-text
        for weight in model.net.parameters():
            weight.zero_()
        model.net.transformer.ln_f.bias[0] = 10.0
        model.net.get_input_embeddings().weight[60, 0] = 10.0
    config = small_config(sampling__batch_size=4, sampling__length=16, sampling__prompt="bos")
    flat, meta = run(model, config, 16 * 6, tmp_path, console=Console(bars=False))
    assert (flat == 60).all()
    assert meta["degenerate"] == {"all_end_of_text": 6, "end_of_text_tokens": 96, "one_token_repeated": 0}
    assert "6 of 6 samples are degenerate" in capsys.readouterr().err


@BOTH
def test_repetition_penalty_sees_the_whole_sequence(sampler: str) -> None:
    options = {"repetition_penalty": 1e6, "top_k": 1}
    written = write(tiny(), np.array([[3, 9]]), 30, options, sampler)[0].tolist()
    assert len(set(written) | {3, 9}) == 32  # nothing twice

"""Scores of a model and of its samples, beside computations that share no line with the lab's."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import generated_rows, real_rows
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from collapselab.config import (
    CorpusConfig,
    EvaluationConfig,
    MixingConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
    UserError,
    digest,
)
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.evaluation import real_text, samples, under_first
from collapselab.evaluation.contexts import context_places
from collapselab.evaluation.generation import publish_reference
from collapselab.evaluation.protocol import protocol
from collapselab.evaluation.reference import Reference
from collapselab.evaluation.rows import decoded, held_out_pieces, sample_tokens
from collapselab.metrics.likelihood import windows
from collapselab.metrics.tails import LEAST_TYPES, words
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.folders import publishing, read_json, write_json
from collapselab.store.layout import Chain

QUIET = Console(speaks=False)
CONTEXT = 32
LETTERS = ["sto", "ra", "né", "li", "日", "ku", "wem", "ß", "ta", "on", "dri", "ye"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cpu() -> Processes:
    return Processes("cpu")


def zipf_lines(count: int, seed: int) -> str:
    """Lines of made-up words with a Zipf law, some with characters of two and three bytes."""
    rng = np.random.default_rng(seed)
    names = ["".join(rng.choice(LETTERS, rng.integers(1, 5))) for _ in range(900)]
    p = 1 / np.arange(1, len(names) + 1)
    lines = [" ".join(rng.choice(names, rng.integers(6, 14), p=p / p.sum())) for _ in range(count)]
    return "".join(f"{line}.\n" for line in lines)


@pytest.fixture(scope="module")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """make_corpus(train, valid, test, tokenizer): a corpus of these texts, one document per line."""
    cache = tmp_path_factory.mktemp("cache")

    def make(train: str, valid: str, test: str, tokenizer: Any = "bytes", vocab_size: int = 2048) -> Corpus:
        name = digest([train, valid, test])[:12]
        folder = cache.parent / f"text-{name}"
        folder.mkdir(exist_ok=True)
        for split, text in (("train", train), ("valid", valid), ("test", test)):
            path = folder / f"{split}.txt"
            if not path.exists():
                path.write_text(text, encoding="utf-8")
        own = None if isinstance(tokenizer, str) else tokenizer
        config = CorpusConfig(
            source=f"path:{folder}/*.txt",
            document="line",
            tokenizer="model" if own else tokenizer,
            vocab_size=vocab_size,
        )
        return prepare(config, model_tokenizer=own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLLAPSELAB_CACHE", str(cache))
        yield make


@pytest.fixture(scope="module")
def texts() -> tuple[str, str, str]:
    """Train, valid, test; Q and J stand in no training text, X once, Y three times, Z ten times."""
    return zipf_lines(400, 1) + "X YYY ZZZZZZZZZZ\n", zipf_lines(15, 2), zipf_lines(40, 3) + "QX YJ ZX.\n"


@pytest.fixture(scope="module")
def corpus(make_corpus: Any, texts: tuple[str, str, str]) -> Corpus:
    return make_corpus(*texts)


def settings(family: str = "gpt2", pad: int = 64, tied: bool = True, **evaluation_keys: Any) -> RunConfig:
    keys = {"context": CONTEXT, **evaluation_keys}
    model = {"family": family, "layers": 2, "width": 32, "heads": 2, "pad_vocabulary": pad, "tie_embeddings": tied}
    return RunConfig(
        device="cpu",
        corpus=CorpusConfig(tokenizer="bytes"),
        model=ModelConfig(**model),
        training=TrainingConfig(block=CONTEXT),
        evaluation=EvaluationConfig(**keys),
    )


@lru_cache
def random_model(family: str, pad: int = 64, tied: bool = True, vocab: int = 257) -> network.LanguageModel:
    """Random weights, ten times as large as at a usual start: their predictions depend on the context."""
    config = settings(family, pad, tied)
    model = network.new(config.model, vocab=vocab, separator=256, block=CONTEXT, seed=7)
    with torch.no_grad():
        for weight in model.net.parameters():
            if weight.ndim >= 2:
                weight.mul_(10)
    return model


@lru_cache
def stories(folder: Path) -> network.LanguageModel:
    return network.load(str(folder), pad=64)


@pytest.fixture(params=["gpt2", "llama", "stories260K"])
def case(request: pytest.FixtureRequest, make_corpus: Any, texts: Any) -> SimpleNamespace:
    """A model in a padded vocabulary, a corpus in its tokens, and plain transformers' own copy of the model."""
    if request.param == "stories260K":
        folder = request.getfixturevalue("shared") / "models" / "stories260K"
        story = "Once upon a time there was a little girl named Lily. She saw a big café and said: 日本! " * 2 + "\n"
        story += "One day, her mom gave her a red ball. They were very happy and played in the park.\n" * 8
        model = stories(folder)
        found = make_corpus(texts[0], texts[1], story, network.pretrained_tokenizer(str(folder)))
        return SimpleNamespace(
            model=model, corpus=found, family="llama", plain=AutoModelForCausalLM.from_pretrained(folder)
        )
    found = make_corpus(*texts)
    padded, plain = random_model(request.param, 64), random_model(request.param, 1)
    assert padded.net.config.vocab_size == 320 and plain.net.config.vocab_size == 257
    return SimpleNamespace(model=padded, corpus=found, family=request.param, plain=plain.net)


@torch.no_grad()
def guide_losses(net: Any, ids: np.ndarray, context: int, stride: int) -> tuple[list[float], list[int]]:
    """Mean loss and number of targets of each window, as in the Hugging Face perplexity guide: labels of -100 for what
    an earlier window has scored, the shift left to the model."""
    stream = torch.from_numpy(ids.astype(np.int64))[None]
    losses, counts, reached = [], [], 0
    for begin in range(0, stream.shape[1], stride):
        end = min(begin + context, stream.shape[1])
        labels = stream[:, begin:end].clone()
        labels[:, : -(end - reached)] = -100
        targets = int((labels[:, 1:] != -100).sum())
        if targets:
            losses.append(float(net(input_ids=stream[:, begin:end], labels=labels).loss))
            counts.append(targets)
        reached = end
        if end == stream.shape[1]:
            break
    return losses, counts


def guide_perplexity(net: Any, ids: np.ndarray, context: int, stride: int) -> tuple[float, int]:
    losses, counts = guide_losses(net.eval(), ids, context, stride)
    return math.exp(float(np.dot(losses, counts)) / sum(counts)), sum(counts)


def score(case: SimpleNamespace, cpu: Processes, pad: int = 64, **keys: Any) -> tuple[dict[str, Any], dict[str, float]]:
    return real_text.score_real_text(case.model, case.corpus, settings(case.family, pad, **keys), cpu, QUIET)


# --- perplexity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [None, 12, CONTEXT - 1])
@pytest.mark.parametrize("prefix", ["none", "bos"])
def test_perplexity_is_that_of_plain_transformers(
    case: SimpleNamespace, cpu: Processes, prefix: str, stride: int | None
) -> None:
    sums, values = score(case, cpu, prefix=prefix, stride=stride, tokens=203)
    ids = case.corpus.test.ids[: 1 + 203] if prefix == "bos" else case.corpus.test.ids[1 : 1 + 203]
    expected, targets = guide_perplexity(case.plain, ids, CONTEXT, stride or CONTEXT)
    assert sums["real"]["tokens"] == targets
    assert values["real/perplexity"] == pytest.approx(expected, rel=1e-4)
    assert values["real/nll_nats"] == pytest.approx(math.log(expected), rel=1e-4)


def test_perplexity_of_the_whole_split_and_accuracy(case: SimpleNamespace, cpu: Processes) -> None:
    sums, values = score(case, cpu, stride=20, split="valid")
    ids = case.corpus.valid.ids[1:]
    expected, _ = guide_perplexity(case.plain, ids, CONTEXT, 20)
    assert values["real/perplexity"] == pytest.approx(expected, rel=1e-4)
    assert sums["real"]["tokens"] == len(ids) - 1  # overlapping windows score every token but the first
    right = 0
    with torch.no_grad():
        for begin in range(0, len(ids), 20):
            window = torch.from_numpy(ids[begin : begin + CONTEXT].astype(np.int64))
            guess = case.plain(input_ids=window[None]).logits[0, :-1].argmax(-1)
            new = 0 if begin == 0 else CONTEXT - 20 - 1
            right += int((guess == window[1:])[new:].sum())
            if begin + CONTEXT >= len(ids):
                break
    assert sums["real"]["correct"] == right
    assert values["real/accuracy"] == pytest.approx(right / (len(ids) - 1))


def test_every_trap_gives_another_number(case: SimpleNamespace, cpu: Processes) -> None:
    """The wrong perplexities of METRICS.md, computed on purpose, are all seen to differ from ours on this text."""
    n = CONTEXT * 3 + 4  # a last window of 4 tokens, so that means of windows and of tokens differ
    ids = case.corpus.test.ids[1 : 1 + n].astype(np.int64)
    _, values = score(case, cpu, tokens=n)
    ours = values["real/nll_nats"]
    losses, counts = guide_losses(case.plain, ids, CONTEXT, CONTEXT)
    assert counts == [CONTEXT - 1] * 3 + [3]
    assert ours == pytest.approx(np.dot(losses, counts) / sum(counts), rel=1e-5)

    separator = case.corpus.tokenizer.separator
    with_bos: list[torch.Tensor] = []
    with_padding: list[torch.Tensor] = []
    with torch.no_grad():
        for begin in range(0, n, CONTEXT):
            window = torch.from_numpy(ids[begin : begin + CONTEXT])
            again = torch.cat([torch.tensor([separator]), window])[:CONTEXT]
            with_bos.append(F.cross_entropy(case.plain(again[None]).logits[0, :-1], again[1:], reduction="none"))
            with_padding.append(F.cross_entropy(case.model.net(window[None]).logits[0, :-1], window[1:]))
    wrong = {
        "mean of window means": float(np.mean(losses)),
        "n targets in each window": float(np.dot(losses, counts) / n),
        "separator again before each window": float(torch.cat(with_bos).mean()),
        "windows that overlap": score(case, cpu, tokens=n, stride=CONTEXT // 2)[1]["real/nll_nats"],
    }
    if case.model.net.config.vocab_size > case.model.vocab:
        wrong["padded entries in the softmax"] = float(np.dot(torch.stack(with_padding).numpy(), counts) / sum(counts))
    for name, value in wrong.items():
        assert abs(value / ours - 1) > 1e-3, name


def test_first_window_has_one_target_less_than_tokens(case: SimpleNamespace, cpu: Processes) -> None:
    places, nll, _ = real_text.token_losses(
        case.model, case.corpus.test.ids[:CONTEXT], CONTEXT, CONTEXT, "fp32", cpu, QUIET
    )
    assert places.tolist() == list(range(1, CONTEXT)) and len(nll) == CONTEXT - 1


def test_each_loss_is_the_one_of_its_own_window(case: SimpleNamespace, cpu: Processes) -> None:
    """Token by token: what came before the window does not count, nothing is put before it."""
    ids = case.corpus.test.ids[:80].astype(np.int64)
    places, nll, correct = real_text.token_losses(case.model, ids, CONTEXT, 10, "fp32", cpu, QUIET)
    assert places.tolist() == list(range(1, 80))
    with torch.no_grad():
        for place in (1, 31, 32, 41, 42, 51, 52, 70, 79):
            begin = 0 if place < CONTEXT else -(-(place + 1 - CONTEXT) // 10) * 10
            logits = case.plain(torch.from_numpy(ids[begin:place])[None]).logits[0, -1]
            expected = float(torch.logsumexp(logits, 0) - logits[ids[place]])
            assert nll[place - 1] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert bool(correct[place - 1]) == (int(logits.argmax()) == ids[place])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padded_vocabulary_changes_nothing(family: str, corpus: Corpus, cpu: Processes) -> None:
    results = []
    for pad in (1, 64, 1000):
        model = random_model(family, pad)
        assert model.net.config.vocab_size == -(-257 // pad) * pad and model.vocab == 257
        case = SimpleNamespace(model=model, corpus=corpus, family=family)
        results.append(score(case, cpu, pad, tokens=300, stride=16))
    for sums, values in results[1:]:
        assert values == pytest.approx(results[0][1], rel=1e-5)
        assert {k: sums["real"][k] for k in ("tokens", "bytes")} == {
            k: results[0][0]["real"][k] for k in ("tokens", "bytes")
        }
    assert len({random_model(family, pad).parameters for pad in (1, 64, 1000)}) == 1


@pytest.mark.parametrize("stride", [CONTEXT, 12])
def test_result_does_not_depend_on_the_batch_size(
    case: SimpleNamespace, cpu: Processes, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = case.corpus.test.ids[:301]
    found = {}
    for rows in (1, 3, 1000):
        monkeypatch.setitem(real_text.LOGIT_BYTES, "cpu", rows * 4 * CONTEXT * case.model.vocab)
        found[rows] = real_text.token_losses(case.model, ids, CONTEXT, stride, "fp32", cpu, QUIET)
    for rows in (3, 1000):
        for ours, expected in zip(found[rows], found[1], strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        assert found[rows][1].sum(dtype=np.float64) == pytest.approx(found[1][1].sum(dtype=np.float64), rel=1e-6)


def test_result_does_not_depend_on_the_order_of_windows(
    corpus: Corpus, cpu: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = random_model("gpt2"), corpus.test.ids[:301]
    monkeypatch.setitem(real_text.LOGIT_BYTES, "cpu", 1)  # one window at a time: the arithmetic of each stays the same
    forward = real_text.token_losses(model, ids, CONTEXT, 12, "fp32", cpu, QUIET)
    plan = real_text.windows(len(ids), CONTEXT, 12)
    shuffled = [plan[i] for i in np.random.default_rng(2).permutation(len(plan))]
    assert shuffled != plan
    monkeypatch.setattr(real_text, "windows", lambda *_: shuffled)
    again = real_text.token_losses(model, ids, CONTEXT, 12, "fp32", cpu, QUIET)
    for ours, expected in zip(again, forward, strict=True):
        np.testing.assert_array_equal(ours, expected)


class Threads:
    """Processes as threads: rank, world, and a `collect` that really exchanges values."""

    device, halvings = torch.device("cpu"), 0

    def __init__(self, world: int):
        self.world, self.here = world, threading.local()
        self.barrier, self.box = threading.Barrier(world), [None] * world

    @property
    def rank(self) -> int:
        return self.here.rank

    def all_gather(self, value: Any) -> list[Any]:
        self.box[self.rank] = value
        self.barrier.wait(60)
        found = list(self.box)
        self.barrier.wait(60)  # nobody puts the next value into the box before all have read this one
        return found

    def run(self, work: Any) -> list[Any]:
        results: list[Any] = [None] * self.world

        def one(rank: int) -> None:
            self.here.rank = rank
            results[rank] = work()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results


@pytest.mark.parametrize("world", [2, 3, 7])  # with 7 some have nothing to do
def test_result_does_not_depend_on_the_number_of_processes(
    world: int, corpus: Corpus, cpu: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = random_model("llama"), corpus.test.ids[:200]
    monkeypatch.setitem(real_text.LOGIT_BYTES, "cpu", 2 * 4 * CONTEXT * 257)
    alone = real_text.token_losses(model, ids, CONTEXT, 24, "fp32", cpu, QUIET)
    team = Threads(world)
    for found in team.run(lambda: real_text.token_losses(model, ids, CONTEXT, 24, "fp32", team, QUIET)):
        for ours, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_dropout_is_off(corpus: Corpus, cpu: Processes) -> None:
    config = ModelConfig(layers=2, width=32, heads=2, dropout=0.5)
    model = network.new(config, vocab=257, separator=256, block=CONTEXT, seed=7)
    model.net.train()
    once, twice = (
        real_text.token_losses(model, corpus.test.ids[:64], CONTEXT, CONTEXT, "fp32", cpu, QUIET)[1] for _ in "12"
    )
    np.testing.assert_array_equal(once, twice)


def test_bf16_is_recorded_and_close(corpus: Corpus, cpu: Processes) -> None:
    case = SimpleNamespace(model=random_model("gpt2"), corpus=corpus, family="gpt2")
    exact, rough = (score(case, cpu, tokens=200, precision=p)[1]["real/nll_nats"] for p in ("fp32", "bf16"))
    assert exact != rough and rough == pytest.approx(exact, rel=0.05)


# --- protocol ---------------------------------------------------------------------------------------------------------


def test_prefix_is_recorded_and_scores_one_token_more(case: SimpleNamespace, cpu: Processes) -> None:
    none, bos = (score(case, cpu, prefix=p, stride=12, tokens=150)[0]["real"] for p in ("none", "bos"))
    assert (none["tokens"], bos["tokens"]) == (149, 150)
    first = int(case.corpus.test.nbytes[1])  # bytes of the text's first token, which only bos scores
    assert bos["bytes"] - none["bytes"] == first > 0
    stream, nbytes = real_text.held_out(case.corpus, EvaluationConfig(prefix="bos", tokens=150))
    assert stream[0] == case.corpus.tokenizer.separator and len(stream) == len(nbytes) == 151 and nbytes[0] == 0
    plain, _ = real_text.held_out(case.corpus, EvaluationConfig(prefix="none", tokens=150))
    np.testing.assert_array_equal(plain, stream[1:])
    recorded = [protocol(settings(prefix=p), case.corpus, 100)["prefix"] for p in ("none", "bos")]
    assert recorded == ["none", "bos"]


def test_prefix_with_disjoint_windows(corpus: Corpus, cpu: Processes) -> None:
    case = SimpleNamespace(model=random_model("gpt2"), corpus=corpus, family="gpt2")
    none, bos = (score(case, cpu, prefix=p, tokens=150)[0]["real"]["tokens"] for p in ("none", "bos"))
    assert bos == none + 1


def test_stride_changes_the_protocol_and_the_number(case: SimpleNamespace, cpu: Processes) -> None:
    numbers, protocols = [], []
    for stride in (None, CONTEXT // 2, 4):
        numbers.append(score(case, cpu, stride=stride, tokens=300)[1]["real/perplexity"])
        protocols.append(protocol(settings(stride=stride), case.corpus, 100))
    assert [p["stride"] for p in protocols] == [CONTEXT, CONTEXT // 2, 4]
    assert len({digest(p) for p in protocols}) == 3
    assert all(abs(a / b - 1) > 1e-3 for i, a in enumerate(numbers) for b in numbers[:i])
    same = protocol(settings(stride=CONTEXT), case.corpus, 100)
    assert digest(same) == digest(protocols[0])  # null and the context are one protocol


@pytest.mark.parametrize(
    "change",
    [
        {"context": 16}, {"split": "valid"}, {"prefix": "bos"}, {"tokens": 99}, {"precision": "bf16"},
        {"reference_tokens": 7}, {"self_bleu_samples": 9}, {"overlap": False}, {"embeddings": 20},
    ],
)  # fmt: skip
def test_whatever_moves_a_number_moves_the_protocol(corpus: Corpus, change: dict[str, Any]) -> None:
    base = protocol(settings(), corpus, 100)
    assert digest(protocol(settings(**change), corpus, 100)) != digest(base)
    assert digest(protocol(settings(), corpus, 101)) != digest(base)


def test_tokenizer_is_part_of_the_protocol(make_corpus: Any, texts: Any, corpus: Corpus) -> None:
    other = make_corpus(*texts, "bpe", 400)
    mine, its = (protocol(settings(), c, 100) for c in (corpus, other))
    assert mine["tokenizer"] == corpus.tokenizer.digest != its["tokenizer"]


# --- bits per byte ----------------------------------------------------------------------------------------------------


def test_bits_per_byte_by_hand(make_corpus: Any, texts: Any, cpu: Processes) -> None:
    """Test text `né` and `日a`; é and 日 are counted with their first byte, separators (S) are 0 bytes."""
    found = make_corpus(texts[0], texts[1], "né\n日a\n")
    assert found.test.ids.tolist() == [256, 110, 195, 169, 256, 230, 151, 165, 97]
    assert found.test.nbytes.tolist() == [0, 1, 2, 0, 0, 3, 0, 0, 1]
    case = SimpleNamespace(model=random_model("gpt2"), corpus=found, family="gpt2")

    sums, values = score(case, cpu, prefix="bos")
    assert (sums["real"]["bytes"], sums["real"]["tokens"]) == (7, 8)
    with torch.no_grad():
        stream = torch.tensor([[256, 110, 195, 169, 256, 230, 151, 165, 97]])
        nats = 8 * float(random_model("gpt2", 1).net(stream, labels=stream).loss)
    assert values["real/bits_per_byte"] == pytest.approx(nats / math.log(2) / 7, rel=1e-5)

    assert score(case, cpu, prefix="none")[0]["real"]["bytes"] == 6  # n is not scored, nor is its byte counted
    # Windows n é é' S | 日 日' 日'' a: the 3 bytes of 日 fall with its first token, which is no target.
    assert score(case, cpu, context=4)[0]["real"]["bytes"] == 2 + 1
    assert score(case, cpu, context=4, tokens=6)[0]["real"]["bytes"] == 2


def test_bits_per_byte_counts_the_same_bytes_with_every_tokenizer(
    make_corpus: Any, texts: Any, cpu: Processes, shared: Path
) -> None:
    own = network.pretrained_tokenizer(str(shared / "models" / "stories260K"))
    text = "née à Paris\n  two spaces\tand a tab\n日本語 and 🙂🙂!\nA<|endoftext|>b <s>c</s>\ne\u0301 ﬁn ½\n"
    expected = sum(len(line.encode()) for line in text.splitlines())
    counted = {}
    for name, tokenizer in {"bytes": "bytes", "bpe": "bpe", "gpt2": "gpt2", "stories260K": own}.items():
        found = make_corpus(texts[0], texts[1], text, tokenizer, 400)
        config = settings(prefix="bos", stride=8)
        model = random_model("gpt2", 64, True, found.tokenizer.size)
        sums, _ = real_text.score_real_text(model, found, config, cpu, QUIET)
        counted[name] = sums["real"]["bytes"]
        assert sums["real"]["tokens"] == len(found.test.ids) - 1
    assert counted == dict.fromkeys(counted, expected)


# --- likelihood by training frequency ---------------------------------------------------------------------------------


def test_nll_by_frequency_adds_up_and_agrees_with_a_loop(case: SimpleNamespace, cpu: Processes) -> None:
    sums, values = score(case, cpu, stride=20)
    parts = sums["real/nll_by_frequency"]
    assert sum(part["tokens"] for part in parts.values()) == sums["real"]["tokens"]
    assert sum(part["nats"] for part in parts.values()) == pytest.approx(sums["real"]["nats"], rel=1e-9)
    assert sum(part["tokens"] > 0 for part in parts.values()) >= (3 if case.corpus.tokenizer.size == 512 else 5)

    seen = Counter(case.corpus.train.ids.tolist())
    ids = case.corpus.test.ids[1:]
    _, nll, _ = real_text.token_losses(case.model, ids, CONTEXT, 20, "fp32", cpu, QUIET)
    means: dict[str, list[float]] = {}
    for token, loss in zip(ids[1:].tolist(), nll.tolist(), strict=True):
        count = seen[token]
        limits = ((0, "0"), (1, "1"), (5, "2-5"), (50, "6-50"), (500, "51-500"), (10**9, ">500"))
        means.setdefault(next(n for most, n in limits if count <= most), []).append(loss)
    expected = {f"real/nll_by_frequency/{name}": float(np.mean(part)) for name, part in means.items()}
    assert {k: v for k, v in values.items() if "by_frequency" in k} == pytest.approx(expected, rel=1e-6)


# --- the budget of the sample metrics ---------------------------------------------------------------------------------


def write_samples(folder: Path, tokens: int, length: int, head: int, shards: int = 1) -> Path:
    """A samples folder whose token at place i is i."""
    folder.mkdir()
    parts = np.array_split(np.arange(tokens, dtype="<u2"), shards)
    for i, part in enumerate(parts):
        part.tofile(folder / f"tokens-{i:05d}.bin")
    names = [f"tokens-{i:05d}.bin" for i in range(shards)]
    meta = {
        "tokens": tokens,
        "sequences": -(-tokens // length),
        "vocab": 1 << 16,
        "prompt_from": "real",
        "degenerate": {},
    }
    meta |= {"length": length, "prompt_length": head, "dtype": "<u2", "shards": names}
    write_json(folder / "meta.json", meta)
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("head", [0, 1, 5])
@pytest.mark.parametrize("tokens", [80, 83, 87])
def test_generated_rows_take_exactly_what_was_generated(tmp_path: Path, tokens: int, head: int, shards: int) -> None:
    folder = write_samples(tmp_path / "samples", tokens, 8, head, shards)
    written = [i for i in range(tokens) if i % 8 >= head]
    for count in (1, 8 - head, 20, len(written)):
        rows = generated_rows(folder, count)
        assert np.concatenate(rows).tolist() == written[:count]
        assert all(len(row) == 8 - head for row in rows[:-1]) and len(rows[-1]) >= 1
        assert all(row[0] // 8 == i for i, row in enumerate(rows))


def budget_config(length: int = 24, prompt: str = "first_token", **keys: Any) -> RunConfig:
    return RunConfig(
        device="cpu",
        training=TrainingConfig(block=CONTEXT),
        mixing=MixingConfig(tokens=CONTEXT * 64),
        sampling=SamplingConfig(length=length, prompt=prompt, prompt_tokens=5),
        evaluation=EvaluationConfig(**keys),
    )


@pytest.mark.parametrize(("prompt", "head"), [("bos", 0), ("first_token", 1), ("real_prefix", 5)])
@pytest.mark.parametrize("budget", [240, 241, 245, 246, 263])
def test_sample_tokens_is_what_can_be_taken(
    tmp_path: Path, corpus: Corpus, prompt: str, head: int, budget: int
) -> None:
    config = budget_config(prompt=prompt)
    count = sample_tokens(config, corpus, budget)
    generated = sum(i % 24 >= head for i in range(budget))
    assert count == generated < len(corpus.test.ids)
    folder = write_samples(tmp_path / "samples", budget, 24, head)
    assert sum(map(len, generated_rows(folder, count))) == count
    assert sum(map(len, real_rows(config, corpus, count))) == count


def test_sample_tokens_is_limited_by_the_real_text(corpus: Corpus) -> None:
    whole = len(held_out_pieces(budget_config(), corpus)) * 23
    assert 0.4 * len(corpus.test.ids) < whole <= 0.6 * len(corpus.test.ids)  # the half that is not the support text
    assert sample_tokens(budget_config(), corpus, 10**6) == whole
    assert sample_tokens(budget_config(sample_tokens=50), corpus, 10**6) == 50
    with pytest.raises(UserError, match=f"at most {whole}"):
        sample_tokens(budget_config(sample_tokens=whole + 1), corpus, 10**6)


def test_sample_tokens_refuses_a_split_shorter_than_a_sequence(make_corpus: Any, texts: Any) -> None:
    found = make_corpus(texts[0], texts[1], "né\n日a\n")
    with pytest.raises(UserError, match="shorter than one sequence"):
        sample_tokens(budget_config(), found, 10**6)


def test_real_rows_are_pieces_of_the_held_out_split(corpus: Corpus) -> None:
    ids = corpus.test.ids
    begins = held_out_pieces(budget_config(), corpus).tolist()
    whole = len(begins)
    pieces = {tuple(ids[begin : begin + 23].tolist()): i for i, begin in enumerate(begins)}
    assert len(pieces) == whole  # all different, so that a piece can be told by its tokens
    for count in (1, 23, 24, 230, whole * 23):
        rows = real_rows(budget_config(), corpus, count)
        assert sum(map(len, rows)) == count
        assert all(len(row) == 23 for row in rows[:-1])
        taken = [pieces[tuple(row.tolist())] for row in rows if len(row) == 23]
        assert len(set(taken)) == len(taken)
        last = rows[-1].tolist()
        heads = [i for piece, i in pieces.items() if list(piece[: len(last)]) == last]
        assert heads and set(heads) - set(taken[: len(rows) - 1])
    other = real_rows(budget_config(split="valid"), corpus, 46)
    of_valid = held_out_pieces(budget_config(split="valid"), corpus).tolist()
    valid = {tuple(corpus.valid.ids[begin : begin + 23].tolist()) for begin in of_valid}
    assert {tuple(row.tolist()) for row in other} <= valid and not {tuple(r.tolist()) for r in other} & set(pieces)


def test_real_rows_are_drawn_and_the_draw_is_seeded(corpus: Corpus) -> None:
    rows = [r.tolist() for r in real_rows(budget_config(), corpus, 230)]
    assert rows == [r.tolist() for r in real_rows(budget_config(), corpus, 230)]
    assert rows != [corpus.test.ids[i * 23 : (i + 1) * 23].tolist() for i in range(10)]
    more = [r.tolist() for r in real_rows(budget_config(), corpus, 460)]
    assert more[:10] == rows  # a larger budget adds text and does not change what was there


# --- reference and sample scores --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_types(make_corpus: Any, texts: Any) -> Corpus:
    """A BPE vocabulary so large beside a training set of 2,048 tokens that hundreds of its types are rare there."""
    return make_corpus(zipf_lines(1500, 1), texts[1], zipf_lines(120, 3), "bpe", 900)


def training_set(config: RunConfig, corpus: Corpus, root: Path) -> sets.TrainingSet:
    chain = Chain(root)
    with publishing(chain.stage(0, "mixture"), inputs={}) as out:
        sets.mix(config, chain, 0, corpus.train, corpus.digest, out)
    return sets.TrainingSet(config, chain, 0, corpus.train)


def word_lists(tokenizer: Any, rows: list[np.ndarray]) -> list[list[str]]:
    return [words(text) for text in decoded(tokenizer, rows)]


def reference(config: RunConfig, corpus: Corpus, root: Path, out: Path) -> Reference:
    out.mkdir()
    data = training_set(config, corpus, root)
    base = random_model("gpt2", vocab=corpus.tokenizer.size)
    publish_reference(
        base, corpus, config, training=data, budget=2048, out=out, processes=Processes("cpu"), console=QUIET
    )
    return Reference(out, corpus.tokenizer.size)


def test_reference_row_is_its_own_norm_and_two_calls_are_identical(tmp_path: Path, many_types: Corpus) -> None:
    config = budget_config()
    for name in ("a", "b"):
        reference(config, many_types, tmp_path / f"chain_{name}", tmp_path / name)
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    row = read_json(tmp_path / "a" / "eval.json")
    metrics = row["metrics"]
    normalised = {k: v for k, v in metrics.items() if k.endswith("_normalised") or "tail_mass" in k}
    assert {f"tails/{unit}/coverage_5_normalised" for unit in ("words", "tokens", "bigrams")} <= set(normalised)
    assert normalised == pytest.approx(dict.fromkeys(normalised, 1.0), rel=1e-12)
    assert 0 < metrics["tails/words/coverage_5"] < 1
    assert row["protocol"] == protocol(config, many_types, row["protocol"]["sample_tokens"])
    assert row["sums"]["diversity/tokens"]["1"]["grams"] == row["protocol"]["sample_tokens"]


def test_reference_counts_the_training_set_and_the_fresh_text(tmp_path: Path, many_types: Corpus) -> None:
    config = budget_config()
    found = reference(config, many_types, tmp_path / "chain", tmp_path / "out")
    data = training_set(config, many_types, tmp_path / "again")
    blocks = data[np.arange(len(data))]
    assert len(data) == 64
    assert found.token_c0.tolist() == np.bincount(blocks.ravel(), minlength=900).tolist()
    plain = [many_types.tokenizer.hf.decode(b.tolist()).replace("<|endoftext|>", "\n\n") for b in blocks]
    assert found.word_c0 == Counter(w for text in plain for w in words(text))
    rows = real_rows(config, many_types, sample_tokens(config, many_types, 2048))
    assert found.fresh_tokens.tolist() == np.bincount(np.concatenate(rows), minlength=900).tolist()
    assert found.fresh_tokens.sum() == sum(map(len, rows))


def test_token_tails_are_reported_from_200_types_on(tmp_path: Path, many_types: Corpus, corpus: Corpus) -> None:
    found = reference(budget_config(), many_types, tmp_path / "chain", tmp_path / "out")
    metrics = read_json(tmp_path / "out" / "eval.json")["metrics"]
    reported = {k.split("/")[-1].removeprefix("coverage_") for k in metrics if k.startswith("tails/tokens/coverage_")}
    reported = {name for name in reported if not name.endswith("_normalised")}
    c0 = found.token_c0
    sizes = {str(k): int(((c0 >= 1) & (c0 <= k)).sum()) for k in (1, 5, 20)}
    assert {name for name in reported if name in sizes} == {name for name, n in sizes.items() if n >= LEAST_TYPES}
    assert "20" in reported and sizes["1"] < LEAST_TYPES <= sizes["20"]  # both sides of the limit occur
    # A byte vocabulary has no tail to speak of; words and pairs are held to the same limit.
    small = reference(budget_config(), corpus, tmp_path / "chain2", tmp_path / "out2")
    metrics = read_json(tmp_path / "out2" / "eval.json")["metrics"]
    assert not [k for k in metrics if k.startswith("tails/tokens")]
    for unit, counts in (("words", np.array(list(small.word_c0.values()))), ("bigrams", small.bigram_c0.counts)):
        for k in (1, 5, 20):
            assert (f"tails/{unit}/coverage_{k}" in metrics) == ((counts <= k).sum() >= LEAST_TYPES)


def test_token_tail_limit_is_200_exactly(tmp_path: Path, many_types: Corpus) -> None:
    found = reference(budget_config(), many_types, tmp_path / "chain", tmp_path / "out")
    rows = real_rows(budget_config(), many_types, 230)
    lists = word_lists(many_types.tokenizer, rows)
    for types, expected in ((199, False), (200, True)):
        found.token_c0 = np.zeros(900, np.int64)
        found.token_c0[:types], found.token_c0[types:400] = 1, 1000
        _, values = samples.score_samples(rows, lists, many_types, "test", found, 900)
        assert ("tails/tokens/coverage_1" in values) == expected


def test_sample_scores_by_an_independent_count(tmp_path: Path, many_types: Corpus) -> None:
    """Coverage and tail mass of a text that was made by hand from the training set's own words."""
    config = budget_config()
    found = reference(config, many_types, tmp_path / "chain", tmp_path / "out")
    text = " ".join([*list(found.word_c0)[:150], "unheard", "unheard"])
    ids = np.array(many_types.tokenizer.hf(f" {text} ")["input_ids"])
    rows = [ids[i : i + 23] for i in range(0, len(ids), 23)]
    lists = word_lists(many_types.tokenizer, rows)
    sums, values = samples.score_samples(rows, lists, many_types, "test", found, 900)
    written = Counter(w for row in lists for w in row)
    tail = {w for w, c in found.word_c0.items() if c <= 5}
    fresh = found.fresh_words
    seen, fresh_seen = (sum(w in text_ for w in tail) for text_ in (written, fresh))
    assert values["tails/words/coverage_5"] == pytest.approx(seen / len(tail))
    assert values["tails/words/coverage_5_normalised"] == pytest.approx(seen / fresh_seen)
    mass, fresh_mass = (sum(t.get(w, 0) for w in tail) / sum(t.values()) for t in (written, fresh))
    assert values["tails/words/tail_mass_5"] == pytest.approx(mass / fresh_mass)
    assert sums["tails/words"]["5"]["total"] == sum(written.values()) > sums["tails/words"]["5"]["occurrences"]
    counts = np.bincount(ids, minlength=900)
    p, q = many_types.train_counts / many_types.train_counts.sum(), counts / counts.sum()
    assert values["diversity/unigram_tv"] == pytest.approx(np.abs(p - q).sum() / 2)


def test_text_without_a_single_word_or_pair_can_be_scored(tmp_path: Path, corpus: Corpus) -> None:
    """What a collapsed model may write: one symbol for ever. Every score must be a number that JSON can hold."""
    found = reference(budget_config(), corpus, tmp_path / "chain", tmp_path / "out")
    for rows in ([np.full(23, 32)] * 4, [np.full(23, 256)] * 4, [np.array([200])], [np.full(23, 97)] * 4):
        lists = word_lists(corpus.tokenizer, rows)
        sums, values = samples.score_samples(rows, lists, corpus, "test", found, 257)
        json.dumps([sums, values], allow_nan=False)
        assert values["diversity/words/budget"] <= 0.1 and values.get("tails/words/known_triples", 0.0) == 0.0
        assert values["diversity/tokens/ngram_entropy_1"] == 0.0
        assert values["diversity/tokens/distinct_1"] == pytest.approx(1 / sum(map(len, rows)))


# --- next-token distributions -----------------------------------------------------------------------------------------


def test_context_places_are_evenly_spaced_windows_and_targets() -> None:
    plan = windows(1000 * 40 + 7, 40, 40)
    places = context_places(plan)
    assert len(places) == 64 * 16 == len(set(places.tolist()))
    assert sorted(set((places // 40).tolist())) == np.linspace(0, 999, 64).round().tolist()
    assert sorted(set((places % 40).tolist())) == np.linspace(1, 39, 16).round().tolist()
    few = context_places([(0, 5, 1), (5, 10, 6), (10, 12, 11)])
    assert few.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]  # what there is, of whole windows
    assert context_places(windows(3, 40, 40)).tolist() == [1, 2]
    overlapping = context_places(windows(40 + 12 * 3, 40, 12))  # in later windows the 12 that no earlier one scores
    assert overlapping.tolist() == [*np.linspace(1, 39, 16).round().astype(int), *range(40, 76)]


@pytest.mark.parametrize("stride", [None, 12])
def test_next_token_values_are_those_of_plain_transformers(
    case: SimpleNamespace, cpu: Processes, stride: int | None
) -> None:
    sums, values = score(case, cpu, stride=stride, tokens=300)
    ids = case.corpus.test.ids[1:301].astype(np.int64)
    plan = windows(300, CONTEXT, stride or CONTEXT)
    entropies, supports, ginis = [], [], []
    with torch.no_grad():
        for place in context_places(plan).tolist():
            begin = next(b for b, e, first in plan if first <= place < e)
            p = (
                case.plain(torch.from_numpy(ids[begin:place])[None])
                .logits[0, -1, : case.model.vocab]
                .double()
                .softmax(0)
            )
            entropies.append(float(torch.distributions.Categorical(p).entropy()))
            supports.append(math.exp(entropies[-1]))
            ginis.append(float((p[:, None] - p[None]).abs().sum() / (2 * len(p))))  # half the relative mean difference
    assert sums["real/next_token"]["contexts"] == len(entropies) > 64
    assert values["real/next_token_entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert values["real/effective_support"] == pytest.approx(np.mean(supports), rel=1e-4)
    assert values["real/gini"] == pytest.approx(np.mean(ginis), rel=1e-5)


def test_next_token_values_do_not_depend_on_processes(
    corpus: Corpus, cpu: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SimpleNamespace(model=random_model("gpt2"), corpus=corpus, family="gpt2")
    monkeypatch.setitem(real_text.LOGIT_BYTES, "cpu", 3 * 4 * CONTEXT * 257)
    alone = score(case, cpu, tokens=200, stride=12)
    team = Threads(3)
    assert team.run(lambda: score(case, team, tokens=200, stride=12)) == [alone] * 3  # type: ignore[arg-type]


def test_rolling_likelihood_is_the_evaluation_harness_s(make_corpus: Any, texts: Any, cpu: Processes) -> None:
    """lm-evaluation-harness scores a document in windows of L targets whose first is read after one token of context (the
    prefix token in the first). In our terms: prefix bos, context L + 1, stride L."""
    text = zipf_lines(12, 9).replace("\n", " ").strip()
    found = make_corpus(texts[0], texts[1], text)  # one document, one byte a token
    model, length = random_model("gpt2", 1), CONTEXT - 1
    ids = [256, *text.encode()]
    log_likelihood = 0.0
    with torch.no_grad():
        for first in range(1, len(ids), length):
            window = torch.tensor(ids[first - 1 : first + length])
            log_p = model.net(window[None, :-1]).logits[0].log_softmax(-1)
            log_likelihood += float(log_p.gather(1, window[1:, None]).sum())
    size = len(text.encode())
    sums, values = real_text.score_real_text(model, found, settings(pad=1, prefix="bos", stride=length), cpu, QUIET)
    assert sums["real"]["tokens"] == len(ids) - 1 and sums["real"]["bytes"] == size
    assert values["real/bits_per_byte"] == pytest.approx(-log_likelihood / size / math.log(2), rel=1e-4)
    byte_perplexity = math.exp(-log_likelihood / size)
    assert 2 ** values["real/bits_per_byte"] == pytest.approx(byte_perplexity, rel=1e-4)


# --- text under generation 0's model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("head", "length"), [(0, CONTEXT), (1, CONTEXT), (5, 24)])
def test_reference_nll_is_that_of_plain_transformers(family: str, head: int, length: int, cpu: Processes) -> None:
    """Each sequence after its own prompt; without one, after the separator, even where the model reads no longer text."""
    stream = np.random.default_rng(3).integers(0, 256, length * 9 + head + 7).astype(np.uint16)
    places = [(i + head, min(i + length, len(stream))) for i in range(0, len(stream), length)]
    model, plain = random_model(family, 64), random_model(family, 1).net
    config = settings(family)
    sums, values = under_first.reference_nll(model, config, stream, places, head, 256, cpu, QUIET, "")
    found = []
    with torch.no_grad():
        for begin, end in places:
            prompt = [256] if head == 0 else stream[begin - head : begin].tolist()
            window = torch.tensor([*prompt, *stream[begin:end].tolist()])
            log_p = plain(window[None, :-1]).logits[0].double().log_softmax(-1)
            found.append(-log_p.gather(1, window[1:, None])[len(prompt) - 1 :, 0].numpy())
    assert [len(part) for part in found] == [length - head] * 9 + [7]
    means = [part.mean() for part in found[:-1]]
    assert values["reference/nll"] == pytest.approx(np.concatenate(found).mean(), rel=1e-4)
    for q in (50, 90, 99):
        assert values[f"reference/nll_p{q}"] == pytest.approx(np.quantile(means, q / 100), rel=1e-4)
    part = sums["reference/nll"]
    assert part["sequences"] == sum(part["histogram"]) == 9 and part["tokens"] == 9 * (length - head) + 7


def test_reference_tokens_limit_what_is_scored(corpus: Corpus, cpu: Processes) -> None:
    places = [(1, 24), (25, 48), (49, 72)]
    scored = {}
    for wanted in (None, 0, 30, 10**6):
        config = settings(reference_tokens=wanted)
        sums, _ = under_first.reference_nll(
            random_model("gpt2"), config, corpus.test.ids, places, 1, 256, cpu, QUIET, ""
        )
        scored[wanted] = sums.get("reference/nll", {}).get("tokens")
    assert scored == {None: 69, 0: None, 30: 30, 10**6: 69}


def test_a_base_model_that_has_diverged_is_the_users_mistake(corpus: Corpus, cpu: Processes) -> None:
    broken = network.new(settings().model, vocab=257, separator=256, block=CONTEXT, seed=1)
    with torch.no_grad():
        broken.net.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match="lower lr"):
        under_first.reference_nll(broken, settings(), corpus.test.ids, [(1, 24)], 1, 256, cpu, QUIET, "")


def test_mean_states_are_those_of_plain_transformers_on_any_number_of_processes(
    cpu: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = np.random.default_rng(4).integers(0, 256, 600).astype(np.uint16)
    places = [(i, i + 20) for i in range(0, 600, 20)]
    monkeypatch.setitem(under_first.BATCH_TOKENS, "cpu", 80)
    for family in ("gpt2", "llama"):
        model, plain = random_model(family, 64), random_model(family, 1).net
        found = under_first.mean_states(model, stream, places, "fp32", cpu, QUIET)
        with torch.no_grad():
            rows = torch.from_numpy(stream.astype(np.int64)).view(30, 20)
            expected = plain(rows, output_hidden_states=True).hidden_states[-1].mean(1)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
        team = Threads(3)
        for other in team.run(lambda: under_first.mean_states(model, stream, places, "fp32", team, QUIET)):  # noqa: B023
            np.testing.assert_array_equal(other, found)


def test_embeddings_need_text_and_packages(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = len(held_out_pieces(budget_config(), corpus))
    most = min(pieces // 2, 2048 // 24)
    under_first.check_embeddings(budget_config(), corpus, 24)
    under_first.check_embeddings(budget_config(embeddings=20), corpus, 2048)
    with pytest.raises(UserError, match=f"at most {most}$"):
        under_first.check_embeddings(budget_config(embeddings=most + 1), corpus, 2048)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install collapselab\[embeddings\]"):
        under_first.check_embeddings(budget_config(embeddings=20), corpus, 2048)


# --- published models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_published_model_is_the_scored_one(
    tmp_path: Path, corpus: Corpus, cpu: Processes, family: str, tied: bool
) -> None:
    model = random_model(family, 64, tied)
    network.publish(model, corpus.tokenizer, tmp_path, {"corpus": corpus.digest})
    assert model.net.config.vocab_size == 320  # the model in memory goes on as it was
    assert read_json(tmp_path / "config.json")["vocab_size"] == 257

    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config.vocab_size == plain.get_input_embeddings().weight.shape[0] == 257
    assert plain.get_output_embeddings().weight.shape[0] == 257 and plain.dtype == torch.float32
    assert sum(p.numel() for p in plain.parameters()) == model.parameters
    expected, _ = guide_perplexity(plain, corpus.test.ids[1:], CONTEXT, 20)

    case = SimpleNamespace(model=model, corpus=corpus, family=family)
    before = score(case, cpu, stride=20)
    assert before[1]["real/perplexity"] == pytest.approx(expected, rel=1e-4)
    case.model = network.load(str(tmp_path), pad=64)
    assert case.model.vocab == 257 and case.model.net.config.vocab_size == 320
    assert score(case, cpu, stride=20) == before

"""The benches: the same work done the obvious way, by transformers, and by this lab."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from collapselab.bench import obvious
from collapselab.bench.policy import policy
from collapselab.bench.run import Busy, Case, Peak, Row, chosen, limits, measured
from collapselab.bench.sampler import GPT2, QUIET, SMALL, Size, sampling
from collapselab.chain import run as chain
from collapselab.chain.opening import open_corpus
from collapselab.config import CorpusConfig, EvaluationConfig, MixingConfig, RunConfig, SamplingConfig, TrainingConfig
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import bytes_tokenizer
from collapselab.evaluation.samples import diversity_metrics
from collapselab.learning.trainer import Trainer
from collapselab.metrics.bigrams import bigram_keys, count_keys
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.ngrams import from_rows
from collapselab.metrics.overlap import overlap_sums
from collapselab.metrics.tails import tail_sets, tail_sums, tail_values
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.runtime.parallel import Processes, clock
from collapselab.store import folders

# --- training ---------------------------------------------------------------------------------------------------------


class Blocks:
    """Random training text in memory, with the ledger that a trainer checks."""

    def __init__(self, count: int, block: int, vocab: int):
        self.ids = np.random.default_rng(0).integers(0, vocab, (count, block))
        self.block = block
        self.ledger = {"real": {"set": count * block, "shown": count * block, "loss": count * (block - 1)}}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.ids[rows])


def trainer(device: torch.device, repeats: int, only: int | None, ours_alone: bool) -> Iterator[Case]:
    """Measure optimiser steps on the same blocks: forward, backward, clipping, AdamW."""
    cuda = device.type == "cuda"
    ceiling = limits(device)
    plan = [(GPT2, 1024, 64, 20), (GPT2, 512, 64, 20)] if cuda else [(size, 128, 32, 16) for size in SMALL]
    for size, block, batch, steps in chosen(plan, only):
        config = RunConfig(
            model=size.config(block), training=TrainingConfig(block=block, batch_size=batch),
            mixing=MixingConfig(tokens=None), device="cuda" if cuda else "cpu",
        )  # fmt: skip
        data = Blocks(steps * batch, block, size.vocab)
        ids = torch.from_numpy(data.ids).to(device)
        amount = steps * batch * block
        plain = size.model(block, pad=1)
        plain.net.to(device)

        def reference(plain: network.LanguageModel = plain, ids: torch.Tensor = ids, batch: int = batch) -> None:
            optimizer = torch.optim.AdamW(plain.net.parameters(), lr=1e-3, foreach=False)
            plain.net.train()
            for step in range(0, len(ids), batch):
                part = ids[step : step + batch].cpu().to(device)
                logits = plain.net(part).logits
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), part[:, 1:].flatten())
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(plain.net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                loss.item()

        def theirs(plain: network.LanguageModel = plain, ids: torch.Tensor = ids, batch: int = batch) -> None:
            obvious.train(plain.net, ids, batch, bf16=cuda)

        lab = Trainer(config, Processes(config.device), QUIET)
        start = size.model(block)

        def ours(lab: Trainer = lab, start: network.LanguageModel = start, data: Blocks = data) -> None:
            lab.train(start, data, 0)  # type: ignore[arg-type]

        ways: dict[str, Callable[[], object]] = {
            "reference (float32, .item() per step)": reference,
            "transformers model, eager": theirs,
            "ours": ours,
        }
        names = ["ours"] if ours_alone else list(ways)
        rows = [measured(name, ways[name], amount, device, repeats) for name in names]
        peak = ceiling.datasheet or ceiling.flops
        for row in rows:
            row.share = None if row.rate is None else row.rate * size.flops(block) / peak
        limit = "the data sheet's products (MFU)" if ceiling.datasheet else "measured float32 products (MFU)"
        yield Case(f"Training, {size.name}, {batch} blocks of {block}", rows, limit=limit)


# --- metrics and files ------------------------------------------------------------------------------------------------


def metrics(device: torch.device, repeats: int, only: int | None, ours_alone: bool) -> Iterator[Case]:
    """Measure sample metrics of 10 M tokens (vocabulary 50,257, Zipf's law), and publishing 124 M parameters."""
    for case in chosen([_sample_metrics, _publishing], only):
        yield case(device, repeats, ours_alone)


def _sample_metrics(device: torch.device, repeats: int, ours_alone: bool) -> Case:
    count, length, vocab, cpu = 10_000_000, 512, 50257, torch.device("cpu")
    real, ids = ((np.random.default_rng(i).zipf(1.2, count) % vocab).astype(np.uint16) for i in range(2))
    rows = [ids[i : i + length] for i in range(0, count, length)]
    some = rows[: 200_000 // length]
    plain = [row.tolist() for row in some]
    c0 = np.bincount(real, minlength=vocab)

    def counters() -> dict[int, int]:
        return {n: len(Counter(tuple(r[i : i + n]) for r in plain for i in range(len(r) - n + 1))) for n in range(1, 5)}

    def everything() -> None:
        diversity_metrics(rows, [])
        counts = np.bincount(np.concatenate(rows), minlength=vocab)
        unigram_distances(c0, counts)
        tails = tail_sets(c0)
        tail_values(tail_sums(tails, counts, count), tail_sums(tails, c0, count))

    def against_text() -> None:
        text = from_rows(rows)
        pairs = count_keys(bigram_keys(text, vocab))
        tails = tail_sets(pairs.counts)
        tail_sums(tails, pairs.of(pairs.keys), float(pairs.counts.sum()))
        overlap_sums(text, real, vocab)

    agree = [int(part["types"]) for part in diversity_metrics(some, [])[0]["diversity/tokens"].values()]
    counter = "reference (collections.Counter, 200,000 tokens)"
    others = [] if ours_alone else [measured(counter, counters, len(some) * length, cpu, repeats)]
    return Case(
        "Sample metrics of tokens, n = 1 .. 4",
        [
            *others,
            measured("ours, n-grams of 10 M", lambda: diversity_metrics(rows, []), count, cpu, repeats),
            measured("ours, also distances and tail coverage", everything, count, cpu, repeats),
            measured("ours, bigram tails, overlap with 10 M of training text", against_text, count, cpu, repeats),
        ],
        parity={"types equal": agree == list(counters().values())},
    )


def _publishing(device: torch.device, repeats: int, ours_alone: bool) -> Case:
    model, tokenizer = GPT2.model(1024), bytes_tokenizer()
    model.net.to(device)
    with tempfile.TemporaryDirectory() as folder:

        def publish() -> None:
            with folders.publishing(Path(folder) / "train", inputs={}) as out:
                network.publish(model, tokenizer, out, {})

        row = measured("ours, GPT-2 124M", publish, model.parameters, device, repeats)
    return Case("Publishing a model folder: safetensors, flushed to disk, digests", [row], unit="parameters/s")


# --- a whole generation -----------------------------------------------------------------------------------------------


def generation(device: torch.device, repeats: int, only: int | None, ours_alone: bool) -> Iterator[Case]:
    """Train, publish, sample as much, score: this lab's chain against the obvious script, on real text."""
    cuda = device.type == "cuda"
    if cuda:
        # The counts of Drayson et al. 2025: 4,669 blocks of 256 prompt and 256 new tokens, one epoch.
        tokens, block, evaluated, plan = 4669 * 512, 512, 65536, [(GPT2, 64), (GPT2, 8)]
        written = SamplingConfig(tokens=tokens, prompt="real_prefix", prompt_tokens=256)
    else:
        tokens, block, evaluated, plan = 131072, 128, 65536, [(SMALL[0], 32), (SMALL[1], 32)]
        written = SamplingConfig()
    for size, batch in chosen(plan, only):
        config = RunConfig(
            name="bench", generations=repeats, device="cuda" if cuda else "cpu", progress=False,
            corpus=CorpusConfig(tokenizer="gpt2" if cuda else "bpe", vocab_size=min(size.vocab, 2048)),
            model=size.config(1024 if cuda else block), sampling=written, evaluation=EvaluationConfig(tokens=evaluated),
            training=TrainingConfig(block=block, batch_size=batch, tokens=tokens),
            mixing=MixingConfig(tokens=None if cuda else tokens, start=0.5, real="reuse"),
        )  # fmt: skip
        yield _generation(config, size, tokens, device, ours_alone)


def _script(config: RunConfig, size: Size, tokens: int, corpus: Corpus, device: torch.device) -> tuple[Row, float]:
    """Measure the obvious script with `generate`'s best batch size; return its row and held-out perplexity."""
    cuda, block, batch = device.type == "cuda", config.training.block, config.training.batch_size
    text = corpus.train.ids[: len(corpus.train.ids) // block * block]
    whole = torch.from_numpy(text.astype(np.int64)).view(-1, block)
    blocks = whole.repeat(-(-tokens // whole.numel()), 1)[: tokens // block].to(device)
    held = corpus.split("test").ids[: config.evaluation.tokens]
    held_out = torch.from_numpy(held[: len(held) // block * block].astype(np.int64)).view(-1, block).to(device)
    head = config.prompt_length
    net = size.model(config.model.context or block, pad=1).net.to(device)
    best, best_rate = 0, 0.0
    for candidate in (256, 1024) if cuda else (64, 128, 256, 512):  # generate's best batch
        quick = copy.deepcopy(net).bfloat16() if cuda else net
        few = blocks[:candidate, :head].repeat(-(-candidate // len(blocks)), 1)[:candidate]

        def trial(few: torch.Tensor = few, candidate: int = candidate, quick: Any = quick) -> None:
            obvious.generate(quick, few, head + 32, candidate)

        rate = candidate / min(clock(trial, device, 2))
        if rate > best_rate:
            best, best_rate = candidate, rate
    start = copy.deepcopy(net.state_dict())
    with tempfile.TemporaryDirectory() as folder:

        def script() -> None:
            net.load_state_dict(start)
            place = Path(folder) / "model"
            obvious.generation(net, blocks, blocks[:, :head], held_out, batch, best, place, bf16=cuda)

        name = f"obvious script (generate at batch {best})"
        row = measured(name, script, 2 * tokens, device, config.generations, warm_up=0)
    return row, obvious.perplexity(net, held_out, batch, bf16=cuda)


def _generation(config: RunConfig, size: Size, tokens: int, device: torch.device, ours_alone: bool) -> Case:
    batch = config.training.batch_size
    corpus = open_corpus(config, Processes(config.device))
    size = dataclasses.replace(size, vocab=corpus.tokenizer.size)
    rows: list[Row] = []
    parity: dict[str, Any] = {}
    if not ours_alone:
        theirs, perplexity = _script(config, size, tokens, corpus, device)
        rows, parity = [theirs], {"held-out perplexity, script on real text": round(perplexity, 1)}
    with tempfile.TemporaryDirectory() as folder:
        with Peak(device) as peak, Busy(device) as busy:
            began = time.perf_counter()
            path, course = chain.run(dataclasses.replace(config, runs_dir=folder))
            total = time.perf_counter() - began
        # Generation 0 includes the start-up (compilation, the reference): only in the note, not in the median.
        seconds = [sum(row["time"].values()) for row in course[1:]]
        reached = course[-1]["metrics"]["real/perplexity"]
        stages = {k: statistics.median(row["time"][k] for row in course[1:]) for k in sorted(course[1]["time"])}
        assert sets.sample_budget(config, sets.blocks_available(corpus.train, config)) == tokens and path.is_dir()
    note = f"{len(course)} generations in {total:.1f} s with start-up; " + ", ".join(
        f"{name.removesuffix('_seconds')} {value:.2g}" for name, value in stages.items()
    )
    if busy.share is not None:
        note += f"; GPU busy {100 * busy.share:.0f} % of the second half of the run"
    rate = 2 * tokens / statistics.median(seconds)
    ours = Row("ours (and the sample metrics)", rate, seconds, peak_bytes=peak.bytes, note=note)
    parity["chain after its last generation"] = round(reached, 1)
    if rows and rows[0].rate is not None and ours.rate is not None:
        parity = {"speed-up": round(ours.rate / rows[0].rate, 2)} | parity
    return Case(
        f"A generation, {size.name}: {tokens:,} tokens trained in batches of {batch}, {tokens:,} sampled",
        [*rows, ours],
        parity=parity,
    )


BENCHES: dict[str, Callable[[torch.device, int, int | None, bool], Iterator[Case]]] = {
    "sampling": sampling,
    "training": trainer,
    "metrics": metrics,
    "generation": generation,
    "policy": policy,
}

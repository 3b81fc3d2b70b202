"""What a run will take, before it starts: real text, parameters, disk, time."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapselab.chain.opening import chain_path, open_corpus
from collapselab.chain.preflight import Preflight, preflight
from collapselab.config import RunConfig
from collapselab.config.families import FAMILIES
from collapselab.evaluation.real_text import BATCH_TOKENS, held_out, token_losses
from collapselab.learning.learners import LEARNERS
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes, clock, out_of_memory
from collapselab.sampling.sampler import Sampler
from collapselab.store import layout
from collapselab.store.layout import Chain

PROBE_TOKENS, REPEATS = 8, 3  # sampled per sequence to time a decode step; timings, of which the shortest counts


def plan(config: RunConfig, fork: tuple[Path, int] | None = None) -> dict[str, Any]:
    """Needs and estimates of a chain, with times measured on its own model here; writes nothing but the token cache."""
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain, corpus = Chain(chain_path(config)), open_corpus(config, processes)
    checked = preflight(config, corpus, chain, fork)
    block = config.training.block
    model = network.start_weights(config.model, previous=None, tokenizer=corpus.tokenizer, block=block, seed=0)
    console = Console(speaks=False)
    learner = LEARNERS[FAMILIES[config.model.family].learner](config, processes, console)
    model, trains = learner.pace(model, corpus.train.ids[: checked.sizes[0] * block])
    trained = [sets.shows(config, blocks) * block for blocks in checked.sizes]
    text = held_out(corpus, config.evaluation)[0]
    context = config.evaluation.context or block
    scored = len(text) * context // (config.evaluation.stride or context)
    wanted = config.evaluation.reference_tokens
    count = checked.sample_tokens
    forward = scored + (count if wanted is None else min(count, wanted))  # samples are read by generation 0's model too
    sampler = Sampler(config, processes, console)
    length = max(1, config.prompt_length) + config.sequence_length - config.prompt_length
    # A fork's own is near enough for an estimate, where it computes otherwise.
    recorded = [chain, *([Chain(fork[0])] if fork is not None else [])]
    batches = [batch for each in recorded if (batch := layout.batch_of(each.batch_file)) is not None]
    batch = batches[0] if batches else sampler.batch_size(model, length, -(-checked.budget // config.sequence_length))
    rates = {"train": trains} | _measure(model, config, processes, sampler, text, length, batch)
    batch_tokens = batch * config.sequence_length
    written = -(-checked.budget // batch_tokens) * batch_tokens  # the last batch is computed whole
    each = [shown / rates["train"] + written / rates["sample"] + forward / rates["eval"] for shown in trained]
    return {
        "checked": checked,
        "device": f"{processes.device.type}, {processes.world} process(es), {processes.precision}",
        "parameters": model.parameters,
        "notes": [note for note in (checked.note, processes.unused_gpu) if note],
        "trained_tokens": trained,
        "scored_tokens": scored,
        "rates": rates,
        "seconds": sum(each[checked.finished :]),
    }


def _measure(
    model: network.LanguageModel,
    config: RunConfig,
    processes: Processes,
    sampler: Sampler,
    text: np.ndarray,
    length: int,
    batch: int,
) -> dict[str, float]:
    """Tokens per second of sampling and evaluation, of all processes together: a few steps of what a run does."""
    device, world = processes.device, processes.world
    context = config.evaluation.context or config.training.block
    text = text[: world * max(context, BATCH_TOKENS[device.type] // context * context)]  # a batch for each process

    def evaluate() -> None:
        token_losses(model, text, context, context, config.evaluation.precision, processes, sampler.console)

    evaluated = len(text) / clock(evaluate, device, 1)[0]
    # From the middle of a sequence to its end, and only a few tokens: such a step stands for all of them.
    new = max(1, min(PROBE_TOKENS, length // 2))
    threads = torch.get_num_threads()

    def sample(count: int) -> float:
        prompt = np.zeros((batch, max(1, length // 2)), np.int64)
        write = sampler.writer(model, 0, prompt.shape[1], count, batch)
        return min(clock(lambda: write(prompt, 0), device, REPEATS))

    workers = threads if device.type == "cpu" else 1  # on a CPU each thread writes a batch of its own
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    while True:
        try:
            long, short = sample(new), sample(1) if new > 1 else 0.0
            seconds = long - short if long > short else max(long, short)  # noise: at least no absurd rate
            break
        except RuntimeError as error:
            if batch == 1 or not out_of_memory(error):
                raise
            batch //= 2  # as a run does
            sampler.release()
    sampled = batch * max(1, new - 1) / seconds * workers
    torch.set_num_threads(threads)
    return {"sample": sampled * world, "eval": evaluated}


def lines(found: dict[str, Any]) -> list[str]:
    """The plan in words, for a terminal."""
    checked: Preflight = found["checked"]
    config, corpus = checked.config, checked.corpus
    splits = ", ".join(f"{name} {part['tokens']:,}" for name, part in corpus.facts["splits"].items())
    shares = [
        f"{share} ({count} times)" if (count := len([*equal])) > 3 else " ".join([share] * count)
        for share, equal in groupby("by the pool" if s is None else f"{s:.3f}" for s in checked.shares)
    ]
    control = "; an all-real control: the rest is fresh real text too" if config.sampling.source == "real" else ""
    rates = found["rates"]
    trained = found["trained_tokens"]
    span = f"{trained[0]:,}" if len(set(trained)) == 1 else f"{min(trained):,} to {max(trained):,}"
    out = [
        f"chain       {checked.chain.root}: generations 0 to {config.generations}, {checked.finished} finished",
        f"corpus      {config.corpus.source}: tokens {splits}; tokenizer {corpus.tokenizer.name}, {corpus.tokenizer.size:,} tokens",
        f"real text   needs {checked.real_needed:,} tokens, has {checked.real_available:,} ({config.mixing.real})",
        f"model       {found['parameters']:,} parameters; starts from {config.model.start}; device {found['device']}",
        f"regime      {config.mixing.regime}; real share by generation: {' '.join(shares)}{control}",
        f"generation  trains on {span} tokens, writes {checked.budget:,}, "
        f"scores {found['scored_tokens']:,} real and {checked.sample_tokens:,} written ones",
        f"time        about {_duration(found['seconds'])}: training {rates['train']:,.0f}, sampling {rates['sample']:,.0f}, "
        f"evaluation {rates['eval']:,.0f} tokens/s measured here",
        f"disk        about {checked.disk_needed / 1e6:,.1f} MB; {checked.disk_free / 1e6:,.0f} MB free",
    ]
    return [*out, *found["notes"]]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

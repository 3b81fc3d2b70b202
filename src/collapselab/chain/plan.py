"""Dry run: real text, parameters, disk space and time that a chain will need."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapselab.chain.opening import chain_path, check_start, open_corpus
from collapselab.chain.preflight import Preflight, preflight
from collapselab.config import RunConfig
from collapselab.evaluation.real_text import BATCH_TOKENS, held_out, token_losses
from collapselab.judging.curation import draws
from collapselab.learning.learners import learner_of
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes, clock, out_of_memory
from collapselab.sampling.sampler import Sampler
from collapselab.store import layout
from collapselab.store.layout import Chain

PROBE_TOKENS, REPEATS = 8, 3  # sampled per sequence to time a decode step; timings, of which the shortest counts


def plan(config: RunConfig, fork: tuple[Path, int] | None = None) -> dict[str, Any]:
    """Estimate a chain's needs, timing its own model on this machine; only the token cache is written."""
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain, corpus = Chain(chain_path(config)), open_corpus(config, processes)
    checked = preflight(config, corpus, chain, fork)
    check_start(checked, processes)
    block = config.training.block
    model = network.start_weights(config.model, previous=None, tokenizer=corpus.tokenizer, block=block, seed=0)
    console = Console(speaks=False)
    learner = learner_of(config)(config, processes, console)
    model, trains = learner.pace(model, corpus.train.ids[: checked.sizes[0] * block])
    trained = [sets.shows(config, blocks, g) * block for g, blocks in enumerate(checked.sizes)]
    text = held_out(corpus, config.evaluation)[0]
    context = config.evaluation.context or block
    scored = len(text) * context // (config.evaluation.stride or context)
    limit, count = config.evaluation.reference_tokens, checked.sample_tokens
    forward = scored + (count if limit is None else min(count, limit))  # generation 0's model scores the samples too
    sampler = Sampler(config, processes, console)
    length = max(1, config.prompt_length) + config.sequence_length - config.prompt_length
    # The parent's batch is close enough for an estimate, even if the fork will choose another.
    chains = [chain, *([Chain(fork[0])] if fork is not None else [])]
    batches = [batch for each in chains if (batch := layout.batch_of(each.batch_file)) is not None]
    batch = batches[0] if batches else sampler.batch_size(model, length, -(-checked.budget // config.sequence_length))
    rates = {"train": trains} | _measure(model, config, processes, sampler, text, length, batch)
    batch_tokens = batch * config.sequence_length
    written = -(-checked.budget // batch_tokens) * batch_tokens  # the last batch is computed whole
    each = [shown / rates["train"] + written / rates["sample"] + forward / rates["eval"] for shown in trained]
    seconds, left = sum(each[checked.finished :]), len(each[checked.finished :])
    more = [tokens / rates["sample"] for tokens in _judged_tokens(checked)]
    if config.learns_from_rewards:  # generation 0 has no policy steps
        read, written = _policy_tokens(config)
        steps = read * config.policy.inner / rates["train"] + read / rates["eval"] + written / rates["sample"]
        seconds += max(0, left - (checked.finished == 0)) * steps
    return {
        "checked": checked,
        "device": f"{processes.device.type}, {processes.world} process(es), {processes.precision}",
        "parameters": model.parameters,
        "notes": [note for note in (checked.note, processes.unused_gpu) if note],
        "trained_tokens": trained,
        "scored_tokens": scored,
        "rates": rates,
        "seconds": seconds + left * more[0],
        "seconds_most": seconds + left * more[1],
    }


def _judged_tokens(checked: Preflight) -> tuple[int, int]:
    """Least and most tokens that a generation writes for its judges, beside its samples."""
    if not checked.config.judged:
        return 0, 0
    settings, length = checked.config.judging, checked.config.sequence_length
    count = -(-checked.budget // length)
    second = settings.second if settings.judges else 0
    least, most = (length * (drawn - count + second) for drawn in draws(settings, count))
    return least, most


def _policy_tokens(config: RunConfig) -> tuple[int, int]:
    """Tokens that the policy steps of a generation read, prompts included, and those that they write."""
    policy, new = config.policy, config.sequence_length - config.prompt_length
    writers = 2 if policy.rejected == "first" else 1
    return policy.steps * policy.answers * config.sequence_length, writers * policy.steps * policy.answers * new


def _policy(config: RunConfig) -> list[str]:
    """Line on the policy steps of a chain."""
    if not config.learns_from_rewards:
        return []
    policy, (_, written) = config.policy, _policy_tokens(config)
    return [
        f"policy      {config.training.objective}: {policy.steps:,} steps of {policy.prompts:,} prompts x "
        f"{policy.samples} answers in each generation after 0, {written:,} tokens written; rewards by "
        f"{', '.join(config.judging.judges)}"
    ]


def _judging(checked: Preflight) -> list[str]:
    """Line on what the judges of a chain look at."""
    settings, count = checked.config.judging, -(-checked.budget // checked.config.sequence_length)
    if not checked.config.judged:
        return []
    if not settings.judges:
        return [f"judging     all {count:,} sequences of a generation are kept, and sure tokens of them drawn again"]
    least, most = draws(settings, count)
    drawn = f"{least:,}" if least == most else f"at least {least:,} and at most {most:,} (judging.most={settings.most})"
    second = f"; {settings.second:,} more to measure the judges" if settings.second else ""
    return [f"judging     {', '.join(settings.judges)}: {drawn} sequences drawn for {count:,} that are kept{second}"]


def _measure(
    model: network.LanguageModel,
    config: RunConfig,
    processes: Processes,
    sampler: Sampler,
    text: np.ndarray,
    length: int,
    batch: int,
) -> dict[str, float]:
    """Tokens per second of sampling and evaluation, all processes together, measured over a few steps."""
    device, world = processes.device, processes.world
    context = config.evaluation.context or config.training.block
    text = text[: world * max(context, BATCH_TOKENS[device.type] // context * context)]  # a batch for each process

    def evaluate() -> None:
        token_losses(model, text, context, context, config.evaluation.precision, processes, sampler.console)

    evaluated = len(text) / clock(evaluate, device, 1)[0]
    # A few tokens from the middle of a sequence on: an average decode step.
    new = max(1, min(PROBE_TOKENS, length // 2))
    threads = torch.get_num_threads()

    def sample(count: int) -> float:
        prompt = np.zeros((batch, max(1, length // 2)), np.int64)
        write = sampler.writer(model, 0, prompt.shape[1], count, batch)
        return min(clock(lambda: write(prompt, 0), device, REPEATS))

    workers = threads if device.type == "cpu" else 1  # on a CPU each thread samples its own batch
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


def lines(estimate: dict[str, Any]) -> list[str]:
    """Lines of an estimate for the terminal."""
    checked: Preflight = estimate["checked"]
    config, corpus = checked.config, checked.corpus
    splits = ", ".join(f"{name} {part['tokens']:,}" for name, part in corpus.facts["splits"].items())
    shares = [
        f"{share} ({count} times)" if (count := len([*equal])) > 3 else " ".join([share] * count)
        for share, equal in groupby("by the pool" if s is None else f"{s:.3f}" for s in checked.shares)
    ]
    control = "; an all-real control: the rest is fresh real text too" if config.sampling.source == "real" else ""
    rates, trained = estimate["rates"], estimate["trained_tokens"]
    alone = " beside the judges' own" if config.judged or config.learns_from_rewards else ""
    durations = dict.fromkeys(_duration(estimate[key]) for key in ("seconds", "seconds_most"))
    span = f"{trained[0]:,}" if len(set(trained)) == 1 else f"{min(trained):,} to {max(trained):,}"
    out = [
        f"chain       {checked.chain.root}: generations 0 to {config.generations}, {checked.finished} finished",
        f"corpus      {config.corpus.source}: tokens {splits}; tokenizer {corpus.tokenizer.name}, {corpus.tokenizer.size:,} tokens",
        f"real text   needs {checked.real_needed:,} tokens, has {checked.real_available:,} ({config.mixing.real})",
        f"model       {estimate['parameters']:,} parameters; starts from {config.model.start}; device {estimate['device']}",
        f"regime      {config.mixing.regime}; real share by generation: {' '.join(shares)}{control}",
        f"generation  trains on {span} tokens, writes {checked.budget:,}, "
        f"scores {estimate['scored_tokens']:,} real and {checked.sample_tokens:,} written ones",
        *_policy(config),
        *_judging(checked),
        f"time        about {' to '.join(durations)}{alone}: training {rates['train']:,.0f}, sampling {rates['sample']:,.0f}, "
        f"evaluation {rates['eval']:,.0f} tokens/s measured here",
        f"disk        about {checked.disk_needed / 1e6:,.1f} MB; {checked.disk_free / 1e6:,.0f} MB free",
    ]
    return [*out, *estimate["notes"]]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""Whether a chain has what it needs before it starts: real text, written text, and memory for both."""

from __future__ import annotations

import math
from typing import Any

from collapselab.config import RunConfig, UserError
from collapselab.config.schedules import real_share
from collapselab.mixing.regimes import REGIMES
from collapselab.mixing.sets import Past, outlook, sample_budget, set_blocks, set_size, shows
from collapselab.runtime.memory import check_memory

NO_PAST = Past([], [], 0)


def check_supply(config: RunConfig, available: int, past: Past = NO_PAST) -> dict[str, Any]:
    """Real text and samples the whole chain needs and has, in tokens.

    Args:
        past: training sets that exist already (a continued chain, a fork).

    Raises:
        UserError: real text or samples run out, said before the start.
    """
    size, block, done = set_size(config, available), config.training.block, len(past.blocks)
    shares = [real_share(config.mixing, g, config.generations) for g in range(config.generations + 1)]
    sizes, regime = set_blocks(config, available, past.blocks), REGIMES[config.mixing.regime]
    left = range(max(1, done), config.generations + 1)
    needs = [regime.needs(outlook(config, available, g, sizes[g - 1])) for g in left]
    later = [each.real for each in needs]
    need = (past.used if done else size) + (sum(later) if config.mixing.real == "fresh" else 0)
    if need > available:
        most = int(available / (need / size)) * block
        raise UserError(
            f"mixing.tokens={config.mixing.tokens}: the chain needs {need * block:,} tokens of real text never shown before, "
            f"the training split has {available * block:,}; lower mixing.tokens to at most {most}, or set mixing.real=reuse"
        )
    stands_in = 0
    if config.sampling.source == "real":
        stands_in = check_control(config, available, size, done, past.used, later)
    check_sizes(config, max(sizes[done:], default=size), sample_budget(config, available))
    written = sample_budget(config, available) // block
    if shares[-1] is None and not written:
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: less than one block of {block} tokens, so nothing would be "
            "accumulated; raise it or leave it null"
        )
    wanted = max((each.written for each in needs), default=0)
    if written < wanted:
        lower = "" if config.mixing.has_schedule else "".join(f", or lower mixing.{key}" for key in regime.keys)
        raise UserError(
            f"sampling.tokens={config.sampling.tokens}: a generation needs {wanted * block} tokens written by the one "
            f"before; raise sampling.tokens or leave it null{lower}"
        )
    return {
        "real_needed": (need + stands_in) * block,
        "real_had": available * block,
        "shares": shares,
        "set_tokens": size * block,
    }


def check_control(config: RunConfig, available: int, size: int, done: int, used: int, later: list[int]) -> int:
    """Real blocks that stand in the place of samples in an all-real control (`sampling.source=real`).

    Args:
        size: blocks of a training set. done: training sets that exist, which have shown `used` real blocks.
        later: real blocks that each further one takes by its schedule.

    Raises:
        UserError: there are fewer than its generations would write; says how many generations it reaches.
    """
    written = sample_budget(config, available) // config.training.block
    fresh = later if config.mixing.real == "fresh" else []
    taken = used if done else size
    reached = 0
    for g in range(1, config.generations + 1):
        at = g - max(1, done)
        taken += fresh[at] if 0 <= at < len(fresh) else 0
        if taken + g * written > available:
            break
        reached = g
    if reached < config.generations:
        block = config.training.block
        raise UserError(
            f"sampling.source='real': each generation gives {written * block:,} tokens of real text never shown before, and the "
            f"training split of {available * block:,} reaches generation {reached}; set generations={reached} for this arm, "
            "or lower mixing.tokens"
        )
    return config.generations * written


def check_sizes(config: RunConfig, size: int, budget: int) -> None:
    """Raises UserError where the lists that a generation is made from, or one batch of samples, do not fit into memory."""
    training, sampling = config.training, config.sampling
    key = "epochs" if training.tokens is None else "tokens"
    order = f"the order of {shows(config, size):,} blocks"
    check_memory(16 * shows(config, size), f"training.{key}", getattr(training, key), order)
    batch, sequences = sampling.batch_size or 1, -(-budget // config.sequence_length)
    rows = -(-sequences // batch) * batch  # the last batch is computed whole
    key = "tokens" if sequences >= batch else "batch_size"
    prompts = 32 * rows * max(1, config.prompt_length)
    check_memory(prompts, f"sampling.{key}", getattr(sampling, key), f"the prompts of {rows:,} sequences")
    model = config.model
    if model.pretrained is None and model.family != "bigram":
        factors = {
            "sampling.batch_size": batch,
            "sampling.beams": sampling.beams,
            "sampling.length": config.sequence_length,
            "model.layers": model.layers,
            "model.width": model.width // model.heads * (model.kv_heads or model.heads),
        }
        key = max(factors, key=lambda name: factors[name])
        what = f"keys and values of {batch * sampling.beams:,} sequences side by side"
        needed = 4 * math.prod(factors.values())  # two bytes each at the least
        check_memory(needed, key, factors[key], what, on_device=True)

"""Untrained networks of the configurable families, and their sizes."""

from __future__ import annotations

import dataclasses
from functools import cache
from importlib import import_module
from typing import Any

import torch

from collapselab.config import ModelConfig
from collapselab.config.families import FAMILIES
from collapselab.runtime.memory import check_memory, on_gpu

OVERFLOW = 1 << 61  # parameters; torch has no tensors of 2^63 bytes


@cache
def parameters(config: ModelConfig, *, vocab: int, context: int) -> int:
    """Count the parameters of a configured network without allocating it (0 for a bigram model)."""
    if config.layers > 2:  # all layers are equally large
        one, two = (parameters(dataclasses.replace(config, layers=n), vocab=vocab, context=context) for n in (1, 2))
        return one + (config.layers - 1) * (two - one)
    try:
        with torch.device("meta"):  # shapes without memory
            net = untrained(config, vocab=vocab, separator=0, context=context)
    except RuntimeError:
        return OVERFLOW
    return sum(weight.numel() for weight in net.parameters())


def check_size(config: ModelConfig, *, vocab: int, context: int) -> None:
    """Raise UserError, naming the key to blame, if a new model is too large to train in this machine's memory."""

    def size(**changes: Any) -> int:
        changed = dataclasses.replace(config, **changes)
        padded = -(-vocab // changed.pad_vocabulary) * changed.pad_vocabulary
        return parameters(changed, vocab=padded, context=changed.context or context)

    smaller = {"width": 2 * config.heads, "layers": 1, "mlp_width": None, "context": None, "pad_vocabulary": 1}
    key = min(smaller, key=lambda name: size(**{name: smaller[name]}))
    # float32: the start weights, their copy in training, its gradient and two moments (the last three on the GPU, if any).
    copies = 2 if on_gpu() else 5
    what = f"a model of {size():,} parameters, in {copies} copies"
    check_memory(4 * copies * size(), f"model.{key}", getattr(config, key), what)


def network_of(config: ModelConfig) -> Any:
    """Return the network class of the configured family."""
    family = FAMILIES[config.family]
    return getattr(import_module(family.module), family.network)


def published_bytes(config: ModelConfig, *, vocab: int, context: int, tokens: int) -> int:
    """Bytes of a published model, computed without building one; for a table of counts the most that so many tokens fill."""
    counts = getattr(network_of(config), "most_bytes", None)
    return counts(vocab, tokens) if counts else 4 * parameters(config, vocab=vocab, context=context)


def untrained(config: ModelConfig, *, vocab: int, separator: int, context: int) -> Any:
    """Build a network of the configured family and size, with random weights from torch's global generator, for sequences of up
    to `context` tokens (a bigram model: of any length)."""
    settings, network = FAMILIES[config.family].settings(config, context), network_of(config)
    ends = {"bos_token_id": separator, "eos_token_id": separator}
    return network(network.config_class(vocab_size=vocab, **settings, **ends))

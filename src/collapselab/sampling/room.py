"""GPU memory of sampling, which limits the batch size."""

from __future__ import annotations

import torch

from collapselab.models.network import LanguageModel
from collapselab.sampling.engine import PREFILL_TOKENS
from collapselab.sampling.weights import shape_of, unsupported


def row_bytes(model: LanguageModel, length: int, precision: str, beams: int = 1) -> int:
    """Estimate the GPU memory of one more sequence in a batch, in bytes: cache, logits, activations of a layer."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    hidden = int(model.net.config.hidden_size)
    if unsupported(model.net) is None and beams == 1:
        cache = shape_of(model).cache_bytes(length, dtype)
    else:
        cache = 2 * 2 * int(model.net.config.num_hidden_layers) * hidden * length * 4  # copied as it grows
    return beams * (cache + 3 * 4 * model.vocab + 64 * hidden + 8 * length)


def rows_that_fit(free: int, model: LanguageModel, length: int, read: int, precision: str, beams: int = 1) -> int:
    """Estimate how many sequences fit into `free` bytes, 0 or more; the `read` prompt tokens of each are read in one pass, some
    sequences at a time."""
    each = row_bytes(model, length, precision, beams)
    token = prompt_bytes(model, precision) if beams == 1 else 0
    return max(0, free // (each + read * token), (free - PREFILL_TOKENS * token) // each)


def prompt_bytes(model: LanguageModel, precision: str) -> int:
    """Estimate the GPU memory of the engine per prompt token while it reads prompts, in bytes."""
    if unsupported(model.net) is not None:
        return 0  # for the plain sampler part of `row_bytes`
    settings = model.net.config
    width = int(settings.hidden_size)
    inner = int(getattr(settings, "intermediate_size", None) or getattr(settings, "n_inner", None) or 4 * width)
    # Gate, up and their product; the residual stream, its norm, and their sum.
    return (3 * inner + 4 * width) * (2 if precision == "bf16" else 4)

"""GPU memory that sampling takes: what the size of a batch is chosen by."""

from __future__ import annotations

import torch

from collapselab.modeling import LanguageModel
from collapselab.sampling.engine import PREFILL_TOKENS
from collapselab.sampling.weights import form_of, unsupported


def row_bytes(model: LanguageModel, length: int, precision: str, beams: int = 1) -> int:
    """GPU memory that one more sequence of a batch takes, in bytes: its cache, its logits, what a layer holds."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    hidden = int(model.net.config.hidden_size)
    if unsupported(model.net) is None and beams == 1:
        cache = form_of(model).cache_bytes(length, dtype)
    else:
        cache = 2 * 2 * int(model.net.config.num_hidden_layers) * hidden * length * 4  # copied as it grows
    return beams * (cache + 3 * 4 * model.vocab + 64 * hidden + 8 * length)


def prompt_bytes(model: LanguageModel, tokens: int, precision: str) -> int:
    """GPU memory that reading prompts of so many tokens takes once, in bytes: the engine reads a part of them at a time."""
    if unsupported(model.net) is not None:
        return 0  # the plain sampler holds it per row
    settings = model.net.config
    width = int(settings.hidden_size)
    inner = int(getattr(settings, "intermediate_size", None) or getattr(settings, "n_inner", None) or 4 * width)
    held = 3 * inner + 4 * width  # of a token: gate, up and their product; its state, a norm of it, a sum
    return max(0, min(tokens, PREFILL_TOKENS)) * held * (2 if precision == "bf16" else 4)

"""The layout of weights that the decode step reads. Each family has a file that fills it (layout_gpt2, layout_llama)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EngineShape:
    """Sizes of a decode step."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocab: int
    """True columns of the logits; embeddings are padded with zero rows to a multiple of 64."""
    eps: float
    tied: bool
    """One matrix for input and output embeddings."""

    def cache_bytes(self, length: int, dtype: torch.dtype) -> int:
        """Bytes of the key-value cache of one sequence."""
        return 2 * self.layers * self.kv_heads * self.head_dim * length * dtype.itemsize


@dataclass
class Block:
    """Weights of one layer; matrices are (in, out), biases None if the family has none."""

    norm_1: Tensor
    norm_1_bias: Tensor | None
    qkv: Tensor
    """(width, (heads + 2 kv_heads) head_dim)"""
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    norm_2: Tensor
    norm_2_bias: Tensor | None
    up: Tensor
    """(width, mlp), or (width, 2 mlp) with the gate first."""
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass
class EngineWeights:
    """All weights of a model as the decode step reads them."""

    embed: Tensor
    """(padded vocabulary, width)"""
    places: Tensor | None
    """(longest, width) learned positions (GPT-2), or None."""
    turns: Tensor | None
    """(longest, head_dim) float32: cosines, then sines, of the rotary angles (Llama), or None."""
    blocks: list[Block]
    norm: Tensor
    norm_bias: Tensor | None
    head: Tensor
    """(padded vocabulary, width)"""

    def tensors(self) -> list[Tensor | None]:
        per_block = [getattr(block, field.name) for block in self.blocks for field in fields(Block)]
        return [self.embed, self.places, self.turns, *per_block, self.norm, self.norm_bias, self.head]


def differs(settings: Any, **plain: Any) -> str | None:
    """Return the first of these settings with another value, as `name=value`, or None."""
    return next((f"{k}={getattr(settings, k)}" for k, v in plain.items() if getattr(settings, k, v) != v), None)

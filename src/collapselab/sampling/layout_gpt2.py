"""GPT-2 weights in the engine's layout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from collapselab.sampling.layout import Block, EngineShape, EngineWeights, differs


def unsupported(net: Any) -> str | None:
    return differs(
        net.config, activation_function="gelu_new", scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=False, add_cross_attention=False,
    )  # fmt: skip


def shape(net: Any, vocab: int, tied: bool) -> EngineShape:
    heads, width, eps = net.config.n_head, net.config.n_embd, net.config.layer_norm_epsilon
    return EngineShape(net.config.n_layer, heads, heads, width // heads, width, vocab, eps, tied)


def packed(net: Any, length: int, embed: Tensor, head: Tensor) -> EngineWeights:
    blocks = [
        Block(
            b.ln_1.weight, b.ln_1.bias, b.attn.c_attn.weight, b.attn.c_attn.bias, b.attn.c_proj.weight,
            b.attn.c_proj.bias, b.ln_2.weight, b.ln_2.bias, b.mlp.c_fc.weight, b.mlp.c_fc.bias,
            b.mlp.c_proj.weight, b.mlp.c_proj.bias,
        ) for b in net.transformer.h
    ]  # fmt: skip
    last = net.transformer.ln_f
    return EngineWeights(embed, net.transformer.wpe.weight[:length], None, blocks, last.weight, last.bias, head)

"""Llama weights in the engine's layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collapselab.sampling.layout import Block, EngineShape, EngineWeights, differs

STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies that do not change with the length


def unsupported(net: Any) -> str | None:
    rope = getattr(net.model.rotary_emb, "rope_type", "default")
    if rope not in STATIC_ROPE:
        return f"rope_type={rope}"
    if net.model.rotary_emb.inv_freq.numel() * 2 != net.model.layers[0].self_attn.head_dim:
        return "rotary angles for a part of each head"
    return differs(net.config, hidden_act="silu")


def shape(net: Any, vocab: int, tied: bool) -> EngineShape:
    settings, head_dim = net.config, net.model.layers[0].self_attn.head_dim
    heads, kv_heads, width = settings.num_attention_heads, settings.num_key_value_heads, settings.hidden_size
    layers, eps = settings.num_hidden_layers, settings.rms_norm_eps
    return EngineShape(layers, heads, kv_heads, head_dim, width, vocab, eps, tied)


def packed(net: Any, length: int, embed: Tensor, head: Tensor) -> EngineWeights:
    blocks = []
    for layer in net.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        blocks.append(
            Block(
                layer.input_layernorm.weight, None, *_joined(attention.q_proj, attention.k_proj, attention.v_proj),
                *_joined(attention.o_proj), layer.post_attention_layernorm.weight, None,
                *_joined(mlp.gate_proj, mlp.up_proj), *_joined(mlp.down_proj),
            )
        )  # fmt: skip
    rope = net.model.rotary_emb
    # Always on the CPU: cosines of CPU and GPU differ in their last bits, and the model's device differs in a resumed chain.
    angle = torch.outer(torch.arange(length).float(), rope.inv_freq.float().cpu())
    turns = torch.cat([angle.cos(), angle.sin()], 1) * getattr(rope, "attention_scaling", 1.0)
    return EngineWeights(embed, None, turns, blocks, net.model.norm.weight, None, head)


def _joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Join linear maps of one input into one matrix (in, out) and its bias."""
    biases = [linear.bias for linear in linears]
    return torch.cat([linear.weight.t() for linear in linears], 1), None if biases[0] is None else torch.cat(biases)

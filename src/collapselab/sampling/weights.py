"""GPT-2's and Llama's weights in the one layout that the decode step reads, refilled in place for each generation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from collapselab.models.network import LanguageModel
from collapselab.sampling.draw import GROUP

STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies that do not change with the length


@dataclass(frozen=True)
class EngineShape:
    """Sizes of a decode step."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocab: int
    """True columns of the logits; rows of the embeddings are padded to a multiple of 64 with zeros."""
    eps: float
    tied: bool
    """One matrix for input and output embeddings."""

    def cache_bytes(self, length: int, dtype: torch.dtype) -> int:
        """Bytes of the key-value cache of one sequence."""
        return 2 * self.layers * self.kv_heads * self.head_dim * length * dtype.itemsize


@dataclass
class Block:
    """Weights of one layer; matrices are (in, out), biases None where a family has none."""

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
    """(longest, width) learned places (GPT-2), or None."""
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


def unsupported(net: Any) -> str | None:
    """Why the engine cannot run this network, or None. What changes the arithmetic of a family is asked for by name."""
    family, settings = type(net).__name__, net.config
    if family == "GPT2LMHeadModel":
        plain = {
            "activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False, "add_cross_attention": False,
        }  # fmt: skip
    elif family == "LlamaForCausalLM":
        plain = {"hidden_act": "silu"}
        rope = getattr(net.model.rotary_emb, "rope_type", "default")
        if rope not in STATIC_ROPE:
            return f"rope_type={rope}"
        if net.model.rotary_emb.inv_freq.numel() * 2 != net.model.layers[0].self_attn.head_dim:
            return "rotary angles for a part of each head"
    else:
        return family
    for name, value in plain.items():
        if getattr(settings, name, value) != value:
            return f"{name}={getattr(settings, name)}"
    return None


def form_of(model: LanguageModel) -> EngineShape:
    net, settings = model.net, model.net.config
    tied = net.get_output_embeddings().weight is net.get_input_embeddings().weight
    if type(net).__name__ == "GPT2LMHeadModel":
        heads, width, eps = settings.n_head, settings.n_embd, settings.layer_norm_epsilon
        return EngineShape(settings.n_layer, heads, heads, width // heads, width, model.vocab, eps, tied)
    head_dim = net.model.layers[0].self_attn.head_dim
    heads, kv_heads, width = settings.num_attention_heads, settings.num_key_value_heads, settings.hidden_size
    return EngineShape(
        settings.num_hidden_layers, heads, kv_heads, head_dim, width, model.vocab, settings.rms_norm_eps, tied
    )


def _rows(matrix: Tensor, vocab: int) -> Tensor:
    """The true rows, padded with zeros to a multiple of 64."""
    return F.pad(matrix[:vocab], (0, 0, 0, -vocab % GROUP))


def _joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Several linear maps of one input as one matrix (in, out) and its bias."""
    biases = [linear.bias for linear in linears]
    return torch.cat([linear.weight.t() for linear in linears], 1), None if biases[0] is None else torch.cat(biases)


def packed(model: LanguageModel, length: int) -> EngineWeights:
    """The model's weights in the engine's layout; views or copies, of the model's dtype and device."""
    net, vocab = model.net, model.vocab
    head = _rows(net.get_output_embeddings().weight, vocab)
    embed = _rows(net.get_input_embeddings().weight, vocab)
    if type(net).__name__ == "GPT2LMHeadModel":
        blocks = [
            Block(
                b.ln_1.weight, b.ln_1.bias, b.attn.c_attn.weight, b.attn.c_attn.bias, b.attn.c_proj.weight,
                b.attn.c_proj.bias, b.ln_2.weight, b.ln_2.bias, b.mlp.c_fc.weight, b.mlp.c_fc.bias,
                b.mlp.c_proj.weight, b.mlp.c_proj.bias,
            ) for b in net.transformer.h
        ]  # fmt: skip
        last = net.transformer.ln_f
        return EngineWeights(embed, net.transformer.wpe.weight[:length], None, blocks, last.weight, last.bias, head)
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
    # On the CPU wherever the model lies: its place differs between a chain in one go and one that goes on, and cosines of
    # a CPU and of a GPU differ in their last bits.
    angle = torch.outer(torch.arange(length).float(), rope.inv_freq.float().cpu())
    turns = torch.cat([angle.cos(), angle.sin()], 1) * getattr(rope, "attention_scaling", 1.0)
    return EngineWeights(embed, None, turns, blocks, net.model.norm.weight, None, head)


class Weights:
    """A model's weights on the device that samples, shared by engines and refilled in place for each generation.

    Args:
        length: tokens of a sequence, with what it reads first.
    """

    def __init__(self, model: LanguageModel, length: int, device: torch.device, dtype: torch.dtype):
        self.form, self.length, self.device, self.dtype = form_of(model), length, device, dtype
        self.unused = None if model.unused is None else model.unused.to(device)
        with torch.no_grad():
            self.packed = packed(model, length - 1)  # the last token of a sequence is written, never read
            holders: list[EngineWeights | Block] = [self.packed, *self.packed.blocks]
            for holder in holders:
                for field in fields(holder):
                    value = getattr(holder, field.name)
                    if isinstance(value, Tensor):
                        kept = torch.float32 if field.name == "turns" else dtype
                        setattr(holder, field.name, value.to(device, kept, copy=True).contiguous())
            if self.form.tied:
                self.packed.head = self.packed.embed

    def load(self, model: LanguageModel) -> bool:
        """Copies another generation's weights into the same memory; False where their shapes are others."""
        if unsupported(model.net) is not None or form_of(model) != self.form:
            return False
        fresh, here = packed(model, self.length - 1).tensors(), self.packed.tensors()
        if [t is not None and t.shape for t in fresh] != [t is not None and t.shape for t in here]:
            return False
        with torch.no_grad():
            for new, old in zip(fresh, here, strict=True):
                if old is not None and new is not None:
                    old.copy_(new)
        return True

"""The fast sampler: GPT-2 and Llama weights, a cache allocated once, one decode step for every place and generation.

All sequences of a batch have equal length and move in lock step. So the cache is one block of memory that is never moved
or grown, a step differs from the next only by a number (the place), and a GPU can replay one recorded step for all.

The tricks, and what each is for (figures: docs/log.md; GPU figures are those of the first prototype on one H200, GPT-2
124M in bf16, batch 1024, where not said otherwise; this file has not been measured on a GPU):

1. A static cache. transformers copies its whole cache at every token; here a token costs one write.
2. On a GPU the place lies in device memory, and a step is one CUDA graph, recorded once and replayed for every place of
   every sequence of every generation: no launch costs, nothing to wait for inside a sequence. 196,869 tokens/s against
   28,663 by `generate`, with attention still over the whole cache.
3. Attention reads only the filled part and writes the new entry itself (kernels.py): 559,934 tokens/s.
4. Weights live in the engine, packed as the step wants them (q, k and v in one matrix, gate and up in one), and a new
   generation is copied into the same memory: the graph stays valid.
5. Sums of the residual stream are fused with the norm that follows, the draw is one pass over the logits (kernels.py).
6. The last product writes float32: logits of real GPT-2 weights lie near -100, where bf16 has steps of 0.5, and a
   probability would be off by up to 28 %.
7. On a CPU the same step runs eagerly, without a compiler, several batches side by side with one thread each (see
   `Sampler`): for a model this small, dividing one product between threads costs more than it brings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from collapselab.config import SamplingConfig
from collapselab.modeling import LanguageModel
from collapselab.sampling.draw import GROUP, draw, penalised, truncated, uniforms

PREFILL_TOKENS = 1 << 17  # prompt tokens that are read at once: what a prefill needs beside the cache
STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies that do not change with the length


@dataclass(frozen=True)
class Form:
    """Sizes of a decode step."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocab: int
    """True columns of the logits; rows of the embeddings are padded to a multiple of 64 with zeros."""
    eps: float

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
class Packed:
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


def form_of(model: LanguageModel) -> Form:
    settings = model.net.config
    if type(model.net).__name__ == "GPT2LMHeadModel":
        heads, width, eps = settings.n_head, settings.n_embd, settings.layer_norm_epsilon
        return Form(settings.n_layer, heads, heads, width // heads, width, model.vocab, eps)
    head_dim = model.net.model.layers[0].self_attn.head_dim
    heads, kv_heads, width = settings.num_attention_heads, settings.num_key_value_heads, settings.hidden_size
    return Form(settings.num_hidden_layers, heads, kv_heads, head_dim, width, model.vocab, settings.rms_norm_eps)


def _rows(matrix: Tensor, vocab: int) -> Tensor:
    """The true rows, padded with zeros to a multiple of 64."""
    return F.pad(matrix[:vocab], (0, 0, 0, -vocab % GROUP))


def _joined(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Several linear maps of one input as one matrix (in, out) and its bias."""
    biases = [linear.bias for linear in linears]
    return torch.cat([linear.weight.t() for linear in linears], 1), None if biases[0] is None else torch.cat(biases)


def packed(model: LanguageModel, length: int) -> Packed:
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
        return Packed(embed, net.transformer.wpe.weight[:length], None, blocks, last.weight, last.bias, head)
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
    angle = torch.outer(torch.arange(length, device=rope.inv_freq.device).float(), rope.inv_freq.float())
    turns = torch.cat([angle.cos(), angle.sin()], 1) * getattr(rope, "attention_scaling", 1.0)
    return Packed(embed, None, turns, blocks, net.model.norm.weight, None, head)


class Weights:
    """A model's weights on the device that samples, shared by engines and refilled in place for each generation.

    Args:
        length: tokens of a sequence, with what it reads first.
    """

    def __init__(self, model: LanguageModel, length: int, device: torch.device, dtype: torch.dtype):
        self.form, self.length, self.device, self.dtype = form_of(model), length, device, dtype
        with torch.no_grad():
            self.packed = packed(model, length - 1)  # the last token of a sequence is written, never read
            for holder in (self.packed, *self.packed.blocks):
                for field in fields(holder):
                    value = getattr(holder, field.name)
                    if isinstance(value, Tensor):
                        kept = torch.float32 if field.name == "turns" else dtype
                        setattr(holder, field.name, value.to(device, kept, copy=True).contiguous())
            if model.net.get_output_embeddings().weight is model.net.get_input_embeddings().weight:
                self.packed.head = self.packed.embed

    def load(self, model: LanguageModel) -> bool:
        """Copies another generation's weights into the same memory; False where their shapes are others."""
        if unsupported(model.net) is not None or form_of(model) != self.form:
            return False
        fresh, here = packed(model, self.length - 1).tensors(), self.packed.tensors()
        tied = model.net.get_output_embeddings().weight is model.net.get_input_embeddings().weight
        same = [(a is None) == (b is None) and (a is None or a.shape == b.shape) for a, b in zip(fresh, here, strict=True)]
        if not all(same) or tied != (self.packed.head is self.packed.embed):
            return False
        with torch.no_grad():
            for new, old in zip(fresh, here, strict=True):
                if old is not None and new is not None:
                    old.copy_(new)
        return True


class Engine:
    """A batch of sequences in lock step over one set of weights.

    Args:
        rows: sequences of a batch.
        kernels: run the Triton kernels (a GPU, or Triton's interpreter); without them the same step in plain torch.
    """

    def __init__(self, weights: Weights, rows: int, config: SamplingConfig, *, kernels: bool):
        form, device = weights.form, weights.device
        self.weights, self.form, self.rows, self.config, self.kernels = weights, form, rows, config, kernels
        shape = (form.layers, rows, form.kv_heads, weights.length - 1, form.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=weights.dtype)
        self.values = torch.zeros(shape, device=device, dtype=weights.dtype)
        self.tokens = torch.zeros(rows, weights.length, device=device, dtype=torch.int64)
        self.place = torch.zeros(1, device=device, dtype=torch.int64)  # of the token that is read next
        self.t = 0  # the same on the host; only the plain step reads it
        self.stream = torch.zeros(2, device=device, dtype=torch.int64)  # Philox key, number of the first sequence
        self.head = 1  # tokens read first
        self.u_NB: Tensor | None = None
        self.graph: Any = None
        if kernels:
            from collapselab.sampling.kernels import Draw

            self.drawer = Draw(rows, form.vocab, config, device)

    @torch.inference_mode()
    def write(self, prompts_BP: np.ndarray, key: int, first: int) -> Tensor:
        """Continues each prompt to the full length.

        Args:
            prompts_BP: int64 (rows, P), P >= 1: what the model reads first.
            key: Philox key of the generation.
            first: number of the first sequence; row i draws from the stream of sequence first + i.

        Returns:
            int64 (rows, length - P) on the engine's device: overwritten by the next call.
        """
        head, length = prompts_BP.shape[1], self.weights.length
        prompts = torch.from_numpy(prompts_BP).to(self.weights.device)
        self.tokens.copy_(prompts[:, :1].expand(-1, length))  # a place not yet written holds a token already seen
        self.tokens[:, :head] = prompts
        self.place.fill_(head - 1)
        self.t, self.head = head - 1, head
        signed = key - (1 << 64) if key >= 1 << 63 else key
        self.stream.copy_(torch.tensor([signed, first]))
        if head > 1:
            self.prefill(prompts[:, :-1])
        if not self.kernels:
            u = uniforms(key, range(first, first + self.rows), range(head, length))
            self.u_NB = torch.from_numpy(np.ascontiguousarray(u.T))
        elif self.graph is None and self.weights.device.type == "cuda":
            self.capture()
        for _ in range(length - head):
            if self.graph is not None:
                self.graph.replay()
            else:
                self.step()
        return self.tokens[:, head:]

    def capture(self) -> None:
        """Records one step. The steps that warm it up write what the first replay overwrites."""
        before = self.place.clone(), self.tokens.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.step()
                self.place.copy_(before[0])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        self.place.copy_(before[0])
        self.tokens.copy_(before[1])

    def step(self) -> Tensor:
        """Reads the token at `place` of every sequence and writes the next one. Returns the logits, (rows, padded)."""
        w, form = self.weights.packed, self.form
        read = self.tokens.index_select(1, self.place)[:, 0] if self.kernels else self.tokens[:, self.t]
        x = F.embedding(read, w.embed)
        if w.places is not None:
            x = x + (w.places.index_select(0, self.place) if self.kernels else w.places[self.t])
        h = self._norm(x, w.blocks[0].norm_1, w.blocks[0].norm_1_bias)
        for number, block in enumerate(w.blocks):
            a = self._attend(number, _linear(h, block.qkv, block.qkv_bias))
            h = self._add_norm(x, a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias)
            h = _act(_linear(h, block.up, block.up_bias), gated=w.places is None) @ block.down
            after = w.blocks[number + 1] if number + 1 < form.layers else None
            weight, bias = (after.norm_1, after.norm_1_bias) if after else (w.norm, w.norm_bias)
            h = self._add_norm(x, h, block.down_bias, weight, bias)
        logits = _product(h, w.head.t())
        self._draw(logits)
        return logits

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return F.rms_norm(x, (self.form.width,), weight, self.form.eps)
        return F.layer_norm(x, (self.form.width,), weight, bias, self.form.eps)

    def _add_norm(self, x: Tensor, y: Tensor, y_bias: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x += y + y_bias, in place; returns the norm of x."""
        if self.kernels:
            from collapselab.sampling.kernels import add_norm

            return add_norm(x, y, y_bias, weight, bias, self.form.eps)
        x.add_(y)
        if y_bias is not None:
            x.add_(y_bias)
        return self._norm(x, weight, bias)

    def _attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Attention of the new token over the filled part of the cache, which gets its entry. (rows, heads head_dim)"""
        form, turns = self.form, self.weights.packed.turns
        if self.kernels:
            from collapselab.sampling.kernels import decode_attention

            return decode_attention(qkv, self.keys[layer], self.values[layer], turns, self.place, form.heads)
        heads = qkv.view(self.rows, form.heads + 2 * form.kv_heads, form.head_dim)
        q, k, v = heads.split([form.heads, form.kv_heads, form.kv_heads], 1)
        if turns is not None:
            q, k = _turned(heads[:, : -form.kv_heads], turns[self.t]).split([form.heads, form.kv_heads], 1)
        end = self.t + 1
        self.keys[layer, :, :, self.t] = k
        self.values[layer, :, :, self.t] = v
        # Queries that share a key-value head stand in the place of queries at several places.
        q = q.reshape(self.rows, form.kv_heads, -1, form.head_dim)
        keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        return F.scaled_dot_product_attention(q, keys, values).reshape(self.rows, -1)

    def _draw(self, logits: Tensor) -> None:
        """Draws the next token and writes it; `place` moves on."""
        penalty = self.config.repetition_penalty
        if self.kernels:
            seen = penalised(logits, self.tokens, penalty) if penalty != 1 else logits
            self.drawer(seen, self.tokens, self.place, self.stream)
            self.place += 1
            return
        assert self.u_NB is not None
        logits[:, self.form.vocab :] = -torch.inf
        kept = truncated(logits, self.tokens[:, : self.t + 1], self.config)
        self.tokens[:, self.t + 1] = draw(kept, self.u_NB[self.t + 1 - self.head])
        self.t += 1

    def prefill(self, prompts_BP: Tensor) -> None:
        """Reads prompts in one pass and fills their cache entries; the last prompt token is left for the first step."""
        w, form = self.weights.packed, self.form
        count = prompts_BP.shape[1]
        each = max(1, PREFILL_TOKENS // count)
        for begin in range(0, self.rows, each):
            rows = slice(begin, min(begin + each, self.rows))
            x = F.embedding(prompts_BP[rows], w.embed)
            if w.places is not None:
                x = x + w.places[:count]
            for number, block in enumerate(w.blocks):
                h = self._norm(x, block.norm_1, block.norm_1_bias)
                qkv = _linear(h.flatten(0, 1), block.qkv, block.qkv_bias).view(*h.shape[:2], -1, form.head_dim)
                q, k, v = qkv.split([form.heads, form.kv_heads, form.kv_heads], 2)
                if w.turns is not None:
                    turns = w.turns[:count, None]
                    q, k = _turned(q, turns), _turned(k, turns)
                q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
                self.keys[number, rows, :, :count] = k
                self.values[number, rows, :, :count] = v
                if number + 1 == form.layers:
                    break  # nothing reads what the last layer would make of a prompt's inside
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=form.heads != form.kv_heads)
                a = a.transpose(1, 2).flatten(2).flatten(0, 1)
                h = self._add_norm(x.view(-1, form.width), a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias)
                h = _act(_linear(h, block.up, block.up_bias), gated=w.places is None) @ block.down
                x = x + (h if block.down_bias is None else h + block.down_bias).view_as(x)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight in float32, whatever the inputs are."""
    if x.dtype == torch.float32:
        return x @ weight
    if x.device.type == "cuda":
        return torch.mm(x, weight, out_dtype=torch.float32)
    return x.float() @ weight.float()


def _act(x: Tensor, *, gated: bool) -> Tensor:
    """SwiGLU of (gate, up) halves, or GPT-2's GELU."""
    if not gated:
        return F.gelu(x, approximate="tanh")
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary places (Su et al. 2021) on the last axis, halves paired as in Llama; float32 inside, x's dtype out."""
    cos, sin = turns.chunk(2, -1)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

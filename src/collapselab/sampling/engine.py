"""The fast sampler: GPT-2 and Llama weights, a cache allocated once, one decode step for every place and generation.

All sequences of a batch have equal length and move in lock step. So the cache is one block of memory that is never moved
or grown, a step differs from the next only by a number (the place), and a GPU can replay one recorded step for all.

The tricks, with what each is for and what it bought. CPU figures: one core, tokens/s at 128 tokens (docs/log.md has the
trials). GPU figures: the first prototype on one H200, GPT-2 124M in bf16, batch 1024. THIS FILE HAS NOT RUN ON A GPU.

1. A static cache. transformers copies its whole cache at every token; here a token costs one write. CPU: 80,000 for 2 layers
   of 64 and 17,700 for 4 of 128, where `generate` has 20,300 and 11,500 with two cores.
2. On a GPU the place lies in device memory, and a step is one CUDA graph, recorded once and replayed for every place of
   every sequence of every generation: no launch costs, nothing to wait for inside a sequence. An earlier trial on that card,
   eager torch with one graph per 64 places and attention over the whole cache: 196,869, where `generate` has 28,663 at
   batch 256 and 39,809 at best (4,096).
3. Attention reads only the filled part and writes the new entry itself (kernels.py). GPU: 559,934, with the prototype's draw.
4. Weights live in the engine, packed as the step wants them (q, k and v in one matrix, gate and up in one), and a new
   generation is copied into the same memory: the graph stays valid. GPU: not measured; it saves recording and compiling.
5. Sums of the residual stream are fused with the norm that follows (kernels.py): two launches and two passes fewer per
   layer. GPU: not measured.
6. Without truncation the draw reads all logits once (kernels.py); on a CPU it is one softmax, and sums over groups (draw.py):
   231 us for 128 x 2,048, where exp(x - max) alone took 230. GPU: 275 us for 1,024 x 50,304 in the prototype; this one
   not measured.
7. The last product writes float32: logits of real GPT-2 weights lie near -100, where bf16 has steps of 0.5, and a
   probability would be off by up to 28 %. It buys exactness; 4 bytes more per logit, by the memory ceiling 7 % of a step
   at 128 tokens and 1 % at 1,024.
8. On a CPU keys lie with their places last. CPU: 15,400 -> 17,900 for 4 layers of 128.
9. On a CPU the step runs eagerly, without a compiler, several batches at a time in forked processes (side_by_side.py).
   Two cores: 69,000 -> 105,000 or more for 2 layers of 64, 19,800 -> 28,000 for 4 of 128, against Python threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from collapselab.config import SamplingConfig
from collapselab.models.network import LanguageModel
from collapselab.models.pretrained import TOLERANCE, distance, logits_of, probe
from collapselab.sampling.draw import draw, penalised, truncated, uniforms
from collapselab.sampling.weights import Weights, unsupported

TRIED = 6  # tokens of the sequences that an engine is tried on
PREFILL_TOKENS = 1 << 17  # prompt tokens that are read at once: what a prefill needs beside the cache

_flaws: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()  # by network


@torch.inference_mode()
def engine_flaw(model: LanguageModel) -> str | None:
    """Why the engine cannot run this network, or None: its configuration says so, or a step does not give the logits that
    the network gives for the whole text. Computed once for a network."""
    net = model.net
    if net not in _flaws:
        _flaws[net] = unsupported(net) or _tried(model)
    return _flaws[net]


def _tried(model: LanguageModel) -> str | None:
    prompts = probe(model.net)[:, : TRIED // 2]
    longest = getattr(model.net.config, "max_position_embeddings", None) or TRIED
    length = min(TRIED, longest)
    if length <= prompts.shape[1]:
        return None  # too short for a step
    weights = Weights(model, length, model.net.device, torch.float32)
    engine = Engine(weights, len(prompts), SamplingConfig(), kernels=False)
    seen: list[Tensor] = []
    engine.write(prompts.numpy(), 0, 0, lambda logits: seen.append(logits[:, : model.vocab].clone()))
    right = model.true_columns(logits_of(model.net, engine.tokens[:, :-1]))[:, prompts.shape[1] - 1 :]
    off = distance(torch.stack(seen, 1), right)
    flaw = f"{type(model.net).__name__} of this kind (off by {off:.2g} of its logits' spread)"
    return None if off <= TOLERANCE else flaw


class Engine:
    """A batch of sequences in lock step over one set of weights.

    Args:
        rows: sequences of a batch.
        kernels: run the Triton kernels (a GPU, or Triton's interpreter); without them the same step in plain torch.
    """

    def __init__(self, weights: Weights, rows: int, config: SamplingConfig, *, kernels: bool):
        form, device = weights.form, weights.device
        self.weights, self.form, self.rows, self.config, self.kernels = weights, form, rows, config, kernels
        head = (form.layers, rows, form.kv_heads)
        entries = (weights.length - 1, form.head_dim)  # the last token of a sequence is written, never read
        self.values = torch.zeros(*head, *entries, device=device, dtype=weights.dtype)
        # On a CPU keys lie with their places last: small products are faster that way round.
        self.keys = torch.zeros(*head, *(entries if kernels else entries[::-1]), device=device, dtype=weights.dtype)
        self.tokens = torch.zeros(rows, weights.length, device=device, dtype=torch.int64)
        self.place = torch.zeros(1, device=device, dtype=torch.int64)  # of the token that is read next
        self.t = 0  # the same on the host; only the plain step reads it
        self.stream = torch.zeros(2, device=device, dtype=torch.int64)  # Philox key, number of the first sequence
        self.head = 1  # tokens read first
        self.u_NB: Tensor | None = None
        self.graph: Any = None
        self.logits = torch.empty(0)
        if kernels:
            from collapselab.sampling.kernels import Draw

            self.drawer = Draw(rows, form.vocab, config, device)

    @torch.inference_mode()
    def write(
        self, prompts_BP: np.ndarray, key: int, first: int, watch: Callable[[Tensor], None] | None = None
    ) -> Tensor:
        """Continues each prompt to the full length.

        Args:
            prompts_BP: int64 (rows, P), P >= 1: what the model reads first.
            key: Philox key of the generation.
            first: number of the first sequence; row i draws from the stream of sequence first + i.
            watch: is shown the logits of each step, (rows, padded vocabulary); they are overwritten by the next.

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
                self.logits = self.step()
            if watch is not None:
                watch(self.logits)
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
            self.logits = self.step()
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
        self.keys[layer, ..., self.t] = k
        self.values[layer, :, :, self.t] = v
        # R = rows kv_heads; G queries share a key-value head; T places are filled.
        q_RGD = (q * form.head_dim**-0.5).reshape(self.rows * form.kv_heads, -1, form.head_dim)
        keys_RDT = self.keys[layer].flatten(0, 1)[:, :, : self.t + 1]
        values_RTD = self.values[layer].flatten(0, 1)[:, : self.t + 1]
        return torch.bmm(torch.bmm(q_RGD, keys_RDT).softmax(-1), values_RTD).view(self.rows, -1)

    def _draw(self, logits: Tensor) -> None:
        """Draws the next token and writes it; `place` moves on."""
        penalty = self.config.repetition_penalty
        if self.weights.unused is not None:
            logits[:, : self.form.vocab].masked_fill_(self.weights.unused, -torch.inf)
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
                if self.kernels:
                    self.keys[number, rows, :, :count] = k
                else:
                    self.keys[number, rows, ..., :count] = k.transpose(-1, -2)
                self.values[number, rows, :, :count] = v
                if number + 1 == form.layers:
                    break  # nothing reads what the last layer would make of a prompt's inside
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=form.heads != form.kv_heads)
                a = a.transpose(1, 2).flatten(2).flatten(0, 1)
                h = self._add_norm(
                    x.view(-1, form.width), a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias
                )
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

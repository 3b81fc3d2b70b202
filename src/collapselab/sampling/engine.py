"""The fast sampler: GPT-2 and Llama weights, a cache allocated once, one decode step for all positions and generations.

All sequences of a batch have equal length and advance in lock step. So the cache is one block of memory that is never moved or
grown, steps differ only in a number (the position), and a GPU can replay one recorded step for all of them.

Optimisations and their gains. CPU figures: one core, tokens/s at 128 tokens (trials in docs/log.md). GPU figures: the first
prototype on one H200, GPT-2 124M in bf16, batch 1024. THIS FILE HAS NOT RUN ON A GPU.

1. Static cache. transformers copies its whole cache at every token; here a token costs one write. CPU: 80,000 for 2 layers of
   64 and 17,700 for 4 of 128; `generate`: 20,300 and 11,500 with two cores.
2. On a GPU the position is in device memory, and a step is one CUDA graph, recorded once and replayed for every position of
   every sequence of every generation: no launch costs, no waiting inside a sequence. An earlier trial there (eager torch, one
   graph per 64 positions, attention over the whole cache): 196,869; `generate`: 28,663 at batch 256, at best 39,809 (4,096).
3. Attention reads only the filled part and writes the new entry itself (kernels.py). GPU: 559,934, with the prototype's draw.
4. The engine owns its weights, packed for the step (q, k and v in one matrix, gate and up in one), and copies a new generation
   into the same memory, so the graph stays valid. GPU: not measured; it saves recording and compiling.
5. Residual sums are fused with the following norm (kernels.py): two launches and two passes fewer per layer. GPU: not measured.
6. Without truncation the draw reads all logits once (kernels.py); on a CPU it is one softmax and sums over groups (draw.py):
   231 us for 128 x 2,048, of which exp(x - max) takes 230. GPU: 275 us for 1,024 x 50,304 in the prototype; not measured here.
7. The last product is float32, for exactness: logits of real GPT-2 weights are near -100, where bf16 has steps of 0.5 and a
   probability would be off by up to 28 %. Cost: 4 bytes per logit, by the memory ceiling 7 % of a step at 128 tokens and 1 %
   at 1,024.
8. On a CPU, keys are stored with positions last. CPU: 15,400 -> 17,900 for 4 layers of 128.
9. On a CPU the step runs eagerly, without a compiler, several batches at a time in forked processes (side_by_side.py).
   Two cores, against Python threads: 69,000 -> 105,000 or more for 2 layers of 64, 19,800 -> 28,000 for 4 of 128.
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

TRIED = 6  # tokens of the sequences that an engine is tested on
PREFILL_TOKENS = 1 << 17  # prompt tokens read at once, a bound on the memory of a prefill beside the cache

_flaws: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()  # by network


@torch.inference_mode()
def engine_flaw(model: LanguageModel) -> str | None:
    """Return why the engine cannot run this network, or None: an unsupported configuration, or a step whose logits differ from
    the network's for the whole text. Computed once per network."""
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
    """A batch of sequences that advance in lock step, with one set of weights.

    Args:
        rows: sequences of a batch.
        kernels: use the Triton kernels (a GPU, or Triton's interpreter) instead of plain torch.
    """

    def __init__(self, weights: Weights, rows: int, config: SamplingConfig, *, kernels: bool):
        shape, device = weights.shape, weights.device
        self.weights, self.shape, self.rows, self.config, self.kernels = weights, shape, rows, config, kernels
        head = (shape.layers, rows, shape.kv_heads)
        entries = (weights.length - 1, shape.head_dim)  # the last token of a sequence is written, never read
        self.values = torch.zeros(*head, *entries, device=device, dtype=weights.dtype)
        # On a CPU keys are stored with positions last: faster for small products.
        self.keys = torch.zeros(*head, *(entries if kernels else entries[::-1]), device=device, dtype=weights.dtype)
        self.tokens = torch.zeros(rows, weights.length, device=device, dtype=torch.int64)
        self.place = torch.zeros(1, device=device, dtype=torch.int64)  # position of the token that is read next
        self.t = 0  # the same on the host, for the plain step
        self.stream = torch.zeros(2, device=device, dtype=torch.int64)  # Philox key, number of the first sequence
        self.head = 1  # tokens of the prompt
        self.u_NB: Tensor | None = None
        self.graph: Any = None
        self.logits = torch.empty(0)
        if kernels:
            from collapselab.sampling.kernels import Draw

            self.drawer = Draw(rows, shape.vocab, config, device)

    @torch.inference_mode()
    def write(
        self,
        prompts_BP: np.ndarray,
        key: int,
        first: int,
        watch: Callable[[Tensor], None] | None = None,
        repeats: int = 1,
    ) -> Tensor:
        """Continue each prompt to the full length.

        Args:
            prompts_BP: int64 (rows, P), P >= 1.
            key: Philox key of the generation.
            first: number of the first sequence; row i uses the stream of sequence first + i.
            watch: called with the logits of each step, (rows, padded vocabulary), which the next step overwrites.
            repeats: consecutive rows with the same prompt, which is read once for all of them; divides `rows`.

        Returns:
            int64 (rows, length - P) on the engine's device; the next call overwrites it.
        """
        head, length = prompts_BP.shape[1], self.weights.length
        prompts = torch.from_numpy(prompts_BP).to(self.weights.device)
        self.tokens.copy_(prompts[:, :1].expand(-1, length))  # unwritten positions hold a token already seen
        self.tokens[:, :head] = prompts
        self.place.fill_(head - 1)
        self.t, self.head = head - 1, head
        signed = key - (1 << 64) if key >= 1 << 63 else key
        self.stream.copy_(torch.tensor([signed, first]))
        once = repeats > 1 and not self.kernels  # the last token of a prompt is read with the others
        if head > 1 and not once:
            self.prefill(prompts[::repeats, :-1], repeats)
        if not self.kernels:
            u = uniforms(key, range(first, first + self.rows), range(head, length))
            self.u_NB = torch.from_numpy(np.ascontiguousarray(u.T))
        elif self.graph is None and self.weights.device.type == "cuda":
            self.capture()
        for place in range(head, length):
            if self.graph is not None:
                self.graph.replay()
            elif once and place == head:
                self.logits = self.prefill(prompts[::repeats], repeats)
                self._draw(self.logits)
            else:
                self.logits = self.step()
            if watch is not None:
                watch(self.logits)
        return self.tokens[:, head:]

    def capture(self) -> None:
        """Record one step as a CUDA graph. The first replay overwrites what the warm-up steps write."""
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
        """Read the token at `place` of every sequence and write the next one; return the logits, (rows, padded)."""
        w, shape = self.weights.packed, self.shape
        read = self.tokens.index_select(1, self.place)[:, 0] if self.kernels else self.tokens[:, self.t]
        x = F.embedding(read, w.embed)
        if w.places is not None:
            x = x + (w.places.index_select(0, self.place) if self.kernels else w.places[self.t])
        h = self._norm(x, w.blocks[0].norm_1, w.blocks[0].norm_1_bias)
        for number, block in enumerate(w.blocks):
            a = self._attend(number, _linear(h, block.qkv, block.qkv_bias))
            h = self._add_norm(x, a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias)
            h = _act(_linear(h, block.up, block.up_bias), gated=w.places is None) @ block.down
            after = w.blocks[number + 1] if number + 1 < shape.layers else None
            weight, bias = (after.norm_1, after.norm_1_bias) if after else (w.norm, w.norm_bias)
            h = self._add_norm(x, h, block.down_bias, weight, bias)
        logits = _product(h, w.head.t())
        self._draw(logits)
        return logits

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None:
            return F.rms_norm(x, (self.shape.width,), weight, self.shape.eps)
        return F.layer_norm(x, (self.shape.width,), weight, bias, self.shape.eps)

    def _add_norm(self, x: Tensor, y: Tensor, y_bias: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Add y + y_bias to x in place; return the norm of x."""
        if self.kernels:
            from collapselab.sampling.kernels import add_norm

            return add_norm(x, y, y_bias, weight, bias, self.shape.eps)
        x.add_(y)
        if y_bias is not None:
            x.add_(y_bias)
        return self._norm(x, weight, bias)

    def _attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Write the new token's cache entry; return its attention over the filled part, (rows, heads head_dim)."""
        shape, turns = self.shape, self.weights.packed.turns
        if self.kernels:
            from collapselab.sampling.kernels import decode_attention

            return decode_attention(qkv, self.keys[layer], self.values[layer], turns, self.place, shape.heads)
        heads = qkv.view(self.rows, shape.heads + 2 * shape.kv_heads, shape.head_dim)
        q, k, v = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        if turns is not None:
            q, k = _turned(heads[:, : -shape.kv_heads], turns[self.t]).split([shape.heads, shape.kv_heads], 1)
        self.keys[layer, ..., self.t] = k
        self.values[layer, :, :, self.t] = v
        # R = rows kv_heads; G queries share a key-value head; T positions are filled.
        q_RGD = (q * shape.head_dim**-0.5).reshape(self.rows * shape.kv_heads, -1, shape.head_dim)
        keys_RDT = self.keys[layer].flatten(0, 1)[:, :, : self.t + 1]
        values_RTD = self.values[layer].flatten(0, 1)[:, : self.t + 1]
        return torch.bmm(torch.bmm(q_RGD, keys_RDT).softmax(-1), values_RTD).view(self.rows, -1)

    def _draw(self, logits: Tensor) -> None:
        """Draw and write the next token; advance `place`."""
        penalty = self.config.repetition_penalty
        if self.weights.unused is not None:
            logits[:, : self.shape.vocab].masked_fill_(self.weights.unused, -torch.inf)
        if self.kernels:
            seen = penalised(logits, self.tokens, penalty) if penalty != 1 else logits
            self.drawer(seen, self.tokens, self.place, self.stream)
            self.place += 1
            return
        assert self.u_NB is not None
        logits[:, self.shape.vocab :] = -torch.inf
        kept = truncated(logits, self.tokens[:, : self.t + 1], self.config)
        self.tokens[:, self.t + 1] = draw(kept, self.u_NB[self.t + 1 - self.head])
        self.t += 1

    def prefill(self, prompts_BP: Tensor, repeats: int = 1) -> Tensor:
        """Fill the cache entries of the beginnings of prompts in one pass, each for `repeats` rows; return the logits that follow
        them, (rows, padded), if they repeat, else nothing of use."""
        w, shape, logits = self.weights.packed, self.shape, []
        count = prompts_BP.shape[1]
        each = max(1, PREFILL_TOKENS // count)
        for begin in range(0, len(prompts_BP), each):
            some = prompts_BP[begin : begin + each]
            rows = slice(begin * repeats, (begin + len(some)) * repeats)
            x = F.embedding(some, w.embed)
            if w.places is not None:
                x = x + w.places[:count]
            for number, block in enumerate(w.blocks):
                h = self._norm(x, block.norm_1, block.norm_1_bias)
                qkv = _linear(h.flatten(0, 1), block.qkv, block.qkv_bias).view(*h.shape[:2], -1, shape.head_dim)
                q, k, v = qkv.split([shape.heads, shape.kv_heads, shape.kv_heads], 2)
                if w.turns is not None:
                    turns = w.turns[:count, None]
                    q, k = _turned(q, turns), _turned(k, turns)
                q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
                keys, values = (k, v) if repeats == 1 else (one.repeat_interleave(repeats, 0) for one in (k, v))
                if self.kernels:
                    self.keys[number, rows, :, :count] = keys
                else:
                    self.keys[number, rows, ..., :count] = keys.transpose(-1, -2)
                self.values[number, rows, :, :count] = values
                if number + 1 == shape.layers:
                    if repeats > 1 and not self.kernels:
                        logits.append(self._after(x[:, -1].contiguous(), q[:, :, -1:], k, v))
                    break  # nothing reads the last layer's output for the other tokens
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape.heads != shape.kv_heads)
                a = a.transpose(1, 2).flatten(2).flatten(0, 1)
                h = self._add_norm(
                    x.view(-1, shape.width), a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias
                )
                h = _act(_linear(h, block.up, block.up_bias), gated=w.places is None) @ block.down
                x = x + (h if block.down_bias is None else h + block.down_bias).view_as(x)
        return torch.cat(logits).repeat_interleave(repeats, 0) if logits else self.logits

    def _after(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the logits after a token from its entry into the last layer, its query, and the keys and values up to it."""
        w, shape, block = self.weights.packed, self.shape, self.weights.packed.blocks[-1]
        a = F.scaled_dot_product_attention(q, k, v, enable_gqa=shape.heads != shape.kv_heads).flatten(1)
        h = self._add_norm(x, a @ block.out, block.out_bias, block.norm_2, block.norm_2_bias)
        h = _act(_linear(h, block.up, block.up_bias), gated=w.places is None) @ block.down
        return _product(self._add_norm(x, h, block.down_bias, w.norm, w.norm_bias), w.head.t())


class Watch:
    """Log-probability of every token that an engine draws, under the model's whole distribution.

    Args:
        head: tokens of the prompts.
    """

    def __init__(self, engine: Engine, head: int):
        self.engine, self.place = engine, head
        self.columns: list[Tensor] = []

    def __call__(self, logits: Tensor) -> None:
        """Look at a step's logits, (rows, padded), after its draw."""
        true = logits[:, : self.engine.shape.vocab].float()
        token = self.engine.tokens[:, self.place : self.place + 1]
        self.columns.append((true.gather(1, token) - true.logsumexp(1, keepdim=True))[:, 0])
        self.place += 1

    def logp(self) -> np.ndarray:
        """Return them in nats, float32 (rows, tokens)."""
        found: np.ndarray = torch.stack(self.columns, 1).cpu().numpy()
        return found


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x @ weight with float32 output for any input dtype."""
    if x.dtype == torch.float32:
        return x @ weight
    if x.device.type == "cuda":
        return torch.mm(x, weight, out_dtype=torch.float32)
    return x.float() @ weight.float()


def _act(x: Tensor, *, gated: bool) -> Tensor:
    """Apply SwiGLU to (gate, up) halves, or GPT-2's GELU."""
    if not gated:
        return F.gelu(x, approximate="tanh")
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021) to the last axis, halves paired as in Llama; in float32, x's dtype out."""
    cos, sin = turns.chunk(2, -1)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

"""The GPU kernels of the decode step, in Triton: attention, the sum with its norm, the draw.

Each does what engine.py does in torch on a CPU and is tested against it, on a GPU or by Triton's interpreter
(TRITON_INTERPRET=1). None waits for the host, so all can be recorded in a CUDA graph.

Why not torch.compile: it would recompile for every length, and its code cannot be tested without a GPU. Sizes (BLOCK, warps)
are from the first prototype on one H200; others have not been tried on these kernels.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from collapselab.config import SamplingConfig

CACHE_BLOCK = 64  # positions of the cache read at once
COLUMNS = 1024  # columns of the logits summed by one program
DIGIT = 16  # candidates per pass of the search for a threshold


@triton.jit
def _attention(
    qkv, keys, values, turns, place, out, H, HK, T, scale,
    D: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """Attention of one query head of one sequence: softmax(q K / sqrt(D)) V over positions 0 .. place.

    The cache is read in one pass with a running maximum (online softmax; Milakov and Gimelshein 2018), up to `place`. Heads
    that share a key-value head run side by side and find it in the L2 cache; the first of them writes the new entry.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.load(place).to(tl.int32)
    shared = H // HK
    d = tl.arange(0, PADDED)
    real = d < D
    mine = qkv + row * (H + 2 * HK) * D
    q_from, k_from = mine + head * D, mine + (H + head // shared) * D
    q = tl.load(q_from + d, mask=real, other=0.0).to(tl.float32)
    k_new = tl.load(k_from + d, mask=real, other=0.0).to(tl.float32)
    v_new = tl.load(k_from + HK * D + d, mask=real, other=0.0)
    if ROPE:
        half = D // 2
        partner, sign = (d + half) % D, tl.where(d < half, -1.0, 1.0)
        cos = tl.load(turns + at * D + d % half, mask=real, other=0.0)
        sin = tl.load(turns + at * D + half + d % half, mask=real, other=0.0) * sign
        q = q * cos + tl.load(q_from + partner, mask=real, other=0.0).to(tl.float32) * sin
        k_new = k_new * cos + tl.load(k_from + partner, mask=real, other=0.0).to(tl.float32) * sin
    k_new = k_new.to(v_new.dtype)
    cache = (row * HK + head // shared) * T * D
    if head % shared == 0:
        tl.store(keys + cache + at * D + d, k_new, mask=real)
        tl.store(values + cache + at * D + d, v_new, mask=real)
    q = q.to(v_new.dtype).to(tl.float32) * scale
    top = tl.sum(q * k_new.to(tl.float32))
    total = 1.0
    mixed = v_new.to(tl.float32)
    for begin in range(0, at, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        filled = t < at
        where = cache + t[:, None] * D + d[None, :]
        both = filled[:, None] & real[None, :]
        k = tl.load(keys + where, mask=both, other=0.0).to(tl.float32)
        v = tl.load(values + where, mask=both, other=0.0).to(tl.float32)
        score = tl.where(filled, tl.sum(k * q[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        weight, shrink = tl.exp(score - higher), tl.exp(top - higher)
        mixed = mixed * shrink + tl.sum(weight[:, None] * v, 0)
        total = total * shrink + tl.sum(weight, 0)
        top = higher
    tl.store(out + (row * H + head) * D + d, (mixed / total).to(v_new.dtype), mask=real)


def decode_attention(
    qkv: Tensor, keys: Tensor, values: Tensor, turns: Tensor | None, place: Tensor, heads: int
) -> Tensor:
    """Compute the attention of one new token per sequence, and write its cache entry.

    Args:
        qkv: (rows, (heads + 2 kv_heads) head_dim).
        keys, values: (rows, kv_heads, positions, head_dim), filled up to `place`.
        turns: (positions, head_dim) float32, cosines then sines, or None for learned positions.
        place: int64 (1,) on the device.

    Returns:
        (rows, heads head_dim).
    """
    rows, kv_heads, places, head_dim = keys.shape
    out = torch.empty(rows, heads * head_dim, device=qkv.device, dtype=qkv.dtype)
    _attention[(rows, heads)](
        qkv, keys, values, place if turns is None else turns, place, out, heads, kv_heads, places,
        1 / math.sqrt(head_dim), D=head_dim, PADDED=triton.next_power_of_2(head_dim), BLOCK=CACHE_BLOCK,
        ROPE=turns is not None, num_warps=2,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(x, y, y_bias, weight, bias, out, eps, W, PADDED: tl.constexpr, CENTRED: tl.constexpr):
    """One row: x += y + y_bias; out = LayerNorm(x) (centred) or RMSNorm(x). One pass over memory in place of three."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, PADDED)
    real = c < W
    old = tl.load(x + row * W + c, mask=real, other=0.0)
    new = old.to(tl.float32) + tl.load(y + row * W + c, mask=real, other=0.0).to(tl.float32)
    if CENTRED:
        new += tl.load(y_bias + c, mask=real, other=0.0).to(tl.float32)
    tl.store(x + row * W + c, new.to(old.dtype), mask=real)
    new = new.to(old.dtype).to(tl.float32)
    if CENTRED:
        new = tl.where(real, new - tl.sum(new, 0) / W, 0.0)
    scaled = new * tl.rsqrt(tl.sum(new * new, 0) / W + eps) * tl.load(weight + c, mask=real, other=0.0).to(tl.float32)
    if CENTRED:
        scaled += tl.load(bias + c, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * W + c, scaled.to(old.dtype), mask=real)


def add_norm(x: Tensor, y: Tensor, y_bias: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Add y + y_bias to x in place; return LayerNorm(x), or RMSNorm(x) if `bias` is None. All (rows, width)."""
    rows, width = x.shape
    out = torch.empty_like(x)
    centred = bias is not None
    if centred and y_bias is None:
        y_bias = torch.zeros_like(weight)
    elif not centred and y_bias is not None:
        y = y + y_bias
    _add_norm[(rows,)](
        x, y, y_bias if centred else weight, weight, bias if centred else weight, out, eps, width,
        PADDED=triton.next_power_of_2(width), CENTRED=centred, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _order(x):
    """Map float32 to int32 in the same order; on the bits it is its own inverse."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _read(logits, columns, stride, V, inverse, least, CUT: tl.constexpr):
    """Load logits divided by the temperature; -inf for padding and truncated ones.

    Padded columns are read, then dropped: a mask at a multiple of 16 lets a thread read four numbers at once.
    """
    x = tl.load(logits + columns, mask=columns < stride, other=float("-inf")) * inverse
    x = tl.where(columns < V, x, float("-inf"))
    if CUT:
        x = tl.where(x < least, float("-inf"), x)
    return x


@triton.jit
def _search(
    logits, stride, V, inverse, top, low, goal, WEIGHTED: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Find the largest threshold above which the logits still number (or weigh) `goal`: eight passes of four bits.

    A sort would move 50,000 numbers; the passes only read them.
    """
    j = tl.arange(0, DIGITS).to(tl.int64)
    best = tl.full((), -2147483648, tl.int64)
    for step in tl.static_range(8):
        candidates = best + (j << (28 - 4 * step))
        held = tl.zeros((DIGITS,), tl.float32)
        for begin in range(0, V, BLOCK):
            x = _read(logits, begin + tl.arange(0, BLOCK), stride, V, inverse, low, True)
            weight = tl.where(x > float("-inf"), 1.0, 0.0)
            if WEIGHTED:
                weight = tl.exp(x - top)
            above = _order(x).to(tl.int64)[None, :] >= candidates[:, None]
            held += tl.sum(tl.where(above, weight[None, :], 0.0), 1)
        best += tl.sum(((held >= goal) & (j > 0)).to(tl.int64), 0) << (28 - 4 * step)
    return _order(best.to(tl.int32).to(tl.float32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def _threshold(
    logits, least, stride, V, inverse, k, p, min_p,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr, DIGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: the smallest logit kept by top-k, top-p and min-p, in that order (draw.threshold)."""
    row = tl.program_id(0).to(tl.int64)
    mine = logits + row * stride
    low = float("-inf")
    running = tl.full((BLOCK,), float("-inf"), tl.float32)
    for begin in range(0, V, BLOCK):
        running = tl.maximum(running, _read(mine, begin + tl.arange(0, BLOCK), stride, V, inverse, low, False))
    top = tl.max(running, 0)
    if TOP_K:
        low = _search(mine, stride, V, inverse, top, float("-inf"), k, False, DIGITS, BLOCK)
    if TOP_P:
        total = tl.zeros((BLOCK,), tl.float32)
        for begin in range(0, V, BLOCK):
            total += tl.exp(_read(mine, begin + tl.arange(0, BLOCK), stride, V, inverse, low, True) - top)
        low = tl.maximum(low, _search(mine, stride, V, inverse, top, low, p * tl.sum(total, 0), True, DIGITS, BLOCK))
    if MIN_P:
        smallest = tl.full((BLOCK,), float("inf"), tl.float32)
        for begin in range(0, V, BLOCK):
            x = _read(mine, begin + tl.arange(0, BLOCK), stride, V, inverse, low, False)
            smallest = tl.minimum(smallest, tl.where(tl.exp(x - top) >= min_p, x, float("inf")))
        low = tl.maximum(low, tl.min(smallest, 0))
    tl.store(least + row, low)


@triton.jit
def _mass(logits, least, tops, masses, stride, V, inverse, GROUPS, BLOCK: tl.constexpr, CUT: tl.constexpr):
    """Maximum and sum of exponentials of one group of columns of a row. Without truncation the only pass over all logits."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    low = 0.0
    if CUT:
        low = tl.load(least + row)
    x = _read(logits + row * stride, group * BLOCK + tl.arange(0, BLOCK), stride, V, inverse, low, CUT)
    top = tl.max(x, 0)
    safe = tl.where(top == float("-inf"), 0.0, top)
    tl.store(tops + row * GROUPS + group, top)
    tl.store(masses + row * GROUPS + group, tl.sum(tl.exp(x - safe), 0))


@triton.jit
def _slice(mass, n, u):
    """Find the slice of the running sum that holds u, and the position of u in it (draw._slice)."""
    reach = tl.cumsum(mass, 0)
    level = u * tl.max(reach, 0)
    place = tl.minimum(tl.sum((reach <= level).to(tl.int32), 0), tl.max(tl.where(mass > 0, n, 0), 0))
    width = tl.sum(tl.where(n == place, mass, 0.0), 0)
    before = tl.sum(tl.where(n == place, reach - mass, 0.0), 0)
    return place, tl.maximum((level - before) / width, 0.0)


@triton.jit
def _pick(
    logits, least, tops, masses, tokens, place, stream, stride, LENGTH, V, inverse, GROUPS,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """One row: find the group that holds u, then the column in it, by float64 running sums; write the token.

    u has 53 bits of Philox 4x32 with the row's own counter. The chosen group is read again, from the L2 cache.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.load(place) + 1
    key, first = tl.load(stream), tl.load(stream + 1)
    a, b, _, _ = tl.philox(key, at.to(tl.int32), (first + row).to(tl.int32), 0, 0)
    u = ((a >> 5).to(tl.float64) * 67108864.0 + (b >> 6).to(tl.float64)) * 1.1102230246251565e-16
    n = tl.arange(0, PADDED)
    top = tl.load(tops + row * GROUPS + n, mask=n < GROUPS, other=float("-inf"))
    mass = tl.load(masses + row * GROUPS + n, mask=n < GROUPS, other=0.0)
    group, rest = _slice(tl.exp(top - tl.max(top, 0)).to(tl.float64) * mass.to(tl.float64), n, u)
    low = 0.0
    if CUT:
        low = tl.load(least + row)
    c = tl.arange(0, BLOCK)
    x = _read(logits + row * stride, group * BLOCK + c, stride, V, inverse, low, CUT)
    column, _ = _slice(tl.exp(x - tl.max(x, 0)).to(tl.float64), c, rest)
    tl.store(tokens + row * LENGTH + at, (group * BLOCK + column).to(tl.int64))


class Draw:
    """Draw of one token per row, as defined in draw.py; scratch memory is allocated once.

    Args:
        rows: sequences.
        vocab: true columns of the logits; those beyond are never drawn.
    """

    def __init__(self, rows: int, vocab: int, config: SamplingConfig, device: torch.device):
        self.vocab, self.config = vocab, config
        self.groups = -(-vocab // COLUMNS)
        self.tops = torch.empty(rows, self.groups, device=device)
        self.masses = torch.empty_like(self.tops)
        self.least = torch.empty(rows, device=device)

    def __call__(self, logits: Tensor, tokens: Tensor, place: Tensor, stream: Tensor) -> None:
        """Write the token at `place` + 1 of every row.

        Args:
            logits: float32 (rows, vocab or more), contiguous.
            tokens: int64 (rows, length).
            place: int64 (1,). stream: int64 (2,): Philox key, number of the first sequence.
        """
        config, rows, stride = self.config, len(logits), logits.stride(0)
        inverse, cut = 1 / config.temperature, config.truncates
        if cut:
            _threshold[(rows,)](
                logits, self.least, stride, self.vocab, inverse, float(config.top_k), config.top_p, config.min_p,
                TOP_K=0 < config.top_k < self.vocab, TOP_P=config.top_p < 1, MIN_P=config.min_p > 0,
                DIGITS=DIGIT, BLOCK=min(512, triton.next_power_of_2(self.vocab)), num_warps=4,
            )  # fmt: skip
        _mass[(rows, self.groups)](
            logits, self.least, self.tops, self.masses, stride, self.vocab, inverse, self.groups,
            BLOCK=COLUMNS, CUT=cut, num_warps=4,
        )  # fmt: skip
        _pick[(rows,)](
            logits, self.least, self.tops, self.masses, tokens, place, stream, stride, tokens.stride(0), self.vocab,
            inverse, self.groups, PADDED=triton.next_power_of_2(self.groups), BLOCK=COLUMNS, CUT=cut, num_warps=4,
        )  # fmt: skip

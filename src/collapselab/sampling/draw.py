"""Truncation of a distribution, and the draw of one token from it with one counter-based random number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collapselab.config import SamplingConfig
from collapselab.seeds import generator


def uniforms(seed: int, generation: int, sequences: range, count: int) -> np.ndarray:
    """Each sequence's own stream: float64 in [0, 1) with 53 random bits, (len(sequences), count).

    Number t of a sequence depends on seed, generation, sequence and t alone, not on what is sampled beside it.
    """
    rows = [generator(seed, generation, "sample", sequence).random(count) for sequence in sequences]
    return np.stack(rows) if rows else np.empty((0, count))


def truncated(logits_BV: Tensor, seen_BT: Tensor, config: SamplingConfig) -> Tensor:
    """Logits after repetition penalty, temperature, top-k, top-p and min-p, in that order; dropped ones are -inf.

    Sources: repetition penalty, Keskar et al. 2019, eq. 1 (prompt included); top-p, Holtzman et al. 2020, eq. 3 (the
    smallest set that reaches p, the token that crosses it included); min-p, Nguyen et al. 2024.

    Args:
        logits_BV: (B, V) float.
        seen_BT: (B, T) int64, the tokens of each sequence so far.
    """
    out = logits_BV.float()
    if config.repetition_penalty != 1:
        kept = out.gather(1, seen_BT)
        kept = torch.where(kept > 0, kept / config.repetition_penalty, kept * config.repetition_penalty)
        out = out.scatter(1, seen_BT, kept)
    if config.temperature != 1:
        out = out / config.temperature
    if 0 < config.top_k < out.shape[1]:
        least = out.topk(config.top_k, dim=1).values[:, -1:]
        out = out.masked_fill(out < least, -torch.inf)
    if config.top_p < 1:
        ranked, order = out.sort(dim=1, descending=True)
        before = ranked.softmax(1).double().cumsum(1) - ranked.softmax(1).double()
        out = out.masked_fill((before >= config.top_p).scatter(1, order, before >= config.top_p), -torch.inf)
    if config.min_p > 0:
        share = (out - out.amax(1, keepdim=True)).exp()  # probability as a share of the largest
        out = out.masked_fill(share < config.min_p, -torch.inf)
    return out


def draw(logits_BV: Tensor, u_B: Tensor) -> Tensor:
    """Inverse-CDF draw: the token whose slice of [0, 1) holds u. Returns int64 (B,).

    The running sum is float64 and u has 53 bits, so an event of probability 1e-9 comes as often as it should.
    """
    cdf_BV = logits_BV.float().softmax(1).double().cumsum(1)
    level_B1 = (u_B.double() * cdf_BV[:, -1]).unsqueeze(1)
    token_B1 = torch.searchsorted(cdf_BV, level_B1, right=True)
    # u x total can round up to the total itself: then the last token of positive probability.
    last_B1 = (cdf_BV < cdf_BV[:, -1:]).sum(1, keepdim=True)
    return torch.minimum(token_B1, last_B1).squeeze(1)

"""Truncation of a distribution, and the draw of a token from it with one counter-based random number.

These are the definitions: the engine uses them on a CPU, and its GPU kernels are tested against them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from collapselab.config import SamplingConfig
from collapselab.seeds import derive

GROUP = 64  # columns that are summed before the running sum (`draw`)


def philox(key: int, counters: np.ndarray) -> np.ndarray:
    """Compute Philox 4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Args:
        key: 64 bits.
        counters: uint32 (..., 4).

    Returns:
        uint32 (..., 4): a function of key and counter.
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (counters[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ np.uint64(k0), b & mask, (a >> half) ^ c3 ^ np.uint64(k1), a & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1).astype(np.uint32)


def stream_key(seed: int, generation: int, stream: str = "sample") -> int:
    """Return the Philox key of a generation's samples, or of another stream of its text, 64 bits."""
    return derive(seed, generation, stream)


def uniforms(key: int, sequences: range, places: range) -> np.ndarray:
    """Compute the random number of each position of each sequence: float64 (sequences, positions) in [0, 1), 53 random bits.

    It depends only on key, sequence and position, not on the batch.
    """
    counters = np.zeros((len(sequences), len(places), 4), np.uint32)
    counters[..., 0] = np.asarray(places, np.uint32)
    counters[..., 1] = np.asarray(sequences, np.uint32)[:, None]
    bits = philox(key, counters).astype(np.float64)
    high, low = np.floor(bits[..., 0] / 32), np.floor(bits[..., 1] / 64)  # 27 and 26 bits
    return np.asarray((high * 2.0**26 + low) * 2.0**-53)


def penalised(logits_BV: Tensor, seen_BT: Tensor, penalty: float) -> Tensor:
    """Apply the repetition penalty (Keskar et al. 2019, eq. 1, prompt included) to float32 (B, V) logits.

    Args:
        seen_BT: int64 (B, T), the tokens of each sequence so far, with repetitions.
    """
    kept = logits_BV.gather(1, seen_BT)
    return logits_BV.scatter(1, seen_BT, torch.where(kept > 0, kept / penalty, kept * penalty))


def threshold(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """Return the smallest logit kept by top-k, top-p and min-p, in that order, float32 (B, 1); ties are kept.

    The logits are already divided by the temperature.

    Sources: top-p, Holtzman et al. 2020, eq. 3 (the smallest set that reaches p, the token that crosses it included);
    min-p, Nguyen et al. 2024.
    """
    vocab = logits_BV.shape[1]
    top_B1 = logits_BV.amax(1, keepdim=True)
    least_B1 = torch.full_like(top_B1, -torch.inf)
    if 0 < config.top_k < vocab:
        least_B1 = logits_BV.topk(config.top_k, dim=1).values[:, -1:]
    if config.top_p < 1:
        weight_BV = (logits_BV - top_B1).exp().masked_fill(logits_BV < least_B1, 0)
        goal_B1 = config.top_p * weight_BV.sum(1, keepdim=True, dtype=torch.float64)
        count, reached_BK = min(vocab, 256), None
        while True:  # the head of the ranking nearly always suffices; a full sort is the last resort
            ranked_BK = logits_BV.topk(count, dim=1).values
            mass_BK = (ranked_BK - top_B1).exp().masked_fill(ranked_BK < least_B1, 0).double().cumsum(1)
            reached_BK = mass_BK >= goal_B1
            if count == vocab or bool(reached_BK[:, -1].all()):
                break
            count = min(vocab, count * 8)
        place_B1 = (~reached_BK).sum(1, keepdim=True).clamp_(max=count - 1)
        least_B1 = torch.maximum(least_B1, ranked_BK.gather(1, place_B1))
    if config.min_p > 0:
        # By definition a share of the largest probability; in float32.
        share_BV = (logits_BV - top_B1).exp()
        kept_BV = torch.where(share_BV >= config.min_p, logits_BV, torch.inf)
        least_B1 = torch.maximum(least_B1, kept_BV.amin(1, keepdim=True))
    return least_B1


def truncated(logits_BV: Tensor, seen_BT: Tensor, config: SamplingConfig) -> Tensor:
    """Apply repetition penalty, temperature and truncations, in that order; dropped logits are -inf.

    Args:
        logits_BV: (B, V) float.
        seen_BT: (B, T) int64, the tokens of each sequence so far.
    """
    out = logits_BV.float()
    if config.repetition_penalty != 1:
        out = penalised(out, seen_BT, config.repetition_penalty)
    if config.temperature != 1:
        out = out / config.temperature
    if config.truncates:
        out = out.masked_fill(out < threshold(out, config), -torch.inf)
    return out


def draw(logits_BV: Tensor, u_B: Tensor) -> Tensor:
    """Draw by inverse CDF: the token whose slice of [0, 1) holds u. Returns int64 (B,).

    Rare events are exact: u has 53 bits and running sums are float64. Sums in float32 (GROUP columns) only scale a whole group
    by 1 part in 10^6, never one token against its neighbour. An event of probability 1e-9 occurs as often as it should;
    `-log(rand)` in float32 would never draw one below 6e-8.
    """
    rows, vocab = logits_BV.shape
    weight_BV = logits_BV.float().softmax(1)
    if vocab % GROUP:
        weight_BV = torch.nn.functional.pad(weight_BV, (0, -vocab % GROUP))
    weight_BGc = weight_BV.view(rows, -1, GROUP)
    mass_BG = weight_BGc.sum(2).double()
    place_B1, rest_B1 = _slice(mass_BG, u_B.double().unsqueeze(1))
    chosen_Bc = weight_BGc[torch.arange(rows, device=u_B.device), place_B1[:, 0]].double()
    inner_B1, _ = _slice(chosen_Bc, rest_B1)
    return (place_B1 * GROUP + inner_B1).squeeze(1)


def _slice(mass_BN: Tensor, u_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slice that holds u and the position of u in it, [0, 1]; a slice without mass is never chosen."""
    reach_BN = mass_BN.cumsum(1)
    level_B1 = u_B1 * reach_BN[:, -1:]
    place_B1 = torch.searchsorted(reach_BN, level_B1, right=True)
    # u x total can round up to the total itself: then the last slice of positive mass.
    last_B1 = (reach_BN < reach_BN[:, -1:]).sum(1, keepdim=True)
    place_B1 = torch.minimum(place_B1, last_B1)
    width_B1 = mass_BN.gather(1, place_B1)
    rest_B1 = (level_B1 - (reach_BN.gather(1, place_B1) - width_B1)) / width_B1
    return place_B1, rest_B1.clamp_(min=0)

"""The obvious, correct samplers, for any architecture that transformers knows: what the engine is tested against."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from collapselab.config import SamplingConfig
from collapselab.modeling import LanguageModel
from collapselab.sampling.draw import draw, truncated

# Not cuDNN's attention, which makes a plan for every new shape: with a growing cache each token has another one.
ANY_LENGTH = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@torch.inference_mode()
@sdpa_kernel(ANY_LENGTH)
def write_batch(
    model: LanguageModel, prompts_BP: np.ndarray, uniforms_BN: np.ndarray, config: SamplingConfig, device: torch.device
) -> np.ndarray:
    """Continues each prompt by N tokens. All sequences have equal length, so there is no padding.

    Args:
        prompts_BP: int64 (B, P), P >= 1: what the model reads first.
        uniforms_BN: float64 (B, N): the random number of each token.

    Returns:
        int64 (B, N). An end-of-text token does not end a sequence.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.net.config)
    inputs = torch.from_numpy(prompts_BP).to(device)
    u_BN = torch.from_numpy(uniforms_BN).to(device)
    seen_BT = inputs
    written = []
    for step in range(uniforms_BN.shape[1]):
        logits_BV = model.logits(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)[:, -1]
        token_B = draw(truncated(logits_BV, seen_BT, config), u_BN[:, step])
        written.append(token_B)
        inputs = token_B.unsqueeze(1)
        if config.repetition_penalty != 1:
            seen_BT = torch.cat([seen_BT, inputs], 1)
    return torch.stack(written, 1).cpu().numpy()


@torch.inference_mode()
@sdpa_kernel(ANY_LENGTH)
def beam_batch(
    model: LanguageModel, prompts_BP: np.ndarray, tokens: int, beams: int, device: torch.device
) -> np.ndarray:
    """Continues each prompt by the most likely text that beam search finds: at every token the `beams` best
    beginnings are kept, and the best one is returned. All have equal length, so there is no length penalty.

    Returns:
        int64 (B, tokens).
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.net.config)
    rows = len(prompts_BP)
    inputs = torch.from_numpy(prompts_BP).to(device).repeat_interleave(beams, 0)
    # At first all beams of a sequence are the same: only one of them may be continued.
    score_BK = torch.full((rows, beams), -torch.inf, device=device)
    score_BK[:, 0] = 0
    text_RN = inputs.new_empty(rows * beams, 0)
    first_B1 = torch.arange(rows, device=device).unsqueeze(1) * beams
    for _ in range(tokens):
        logits_RV = model.logits(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)[:, -1]
        gain_BKV = logits_RV.float().log_softmax(-1).view(rows, beams, -1)
        score_BK, best_BK = (score_BK.unsqueeze(2) + gain_BKV).flatten(1).topk(beams, dim=1)
        parent_R = (first_B1 + best_BK // gain_BKV.shape[2]).flatten()
        inputs = (best_BK % gain_BKV.shape[2]).view(-1, 1)
        text_RN = torch.cat([text_RN[parent_R], inputs], 1)
        cache.reorder_cache(parent_R)
    return text_RN.view(rows, beams, tokens)[:, 0].cpu().numpy()

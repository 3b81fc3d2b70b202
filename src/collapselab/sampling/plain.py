"""The obvious, correct sampler: one forward pass per token with transformers' key-value cache."""

from __future__ import annotations

import numpy as np
import torch

from collapselab.config import SamplingConfig
from collapselab.modeling import LanguageModel
from collapselab.sampling.draw import draw, truncated


@torch.inference_mode()
def write_tile(
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

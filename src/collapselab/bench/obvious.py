"""The yardstick of the benchmarks: plain transformers code as one would write it without this lab, without traps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def train(net: Any, blocks: Tensor, batch: int, *, bf16: bool, lr: float = 1e-3) -> float:
    """Train one epoch of AdamW on blocks (N, T) on the net's device with the model's own loss; return the last loss."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    for step in range(0, len(blocks), batch):
        ids = blocks[step : step + batch]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            loss = net(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    return float(loss.detach())


@torch.no_grad()
def generate(net: Any, prompts: Tensor, length: int, batch: int) -> Tensor:
    """Draw ancestral samples of `length` tokens, prompts (S, P) included, with `generate`."""
    net.eval()
    new = length - prompts.shape[1]
    rows = [
        net.generate(
            prompts[i : i + batch], max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0, top_p=1.0,
            temperature=1.0, eos_token_id=None, pad_token_id=0,
        )
        for i in range(0, len(prompts), batch)
    ]  # fmt: skip
    return torch.cat(rows)


@torch.no_grad()
def perplexity(net: Any, blocks: Tensor, batch: int, *, bf16: bool) -> float:
    """Compute the perplexity of held-out blocks (N, T) with the model's own loss."""
    net.eval()
    total = 0.0
    for step in range(0, len(blocks), batch):
        ids = blocks[step : step + batch]
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
            total += float(net(input_ids=ids, labels=ids).loss) * len(ids)
    return float(torch.tensor(total / len(blocks)).exp())


def generation(
    net: Any, blocks: Tensor, prompts: Tensor, held: Tensor, batch: int, sample_batch: int, folder: Path, *, bf16: bool
) -> float:
    """Run a generation: train on blocks (N, T), save, sample as much, score; return the held-out perplexity."""
    train(net, blocks, batch, bf16=bf16)
    net.save_pretrained(folder)
    generate(copy.deepcopy(net).bfloat16() if bf16 else net, prompts, blocks.shape[1], sample_batch)
    return perplexity(net, held, batch, bf16=bf16)

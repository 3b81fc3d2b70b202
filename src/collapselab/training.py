"""One generation's training run: AdamW on packed blocks, on one process or several.

Batch k is a function of the seed and k, the loss of a step is a sum over tokens divided by the number of tokens in the
whole batch, and so neither the number of processes nor the accumulation changes what is computed.
"""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from collapselab.config import RunConfig, TrainingConfig, UserError
from collapselab.console import Console
from collapselab.mixing import TrainingSet, shows
from collapselab.modeling import LanguageModel
from collapselab.parallel import Processes
from collapselab.rundir import write_text
from collapselab.seeds import batch_order, derive

LOG_ROWS = 500  # at most about this many lines in a generation's training log
CUDA_CHECK_EVERY = 16  # steps between looks at the loss on a GPU: each look waits for the device


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 .. steps - 1."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.schedule]
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * fall)


def train(
    model: LanguageModel, data: TrainingSet, config: RunConfig, generation: int, processes: Processes, console: Console
) -> dict[str, Any]:
    """Trains `model` in place on the blocks of `data`.

    Returns steps, tokens shown and in the loss (counted on what the optimiser was given; they equal the ledger), the
    last loss in nats per token, and the rows of the training log.

    Raises:
        UserError: the loss or the final weights are not finite (step, learning rate and what to try).
    """
    settings = config.training
    total = shows(config, len(data))
    order = batch_order(config.seed, generation, len(data), total)
    steps = -(-total // settings.batch_size)
    first_target = settings.block - settings.loss_on_last if settings.loss_on_last else 1
    targets_per_block = settings.block - first_target

    model.net.to(processes.device).train()
    matrices = [p for p in model.net.parameters() if p.ndim >= 2]
    others = [p for p in model.net.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
    accelerator = processes.accelerator
    net, optimizer = accelerator.prepare(model.net, optimizer)
    torch.manual_seed(derive(config.seed, generation, "dropout", processes.rank) % 2**63)

    rows: list[dict[str, float]] = []
    losses: list[torch.Tensor] = []
    norm = torch.tensor(0.0)
    given = np.zeros(2, np.int64)  # tokens shown, tokens in the loss
    check_every = CUDA_CHECK_EVERY if processes.device.type == "cuda" else 1
    with console.bar(f"gen {generation} train", total * settings.block) as bar:
        for step in range(steps):
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            lr = learning_rate(settings, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            # An empty share (a short last batch on many processes) still takes part, with weight 0.
            mine = batch[processes.rank :: processes.world]
            parts = np.array_split(mine, settings.accumulation) if len(mine) >= settings.accumulation else [mine]
            loss_sum = torch.zeros((), device=processes.device)
            for index, part in enumerate(parts):
                ids = torch.from_numpy(data[part if len(part) else batch[:1]]).to(processes.device)
                with accelerator.no_sync(net) if index + 1 < len(parts) else nullcontext():
                    logits = model.logits(ids, net, use_cache=False)[:, first_target - 1 : -1].float()
                    targets = ids[:, first_target:]
                    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
                    loss = loss * bool(len(part))
                    # Processes' gradients are averaged; times world gives the sum over the batch.
                    accelerator.backward(loss * (processes.world / (len(batch) * targets_per_block)))
                loss_sum += loss.detach()
                given += (ids.numel(), targets.numel()) if len(part) else (0, 0)
            if settings.clip:
                norm = accelerator.clip_grad_norm_(net.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss_sum / (len(batch) * targets_per_block))
            bar.update(len(batch) * settings.block)
            if len(losses) == check_every or step + 1 == steps:
                values = accelerator.reduce(torch.stack(losses), "sum").tolist()
                _check_finite(values, step + 1 - len(values), settings, steps)
                losses = []
                if step % max(1, steps // LOG_ROWS) < check_every or step + 1 == steps:
                    rows.append({"step": step, "loss": values[-1], "lr": lr, "grad_norm": float(norm)})
                    bar.set_postfix(loss=f"{values[-1]:.3f}")
    if not all(bool(torch.isfinite(p).all()) for p in model.net.parameters()):  # the last step has no later loss
        raise UserError(
            f"training.lr={settings.lr}: weights are not finite after step {steps - 1} of {steps}; "
            "try a lower lr, warmup_steps or clip=1"
        )
    accelerator.unwrap_model(net, keep_fp32_wrapper=False)  # or its patched forward keeps the weights alive
    accelerator.free_memory()
    shown, in_loss = processes.sum(given).tolist()
    for name, counted in (("shown", shown), ("loss", in_loss)):
        promised = sum(source[name] for source in data.ledger.values())
        if promised != counted:
            raise RuntimeError(
                f"generation {generation}: ledger has {promised} tokens {name}, the optimiser had {counted}"
            )
    model.net.eval()
    return {"steps": steps, "shown": shown, "in_loss": in_loss, "last_loss": rows[-1]["loss"], "log": rows}


def _check_finite(values: list[float], first: int, settings: TrainingConfig, steps: int) -> None:
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = first + offset
            raise UserError(
                f"training.lr={settings.lr}: the loss became {value} at step {step} of {steps} "
                f"(learning rate {learning_rate(settings, step, steps):.3g}); try a lower lr, warmup_steps, clip=1, "
                "or precision=fp32"
            )


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """One JSON line per logged step."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

"""The training log: learning rates, losses and the check that they are finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from collapselab.config import TrainingConfig, UserError
from collapselab.mixing.sets import TrainingSet
from collapselab.runtime.parallel import Processes
from collapselab.store.folders import write_text

LOG_ROWS = 500  # at most about this many lines in a generation's training log


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 .. steps - 1."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.schedule]
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * fall)


def first_target(config: TrainingConfig) -> int:
    """Position of the first token of a block that is a target of the loss."""
    return config.block - config.loss_on_last if config.loss_on_last else 1


class Log:
    """Losses still on the device, and the rows of the training log (`rows`: of a resumed run, up to its checkpoint)."""

    def __init__(self, settings: TrainingConfig, steps: int, processes: Processes, rows: list[dict[str, float]]):
        self.settings, self.steps, self.processes, self.rows = settings, steps, processes, rows
        self.every = max(1, steps // LOG_ROWS)
        self.recent: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Record a step without waiting for the device: its sums (`Loss`; this process's share, per target of the batch) and
        gradient norm."""
        self.recent.append((step, loss, norm))

    def look(self, *flags: bool) -> list[bool]:
        """Fetch the recorded losses; return which flags any process has set. Raise UserError if a loss is not finite."""
        device = self.processes.device
        raised = torch.tensor([float(flag) for flag in flags], device=device)
        sums = torch.stack([sums for _, sums, _ in self.recent])
        both = torch.cat([sums.flatten(), raised.to(sums.dtype)])
        reduced = self.processes.accelerator.reduce(both, "sum")
        values, counts = reduced[: sums.numel()].reshape(sums.shape).tolist(), reduced[sums.numel() :].tolist()
        norms = torch.stack([norm for _, _, norm in self.recent]).tolist()
        for (step, _, _), (value, *truncated), norm in zip(self.recent, values, norms, strict=True):
            _check_finite(value, step, self.settings, self.steps)
            if step % self.every == 0 or step + 1 == self.steps:
                lr = learning_rate(self.settings, step, self.steps)
                self.rows.append({"step": step, "loss": value, "lr": lr, **_masked(*truncated)})
                if math.isfinite(norm):  # squares of large gradients overflow; the next loss tells if that matters
                    self.rows[-1]["grad_norm"] = norm
        self.last = values[-1][0]
        self.recent = []
        return [count > 0 for count in counts]


def _masked(targets: float | None = None, loss: float = 0.0, whole: float = 0.0) -> dict[str, float]:
    """Share of the targets that a truncated cross-entropy leaves out, and their share of the whole loss."""
    return {} if targets is None else {"masked_targets": targets, "masked_loss": loss / whole if whole else 0.0}


def _check_finite(value: float, step: int, settings: TrainingConfig, steps: int) -> None:
    if not math.isfinite(value):
        raise UserError(
            f"training.lr={settings.lr}: the loss became {value} at step {step} of {steps} "
            f"(learning rate {learning_rate(settings, step, steps):.3g}); try a lower lr, warmup_steps, clip=1, "
            "or precision=fp32"
        )


def check_ledger(data: TrainingSet, generation: int, shown: int, in_loss: int) -> None:
    """Raise RuntimeError if training used other numbers of tokens than the ledger states."""
    for name, counted in (("shown", shown), ("loss", in_loss)):
        promised = sum(source[name] for source in data.ledger.values())
        if promised != counted:
            raise RuntimeError(f"generation {generation}: ledger has {promised} tokens {name}, training had {counted}")


def write_log(rows: list[dict[str, float]], path: Path) -> None:
    """Write one JSON line per logged step."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

"""One generation's training run: AdamW on packed blocks, on one process or several; or, for the bigram family, a count.

Batch k is a function of the seed and k, the loss of a step is a sum over tokens divided by the number of tokens in the
whole batch, and so neither the number of processes nor the accumulation changes what is computed.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapselab.config import RunConfig, TrainingConfig, UserError, first_line
from collapselab.console import Console
from collapselab.mixing import TrainingSet, shows
from collapselab.modeling import LanguageModel, causal_attention, copy_weights, true_state
from collapselab.parallel import Processes
from collapselab.rundir import write_text
from collapselab.seeds import batch_order, derive

LOG_ROWS = 500  # at most about this many lines in a generation's training log
CUDA_CHECK_EVERY = 16  # steps between looks at the loss on a GPU: each look waits for the device
COUNT_TOKENS = 1 << 22  # counted at a time
AHEAD = 4  # batches assembled before they are needed


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Learning rate of step 0 .. steps - 1."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    fall = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.schedule]
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * fall)


def first_target(config: TrainingConfig) -> int:
    """The first place of a block whose token is a target of the loss."""
    return config.block - config.loss_on_last if config.loss_on_last else 1


class Loss(nn.Module):
    """A model with its loss, as one module: compiled and wrapped together, the logits are never stored in float32."""

    def __init__(self, model: LanguageModel, first: int, device: str, precision: str):
        super().__init__()
        self.net, self.model, self.first, self.device = model.net, model, first, device
        self.autocast = precision == "bf16"

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the targets of a batch; a scalar."""
        with torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext():
            # Cut before the head: logits are by far the largest tensor, and a cut of them is a copy, and another back.
            features = self.model.features(ids_BT)[:, self.first - 1 : -1]
            logits = self.model.head(features.flatten(0, 1)).float()
        return F.cross_entropy(logits, ids_BT[:, self.first :].flatten(), reduction="sum")


class Trainer:
    """Trains the model of each generation in the same memory, with the same optimiser and the same compiled step."""

    def __init__(self, config: RunConfig, processes: Processes, console: Console):
        self.config, self.processes, self.console = config, processes, console
        self.settings = config.training
        self.model: LanguageModel
        """The weights as they stand; made from the first model that is trained."""
        self.optimizer: torch.optim.AdamW
        self.loss: Any = None
        self.compiled_rows = 0  # blocks of the batches that the compiled step takes; 0: nothing is compiled

    def _begin(self, start: LanguageModel) -> None:
        """Takes the start weights over, in place after the first time, and empties the optimiser."""
        if self.loss is not None:
            copy_weights(true_state(start), self.model)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
            return
        settings, device = self.settings, self.processes.device
        net = copy.deepcopy(start.net).to(device)
        if self.processes.precision == "bf16_pure":
            # Not buffers: with rotary angles in bf16 it would be another model than the one that is published.
            for weight in net.parameters():
                weight.data = weight.data.to(torch.bfloat16)
        compiles = settings.compile or (settings.compile is None and device.type == "cuda")
        if settings.attention != "sdpa":
            net.set_attn_implementation(settings.attention)
        elif compiles and start.plain:
            causal_attention(net)
        for module in net.modules():  # transformers writes GPT-2's GELU out in eight steps; torch has it as one
            if type(getattr(module, "act", None)).__name__ == "NewGELUActivation":
                module.act = nn.GELU(approximate="tanh")
        if settings.gradient_checkpointing:
            # Its name since transformers 5.2x, and the one before.
            (getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable)()
        self.model = LanguageModel(net, start.vocab)
        matrices = [p for p in net.parameters() if p.ndim >= 2]
        others = [p for p in net.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            fused=True,
        )
        self.module = Loss(self.model, first_target(self.settings), device.type, self.processes.precision)
        if compiles:
            self.module.compile(dynamic=False)
            share = -(-settings.batch_size // self.processes.world)  # the larger ones, where shares are uneven
            self.compiled_rows = -(-share // settings.accumulation)
        self.loss = self.processes.accelerator.prepare(self.module)

    def train(self, start: LanguageModel, data: TrainingSet, generation: int) -> dict[str, Any]:
        """Trains a copy of `start` on the blocks of `data`; the result is `self.model`.

        Returns steps, tokens shown and in the loss (counted on what the optimiser was given; they equal the ledger), the
        last loss in nats per token, and the rows of the training log.

        Raises:
            UserError: the loss or the final weights are not finite (step, learning rate and what to try).
        """
        self._begin(start)
        settings, processes, config = self.settings, self.processes, self.config
        accelerator, net = processes.accelerator, self.model.net
        total = shows(config, len(data))
        order = batch_order(config.seed, generation, len(data), total)
        steps = -(-total // settings.batch_size)
        targets_per_block = settings.block - first_target(self.settings)
        torch.manual_seed(derive(config.seed, generation, "dropout", processes.rank) % 2**63)

        rows: list[dict[str, float]] = []
        losses: list[Tensor] = []
        norm = torch.tensor(0.0)
        given = np.zeros(2, np.int64)  # tokens shown, tokens in the loss
        check_every = CUDA_CHECK_EVERY if processes.device.type == "cuda" else 1
        net.train()
        with self.console.bar(f"gen {generation} train", total * settings.block) as bar:
            for step, parts in enumerate(self._batches(data, order, steps)):
                blocks = min(settings.batch_size, total - step * settings.batch_size)
                lr = learning_rate(settings, step, steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                loss_sum = torch.zeros((), device=processes.device)
                for index, (ids, counts) in enumerate(parts):
                    with accelerator.no_sync(self.loss) if index + 1 < len(parts) else nullcontext():
                        loss = self._forward(ids) * counts
                        # Processes' gradients are averaged; times world gives the sum over the batch.
                        (loss * (processes.world / (blocks * targets_per_block))).backward()
                    loss_sum += loss.detach()
                    given += (ids.numel(), len(ids) * targets_per_block) if counts else (0, 0)
                if settings.clip:
                    norm = nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                losses.append(loss_sum / (blocks * targets_per_block))
                bar.update(blocks * settings.block)
                if len(losses) == check_every or step + 1 == steps:
                    values = accelerator.reduce(torch.stack(losses), "sum").tolist()
                    _check_finite(values, step + 1 - len(values), settings, steps)
                    losses = []
                    if step % max(1, steps // LOG_ROWS) < check_every or step + 1 == steps:
                        rows.append({"step": step, "loss": values[-1], "lr": lr, "grad_norm": float(norm)})
                        bar.set_postfix(loss=f"{values[-1]:.3f}")
        if not all(bool(torch.isfinite(p).all()) for p in net.parameters()):  # the last step has no later loss
            raise UserError(
                f"training.lr={settings.lr}: weights are not finite after step {steps - 1} of {steps}; "
                "try a lower lr, warmup_steps or clip=1"
            )
        shown, in_loss = processes.sum(given).tolist()
        _check_ledger(data, generation, shown, in_loss)
        net.eval()
        return {"steps": steps, "shown": shown, "in_loss": in_loss, "last_loss": rows[-1]["loss"], "log": rows}

    def _batches(self, data: TrainingSet, order: np.ndarray, steps: int) -> Iterator[list[tuple[Tensor, bool]]]:
        """This process's micro-batches of each step, on the device; assembled ahead by a thread of their own.

        An empty share (a short last batch on many processes) still takes part: one block that does not count.
        """
        settings, processes = self.settings, self.processes
        pinned = processes.device.type == "cuda"

        def assemble(step: int) -> list[tuple[Tensor, bool]]:
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            mine = batch[processes.rank :: processes.world]
            parts = np.array_split(mine, settings.accumulation) if len(mine) >= settings.accumulation else [mine]
            found = []
            for part in parts:
                ids = torch.from_numpy(data[part if len(part) else batch[:1]])
                found.append((ids.pin_memory() if pinned else ids, bool(len(part))))
            return found

        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(assemble, step) for step in range(min(AHEAD, steps))]
            for step in range(steps):
                ready = coming.pop(0).result()
                if step + AHEAD < steps:
                    coming.append(pool.submit(assemble, step + AHEAD))
                yield [(ids.to(processes.device, non_blocking=True), counts) for ids, counts in ready]

    def _forward(self, ids: Tensor) -> Tensor:
        """The summed loss of a micro-batch. Another size than the usual is not worth a compilation of its own."""
        usual = not self.compiled_rows or len(ids) == self.compiled_rows
        try:
            with nullcontext() if usual else torch.compiler.set_stance("force_eager"):
                loss: Tensor = self.loss(ids)
            return loss
        except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, or one that cannot do this
            if self.settings.compile:
                raise UserError(
                    f"training.compile=True: torch cannot compile here ({first_line(error)}); install a C++ compiler, "
                    "or leave it null"
                ) from None
            self.console.say(f"training: not compiled ({first_line(error)}); slower, otherwise the same")
            self.compiled_rows, self.module._compiled_call_impl = 0, None
            return self._forward(ids)


class Counter:
    """Counts pairs instead of training: what `Trainer` is to other families, for a bigram model (bigram.py)."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.model: LanguageModel
        """The counts as they stand; made when a generation is counted."""

    def train(self, start: LanguageModel, data: TrainingSet, generation: int) -> dict[str, Any]:
        """Counts every block as often as an optimiser would be shown it; the result is `self.model`. Every process
        counts for itself.

        Returns what `Trainer.train` returns; the loss is that of the counts on what they were counted on.
        """
        from collapselab import bigram

        first = first_target(self.config.training)
        order = batch_order(self.config.seed, generation, len(data), shows(self.config, len(data)))
        at_once = max(1, COUNT_TOKENS // data.block)
        parts = (data[order[i : i + at_once]] for i in range(0, len(order), at_once))
        counted = bigram.count(parts, start.vocab, first)
        shown, in_loss = len(order) * data.block, int(counted.counts.sum())
        _check_ledger(data, generation, shown, in_loss)
        self.model = LanguageModel(bigram.network(counted), start.vocab)
        row = {"step": 0, "loss": counted.loss}
        return {"steps": 0, "shown": shown, "in_loss": in_loss, "last_loss": counted.loss, "log": [row]}


def _check_ledger(data: TrainingSet, generation: int, shown: int, in_loss: int) -> None:
    for name, counted in (("shown", shown), ("loss", in_loss)):
        promised = sum(source[name] for source in data.ledger.values())
        if promised != counted:
            raise RuntimeError(f"generation {generation}: ledger has {promised} tokens {name}, training had {counted}")


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

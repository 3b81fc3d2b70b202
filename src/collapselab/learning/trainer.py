"""One generation's training run: AdamW on packed blocks, on one process or several.

Batch k is a function of the seed and k, and the loss of a step is a sum over tokens divided by the tokens of the whole batch:
neither the number of processes nor gradient accumulation changes the result.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from collapselab.config import RunConfig, UserError, first_line
from collapselab.learning import checkpoints
from collapselab.learning.log import Log, check_ledger, first_target, learning_rate
from collapselab.mixing.sets import TrainingSet, shows
from collapselab.models.network import LanguageModel, copy_weights, true_state
from collapselab.runtime import interrupts
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes, clock, out_of_memory
from collapselab.seeds import batch_order, derive
from collapselab.store.unfinished import Unfinished

CUDA_CHECK_EVERY = 16  # steps between fetches of the loss from a GPU: each waits for the device
AHEAD = 4  # batches assembled before they are needed
CHECKPOINTS = 2  # kept at a time
PACED = 2  # timed steps of `pace`, after one that warms up
RECOMPILES = 64  # of the step in one process: a worker runs chains of several models, blocks and batch sizes


class Loss(nn.Module):
    """A model and its loss as one module: compiled together, they never store the logits in float32."""

    def __init__(self, model: LanguageModel, first: int, device: str, precision: str, loss_below: float | None = None):
        super().__init__()
        self.net, self.model, self.first, self.device = model.net, model, first, device
        # In nats: losses are compared, so that no probability is computed.
        self.least = None if loss_below is None else -math.log(loss_below)
        self.autocast = precision == "bf16"

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the targets of a batch: a scalar. If truncated, (4,): the loss that remains, the
        number of targets left out, their loss, and the whole loss."""
        with torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext():
            # Slice before the head: logits are by far the largest tensor, and slicing them copies them, in both directions.
            features = self.model.features(ids_BT)[:, self.first - 1 : -1]
            logits = self.model.head(features.flatten(0, 1)).float()
        targets = ids_BT[:, self.first :].flatten()
        if self.least is None:
            return F.cross_entropy(logits, targets, reduction="sum")
        losses = F.cross_entropy(logits, targets, reduction="none")
        sure, whole = losses < self.least, losses.detach()
        left = losses.masked_fill(sure, 0.0).sum()  # NaN survives, and is noticed
        return torch.stack([left, sure.sum(), whole.masked_fill(~sure, 0.0).sum(), whole.sum()])


class Trainer:
    """Trainer of all generations: the same memory, optimiser and compiled step."""

    keeps_checkpoints: ClassVar[bool] = True

    def __init__(self, config: RunConfig, processes: Processes, console: Console):
        self.config, self.processes, self.console = config, processes, console
        self.settings = config.training
        self.model: LanguageModel
        """Current weights; created from the first model that is trained."""
        self.optimizer: torch.optim.AdamW
        self.loss: Any = None
        self.compiled_rows = 0  # blocks of the micro-batch that the step is compiled for, before splitting; 0: none
        self.split = 1  # parts that a micro-batch is divided into when memory is short
        self.rehearsed = False

    def begin(self, start: LanguageModel) -> None:
        """Load the start weights, in place after the first time, and reset the optimiser."""
        if self.loss is not None:
            copy_weights(true_state(start), self.model)
            self.forget()
            return
        settings, device = self.settings, self.processes.device
        net = copy.deepcopy(start.net).to(device)
        self.model = replace(start, net=net)
        if self.processes.precision == "bf16_pure":
            # Not buffers: with rotary angles in bf16 it would differ from the published model.
            for weight in net.parameters():
                weight.data = weight.data.to(torch.bfloat16)
        compiles = settings.compile or (settings.compile is None and device.type == "cuda")
        if settings.attention != "sdpa":
            net.set_attn_implementation(settings.attention)
        elif compiles:
            self.model.without_mask()
        for module in net.modules():  # eight operations in transformers, one in torch
            if type(getattr(module, "act", None)).__name__ == "NewGELUActivation":
                module.act = nn.GELU(approximate="tanh")
        if settings.gradient_checkpointing:
            # The name since transformers 5.2x, and the earlier one.
            (getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable)()
        matrices = [p for p in net.parameters() if p.ndim >= 2]
        others = [p for p in net.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        betas = settings.beta1, settings.beta2
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)
        precision, below = self.processes.precision, settings.loss_below
        self.module = self.loss_module(self.model, first_target(settings), device.type, precision, below)
        if compiles:
            torch._dynamo.config.recompile_limit = RECOMPILES  # beyond its limit (8) torch would continue uncompiled
            self.module.compile(dynamic=False)
            share = -(-settings.batch_size // self.processes.world)  # the larger ones, if shares are uneven
            self.compiled_rows = -(-share // settings.accumulation)
        self.loss = self.processes.accelerator.prepare(self.module)

    def forget(self) -> None:
        """Reset the optimiser."""
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def loss_module(self, *settings: Any) -> Loss:
        """Return the loss of a model as a module; the arguments are those of `Loss`."""
        return Loss(*settings)

    def train(
        self, start: LanguageModel, data: TrainingSet, generation: int, unfinished: Unfinished | None = None
    ) -> dict[str, Any]:
        """Train a copy of `start` on the blocks of `data`; the result is `self.model`.

        Args:
            unfinished: folder of checkpoints to resume from and write to; None keeps none.

        Returns steps, tokens shown and in the loss (counted at the optimiser; they equal the ledger), the last loss in nats per
        token, the rows of the training log and, if memory was short, `split`: the parts that micro-batches were divided into.

        Raises:
            UserError: the loss or the final weights are not finite.
            Stopped: a signal arrived; a checkpoint was written.
        """
        self.begin(start)
        settings, processes, config = self.settings, self.processes, self.config
        net = self.model.net
        total = shows(config, len(data), generation)
        order = batch_order(config.seed, generation, len(data), total)
        steps = -(-total // settings.batch_size)
        targets_per_block = settings.block - first_target(self.settings)

        first, given, rows = self._resumed(unfinished, generation, steps)
        log = Log(settings, steps, processes, rows)
        saved = first
        look_every = CUDA_CHECK_EVERY if processes.device.type == "cuda" else 1
        net.train()
        title = f"gen {generation} train"
        with self.console.bar(title, total * settings.block) as bar, interrupts.finishing():
            bar.update(first * settings.batch_size * settings.block)
            for step, parts in self._batches(data, order, first, steps):
                blocks = min(settings.batch_size, total - step * settings.batch_size)
                self._prepare_step(generation, step, steps)
                sums, norm = self._step(parts, blocks * targets_per_block)
                for ids, counts in parts:
                    given += (ids.numel(), len(ids) * targets_per_block) if counts else (0, 0)
                log.add(step, sums, norm)
                bar.update(blocks * settings.block)
                stop, due = interrupts.asked() > 0, unfinished is not None and self.due(unfinished, step + 1 - saved)
                last = step + 1 == steps
                # Several processes must agree, and do so only when they exchange their losses.
                if last or len(log.recent) >= look_every or (processes.world == 1 and (stop or due)):
                    stop, due = log.look(stop, due and processes.is_main)
                    bar.note(f"loss={log.last:.3f}")
                    if (stop or due) and unfinished is not None and not last:
                        self._keep(unfinished, step + 1, given, log.rows)
                        saved = step + 1
                    if stop and not last:
                        raise interrupts.Stopped(
                            max(processes.all_gather(interrupts.asked())),
                            f"generation {generation}, training, after step {step + 1} of {steps}",
                        )
        self._check_weights(steps)
        shown, in_loss = processes.sum(given).tolist()
        check_ledger(data, generation, shown, in_loss)
        net.eval()
        facts = {"steps": steps, "shown": shown, "in_loss": in_loss, "last_loss": log.rows[-1]["loss"], "log": log.rows}
        return facts | ({"split": self.split} if self.split > 1 else {})

    def _prepare_step(self, generation: int, step: int, steps: int) -> None:
        """Set the learning rate and the seed of dropout, functions of the step: a checkpoint needs neither."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step, steps)
        if self.config.model.dropout:
            index = step * self.processes.world + self.processes.rank
            torch.manual_seed(derive(self.config.seed, generation, "dropout", index) % 2**63)

    def _check_weights(self, steps: int) -> None:
        """Raise UserError if a weight is not finite: no later loss would show it after the last step."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.net.parameters()):
            raise UserError(
                f"training.lr={self.settings.lr}: weights are not finite after step {steps - 1} of {steps}; "
                "try a lower lr, warmup_steps or clip=1"
            )

    def pace(self, start: LanguageModel, text: np.ndarray) -> tuple[LanguageModel, float]:
        """Return a model of a generation's size (`start`) and the trained tokens per second of all processes.

        Times steps of training on the first tokens of `text`; not for a trainer that is in use.
        """
        self.begin(start)
        self.model.net.train()
        settings, steps = self.settings, 1 + PACED
        shape = settings.batch_size, settings.block
        ids = np.resize(np.asarray(text[: math.prod(shape)], np.int64), shape)
        order, seconds = np.tile(np.arange(len(ids)), steps), list[float]()
        for _, parts in self._batches(ids, order, 0, steps):
            seconds += clock(partial(self._step, parts, ids.size), self.processes.device, 1, warm_up=0)
        return start, ids.size / statistics.median(seconds[1:])

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def due(self, unfinished: Unfinished, steps: int) -> bool:
        """Return True if a checkpoint is due, so many steps after the last one."""
        every = self.settings.checkpoint_steps
        return (every is not None and steps >= every) or unfinished.due(self.settings.checkpoint_seconds)

    def keep(
        self, unfinished: Unfinished, step: int, progress: dict[str, Any], phase: dict[str, str] | None = None
    ) -> None:
        """Write a checkpoint after a step, and remove the oldest."""
        if self.processes.is_main:
            with unfinished.write(step, phase, keep=CHECKPOINTS) as out:
                checkpoints.save(out, self.model, self.optimizer, progress)
            self.console.record(f"{unfinished.folder}: checkpoint after step {step}")

    def _keep(self, unfinished: Unfinished, step: int, given: np.ndarray, rows: list[dict[str, float]]) -> None:
        shown = self.processes.sum(given).tolist()
        self.keep(unfinished, step, {"step": step, "given": shown, "log": rows, "split": self.split})

    def newest(self, unfinished: Unfinished | None, phase: dict[str, str] | None = None) -> int:
        """Step of the newest valid checkpoint of a phase; 0 without one."""
        if unfinished is None:
            return 0
        kept, messages = unfinished.parts(phase) if self.processes.is_main else ({}, [])
        for message in messages:
            self.console.say(message)
        return self.processes.broadcast(max(kept, default=0))

    def resume(self, unfinished: Unfinished, step: int) -> dict[str, Any]:
        """Load the weights and the optimiser's state after a step; return the progress that was kept."""
        progress = checkpoints.load(unfinished.folder / f"{step:010d}", self.model, self.optimizer)
        self.split = progress["split"]
        return progress

    def _resumed(
        self, unfinished: Unfinished | None, generation: int, steps: int
    ) -> tuple[int, np.ndarray, list[dict[str, float]]]:
        """First step, tokens (shown, in the loss) so far and rows of the log, from the newest valid checkpoint."""
        newest = self.newest(unfinished)
        if unfinished is None or not newest:
            return 0, np.zeros(2, np.int64), []
        progress = self.resume(unfinished, newest)
        folder = unfinished.folder / f"{newest:010d}"
        self.console.say(f"generation {generation}: training resumes after step {newest} of {steps}, from {folder}")
        given = np.array(progress["given"], np.int64) * int(self.processes.is_main)  # counted once
        return newest, given, progress["log"]

    # --- a step ---------------------------------------------------------------------------------------------------

    def _step(self, parts: list[tuple[Tensor, bool]], targets: int) -> tuple[Tensor, Tensor]:
        """Take an optimiser step; return its sums (`Loss`) per target, first the loss in nats per token, and the norm of the
        gradients (0 without clipping).

        Args:
            targets: tokens in the loss on all processes.
        """
        # Gradients are averaged over processes; times world gives the sum over the batch.
        sums = self._gradients(parts, self.processes.world / targets)
        norm = torch.zeros((), device=self.processes.device)
        if self.settings.clip:
            norm = nn.utils.clip_grad_norm_(self.model.net.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums / targets, norm

    def _gradients(self, parts: list[tuple[Tensor, bool]], scale: float) -> Tensor:
        """Accumulate the gradients of a step; return its sums (`Loss`). Micro-batches that do not fit into GPU memory are halved
        from then on."""
        if self.processes.world > 1 and not self.rehearsed and self.processes.device.type == "cuda":
            # Once gradients are summed, a process that runs out of memory cannot undo what others have added.
            self.rehearsed = True
            self._attempts(parts, scale, sync=False)
            self.optimizer.zero_grad(set_to_none=True)
        return self._attempts(parts, scale, sync=True)

    def _attempts(self, parts: list[tuple[Tensor, bool]], scale: float, *, sync: bool) -> Tensor:
        while True:
            pieces = [(p, counts) for ids, counts in parts for p in ids.split(-(-len(ids) // self.split))]
            try:
                return self._attempt(pieces, scale, sync=sync)
            except RuntimeError as error:
                if not out_of_memory(error) or (sync and self.processes.world > 1):
                    raise
            if max(len(ids) for ids, _ in pieces) == 1:
                raise UserError(
                    "training.block: a single block does not fit into GPU memory; set gradient_checkpointing=true, "
                    "precision=bf16, a shorter block or a smaller model"
                )
            self.split *= 2
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.console.say(
                f"out of GPU memory in training: micro-batches are divided by {self.split}; the batch size is unchanged"
            )

    def _attempt(self, pieces: list[tuple[Tensor, bool]], scale: float, *, sync: bool) -> Tensor:
        total: Tensor | None = None
        for index, (ids, counts) in enumerate(pieces):
            alone = index + 1 < len(pieces) or not sync
            with self.processes.accelerator.no_sync(self.loss) if alone else nullcontext():
                sums = self._forward(ids).reshape(-1) * counts
                (sums[0] * scale).backward()
            total = sums.detach() if total is None else total + sums.detach()
        assert total is not None
        return total

    def _batches(
        self, data: TrainingSet | np.ndarray, order: np.ndarray, first: int, steps: int
    ) -> Iterator[tuple[int, list[tuple[Tensor, bool]]]]:
        """Yield (step, this process's micro-batches on the device) from step `first` on, assembled ahead in a thread.

        A process with an empty share (short last batch, many processes) still takes part, with one block that does not count.
        """
        settings, processes = self.settings, self.processes
        pinned = processes.device.type == "cuda"

        def assemble(step: int) -> list[tuple[Tensor, bool]]:
            batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            mine = batch[processes.rank :: processes.world]
            parts = np.array_split(mine, settings.accumulation) if len(mine) >= settings.accumulation else [mine]
            tensors = [torch.from_numpy(data[part if len(part) else batch[:1]]) for part in parts]
            return [(ids.pin_memory() if pinned else ids, bool(len(p))) for ids, p in zip(tensors, parts, strict=True)]

        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(assemble, step) for step in range(first, min(first + AHEAD, steps))]
            for step in range(first, steps):
                ready = coming.pop(0).result()
                if step + AHEAD < steps:
                    coming.append(pool.submit(assemble, step + AHEAD))
                yield step, [(ids.to(processes.device, non_blocking=True), counts) for ids, counts in ready]

    def _forward(self, ids: Tensor) -> Tensor:
        """Compute the sums of a micro-batch (`Loss`). Odd-sized ones run eagerly: recompiling would cost more."""
        usual = not self.compiled_rows or len(ids) == -(-self.compiled_rows // self.split)
        try:
            with nullcontext() if usual else torch.compiler.set_stance("force_eager"):
                loss: Tensor = self.loss(ids)
            return loss
        except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, or an unsupported model
            if self.settings.compile:
                raise UserError(
                    f"training.compile=True: torch cannot compile here ({first_line(error)}); install a C++ compiler, "
                    "or leave it null"
                ) from None
            self.console.say(f"training: not compiled ({first_line(error)}); slower, but the same results")
            self.compiled_rows, self.module._compiled_call_impl = 0, None
            return self._forward(ids)

"""Policy steps: a model writes answers, judges reward them, and it learns from the rewards (objectives.py).

A step is a function of the weights, the optimiser and its number: its answers are drawn from (seed, generation, step, number),
so a checkpoint holds nothing of them, and a resumed run ends with equal bytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from collapselab.config import PolicyConfig, UserError
from collapselab.learning.answers import Answers, Ask, joined, pairs, summary
from collapselab.learning.log import LOG_ROWS
from collapselab.learning.objectives import (
    advantages,
    dpo_loss,
    entropy,
    in_loss,
    kl_exact,
    kl_k3,
    policy_loss,
    written_mask,
)
from collapselab.learning.trainer import Loss, Trainer
from collapselab.mixing.sets import TrainingSet
from collapselab.models.network import LanguageModel
from collapselab.runtime import interrupts
from collapselab.runtime.parallel import out_of_memory
from collapselab.seeds import derive
from collapselab.store.unfinished import Unfinished

PHASE = {"phase": "policy"}
"""Input that tells a checkpoint of policy steps from one of training by likelihood."""


class Rows(NamedTuple):
    """A part of a step's answers as tensors: B rows of T tokens, N of them after the prompt, of a vocabulary of V."""

    head: int
    """Tokens of the prompt."""
    repeats: int
    """Consecutive rows with the same prompt, which is read once."""
    written: Tensor
    """bool (B, N); all False in a part that only takes part."""
    advantage: Tensor
    """(B,)."""
    old: Tensor | None
    """Log-probabilities (B, N) that the ratio is taken from; None: the present ones."""
    drawn: Tensor | None
    """Log-probabilities (B, N) as the writer drew the tokens, if it says."""
    reference: Tensor
    """Logits (B, N, V) of the reference."""
    tokens: int
    """Written tokens of the step, on all processes."""
    pairs: int
    """Pairs of the step, on all processes (dpo: the first half of the rows was chosen, the second rejected)."""


FIGURES = ("loss", "ratio", "clipped", "kl", "entropy", "margin", "ranked", "writer_ratio")
"""What `PolicyLoss` returns of a part, as its share of the mean over the step; then the largest difference from the writer."""


class PolicyLoss(Loss):
    """The loss of a batch of blocks or, given `rows`, of a part of a step's answers."""

    policy: PolicyConfig
    objective: str

    def forward(self, ids_BT: Tensor, rows: Rows | None = None) -> Tensor:
        """Return `Loss.forward` or, given `rows`, float32 (FIGURES + 1,)."""
        if rows is None:
            return super().forward(ids_BT)
        logits_BNV = self.logits(self.model, ids_BT, rows.head, rows.repeats)
        ids_BN, written_BN = ids_BT[:, rows.head :], rows.written
        logp_BN = taken(logits_BNV, ids_BN)
        if self.policy.estimator == "exact":
            kl_BN = kl_exact(logits_BNV, rows.reference)
        else:
            kl_BN = kl_k3(logp_BN, taken(rows.reference, ids_BN))
        seen_BN = logp_BN.detach()
        old_BN = seen_BN if rows.old is None else rows.old
        pairwise = self.objective == "dpo"
        advantage_B = torch.zeros_like(rows.advantage) if pairwise else rows.advantage
        loss, figures = policy_loss(
            logp_BN, old_BN, advantage_B, written_BN, clip=self.policy.clip, kl_BT=kl_BN.detach() if pairwise else kl_BN,
            beta=0.0 if pairwise else self.policy.kl, tokens=rows.tokens,
        )  # fmt: skip
        zero = torch.zeros_like(loss.detach())
        preferred = {"margin": zero, "ranked": zero}
        if pairwise and rows.pairs:
            loss, preferred = self._preferences(logp_BN, rows, ids_BN)
        figures |= preferred | {"loss": loss, "entropy": entropy(logits_BNV.detach(), written_BN, rows.tokens)}
        off_BN = zero if rows.drawn is None else (seen_BN - rows.drawn).masked_fill(~written_BN, 0.0)
        figures["writer_ratio"] = (off_BN.exp() * written_BN).sum() / max(1, rows.tokens)
        return torch.stack([*(figures[name] for name in FIGURES), off_BN.abs().max()])

    def _preferences(self, logp_BN: Tensor, rows: Rows, ids_BN: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of pairs, as this part's share of the step's mean."""
        half, reference_BN = len(logp_BN) // 2, taken(rows.reference, ids_BN)
        mine_B, theirs_B = ((logp * rows.written).sum(1) for logp in (logp_BN, reference_BN))
        loss, figures = dpo_loss(mine_B[:half], mine_B[half:], theirs_B[:half], theirs_B[half:], self.policy.kl)
        share = half / rows.pairs * float(rows.written.any())
        return loss * share, {name: value * share for name, value in figures.items()}

    def logits(self, model: LanguageModel, ids_BT: Tensor, head: int, repeats: int) -> Tensor:
        """Return a model's logits that predict the tokens after a prompt, float32 (B, T - head, V)."""
        with torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext():
            features = model.answer_features(ids_BT, head, repeats)
            flat = model.head(features.flatten(0, 1)).float()
        return flat.view(*features.shape[:2], -1)


def taken(logits_BNV: Tensor, ids_BN: Tensor) -> Tensor:
    """Return the log-probability of each token that stands there, (B, N)."""
    return logits_BNV.log_softmax(-1).gather(2, ids_BN[..., None])[..., 0]


class PolicyTrainer(Trainer):
    """Trainer whose generations 1 and up learn from rewards, after training by likelihood if `training.tune`."""

    ask: Callable[[int], Ask]
    """Writer and judge of a generation's answers, set by who owns them."""
    first: Callable[[], LanguageModel]
    """Generation 0's model, set by the same."""

    def loss_module(self, *settings: Any) -> Loss:
        """Return a `PolicyLoss`."""
        module = PolicyLoss(*settings)
        module.policy, module.objective = self.config.policy, self.config.training.objective
        return module

    def train(
        self, start: LanguageModel, data: TrainingSet, generation: int, unfinished: Unfinished | None = None
    ) -> dict[str, Any]:
        """Learn a generation's model, see `Trainer.train`: the log has a row for each policy step, and `ended` tells which floor
        was reached.

        Raises:
            UserError: a loss or the final weights are not finite.
            Stopped: a signal arrived; a checkpoint was written.
        """
        if not generation:
            return super().train(start, data, generation, unfinished)
        facts: dict[str, Any] = {"steps": 0, "shown": 0, "in_loss": 0}
        kept = self.newest(unfinished, PHASE)
        if self.settings.tune and not kept:
            tuned = super().train(start, data, generation, unfinished)
            facts |= {key: tuned[key] for key in facts} | {"tuned": tuned["log"][-1]}
            self.forget()
        else:
            self.begin(start)
        log: list[dict[str, float]] = []
        if unfinished is not None and kept:
            progress = self.resume(unfinished, kept)
            facts, log = progress["facts"], progress["log"]
            self.console.say(
                f"generation {generation}: policy steps resume after step {len(log)} of {self.config.policy.steps}, from "
                f"{unfinished.folder / f'{kept:010d}'}"
            )
        self._steps(start, generation, unfinished, facts, log)
        self._check_weights(self.config.policy.steps)
        self.model.net.eval()
        every = max(1, len(log) // LOG_ROWS)
        rows = [row for row in log if row["step"] % every == 0 or row is log[-1]]
        why = self._floor(log)
        facts |= {"policy_steps": len(log), "written": int(sum(row["tokens"] for row in log))}
        ended = {"ended": f"after policy step {len(log)}: {why}"} if why else {}
        return facts | {"last_loss": log[-1]["loss"], "log": rows} | ended

    def _steps(
        self, start: LanguageModel, generation: int, unfinished: Unfinished | None, facts: dict[str, Any],
        log: list[dict[str, float]],
    ) -> None:  # fmt: skip
        """Take the policy steps that `log` lacks, and add a row for each."""
        policy, processes = self.config.policy, self.processes
        reference = self.first() if policy.reference == "first" else start
        home = reference.net.device
        reference.net.to(processes.device).eval()
        ask, saved = self.ask(generation), len(log)
        self.model.net.train()
        with self.console.bar(f"gen {generation} policy", policy.steps) as bar, interrupts.finishing():
            bar.update(len(log))
            while len(log) < policy.steps and not self._floor(log):
                step = len(log)
                log.append({"step": step} | self._policy_step(ask, step, reference, generation))
                _check_row(log[-1], policy)
                bar.update(1)
                bar.note(f"reward={log[-1].get('reward', float('nan')):.3f}")
                stop = max(processes.all_gather(interrupts.asked()))
                due = processes.broadcast(unfinished is not None and self.due(unfinished, len(log) - saved))
                if (stop or due) and unfinished is not None and len(log) < policy.steps:
                    progress = {"step": len(log), "facts": facts, "log": log, "split": self.split}
                    self.keep(unfinished, facts["steps"] + len(log), progress, PHASE)
                    saved = len(log)
                if stop and len(log) < policy.steps:
                    raise interrupts.Stopped(
                        stop, f"generation {generation}, policy, after step {len(log)} of {policy.steps}"
                    )
        reference.net.to(home)

    def _floor(self, log: list[dict[str, float]]) -> str:
        """Return which floor the last steps are below, or ""."""
        policy, recent = self.config.policy, log[-self.config.policy.window :]
        if len(recent) < policy.window:
            return ""
        seen = ([row[key] for row in recent if key in row] for key in ("entropy", "flat"))
        spread, flat = (statistics.fmean(values) if values else float("nan") for values in seen)
        if spread < policy.least_entropy:
            return f"entropy {spread:.3g} nats is below policy.least_entropy={policy.least_entropy:g}"
        if flat > policy.most_flat:
            return f"{flat:.0%} of the groups are flat, more than policy.most_flat={policy.most_flat:g}"
        return ""

    # --- a step ---------------------------------------------------------------------------------------------------

    def _policy_step(self, ask: Ask, step: int, reference: LanguageModel, generation: int) -> dict[str, float]:
        """Write answers, learn from their rewards; return the row of the log."""
        policy, kind = self.config.policy, self.settings.objective
        for group in self.optimizer.param_groups:
            group["lr"] = policy.lr
        self.model.net.eval()  # answers are written without dropout
        answers = ask(self.model, step, "now")
        batch, compared = answers, answers
        if kind == "dpo":
            if policy.rejected == "first":
                compared = ask(reference, step, "first")
            batch = joined(answers, compared, *pairs(answers, compared))
            advantage, counts = np.zeros(len(batch)), np.ones(len(batch), bool)
        else:
            assert kind != "likelihood"
            advantage = advantages(answers.reward, answers.group, kind, scaled=policy.scaled and kind == "grpo")
            counts = in_loss(answers.reward, answers.group, kind, drop_flat=policy.drop_flat)
        drawn = len(answers) + (len(compared) if compared is not answers else 0)
        reference.net.to(self.processes.device)  # a judge may have asked it, and put it away
        self.model.net.train()
        row = summary(answers, drawn * (answers.ids.shape[1] - answers.head))
        if not len(batch):
            return row | {"loss": 0.0}  # no pair, and so no other figure
        return row | self._learn(batch, advantage, counts, reference, step, generation)

    def _learn(
        self,
        batch: Answers,
        advantage: np.ndarray,
        counts: np.ndarray,
        reference: LanguageModel,
        step: int,
        generation: int,
    ) -> dict[str, float]:
        """Take `policy.inner` optimiser steps on a batch; return its figures."""
        policy, module = self.config.policy, self.module
        assert isinstance(module, PolicyLoss)
        parts = self._parts(batch, advantage, counts, reference, module)
        if policy.inner > 1:
            with torch.no_grad():
                olds = [
                    taken(module.logits(self.model, ids, rows.head, rows.repeats), ids[:, rows.head :])
                    for ids, rows in parts
                ]
            parts = [(ids, rows._replace(old=old)) for (ids, rows), old in zip(parts, olds, strict=True)]
        seen: list[np.ndarray] = []
        for inner in range(policy.inner):
            if self.config.model.dropout:
                torch.manual_seed(
                    derive(self.config.seed, generation, "policy/dropout", step * policy.inner + inner) % 2**63
                )
            seen.append(self._optimised(parts))
        names = [*FIGURES, "writer_gap", "grad_norm"]
        row = dict(zip(names, seen[0].tolist(), strict=True))
        for name in ("ratio", "clipped"):
            row[name] = float(np.mean([each[names.index(name)] for each in seen]))
        if batch.logp is None:
            del row["writer_ratio"], row["writer_gap"]
        if self.settings.objective != "dpo":
            del row["margin"], row["ranked"]
        return row

    def _optimised(self, parts: list[tuple[Tensor, Rows]]) -> np.ndarray:
        """Take an optimiser step; return FIGURES, the largest difference from the writer and the norm of the gradients, of all
        processes."""
        processes, total = self.processes, torch.zeros(len(FIGURES) + 1)
        for index, (ids, rows) in enumerate(parts):
            with processes.accelerator.no_sync(self.loss) if index + 1 < len(parts) else nullcontext():
                try:
                    figures = self.loss(ids, rows)
                    (figures[0] * processes.world).backward()  # gradients are averaged over processes
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    raise UserError(
                        f"training.accumulation={self.settings.accumulation}: a step's answers do not fit into GPU memory; raise it"
                    ) from None
            seen = figures.detach().cpu()
            total = torch.cat([total[:-1] + seen[:-1], torch.maximum(total[-1:], seen[-1:])])
        norm = torch.zeros(())
        if self.settings.clip:
            norm = nn.utils.clip_grad_norm_(self.model.net.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        every = np.stack(processes.all_gather(total.numpy()))
        return np.concatenate([every[:, :-1].sum(0), every[:, -1:].max(0), [float(norm)]])

    def _parts(
        self, batch: Answers, advantage: np.ndarray, counts: np.ndarray, reference: LanguageModel, module: PolicyLoss
    ) -> list[tuple[Tensor, Rows]]:
        """Return this process's micro-batches on the device, of whole groups. Of pairs, both rows are in one part."""
        processes, device, head = self.processes, self.processes.device, batch.head
        pairwise = self.settings.objective == "dpo"
        length, whole = batch.ids.shape[1] - head, torch.from_numpy(batch.end - head)
        written = written_mask(torch.zeros_like(whole), whole, length) & torch.from_numpy(counts)[:, None]
        half, group = len(batch) // 2, self.config.policy.samples
        units = np.arange(half)[:, None] + [0, half] if pairwise else np.arange(len(batch)).reshape(-1, group)
        # A compiled step has one shape, and checkpoints of activations keep no cache.
        shares = not pairwise and not self.compiled_rows and not self.settings.gradient_checkpointing
        repeats = group if shares else 1
        mine = units[processes.rank :: processes.world]
        some = [part for part in np.array_split(mine, self.settings.accumulation) if len(part)] or [mine]
        out = []
        for part in some:
            idle = not len(part)  # a process without a share still takes part
            rows = (units[:1] if idle else part).T.ravel() if pairwise else (units[:1] if idle else part).ravel()
            ids = torch.from_numpy(batch.ids[rows]).to(device)
            with torch.no_grad():
                logits = module.logits(reference, ids, head, repeats)
            drawn = None if batch.logp is None else torch.from_numpy(batch.logp[rows]).to(device)
            weights = torch.from_numpy(advantage[rows].astype(np.float32)).to(device)
            of_part = (written[rows] & (not idle)).to(device)
            tokens = int(written.sum())
            out.append((ids, Rows(head, repeats, of_part, weights, None, drawn, logits, tokens, half)))
        return out


def _check_row(row: dict[str, float], policy: PolicyConfig) -> None:
    """Raise UserError if a loss is not finite."""
    if not np.isfinite(row["loss"]):
        raise UserError(
            f"policy.lr={policy.lr}: the loss became {row['loss']} at policy step {int(row['step'])}; try a lower lr, "
            "training.clip=1, or training.precision=fp32"
        )

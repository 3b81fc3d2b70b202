"""The bench of policies: a GRPO step on sums by this lab and by TRL's trainer, which runs in an environment of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from collapselab.bench.run import Case, Row, chosen, measured
from collapselab.bench.sampler import QUIET, Size
from collapselab.chain.opening import open_corpus
from collapselab.config import (
    CorpusConfig,
    JudgingConfig,
    MixingConfig,
    PolicyConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
    UserError,
)
from collapselab.config.corpus import AdditionConfig
from collapselab.corpus.prepared import Corpus
from collapselab.learning.answers import Answers
from collapselab.learning.policy import PolicyTrainer
from collapselab.models import network
from collapselab.runtime.parallel import Processes
from collapselab.sampling.answer import answer
from collapselab.sampling.sampler import Sampler

NEW = 4  # tokens of an answer
TIMED = 20  # steps of one measurement
SCRIPT = Path(__file__).parents[3] / "scripts" / "trl_policy.py"
THEIRS = SCRIPT.parents[1] / ".trl" / "bin" / "python"


class Task:
    """Sums below 200 with the prompts of many steps, and writers of answers for the trainer."""

    def __init__(self, corpus: Corpus, policy: PolicyConfig, steps: int, sampler: Sampler):
        self.policy, self.sampler, self.corpus = policy, sampler, corpus
        documents = corpus.train.ids.reshape(-1, 13)[: policy.prompts * steps].astype(np.int64)
        self.heads, self.right = documents[:, :7], documents[:, 7 : 7 + NEW]

    def ask(self, model: network.LanguageModel, step: int, _: str = "now") -> Answers:
        """Write and reward the answers of a step: 1 for the correct one, 0 for any other."""
        count, first = self.policy.prompts, step * self.policy.prompts % len(self.heads)
        heads, right = (a[first : first + count].repeat(self.policy.samples, 0) for a in (self.heads, self.right))
        ids, logp = answer(self.sampler, model, 1, heads, 7 + NEW, f"answer/{step}", self.policy.samples)
        correct = (ids[:, 7:] == right).all(1)
        group = np.arange(len(ids)) // self.policy.samples
        return Answers(ids, 7, np.full(len(ids), 7 + NEW), group, correct.astype(float), logp, correct)

    def texts(self, rows: np.ndarray) -> list[str]:
        return list(self.corpus.tokenizer.decode(rows.tolist()))


def policy(device: torch.device, repeats: int, only: int | None, ours_alone: bool) -> Iterator[Case]:
    """Measure roll-outs, whole steps, and forward and backward alone, with 402 thousand parameters."""
    settings = PolicyConfig(steps=TIMED, prompts=32, samples=8)
    config = RunConfig(
        device="cuda" if device.type == "cuda" else "cpu",
        corpus=CorpusConfig(source="addition", documents=2000, addition=AdditionConfig(digits=2)),
        model=Size("", 2, 128, 4, 15).config(13), training=TrainingConfig(block=13, objective="grpo", weight_decay=0.0),
        mixing=MixingConfig(unit="documents", tokens=13000), sampling=SamplingConfig(prompt="real_prefix", prompt_tokens=7),
        policy=settings, judging=JudgingConfig(judges=["answer"]),
    )  # fmt: skip
    processes = Processes(config.device)
    corpus = open_corpus(config, processes)
    model = network.start_weights(config.model, previous=None, tokenizer=corpus.tokenizer, block=13, seed=0)
    task = Task(corpus, settings, TIMED + 1, Sampler(config, processes, QUIET))
    trainer = PolicyTrainer(config, processes, QUIET)
    trainer.begin(model)
    trainer.model.net.train()
    reference = model
    reference.net.to(processes.device).eval()
    step = iter(range(10**9))
    per_step = settings.answers

    def rollouts() -> None:
        for _ in range(TIMED):
            task.ask(trainer.model, next(step))

    def steps() -> None:
        for _ in range(TIMED):
            trainer._policy_step(task.ask, next(step), reference, 1)

    answers = task.ask(trainer.model, 0)
    module: Any = trainer.module
    ((ids, rows),) = trainer._parts(
        answers, answers.reward - answers.reward.mean(), np.ones(per_step, bool), reference, module
    )

    def floor() -> None:
        for _ in range(TIMED):
            trainer.loss(ids, rows)[0].backward()
            trainer.optimizer.zero_grad(set_to_none=True)

    theirs = {} if ours_alone else _theirs(model, corpus, task, repeats)
    plan = [("roll-outs", rollouts), ("whole steps", steps), ("forward and backward alone", floor)]
    for title, work in chosen(plan, only):
        ours = measured("ours", work, TIMED * per_step, device, repeats)
        found = theirs.get(title)
        note = f"TRL {theirs['trl']}, transformers {theirs['transformers']}" if found else ""
        beside = [Row("TRL's GRPOTrainer", per_step / statistics.median(found), found, note=note)] if found else []
        parity: dict[str, Any] = {
            "largest difference of writer's and trainer's log-probabilities": _gap(trainer, task, reference)
        }
        if beside and beside[0].rate and ours.rate:
            parity = {"speed-up": round(ours.rate / beside[0].rate, 2)} | parity
        yield Case(
            f"Policy, {title}: 32 prompts x 8 answers of {NEW} tokens", [*beside, ours], "answers/s", parity=parity
        )


def _gap(trainer: PolicyTrainer, task: Task, reference: network.LanguageModel) -> float:
    return trainer._policy_step(task.ask, 0, reference, 1).get("writer_gap", float("nan"))


def _theirs(model: network.LanguageModel, corpus: Corpus, task: Task, repeats: int) -> dict[str, Any]:
    """Seconds of TRL's steps on the same network, prompts and threads, from a process of its own environment."""
    python = os.environ.get("COLLAPSELAB_TRL", str(THEIRS))
    if not Path(python).is_file():
        raise UserError(f"bench policy: no TRL at {python}; run scripts/trl.sh, or measure the lab alone with --ours")
    steps = 1 + repeats * 4
    rows = np.resize(np.arange(len(task.heads)), steps * task.policy.prompts)
    with tempfile.TemporaryDirectory() as folder:
        network.publish(model, corpus.tokenizer, Path(folder), {})
        asked = {
            "model": folder, "prompts": task.texts(task.heads[rows]), "answers": task.texts(task.right[rows]),
            "samples": task.policy.samples, "new": NEW, "steps": steps, "threads": torch.get_num_threads(), "lr": task.policy.lr,
        }  # fmt: skip
        done = subprocess.run([python, str(SCRIPT), json.dumps(asked)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"bench policy: TRL failed ({(done.stderr.strip().splitlines() or ['no message'])[-1][:150]})")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"roll-outs": found["rollouts"], "whole steps": found["steps"]}

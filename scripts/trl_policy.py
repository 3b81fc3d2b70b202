"""Time GRPO steps of TRL's trainer: run by `collapselab bench policy` with the Python of TRL's own environment (scripts/trl.sh).

Takes one JSON argument (model, prompts, answers, samples, new, steps, threads, lr) and prints one JSON line: versions, seconds
of each roll-out and of each whole step, the first step left out, and the mean reward.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


class Clock(TrainerCallback):
    """Seconds of whole steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def main(asked: dict[str, Any]) -> None:
    torch.set_num_threads(asked["threads"])
    right = dict(zip(asked["prompts"], asked["answers"], strict=True))
    rewards: list[float] = []
    rollouts: list[float] = []

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        found = [float(text.strip() == right[prompt]) for prompt, text in zip(prompts, completions, strict=True)]
        rewards.extend(found)
        return found

    clock = Clock()
    each = len(asked["prompts"]) // asked["steps"]
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, per_device_train_batch_size=each * asked["samples"],
            num_generations=asked["samples"], max_completion_length=asked["new"], max_steps=asked["steps"],
            learning_rate=asked["lr"], lr_scheduler_type="constant", beta=0.0, report_to=[], save_strategy="no",
            disable_tqdm=True, gradient_checkpointing=False, shuffle_dataset=False, logging_strategy="no",
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(asked["model"]),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": asked["prompts"]}),
            callbacks=[clock],
        )
        generate = trainer._generate

        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            out = generate(*given)
            rollouts.append(time.perf_counter() - began)
            return out

        trainer._generate = timed
        trainer.train()
    print(json.dumps({
        "trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
        "rollouts": rollouts[1:], "steps": clock.seconds[1:], "reward": sum(rewards) / len(rewards), "answers": len(rewards),
    }))  # fmt: skip


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

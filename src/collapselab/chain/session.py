"""State of a process that runs a chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collapselab import seeds
from collapselab.chain.preflight import Preflight
from collapselab.judging.rollouts import Rollouts
from collapselab.learning.learners import learner_of
from collapselab.learning.policy import PolicyTrainer
from collapselab.mixing.sets import TrainingSet
from collapselab.models import network
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.sampling.sampler import Sampler
from collapselab.store.checks import reading, text
from collapselab.store.folders import read_json


class Session:
    """Settings, text and processes of a chain, and its trainer, sampler and models. These are refilled in place: compiling
    and allocating take longer than copying.

    Args:
        scores: name of a re-scoring, whose scores go to folders of their own.
    """

    def __init__(self, checked: Preflight, processes: Processes, console: Console, scores: str | None = None):
        config, corpus, chain = checked.config, checked.corpus, checked.chain
        self.config, self.corpus, self.chain, self.budget = config, corpus, chain, checked.budget
        self.processes, self.console, self.scores = processes, console, scores
        self.trainer = learner_of(config)(config, processes, console)
        self.sampler = Sampler(config, processes, console, chain.batch_file)
        self.answers = Sampler(
            config, processes, console
        )  # of policies and judges; samples have batches of another size
        if isinstance(self.trainer, PolicyTrainer):
            self.trainer.ask, self.trainer.first = lambda g: Rollouts(self, g), self.first
        self._newest = network.ModelCache(config.model.pad_vocabulary, corpus.tokenizer)
        self._first = network.ModelCache(config.model.pad_vocabulary, corpus.tokenizer)
        self._base: tuple[network.LanguageModel, str] | None = None  # start weights that do not change

    def place(self, generation: int, stage: str) -> Path:
        """Folder of a stage, published or not."""
        if self.scores and stage in ("reference", "eval"):
            return self.chain.rescored(generation, self.scores, stage)
        return self.chain.stage(generation, stage)

    def training_set(self, generation: int) -> TrainingSet:
        return TrainingSet(self.config, self.chain, generation, self.corpus.train)

    def write_more(self, generation: int, first: int, count: int, stream: str = "sample") -> np.ndarray:
        """Write sequences number `first` and up of a stream of a generation's text, int64 (count, length)."""
        text = self.training_set(generation if self.config.sampling.prompt_from == "previous" else 0)
        model, separator = self.model(generation), self.corpus.tokenizer.separator
        return self.sampler.more(model, generation, text, first, count, separator=separator, stream=stream)

    def start(self, generation: int) -> tuple[network.LanguageModel, str]:
        """Start weights of a generation, and their digest."""
        config, start = self.config.model, self.config.model.start
        if self._base is not None and start == "base":
            return self._base
        previous = self.chain.stage(generation - 1, "train") if start == "previous" and generation else None
        seed = seeds.derive(self.config.seed, generation if start == "scratch" else 0, "weights")
        block, tokenizer = self.config.training.block, self.corpus.tokenizer
        model = network.start_weights(config, previous=previous, tokenizer=tokenizer, block=block, seed=seed)
        self._base = model, network.weights_digest(model)
        return self._base

    def model(self, generation: int) -> network.LanguageModel:
        """Return the published model of a generation."""
        return self._newest.read(self.chain.stage(generation, "train"), self.chain.digest_of(generation, "train"))

    def ended(self, generation: int) -> str:
        """Return why a floor of the policy ended the chain in a generation; "" if none did."""
        facts = self.chain.stage(generation, "train") / "collapselab.json"
        record = read_json(facts) if self.config.learns_from_rewards else {}
        with reading(facts):
            return text(record.get("ended", ""))

    def first(self) -> network.LanguageModel:
        """Return the published model of generation 0, held next to that of a later one."""
        return self._first.read(self.chain.stage(0, "train"), self.chain.digest_of(0, "train"))

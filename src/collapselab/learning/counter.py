"""Counting instead of training: the learner of the bigram family."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

from collapselab.config import RunConfig
from collapselab.learning.log import check_ledger, first_target
from collapselab.mixing.sets import TrainingSet, shows
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.seeds import batch_order
from collapselab.store.unfinished import Unfinished

COUNT_TOKENS = 1 << 22  # per call of `bigram.count`


class CountLearner:
    """A peer of `Trainer` that counts pairs (models/bigram.py)."""

    keeps_checkpoints: ClassVar[bool] = False

    def __init__(self, config: RunConfig, processes: Processes, console: Console):
        self.config, self.processes = config, processes
        self.model: LanguageModel
        """The counts of the last generation."""

    def train(
        self, start: LanguageModel, data: TrainingSet, generation: int, unfinished: Unfinished | None = None
    ) -> dict[str, Any]:
        """Count every block as often as an optimiser would see it; the result is `self.model`.

        Every process counts everything in one pass, so `unfinished` is not used. Returns the keys of `Trainer.train`; the loss
        is that of the counts on the counted text.
        """
        from collapselab.models import bigram

        first = first_target(self.config.training)
        order = batch_order(self.config.seed, generation, len(data), shows(self.config, len(data), generation))
        at_once = max(1, COUNT_TOKENS // data.block)
        parts = (data[order[i : i + at_once]] for i in range(0, len(order), at_once))
        counted = bigram.count(parts, start.vocab, first)
        shown, in_loss = len(order) * data.block, int(counted.counts.sum())
        check_ledger(data, generation, shown, in_loss)
        self.model = bigram.CountedModel(bigram.network(counted), start.vocab)
        row = {"step": 0, "loss": counted.loss}
        return {"steps": 0, "shown": shown, "in_loss": in_loss, "last_loss": counted.loss, "log": [row]}

    def pace(self, start: LanguageModel, text: np.ndarray) -> tuple[LanguageModel, float]:
        """Return a model of `text` (generation 0's training text) and the tokens per second of all processes."""
        from collapselab.models import bigram

        blocks, began = np.asarray(text, np.int64).reshape(-1, self.config.training.block), time.perf_counter()
        counted = bigram.count([blocks], start.vocab)
        rate = len(text) / (time.perf_counter() - began) * self.processes.world
        return bigram.CountedModel(bigram.network(counted), start.vocab), rate

"""Learners turn a generation's training set into a model."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from collapselab.config import RunConfig
from collapselab.config.families import FAMILIES
from collapselab.learning.counter import CountLearner
from collapselab.learning.policy import PolicyTrainer
from collapselab.learning.trainer import Trainer
from collapselab.mixing.sets import TrainingSet
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.unfinished import Unfinished


class Learner(Protocol):
    """Interface of learners, which live as long as their process."""

    keeps_checkpoints: ClassVar[bool]
    """Unfinished training is kept on disk."""

    def __init__(self, config: RunConfig, processes: Processes, console: Console): ...

    model: LanguageModel
    """The model of the last generation; not there before it has learned."""

    def train(
        self, start: LanguageModel, data: TrainingSet, generation: int, unfinished: Unfinished | None = None
    ) -> dict[str, Any]:
        """Learn a generation's model; return steps, tokens shown and in the loss, last loss, and rows of the log."""

    def pace(self, start: LanguageModel, text: np.ndarray) -> tuple[LanguageModel, float]:
        """Return a model of `text` and the tokens per second of all processes."""


LEARNERS: dict[str, type[Learner]] = {"trainer": Trainer, "counter": CountLearner}
"""Learners by `Family.learner`."""


def learner_of(config: RunConfig) -> type[Learner]:
    """Return the learner of a chain: that of its family, or of policies."""
    return PolicyTrainer if config.learns_from_rewards else LEARNERS[FAMILIES[config.model.family].learner]

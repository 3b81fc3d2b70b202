"""What makes a generation's model from its training set: the peers that `Family.learner` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from collapselab.config import RunConfig
from collapselab.learning.counter import Counter
from collapselab.learning.trainer import Trainer
from collapselab.mixing.sets import TrainingSet
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.unfinished import Unfinished


class Learner(Protocol):
    """Lives as long as the process; `model` is what it made last."""

    model: LanguageModel

    def train(
        self, start: LanguageModel, data: TrainingSet, generation: int, unfinished: Unfinished | None = None
    ) -> dict[str, Any]: ...

    def pace(self, start: LanguageModel) -> float: ...


LEARNERS: dict[str, Callable[[RunConfig, Processes, Console], Learner]] = {"trainer": Trainer, "counter": Counter}

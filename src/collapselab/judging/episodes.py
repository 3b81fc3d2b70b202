"""Sequences that judges look at, and what a judge may ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from collapselab.config import UserError
from collapselab.evaluation.real_text import check_finite, window_losses
from collapselab.languages import Language, language_of
from collapselab.models import network
from collapselab.tasks.tasks import Task, task_of

if TYPE_CHECKING:
    from collapselab.models.network import LanguageModel


@dataclass(frozen=True)
class Episodes:
    """Sequences of equal length, as arrays.

    Args:
        ids: int64 (n, length). head: tokens of each sequence that no model wrote. number: int64 (n,), provenance: the number of
            the sequence in its generation's stream. group: int64 (n,), equal for the same prompt.
    """

    ids: np.ndarray
    head: int
    number: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, ids: np.ndarray, head: int, first: int) -> Episodes:
        """Make episodes of sequences numbered from `first` on, grouped by their stored prompts."""
        group = np.unique(ids[:, :head], axis=0, return_inverse=True)[1] if head else np.zeros(len(ids), np.int64)
        return cls(ids.astype(np.int64), head, np.arange(first, first + len(ids)), np.asarray(group).ravel())


class Reader:
    """Answers of a chain about a generation's episodes: their text, their likelihood under a model, their truth.

    Args:
        session: of the chain (chain/session.py). stream: of the generation's text that is judged: its samples, or another one.
    """

    def __init__(self, session: Any, generation: int, stream: str = "sample"):
        self.session, self.generation, self.stream = session, generation, stream
        self.config, self.corpus = session.config, session.corpus
        self.earlier = np.empty((0, session.config.sequence_length), np.int64)
        """Sequences of earlier rounds."""

    @cached_property
    def language(self) -> Language | None:
        """The known language of the corpus; None for natural text."""
        return language_of(self.config.corpus)

    @cached_property
    def task(self) -> Task | None:
        """The task that the corpus consists of, if it does."""
        return task_of(self.config.corpus)

    def truth(self, episodes: Episodes) -> tuple[np.ndarray, list[str]]:
        """(classes int8 (n,): places in `tasks.CLASSES`, or -1 for text that cannot be read; answers) of the exact checker. A
        known language without a task has the classes wrong and correct, natural text none: -1."""
        texts = self.texts(episodes)
        if self.task is not None:
            return self.task.classes(texts), self.task.answers(texts)
        if self.language is not None and self.config.mixing.unit == "documents":
            return np.isfinite(self.language.log_probabilities(texts)).astype(np.int8), texts
        return np.full(len(texts), -1, np.int8), texts

    def texts(self, episodes: Episodes) -> list[str]:
        """Decode whole sequences, without the separator that begins a document."""
        skip = int(self.config.mixing.unit == "documents")
        return list(self.corpus.tokenizer.decode(episodes.ids[:, skip:].tolist()))

    def model(self, which: str) -> LanguageModel:
        """Return the model that `judging.model` names. Raises UserError if its tokenizer is another one."""
        if which in ("first", "newest"):
            return self.session.first() if which == "first" else self.session.model(self.generation)  # type: ignore[no-any-return]
        folder = self.config.model.pretrained if which == "base" else which
        if folder is None:
            raise UserError("judging.model='base': the chain has no pretrained model; name first, newest or a folder")
        tokenizer = network.pretrained_tokenizer(folder)
        if tokenizer.digest != self.corpus.tokenizer.digest:
            raise UserError(
                f"judging.model={which!r}: has another tokenizer than the chain; name a model with the same one"
            )
        return network.fitted(network.load(folder, pad=self.config.model.pad_vocabulary), tokenizer, folder)

    def nll(self, episodes: Episodes, which: str) -> np.ndarray:
        """Mean loss of the written tokens of each sequence under a model, nats per token, float64 (n,); inf where one has
        probability 0."""
        ids, head = episodes.ids, max(1, episodes.head)
        separator = np.full((len(ids), 1), self.corpus.tokenizer.separator)
        rows = ids if episodes.head else np.concatenate([separator, ids], 1)
        length, model, s = rows.shape[1], self.model(which), self.session
        plan = [(i * length, (i + 1) * length, i * length + head) for i in range(len(rows))]
        precision = self.config.evaluation.precision
        title = f"gen {self.generation} judge"
        _, nll, _ = window_losses(model, rows.reshape(-1), plan, precision, s.processes, s.console, title)
        check_finite(model, nll, self.config, "judged text")
        mean: np.ndarray = np.asarray(nll, np.float64).reshape(len(rows), length - head).mean(1)
        return mean

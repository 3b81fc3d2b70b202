"""Sequences that judges look at, and what a judge may ask about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from collapselab.config import RunConfig, UserError
from collapselab.evaluation.asking import p_right, verifier_of
from collapselab.evaluation.real_text import check_finite, window_losses
from collapselab.languages import Language, language_of
from collapselab.models import network
from collapselab.sampling.answer import answer
from collapselab.tasks.tasks import UNREADABLE, Task, task_of

if TYPE_CHECKING:
    from collapselab.corpus.prepared import Corpus
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
        """Make episodes of sequences numbered from `first` on, grouped by their stored prompts. No judge can change them."""
        group = np.unique(ids[:, :head], axis=0, return_inverse=True)[1] if head else np.zeros(len(ids), np.int64)
        out = cls(ids.astype(np.int64), head, np.arange(first, first + len(ids)), np.asarray(group).ravel())
        return out._fixed()

    def part(self, rows: np.ndarray) -> Episodes:
        """Return some of these episodes."""
        return Episodes(self.ids[rows], self.head, self.number[rows], self.group[rows])._fixed()

    def _fixed(self) -> Episodes:
        for array in (self.ids, self.number, self.group):
            array.flags.writeable = False
        return self


def asked_model(config: RunConfig) -> str | None:
    """Folder or name of the model in `judging.model`; None for generation 0's and the newest. Raises UserError if the chain has
    no such model."""
    which = config.judging.model
    if which in ("first", "newest"):
        return None
    if which == "base" and config.model.pretrained is None:
        raise UserError("judging.model='base': the chain has no pretrained model; name first, newest or a folder")
    return config.model.pretrained if which == "base" else which


def named_model(config: RunConfig, corpus: Corpus) -> str | None:
    """`asked_model`, if it can be loaded. Raises UserError if there is no such folder, or if it has another tokenizer."""
    folder, which = asked_model(config), config.judging.model
    if folder is None:
        return None
    try:
        tokenizer = network.pretrained_tokenizer(folder)
    except UserError as error:
        if which == "base":
            raise
        raise UserError(str(error).replace("model.pretrained=", "judging.model=", 1)) from None
    if tokenizer.digest != corpus.tokenizer.digest:
        raise UserError(f"judging.model={which!r}: has another tokenizer than the chain; name one with the same")
    return folder


class Reader:
    """Answers of a chain about a generation's episodes: their text, their likelihood under a model, their truth.

    Args:
        session: of the chain (chain/session.py). stream: of the generation's text that is judged: its samples, or another one.
    """

    def __init__(self, session: Any, generation: int, stream: str = "sample"):
        self.session, self.generation, self.stream = session, generation, stream
        self.config, self.corpus = session.config, session.corpus
        self.earlier: list[np.ndarray] = []
        """Sequences of earlier rounds."""
        self.opening: Episodes | None = None
        """The generation's samples, which a detector is trained on."""
        self.writer: LanguageModel | None = None
        """The model that wrote, if it is not published yet."""

    @cached_property
    def language(self) -> Language | None:
        """The known language of the corpus; None for natural text."""
        return language_of(self.config.corpus)

    @cached_property
    def task(self) -> Task | None:
        """The task that the corpus consists of, if it does."""
        return task_of(self.config.corpus)

    def truth(self, episodes: Episodes) -> tuple[np.ndarray | None, list[str]]:
        """(classes int8 (n,): places in `tasks.CLASSES`, or -1 for text that cannot be read; answers) of the exact checker. A
        known language without a task has the classes wrong and correct; other text has none, and is its own answer."""
        texts = self.texts(episodes)
        if self.config.mixing.unit == "documents" and self.task is not None:
            read = self.task.read(texts)
            return np.array([one.kind for one in read], np.int8), [one.answer for one in read]
        if self.config.mixing.unit != "documents" or self.language is None:
            return None, texts
        return np.isfinite(self.language.log_probabilities(texts)).astype(np.int8), texts

    def difficulty(self, episodes: Episodes) -> np.ndarray:
        """Difficulty of each sequence's problem, int64 (n,), -1 for none; of a task alone."""
        assert self.task is not None
        return self.task.difficulty(self.texts(episodes))

    def texts(self, episodes: Episodes) -> list[str]:
        """Decode whole sequences, without the separator that begins a document."""
        skip = int(self.config.mixing.unit == "documents")
        return list(self.corpus.tokenizer.decode(episodes.ids[:, skip:].tolist()))

    @cached_property
    def named(self) -> LanguageModel:
        """The model of `judging.model` that is no generation of the chain."""
        folder = named_model(self.config, self.corpus)
        assert folder is not None
        return network.fitted(network.load(folder, pad=self.config.model.pad_vocabulary), self.corpus.tokenizer, folder)

    def model(self, which: str) -> LanguageModel:
        """Return the model that `judging.model` names."""
        if which == "newest":
            return self.writer or self.session.model(self.generation)
        return self.session.first() if which == "first" else self.named

    def losses(self, rows: np.ndarray, head: int, which: str, title: str, observer: Any = None) -> np.ndarray:
        """Loss of every token after the first `head` of each row under a model, nats, float64 (n, length - head)."""
        length, model, s = rows.shape[1], self.model(which), self.session
        plan = [(i * length, (i + 1) * length, i * length + head) for i in range(len(rows))]
        precision, title = self.config.evaluation.precision, f"gen {self.generation} {title}"
        _, nll, _ = window_losses(model, rows.reshape(-1), plan, precision, s.processes, s.console, title, observer)
        check_finite(model, nll, self.config, "judged text")
        if which != "newest":
            model.net.to("cpu")  # the next generation needs the device's memory
        return np.asarray(nll, np.float64).reshape(len(rows), length - head)

    def nll(self, episodes: Episodes, which: str) -> np.ndarray:
        """Mean loss of the written tokens of each sequence under a model, nats per token, float64 (n,); inf where one has
        probability 0."""
        separator = np.full((len(episodes), 1), self.corpus.tokenizer.separator)
        rows = episodes.ids if episodes.head else np.concatenate([separator, episodes.ids], 1)
        return np.asarray(self.losses(rows, max(1, episodes.head), which, "judge").mean(1))

    def replies(self, problems: list[str], stream: str) -> list[str]:
        """Answers of the model in `judging.model` to problems of equal length, each with its problem, as texts."""
        tokenizer, model = self.corpus.tokenizer, self.model(self.config.judging.model)
        heads = np.array([[tokenizer.separator, *ids] for ids, _ in tokenizer.encode(problems)], np.int64)
        length = self.config.sequence_length
        rows, _ = answer(self.session.answers, model, self.generation, heads, length, f"{self.stream}/{stream}")
        return list(tokenizer.decode(rows[:, 1:].tolist()))

    def p_right(self, episodes: Episodes, which: str) -> np.ndarray:
        """P(right) of a model that is asked about each answer, float64 (n,), nan without a readable answer."""
        verifier, (classes, _) = verifier_of(self.language), self.truth(episodes)
        assert verifier is not None and classes is not None
        model, readable = self.model(which), classes != UNREADABLE
        scores = p_right(model, self.corpus, verifier, self.texts(episodes), readable, self.session.processes)
        if which != "newest":
            model.net.to("cpu")  # the next generation needs the device's memory
        return scores

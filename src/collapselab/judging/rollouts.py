"""Answers of a policy: prompts are answered by the weights of a step, and every judge rewards the answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.judging.episodes import Episodes, Reader
from collapselab.judging.judges import committee, scores_of
from collapselab.learning.answers import Answers
from collapselab.models.network import LanguageModel
from collapselab.sampling.answer import answer
from collapselab.sampling.prompts import Prompts
from collapselab.tasks.tasks import CORRECT


class Rollouts:
    """Writer and judge of a generation's answers; answer i of a step is a function of (seed, generation, step, i) and the
    weights.

    Args:
        session: of the chain (chain/session.py).
    """

    def __init__(self, session: Any, generation: int):
        self.session, self.generation = session, generation
        self.config = session.config
        self.text = session.training_set(generation if self.config.sampling.prompt_from == "previous" else 0)
        self.prompts = Prompts(self.config, generation, "answer", self.config.policy.samples)

    def __call__(self, model: LanguageModel, step: int, writer: str = "now") -> Answers:
        """Return the answers of a step. `writer` names who writes: both writers answer the same prompts."""
        config, stream = self.config, f"answer/{step}" if writer == "now" else f"answer/{step}/{writer}"
        count, separator = config.policy.answers, self.session.corpus.tokenizer.separator
        heads = self.prompts.rows(self.text, step * count, count, separator)
        stored = heads.shape[1]
        if not stored:  # `bos` in packed text: the separator is read, and not stored
            heads = np.full((count, 1), separator, np.int64)
        length = config.sequence_length + heads.shape[1] - stored
        ids, logp = answer(self.session.answers, model, self.generation, heads, length, stream, config.policy.samples)
        reader = Reader(self.session, self.generation, stream)
        reader.writer = model
        group = np.arange(count) // config.policy.samples
        seen = Episodes(ids[:, heads.shape[1] - stored :], stored, np.arange(count), group)
        scores = {name: scores_of(name, seen, reader) for name in config.judging.judges}
        reward = committee(scores, config.judging.committee, config.judging.threshold)
        classes, _ = reader.truth(seen)
        gold = None if classes is None else classes == CORRECT
        several = scores if len(scores) > 1 else None
        return Answers(ids, heads.shape[1], np.full(count, length), group, reward, logp, gold, several)

"""Stored prompts of a generation's text. A prompt depends on the number of its sequence, not on how many are written at once."""

from __future__ import annotations

import numpy as np

from collapselab.config import RunConfig
from collapselab.mixing.sets import TrainingSet
from collapselab.seeds import generator


class Prompts:
    """Prompts of a stream of a generation's text, always of the same training set.

    `real_prefix` takes the head of each of its blocks once, in random order, before it repeats any; `first_token` takes a token
    at a random position. Random numbers are drawn in order, and those of sequences before the last ones asked for are dropped:
    who asks for later and later sequences draws each number once. Each prompt has `repeats` sequences.
    """

    def __init__(self, config: RunConfig, generation: int, stream: str = "sample", repeats: int | None = None):
        self.config, self.generation, self.repeats = config, generation, repeats or config.sampling.repeats
        self.what = "prompts" if stream == "sample" else f"prompts/{stream}"
        self._begin()

    def _begin(self) -> None:
        self.draw, self.first = generator(self.config.seed, self.generation, self.what), 0
        self.drawn = np.empty((0, 2 if self.config.sampling.prompt == "first_token" else 1), np.int64)

    def rows(self, text: TrainingSet | None, first: int, count: int, separator: int) -> np.ndarray:
        """Return the prompts of sequences number `first` and up, int64 (count, P); P = 0 for `bos`, or 1 if sequences are
        documents."""
        prompt, repeats = self.config.sampling.prompt, self.repeats
        if prompt == "bos" or text is None:
            return np.full((count, self.config.prompt_length), separator, np.int64)
        begin, end = first // repeats, -(-(first + count) // repeats)
        numbers = self._numbers(text, begin, end)
        if prompt == "first_token":
            tokens = [text[numbers[i : i + 1, 0]][0, numbers[i, 1]] for i in range(len(numbers))]
            heads = np.stack(tokens).reshape(-1, 1)
        else:
            heads = text[numbers[:, 0]][:, : self.config.prompt_length].copy()
        return heads.repeat(repeats, axis=0)[first - begin * repeats :][:count]

    def _numbers(self, text: TrainingSet, begin: int, end: int) -> np.ndarray:
        """Block of the text, and for `first_token` the place in it, of different prompts number `begin` to `end` - 1."""
        if begin < self.first:
            self._begin()
        missing = end - self.first - len(self.drawn)
        if missing > 0 and self.drawn.shape[1] == 2:
            more = self.draw.integers([len(text), text.block], size=(missing, 2))
            self.drawn = np.concatenate([self.drawn, more])
        elif missing > 0:
            passes = [self.draw.permutation(len(text))[:, None] for _ in range(-(-missing // len(text)))]
            self.drawn = np.concatenate([self.drawn, *passes])
        self.drawn, self.first = self.drawn[begin - self.first :], begin
        return self.drawn[: end - begin]

"""What the report's explorer shows of a generation: its continuations of fixed prompts, token by token as text with their
surprise under generation 0's model, and which rare words it still writes. No metric is made of these."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.real_text import window_losses
from collapselab.metrics.tails import rare_words
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.parallel import Processes
from collapselab.store.checks import reading, whole
from collapselab.store.folders import read_json

MOST_PROMPTS, LONGEST = 1024, 1 << 16  # of what is read: far more than is ever written


@dataclass(frozen=True)
class Continuations:
    """What a samples folder holds of the fixed prompts."""

    ids: np.ndarray
    """(prompts, tokens) int64: prompt and continuation."""
    head: int
    """Tokens of each prompt, 1 or more."""


def read_continuations(samples: Path, vocab: int) -> Continuations:
    """continuations.json of a samples folder. Raises UserError where there is none, or its numbers cannot be those of
    continuations."""
    path = samples / "continuations.json"
    saved = read_json(path)
    with reading(path):
        rows = [[whole(token, 0, vocab - 1) for token in row] for row in saved["ids"]]
        total = len(rows[0])
        if len(rows) > MOST_PROMPTS or not 2 <= total <= LONGEST or any(len(row) != total for row in rows):
            raise ValueError("prompts and continuations are rows of one length")
        return Continuations(np.array(rows, np.int64), whole(saved["prompt_length"], 1, total - 1))


def explored(
    found: Continuations,
    base: LanguageModel,
    tokenizer: Tokenizer,
    config: RunConfig,
    processes: Processes,
    console: Console,
) -> dict[str, Any]:
    """The content of explorer.json: `prompt_length`; `prompts`, for each of them `ids`, `pieces` (see `pieces`) and `nll`,
    nats of each continuation token under generation 0's model with all tokens before it, three digits, null where its
    probability is 0. All processes take part."""
    rows, total = found.ids.shape
    plan = [(i * total, (i + 1) * total, i * total + found.head) for i in range(rows)]
    precision = config.evaluation.precision
    _, nll, _ = window_losses(base, found.ids.ravel(), plan, precision, processes, console, "explorer")
    nll_KN = nll.astype(np.float64).reshape(rows, total - found.head)
    return {
        "prompt_length": found.head,
        "prompts": [
            {
                "ids": ids,
                "pieces": text,
                "nll": [round(value, 3) if np.isfinite(value) else None for value in row],
            }
            for ids, text, row in zip(
                found.ids.tolist(), pieces(tokenizer, found.ids.tolist()), nll_KN.tolist(), strict=True
            )
        ],
    }


def pieces(tokenizer: Tokenizer, rows: list[list[int]]) -> list[list[str]]:
    """For each row of ids a text per token; joined they are what the row decodes to.

    A token that ends within a character has an empty text, and the one that completes the character has the whole of it.
    """
    heads = iter(tokenizer.decode([row[: i + 1] for row in rows for i in range(len(row))]))
    out = []
    for row in rows:
        texts = [next(heads) for _ in row]
        # A text so far counts where it is one: U+FFFD stands for half a character, and some decoders look ahead.
        reach = [0]
        for text in texts[:-1]:
            is_whole = len(text) >= reach[-1] and not text.endswith("\ufffd") and texts[-1].startswith(text)
            reach.append(len(text) if is_whole else reach[-1])
        out.append([texts[-1][begin:end] for begin, end in pairwise([*reach, len(texts[-1])])])
    return out


def still_written(word_c0: dict[str, int], word_rows: list[list[str]]) -> np.ndarray:
    """For each rare word whether the text has it: bits in uint8, the first in the highest place, the last byte filled up
    with zeros. tail_words.bin is this."""
    written = {word for row in word_rows for word in row}
    return np.packbits(np.array([word in written for word in rare_words(word_c0)], bool))

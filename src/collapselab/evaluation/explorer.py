"""Data of the report's explorer: continuations of fixed prompts, token by token with their surprisal under generation 0's
model, and the rare words that a generation still writes. No metric uses them."""

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

MOST_PROMPTS, LONGEST = 1024, 1 << 16  # accepted when reading: far more than is ever written


@dataclass(frozen=True)
class Continuations:
    """Continuations of the fixed prompts in a samples folder."""

    ids: np.ndarray
    """(prompts, tokens) int64: prompt and continuation."""
    head: int
    """Tokens of each prompt, 1 or more."""


def read_continuations(samples: Path, vocab: int) -> Continuations:
    """Read continuations.json of a samples folder; raise UserError if it is missing or malformed."""
    path = samples / "continuations.json"
    saved = read_json(path)
    with reading(path):
        rows = [[whole(token, 0, vocab - 1) for token in row] for row in saved["ids"]]
        total = len(rows[0])
        if len(rows) > MOST_PROMPTS or not 2 <= total <= LONGEST or any(len(row) != total for row in rows):
            raise ValueError("prompts and continuations are rows of one length")
        return Continuations(np.array(rows, np.int64), whole(saved["prompt_length"], 1, total - 1))


def explorer_data(
    continuations: Continuations,
    gen0: LanguageModel,
    tokenizer: Tokenizer,
    config: RunConfig,
    processes: Processes,
    console: Console,
) -> dict[str, Any]:
    """Content of explorer.json: `prompt_length`, and for each of `prompts` its `ids`, `pieces` (see `pieces`) and `nll`:
    nats of each continuation token under generation 0's model given all tokens before it, to three digits, null where its
    probability is 0. All processes take part."""
    ids, head = continuations.ids, continuations.head
    rows, total = ids.shape
    plan = [(i * total, (i + 1) * total, i * total + head) for i in range(rows)]
    precision = config.evaluation.precision
    _, nll, _ = window_losses(gen0, ids.ravel(), plan, precision, processes, console, "explorer")
    nll_KN = nll.astype(np.float64).reshape(rows, total - head).tolist()
    prompts = [
        {"ids": row, "pieces": text, "nll": [round(value, 3) if np.isfinite(value) else None for value in losses]}
        for row, text, losses in zip(ids.tolist(), pieces(tokenizer, ids.tolist()), nll_KN, strict=True)
    ]
    return {"prompt_length": head, "prompts": prompts}


def pieces(tokenizer: Tokenizer, rows: list[list[int]]) -> list[list[str]]:
    """Text of each token of each row; joined, the texts of a row are what it decodes to.

    A token that ends inside a character has an empty text; the one that completes the character has all of it.
    """
    heads = iter(tokenizer.decode([row[: i + 1] for row in rows for i in range(len(row))]))
    out = []
    for row in rows:
        texts = [next(heads) for _ in row]
        # A prefix counts only if it decodes cleanly: U+FFFD is half a character, and some decoders look ahead.
        reach = [0]
        for text in texts[:-1]:
            is_whole = len(text) >= reach[-1] and not text.endswith("\ufffd") and texts[-1].startswith(text)
            reach.append(len(text) if is_whole else reach[-1])
        out.append([texts[-1][begin:end] for begin, end in pairwise([*reach, len(texts[-1])])])
    return out


def still_written(word_c0: dict[str, int], word_rows: list[list[str]]) -> np.ndarray:
    """Content of tail_words.bin: one bit per rare word, set if the text uses it; the first word in the highest bit of the
    first uint8, the last byte padded with zeros."""
    written = {word for row in word_rows for word in row}
    return np.packbits(np.array([word in written for word in rare_words(word_c0)], bool))

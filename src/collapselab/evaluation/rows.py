"""Texts of the sample metrics: a fixed budget of generated tokens, and as much held-out text cut in the same way.

A place is (begin, end) in a stream: one sequence, without its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from collapselab.config import RunConfig, UserError
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.evaluation.support import parts_of
from collapselab.mixing.sets import read_meta
from collapselab.seeds import generator

Place = tuple[int, int]


def sample_tokens(config: RunConfig, corpus: Corpus, budget: int) -> int:
    """Return how many generated tokens the sample metrics use. Raises UserError if there is too little text."""
    length, head = config.sequence_length, config.prompt_length
    whole, rest = divmod(budget, length)
    generated = whole * (length - head) + max(0, rest - head)
    real = len(held_out_pieces(config, corpus)) * (length - head)
    most = min(generated, real)
    asked = config.evaluation.sample_tokens
    if asked is not None and asked > most:
        raise UserError(
            f"evaluation.sample_tokens={asked}: a generation writes {generated} tokens after its prompts and the "
            f"scored half of the {config.evaluation.split} split has {real}; ask for at most {most}"
        )
    if most < 1:
        raise UserError(
            f"sampling.length={length}: the scored half of the {config.evaluation.split} split is shorter than one sequence; "
            "shorten it"
        )
    return asked or most


def generated_places(folder: Path, count: int) -> list[Place]:
    """Places of the first `count` generated tokens of a samples folder."""
    meta = read_meta(folder)
    length, head, tokens = meta["length"], meta["prompt_length"], meta["tokens"]
    begins = range(head, tokens, length)
    return first_tokens([(begin, min(begin + length - head, tokens)) for begin in begins], count)


def real_places(config: RunConfig, corpus: Corpus, count: int) -> list[Place]:
    """Places of `count` held-out tokens, in pieces as long as a generated sequence, drawn without replacement."""
    length = config.sequence_length - config.prompt_length
    begins = held_out_pieces(config, corpus)
    order = generator(config.seed, 0, "reference").permutation(len(begins))[: -(-count // length)]
    return first_tokens([(begin, begin + length) for begin in begins[order].tolist()], count)


def held_out_pieces(config: RunConfig, corpus: Corpus) -> np.ndarray:
    """Begins of pieces as long as a generated sequence in the scored half of the held-out split, int64 ascending."""
    length = config.sequence_length - config.prompt_length
    spans = parts_of(corpus, config.evaluation.split)[1]
    return np.concatenate(
        [np.arange(begin, end - length + 1, length) for begin, end in spans] or [np.empty(0, np.int64)]
    )


def real_draws(config: RunConfig, corpus: Corpus, count: int, draws: int) -> tuple[list[list[Place]], float]:
    """Places of several independent draws like that of `real_places`, and the share of all pieces that a draw takes: draws
    overlap, so they vary less than draws of new text would."""
    length = config.sequence_length - config.prompt_length
    begins = held_out_pieces(config, corpus)
    each = -(-count // length)
    chosen = [
        begins[generator(config.seed, 0, "band", i).permutation(len(begins))[:each]].tolist() for i in range(draws)
    ]
    return [first_tokens([(b, b + length) for b in one], count) for one in chosen], each / max(1, len(begins))


def first_tokens(places: list[Place], count: int) -> list[Place]:
    """Cut a list of places after `count` tokens."""
    out: list[Place] = []
    for begin, end in places:
        if count <= 0:
            break
        out.append((begin, min(end, begin + count)))
        count -= end - begin
    return out


def rows_at(stream: np.ndarray, places: list[Place]) -> list[np.ndarray]:
    stream = np.asarray(stream)  # slices of a memory map are slow to make
    return [stream[begin:end] for begin, end in places]


def decoded(tokenizer: Tokenizer, rows: list[np.ndarray]) -> Iterator[str]:
    """Decode each sequence, part by part: a token takes 36 bytes in a list, 2 in an array."""
    for first in range(0, len(rows), 4096):
        yield from tokenizer.decode([row.tolist() for row in rows[first : first + 4096]])

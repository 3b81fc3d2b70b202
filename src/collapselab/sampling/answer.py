"""Answers to prompts, all at once, with the probabilities that their tokens were drawn with."""

from __future__ import annotations

import numpy as np

from collapselab.models.network import LanguageModel
from collapselab.sampling.sampler import Sampler

MOST_ROWS = 1024
"""Answers that are written side by side; the last ones are padded."""


def answer(
    sampler: Sampler,
    model: LanguageModel,
    generation: int,
    prompts: np.ndarray,
    length: int,
    stream: str,
    repeats: int = 1,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Continue prompts to a length, in this process (its share, if there are several): int64 (n, length),
    and the log-probability of each written token in nats, float32 (n, new), if the engine wrote them.

    A sequence's random numbers are those of its row in a stream of its own, so that `stream` names the step. Of every `repeats`
    consecutive prompts, which are equal, the engine reads one.
    """
    processes, head = sampler.processes, prompts.shape[1]
    lots = [lot.ravel() for lot in np.array_split(np.arange(len(prompts)).reshape(-1, repeats), processes.world)]
    mine = lots[processes.rank]
    first, heads = int(mine[0]) if len(mine) else 0, prompts[mine if len(mine) else slice(0, repeats)]
    seen: list[np.ndarray] = []
    rows = min(len(heads), max(1, MOST_ROWS // repeats) * repeats)
    write = sampler.writer(model, generation, head, length - head, rows, stream, seen, repeats)
    written = []
    for begin in range(0, len(heads), rows):
        some = heads[begin : begin + rows]
        padded = np.concatenate([some, heads[: rows - len(some)]])
        written.append(write(padded, first + begin)[: len(some)])
    both = np.concatenate(written), np.concatenate(seen)[: len(heads)] if seen else None
    parts = [part for part, lot in zip(processes.all_gather(both), lots, strict=True) if len(lot)]
    new = np.concatenate([part for part, _ in parts]).astype(np.int64)
    drawn = [logp for _, logp in parts if logp is not None]
    return np.concatenate([prompts, new], 1), np.concatenate(drawn) if len(drawn) == len(parts) else None

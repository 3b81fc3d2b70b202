"""A few fixed prompts of held-out text, continued by every generation: the report's explorer shows them side by side.

Prompts depend only on the corpus and random numbers only on the seed, so that two generations of a chain differ by their models
and not by luck. No metric reads these texts, and none is trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.models.network import LanguageModel
from collapselab.runtime.parallel import Processes
from collapselab.sampling.draw import stream_key
from collapselab.sampling.plain import cache_flaw, plain_writer
from collapselab.sampling.side_by_side import side_by_side
from collapselab.store.folders import write_json

PROMPTS = 6
TOTAL = 80  # tokens of prompt and continuation, maximum
PROMPT = 16  # tokens of a prompt, maximum; at most a quarter of the whole; for gym:NAME a whole problem
NEAR_DOCUMENT, NEAR_WORD = 64, 16  # tokens by which a prompt may move to begin with a document or a word
FIRST = 1 << 31  # number of the first sequence: beyond those of any text, so that no random numbers are shared
SPACES = ("Ġ", "▁", " ")  # ways in which vocabularies write a leading space


def prompt_places(corpus: Corpus, config: RunConfig) -> tuple[list[int], int]:
    """Return (start of each prompt in the held-out split, tokens of prompt and continuation).

    Prompts are evenly spaced, then moved forward to a separator before a document or to a word's first token, if one is near.
    Documents that are drawn are whole.
    """
    tokens = corpus.split(config.evaluation.split)
    block = config.training.block
    starts = np.asarray(tokens.starts)
    if config.corpus.drawn:
        chosen = sorted({i * (len(starts) - 1) // PROMPTS for i in range(PROMPTS)})
        shortest = min(int(starts[i + 1] - starts[i]) for i in chosen)
        return [int(starts[i]) for i in chosen], min(block, shortest)
    total = min(TOTAL, block)
    last = len(tokens.ids) - total
    even = [i * last // PROMPTS for i in range(PROMPTS)]
    return sorted({_moved_on(tokens.ids, starts, place, last, corpus.tokenizer) for place in even}), total


def _moved_on(ids: np.ndarray, starts: np.ndarray, place: int, last: int, tokenizer: Tokenizer) -> int:
    document = int(starts[np.searchsorted(starts, place)])
    if document <= min(place + NEAR_DOCUMENT, last):
        return document
    for at in range(place, min(place + NEAR_WORD, last) + 1):
        if str(tokenizer.raw.id_to_token(int(ids[at]))).startswith(SPACES):
            return at
    return place


def write_continuations(
    model: LanguageModel, corpus: Corpus, config: RunConfig, precision: str, processes: Processes, out: Path
) -> None:
    """Write continuations.json: split, positions and length of the prompts, and the ids of prompts and continuations.

    The plain sampler writes them with the run's sampling settings and `precision` (fp32 or bf16). For process 0 only.
    """
    places, total = prompt_places(corpus, config)
    head = max(1, min(PROMPT, total // 4))
    if config.mixing.unit == "documents" and config.corpus.of_gym:
        head = 1 + config.corpus.gym.problem
    ids = corpus.split(config.evaluation.split).ids
    prompts = np.stack([ids[place : place + head] for place in places]).astype(np.int64)
    settings, device = config.sampling, processes.device
    model.net.to(device).eval()
    cache_flaw(model, head, total - head, device, reorders=settings.beams > 1)  # once, not in each process below
    write = plain_writer(model, settings, stream_key(config.seed, 0), head, total - head, precision, device)
    # One thread on a CPU: the last bits depend on the number of threads.
    ((_, written),) = side_by_side(lambda _: write(prompts, FIRST), [0], device)
    write_json(
        out / "continuations.json",
        {
            "split": config.evaluation.split,
            "places": places,
            "prompt_length": head,
            "ids": np.concatenate([prompts, written], 1).tolist(),
        },
    )

"""The same few prompts of held-out text, continued by every generation: what the report's explorer shows side by side.

Prompts depend on the corpus alone and random numbers on the seed alone, so that two generations of a chain differ by their
models and not by luck. No metric reads these; the text that is trained on and measured is written without them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.corpus.tokenizers import Tokenizer
from collapselab.languages import language_of
from collapselab.models.network import LanguageModel
from collapselab.runtime.parallel import Processes
from collapselab.sampling.draw import stream_key
from collapselab.sampling.plain import cache_flaw, plain_writer
from collapselab.sampling.side_by_side import side_by_side
from collapselab.store.folders import write_json

PROMPTS = 6
TOTAL = 80  # tokens of prompt and continuation, at most
PROMPT = 16  # tokens of a prompt, at most; a quarter of the whole where that is less
NEAR_DOCUMENT, NEAR_WORD = 64, 16  # tokens that a prompt is moved on at most, to begin where a text or a word does
FIRST = 1 << 31  # number of the first sequence: no text of a chain has as many, so none shares its random numbers
SPACES = ("Ġ", "▁", " ")  # how vocabularies write the space that a token begins with


def prompt_places(corpus: Corpus, config: RunConfig) -> tuple[list[int], int]:
    """(where each prompt begins in the held-out split, tokens of prompt and continuation): evenly spaced, and moved on to
    the separator before a document, or to a word's first token, where one is near. Of a language whose documents are
    drawn, whole documents."""
    tokens = corpus.split(config.evaluation.split)
    block = config.training.block
    starts = np.asarray(tokens.starts)
    if language_of(config.corpus) is not None:
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
    """Writes continuations.json into `out`: the split, the prompts' places in it and their length in tokens, and the ids of
    prompts and continuations, written by the plain sampler with the run's sampling settings. For process 0 alone.

    Args:
        precision: fp32 or bf16, as the chain's text is written.
    """
    places, total = prompt_places(corpus, config)
    head = max(1, min(PROMPT, total // 4))
    ids = corpus.split(config.evaluation.split).ids
    prompts = np.stack([ids[place : place + head] for place in places]).astype(np.int64)
    settings, device = config.sampling, processes.device
    model.net.to(device).eval()
    cache_flaw(model, head, total - head, device, reorders=settings.beams > 1)  # once, and not in each process below
    write = plain_writer(model, settings, stream_key(config.seed, 0), head, total - head, precision, device)
    # On a CPU one thread: the last bits depend on their number.
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

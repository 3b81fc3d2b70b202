"""What a chain on the planted language was trained on, in documents of each context: what exact theory is fed with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.languages.planted import TOWN_PLACE, Planted
from collapselab.mixing.sets import read_blocks, read_samples
from collapselab.mixing.sources import REAL, is_real
from collapselab.store.layout import Chain


@dataclass(frozen=True)
class History:
    """Counts of documents, each int64 (generations, contexts). A document whose town is no town is in none of them."""

    real: np.ndarray
    """Real documents in each generation's training set; in an all-real control, all of them."""
    synthetic: np.ndarray
    """Documents that earlier generations wrote, in each generation's training set."""
    written: np.ndarray
    """Documents that each generation wrote."""


def history(config: RunConfig, chain: Chain, upto: int, corpus: Corpus, language: Planted) -> History:
    """Counts of generations 0 .. upto, whose mixtures and samples are published, from those files alone.

    For `mixing.unit=documents` and a token per word: a block is a document, and its town has a fixed place in it.
    """
    streams = {REAL: corpus.train.ids} | {g: read_samples(chain.stage(g, "samples")) for g in range(upto + 1)}
    sets = [set_counts(config, chain, g, corpus, language, streams) for g in range(upto + 1)]
    town = _town_of(corpus, language)
    block, contexts = config.training.block, language.contexts
    written = []
    for g in range(upto + 1):
        whole = len(streams[g]) // block * block
        written.append(np.bincount(town[streams[g][1 + TOWN_PLACE : whole : block]], minlength=contexts + 1)[:contexts])
    return History(np.stack([real for real, _ in sets]), np.stack([made for _, made in sets]), np.stack(written))


def set_counts(
    config: RunConfig,
    chain: Chain,
    generation: int,
    corpus: Corpus,
    language: Planted,
    streams: dict[int, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(real, synthetic) documents of each context in one generation's training set, int64 (contexts,) each.

    Args:
        streams: tokens of each source where they are open already.
    """
    town, contexts = _town_of(corpus, language), language.contexts
    blocks, streams = read_blocks(chain, generation, corpus.train, config.training.block, streams)
    counts = {True: np.zeros(contexts, np.int64), False: np.zeros(contexts, np.int64)}
    for source, stream in streams.items():
        places = blocks[blocks[:, 0] == source, 1] * config.training.block + 1 + TOWN_PLACE
        counts[is_real(source)] += np.bincount(town[stream[places]], minlength=contexts + 1)[:contexts]
    return counts[True], counts[False]


def _town_of(corpus: Corpus, language: Planted) -> np.ndarray:
    """Number of the town that a token names, or the number of towns where it names none; int64 (vocabulary,)."""
    towns = np.full(corpus.tokenizer.size, language.contexts, np.int64)
    ids = corpus.tokenizer.encode([" ".join(language.towns)])[0][0]
    towns[ids] = np.arange(language.contexts)
    return towns

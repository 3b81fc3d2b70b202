"""Documents of each context in the training sets of a chain on the planted language: the input of exact theory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.languages.planted import TOWN_PLACE, Planted
from collapselab.mixing.sets import read_blocks, read_samples
from collapselab.mixing.sources import REAL, is_real
from collapselab.store.layout import Chain


class DocumentCounts(NamedTuple):
    """Counts of documents, each int64 (generations, contexts), without documents whose town is unknown: the real and the
    synthetic ones in each generation's training set (all are real in an all-real control), and those that it wrote."""

    real: np.ndarray
    synthetic: np.ndarray
    written: np.ndarray


def document_counts(config: RunConfig, chain: Chain, upto: int, corpus: Corpus, language: Planted) -> DocumentCounts:
    """Count the documents of generations 0 .. upto from their published mixtures and samples.

    For `mixing.unit=documents` and a token per word: a block is a document, and its town has a fixed place in it.
    """
    streams = {REAL: corpus.train.ids} | {g: read_samples(chain.stage(g, chain.text)) for g in range(upto + 1)}
    sets = [set_counts(config, chain, g, corpus, language, streams) for g in range(upto + 1)]
    town = _town_of(corpus, language)
    block, contexts = config.training.block, language.contexts
    written = []
    for g in range(upto + 1):
        whole = len(streams[g]) // block * block
        written.append(np.bincount(town[streams[g][1 + TOWN_PLACE : whole : block]], minlength=contexts + 1)[:contexts])
    real, synthetic = (np.stack(counts) for counts in zip(*sets, strict=True))
    return DocumentCounts(real, synthetic, np.stack(written))


def set_counts(
    config: RunConfig,
    chain: Chain,
    generation: int,
    corpus: Corpus,
    language: Planted,
    streams: dict[int, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(real, synthetic) documents of each context in one generation's training set, int64 (contexts,) each; `streams` are
    the tokens of sources that are open already."""
    town, contexts = _town_of(corpus, language), language.contexts
    blocks, streams = read_blocks(chain, generation, corpus.train, config.training.block, streams)
    counts = {True: np.zeros(contexts, np.int64), False: np.zeros(contexts, np.int64)}
    for source, stream in streams.items():
        places = blocks[blocks[:, 0] == source, 1] * config.training.block + 1 + TOWN_PLACE
        counts[is_real(source)] += np.bincount(town[stream[places]], minlength=contexts + 1)[:contexts]
    return counts[True], counts[False]


def _town_of(corpus: Corpus, language: Planted) -> np.ndarray:
    """Index of the town that each token names, or the number of towns if it names none; int64 (vocabulary,)."""
    towns = np.full(corpus.tokenizer.size, language.contexts, np.int64)
    ids = corpus.tokenizer.encode([" ".join(language.towns)])[0][0]
    towns[ids] = np.arange(language.contexts)
    return towns

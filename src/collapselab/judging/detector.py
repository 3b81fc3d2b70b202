"""A detector of real text, trained on a generation's own samples against real text (Drayson et al. 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np

from collapselab.config import UserError
from collapselab.judging.episodes import Episodes, Reader
from collapselab.seeds import generator


def detector(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Probability of being real text, by logistic regression on counts of words and pairs of words.

    Two detectors are trained, each on one half of the generation's samples and as much real text. A sample is judged by the
    one that has not seen it, any other sequence by the mean of both.
    """
    opening = reader.opening if reader.opening is not None else episodes
    vectors, fitted = _fit(opening, reader)
    of_each = np.stack([one.predict_proba(vectors.transform(reader.texts(episodes)))[:, 1] for one in fitted])
    seen = (reader.stream == "sample") & (episodes.number < len(opening))
    unseen = of_each[1 - episodes.number % 2, np.arange(len(episodes))]
    return np.asarray(np.where(seen, unseen, of_each.mean(0)))


def _fit(opening: Episodes, reader: Reader) -> tuple[Any, list[Any]]:
    """(vectoriser, the detectors trained on sequences of even and of odd number)."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(opening) < 4:
        raise UserError(f"judge 'detector': {len(opening)} sequences are too few to train on; raise sampling.tokens")
    vectors = HashingVectorizer(n_features=1 << 16, ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False)
    real = Episodes.of(_real(opening, reader), opening.head, 0)
    written, true = vectors.transform(reader.texts(opening)), vectors.transform(reader.texts(real))
    fitted = []
    for half in (0, 1):
        rows = np.flatnonzero(opening.number % 2 == half)
        labels = np.repeat([0, 1], len(rows))
        fitted.append(LogisticRegression(max_iter=1000).fit(vstack([written[rows], true[rows]]), labels))
    return vectors, fitted


def _real(opening: Episodes, reader: Reader) -> np.ndarray:
    """As many sequences of training text, which begin as samples do: anywhere, with a block, or with a document."""
    config, train = reader.config, reader.corpus.train
    n, length = opening.ids.shape
    draw = generator(config.seed, reader.generation, "judge/detector")
    last = len(train.ids) - length
    if config.mixing.unit == "documents" or config.sampling.prompt == "real_prefix":
        begins = draw.integers(last // config.training.block + 1, size=n) * config.training.block
    elif config.sampling.prompt == "bos":
        starts = np.asarray(train.starts)
        begins = draw.choice(starts[starts <= last], n) + 1  # after the separator
        begins = np.minimum(begins, last)
    else:
        begins = draw.integers(last + 1, size=n)
    return np.stack([np.asarray(train.ids[begin : begin + length]) for begin in begins])

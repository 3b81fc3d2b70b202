"""A detector of real text, trained on a generation's own samples against real text (Drayson et al. 2025)."""

from __future__ import annotations

import numpy as np

from collapselab.config import UserError
from collapselab.judging.episodes import Episodes, Reader
from collapselab.seeds import generator


def detector(episodes: Episodes, reader: Reader) -> np.ndarray:
    """Probability of being real text, by logistic regression on counts of words and pairs of words.

    Two detectors judge each other's half: none has seen the sequences that it scores. Each is trained on as much real text of
    the training split, cut in the same way."""
    if len(episodes) < 4:
        raise UserError(f"judge 'detector': {len(episodes)} sequences are too few to train on; raise sampling.tokens")
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UserError("judge 'detector': needs scikit-learn; run `pip install scikit-learn`") from None
    n, length, ids = len(episodes), episodes.ids.shape[1], reader.corpus.train.ids
    draw = generator(reader.config.seed, reader.generation, f"judge/detector/{reader.stream}")
    if reader.config.mixing.unit == "documents":
        begins = draw.integers(len(ids) // length, size=n) * length
    else:
        begins = draw.integers(len(ids) - length, size=n)
    real = Episodes.of(np.stack([np.asarray(ids[begin : begin + length]) for begin in begins]), episodes.head, 0)
    vectors = HashingVectorizer(
        n_features=1 << 16, ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False, norm="l2"
    )
    written, true = vectors.transform(reader.texts(episodes)), vectors.transform(reader.texts(real))
    from scipy.sparse import vstack

    scores, half = np.empty(n), episodes.number % 2
    for part in (0, 1):
        train, judged = np.flatnonzero(half != part), np.flatnonzero(half == part)
        if not len(train) or not len(judged):
            raise UserError("judge 'detector': the sequences fall into one half; raise sampling.tokens")
        of_real = np.flatnonzero(np.arange(n) % 2 != part)
        labels = np.repeat([0, 1], [len(train), len(of_real)])
        fitted = LogisticRegression(max_iter=1000).fit(vstack([written[train], true[of_real]]), labels)
        scores[judged] = fitted.predict_proba(written[judged])[:, 1]
    return scores

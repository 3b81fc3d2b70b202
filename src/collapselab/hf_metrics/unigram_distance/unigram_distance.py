"""KL(real || sampled) with 1/2 added to every count, Jensen-Shannon divergence and total variation of words, in nats."""

from __future__ import annotations

import numpy as np

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_rows
from collapselab.metrics.distribution import unigram_distances
from collapselab.metrics.ngrams import from_words


class UnigramDistance(common.WordMetric):
    source = "Lin 1991"
    reads_references = True

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        texts, real = word_rows(predictions), word_rows(references)
        numbered = from_words(texts + real)
        written = int(numbered.lengths[: len(texts)].sum())
        vocab = int(numbered.ids.max(initial=0)) + 1
        if not 0 < written < len(numbered.ids):
            return {}  # no words on one side: no distribution
        counts = [np.bincount(part, minlength=vocab) for part in (numbered.ids[written:], numbered.ids[:written])]
        return unigram_distances(*counts)

"""Maximum-likelihood exponent of Zipf's law over the most frequent words, and the number of ranks."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_grams
from collapselab.metrics.richness import zipf_values


class Zipf(common.WordMetric):
    source = "Clauset et al. 2009"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        counts = [order.counts for order in word_grams(predictions) if order.n == 1]
        return zipf_values(counts[0]) if counts else {}

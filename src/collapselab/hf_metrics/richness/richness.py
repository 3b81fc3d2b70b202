"""Good-Turing coverage and Chao1 of words."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_grams
from collapselab.metrics.richness import richness_sums, richness_values


class Richness(common.WordMetric):
    source = "Good 1953; Chao 1984"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        counts = [order.counts for order in word_grams(predictions) if order.n == 1]
        return richness_values(richness_sums(counts[0])) if counts else {}

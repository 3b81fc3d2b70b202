"""distinct-n of words, n = 1 .. 4: different n-grams / n-grams over all texts together."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_grams
from collapselab.metrics.ngrams import distinct, gram_sums


class Distinct(common.WordMetric):
    source = "Li et al. 2016"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return {f"distinct_{order.n}": distinct(gram_sums(order)) for order in word_grams(predictions)}

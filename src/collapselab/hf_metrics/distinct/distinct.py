"""distinct-n of words, n = 1 .. 4: different n-grams / n-grams over all texts together."""

from __future__ import annotations

import datasets  # noqa: F401 - before evaluate, which needs it imported
import evaluate

from collapselab.hf_metrics.common import info, word_grams
from collapselab.metrics.ngrams import distinct, gram_sums


class Distinct(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__ or "", "Li et al. 2016", references=False)

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return {f"distinct_{order.n}": distinct(gram_sums(order)) for order in word_grams(predictions)}

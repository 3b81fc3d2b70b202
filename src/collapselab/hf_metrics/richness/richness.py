"""Good-Turing coverage and Chao1 of words."""

from __future__ import annotations

import datasets  # noqa: F401 - before evaluate, which needs it imported
import evaluate

from collapselab.hf_metrics.common import info, word_grams
from collapselab.metrics.richness import richness_sums, richness_values


class Richness(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__ or "", "Good 1953; Chao 1984", references=False)

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        counts = [order.counts for order in word_grams(predictions) if order.n == 1]
        return richness_values(richness_sums(counts[0])) if counts else {}

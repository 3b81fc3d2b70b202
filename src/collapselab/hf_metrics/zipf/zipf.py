"""Maximum-likelihood exponent of Zipf's law over the most frequent words, and how many ranks that were."""

from __future__ import annotations

import datasets  # noqa: F401 - before evaluate, which needs it imported
import evaluate

from collapselab.hf_metrics.common import info, word_grams
from collapselab.metrics.richness import zipf_values


class Zipf(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__ or "", "Clauset et al. 2009", references=False)

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        counts = [order.counts for order in word_grams(predictions) if order.n == 1]
        return zipf_values(counts[0]) if counts else {}

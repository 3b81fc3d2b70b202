"""Mean BLEU-4 of each text against all others, 0 .. 1. Rises with the number of texts: always compare equal numbers."""

from __future__ import annotations

import datasets  # noqa: F401 - before evaluate, which needs it imported
import evaluate

from collapselab.hf_metrics.common import info, word_rows
from collapselab.metrics.self_bleu import self_bleu_sums, self_bleu_values


class SelfBleu(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__ or "", "Zhu et al. 2018", references=False)

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return self_bleu_values(self_bleu_sums(word_rows(predictions)))

"""Mean BLEU-4 of each text against all others, 0 .. 1. Rises with the number of texts: always compare equal numbers."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_rows
from collapselab.metrics.self_bleu import self_bleu_sums, self_bleu_values


class SelfBleu(common.WordMetric):
    source = "Zhu et al. 2018"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return self_bleu_values(self_bleu_sums(word_rows(predictions)))

"""Entropy of word n-grams in nats, n = 1 .. 4, plug-in and with the correction of Miller and Madow."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_grams
from collapselab.metrics.ngrams import entropy


class NgramEntropy(common.WordMetric):
    source = "Miller 1955"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        values: dict[str, float] = {}
        for order in word_grams(predictions):
            plug_in, corrected = entropy(order.counts)
            values |= {f"ngram_entropy_{order.n}": plug_in, f"ngram_entropy_{order.n}_miller_madow": corrected}
        return values

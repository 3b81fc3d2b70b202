"""rep-n and diversity of words within texts, and seq-rep-4, a mean over texts."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_grams
from collapselab.metrics.ngrams import diversity, gram_sums, repetition, sequence_repetition, sequence_repetition_sums


class Repetition(common.WordMetric):
    source = "Su et al. 2022; Welleck et al. 2020"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        orders = {order.n: order for order in word_grams(predictions)}
        sums = {n: gram_sums(order) for n, order in orders.items()}
        values = {f"rep_{n}": repetition(part) for n, part in sums.items()}
        if 4 in orders:
            values["diversity"] = diversity(sums)
            values["seq_rep_4"] = sequence_repetition(sequence_repetition_sums(orders[4]))
        return values

"""Probability that two samples of a prompt differ, among the correct ones and among all, mean over prompts."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.metrics.policy import policy_sums


class AnswerDiversity(common.AnswerMetric):
    source = "Simpson 1949"

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return common.chosen(policy_sums(**common.samples(predictions, references), ks=[1]), "diversity_")

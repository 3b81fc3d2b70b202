"""maj@k: expected score of a vote of k samples of a prompt, mean over prompts; a tie scores the share of the tied answers
that are correct, and an invalid answer has no vote. k: a list, 1, 2, 4 ... n if left out."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.metrics.policy import policy_sums


class MajAtK(common.AnswerMetric):
    source = "Wang et al. 2022"

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], k: list[int] | None = None
    ) -> dict[str, float]:
        return common.chosen(policy_sums(**common.samples(predictions, references), ks=k), "maj_at_")

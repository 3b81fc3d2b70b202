"""pass@k: probability that k samples of a prompt, drawn without replacement, hold a correct one, mean over prompts; and
coverage, the share of prompts with a correct sample. k: a list, 1, 2, 4 ... n if left out; a prompt with fewer than k samples is
refused."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.metrics.policy import policy_sums


class PassAtK(common.AnswerMetric):
    source = "Chen et al. 2021"

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], k: list[int] | None = None
    ) -> dict[str, float]:
        return common.chosen(policy_sums(**common.samples(predictions, references), ks=k), "pass_at_", "coverage")

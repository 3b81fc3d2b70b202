"""Generation-verification gap: accuracy of a prompt's samples weighed by the policy's own verifier, minus their accuracy, mean
over prompts."""

from __future__ import annotations

import numpy as np

from collapselab.config import UserError
from collapselab.hf_metrics import common
from collapselab.metrics.policy import policy_sums


class GvGap(common.AnswerMetric):
    source = "Song et al. 2024"
    inputs = (
        f"{common.AnswerMetric.inputs} "
        "scores: of each prompt the verifier's score of each answer, 0 or more; None or nan: abstains."
    )
    scored = True

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], scores: list[list[float | None]]
    ) -> dict[str, float]:
        if [len(row) for row in scores] != [len(answers) for answers in predictions]:
            raise UserError(
                "scores: not one for each answer of each prompt; give lists of the same lengths as predictions"
            )
        flat = np.array([score for row in scores for score in row], np.float64)
        return common.chosen(policy_sums(**common.samples(predictions, references), scores=flat, ks=[1]), "gap")

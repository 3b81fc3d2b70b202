"""Calibration of a judge: TPR, FPR, J, acceptance by class, abstentions, and correlation of score and length, with 95 %
intervals over prompts if `groups` are given, else over samples."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from collapselab.hf_metrics import common
from collapselab.metrics.calibration import calibration_intervals, calibration_sums, calibration_values

INPUTS = (
    "predictions: the judge's scores; None or nan: abstains. references: 1 correct, 0 wrong, 2 hack, -1 unreadable. "
    "threshold: least score that is accepted (0.5). lengths, groups: length and prompt of each sample; may be left out."
)


class JudgeCalibration(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Youden 1950; Wilson 1927; Newcombe 1998",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self,
        predictions: list[float | None],
        references: list[int],
        threshold: float = 0.5,
        lengths: list[int] | None = None,
        groups: list[int] | None = None,
    ) -> dict[str, float]:
        scores = np.array(predictions, np.float64)
        sums = calibration_sums(
            scores,
            scores >= threshold,
            np.array(references),
            None if lengths is None else np.array(lengths),
            None if groups is None else np.array(groups),
        )
        return common.with_ends(calibration_values(sums), calibration_intervals(sums))

"""UTF-8 bytes of all texts / their bytes after zlib at level 9."""

from __future__ import annotations

import datasets  # noqa: F401 - before evaluate, which needs it imported
import evaluate

from collapselab.hf_metrics.common import info
from collapselab.metrics.compression import compression_sums, compression_values


class Compression(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return info(__doc__ or "", "Deutsch 1996 (RFC 1950)", references=False)

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return compression_values(compression_sums(predictions))

"""UTF-8 bytes of all texts / their bytes after zlib at level 9."""

from __future__ import annotations

from collapselab.hf_metrics import common
from collapselab.metrics.compression import compression_sums, compression_values


class Compression(common.WordMetric):
    source = "Deutsch 1996 (RFC 1950)"

    def _compute(self, predictions: list[str], references: list[str] | None = None) -> dict[str, float]:
        return compression_values(compression_sums(predictions))

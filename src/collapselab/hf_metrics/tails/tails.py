"""Share of the rare words of the references that the sampled texts use: words seen once, at most 5 and 20 times, and the
rarest that make up 1 and 5 % of the text. Rises with the amount of sampled text: compare equal amounts."""

from __future__ import annotations

from collections import Counter

import numpy as np

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_rows
from collapselab.metrics.tails import tail_sets, tail_sums


class Tails(common.WordMetric):
    source = "Shumailov et al. 2024"
    reads_references = True

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        real = Counter(word for row in word_rows(references) for word in row)
        written = Counter(word for row in word_rows(predictions) for word in row)
        tails = tail_sets(np.array([real[word] for word in sorted(real)], np.int64))
        counts = np.array([written[word] for word in sorted(real)], np.int64)
        sums = tail_sums(tails, counts, written.total())
        return {f"coverage_{name}": part["seen"] / part["types"] for name, part in sums.items() if part["types"]}

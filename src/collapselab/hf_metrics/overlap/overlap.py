"""Share of the word n-grams of sampled texts, n = 8, 13, 50, that occur in the references (the training text)."""

from __future__ import annotations

import numpy as np

from collapselab.hf_metrics import common
from collapselab.hf_metrics.common import word_rows
from collapselab.metrics.ngrams import Sequences, from_words
from collapselab.metrics.overlap import overlap_sums, overlap_values


class Overlap(common.WordMetric):
    source = "Carlini et al. 2023"
    reads_references = True

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        texts, real = word_rows(predictions), word_rows(references)
        numbered = from_words(texts + real)
        written = int(numbered.lengths[: len(texts)].sum())
        vocab = int(numbered.ids.max(initial=0)) + 2
        # A symbol that no text has separates the references: no n-gram crosses from one to the next.
        ends = np.cumsum(numbered.lengths[len(texts) :])
        training = np.insert(numbered.ids[written:], ends, vocab - 1)
        text = Sequences(numbered.ids[:written], numbered.lengths[: len(texts)])
        return overlap_values(overlap_sums(text, training, vocab))

"""Base class of the metrics with their description for `evaluate`, and the words of texts."""

from __future__ import annotations

import sys

import datasets  # before evaluate, which needs it imported
import evaluate

from collapselab.metrics.ngrams import Grams, from_words, grams
from collapselab.metrics.tails import words

INPUTS = "predictions: sampled texts, one string per sequence. references: real texts, as many"


class WordMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric described by the docstring of its module."""

    source: str
    """Citation of the metric."""
    reads_references = False
    """True if the metric compares with real text."""

    def _info(self) -> evaluate.MetricInfo:
        read = ("predictions", "references")[: 1 + self.reads_references]
        return evaluate.MetricInfo(
            description=sys.modules[type(self).__module__].__doc__,
            citation=self.source,
            inputs_description=f"{INPUTS}{'' if self.reads_references else ' (not read; may be left out)'}.",
            features=datasets.Features({name: datasets.Value("string") for name in read}),
        )


def word_rows(texts: list[str]) -> list[list[str]]:
    """Words of each text; a prediction is a whole text, so its first and last words are complete."""
    return [words(f"\n{text}\n") for text in texts]


def word_grams(texts: list[str]) -> list[Grams]:
    """Word n-grams of orders 1 .. 4, without orders longer than every text."""
    return [order for order in grams(from_words(word_rows(texts)), 4) if len(order.counts)]

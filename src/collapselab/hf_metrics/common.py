"""What the metrics share: their description for `evaluate`, and texts as words."""

from __future__ import annotations

import evaluate
from datasets import Features, Value

from collapselab.metrics.ngrams import Grams, from_words, grams
from collapselab.metrics.tails import words

INPUTS = "predictions: sampled texts, one string per sequence. references: real texts, as many"


def info(description: str, citation: str, *, references: bool) -> evaluate.MetricInfo:
    """Description, source, and what is read: predictions, and references where the metric compares with real text."""
    read = ["predictions", "references"] if references else ["predictions"]
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=f"{INPUTS}{'' if references else ' (not read; may be left out)'}.",
        features=Features({name: Value("string") for name in read}),
    )


def word_rows(texts: list[str]) -> list[list[str]]:
    """The words of each text. A prediction is a whole text, not a cut of one: its first and last words are complete."""
    return [words(f"\n{text}\n") for text in texts]


def word_grams(texts: list[str]) -> list[Grams]:
    """Word n-grams of orders 1 .. 4, without the orders that fit into no text."""
    return [order for order in grams(from_words(word_rows(texts)), 4) if len(order.counts)]

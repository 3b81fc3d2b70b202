"""Base classes of the metrics with their description for `evaluate`; words of texts, samples of prompts."""

from __future__ import annotations

import math
import sys
from typing import Any

import datasets  # before evaluate, which needs it imported
import evaluate
import numpy as np

from collapselab.config import UserError
from collapselab.metrics.ngrams import Grams, from_words, grams
from collapselab.metrics.policy import policy_intervals, policy_values
from collapselab.metrics.tails import words

Intervals = dict[str, tuple[float, float]]

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


class AnswerMetric(evaluate.Metric):  # type: ignore[misc]
    """A score of the answers to prompts, described by the docstring of its module."""

    source: str
    """Citation of the metric."""
    inputs = (
        "predictions: of each prompt the list of sampled answers; an empty one is invalid: it is wrong and has no vote. "
        "references: of each prompt the list of accepted answers."
    )
    scored = False
    """True if the metric reads scores."""

    def _info(self) -> evaluate.MetricInfo:
        features = {name: datasets.Sequence(datasets.Value("string")) for name in ("predictions", "references")}
        if self.scored:
            features["scores"] = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=sys.modules[type(self).__module__].__doc__,
            citation=self.source,
            inputs_description=self.inputs,
            features=datasets.Features(features),
        )


def samples(predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
    """Arguments of `policy_sums` from answers by prompt and the accepted answers of each. Raises UserError for a prompt without
    answers, which would be left out."""
    empty = [i for i, answers in enumerate(predictions) if not answers]
    if empty:
        raise UserError(f"predictions[{empty[0]}]=[]: a prompt without answers; give at least one to each")
    return {
        "groups": np.repeat(np.arange(len(predictions)), [len(answers) for answers in predictions]),
        "answers": [answer for answers in predictions for answer in answers],
        "correct": np.array(
            [
                bool(answer) and answer in accepted
                for answers, accepted in zip(predictions, references, strict=True)
                for answer in answers
            ],
            bool,
        ),
        "invalid": np.array([not answer for answers in predictions for answer in answers], bool),
    }


def with_ends(values: dict[str, float], intervals: Intervals) -> dict[str, float]:
    """Values, and where they have 95 % intervals these as `{key}_low`, `{key}_high`."""
    ends = {
        f"{key}_{side}": end
        for key, both in intervals.items()
        for side, end in zip(("low", "high"), both, strict=True)
        if not math.isnan(end)
    }
    return values | ends


def chosen(sums: dict[str, dict[str, float]], *prefixes: str) -> dict[str, float]:
    """Values with their intervals over prompts, of the scores whose keys begin with one of the prefixes."""
    part = {key: value for key, value in sums.items() if key.startswith(prefixes)}
    return with_ends(policy_values(part), policy_intervals(part))

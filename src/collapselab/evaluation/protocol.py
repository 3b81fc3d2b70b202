"""What a number depends on beside the model and its samples."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig
from collapselab.corpus import Corpus

METRICS_VERSION = 1  # part of the protocol: raise it when a definition changes


def protocol(config: RunConfig, corpus: Corpus, sample_tokens: int | None) -> dict[str, Any]:
    """Everything a number depends on beside the model and its samples."""
    settings = config.evaluation
    context = settings.context or config.training.block
    return {
        "metrics_version": METRICS_VERSION,
        "corpus": corpus.digest,
        "tokenizer": corpus.tokenizer.digest,
        "split": settings.split,
        "context": context,
        "stride": settings.stride or context,
        "prefix": settings.prefix,
        "joiner": "one separator token before each document" if config.corpus.joiner is None else config.corpus.joiner,
        "tokens": settings.tokens,
        "precision": settings.precision,
        "sample_tokens": sample_tokens,
        "sample_length": config.sequence_length - config.prompt_length,
        "unigram_real": "training split",
        "words": "complete \\w+, lower-cased, none across the ends of a sequence",
    }

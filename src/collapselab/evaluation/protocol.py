"""The protocol: all that a score depends on beside the model and its samples."""

from __future__ import annotations

from typing import Any

from collapselab.config import RunConfig
from collapselab.corpus.prepared import Corpus
from collapselab.evaluation.contexts import POSITIONS, WINDOWS
from collapselab.evaluation.support import support_text
from collapselab.metrics.overlap import OVERLAP_ORDERS
from collapselab.metrics.richness import ZIPF_RANKS
from collapselab.metrics.tails import WORD_SHARE

METRICS_VERSION = 3  # raise it when a definition or a budget changes, not when a metric is added


def protocol(config: RunConfig, corpus: Corpus, sample_tokens: int | None) -> dict[str, Any]:
    """Return everything that a score depends on beside the model and its samples."""
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
        "prompt": config.sampling.prompt,
        "prompt_length": config.prompt_length,
        "next_token_contexts": f"{WINDOWS} windows x {POSITIONS} targets at most, evenly spaced",
        "reference_tokens": settings.reference_tokens,
        "self_bleu_samples": settings.self_bleu_samples,
        "zipf_ranks": ZIPF_RANKS,
        "overlap": list(OVERLAP_ORDERS) if settings.overlap else [],
        "embeddings": settings.embeddings,
        "embedding": "mean over a sequence of the last layer's states",
        "support": support_text(corpus, settings.split).facts,
        "word_budget": f"{WORD_SHARE:g} of the words of as much fresh real text",
        "words": "complete \\w+, lower-cased, none across the ends of a sequence",
    }

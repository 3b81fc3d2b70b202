"""Settings of measurements and of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from collapselab.config.values import needs


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Measurements after each generation. These keys are the protocol of every number and are recorded with it."""

    split: Literal["test", "valid"] = "test"
    """Held-out split for perplexity and for the real reference row; use valid while you tune settings."""
    context: int | None = None
    """Window of held-out text scored at once, in tokens; null means `training.block`."""
    stride: int | None = None
    """Tokens between the starts of two windows; null means `context` (disjoint windows). Overlapping windows score
    only the tokens that no earlier window has scored."""
    prefix: Literal["none", "bos"] = "none"
    """bos puts one separator token before the held-out text (once, not per window), so that its first token is scored
    too."""
    tokens: int | None = None
    """Score only the first n tokens of the held-out text; null means all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass in evaluation; losses are always summed in float64."""
    sample_tokens: int | None = None
    """Generated tokens that the sample metrics use, the same budget in every generation and for real text; null means
    as many as generated and held-out text allow."""
    reference_tokens: int | None = None
    """Number of these tokens that generation 0's model scores too, in one more forward pass (`reference/nll`); null means
    all, 0 none."""
    self_bleu_samples: int = 200
    """Sequences, drawn once for all generations, that self-BLEU compares with each other; 0 leaves it out. The value
    rises with their number."""
    overlap: bool = True
    """Look for the samples' n-grams in the training split, which is read once per generation (about 15 s of one core for
    10^9 tokens)."""
    embeddings: int | None = None
    """Sequences whose hidden states under generation 0's model give MAUVE and the Vendi score (needs the extra
    `embeddings`; fewer than 1,000 say little); null leaves both out."""

    def __post_init__(self) -> None:
        need = needs(self, "evaluation")
        for key, least in (("context", 2), ("tokens", 2), ("stride", 1), ("sample_tokens", 1)):
            value = getattr(self, key)
            need(value is None or value >= least, key, f"must be {least} or more, or null")
        need(
            self.reference_tokens is None or self.reference_tokens >= 0,
            "reference_tokens",
            "must be 0 (off) or more, or null",
        )
        need(
            self.self_bleu_samples == 0 or self.self_bleu_samples >= 2,
            "self_bleu_samples",
            "must be 0 (off), or 2 or more",
        )
        remedy = "must be 20 or more (MAUVE makes a cluster for every ten sequences), or null"
        need(self.embeddings is None or self.embeddings >= 20, "embeddings", remedy)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """The dashboard, a view of metrics.jsonl that can be rebuilt from it at any time (`collapselab sync`)."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror metrics.jsonl to Weights & Biases."""
    project: str = "collapselab"
    """Project name in Weights & Biases."""
